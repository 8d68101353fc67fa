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
    /// The copy is being exchanged for a fresh one; readers see the old one until then.
    Repairing {
        /// Why.
        reason: RepairReason,
    },
    /// Something failed; the next attempt is not made before `until`.
    BackingOff {
        /// When.
        until: Instant,
    },
    /// The collection is not readable with these credentials. Asked again now and then.
    Denied,
    /// There is no such collection, so the copy is empty. It loads when it is created.
    Absent,
    /// The driver has ended.
    Stopped,
}

/// Why a copy is exchanged for a fresh one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RepairReason {
    /// The server says that the cursor cannot be continued.
    Reset(ResetReason),
    /// The copy's digest is not the server's.
    DigestMismatch,
    /// The local store does not add up: rows are missing or not what the digest says.
    LocalDamage,
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
        }
    }
}
