//! How a collection is kept, as operators set it. Pure.

use std::time::Duration;

use super::{Head, Timestamp};

/// How a collection is kept. What is `None` is not said: in a policy that is stored it follows the
/// server's default, in a change of a policy it stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Tombstones older than this may be purged.
    pub tombstone_age_max: Option<Duration>,
    /// Tombstones above this number are purged, oldest first, whatever their age.
    pub tombstones_max: Option<u64>,
    /// Live bytes that the collection may hold; 0 = no limit.
    pub bytes_max: Option<u64>,
}

/// A collection as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// Its state.
    pub head: Head,
    /// What was set for it.
    pub policy: Policy,
    /// What is in force: nothing is left unsaid.
    pub effective: Policy,
    /// Live subscriptions.
    pub subscribers: u64,
    /// Subjects in its audience.
    pub audience: u64,
    /// When its oldest tombstone was written.
    pub oldest_tombstone: Option<Timestamp>,
}

// === impl Policy ===

impl Policy {
    /// This policy with a change applied.
    #[must_use]
    pub fn with(self, change: Self) -> Self {
        Self {
            tombstone_age_max: change.tombstone_age_max.or(self.tombstone_age_max),
            tombstones_max: change.tombstones_max.or(self.tombstones_max),
            bytes_max: change.bytes_max.or(self.bytes_max),
        }
    }

    /// Live bytes that the collection may hold, if that is limited.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        self.bytes_max.filter(|most| *most > 0)
    }
}
