//! The disk engine: sled 0.34.7 and the guards without which it loses data. Each guard has its
//! own file that says what happens without it:
//!
//! | guard | against | where |
//! |---|---|---|
//! | real sync | `flush` that never syncs | `real_sync` |
//! | bounded rows and nodes, readers out while writing | `blobs/` that is never synced | `layout` |
//! | stuffed keys | a backward iterator that panics | `layout` |
//! | ledger row, full check | pages that went back, parts that are missing | `layout`, `check` |
//! | high-water mark | a store that opens at an older state | `high_water` |
//! | atomic creation, leftovers, locks, panics in open | a start that is killed | `files` |
//! | writing anew, atomic exchange | files that never shrink | `compact`, `swap` |
//! | an end that is not a crash | a panic when the last sync fails | `handle` |
//! | fail-stop | going on with half a batch | `health` |
//! | waking a failed sync | a `flush` that never returns | `waker` |
//! | low-disk watermark | a disk that is really full | `space` |

use std::fs::File;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tracing::error;

use super::{Batch, Direction, KeyRange, Store, StoreError, Usage};
use files::Files;
use handle::Handle;
use health::Health;
use high_water::{HighWater, Mark};
use layout::{Ledger, STATE_KEY};
use plan::Plan;
use read::Rest;
use space::Space;
use waker::Waker;

pub mod aside;
pub mod build;
mod check;
pub mod compact;
mod files;
mod handle;
mod health;
mod high_water;
mod layout;
mod plan;
mod read;
mod real_sync;
mod space;
mod swap;
#[cfg(test)]
mod tests;
mod waker;

/// How to open a [`DiskStore`].
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Bytes of pages that sled keeps in memory. What the process uses is two to three times
    /// as much.
    pub cache_bytes: u64,
    /// Bytes that must stay free on the disk: below, [`Store::room`] refuses writes.
    pub free_bytes_min: u64,
    /// How long to wait for another process to let go of the data directory.
    pub lock_wait: Duration,
}

/// Rows in a data directory. One process at a time can have it open.
pub struct DiskStore {
    files: Files,
    db: Handle,
    /// Readers share it for a page, the writer has it for a batch.
    turns: RwLock<()>,
    writer: Mutex<Writer>,
    health: Health,
    space: Space,
    /// `None` only while closing.
    waker: Option<Waker>,
    lock: Option<File>,
}

/// What the only writer knows.
#[derive(Debug)]
struct Writer {
    ledger: Ledger,
    high_water: HighWater,
    /// Real syncs of the process when the first batch that is not synced was applied.
    syncs_before: Option<u64>,
    /// A batch may be half applied.
    torn: bool,
}

// === impl DiskOptions ===

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 256 * 1024 * 1024,
            free_bytes_min: 256 * 1024 * 1024,
            lock_wait: Duration::from_secs(5),
        }
    }
}

// === impl DiskStore ===

impl DiskStore {
    /// Opens the store in `dir`, or creates it. Reads and checks every row before it returns:
    /// what is served afterwards is whole, synced and not older than what was acknowledged.
    pub fn open(dir: &Path, options: &DiskOptions) -> Result<Self, StoreError> {
        let files = Files::new(dir)?;
        let lock = files.lock(options.lock_wait)?;
        files.recover()?;
        files.create(options)?;
        Self::open_locked(files, lock, options)
    }

    /// The same, but creates nothing: for work on a store that somebody believes to be there.
    pub fn open_existing(dir: &Path, options: &DiskOptions) -> Result<Self, StoreError> {
        let files = Files::existing(dir)?;
        let lock = files.lock(options.lock_wait)?;
        files.recover()?;
        Self::open_locked(files, lock, options)
    }

    fn open_locked(files: Files, lock: File, options: &DiskOptions) -> Result<Self, StoreError> {
        files.check_format()?;
        files.remove_others()?;
        files.remove_leftovers()?;
        no_unsynced_files(&files)?;
        let mark = HighWater::open(&files.high_water());
        let high_water = match mark {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            mark => mark.map_err(io_error("reading the high-water mark"))?,
        };
        let missing = "no valid mark: this is not a whole store (a copy of the files of a \
                       running server is not a backup)";
        let mut high_water = high_water.ok_or_else(|| files.damaged("high-water", missing))?;

        let db = files.open_sled(options)?;
        let ledger = files.catch(|| examine(&db, high_water.mark()))??;
        // A killed process leaves writes that nobody synced; from here on they are shown.
        db.flush().map_err(|error| sled_error("syncing what was found", error))?;
        files.sync().map_err(io_error("syncing what was found"))?;
        no_unsynced_files(&files)?;
        high_water
            .write(ledger.sequence)
            .and_then(|()| high_water.sync())
            .map_err(io_error("writing the high-water mark"))?;

        Ok(Self {
            waker: Some(Waker::start(db.clone())?),
            space: Space::new(files.dir(), options.free_bytes_min),
            files,
            db,
            turns: RwLock::new(()),
            writer: Mutex::new(Writer { ledger, high_water, syncs_before: None, torn: false }),
            health: Health::default(),
            lock: Some(lock),
        })
    }

    /// Syncs what was applied and lets go of the directory.
    pub fn close(self) -> Result<(), StoreError> {
        self.sync()
    }

    fn write(&self, writer: &mut Writer, batch: &Batch) -> Result<(), StoreError> {
        let plan = Plan::new(&self.db, writer.ledger, batch)?;
        let doing = "applying a batch";
        let _alone = self.turns.write();
        let syncs = real_sync::count();
        writer.torn = true;
        self.db.apply_batch(plan.writes).map_err(|error| sled_error(doing, error))?;
        writer.torn = false;
        writer.ledger = plan.ledger;
        writer.syncs_before = writer.syncs_before.or(syncs);
        // Whoever visits a node that has become small merges it. Here nobody else merges at
        // the same time, which is what bounds the size of nodes (see `layout`).
        for key in plan.removed {
            self.db.get(key).map_err(|error| sled_error(doing, error))?;
        }
        Ok(())
    }

    fn sync_all(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.ledger.sequence == writer.high_water.mark().sequence {
            return Ok(());
        }
        let doing = "syncing";
        let flushed = self.waker.as_ref().map(|waker| waker.flush(&self.db)).transpose();
        flushed.map_err(|error| sled_error(doing, error))?;
        if writer.syncs_before.take().is_some_and(|before| real_sync::count() <= Some(before)) {
            let reason = io::Error::other("this build of the program does not really sync");
            return Err(StoreError::Io { doing, source: reason });
        }
        no_unsynced_files(&self.files)?;
        writer.high_water.write(writer.ledger.sequence).map_err(io_error(doing))
    }
}

impl std::fmt::Debug for DiskStore {
    /// sled's own would print every row.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let _watched = self.health.enter()?;
        let _turn = self.turns.read();
        self.health.stick(read::get(&self.db, key))
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut rest = Rest::new(range, direction);
        while !rest.is_empty() {
            let page = {
                let _watched = self.health.enter()?;
                let _turn = self.turns.read();
                self.health.stick(rest.next_page(&self.db))?
            };
            for (key, value) in page {
                if visit(&key, value).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn room(&self) -> Result<(), StoreError> {
        self.space.room()
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let _watched = self.health.enter()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.health.stick(self.write(&mut self.writer.lock(), batch))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _watched = self.health.enter()?;
        self.health.stick(self.sync_all(&mut self.writer.lock()))
    }

    fn usage(&self) -> Usage {
        // An operator's question is not worth failing for; what cannot be read counts as none.
        let bytes = self.db.size_on_disk().unwrap_or_default();
        let unsynced_files = self.files.unsynced_files().unwrap_or_default();
        Usage { bytes, unsynced_files, free_bytes: self.space.free_bytes().ok() }
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.waker = None;
        let writer = self.writer.get_mut();
        if let Err(error) = writer.high_water.sync() {
            error!(%error, "the high-water mark could not be synced");
        }
        if writer.torn && self.db.context.global_error().is_ok() {
            // Dropped, sled would write what it holds, half a batch. A process that leaks it
            // and ends leaves the disk as it is; the lock goes with the process.
            mem::forget(self.db.clone());
            mem::forget(self.lock.take());
        }
    }
}

fn read_ledger(db: &sled::Db) -> Result<Option<Ledger>, StoreError> {
    let doing = "reading the ledger row";
    let row = db.get(STATE_KEY).map_err(|error| sled_error(doing, error))?;
    row.map(|row| Ledger::decode(&row).ok_or_else(|| damaged("the ledger row cannot be read")))
        .transpose()
}

/// Refuses a store that is older than what it said before, another one, or not whole.
fn examine(db: &sled::Db, mark: Mark) -> Result<Ledger, StoreError> {
    let ledger = read_ledger(db)?;
    match (went_back(ledger.as_ref(), mark), ledger) {
        (None, Some(ledger)) => check::check(db, &ledger).map(|()| ledger),
        (reason, _) => Err(StoreError::WentBack { reason: reason.unwrap_or_default() }),
    }
}

/// How the store falls short of what it said before.
fn went_back(ledger: Option<&Ledger>, mark: Mark) -> Option<String> {
    match ledger {
        None => Some(format!("it is empty, but batch {} was synced", mark.sequence)),
        Some(ledger) if ledger.store != mark.store => Some("it is another store".to_owned()),
        Some(ledger) if ledger.sequence < mark.sequence => {
            let (ends, synced) = (ledger.sequence, mark.sequence);
            Some(format!("it ends with batch {ends}, but {synced} was synced"))
        }
        Some(_) => None,
    }
}

fn no_unsynced_files(files: &Files) -> Result<(), StoreError> {
    match files.unsynced_files().map_err(io_error("looking into blobs/"))? {
        0 => Ok(()),
        count => Err(files.damaged("blobs", &format!("{count} files that are never synced"))),
    }
}

fn sled_error(doing: &'static str, error: sled::Error) -> StoreError {
    if let sled::Error::Io(source) = error {
        return StoreError::Io { doing, source };
    }
    damaged(&format!("{doing}: {error}"))
}

/// `StoreError::Damaged` for rows.
fn damaged(reason: &str) -> StoreError {
    StoreError::Damaged { place: "rows".to_owned(), reason: reason.to_owned() }
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, source }
}
