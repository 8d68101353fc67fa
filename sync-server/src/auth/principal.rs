//! Who calls: what was shown, and who that is. Pure. Nothing here shows a credential in a log.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::chain::Chain;

/// Bytes of a subject: it becomes part of what is stored under idempotency keys.
const SUBJECT_LEN_MAX: usize = 256;

/// What a caller shows of itself. Kept for as long as a call lasts, so that it can be judged again
/// when the rules change.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The `authorization` header, as it came.
    pub authorization: Option<Arc<str>>,
    /// What its connection has proven.
    pub certificates: Option<Arc<Chain>>,
}

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name; empty where everybody may do everything.
    pub subject: String,
    /// The groups that it belongs to.
    pub groups: Vec<String>,
    /// How it has proven that.
    pub via: Via,
    /// When that proof ends.
    pub until: Option<SystemTime>,
}

/// How somebody proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// By a bearer token whose hash is configured.
    Token,
    /// By a signed bearer token.
    Jwt,
    /// By the certificate of its connection.
    Certificate,
}

/// A subject goes into keys of the store and into names: it has a length and no control characters.
pub(crate) fn check_subject(subject: &str) -> Result<(), String> {
    let len = subject.len();
    if !(1..=SUBJECT_LEN_MAX).contains(&len) {
        return Err(format!("{len} bytes, must be 1 to {SUBJECT_LEN_MAX}"));
    }
    if subject.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorization", &self.authorization.is_some())
            .field("certificates", &self.certificates.is_some())
            .finish()
    }
}

impl Credentials {
    /// Those of a header alone.
    #[must_use]
    pub fn of_header(authorization: Option<&str>) -> Self {
        Self { authorization: authorization.map(Arc::from), certificates: None }
    }

    /// The bearer token, if the header is one.
    #[must_use]
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.authorization.as_deref()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
}
