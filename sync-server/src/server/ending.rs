//! The end of a server, step by step, none of which may take for ever: the last answers are taken,
//! the writer writes what is queued, the store is closed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FusedFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{ServeError, system};
use crate::engine::ledger::Ledger;
use crate::engine::writer::Writer;
use crate::store::Store;

/// When all calls have been answered, those who have asked for something get this long to take the last
/// of it, also if they are slow; then all connections are cut.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Connections that were cut get this long to notice.
pub(super) const NOTICE_MAX: Duration = Duration::from_millis(250);

/// The writer has this long for what is queued when everybody else has ended. A disk that takes
/// longer may never come back, and whoever supervises the process waits for its end.
pub(super) const WRITER_STOP_MAX: Duration = Duration::from_secs(10);

/// Then the store gets as long to be closed.
pub(super) const STORE_CLOSE_MAX: Duration = Duration::from_secs(10);

/// Waits for the connections that have asked for something: their peers may not have taken yet
/// what they were told last. Not after `end`, nor for long.
pub(super) async fn last_words(
    serving: &mut (impl FusedFuture + Unpin),
    of_use: &TaskTracker,
    end: Instant,
) {
    of_use.close();
    let end = end.min(Instant::now() + LAST_WORDS_MAX);
    // Nobody is told of it: who has not taken everything by then sees the connection end.
    if tokio::time::timeout_at(end, beside(serving, of_use.wait())).await.is_err() {
        tracing::debug!("some have not taken the last of their answers");
    }
}

/// Does `work`, and drives `serving` for as long as that takes.
pub(super) async fn beside<T>(
    serving: &mut (impl FusedFuture + Unpin),
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            // Once closed it does not fail; and when it has ended it stays silent.
            _ = &mut *serving => {}
        }
    }
}

/// Lets go of the store, which closes it if nobody else holds it. Not on a thread that must go on.
pub(super) async fn close_store<S: Store>(
    ledger: Arc<Ledger<S>>,
    most: Duration,
) -> Result<(), ServeError> {
    let (told, closed) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("store-close".to_owned())
        .spawn(move || {
            drop(ledger);
            drop(told);
        })
        .map_err(|error| system("close the store", error))?;
    match tokio::time::timeout(most, closed).await {
        Ok(_) => Ok(()),
        Err(_) => Err(ServeError::StoreHangs(most)),
    }
}

/// Ends the writer. Not among the threads for reads: they may all be waiting for the disk.
pub(super) async fn stop_writer(writer: Writer, most: Duration) -> Result<(), ServeError> {
    let (told, stopped) = oneshot::channel();
    std::thread::Builder::new()
        .name("writer-stop".to_owned())
        .spawn(move || {
            if told.send(writer.stop()).is_err() {
                tracing::debug!("the writer ended after its deadline");
            }
        })
        .map_err(|error| system("stop the writer", error))?;
    match tokio::time::timeout(most, stopped).await {
        Ok(stopped) => Ok(stopped.map_err(|error| system("stop the writer", error))??),
        Err(_) => Err(ServeError::WriterHangs(most)),
    }
}
