//! Bearer tokens as configured: their hashes, their owners, their rights. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::pattern::Pattern;
use super::policy::Grant;
use super::principal::check_subject;

/// SHA-256 of a token.
pub(crate) type TokenHash = [u8; 32];

/// A token and its rights, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// SHA-256 of the bearer token, 64 hexadecimal digits: the token itself stays with its owner.
    pub sha256: String,
    /// Whose token it is, 1 to 256 bytes.
    pub subject: String,
    /// Names and the names below them that may be read: `groups` covers `groups` and
    /// `groups/42`, not `groups2`. `*` covers everything.
    #[serde(default)]
    pub read: Vec<String>,
    /// Likewise, for writing.
    #[serde(default)]
    pub write: Vec<String>,
    /// Whether the administration calls are allowed.
    #[serde(default)]
    pub admin: bool,
}

/// A token that is known.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    /// Whose it is.
    pub(crate) subject: String,
    /// What it gives by itself.
    pub(crate) grant: Arc<Grant>,
}

/// A token configuration that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadToken {
    /// The hash is none.
    #[error("tokens[{index}].sha256: must be 64 hexadecimal digits")]
    Hash {
        /// Which token.
        index: usize,
    },
    /// Two tokens are one: which rights would it have?
    #[error("tokens[{index}].sha256: is also the one of tokens[{earlier}]")]
    Twice {
        /// Which token.
        index: usize,
        /// The other.
        earlier: usize,
    },
    /// Nobody's token, or somebody's with an endless name.
    #[error("tokens[{index}].subject: {reason}")]
    Subject {
        /// Which token.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Covers nothing, whatever it was meant to cover.
    #[error(
        "tokens[{index}].{right}[{element}]: must be \"*\" or the name of a collection, which \
         covers the names below it too: {reason}"
    )]
    Pattern {
        /// Which token.
        index: usize,
        /// `read` or `write`.
        right: &'static str,
        /// Which pattern.
        element: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The tokens by hash.
pub(crate) fn check(tokens: &[TokenConfig]) -> Result<HashMap<TokenHash, Token>, BadToken> {
    let mut known = HashMap::new();
    let mut indices = HashMap::new();
    for (index, token) in tokens.iter().enumerate() {
        let hash = parse_hash(&token.sha256).ok_or(BadToken::Hash { index })?;
        if let Some(earlier) = indices.insert(hash, index) {
            return Err(BadToken::Twice { index, earlier });
        }
        check_subject(&token.subject).map_err(|reason| BadToken::Subject { index, reason })?;
        let grant = Arc::new(Grant {
            read: patterns(index, "read", &token.read)?,
            write: patterns(index, "write", &token.write)?,
            follow: Vec::new(),
            admin: if token.admin { vec![Pattern::Everything] } else { Vec::new() },
        });
        known.insert(hash, Token { subject: token.subject.clone(), grant });
    }
    Ok(known)
}

/// What a token is looked up by: it takes the same time whatever part of a guess is right.
pub(crate) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn patterns(index: usize, right: &'static str, texts: &[String]) -> Result<Vec<Pattern>, BadToken> {
    let parse = |(element, text): (usize, &String)| {
        let bad = |reason| BadToken::Pattern { index, right, element, reason };
        Pattern::parse(text).map_err(bad)
    };
    texts.iter().enumerate().map(parse).collect()
}

fn parse_hash(hex: &str) -> Option<TokenHash> {
    // `from_str_radix` alone would take "+f" for a byte.
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(hash: &str, subject: &str, read: &[&str]) -> TokenConfig {
        TokenConfig {
            sha256: hash.to_owned(),
            subject: subject.to_owned(),
            read: read.iter().map(|&pattern| pattern.to_owned()).collect(),
            write: Vec::new(),
            admin: false,
        }
    }

    /// G11: a token that makes no sense is refused, and which one and why is said.
    #[test]
    fn what_makes_no_sense_is_named() {
        let (one, two) = ("0a".repeat(32), "0B".repeat(32));
        let refused = |bad: TokenConfig| {
            let good = token(&one, "alice", &["*", "groups", "teams/", "a/b"]);
            check(&[good, bad]).map(|_| ()).unwrap_err().to_string()
        };
        for (bad, field) in [
            (token("zz", "bob", &[]), "tokens[1].sha256: must be 64"),
            (token(&"+f".repeat(32), "bob", &[]), "tokens[1].sha256: must be 64"),
            (token(&"é".repeat(32), "bob", &[]), "tokens[1].sha256: must be 64"),
            (token(&"0A".repeat(32), "bob", &[]), "tokens[1].sha256: is also the one of tokens[0]"),
            (token(&two, "", &[]), "tokens[1].subject: 0 bytes, must be 1 to 256"),
            (token(&two, &"b".repeat(257), &[]), "tokens[1].subject: 257 bytes"),
            (token(&two, "bo\0b", &[]), "tokens[1].subject: must not contain control"),
            (token(&two, "bob", &[""]), "tokens[1].read[0]: "),
            (token(&two, "bob", &["a", "groups/*"]), "tokens[1].read[1]: "),
            (token(&two, "bob", &["/"]), "tokens[1].read[0]: "),
            (token(&two, "bob", &["a", "b", "/groups"]), "tokens[1].read[2]: "),
            (token(&two, "bob", &["groups//"]), "tokens[1].read[0]: "),
        ] {
            let error = refused(bad.clone());
            assert!(error.starts_with(field), "{bad:?}: {error}");
        }
        let mut writer = token(&two, "bob", &["a"]);
        writer.write = vec!["**".to_owned()];
        assert!(refused(writer).starts_with("tokens[1].write[0]: "));
        check(&[token(&one, &"a".repeat(256), &["*"]), token(&two, "a", &[])]).unwrap();
    }
}
