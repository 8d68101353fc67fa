//! Ends a sync that sled would never return from. When the write of a buffer fails in the
//! wrong place, sled 0.34 notes the error but does not wake who waits for that buffer. Whoever
//! asks for stability next does: he finds the error, wakes the sleepers and returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::StoreError;
use super::io_error;

/// How long a sync can outlive the error that ended it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The thread that looks after syncs. Dropping this ends and joins it.
#[derive(Debug)]
pub(super) struct Waker {
    syncing: Arc<AtomicBool>,
    alive: Option<(SyncSender<()>, JoinHandle<()>)>,
}

// === impl Waker ===

impl Waker {
    pub(super) fn start(db: sled::Db) -> Result<Self, StoreError> {
        let syncing = Arc::new(AtomicBool::new(false));
        let (sender, closed) = mpsc::sync_channel(0);
        let watched = syncing.clone();
        let run = move || {
            while closed.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                // Not `flush`: it queues for a lock that sled shares between all its stores, and
                // may stand there behind a writer who waits for the very sync that hangs.
                if watched.load(Ordering::Acquire)
                    && db.context.global_error().is_err()
                    && let Err(error) = db.context.pagecache.log.make_stable(i64::MAX)
                {
                    tracing::debug!(%error, "woke a sync that had failed");
                }
            }
        };
        let thread = thread::Builder::new().name("store-waker".into()).spawn(run);
        let thread = thread.map_err(io_error("starting a thread"))?;
        Ok(Self { syncing, alive: Some((sender, thread)) })
    }

    /// sled's flush, which returns even if it fails.
    pub(super) fn flush(&self, db: &sled::Db) -> sled::Result<usize> {
        self.syncing.store(true, Ordering::Release);
        let result = db.flush();
        self.syncing.store(false, Ordering::Release);
        result
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.alive.take() {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the store's waker has panicked");
            }
        }
    }
}
