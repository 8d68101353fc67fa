//! Who calls, and what they may do. Pure: tokens and names in, verdicts out. Without tokens in
//! the configuration everybody may do everything: that is for loopback development, and the
//! server says so when it starts.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sync_proto::types::CollectionName;

/// Bytes of a subject: it becomes part of what is stored under idempotency keys.
const SUBJECT_LEN_MAX: usize = 256;

/// Covers every collection.
const EVERYTHING: &str = "*";

/// A token and its rights, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// SHA-256 of the bearer token, 64 hexadecimal digits: the token itself stays with its owner.
    pub sha256: String,
    /// Whose token it is, 1 to 256 bytes; appears in logs.
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

/// The rights of all tokens.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// `None`: everybody may do everything.
    grants: Option<Arc<HashMap<[u8; 32], Caller>>>,
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    grant: Option<Arc<TokenConfig>>,
}

/// Why somebody was not let in, or may not do this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No credentials, or none that are known.
    #[error("a bearer token that this server knows is needed")]
    Unauthenticated,
    /// The rights do not cover this. Says nothing about what exists.
    #[error("not allowed")]
    Denied,
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
    #[error("tokens[{index}].subject: {len} bytes, must be 1 to {SUBJECT_LEN_MAX}")]
    Subject {
        /// Which token.
        index: usize,
        /// How long the subject is.
        len: usize,
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

// === impl Access ===

impl Access {
    /// The rights that these tokens give; none = everybody may do everything.
    pub fn new(tokens: &[TokenConfig]) -> Result<Self, BadToken> {
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let mut grants = HashMap::new();
        let mut indices = HashMap::new();
        for (index, token) in tokens.iter().enumerate() {
            let hash = parse_hash(&token.sha256).ok_or(BadToken::Hash { index })?;
            if let Some(earlier) = indices.insert(hash, index) {
                return Err(BadToken::Twice { index, earlier });
            }
            let len = token.subject.len();
            if !(1..=SUBJECT_LEN_MAX).contains(&len) {
                return Err(BadToken::Subject { index, len });
            }
            check_patterns(index, "read", &token.read)?;
            check_patterns(index, "write", &token.write)?;
            grants.insert(hash, Caller { grant: Some(Arc::new(token.clone())) });
        }
        Ok(Self { grants: Some(Arc::new(grants)) })
    }

    /// Whether everybody may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.grants.is_none()
    }

    /// Who shows this `authorization` header.
    pub fn identify(&self, authorization: Option<&str>) -> Result<Caller, AccessError> {
        let Some(grants) = &self.grants else { return Ok(Caller { grant: None }) };
        let token = authorization
            .and_then(|header| header.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(AccessError::Unauthenticated)?;
        // Looking up a hash takes the same time whatever part of a guess is right.
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        grants.get(&hash).cloned().ok_or(AccessError::Unauthenticated)
    }
}

// === impl Caller ===

impl Caller {
    /// Whether the collection may be read.
    #[must_use]
    pub fn may_read(&self, name: &CollectionName) -> bool {
        self.grant.as_ref().is_none_or(|grant| covers(&grant.read, name))
    }

    /// Whether the collection may be written.
    #[must_use]
    pub fn may_write(&self, name: &CollectionName) -> bool {
        self.grant.as_ref().is_none_or(|grant| covers(&grant.write, name))
    }

    /// Whether the administration calls are allowed.
    #[must_use]
    pub fn may_administer(&self) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.admin)
    }

    /// Keeps retries of one caller from meeting those of another under the same key.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.grant.as_ref().map_or("", |grant| &grant.subject)
    }
}

fn covers(patterns: &[String], name: &CollectionName) -> bool {
    patterns.iter().any(|pattern| {
        pattern == EVERYTHING
            || name
                .as_str()
                .strip_prefix(prefix(pattern))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The name that a pattern is about; `teams/` is another way to write `teams`.
fn prefix(pattern: &str) -> &str {
    pattern.strip_suffix('/').unwrap_or(pattern)
}

/// A pattern that is no name would silently cover nothing, or, worse, something.
fn check_patterns(index: usize, right: &'static str, patterns: &[String]) -> Result<(), BadToken> {
    for (element, pattern) in patterns.iter().enumerate() {
        let bad = |reason: String| Err(BadToken::Pattern { index, right, element, reason });
        if pattern == EVERYTHING {
            continue;
        }
        if pattern.contains('*') {
            return bad("\"*\" stands only by itself".to_owned());
        }
        if let Err(error) = CollectionName::new(prefix(pattern)) {
            return bad(error.reason);
        }
    }
    Ok(())
}

fn parse_hash(hex: &str) -> Option<[u8; 32]> {
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

    fn access() -> Access {
        // SHA-256 of "secret".
        let sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b".to_owned();
        let token = TokenConfig {
            sha256,
            subject: "alice".to_owned(),
            read: vec!["groups".to_owned(), "teams/".to_owned()],
            write: vec!["groups/42".to_owned()],
            admin: false,
        };
        Access::new(&[token]).unwrap()
    }

    fn name(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    /// G10: a sibling whose name merely begins alike is not covered.
    #[test]
    fn rights_end_at_segments() {
        let alice = access().identify(Some("Bearer secret")).unwrap();
        for (collection, read, write) in [
            ("groups", true, false),
            ("groups/42", true, true),
            ("groups/42/members", true, true),
            ("groups/421", true, false),
            ("groups2", false, false),
            ("teams/1", true, false),
            ("other", false, false),
        ] {
            assert_eq!(alice.may_read(&name(collection)), read, "read {collection}");
            assert_eq!(alice.may_write(&name(collection)), write, "write {collection}");
        }
        assert!(!alice.may_administer());
    }

    #[test]
    fn strangers_are_not_let_in() {
        for header in [None, Some("Bearer guess"), Some("Basic secret"), Some("secret"), Some("")] {
            let refused = access().identify(header).map(|_| ());
            assert_eq!(refused, Err(AccessError::Unauthenticated), "{header:?}");
        }
    }

    #[test]
    fn without_tokens_everything_is_open() {
        let anybody = Access::new(&[]).unwrap().identify(None).unwrap();
        assert!(anybody.may_read(&name("a")) && anybody.may_write(&name("a")));
        assert!(anybody.may_administer());
    }

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
            Access::new(&[good, bad]).map(|_| ()).unwrap_err().to_string()
        };
        for (bad, field) in [
            (token("zz", "bob", &[]), "tokens[1].sha256: must be 64"),
            (token(&"+f".repeat(32), "bob", &[]), "tokens[1].sha256: must be 64"),
            (token(&"é".repeat(32), "bob", &[]), "tokens[1].sha256: must be 64"),
            (token(&"0A".repeat(32), "bob", &[]), "tokens[1].sha256: is also the one of tokens[0]"),
            (token(&two, "", &[]), "tokens[1].subject: 0 bytes, must be 1 to 256"),
            (token(&two, &"b".repeat(257), &[]), "tokens[1].subject: 257 bytes"),
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
        Access::new(&[token(&one, &"a".repeat(256), &["*"]), token(&two, "a", &[])]).unwrap();
    }
}
