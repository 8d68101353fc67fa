//! Origins of the pages that may call over gRPC-Web: listed exactly as browsers say them, so that
//! whether a page may call is a comparison of texts. Pure.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// Origins in a list; each request of a page is compared with them.
const ORIGINS_MAX: usize = 256;

/// Bytes of an origin.
const ORIGIN_BYTES_MAX: usize = 512;

/// Ports that browsers leave out.
const PORTS_LEFT_OUT: [(&str, &str); 2] = [("http", ":80"), ("https", ":443")];

/// Pages that may call, by where they come from.
#[derive(Debug, Clone)]
pub(crate) struct Origins(Arc<[String]>);

/// A list of origins that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadOrigins {
    /// Nobody would look at them.
    #[error("is of no use without grpc_web")]
    Idle,
    /// There are too many.
    #[error("{0} origins, at most {ORIGINS_MAX} are compared")]
    TooMany(usize),
    /// One is none.
    #[error("{origin:?} {reason}")]
    Bad {
        /// Which one.
        origin: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A list, or a text with commas between its parts, as an environment variable has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    List(Vec<String>),
    Text(String),
}

/// Reads either.
pub(crate) fn listed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Listed::deserialize(from)? {
        Listed::List(list) => list,
        Listed::Text(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        }
    })
}

// === impl Origins ===

impl Origins {
    /// What the settings say, checked; `None` = no page may call, nor anybody else over gRPC-Web.
    pub(crate) fn of(grpc_web: bool, origins: &[String]) -> Result<Option<Self>, BadOrigins> {
        if !grpc_web {
            return if origins.is_empty() { Ok(None) } else { Err(BadOrigins::Idle) };
        }
        if origins.len() > ORIGINS_MAX {
            return Err(BadOrigins::TooMany(origins.len()));
        }
        for origin in origins {
            if let Some(reason) = fault(origin) {
                return Err(BadOrigins::Bad { origin: origin.clone(), reason });
            }
        }
        Ok(Some(Self(origins.into())))
    }

    /// Whether pages from there may call.
    pub(crate) fn allow(&self, origin: &[u8]) -> bool {
        self.0.iter().any(|allowed| allowed.as_bytes() == origin)
    }
}

/// Why no browser would ever say this.
fn fault(origin: &str) -> Option<&'static str> {
    if origin == "*" || origin == "null" {
        return Some("would let pages of anybody call: name each origin");
    }
    if origin.len() > ORIGIN_BYTES_MAX {
        return Some("is longer than 512 bytes");
    }
    let Some((scheme, host)) = origin.split_once("://") else {
        return Some("has no scheme: say e.g. https://app.example");
    };
    let in_scheme = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.');
    let in_host =
        |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b'[' | b']');
    if origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("has capitals, which browsers do not send");
    }
    if scheme.is_empty() || !scheme.bytes().all(in_scheme) {
        return Some("has no scheme: say e.g. https://app.example");
    }
    if host.is_empty() || !host.bytes().all(in_host) {
        return Some(
            "must be scheme, host and perhaps port, and nothing after them, not even a slash",
        );
    }
    let left_out = PORTS_LEFT_OUT.iter().any(|(of, port)| scheme == *of && host.ends_with(port));
    left_out.then_some("names the port that browsers leave out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(origins: &[&str]) -> Result<Option<Origins>, BadOrigins> {
        Origins::of(true, &origins.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// G10: a page may call if its origin is in the list to the letter, and not if it looks alike.
    #[test]
    fn origins_are_compared_to_the_letter() {
        let origins = of(&["https://app.example", "http://localhost:3000"]).unwrap().unwrap();
        for allowed in ["https://app.example", "http://localhost:3000"] {
            assert!(origins.allow(allowed.as_bytes()), "{allowed}");
        }
        for foreign in [
            "",
            "null",
            "*",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil",
            "https://evil.app.example",
            "https://app.example/",
            "HTTPS://app.example",
            "http://localhost",
        ] {
            assert!(!origins.allow(foreign.as_bytes()), "{foreign}");
        }
        assert!(!of(&[]).unwrap().unwrap().allow(b"https://app.example"));
    }

    /// G11: what no browser would ever send is refused, with what to say instead.
    #[test]
    fn what_is_no_origin_is_refused() {
        for (origin, said) in [
            ("*", "name each origin"),
            ("null", "name each origin"),
            ("app.example", "has no scheme"),
            ("://app.example", "has no scheme"),
            ("https://", "nothing after them"),
            ("https://app.example/", "not even a slash"),
            ("https://app.example/path", "not even a slash"),
            ("https://me@app.example", "nothing after them"),
            ("https://*.example", "nothing after them"),
            ("https://App.example", "capitals"),
            ("https://app.example:443", "leave out"),
            ("http://app.example:80", "leave out"),
        ] {
            let error = of(&["https://fine.example", origin]).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(origin), "{origin}: {error}");
        }
        for fine in ["http://[::1]:8080", "https://a:80", "chrome-extension://abc", "app://-"] {
            of(&[fine]).unwrap();
        }
        let many = vec!["https://a".to_owned(); ORIGINS_MAX + 1];
        assert_eq!(Origins::of(true, &many).unwrap_err(), BadOrigins::TooMany(257));
        assert_eq!(Origins::of(false, &many[..1]).unwrap_err(), BadOrigins::Idle);
        assert!(Origins::of(false, &[]).unwrap().is_none());
    }
}
