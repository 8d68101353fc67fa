//! Where reads and writes of a local store happen, so that a disk delays nobody else: an async
//! worker that waits for it would hold up the driver, other feeds, and whatever the application
//! runs beside them. On a runtime of one thread, everything.

use tokio::task::JoinHandle;

use crate::store::StoreError;

/// Work of another thread that was begun and can be waited for again and again.
#[derive(Debug)]
pub(crate) struct Elsewhere<T> {
    doing: &'static str,
    work: JoinHandle<Result<T, StoreError>>,
}

/// Runs what may wait for a disk where that delays nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    Elsewhere::begin(doing, work).done().await
}

// === impl Elsewhere ===

impl<T: Send + 'static> Elsewhere<T> {
    pub(crate) fn begin(
        doing: &'static str,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Self {
        Self { doing, work: tokio::task::spawn_blocking(work) }
    }

    /// What came of it. May be cancelled and called again; not after it has answered.
    pub(crate) async fn done(&mut self) -> Result<T, StoreError> {
        match (&mut self.work).await {
            Ok(done) => done,
            Err(panic) => Err(StoreError::Io { doing: self.doing, source: panic.into() }),
        }
    }
}
