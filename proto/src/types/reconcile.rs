//! Finding what differs between a copy and its collection by segmented hashes. Pure. The idea is
//! anti-entropy by hash trees (Merkle 1987; Dynamo, SOSP 2007), with sums in the place of trees
//! and three rounds of fixed width.

use bytes::Bytes;

use super::{CollectionName, Cursor, Head, Key, SortKey, Version};
use crate::digest::{Digest, Group, Segment};

/// Asks one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconcile {
    /// Which collection.
    pub collection: CollectionName,
    /// What is asked.
    pub round: Round,
    /// Names the device; empty = anonymous.
    pub client_id: String,
}

/// What a round asks. All but the first name the head that the first was answered with: what the
/// rounds find is a copy that stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Round {
    /// The sums of all groups.
    Groups,
    /// The sums of the segments of these groups, ascending.
    Leaves {
        /// Head of the first round.
        at: Cursor,
        /// Which groups.
        groups: Vec<Group>,
    },
    /// The items of these segments, ascending.
    Entries {
        /// Head of the first round.
        at: Cursor,
        /// Which segments.
        segments: Vec<Segment>,
        /// Where the page before ended; empty = the first page.
        page_token: Bytes,
    },
}

/// The answer to one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// The collection at the moment of reading.
    pub head: Head,
    /// What it holds there.
    pub found: Found,
}

/// What a collection holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// 64 sums for each node asked for, in order.
    Sums(Vec<Digest>),
    /// Items by (segment, key), and where the next page begins; empty = this was the last.
    Entries(Vec<LeafEntry>, Bytes),
}

/// Everything of an item but its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafEntry {
    /// Its key.
    pub key: Key,
    /// Version of the commit that last touched it.
    pub version: Version,
    /// [`value_hash`](crate::digest::value_hash) of its value.
    pub value_hash: [u8; 16],
    /// Its place in list order.
    pub sort_key: SortKey,
    /// Version of the commit that created it.
    pub created: Version,
    /// Version of the commit that last changed its value.
    pub value_version: Version,
    /// Bytes of its value.
    pub value_size: u32,
}
