//! Reads every row in sled once, by several threads, and says of each what is wrong with it: every
//! checksum compared, every part of every large row found, the sums compared with the ledger.
//! What a reader could ever see has been seen here, and whoever gives readers along has every row
//! seen by them in the same pass. It also visits every leaf of the tree, on which `layout` relies.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::{KeyRange, StoreError};
use super::files::{Files, WORKER};
use super::layout::{self, CHUNK_BYTES, Ledger, STATE_KEY, Stored};
use super::{damaged, io_error, read, sled_error};

/// More threads than this only wait for the disk.
const WORKERS_MAX: usize = 16;

/// Where something is wrong, and what.
pub type Finding = (String, String);

/// Rows of sled that nobody has checked.
#[derive(Debug)]
pub struct Unchecked<'a> {
    files: &'a Files,
    db: &'a sled::Db,
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

/// Checks of the whole alone.
impl Reader for () {
    fn row(&mut self, _key: &[u8], _value: Bytes) {}
}

/// Everything as one part, of which nobody hears.
pub(super) fn in_one_part() -> Vec<(KeyRange, ())> {
    vec![(KeyRange { start: Vec::new(), end: None }, ())]
}

// === impl Unchecked ===

impl<'a> Unchecked<'a> {
    pub(super) fn new(files: &'a Files, db: &'a sled::Db) -> Self {
        Self { files, db }
    }

    /// The row at `key`. `Err`: it does not read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.files.catch(|| read::get(self.db, &layout::row_key(key)))?
    }

    /// The rows of `range` that read, in key order.
    pub fn scan(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>) {
        let (mut start, end) = read::stored_range(range);
        loop {
            // What does not read is told when all rows are read. Visited outside, because a
            // visitor looks things up.
            let Ok(page) = self.files.catch(|| page(self.db, &start, &end)) else { return };
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

    /// Reads everything, as [`Self::read_all`] does. The first thing that cannot be right is the
    /// error.
    pub(super) fn check<R: Reader>(
        &self,
        parts: Vec<(KeyRange, R)>,
        ledger: &Ledger,
        name: &(dyn Fn(&[u8]) -> String + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<R>, StoreError> {
        let strays = self.strays();
        let (readers, found) = self.read_all(parts, Some(ledger), name, progress)?;
        match strays.into_iter().chain(found).next() {
            Some((place, what)) => Err(damaged(&format!("{place}: {what}"))),
            None => Ok(readers),
        }
    }

    /// Reads every row of `parts`, several parts at a time, each by a reader of its own. The parts
    /// must be everything. `name` says which row a key is of, `progress` hears how many rows have
    /// been read more.
    pub(super) fn read_all<R: Reader>(
        &self,
        parts: Vec<(KeyRange, R)>,
        ledger: Option<&Ledger>,
        name: &(dyn Fn(&[u8]) -> String + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<R>, Vec<Finding>), StoreError> {
        let db = self.db;
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let workers = workers.min(parts.len());
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
        self.files
            .catch(|| {
                thread::scope(|scope| {
                    let spawn =
                        |_| thread::Builder::new().name(WORKER.into()).spawn_scoped(scope, work);
                    (0..workers).map(spawn).collect::<Result<Vec<_>, _>>().map(drop)
                })
            })?
            .map_err(io_error("starting a thread"))?;
        let (readers, mut seen) = done.into_inner();
        if self.files.catch(|| seen.chunks(db)).is_err() {
            seen.finding("the parts of large rows", "sled panics on them");
        }
        seen.compare(ledger);
        Ok((readers, seen.findings))
    }

    /// What lies where nothing should: outside of the areas there is only the ledger row.
    pub(super) fn strays(&self) -> Vec<Finding> {
        let db = self.db;
        let found = self.files.catch(|| {
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
