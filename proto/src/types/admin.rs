//! How a collection is kept, as operators set it. Pure.

use std::time::Duration;

use super::{Head, Timestamp};

/// How changes reach the inboxes of an audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Diffusion {
    /// Each commit updates the inbox of every follower.
    Write,
    /// Readers poll the head; commits cost nothing per follower.
    Read,
}

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
    /// How its audience is told; also in force it is `None` where the server chooses.
    pub diffusion: Option<Diffusion>,
}

/// A field of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyField {
    /// [`Policy::tombstone_age_max`].
    TombstoneAgeMax,
    /// [`Policy::tombstones_max`].
    TombstonesMax,
    /// [`Policy::bytes_max`].
    BytesMax,
    /// [`Policy::diffusion`].
    Diffusion,
}

/// What is to change of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// What is said here is set.
    pub set: Policy,
    /// These follow the server's default again.
    pub clear: Vec<PolicyField>,
}

/// A collection as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inspection {
    /// Its state.
    pub head: Head,
    /// What was set for it.
    pub policy: Policy,
    /// What is in force: nothing is left unsaid but how the server chooses to tell the audience.
    pub effective: Policy,
    /// Live subscriptions.
    pub subscribers: u64,
    /// Subjects in its audience.
    pub audience: u64,
    /// How its audience is told; `None`: it has none.
    pub diffusion: Option<Diffusion>,
    /// How often a second it moved lately, if it has an audience.
    pub moves_per_s: f64,
    /// When its oldest tombstone was written.
    pub oldest_tombstone: Option<Timestamp>,
}

// === impl Policy ===

impl Policy {
    /// This policy with what another says.
    #[must_use]
    pub fn with(self, change: Self) -> Self {
        Self {
            tombstone_age_max: change.tombstone_age_max.or(self.tombstone_age_max),
            tombstones_max: change.tombstones_max.or(self.tombstones_max),
            bytes_max: change.bytes_max.or(self.bytes_max),
            diffusion: change.diffusion.or(self.diffusion),
        }
    }

    /// This policy without what it says of a field.
    #[must_use]
    pub fn without(self, field: PolicyField) -> Self {
        match field {
            PolicyField::TombstoneAgeMax => Self { tombstone_age_max: None, ..self },
            PolicyField::TombstonesMax => Self { tombstones_max: None, ..self },
            PolicyField::BytesMax => Self { bytes_max: None, ..self },
            PolicyField::Diffusion => Self { diffusion: None, ..self },
        }
    }

    /// Live bytes that the collection may hold, if that is limited.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        self.bytes_max.filter(|most| *most > 0)
    }
}

// === impl PolicyChange ===

impl PolicyChange {
    /// A policy with this change applied.
    #[must_use]
    pub fn applied_to(&self, policy: Policy) -> Policy {
        self.clear.iter().fold(policy, |policy, field| policy.without(*field)).with(self.set)
    }
}

impl From<Policy> for PolicyChange {
    fn from(set: Policy) -> Self {
        Self { set, clear: Vec::new() }
    }
}
