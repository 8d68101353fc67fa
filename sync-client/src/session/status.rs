//! What an application can see of a collection's fortune. Pure.

use std::time::Instant;

use sync_proto::types::ResetReason;

/// How a collection of a replica is doing. Faults that pass by themselves show here and nowhere
/// else; the copy stays readable through all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Nothing has been heard from the server yet.
    Connecting,
    /// A first load is under way; readers see what was there before it.
    Loading {
        /// Items staged so far.
        done: u64,
        /// About how many there are.
        total: u64,
    },
    /// The copy is the server's collection.
    Live,
    /// The copy is behind and being caught up.
    Lagging,
    /// The copy is being put right; readers see it as it was until then.
    Repairing {
        /// Why.
        reason: RepairReason,
        /// In which way.
        how: RepairHow,
    },
    /// Repairs have not helped several times in a row. The copy stays readable as it is, is tried
    /// again at `until` and then seldom, and is live again as soon as it is the server's
    /// collection.
    Stuck {
        /// Why it must be put right.
        reason: RepairReason,
        /// When the next attempt is made.
        until: Instant,
    },
    /// Something failed; the next attempt is not made before `until`.
    BackingOff {
        /// When.
        until: Instant,
    },
    /// The local store does not take what comes: its disk is full, read-only or broken. The copy
    /// stays readable if it can be read; the next attempt is made at `until`.
    StoreFailing {
        /// When.
        until: Instant,
    },
    /// The collection is not readable with these credentials, or the server does not know them at
    /// all. Asked again now and then.
    Denied,
    /// There is no such collection, so the copy is empty. It loads when it is created.
    Absent,
    /// The account does not follow the collection: the copy is empty, and nothing keeps it right.
    NotFollowed,
    /// The driver has ended.
    Stopped,
}

/// In which way a copy is put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RepairHow {
    /// By the changes behind its cursor, although deletes may be missing among them: the digest
    /// tells at the end.
    Delta,
    /// By finding and fetching what differs.
    Reconcile,
    /// By loading the whole collection anew.
    Load,
}

/// Why a copy must be put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RepairReason {
    /// The server says that the cursor cannot be continued.
    Reset(ResetReason),
    /// The copy's digest is not the server's.
    DigestMismatch,
    /// The local store does not add up: rows are missing or not what the digest says.
    LocalDamage,
    /// Changes were taken over of which deletes may have been missing, and some were.
    MissedDeletes,
}

// === impl RepairReason ===

impl RepairReason {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset(reason) => reason.as_str(),
            Self::DigestMismatch => "DIGEST_MISMATCH",
            Self::LocalDamage => "LOCAL_DAMAGE",
            Self::MissedDeletes => "MISSED_DELETES",
        }
    }
}

// === impl RepairHow ===

impl RepairHow {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "DELTA",
            Self::Reconcile => "RECONCILE",
            Self::Load => "LOAD",
        }
    }
}
