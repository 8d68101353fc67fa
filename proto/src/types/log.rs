//! Places in a change log and what lies between them. Pure.

use std::fmt;
use std::num::NonZeroU64;
use std::time::SystemTime;

use super::{Key, Malformed, SortKey, Value};
use crate::digest::Digest;
use crate::limits::VERSION_MAX;

/// A place in a collection's log: 0 (before everything) to 2^63-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(u64);

/// One life of a collection's log. Has no order: versions of different epochs do not compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(NonZeroU64);

/// "I have everything up to `version`."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The life of the log that `version` belongs to.
    pub epoch: Epoch,
    /// Newest version that the holder has.
    pub version: Version,
    /// 0: the holder was caught up here. Equal to `version`: a catch-up of several pages is under
    /// way. Above it: a first load is under way that began at this head.
    pub base: Version,
}

/// The durable state of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// This life of the log.
    pub epoch: Epoch,
    /// Newest version.
    pub version: Version,
    /// Highest version whose tombstone has been purged.
    pub floor: Version,
    /// Live items.
    pub items: u64,
    /// Tombstones still in the log.
    pub tombstones: u64,
    /// Bytes of all live items: keys, sort keys and values.
    pub bytes: u64,
    /// Sum of all item digests.
    pub digest: Digest,
    /// When `version` was committed.
    pub commit_time: Timestamp,
}

/// Milliseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

/// An item with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its key.
    pub key: Key,
    /// Its content. `None` when only keys were asked for.
    pub value: Option<Value>,
    /// Bytes of its content.
    pub value_size: u32,
    /// Its place in list order.
    pub sort_key: SortKey,
    /// Version of the commit that last touched it.
    pub version: Version,
    /// Version of the commit that created it.
    pub created: Version,
    /// Version of the commit that last changed its value.
    pub value_version: Version,
}

/// The latest state of one key, as a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key that changed.
    pub key: Key,
    /// Version of the commit that made the change.
    pub version: Version,
    /// Version of the commit that created the item.
    pub created: Version,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It exists, with this content.
    Put {
        /// Its content; `None` = left out, see `value_version`.
        value: Option<Value>,
        /// Its place in list order.
        sort_key: SortKey,
        /// Version of the commit that last changed the value.
        value_version: Version,
    },
    /// It does not exist any more.
    Delete,
    /// It exists outside of the target's scope.
    LeftScope,
}

/// Changes after `from` up to `to`. `C` is [`Change`] for a reader and encoded bytes for the
/// server, which sends rows as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta<C = Change> {
    /// Where the reader stood.
    pub from: Cursor,
    /// Where it stands once it has applied the changes.
    pub to: Cursor,
    /// In version order, at most one per key.
    pub changes: Vec<C>,
    /// More lies behind `to`.
    pub has_more: bool,
    /// Part of a first load.
    pub initial: bool,
    /// Digest of the whole collection at `to`, when that is the head and the scope is all.
    pub digest: Option<Digest>,
    /// Deletes may be missing.
    pub unverified: bool,
    /// The collection now.
    pub head: Head,
}

/// Why a cursor cannot be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResetReason {
    /// The cursor is of another life of the collection.
    EpochChanged,
    /// The server lost commits that the reader has.
    AheadOfHead,
    /// Deletes after the cursor have been purged.
    BelowFloor,
    /// The catch-up exceeds what the reader wants to read.
    TooLarge,
    /// An operator asked for it.
    Forced,
}

/// "Start over", and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub reason: ResetReason,
    /// The collection now.
    pub head: Head,
    /// About how many changes a first load costs.
    pub estimated_changes: u64,
    /// About how many bytes a first load costs.
    pub estimated_bytes: u64,
}

// === impl Version ===

impl Version {
    /// Before everything.
    pub const ZERO: Self = Self(0);
    /// The highest one.
    pub const MAX: Self = Self(VERSION_MAX);

    /// Checks a version.
    pub fn new(version: u64) -> Result<Self, Malformed> {
        if version > VERSION_MAX {
            return Err(Malformed::new("version", "above 2^63-1"));
        }
        Ok(Self(version))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        assert!(self.0 < VERSION_MAX, "a collection has used up 2^63 versions");
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Epoch ===

impl Epoch {
    /// The epoch of this number; `None` for 0.
    #[must_use]
    pub fn new(epoch: u64) -> Option<Self> {
        NonZeroU64::new(epoch).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

// === impl Cursor ===

impl Cursor {
    /// An ordinary cursor: no load under way.
    #[must_use]
    pub fn at(epoch: Epoch, version: Version) -> Self {
        Self { epoch, version, base: Version::ZERO }
    }

    /// The cursor of a first load that begins at `head`.
    #[must_use]
    pub fn load_from(head: &Head) -> Self {
        Self { epoch: head.epoch, version: Version::ZERO, base: head.version }
    }

    /// Whether a first load is under way.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.base > self.version
    }

    /// Whether the holder was caught up when it was handed this cursor: only then does it
    /// surely have every value of a version up to `version`. Between pages it may not: a row
    /// moves ahead in the log when its item changes again.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.base == Version::ZERO
    }

    /// The cursor behind a page that ends at `version` and is not the last one.
    #[must_use]
    pub fn between_pages(self, version: Version) -> Self {
        Self { epoch: self.epoch, version, base: self.base.max(version) }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.epoch, self.version)?;
        if self.is_loading() { write!(f, "/{}", self.base) } else { Ok(()) }
    }
}

// === impl Head ===

impl Head {
    /// The cursor of a reader that has everything.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::at(self.epoch, self.version)
    }
}

// === impl Timestamp ===

impl Timestamp {
    /// The moment so many milliseconds after 1970 UTC.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970 UTC.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// This moment by the system clock; a clock before 1970 reads as 1970.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

// === impl ResetReason ===

impl ResetReason {
    /// Its name on the wire, in metrics and for operators.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EpochChanged => "EPOCH_CHANGED",
            Self::AheadOfHead => "AHEAD_OF_HEAD",
            Self::BelowFloor => "BELOW_FLOOR",
            Self::TooLarge => "TOO_LARGE",
            Self::Forced => "FORCED",
        }
    }
}
