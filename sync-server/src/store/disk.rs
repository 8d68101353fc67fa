//! The disk engine: sled 0.34.7, a journal in front of it, and the guards without which it loses
//! data. A batch is applied when the journal has it and its rows are in memory (`journal`, `overlay`),
//! and durable when the journal is synced; a thread of its own brings the rows into sled (`folding`),
//! readers see both as one (`merge`). Each guard has its own file that says what happens without it:
//!
//! | guard | against | where |
//! |---|---|---|
//! | real sync | `flush` that never syncs | `real_sync` |
//! | bounded rows and nodes, readers out while writing | `blobs/` that is never synced | `layout` |
//! | stuffed keys | a backward iterator that panics | `layout` |
//! | ledger row, full check | pages that went back, parts that are missing | `layout`, `reading` |
//! | high-water mark | a store that opens at an older state | `high_water`, `replaying` |
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
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tracing::{error, info};

use super::{Batch, Direction, KeyRange, Store, StoreError, Usage, check_row};
use files::Files;
use folding::{Core, Folder};
use high_water::{HighWater, Mark};
use journal::Journal;
use layout::Ledger;
use overlay::Overlay;
use read::Rest;
use reading::{Reader, Unchecked, in_one_part};
use replaying::{read_ledger, replay, went_back};
use space::Space;

pub mod aside;
pub mod build;
pub mod compact;
mod files;
mod folding;
mod handle;
mod health;
mod high_water;
mod journal;
mod layout;
mod merge;
mod overlay;
mod pace;
mod plan;
mod read;
pub mod reading;
mod real_sync;
mod replaying;
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

/// Who opens a store and reads all of it meanwhile.
pub trait Opening: Sync {
    /// Who takes the rows of a part.
    type Reader: Reader;

    /// Cuts everything there is into parts. An error refuses the store as it is.
    fn parts(&self, rows: &Unchecked<'_>) -> Result<Vec<(KeyRange, Self::Reader)>, StoreError>;

    /// Says which row a key is of, for people.
    fn name(&self, key: &[u8]) -> String;

    /// Hears how many rows have been read more.
    fn progress(&self, rows: u64);
}

/// Nobody reads along.
struct Quietly;

/// Bytes of rows that are folded into sled together. More of them meet the same row more often, and
/// take longer to replay at a start.
const FOLD_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of rows at which the writer waits until sled has taken what was frozen before.
const HOLD_BYTES: usize = 4 * FOLD_BYTES;

/// Rows in a data directory. One process at a time can have it open.
pub struct DiskStore {
    core: Arc<Core>,
    writer: Mutex<Writer>,
    space: Space,
    /// `None` only while closing.
    folder: Option<Folder>,
    lock: Option<File>,
}

/// What the only writer knows.
#[derive(Debug)]
struct Writer {
    /// Of the last batch that was applied.
    sequence: u64,
    journal: Journal,
    high_water: HighWater,
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

// === impl Quietly ===

impl Opening for Quietly {
    type Reader = ();

    fn parts(&self, _: &Unchecked<'_>) -> Result<Vec<(KeyRange, ())>, StoreError> {
        Ok(in_one_part())
    }

    fn name(&self, key: &[u8]) -> String {
        format!("the row at {key:02x?}")
    }

    fn progress(&self, _: u64) {}
}

// === impl DiskStore ===

impl DiskStore {
    /// Opens the store in `dir`, or creates it. Reads and checks every row before it returns:
    /// what is served afterwards is whole, synced and not older than what was acknowledged.
    pub fn open(dir: &Path, options: &DiskOptions) -> Result<Self, StoreError> {
        let (store, _) = Self::open_read(dir, options, &Quietly)?;
        Ok(store)
    }

    /// The same, and whoever opens it reads every row along with the check, by several threads.
    pub fn open_read<O: Opening>(
        dir: &Path,
        options: &DiskOptions,
        opening: &O,
    ) -> Result<(Self, Vec<O::Reader>), StoreError> {
        let files = Files::new(dir)?;
        let lock = files.lock(options.lock_wait)?;
        files.recover()?;
        files.create(options)?;
        Self::open_locked(files, lock, options, opening)
    }

    /// The same as [`Self::open`], but creates nothing: for work on a store that somebody believes
    /// to be there.
    pub fn open_existing(dir: &Path, options: &DiskOptions) -> Result<Self, StoreError> {
        let (store, _) = Self::open_existing_read(dir, options, &Quietly)?;
        Ok(store)
    }

    /// The same as [`Self::open_read`], but creates nothing.
    pub fn open_existing_read<O: Opening>(
        dir: &Path,
        options: &DiskOptions,
        opening: &O,
    ) -> Result<(Self, Vec<O::Reader>), StoreError> {
        let files = Files::existing(dir)?;
        let lock = files.lock(options.lock_wait)?;
        files.recover()?;
        Self::open_locked(files, lock, options, opening)
    }

    fn open_locked<O: Opening>(
        files: Files,
        lock: File,
        options: &DiskOptions,
        opening: &O,
    ) -> Result<(Self, Vec<O::Reader>), StoreError> {
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
        let (ledger, journal) = files.catch(|| replay(&files, &db, Some(high_water.mark())))??;
        let readers = check(&files, &db, &ledger, opening)?;
        // Only now, so that a store that is refused is what it was; the journal has no record yet.
        files.adopt_format().map_err(io_error("writing the format number"))?;
        let core = Core::new(files, db, ledger)?;
        // A killed process leaves writes that nobody synced; from here on they are shown.
        core.flush(None)?;
        core.files.sync().map_err(io_error("syncing what was found"))?;
        high_water
            .write(ledger.sequence)
            .and_then(|()| high_water.sync())
            .map_err(io_error("writing the high-water mark"))?;

        let core = Arc::new(core);
        let store = Self {
            folder: Some(Folder::start(Arc::clone(&core))?),
            space: Space::new(core.files.dir(), options.free_bytes_min),
            core,
            writer: Mutex::new(Writer { sequence: ledger.sequence, journal, high_water }),
            lock: Some(lock),
        };
        Ok((store, readers))
    }

    /// Syncs what was applied, brings it into sled, and lets go of the directory.
    pub fn close(self) -> Result<(), StoreError> {
        self.settle()
    }

    /// Syncs what was applied and brings it into sled.
    fn settle(&self) -> Result<(), StoreError> {
        let _watched = self.core.health.enter()?;
        let mut writer = self.writer.lock();
        let settled = writer.sync().and_then(|()| {
            self.core.wait()?;
            if self.core.folded().sequence < writer.sequence {
                self.fold(&mut writer)?;
            }
            self.core.wait()
        });
        self.core.health.stick(settled)
    }

    fn write(&self, writer: &mut Writer, batch: &Batch) -> Result<(), StoreError> {
        self.make_way(writer, batch.len())?;
        let row = |(key, value): (&[u8], Option<&Bytes>)| {
            check_row(key, value);
            (layout::row_key(key), value.cloned())
        };
        let rows: Vec<_> = batch.rows().map(row).collect();
        let sequence = writer.sequence + 1;
        writer.journal.append(sequence, &rows).map_err(io_error("applying a batch"))?;
        writer.sequence = sequence;
        self.core.overlay.write().put(rows);
        Ok(())
    }

    /// The row with the stored key `stored`.
    fn get_above(&self, overlay: &Overlay, stored: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match overlay.get(stored) {
            Some(value) => Ok(value.clone()),
            None => self.core.health.stick(read::get(&self.core.db, stored)),
        }
    }

    /// Has rows folded when there are enough of them, and holds the writer up who is faster than
    /// sled: once there are more than are folded together, as many go out as come in.
    fn make_way(&self, writer: &mut Writer, rows: usize) -> Result<(), StoreError> {
        let bytes = self.core.overlay.read().bytes();
        if bytes < FOLD_BYTES {
            return Ok(());
        }
        if self.core.is_folding() {
            self.core.wait_for(if bytes < HOLD_BYTES { rows as u64 } else { u64::MAX })?;
        }
        if self.core.is_folding() { Ok(()) } else { self.fold(writer) }
    }

    /// Has everything folded that is not yet. Nothing is being folded.
    fn fold(&self, writer: &mut Writer) -> Result<(), StoreError> {
        writer.journal.turn().map_err(io_error("syncing the journal"))?;
        self.core.begin(writer.sequence);
        Ok(())
    }
}

impl std::fmt::Debug for DiskStore {
    /// sled's own would print every row.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStore").field("files", &self.core.files).finish_non_exhaustive()
    }
}

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let _watched = self.core.health.enter()?;
        let stored = layout::row_key(key);
        let overlay = self.core.overlay.read();
        self.get_above(&overlay, &stored)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut rows = Vec::with_capacity(keys.len());
        for page in keys.chunks(read::PAGE_ROWS_MAX) {
            let _watched = self.core.health.enter()?;
            let overlay = self.core.overlay.read();
            for key in page {
                rows.push(self.get_above(&overlay, &layout::row_key(key))?);
            }
        }
        Ok(rows)
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
                let _watched = self.core.health.enter()?;
                let overlay = self.core.overlay.read();
                self.core.health.stick(rest.next_page(&self.core.db, &overlay))?
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
        let _watched = self.core.health.enter()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.core.health.stick(self.write(&mut self.writer.lock(), batch))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _watched = self.core.health.enter()?;
        self.core.health.stick(self.writer.lock().sync())
    }

    /// Leaves commits half of what is folded together before they have to wait.
    fn is_behind(&self) -> bool {
        self.core.is_folding() && self.core.overlay.read().bytes() >= FOLD_BYTES / 2
    }

    fn usage(&self) -> Usage {
        // An operator's question is not worth failing for; what cannot be read counts as none.
        let files = &self.core.files;
        let bytes = self.core.db.size_on_disk().unwrap_or_default() + files.journal_bytes();
        let unsynced_files = files.unsynced_files().unwrap_or_default();
        Usage { bytes, unsynced_files, free_bytes: self.space.free_bytes().ok() }
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        // What is not in sled yet the next start replays: a moment's work is spared it, more would
        // keep the end of the process waiting.
        let little = self.core.overlay.read().bytes() < FOLD_BYTES && !self.core.is_folding();
        let ended = if little { self.settle() } else { self.sync() };
        if self.core.health.enter().is_ok()
            && let Err(error) = ended
        {
            error!(%error, "what was applied could not be synced");
        }
        self.folder = None;
        if let Err(error) = self.writer.get_mut().high_water.sync() {
            error!(%error, "the high-water mark could not be synced");
        }
        if self.core.is_torn() && self.core.db.context.global_error().is_ok() {
            // Dropped, sled would write what it holds, half a batch. A process that leaks it
            // and ends leaves the disk as it is; the lock goes with the process.
            mem::forget(self.core.db.clone());
            mem::forget(self.lock.take());
        }
    }
}

// === impl Writer ===

impl Writer {
    fn sync(&mut self) -> Result<(), StoreError> {
        if self.sequence == self.high_water.mark().sequence {
            return Ok(());
        }
        let doing = io_error("syncing");
        self.journal.sync().map_err(&doing)?;
        self.high_water.write(self.sequence).map_err(doing)
    }
}

/// Reads and checks every row; the first thing that cannot be right is the error.
fn check<O: Opening>(
    files: &Files,
    db: &sled::Db,
    ledger: &Ledger,
    opening: &O,
) -> Result<Vec<O::Reader>, StoreError> {
    let began = Instant::now();
    let rows = Unchecked::new(files, db);
    let parts = opening.parts(&rows)?;
    let name = |key: &[u8]| opening.name(key);
    let readers = rows.check(parts, ledger, &name, &|rows| opening.progress(rows))?;
    info!(rows = ledger.rows, sequence = ledger.sequence, elapsed = ?began.elapsed(), "checked");
    Ok(readers)
}

/// Refuses a store that is older than what it said before, another one, or not whole.
fn examine(files: &Files, db: &sled::Db, mark: Mark) -> Result<Ledger, StoreError> {
    let ledger = files.catch(|| read_ledger(db))??;
    match (went_back(ledger.as_ref(), mark), ledger) {
        (None, Some(ledger)) => check(files, db, &ledger, &Quietly).map(|_| ledger),
        (reason, _) => Err(StoreError::WentBack { reason: reason.unwrap_or_default() }),
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
