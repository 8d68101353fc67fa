//! The bearer token that is shown with every call: one that was given, or that of a file, which is
//! read again so that a new one counts within a second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::ClientError;

/// A file is read at most so often.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of a token's file that are read.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// What a client shows.
#[derive(Debug)]
pub(super) struct Credentials {
    shown: RwLock<Option<MetadataValue<Ascii>>>,
    /// Where it comes from, and when it was read last.
    file: Option<(PathBuf, Mutex<Instant>)>,
}

// === impl Credentials ===

impl Credentials {
    /// A token that was given, or that of a file; the file must hold one now.
    pub(super) fn new(token: Option<&str>, file: Option<&Path>) -> Result<Self, ClientError> {
        let Some(path) = file else {
            let shown = RwLock::new(token.map(bearer).transpose()?);
            return Ok(Self { shown, file: None });
        };
        if token.is_some() {
            let reason = "a bearer token and a file of one: which counts?";
            return Err(ClientError::Setting(reason.into()));
        }
        let shown = RwLock::new(Some(read(path).map_err(ClientError::Setting)?));
        Ok(Self { shown, file: Some((path.to_owned(), Mutex::new(Instant::now()))) })
    }

    /// Shows another token from now on. That of a file is read again nevertheless.
    pub(super) fn set(&self, token: Option<&str>) -> Result<(), ClientError> {
        *self.shown.write() = token.map(bearer).transpose()?;
        Ok(())
    }

    /// What to show now. A file that cannot be read leaves what was in it.
    pub(super) async fn current(self: &Arc<Self>) -> Option<MetadataValue<Ascii>> {
        if self.is_stale() {
            let own = Arc::clone(self);
            let reading = tokio::task::spawn_blocking(move || own.read_again());
            if let Err(error) = reading.await {
                tracing::debug!(%error, "the file of the token was not read");
            }
        }
        self.shown.read().clone()
    }

    fn is_stale(&self) -> bool {
        let Some((_, read_at)) = &self.file else { return false };
        let mut read_at = read_at.lock();
        let stale = read_at.elapsed() >= READ_PAUSE;
        if stale {
            *read_at = Instant::now();
        }
        stale
    }

    fn read_again(&self) {
        let Some((path, _)) = &self.file else { return };
        match read(path) {
            Ok(token) => *self.shown.write() = Some(token),
            Err(error) => tracing::debug!(error, "the token stays as it was"),
        }
    }
}

fn read(path: &Path) -> Result<MetadataValue<Ascii>, String> {
    use std::io::Read as _;
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(|error| said(&error))?;
    let mut text = String::new();
    file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(|error| said(&error))?;
    match text.trim() {
        "" => Err(said(&"holds no token")),
        token => bearer(token).map_err(|error| said(&error)),
    }
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, ClientError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| ClientError::Setting("the bearer token holds forbidden characters".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(credentials: &Credentials) -> Option<String> {
        let shown = credentials.shown.read();
        shown.as_ref().map(|value| value.to_str().unwrap().to_owned())
    }

    /// A token's file is read again, and one that is gone or empty leaves what was in it.
    #[test]
    fn the_token_of_a_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(Credentials::new(None, Some(&path)).is_err());
        std::fs::write(&path, "one\n").unwrap();
        let credentials = Credentials::new(None, Some(&path)).unwrap();
        assert_eq!(shown(&credentials).as_deref(), Some("Bearer one"));
        for (content, expected) in
            [(Some("two"), "Bearer two"), (Some(""), "Bearer two"), (None, "Bearer two")]
        {
            match content {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            credentials.read_again();
            assert_eq!(shown(&credentials).as_deref(), Some(expected), "{content:?}");
            assert!(!format!("{credentials:?}").contains("two"), "a token is not printed");
        }
        assert!(Credentials::new(Some("a"), Some(&path)).is_err());
    }
}
