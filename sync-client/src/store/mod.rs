//! Where a replica keeps its copy. Rows, cursor and digest of a collection change together, in
//! one local transaction; a first load is staged beside the rows that readers see and takes
//! their place at once. Two implementations exist: [`MemoryStore`] and [`DiskStore`] on redb.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;

use bytes::Bytes;
use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{Change, CollectionName, Cursor, Key, Scope, SortKey, Version};

mod disk;
mod memory;
mod mend;
mod notes;
mod plan;
mod rescope;

pub use disk::DiskStore;
pub use memory::MemoryStore;
pub use mend::{Fate, Staged, Sums};
pub use notes::Notes;
pub(crate) use notes::client_name;
pub(crate) use plan::own_key;
pub use rescope::Rescoped;

/// The copies of any number of collections. One driver writes; any number of readers read at
/// the same time. A call may wait for the disk, and for nothing else.
pub trait ReplicaStore: Send + Sync + fmt::Debug + 'static {
    /// Whether a read may wait for a disk. Async code then reads on another thread, which costs
    /// more than a read of memory does.
    fn may_block(&self) -> bool {
        true
    }

    /// How often rows were lost, because the store was damaged or failed: what readers were told
    /// does not count any more.
    fn lives(&self) -> u64 {
        0
    }

    /// Where the copy of a collection stands. A collection that was never written stands at
    /// [`Standing::default`].
    fn standing(&self, collection: &CollectionName) -> Result<Standing, StoreError>;

    /// Says which part of a collection the copy is to be of from now on; its rows, loads and cursor
    /// are of that part until the next call. Called before a driver runs, in every process again.
    /// A copy of a part that covers this one keeps what belongs to it, and its cursor; any other
    /// keeps its rows for readers but stands nowhere: [`Standing::cursor`] is `None`, and the next
    /// load takes their place. All of it in one transaction.
    fn rescope(&self, collection: &CollectionName, scope: &Scope) -> Result<Rescoped, StoreError>;

    /// One row, as readers see it.
    fn get(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, StoreError>;

    /// The rows as they are now, whatever is written later.
    fn snapshot(&self, collection: &CollectionName) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Carries out a write: all of it or, on `Err`, nothing. After a crash the copy stands where
    /// it stood before or after one of the last writes, rows and cursor alike; see
    /// [`Self::flush`].
    fn write(&self, collection: &CollectionName, write: &Write) -> Result<Applied, StoreError> {
        self.write_with(collection, write, &Notes::none(collection.clone()))
    }

    /// The same, and notes beside it: both or, on `Err` and after a crash, neither.
    fn write_with(
        &self,
        collection: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> Result<Applied, StoreError>;

    /// Makes notes that belong to no write; [`Notes::only_at`] does not matter. All or nothing, as
    /// durable as a write.
    fn note(&self, notes: &Notes) -> Result<(), StoreError>;

    /// All notes of an owner, by key.
    fn notes(&self, owner: &CollectionName) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// After [`Visible::Swapped`] and until [`Self::forget_swapped`] or the next write of the
    /// collection, whatever is swept meanwhile: up to `limit` items whose content differs between the rows before and the rows now, by key, behind
    /// `after`. Fewer than `limit` = these were the last.
    fn swapped(
        &self,
        collection: &CollectionName,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Changed>, StoreError>;

    /// The comparison of a collection is over; the rows before its last swap may be swept.
    fn forget_swapped(&self, collection: &CollectionName);

    /// Adds up the rows that readers see, as they are, and forgets what was staged. Reads all of
    /// them. A row that does not read counts as none.
    fn sums(&self, collection: &CollectionName) -> Result<Sums, StoreError>;

    /// Puts edits aside for [`Step::Mend`]; of two for one row, the later one counts. They are
    /// forgotten by any write of the collection, by [`Self::sums`], and by a restart.
    fn stage(&self, collection: &CollectionName, edits: Vec<Staged>) -> Result<(), StoreError>;

    /// Stages the removal of all rows in `segments` for which nothing was staged.
    fn stage_rest(
        &self,
        collection: &CollectionName,
        segments: &BTreeSet<Segment>,
    ) -> Result<(), StoreError>;

    /// Frees up to about `rows_max` rows that nobody sees any more. `true` = there are more.
    fn sweep(&self, rows_max: usize) -> Result<bool, StoreError>;

    /// Makes every write so far survive a power cut.
    fn flush(&self) -> Result<(), StoreError>;
}

/// The rows of one collection at one moment. Do not keep it for long: a store on disk cannot
/// reuse space while it lives.
pub trait Snapshot: Send {
    /// Where the copy stood.
    fn standing(&self) -> &Standing;

    /// Up to `limit` rows by key, behind `after`. Fewer = these were the last.
    fn rows(&self, after: Option<&Key>, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Up to `limit` rows in list order (sort key, then key), after passing over `offset`.
    fn window(&self, offset: usize, limit: usize) -> Result<Vec<Row>, StoreError>;
}

/// An item as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// Its content, not decoded.
    pub value: Bytes,
    /// Its place in list order.
    pub sort_key: SortKey,
    /// Version of the commit that last touched it.
    pub version: Version,
    /// Version of the commit that created it.
    pub created: Version,
    /// Version of the commit that last changed its value.
    pub value_version: Version,
}

/// Where the copy of a collection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// What readers see is everything up to here; `None` = there is no copy, or it is of another
    /// part of the collection.
    pub cursor: Option<Cursor>,
    /// Count and digest of what readers see.
    pub tally: Tally,
    /// The load that is being staged.
    pub load: Option<Load>,
}

/// A load that is being staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// How far it has come.
    pub cursor: Cursor,
    /// Count and digest of what is staged.
    pub tally: Tally,
}

/// Count and digest of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub items: u64,
    /// Sum of their digests.
    pub digest: Digest,
}

/// A change of a copy, to be carried out only if the copy still stands where it did when the
/// change was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// [`Standing::active`] that the write was decided upon.
    pub expected: Option<Cursor>,
    /// What to do.
    pub step: Step,
}

/// What a [`Write`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Applies changes to the load that is being staged, or to the rows if there is none, and
    /// moves its cursor. Changes up to the present cursor are passed over. A load that has
    /// caught up takes the place of the rows.
    Page {
        /// In version order.
        changes: Vec<Change>,
        /// Where the copy stands then.
        to: Cursor,
    },
    /// Drops what is staged and begins another load with these changes.
    BeginLoad {
        /// In version order.
        changes: Vec<Change>,
        /// Where the load stands then.
        to: Cursor,
    },
    /// Carries out what was staged on the rows that readers see, all of it at once, and drops a
    /// load.
    Mend {
        /// Where the copy stands then.
        to: Cursor,
        /// Count and digest of the rows before, as [`ReplicaStore::sums`] found them.
        before: Tally,
        /// The list order is put together anew.
        reorder: bool,
    },
    /// The collection does not exist: drops rows, cursor and what is staged.
    Clear,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Where the copy stands now.
    pub standing: Standing,
    /// What readers can see of it.
    pub visible: Visible,
}

/// What readers can see of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Nothing but, perhaps, a newer cursor.
    Nothing,
    /// These items changed.
    Rows(Vec<Changed>),
    /// All rows were exchanged; see [`ReplicaStore::swapped`].
    Swapped,
    /// So many items changed that they are not named.
    Much,
}

/// An item that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its key.
    pub key: Key,
    /// What it was; `None` = it did not exist.
    pub old: Option<Row>,
    /// Whether it exists now.
    pub exists: bool,
}

/// Why a local store could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else moved the copy; nothing was changed. Decide again from where it stands.
    #[error("the copy stands elsewhere: somebody else writes it too")]
    Conflict {
        /// Where the copy stands.
        standing: Box<Standing>,
    },
    /// A change leaves out a value that the copy does not have; nothing was changed.
    #[error("a change leaves out a value that the copy does not have")]
    MissingValue,
    /// What was found cannot be right.
    #[error("the local store is damaged at {place}")]
    Damaged {
        /// Which row or table.
        place: &'static str,
    },
    /// Another process has the store open.
    #[error("the local store is in use by another process")]
    InUse,
    /// Its disk takes no writes, or this process may not write it; what is in it can be read.
    #[error("the local store may only be read: its file, or the disk that it is on, is read-only")]
    ReadOnly,
    /// The store was written by a newer program.
    #[error("the store has format {found}, this program knows up to {known}: run a newer one")]
    NewerFormat {
        /// Format number found on disk.
        found: u32,
        /// Newest format number that this program reads.
        known: u32,
    },
    /// The disk or its driver failed; the outcome of the last write is unknown.
    #[error("storage failed while {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the engine said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Rows that [`check`] reads at a time.
const CHECK_ROWS: usize = 1_000;

/// Whether count and digest of a copy are those of its rows. Reads all of them.
pub fn check(snapshot: &dyn Snapshot) -> Result<bool, StoreError> {
    let mut found = Tally::default();
    let mut after = None;
    loop {
        let rows = snapshot.rows(after.as_ref(), CHECK_ROWS)?;
        for row in &rows {
            found.add(row);
        }
        match rows.last() {
            Some(last) if rows.len() == CHECK_ROWS => after = Some(last.key.clone()),
            Some(_) | None => return Ok(found == snapshot.standing().tally),
        }
    }
}

// === impl Row ===

impl Row {
    /// A row in memory of its own: what a message brings is a slice of it, and a row of a few
    /// bytes must not keep a whole page alive.
    pub(crate) fn of(
        key: &Key,
        value: &[u8],
        sort_key: &SortKey,
        [version, created, value_version]: [Version; 3],
    ) -> Self {
        Self {
            key: own_key(key),
            value: Bytes::copy_from_slice(value),
            sort_key: SortKey::new(Bytes::copy_from_slice(sort_key.as_bytes()))
                .expect("a copy of a sort key is one"),
            version,
            created,
            value_version,
        }
    }

    /// Its part of the collection's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_item(&self.key, self.version, &self.sort_key, &self.value)
    }

    /// Bytes of its key, sort key and value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let len = self.key.as_bytes().len() + self.sort_key.as_bytes().len() + self.value.len();
        len as u64
    }

    /// Whether an application sees the same item.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.value == other.value && self.sort_key == other.sort_key
    }
}

// === impl Standing ===

impl Standing {
    /// Where the next change must continue: at the load that is being staged, or else at the
    /// rows. `None` = from scratch.
    #[must_use]
    pub fn active(&self) -> Option<Cursor> {
        self.load.map(|load| load.cursor).or(self.cursor)
    }

    /// Whether readers see everything up to `cursor`. Between two pages they may not, however
    /// far the copy has come: a row that was touched since moved ahead of the next page.
    #[must_use]
    pub fn has(&self, cursor: Cursor) -> bool {
        self.cursor.is_some_and(|at| {
            at.is_caught_up() && at.epoch == cursor.epoch && at.version >= cursor.version
        })
    }

    /// Count and digest of what the next change is applied to.
    #[must_use]
    pub fn active_tally(&self) -> Tally {
        self.load.map_or(self.tally, |load| load.tally)
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn add(&mut self, row: &Row) {
        self.items += 1;
        self.digest += row.digest();
    }

    /// A count below zero is a store that does not add up: the digest tells, nobody panics.
    pub(crate) fn remove(&mut self, row: &Row) {
        self.items = self.items.saturating_sub(1);
        self.digest -= row.digest();
    }
}

// === impl Write ===

impl Write {
    /// Compare-and-set: refuses a write that was decided upon another state.
    pub(crate) fn check(&self, standing: &Standing) -> Result<(), StoreError> {
        if self.expected == standing.active() {
            return Ok(());
        }
        Err(StoreError::Conflict { standing: Box::new(*standing) })
    }
}

#[cfg(test)]
mod tests {
    use sync_proto::types::Epoch;

    use super::*;

    #[test]
    fn a_copy_between_two_pages_has_nothing_for_sure() {
        let at = |version| Cursor::at(Epoch::new(3).unwrap(), Version::new(version).unwrap());
        let standing = |cursor| Standing { cursor: Some(cursor), ..Standing::default() };
        assert!(standing(at(9)).has(at(5)));
        assert!(!standing(at(4)).has(at(5)));
        assert!(!standing(at(9).between_pages(at(9).version)).has(at(5)));
    }
}
