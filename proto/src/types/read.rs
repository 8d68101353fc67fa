//! What readers ask and are told. Pure.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Change, CollectionName, Cursor, Delta, Head, InboxNotice, Key, Malformed, OrderRange, Reset,
    SortKey, Timestamp,
};
use crate::digest::Digest;

/// Which part of a collection a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everything.
    #[default]
    All,
    /// Keys that begin with these bytes.
    KeyPrefix(Bytes),
    /// Just these keys, sorted.
    Keys(Vec<Key>),
    /// What stands in this stretch of the list order.
    Order(OrderRange),
}

/// A collection and where the reader stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent flags of the protocol")]
pub struct Target {
    /// Which collection.
    pub collection: CollectionName,
    /// Where the reader stands; `None` = from scratch.
    pub cursor: Option<Cursor>,
    /// Which part of it.
    pub scope: Scope,
    /// Leave values out.
    pub keys_only: bool,
    /// Most changes of the whole catch-up; `None` = no limit.
    pub changes_max: Option<u64>,
    /// Serve a cursor below the floor as an unverified delta.
    pub verify: bool,
    /// Use the cursor that the server holds for the client.
    pub from_last_ack: bool,
    /// Send notices instead of changes.
    pub notify_only: bool,
    /// Pull of an inbox: only polled heads of names behind this one.
    pub polled_after: Option<CollectionName>,
}

/// Asks what changed. A target that is not well-formed fails alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// What to look at.
    pub targets: Vec<Result<Target, Malformed>>,
    /// Budget of changes in bytes for the whole reply.
    pub bytes_max: usize,
    /// Most changes per target, unless a single version holds more.
    pub changes_max: usize,
    /// Names the device; empty = anonymous.
    pub client_id: String,
}

/// Opens a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// What to follow; no collection twice.
    pub targets: Vec<Target>,
    /// Quiet time before a bookmark.
    pub heartbeat: Duration,
    /// Names the device; empty = anonymous.
    pub client_id: String,
}

/// Asks for a window of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListItems {
    /// Which collection.
    pub collection: CollectionName,
    /// Which order.
    pub order: ListOrder,
    /// Last first.
    pub descending: bool,
    /// Items per page.
    pub page_size: usize,
    /// Where the page before ended; empty = the first page.
    pub page_token: Bytes,
    /// Leave values out.
    pub keys_only: bool,
    /// Only keys that begin with this.
    pub key_prefix: Bytes,
    /// Only items in this stretch; in [`ListOrder::SortKey`] only.
    pub stretch: OrderRange,
    /// So many items of those asked for are passed over first.
    pub skip: u64,
}

/// In which order a window lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListOrder {
    /// By key.
    #[default]
    Key,
    /// By (sort key, key): the order that the application gave the list.
    SortKey,
}

/// What became of one target of a Pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<C = Change> {
    /// The reader has everything.
    Aligned(Head),
    /// Changes.
    Delta(Delta<C>),
    /// Start over.
    Reset(Reset),
    /// Not the caller's to read.
    Denied,
    /// No such collection now.
    NotFound,
    /// The byte budget was spent; ask again.
    Deferred(Option<Head>),
    /// This target failed.
    Failed(Failure),
}

/// An error that concerns one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A `google.rpc.Code`.
    pub code: i32,
    /// What was wrong and what to do.
    pub message: String,
    /// Earliest sensible moment to ask again; `None` = not worth repeating unchanged.
    pub retry_after: Option<Duration>,
    /// The word of a [`Reason`](super::Reason), or one that this version does not know; `None` = the
    /// server did not say.
    pub reason: Option<String>,
}

/// A message of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<C = Change> {
    /// How each target will be served, in request order, and the heartbeat in force.
    Accepted(Vec<AcceptedTarget>, Duration),
    /// Changes of one collection.
    Changes(CollectionName, Delta<C>),
    /// The head of a collection moved.
    Notice(CollectionName, Head),
    /// A collection moved that an inbox does not announce.
    InboxNotice(InboxNotice),
    /// Where the caught-up targets stand.
    Bookmark(Vec<Position>, Timestamp),
    /// A target ends: its cursor cannot be continued.
    Reset(CollectionName, Reset),
    /// A target fell behind by so many versions.
    Lagging(CollectionName, u64),
    /// A target has reached the head.
    CaughtUp(CollectionName, Cursor),
    /// A target's collection does not exist (any more).
    Absent(CollectionName),
    /// The right to read a target ended.
    Revoked(CollectionName),
    /// A target failed and ends.
    Failed(CollectionName, Failure),
    /// The stream ends.
    Goodbye(Goodbye),
}

/// How one target of a subscription will be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedTarget {
    /// Which collection.
    pub collection: CollectionName,
    /// What follows for it.
    pub plan: Plan,
    /// The collection now.
    pub head: Option<Head>,
}

/// What follows for a target of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing to catch up.
    Live,
    /// Changes after the cursor, then live.
    CatchUp,
    /// A first load, then live.
    Load,
    /// No such collection yet.
    Absent,
    /// The cursor cannot be continued; the target has ended.
    Reset(Reset),
    /// Not the caller's to read; the target has ended.
    Denied,
    /// Only notices.
    Notify,
}

/// Where a caught-up target stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which collection.
    pub collection: CollectionName,
    /// Everything up to here has been sent.
    pub cursor: Cursor,
    /// Digest of the whole collection there, when the scope is all.
    pub digest: Option<Digest>,
    /// When the cursor's version was committed.
    pub commit_time: Timestamp,
}

/// Why and how a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goodbye {
    /// Why.
    pub reason: GoodbyeReason,
    /// Wait at least this long.
    pub retry_after: Duration,
    /// Then wait a random part of this.
    pub jitter: Duration,
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoodbyeReason {
    /// The server is stopping.
    Draining,
    /// The stream is old.
    MaxAge,
    /// The caller's credentials expired.
    CredentialsExpired,
    /// The server has too many streams.
    Overloaded,
}

// === impl Scope ===

impl Scope {
    /// Whether an item of this key that stands there belongs to it.
    #[must_use]
    pub fn contains(&self, key: &Key, sort_key: &SortKey) -> bool {
        match self {
            Self::Order(range) => range.contains(sort_key, key),
            Self::All | Self::KeyPrefix(_) | Self::Keys(_) => self.may_contain(key),
        }
    }

    /// Whether an item of this key belongs to it wherever in the list it stands, or may belong to
    /// it, depending on where it stands.
    #[must_use]
    pub fn may_contain(&self, key: &Key) -> bool {
        match self {
            Self::All | Self::Order(_) => true,
            Self::KeyPrefix(prefix) => key.as_bytes().starts_with(prefix),
            Self::Keys(keys) => keys.binary_search(key).is_ok(),
        }
    }

    /// Whether every item of `other` belongs to it, whatever the collection holds. Parts by key and
    /// stretches of the list order never cover each other.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::KeyPrefix(mine), Self::KeyPrefix(theirs)) => theirs.starts_with(mine),
            (Self::KeyPrefix(_) | Self::Keys(_), Self::Keys(theirs)) => {
                theirs.iter().all(|key| self.may_contain(key))
            }
            (Self::Order(mine), Self::Order(theirs)) => mine.covers(theirs),
            (Self::KeyPrefix(_) | Self::Keys(_) | Self::Order(_), _) => false,
        }
    }

    /// Whether it is the whole collection.
    #[must_use]
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

// === impl Target ===

impl Target {
    /// Everything of `collection` after `cursor`.
    #[must_use]
    pub fn all(collection: CollectionName, cursor: Option<Cursor>) -> Self {
        Self {
            collection,
            cursor,
            scope: Scope::All,
            keys_only: false,
            changes_max: None,
            verify: false,
            from_last_ack: false,
            notify_only: false,
            polled_after: None,
        }
    }
}
