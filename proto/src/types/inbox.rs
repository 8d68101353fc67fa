//! Whose inbox, and what it says of a collection that is followed. Pure. The idea of writing to
//! the readers' inboxes is the fan-out on write of news feeds.

use std::fmt;
use std::sync::Arc;

use super::{CollectionName, Epoch, Head, Malformed, Version};
use crate::limits::{INBOX_PREFIX, SUBJECT_LEN_MAX};

/// Who an inbox belongs to: 1..256 bytes of `/`-separated, non-empty segments, as in the name of
/// the inbox.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

/// Where a collection stands that a subject follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InboxEntry {
    /// The collection stands here.
    Exists(Epoch, Version),
    /// The collection was deleted; its last life ended here.
    Deleted(Epoch, Version),
    /// The collection has not existed since it is followed.
    Absent,
}

/// Where a collection stands that does not announce itself in inboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolledHead {
    /// Which collection.
    pub collection: CollectionName,
    /// As an inbox would say it.
    pub entry: InboxEntry,
}

/// What an inbox does not say of the collections that its subject follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Polled {
    /// By name.
    pub heads: Vec<PolledHead>,
    /// There are more, behind the last name.
    pub more: bool,
}

/// A collection moved that does not announce itself in inboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxNotice {
    /// The inbox because of which this is told.
    pub inbox: CollectionName,
    /// Which collection.
    pub collection: CollectionName,
    /// Where it stands; `None` = it does not exist.
    pub head: Option<Head>,
}

// === impl Subject ===

impl Subject {
    /// Checks a subject.
    pub fn new(subject: &str) -> Result<Self, Malformed> {
        let refuse = |reason: String| Err(Malformed::new("subject", reason));
        let len = subject.len();
        if len == 0 || len > SUBJECT_LEN_MAX {
            return refuse(format!("{len} bytes, 1 to {SUBJECT_LEN_MAX} are allowed"));
        }
        match CollectionName::new(&format!("{INBOX_PREFIX}{subject}")) {
            Ok(_) => Ok(Self(subject.into())),
            Err(Malformed { reason, .. }) => refuse(reason),
        }
    }

    /// The subject.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of its inbox.
    #[must_use]
    pub fn inbox(&self) -> CollectionName {
        let name = format!("{INBOX_PREFIX}{}", self.0);
        CollectionName::new(&name).expect("checked when the subject was made")
    }

    /// Whose inbox a collection is; `None`: it is none.
    #[must_use]
    pub fn of_inbox(name: &CollectionName) -> Option<Self> {
        let subject = name.as_str().strip_prefix(INBOX_PREFIX)?;
        Self::new(subject).ok()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

// === impl InboxEntry ===

impl InboxEntry {
    /// Epoch and version, if the collection exists.
    #[must_use]
    pub fn stands_at(self) -> Option<(Epoch, Version)> {
        match self {
            Self::Exists(epoch, version) => Some((epoch, version)),
            Self::Deleted(..) | Self::Absent => None,
        }
    }
}
