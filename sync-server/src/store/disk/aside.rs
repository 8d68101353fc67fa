//! A closed store, looked at without changing a byte of it. sled writes whenever it opens, so its
//! files are copied aside first, and the copy is opened as a start would open it, however damaged
//! it may be. What is wrong with a row is said of that row, and the reading goes on.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::{KeyRange, StoreError};
use super::files::Files;
use super::handle::Handle;
use super::high_water::HighWater;
use super::layout::Ledger;
use super::reading::{Finding, Reader, Unchecked};
use super::replaying::{read_ledger, replay, went_back};
use super::space::Space;
use super::{DiskOptions, io_error};

#[cfg(test)]
mod tests;

/// A copy of a store. Dropping it removes it.
pub struct Aside {
    copy: Files,
    /// `None` = it cannot be opened.
    db: Option<Handle>,
    ledger: Option<Ledger>,
    /// Nobody may open the store while it is looked at.
    _lock: File,
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
            let (ledger, _) = self.copy.catch(|| replay(&self.copy, db, None))??;
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
        Ok(went_back(self.ledger.as_ref(), mark).map(|reason| (file(), reason)))
    }

    /// Rows that the store says it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.ledger.map_or(0, |ledger| ledger.rows)
    }

    /// The row at `key`, if it is there and reads.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.unchecked()?.get(key).ok()?
    }

    /// The rows of `range` that read, in key order.
    pub fn scan(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>) {
        if let Some(rows) = self.unchecked() {
            rows.scan(range, visit);
        }
    }

    /// What lies where nothing should.
    #[must_use]
    pub fn strays(&self) -> Vec<Finding> {
        self.unchecked().map_or_else(Vec::new, |rows| rows.strays())
    }

    /// Reads every row of `parts`, several parts at a time, each by a reader of its own. `name`
    /// says which row a key is of, `progress` hears how many rows have been read more.
    pub fn read_all<R: Reader>(
        &self,
        parts: Vec<(KeyRange, R)>,
        name: &(dyn Fn(&[u8]) -> String + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<R>, Vec<Finding>), StoreError> {
        let Some(rows) = self.unchecked() else { return Ok((Vec::new(), Vec::new())) };
        rows.read_all(parts, self.ledger.as_ref(), name, progress)
    }

    fn unchecked(&self) -> Option<Unchecked<'_>> {
        Some(Unchecked::new(&self.copy, self.db.as_ref()?))
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
