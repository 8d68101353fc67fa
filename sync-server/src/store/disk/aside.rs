//! A closed store, looked at without changing a byte of it. sled writes whenever it opens, so its
//! files are copied aside first, and the copy is opened as a start would open it, however damaged
//! it may be. Rows are read by several threads; what is wrong with a row is said of that row, and
//! the reading goes on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::{KeyRange, StoreError};
use super::files::{Files, WORKER};
use super::handle::Handle;
use super::high_water::HighWater;
use super::layout::{self, CHUNK_BYTES, Ledger, STATE_KEY, Stored};
use super::space::Space;
use super::{DiskOptions, io_error, read, read_ledger, sled_error};

#[cfg(test)]
mod tests;

/// More threads than this only wait for the disk.
const WORKERS_MAX: usize = 16;

/// Where something is wrong, and what.
pub type Finding = (String, String);

/// A copy of a store. Dropping it removes it.
pub struct Aside {
    copy: Files,
    /// `None` = it cannot be opened.
    db: Option<Handle>,
    ledger: Option<Ledger>,
    /// Nobody may open the store while it is looked at.
    _lock: File,
}

/// What sled's rows add up to.
#[derive(Debug, Default)]
struct Seen {
    rows: u64,
    sum: u64,
    /// Large rows: length by blob.
    large: BTreeMap<u64, u32>,
    findings: Vec<Finding>,
}

/// Who takes what the rows hold.
pub trait Reader: Send {
    /// The next row of the part, in key order.
    fn row(&mut self, key: &[u8], value: Bytes);
}

// === impl Aside ===

impl Aside {
    /// Copies the store in `dir` into `scratch`, or else beside itself, and opens the copy. What
    /// is wrong with it as a whole is a finding.
    pub fn open(
        dir: &Path,
        scratch: Option<&Path>,
        options: &DiskOptions,
    ) -> Result<(Self, Vec<Finding>), StoreError> {
        let files = Files::existing(dir)?;
        let lock = files.lock(options.lock_wait)?;
        let files = files.of_next_start();
        files.check_format()?;
        let copy = match scratch {
            None => files.beside("store.verify"),
            Some(scratch) => Files::in_scratch(scratch, "deltasync-verify"),
        };
        let bytes = files.bytes().map_err(io_error("measuring the store"))?;
        let room = scratch.unwrap_or(dir);
        Space::new(room, options.free_bytes_min).room_for(bytes)?;
        copy.remove().map_err(io_error("removing an older copy"))?;
        let mut aside = Self { copy, db: None, ledger: None, _lock: lock };
        let copied = copy_files(files.path(), aside.copy.path());
        copied.map_err(io_error("copying the store aside"))?;
        let mut findings = Vec::new();
        match aside.open_copy(options) {
            Ok(()) => findings.extend(aside.compare_mark()?),
            Err(error @ (StoreError::Damaged { .. } | StoreError::WentBack { .. })) => {
                findings.push(("the store as a whole".to_owned(), error.to_string()));
            }
            Err(error) => return Err(error),
        }
        Ok((aside, findings))
    }

    fn open_copy(&mut self, options: &DiskOptions) -> Result<(), StoreError> {
        self.copy.remove_leftovers()?;
        super::no_unsynced_files(&self.copy)?;
        let db = self.copy.open_sled(options)?;
        let ledger = self.copy.catch(|| read_ledger(&db))??;
        let db = self.db.insert(db);
        if ledger.is_some() {
            let (ledger, _) = self.copy.catch(|| super::replay(&self.copy, db, None))??;
            self.ledger = Some(ledger);
        }
        Ok(())
    }

    fn compare_mark(&self) -> Result<Option<Finding>, StoreError> {
        let file = || "high-water".to_owned();
        let mark = match HighWater::open(&self.copy.high_water()) {
            Ok(Some(mark)) => mark.mark(),
            Ok(None) => return Ok(Some((file(), "no mark in it is valid".to_owned()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some((file(), "it is missing".to_owned())));
            }
            Err(error) => return Err(io_error("reading the high-water mark")(error)),
        };
        Ok(super::went_back(self.ledger.as_ref(), mark).map(|reason| (file(), reason)))
    }

    /// Rows that the store says it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.ledger.map_or(0, |ledger| ledger.rows)
    }

    /// The row at `key`, if it is there and reads.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        let db = self.db.as_ref()?;
        self.copy.catch(|| read::get(db, &layout::row_key(key))).ok()?.ok()?
    }

    /// The rows of `range` that read, in key order.
    pub fn scan(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>) {
        let Some(db) = &self.db else { return };
        let (mut start, end) = read::stored_range(range);
        loop {
            // What does not read was told when all rows were read. Visited outside, because a
            // visitor looks things up.
            let Ok(page) = self.copy.catch(|| page(db, &start, &end)) else { return };
            let Some(last) = page.last else { return };
            for (key, value) in page.rows {
                if visit(&key, value).is_break() {
                    return;
                }
            }
            start = last;
            start.push(0);
        }
    }

    /// Reads every row of `parts`, several parts at a time, each by a reader of its own. `name`
    /// says which row a key is of, `progress` hears how many rows have been read more.
    pub fn read_all<R: Reader>(
        &self,
        parts: Vec<(KeyRange, R)>,
        name: &(dyn Fn(&[u8]) -> String + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<R>, Vec<Finding>), StoreError> {
        let Some(db) = &self.db else { return Ok((Vec::new(), Vec::new())) };
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let parts = Mutex::new(parts.into_iter());
        let done = Mutex::new((Vec::new(), Seen::default()));
        let work = || {
            while let Some((range, reader)) = { parts.lock().next() } {
                let (reader, seen) = Part { db, name, progress }.read(&range, reader);
                let mut done = done.lock();
                done.0.extend(reader);
                done.1.merge(seen);
            }
        };
        self.copy
            .catch(|| {
                thread::scope(|scope| {
                    let spawn =
                        |_| thread::Builder::new().name(WORKER.into()).spawn_scoped(scope, work);
                    (0..workers).map(spawn).collect::<Result<Vec<_>, _>>().map(drop)
                })
            })?
            .map_err(io_error("starting a thread"))?;
        let (readers, mut seen) = done.into_inner();
        if self.copy.catch(|| seen.chunks(db)).is_err() {
            seen.finding("the parts of large rows", "sled panics on them");
        }
        seen.compare(self.ledger.as_ref());
        Ok((readers, seen.findings))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.db = None;
        if let Err(error) = self.copy.remove() {
            tracing::warn!(%error, "the copy could not be removed");
        }
    }
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aside").field("copy", &self.copy).finish_non_exhaustive()
    }
}

/// What is wrong, without the place, which is known better here.
fn reason(error: StoreError) -> String {
    if let StoreError::Damaged { reason, .. } = error { reason } else { error.to_string() }
}

/// Some rows of a scan.
#[derive(Default)]
struct Page {
    rows: Vec<(Vec<u8>, Bytes)>,
    /// The stored key of the last row, whether it read or not; `None` = there was none.
    last: Option<Vec<u8>>,
}

/// Rows of a page, and bytes after which it ends.
const PAGE_ROWS_MAX: usize = 1_024;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

fn page(db: &sled::Db, start: &[u8], end: &[u8]) -> Page {
    let (mut page, mut bytes) = (Page::default(), 0);
    for row in db.range(start..end).take(PAGE_ROWS_MAX) {
        let Ok((stored, row)) = row else { return page };
        if let (Some(key), Ok(value)) = (layout::user_key(&stored), read::value(db, &stored, &row))
        {
            bytes += value.len();
            page.rows.push((key, value));
        }
        page.last = Some(stored.to_vec());
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    page
}

/// How a worker reads a part.
struct Part<'a> {
    db: &'a sled::Db,
    name: &'a (dyn Fn(&[u8]) -> String + Sync),
    progress: &'a (dyn Fn(u64) + Sync),
}

/// Rows between two words about progress.
const PROGRESS_ROWS: u64 = 4_096;

// === impl Part ===

impl Part<'_> {
    /// `None` = sled panicked: nobody knows what the reader was told.
    fn read<R: Reader>(&self, range: &KeyRange, mut reader: R) -> (Option<R>, Seen) {
        let mut seen = Seen::default();
        let work = AssertUnwindSafe(|| self.rows(range, &mut reader, &mut seen));
        if catch_unwind(work).is_err() {
            seen.finding(&format!("the rows after {}", (self.name)(&range.start)), "sled panics");
            return (None, seen);
        }
        (Some(reader), seen)
    }

    fn rows(&self, range: &KeyRange, reader: &mut impl Reader, seen: &mut Seen) {
        let (start, end) = read::stored_range(range);
        let mut told = 0;
        for row in self.db.range(start..end) {
            let (stored, row) = match row {
                Ok(row) => row,
                Err(error) => {
                    let place = format!("the rows after {}", (self.name)(&range.start));
                    seen.finding(&place, &format!("sled cannot read them: {error}"));
                    return;
                }
            };
            let Some(key) = layout::user_key(&stored) else {
                seen.finding(&format!("a row with the stored key {stored:02x?}"), "no such key");
                continue;
            };
            let hasher = layout::key_hasher(&stored);
            let value = seen
                .row(&hasher, &row)
                .and_then(|row| read::whole(self.db, hasher, row).map_err(reason));
            match value {
                Ok(value) => reader.row(&key, value),
                Err(what) => seen.finding(&(self.name)(&key), &what),
            }
            if seen.rows - told >= PROGRESS_ROWS {
                (self.progress)(seen.rows - told);
                told = seen.rows;
            }
        }
        (self.progress)(seen.rows - told);
    }
}

// === impl Seen ===

impl Seen {
    fn finding(&mut self, place: &str, what: &str) {
        self.findings.push((place.to_owned(), what.to_owned()));
    }

    fn row<'a>(&mut self, key: &crc32fast::Hasher, row: &'a [u8]) -> Result<Stored<'a>, String> {
        self.rows += 1;
        let stored = Stored::decode(row).ok_or("its bytes cannot be a row")?;
        self.sum = self.sum.wrapping_add(stored.weight_after(key));
        if let Stored::Chunked { blob, len, .. } = stored
            && self.large.insert(blob, len).is_some()
        {
            return Err(format!("it shares the parts of large row {blob} with another"));
        }
        Ok(stored)
    }

    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
        for (blob, len) in other.large {
            if self.large.insert(blob, len).is_some() {
                self.finding(&format!("large row {blob}"), "two rows have its parts");
            }
        }
        self.findings.extend(other.findings);
    }

    /// Every part belongs to a large row. That none is missing was seen when the row was read.
    fn chunks(&mut self, db: &sled::Db) {
        let (start, end) = layout::chunk_area();
        for row in db.range(start..end) {
            let Ok((key, part)) = row else {
                return self.finding("the parts of large rows", "sled cannot read them");
            };
            let place = layout::chunk_of_key(&key);
            let fits = place.and_then(|(blob, index)| {
                let len = *self.large.get(&blob)?;
                let before = u64::from(index) * CHUNK_BYTES as u64;
                let left = u64::from(len).checked_sub(before)?;
                Some(left > 0 && part.len() as u64 == left.min(CHUNK_BYTES as u64))
            });
            if fits != Some(true) {
                self.finding(&format!("a part of a large row, {place:?}"), "belongs to no row");
            }
        }
    }

    fn compare(&mut self, ledger: Option<&Ledger>) {
        let Some(ledger) = ledger else { return };
        if self.rows != ledger.rows {
            let what = format!("it says {} rows, there are {}", ledger.rows, self.rows);
            self.finding("the ledger row", &what);
        } else if self.sum != ledger.sum {
            self.finding("the ledger row", "the rows are as many as it says, but not the same");
        }
        let highest = self.large.last_key_value().map_or(0, |(blob, _)| *blob);
        if highest >= ledger.next_blob {
            let what = format!("large row {highest} is not below the next, {}", ledger.next_blob);
            self.finding("the ledger row", &what);
        }
    }
}

// === impl Files ===

impl Files {
    /// The store that the next start would find.
    fn of_next_start(self) -> Self {
        let next = self.beside("store.next");
        if !self.exists() && next.exists() { next } else { self }
    }

    fn in_scratch(scratch: &Path, name: &str) -> Self {
        // Two checks at a time do not share a copy.
        Self::named(scratch, &format!("{name}-{}", std::process::id()))
    }
}

/// Copies files, and the directories below.
fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to: PathBuf = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Rows outside of all areas, which no part covers.
impl Aside {
    /// What lies where nothing should: outside of the areas there is only the ledger row.
    #[must_use]
    pub fn strays(&self) -> Vec<Finding> {
        let Some(db) = &self.db else { return Vec::new() };
        let found = self.copy.catch(|| {
            let below = db.range(..layout::row_area().0);
            let above = db.range(layout::chunk_area().1..);
            let stray = |row: sled::Result<(sled::IVec, sled::IVec)>| match row {
                Ok((key, _)) if key == STATE_KEY => None,
                Ok((key, _)) => Some((format!("the stored key {key:02x?}"), "no area".to_owned())),
                Err(error) => {
                    let error = sled_error("reading outside of all areas", error).to_string();
                    Some(("outside of all areas".to_owned(), error))
                }
            };
            below.chain(above).filter_map(stray).collect()
        });
        found.unwrap_or_else(|error| vec![("outside of all areas".to_owned(), error.to_string())])
    }
}
