//! What the engine asks of storage: ordered rows, atomic batches, and a sync that means it.
//! An engine behind [`Store`] knows nothing of collections; the rules live in `core`, the
//! bytes in `keys`. Two implementations exist: [`memory`], the oracle, and [`disk`] on sled.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

#[cfg(test)]
pub(crate) mod counted;
pub mod disk;
pub mod keys;
pub mod measured;
pub mod memory;
pub mod rows;

/// Bytes of a row's key. The longest keys that `keys` builds stay below; the disk engine proves
/// from this number that its index never outgrows a synced file.
pub const KEY_BYTES_MAX: usize = 3_328;

/// Bytes of a row's value. Far above any row of ours: it only keeps lengths in 32 bits.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Ordered rows with atomic batches. One writer calls [`apply`](Store::apply) and
/// [`sync`](Store::sync); any number of readers call the rest at the same time.
pub trait Store: Send + Sync + 'static {
    /// The row at `key`, if there is one. Sees applied batches, synced or not.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The rows at `keys`, in their order. An engine whose readers wait for each other's turns has
    /// them wait once for many rows.
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Visits the rows of `range` in key order ([`Direction::Forward`]) or against it, until
    /// `visit` breaks. Never shows half a batch of which both halves lie behind the scan's
    /// start, provided that no `apply` runs meanwhile: callers keep writers out while they scan.
    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Whether the store has room to go on writing. `Err(StoreError::Full)` means: refuse
    /// writes until there is, nothing has changed. Cheap enough to be called before every group.
    fn room(&self) -> Result<(), StoreError>;

    /// Applies the batch: all of it or, after a crash, perhaps nothing of it, never a part. It
    /// is visible at once and durable after the next [`sync`](Store::sync) that returns `Ok`.
    /// After `Err` the outcome is unknown and the store must not be written again.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Makes every applied batch survive a power cut. After `Err` the outcome is unknown and
    /// the store must not be written, nor its newer rows shown, until it is opened again.
    fn sync(&self) -> Result<(), StoreError>;

    /// Whether work that can wait should: so much is applied and not yet where it belongs that
    /// commits will have to wait for that.
    fn is_behind(&self) -> bool {
        false
    }

    /// What an operator wants to know about the space in use.
    fn usage(&self) -> Usage;
}

/// Space that a store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, or in memory for an engine that has no disk.
    pub bytes: u64,
    /// Files that must not exist because the engine never syncs them (sled's `blobs/`); 0.
    pub unsynced_files: u64,
    /// Bytes that are free on the disk; `None` if the engine has no disk, or it does not say.
    pub free_bytes: Option<u64>,
}

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest key up.
    Forward,
    /// From the highest key down.
    Backward,
}

/// Keys from `start` (included) to `end` (excluded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that belongs to the range.
    pub start: Vec<u8>,
    /// First key that does not; `None` = to the end of the keyspace.
    pub end: Option<Vec<u8>>,
}

/// Writes that belong together: at most one per key, the last one said.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    rows: BTreeMap<Vec<u8>, Option<Bytes>>,
}

/// Why storage could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Little room is left on the disk. Nothing was changed; make room and write again.
    #[error("the disk is almost full: {free} bytes free, {wanted} must stay free")]
    Full {
        /// Bytes that are free now.
        free: u64,
        /// Bytes that must stay free.
        wanted: u64,
    },
    /// The disk has not the room for a copy. Nothing was changed.
    #[error("the copy may need {needed} bytes; {free} are free, and {kept} must stay free")]
    NoRoom {
        /// Bytes that are free now.
        free: u64,
        /// Bytes that the copy may take.
        needed: u64,
        /// Bytes that must stay free.
        kept: u64,
    },
    /// There is no store.
    #[error("there is no store in {path}")]
    Missing {
        /// The data directory.
        path: String,
    },
    /// The data directory is not empty.
    #[error("{path} is not empty: a store is only built in a directory of its own")]
    NotEmpty {
        /// The data directory.
        path: String,
    },
    /// Another process has the store open.
    #[error("the store at {path} is in use by another process")]
    InUse {
        /// The data directory.
        path: String,
    },
    /// The store was written by a newer program.
    #[error("the store has format {found}, this program knows up to {known}: run a newer one")]
    NewerFormat {
        /// Format number found on disk.
        found: u32,
        /// Newest format number that this program reads.
        known: u32,
    },
    /// The rows on disk are older than what was already acknowledged, or from another store.
    #[error("the store went back: {reason}; restore it from a backup")]
    WentBack {
        /// What does not fit.
        reason: String,
    },
    /// What was found cannot be right; nothing is served from it.
    #[error("the store is damaged at {place}: {reason}; restore a backup, check disk and memory")]
    Damaged {
        /// Which file or row.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk or its driver failed. The outcome of the last write is unknown.
    #[error("storage failed while {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

// === impl KeyRange ===

impl KeyRange {
    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: after_prefix(prefix) }
    }

    /// Keys from `start` (included) to `end` (excluded).
    #[must_use]
    pub fn new(start: Vec<u8>, end: Vec<u8>) -> Self {
        Self { start, end: Some(end) }
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether no key can lie in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end <= self.start.as_slice())
    }
}

// === impl Batch ===

impl Batch {
    /// Writes `value` at `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.rows.insert(key, Some(value));
    }

    /// Removes the row at `key`, if there is one.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// The writes in key order; `None` removes.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&Bytes>)> {
        self.rows.iter().map(|(key, value)| (key.as_slice(), value.as_ref()))
    }

    /// How many rows are written or removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A row beyond the limits is a bug of the caller, which must have refused its cause long before.
fn check_row(key: &[u8], value: Option<&Bytes>) {
    assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
    let len = value.map_or(0, Bytes::len);
    assert!(len <= VALUE_BYTES_MAX, "a value of {len} bytes");
}

/// The first key behind all keys that begin with `prefix`; `None` = no such key.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
