//! Where reads of the store run. A read may wait for the disk, so it must not keep a worker of the
//! runtime from what others wait for; but handing it to a thread of its own, which sleeps and has to
//! be woken, costs more than most reads. So the runtime has some workers more than there are cores,
//! and lends those out: that many reads at once run on the worker that asks. There are as many
//! workers as cores besides, which no read can take. Further reads go to threads for what blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError};
use tokio_util::task::TaskTracker;

use crate::budget::Waits;

#[cfg(test)]
mod tests;

/// Reads of the store at once. They wait for the disk, not for each other.
pub const READS_MAX: usize = 32;

/// Reads at once.
#[derive(Debug)]
pub struct Reads {
    /// Fewer than the runtime has threads for them, so that a blocking task that is no read never
    /// waits behind reads.
    turns: Arc<Semaphore>,
    lent: Arc<Semaphore>,
    waiting: AtomicUsize,
    tasks: TaskTracker,
}

/// How many workers the runtime should have: one to lend for every two cores. More would only get in
/// each other's way.
#[must_use]
pub fn workers() -> usize {
    cores() + cores().div_ceil(2)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

// === impl Reads ===

impl Reads {
    /// Lends out what workers the runtime has beyond the cores; with none, every read is handed
    /// over. Those that run on lent workers are among `tasks`.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    #[must_use]
    pub fn of_this_runtime(tasks: TaskTracker) -> Self {
        let spare = Handle::current().metrics().num_workers().saturating_sub(cores());
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            turns: semaphore(READS_MAX),
            lent: semaphore(spare),
            waiting: AtomicUsize::default(),
            tasks,
        }
    }

    /// Reads that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        READS_MAX - self.turns.available_permits()
    }

    /// Reads that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Runs a read when it is its turn. One that is cancelled before costs no read; one that has
    /// begun ends, whoever waits for it. `Err`: it panicked.
    pub async fn run<R: Send + 'static>(
        &self,
        read: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, JoinError> {
        let turn = {
            let _waits = Waits::begin(&self.waiting);
            Arc::clone(&self.turns).acquire_owned().await
        };
        let turn = turn.expect("the semaphore is never closed");
        let reading = move || {
            // Held until the read has ended, also when nobody waits for it any more.
            let _turn = turn;
            read()
        };
        match Arc::clone(&self.lent).try_acquire_owned() {
            // A task of its own, because a worker runs what was woken last next, and gives nobody
            // else that: when a task begins, its worker has nothing of the kind, so a read that
            // hangs holds up nobody but who waits for it.
            Ok(lent) => {
                let reading = async move {
                    let _lent = lent;
                    reading()
                };
                self.tasks.spawn(reading).await
            }
            Err(_) => task::spawn_blocking(reading).await,
        }
    }
}
