//! What an application sees of the collections that a subject follows. Pure.

use std::fmt;

use sync_proto::types::{CollectionName, Epoch, InboxEntry, Timestamp, Version};

use crate::session::Status;

/// A collection that the subject follows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Followed {
    /// Its name.
    pub name: CollectionName,
    /// Where it stands at the server, as far as is known; `None` = what the inbox says of it cannot
    /// be read.
    pub remote: Option<InboxEntry>,
    /// Where the local copy stands; `None` = there is none.
    pub local: Option<(Epoch, Version)>,
    /// Items of the local copy.
    pub items: u64,
    /// How it is doing.
    pub state: FollowState,
}

/// How a collection that is followed is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowState {
    /// The copy has what the inbox tells of.
    Current,
    /// There is more at the server; its turn comes.
    Pending,
    /// It is being caught up.
    CatchingUp,
    /// The last attempt to catch it up failed. The others go on.
    Failed {
        /// Attempts that failed in a row.
        attempts: u32,
        /// When it is tried again.
        next_try: Timestamp,
        /// Why the last one failed.
        error: String,
    },
    /// It is not readable with these credentials. The copy is kept as it is; it is asked for again
    /// now and then, when it moves, and when it is looked at.
    Denied,
    /// It was deleted: the copy is empty. It is still followed, and loads when it is created again.
    Deleted,
    /// It has not existed since it is followed: there is no copy. It loads when it is created.
    Absent,
}

/// What changed in the list of followed collections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListChange {
    /// A collection is followed that was not before.
    Added(Followed),
    /// A collection has moved, or its state has.
    Changed {
        /// What the consumer saw last.
        old: Followed,
        /// What it is now.
        new: Followed,
    },
    /// A collection is not followed any more; its copy is dropped.
    Unfollowed(Followed),
}

/// All of an account in a few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How the inbox is doing: [`Status::Live`] = the list is the server's.
    pub inbox: Status,
    /// Collections that are followed.
    pub followed: usize,
    /// Those of them that are to be caught up, or whose copies are to be dropped.
    pub pending: usize,
    /// Those of the pending ones whose last attempt failed.
    pub failed: usize,
}

// === impl Followed ===

impl Followed {
    /// Whether there is nothing to do for it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self.state {
            FollowState::Current
            | FollowState::Denied
            | FollowState::Deleted
            | FollowState::Absent => true,
            FollowState::Pending | FollowState::CatchingUp | FollowState::Failed { .. } => false,
        }
    }
}

// === impl FollowState ===

impl fmt::Display for FollowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.pad("current"),
            Self::Pending => f.pad("pending"),
            Self::CatchingUp => f.pad("catching up"),
            Self::Failed { attempts, .. } => f.pad(&format!("failed ({attempts})")),
            Self::Denied => f.pad("denied"),
            Self::Deleted => f.pad("deleted"),
            Self::Absent => f.pad("absent"),
        }
    }
}

// === impl Summary ===

impl Summary {
    /// Whether the list is the server's, and every copy has what the list tells of.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.inbox, Status::Live | Status::Absent) && self.pending == 0
    }
}

impl Default for Summary {
    fn default() -> Self {
        Self { inbox: Status::Connecting, followed: 0, pending: 0, failed: 0 }
    }
}
