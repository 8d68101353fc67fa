//! Brings what the journal holds into sled, some rows at a time, on a thread of its own beside the
//! commits. A row that many commits change in the meantime is written once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use super::super::StoreError;
use super::files::Files;
use super::handle::Handle;
use super::health::Health;
use super::layout::Ledger;
use super::overlay::{Overlay, Rows};
use super::pace::Pace;
use super::plan::Plan;
use super::waker::Waker;
use super::{io_error, no_unsynced_files, real_sync, sled_error};

/// Bytes after which a chunk ends, however few rows it has.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Who waits for the thread looks this often whether it has failed, and gives up when it has not
/// written a chunk for so long.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What readers, the writer and the folding thread share.
pub(super) struct Core {
    pub(super) files: Files,
    waker: Waker,
    pub(super) db: Handle,
    /// Readers share it for a page; the writer has it while rows are put, the folding thread while
    /// sled takes a chunk.
    pub(super) overlay: RwLock<Overlay>,
    pub(super) health: Health,
    folding: Mutex<Folding>,
    moved: Condvar,
    /// sled may hold half a batch.
    torn: AtomicBool,
}

/// How far folding is.
struct Folding {
    /// What sled holds.
    ledger: Ledger,
    /// Rows to fold, and the sequence that sled is at afterwards.
    due: Option<(Arc<Rows>, u64)>,
    /// Rows written, ever.
    rows: u64,
    closing: bool,
}

/// The thread. Dropping this ends and joins it, after the chunk that it writes.
pub(super) struct Folder {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

/// sled, and what keeps readers out while it is written.
pub(super) struct Target<'a> {
    pub(super) db: &'a sled::Db,
    pub(super) turns: &'a RwLock<Overlay>,
    pub(super) torn: &'a AtomicBool,
}

// === impl Target ===

impl Target<'_> {
    /// Writes `rows` on top of what `ledger` describes; afterwards sled is at `through`. Until then
    /// it is at the sequence before, and whoever opens it replays them all. `told` hears of every
    /// chunk, how many rows it had, and says whether to go on; `None` = it did not.
    pub(super) fn fold(
        &self,
        mut ledger: Ledger,
        rows: &Rows,
        through: u64,
        pace: &mut Pace,
        told: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Ledger>, StoreError> {
        let mut left = rows.iter().peekable();
        while ledger.sequence != through {
            let mut plan = Plan::new(ledger);
            let (mut count, mut bytes) = (0, 0);
            while count < pace.rows() && bytes < CHUNK_BYTES_MAX {
                let Some((key, value)) = left.next() else { break };
                plan.row(self.db, key, value.as_deref())?;
                count += 1;
                bytes += key.len() + value.as_ref().map_or(0, bytes::Bytes::len);
            }
            if left.peek().is_none() {
                plan.ledger.sequence = through;
            }
            let (after, held) = self.write(plan.seal())?;
            ledger = after;
            pace.took(count, held);
            if told(count).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(ledger))
    }

    /// Also how long it kept readers out.
    fn write(&self, plan: Plan) -> Result<(Ledger, Duration), StoreError> {
        let doing = "bringing rows into sled";
        let _alone = self.turns.write();
        let began = Instant::now();
        self.torn.store(true, Ordering::Release);
        self.db.apply_batch(plan.writes).map_err(|error| sled_error(doing, error))?;
        self.torn.store(false, Ordering::Release);
        // Whoever visits a node that has become small merges it. Here nobody else merges at
        // the same time, which is what bounds the size of nodes (see `layout`).
        for key in plan.removed {
            self.db.get(key).map_err(|error| sled_error(doing, error))?;
        }
        Ok((plan.ledger, began.elapsed()))
    }
}

// === impl Core ===

impl Core {
    pub(super) fn new(files: Files, db: Handle, ledger: Ledger) -> Result<Self, StoreError> {
        Ok(Self {
            files,
            waker: Waker::start(db.clone())?,
            db,
            overlay: RwLock::default(),
            health: Health::default(),
            folding: Mutex::new(Folding { ledger, due: None, rows: 0, closing: false }),
            moved: Condvar::new(),
            torn: AtomicBool::new(false),
        })
    }

    /// What sled holds.
    pub(super) fn folded(&self) -> Ledger {
        self.folding.lock().ledger
    }

    pub(super) fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Acquire)
    }

    /// Whether rows are being folded.
    pub(super) fn is_folding(&self) -> bool {
        self.folding.lock().due.is_some()
    }

    /// Freezes the active rows and has them folded. The journal has synced them, up to `through`.
    pub(super) fn begin(&self, through: u64) {
        let rows = self.overlay.write().freeze();
        let mut folding = self.folding.lock();
        assert!(folding.due.is_none(), "one layer is folded at a time");
        folding.due = Some((rows, through));
        self.moved.notify_all();
    }

    /// Waits until what is being folded is in sled.
    pub(super) fn wait(&self) -> Result<(), StoreError> {
        self.wait_for(u64::MAX)
    }

    /// Likewise, or until so many rows more are.
    pub(super) fn wait_for(&self, rows: u64) -> Result<(), StoreError> {
        let mut folding = self.folding.lock();
        let enough = folding.rows.saturating_add(rows);
        let (mut seen, mut since) = (folding.rows, Instant::now());
        while folding.due.is_some() && folding.rows < enough {
            self.moved.wait_for(&mut folding, LOOK_EVERY);
            self.health.enter()?;
            if folding.rows != seen {
                (seen, since) = (folding.rows, Instant::now());
            } else if since.elapsed() >= STALLED_AFTER {
                let doing = "waiting for sled to take rows";
                return Err(io_error(doing)(std::io::ErrorKind::TimedOut.into()));
            }
        }
        Ok(())
    }

    /// sled's flush, of which we know that it synced.
    pub(super) fn flush(&self, syncs_before: Option<u64>) -> Result<(), StoreError> {
        let doing = "syncing";
        self.waker.flush(&self.db).map_err(|error| sled_error(doing, error))?;
        if syncs_before.is_some_and(|before| real_sync::count() <= Some(before)) {
            let reason = "this build of the program does not really sync";
            return Err(io_error(doing)(std::io::Error::other(reason)));
        }
        no_unsynced_files(&self.files)
    }

    fn fold(&self, rows: &Rows, through: u64, pace: &mut Pace) -> Result<(), StoreError> {
        let _watched = self.health.enter()?;
        let syncs = real_sync::count();
        let target = Target { db: &self.db, turns: &self.overlay, torn: &self.torn };
        let told = &mut |rows| {
            let mut folding = self.folding.lock();
            folding.rows += rows as u64;
            self.moved.notify_all();
            if folding.closing { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        // Given up, it is left to the next start, as after a kill.
        let Some(ledger) = target.fold(self.folded(), rows, through, pace, told)? else {
            return Ok(());
        };
        self.flush(syncs)?;
        self.overlay.write().thaw();
        let mut folding = self.folding.lock();
        folding.ledger = ledger;
        folding.due = None;
        self.moved.notify_all();
        Ok(())
    }

    fn run(&self) {
        let mut pace = Pace::default();
        loop {
            let (rows, through) = {
                let mut folding = self.folding.lock();
                while folding.due.is_none() && !folding.closing {
                    self.moved.wait(&mut folding);
                }
                let Some((rows, through)) = folding.due.as_ref().filter(|_| !folding.closing)
                else {
                    return;
                };
                (Arc::clone(rows), *through)
            };
            // A failure sticks: whoever waits for the rows learns of it.
            if self.health.stick(self.fold(&rows, through, &mut pace)).is_err() {
                self.moved.notify_all();
                return;
            }
        }
    }
}

// === impl Folder ===

impl Folder {
    pub(super) fn start(core: Arc<Core>) -> Result<Self, StoreError> {
        let folding = Arc::clone(&core);
        let thread =
            thread::Builder::new().name("store-folder".into()).spawn(move || folding.run());
        let thread = thread.map_err(io_error("starting a thread"))?;
        Ok(Self { core, thread: Some(thread) })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.core.folding.lock().closing = true;
        self.core.moved.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that brings rows into sled has panicked");
        }
    }
}
