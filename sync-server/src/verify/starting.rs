//! The start of a server: one pass over all rows, by several threads, checks what the disk engine
//! promises of each and whether they fit together.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::check::{Checked, Checker, as_damage};
use crate::engine::ledger::known_format;
use crate::store::disk::reading::Unchecked;
use crate::store::disk::{DiskOptions, DiskStore, Opening};
use crate::store::{KeyRange, StoreError, keys};

use super::{checkers, naming};

/// Rows between two words about progress.
const PROGRESS_ROWS: u64 = 100_000;

/// Reads a store that is opened.
struct Start<'a> {
    read: AtomicU64,
    progress: &'a (dyn Fn(u64) + Sync),
}

/// Opens the store in `dir`, or creates it, and checks all of it, see
/// [`DiskStore::open`](DiskStore::open) and [`Checker`]. `progress` hears of the check about every
/// 100,000 rows.
pub fn open(
    dir: &Path,
    options: &DiskOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(DiskStore, Checked), StoreError> {
    let start = Start::new(progress);
    finish(DiskStore::open_read(dir, options, &start)?)
}

/// The same, but creates nothing.
pub fn open_existing(
    dir: &Path,
    options: &DiskOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(DiskStore, Checked), StoreError> {
    let start = Start::new(progress);
    finish(DiskStore::open_existing_read(dir, options, &start)?)
}

fn finish(
    (store, checkers): (DiskStore, Vec<Checker>),
) -> Result<(DiskStore, Checked), StoreError> {
    let mut whole = Checker::default();
    for checker in checkers {
        whole.merge(checker);
    }
    let checked = whole.finish().map_err(|findings| as_damage(&findings))?;
    Ok((store, checked))
}

// === impl Start ===

impl<'a> Start<'a> {
    fn new(progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { read: AtomicU64::new(0), progress }
    }
}

impl Opening for Start<'_> {
    type Reader = Checker;

    fn parts(&self, rows: &Unchecked<'_>) -> Result<Vec<(KeyRange, Checker)>, StoreError> {
        known_format(rows.get(&keys::format_key())?)?;
        Ok(checkers(&mut |range, visit| rows.scan(range, visit)))
    }

    fn name(&self, key: &[u8]) -> String {
        naming::row(key)
    }

    fn progress(&self, rows: u64) {
        let before = self.read.fetch_add(rows, Ordering::Relaxed);
        if (before + rows) / PROGRESS_ROWS > before / PROGRESS_ROWS {
            (self.progress)(before + rows);
        }
    }
}
