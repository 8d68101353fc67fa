//! Writes the store anew, because sled's files never shrink: every row is copied as it lies into a
//! fresh sled, the copy is opened again and checked like a store at start, and then exchanged for
//! the store (see `swap`). Identity, sequence, sums and high-water mark stay what they were, so
//! nobody can tell the copy from the store but by its size.

use tracing::info;

use super::super::{Store as _, StoreError};
use super::files::Files;
use super::layout::{Ledger, STATE_KEY};
use super::{DiskOptions, DiskStore, damaged, io_error, no_unsynced_files, sled_error};

#[cfg(test)]
mod tests;

/// Rows of one batch. Small: sled keeps a batch in memory, and every node that it touches.
const BATCH_ROWS_MAX: usize = 256;
/// Bytes after which a batch ends.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// A fresh sled takes at most this times the bytes of its rows: nodes that are rewritten while
/// they fill leave their old versions behind until a segment is free.
const COPY_FACTOR: u64 = 3;
/// And this besides: segments that are open, the snapshot, the index.
const COPY_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// What is being done, and what has been. A process that is killed after any of them leaves a
/// whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Rows are being copied.
    Copying {
        /// Rows copied.
        done: u64,
        /// Rows that there are.
        total: u64,
    },
    /// All rows are in the copy, and synced.
    Copied,
    /// The copy was opened again and is right.
    Checked,
    /// The copy has its last name but one.
    Named,
    /// The store was moved out of the way.
    MovedAway,
    /// The copy is the store.
    Exchanged,
}

/// What compacting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Rows in the store.
    pub rows: u64,
    /// Bytes of its files before.
    pub bytes_before: u64,
    /// Bytes of its files now.
    pub bytes_after: u64,
}

/// What lies in sled.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    rows: u64,
    bytes: u64,
}

// === impl Extent ===

impl Extent {
    fn of(db: &sled::Db) -> Result<Self, StoreError> {
        let mut extent = Self::default();
        for row in db.iter() {
            let (key, value) = row.map_err(|error| sled_error("measuring the rows", error))?;
            extent.rows += 1;
            extent.bytes += (key.len() + value.len()) as u64;
        }
        Ok(extent)
    }

    fn copy_bytes_max(self) -> u64 {
        self.bytes.saturating_mul(COPY_FACTOR).saturating_add(COPY_BYTES_MIN)
    }
}

// === impl DiskStore ===

impl DiskStore {
    /// Writes the store anew and closes it. After an error, too, the store is whole: as it was, or
    /// already exchanged.
    pub fn compact(
        mut self,
        options: &DiskOptions,
        told: &mut dyn FnMut(Step),
    ) -> Result<Compacted, StoreError> {
        let doing = "measuring the store";
        self.settle()?;
        let files = self.core.files.clone();
        let extent = files.catch(|| Extent::of(&self.core.db))??;
        let bytes_before = files.bytes().map_err(io_error(doing))?;
        self.space.room_for(extent.copy_bytes_max())?;

        let ledger = self.core.folded();
        let copy = files.beside("store.copy");
        copy.remove().map_err(io_error(doing))?;
        if let Err(error) = self.copy_to(&copy, &ledger, extent, options, told) {
            copy.remove().map_err(io_error("removing a copy that failed"))?;
            return Err(error);
        }
        // The lock outlives the store: nobody may open what is about to be exchanged.
        let lock = self.lock.take();
        drop(self);
        files.wait_until_closed(options.lock_wait)?;
        files.swap(&copy, told)?;
        let bytes_after = files.bytes().map_err(io_error(doing))?;
        drop(lock);
        info!(rows = ledger.rows, bytes_before, bytes_after, "compacted");
        Ok(Compacted { rows: ledger.rows, bytes_before, bytes_after })
    }

    fn copy_to(
        &self,
        copy: &Files,
        ledger: &Ledger,
        extent: Extent,
        options: &DiskOptions,
        told: &mut dyn FnMut(Step),
    ) -> Result<(), StoreError> {
        copy.create_dir()?;
        copy.create_parts(ledger, options, &mut |db| {
            self.core.files.catch(|| self.copy_rows(db, extent.rows, told))?
        })?;
        told(Step::Copied);
        copy.check_whole(ledger, options)?;
        told(Step::Checked);
        Ok(())
    }

    /// All rows but the ledger's, which the new store gets when everything else is in it.
    fn copy_rows(
        &self,
        to: &sled::Db,
        total: u64,
        told: &mut dyn FnMut(Step),
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let (mut rows, mut bytes, mut done) = (0, 0, 0);
        let write = |batch: &mut sled::Batch| {
            // What was measured was an estimate, and others write to the disk as well.
            self.room()?;
            to.apply_batch(std::mem::take(batch)).map_err(|e| sled_error("writing the copy", e))
        };
        for row in self.core.db.iter() {
            let (key, value) = row.map_err(|error| sled_error("copying the rows", error))?;
            if key == STATE_KEY {
                continue;
            }
            rows += 1;
            bytes += key.len() + value.len();
            batch.insert(key, value);
            if rows >= BATCH_ROWS_MAX || bytes >= BATCH_BYTES_MAX {
                write(&mut batch)?;
                done += rows as u64;
                (rows, bytes) = (0, 0);
                told(Step::Copying { done, total });
            }
        }
        write(&mut batch)
    }
}

// === impl Files ===

impl Files {
    /// Opens a store that was just written, reads and checks every row as a start does, and closes
    /// it, synced.
    pub(super) fn check_whole(
        &self,
        ledger: &Ledger,
        options: &DiskOptions,
    ) -> Result<(), StoreError> {
        let db = self.open_sled(options)?;
        let found = super::examine(self, &db, ledger.mark())?;
        drop(db);
        if found != *ledger {
            return Err(damaged("the new store is not what was written"));
        }
        self.wait_until_closed(options.lock_wait)?;
        no_unsynced_files(self)?;
        self.sync().map_err(io_error("syncing the new store"))
    }
}
