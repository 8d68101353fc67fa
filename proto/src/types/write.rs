//! What authorities ask and are told. Pure.

use super::{CollectionName, Epoch, Key, SortKey, Subject, Value, Version};

/// An atomic change of one or more collections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// What to change.
    pub mutations: Vec<Mutation>,
    /// What must hold.
    pub preconditions: Vec<Precondition>,
    /// Makes a retry harmless; empty = none.
    pub idempotency_key: String,
}

/// One change of one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// Which collection.
    pub collection: CollectionName,
    /// What to do there.
    pub op: Op,
}

/// What a mutation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates or replaces an item. `sort_key` `None` = keep it, or empty for a new item.
    Put {
        /// Which item.
        key: Key,
        /// Its content.
        value: Value,
        /// Its place in list order.
        sort_key: Option<SortKey>,
    },
    /// Deletes an item.
    Delete {
        /// Which item.
        key: Key,
    },
    /// Moves an item in list order.
    Reorder {
        /// Which item.
        key: Key,
        /// Its new place.
        sort_key: SortKey,
    },
    /// Puts a subject into the audience.
    Follow {
        /// Who.
        subject: Subject,
    },
    /// Takes a subject out of the audience.
    Unfollow {
        /// Who.
        subject: Subject,
    },
}

/// What must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// Of which collection.
    pub collection: CollectionName,
    /// What.
    pub condition: Condition,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The collection does not exist.
    CollectionAbsent,
    /// The collection stands exactly here; `None` = in any epoch.
    HeadEquals(Option<Epoch>, Version),
    /// The item exists with exactly this version.
    ItemVersionEquals(Key, Version),
    /// There is no such item.
    ItemAbsent(Key),
    /// There is such an item.
    ItemPresent(Key),
}

/// What a commit did to one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Which collection.
    pub collection: CollectionName,
    /// Its epoch; `None`: it does not exist.
    pub epoch: Option<Epoch>,
    /// Its version before.
    pub prev_version: Version,
    /// Its version now.
    pub version: Version,
}

// === impl Op ===

impl Op {
    /// The item that it is about; `None` for an audience.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Reorder { key, .. } => Some(key),
            Self::Follow { .. } | Self::Unfollow { .. } => None,
        }
    }

    /// Bytes that count towards the limit of a commit: key, sort key, value, subject.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Put { key, value, sort_key } => {
                let sort_key = sort_key.as_ref().map_or(0, |sort_key| sort_key.as_bytes().len());
                key.as_bytes().len() + value.as_bytes().len() + sort_key
            }
            Self::Delete { key } => key.as_bytes().len(),
            Self::Reorder { key, sort_key } => key.as_bytes().len() + sort_key.as_bytes().len(),
            Self::Follow { subject } | Self::Unfollow { subject } => subject.as_str().len(),
        }
    }
}
