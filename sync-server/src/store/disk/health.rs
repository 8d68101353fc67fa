//! Fail-stop: what failed once is not tried again, and nothing is read from a store whose last
//! write may have happened or not.

use std::io;
use std::sync::OnceLock;

use tracing::error;

use super::super::StoreError;

/// Whether the store may still be used.
#[derive(Debug, Default)]
pub(super) struct Health {
    failure: OnceLock<String>,
}

/// Calls the store broken if it is dropped by a panic.
pub(super) struct Watched<'a>(&'a Health);

// === impl Health ===

impl Health {
    /// Lets a call in, unless an earlier one failed.
    pub(super) fn enter(&self) -> Result<Watched<'_>, StoreError> {
        match self.failure.get() {
            None => Ok(Watched(self)),
            Some(failure) => Err(StoreError::Io {
                doing: "refusing to go on after a failure",
                source: io::Error::other(failure.clone()),
            }),
        }
    }

    /// Makes an error of sled or of the disk stick.
    pub(super) fn stick<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(failure) = &result {
            self.fail(failure);
        }
        result
    }

    fn fail(&self, failure: &dyn std::error::Error) {
        let cause = failure.source().map_or(String::new(), |cause| format!(": {cause}"));
        if self.failure.set(format!("{failure}{cause}")).is_ok() {
            error!(failure = self.failure.get(), "the store has failed and is closed for all use");
        }
    }
}

// === impl Watched ===

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&io::Error::other("a panic inside the store"));
        }
    }
}
