//! Every byte that the server keeps, in one place. Pure. All numbers are big-endian, so that
//! the order of bytes is the order of meanings. Tags are never renumbered.
//!
//! ```text
//! tag  key after the tag                              value
//! 01   name                                           id:8
//! 02   id:8                                           Meta
//! 03   id:8 version:8 key                             LogRow (header, then the change as it is sent)
//! 04   id:8 key                                       KeyRow
//! 05   id:8 escaped(sort key) key                     -
//! 06   id:8 segment:2                                 digest:16
//! 07   id:8 time:8 version:8 key                      -            (tombstones by age)
//! 08   id:8                                           -            (deleted, rows still to be purged)
//! 09   kind:1 name                                    Receipt      (idempotency keys, imports)
//! 0a   time:8 kind:1 name                             -            (receipts by age)
//! 0b   01                                             next id:8
//! 0b   02                                             row format:4
//! 0b   03                                             -            (rows of an older format are being upgraded)
//! 0c   id:8 segment:2 key                             -            (live items by segment; since format 2)
//! 0d   id:8                                           Policy       (unless it says nothing; since format 2)
//! 0e   name 00 subject                                -            (who follows what; since format 3)
//! 0f   name                                           Audience     (of a name that is followed; since format 3)
//! 10   name                                           next subject (inboxes still to be told; since format 3)
//! 11   escaped(client id) escaped(subject) name       Held         (acks; since format 3)
//! 12   time:8 escaped(client id) escaped(subject) name -           (acks by age; since format 3)
//!
//! Meta    = epoch:8 head:8 floor:8 items:8 tombstones:8 bytes:8 digest:16 time:8 name
//! LogRow  = kind:1 created:8 value version:8 change
//! KeyRow  = kind:1 version:8 created:8 value version:8 time:8 value length:4 digest:16 sort key
//! Policy  = 3 times said:1 number:8: milliseconds to keep tombstones, tombstones, live bytes;
//!           then diffusion:1 if it is pinned (since format 3)
//! Audience = count:8 diffusion:1 since:8, then epoch:8 version:8 of the last life if it was deleted
//! Receipt = time:8 fingerprint:16 payload
//! Held    = time:8 epoch:8 version:8 base:8
//! kind    = 1 live, 2 tombstone   (in receipts: 1 commit, 2 import)
//! diffusion = 1 write, 2 read
//! escaped = 00 becomes 00 ff; ends with 00 01, so that what is shorter comes first
//! ```
//!
//! Collection ids are numbers that are never reused: a name cannot collide with another or
//! reach outside of its own rows. An audience outlives its collection, so it has the name; names
//! have no control characters, so 00 ends one.

use bytes::Bytes;
use sync_proto::digest::{Digest, Group, SEGMENTS_PER_GROUP, Segment};
use sync_proto::types::{
    CollectionName, Key, OrderPlace, OrderRange, Policy, SortKey, Subject, Timestamp, Version,
};

use super::rows::{Audience, Fields, KeyRow, LogRow, Meta, Receipt, ReceiptKind, Sweep, damaged};
use super::{KeyRange, StoreError};

pub use self::acks::{
    AckPlace, ClientKey, Held, ack_age_key, ack_age_range, ack_key, ack_range, acks_behind_range,
    acks_from_range, acks_of_range,
};
pub use self::audience::{audience_key, audience_range, audience_state_key, sweep_key};
pub use self::parts::KeyParts;

mod acks;
mod audience;
mod parts;
#[cfg(test)]
mod tests;

/// Format of the rows described here. A store with a higher number is refused.
pub const ROW_FORMAT: u32 = 3;

/// Oldest format that is read, and upgraded when a store is opened.
pub const ROW_FORMAT_OLDEST: u32 = 1;

/// First format with an index of items by segment.
pub const ROW_FORMAT_INDEXED: u32 = 2;

/// Bytes of a collection's row before the part that places it: tag and collection id.
pub const ROW_HEADER_LEN: usize = 9;

const NAME: u8 = 0x01;
const META: u8 = 0x02;
const LOG: u8 = 0x03;
const KEY: u8 = 0x04;
const ORDER: u8 = 0x05;
const SEGMENT: u8 = 0x06;
const TOMBSTONE: u8 = 0x07;
const DOOMED: u8 = 0x08;
const RECEIPT: u8 = 0x09;
const RECEIPT_AGE: u8 = 0x0a;
const STORE: u8 = 0x0b;
const MEMBER: u8 = 0x0c;
const POLICY: u8 = 0x0d;
const AUDIENCE: u8 = 0x0e;
const AUDIENCE_STATE: u8 = 0x0f;
const SWEEP: u8 = 0x10;
const ACK: u8 = 0x11;
const ACK_AGE: u8 = 0x12;

pub(super) const ESCAPE: u8 = 0x00;
pub(super) const ESCAPED_ZERO: u8 = 0xff;
pub(super) const END_OF_SORT_KEY: u8 = 0x01;

/// A collection's number in the store; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(pub u64);

/// A row of the store, told apart by its tag. What a full scan meets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the picture above is the documentation")]
pub enum Row {
    Name { name: String, id: CollectionId },
    Meta { id: CollectionId, meta: Meta },
    Log { id: CollectionId, version: Version, key: Key, row: LogRow },
    Key { id: CollectionId, key: Key, row: KeyRow },
    Order { id: CollectionId, sort_key: SortKey, key: Key },
    Segment { id: CollectionId, segment: Segment, digest: Digest },
    Tombstone { id: CollectionId, time: Timestamp, version: Version, key: Key },
    Doomed { id: CollectionId },
    Receipt { kind: ReceiptKind, name: String, receipt: Receipt },
    ReceiptAge { time: Timestamp, kind: ReceiptKind, name: String },
    NextId { id: CollectionId },
    Format { format: u32 },
    Upgrading,
    Member { id: CollectionId, segment: Segment, key: Key },
    Policy { id: CollectionId, policy: Policy },
    Audience { name: CollectionName, subject: Subject },
    AudienceState { name: CollectionName, audience: Audience },
    Sweep { name: CollectionName, sweep: Sweep },
    Ack { place: AckPlace, held: Held },
    AckAge { time: Timestamp, place: AckPlace },
}

// === keys ===

fn tagged(tag: u8, id: CollectionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.push(tag);
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

/// The row that gives a name its id.
#[must_use]
pub fn name_key(name: &CollectionName) -> Vec<u8> {
    [&[NAME], name.as_str().as_bytes()].concat()
}

/// The row of a collection's state.
#[must_use]
pub fn meta_key(id: CollectionId) -> Vec<u8> {
    tagged(META, id)
}

/// The row that says how a collection is kept.
#[must_use]
pub fn policy_key(id: CollectionId) -> Vec<u8> {
    tagged(POLICY, id)
}

/// The row of a change.
#[must_use]
pub fn log_key(id: CollectionId, version: Version, key: &Key) -> Vec<u8> {
    let mut row = tagged(LOG, id);
    row.extend_from_slice(&version.get().to_be_bytes());
    row.extend_from_slice(key.as_bytes());
    row
}

/// Log rows of versions above `after`, up to and including `to`.
#[must_use]
pub fn log_range(id: CollectionId, after: Version, to: Version) -> KeyRange {
    let bound = |version: Version| {
        let mut key = tagged(LOG, id);
        // Versions end at 2^63-1, so the one behind the highest still fits.
        key.extend_from_slice(&(version.get() + 1).to_be_bytes());
        key
    };
    KeyRange::new(bound(after), bound(to))
}

/// The row that says where a key's change is.
#[must_use]
pub fn key_key(id: CollectionId, key: &Key) -> Vec<u8> {
    let mut row = tagged(KEY, id);
    row.extend_from_slice(key.as_bytes());
    row
}

/// Key rows of keys that begin with `prefix`.
#[must_use]
pub fn key_range(id: CollectionId, prefix: &[u8]) -> KeyRange {
    let mut start = tagged(KEY, id);
    start.extend_from_slice(prefix);
    KeyRange::prefix(&start)
}

/// The row that puts an item into list order.
#[must_use]
pub fn order_key(id: CollectionId, sort_key: &SortKey, key: &Key) -> Vec<u8> {
    order_place(id, sort_key, key.as_bytes())
}

fn order_place(id: CollectionId, sort_key: &SortKey, key: &[u8]) -> Vec<u8> {
    let mut row = tagged(ORDER, id);
    for byte in sort_key.as_bytes() {
        row.push(*byte);
        if *byte == ESCAPE {
            row.push(ESCAPED_ZERO);
        }
    }
    row.extend_from_slice(&[ESCAPE, END_OF_SORT_KEY]);
    row.extend_from_slice(key);
    row
}

/// All rows of a collection's list order.
#[must_use]
pub fn order_range(id: CollectionId) -> KeyRange {
    KeyRange::prefix(&tagged(ORDER, id))
}

/// The rows of a stretch of a collection's list order.
#[must_use]
pub fn stretch_range(id: CollectionId, stretch: &OrderRange) -> KeyRange {
    let place = |end: &OrderPlace| {
        order_place(id, &end.sort_key, end.key.as_ref().map_or(&[], Key::as_bytes))
    };
    let whole = order_range(id);
    KeyRange {
        start: stretch.from().map_or(whole.start, place),
        end: stretch.to().map_or(whole.end, |end| Some(place(end))),
    }
}

/// The row of a segment's sum.
#[must_use]
pub fn segment_key(id: CollectionId, segment: Segment) -> Vec<u8> {
    let mut row = tagged(SEGMENT, id);
    row.extend_from_slice(&segment.get().to_be_bytes());
    row
}

/// All segment sums of a collection.
#[must_use]
pub fn segments_range(id: CollectionId) -> KeyRange {
    KeyRange::prefix(&tagged(SEGMENT, id))
}

/// The segment sums of a group.
#[must_use]
pub fn group_range(id: CollectionId, group: Group) -> KeyRange {
    let bound = |group: u16| {
        let mut row = tagged(SEGMENT, id);
        let segments = u16::try_from(SEGMENTS_PER_GROUP).expect("64 segments");
        row.extend_from_slice(&(group * segments).to_be_bytes());
        row
    };
    let group = u16::from(group.get());
    KeyRange::new(bound(group), bound(group + 1))
}

/// The row that puts an item into its segment.
#[must_use]
pub fn member_key(id: CollectionId, segment: Segment, key: &Key) -> Vec<u8> {
    let mut row = tagged(MEMBER, id);
    row.extend_from_slice(&segment.get().to_be_bytes());
    row.extend_from_slice(key.as_bytes());
    row
}

/// The items of a segment.
#[must_use]
pub fn member_range(id: CollectionId, segment: Segment) -> KeyRange {
    let mut start = tagged(MEMBER, id);
    start.extend_from_slice(&segment.get().to_be_bytes());
    KeyRange::prefix(&start)
}

/// The row that says how old a tombstone is.
#[must_use]
pub fn tombstone_key(id: CollectionId, time: Timestamp, version: Version, key: &Key) -> Vec<u8> {
    let mut row = tagged(TOMBSTONE, id);
    row.extend_from_slice(&time.as_millis().to_be_bytes());
    row.extend_from_slice(&version.get().to_be_bytes());
    row.extend_from_slice(key.as_bytes());
    row
}

/// All tombstones of a collection, oldest first.
#[must_use]
pub fn tombstone_range(id: CollectionId) -> KeyRange {
    KeyRange::prefix(&tagged(TOMBSTONE, id))
}

/// The row that remembers a deleted collection until its rows are purged.
#[must_use]
pub fn doomed_key(id: CollectionId) -> Vec<u8> {
    tagged(DOOMED, id)
}

/// All rows of a collection but its name, its head and its policy; of a deleted one, in the order in which they
/// are purged.
#[must_use]
pub fn doomed_ranges(id: CollectionId) -> [KeyRange; 6] {
    [LOG, KEY, ORDER, SEGMENT, TOMBSTONE, MEMBER].map(|tag| KeyRange::prefix(&tagged(tag, id)))
}

/// The row of a receipt.
#[must_use]
pub fn receipt_key(kind: ReceiptKind, name: &str) -> Vec<u8> {
    [&[RECEIPT, kind.tag()], name.as_bytes()].concat()
}

/// All receipts.
#[must_use]
pub fn receipt_range() -> KeyRange {
    KeyRange::prefix(&[RECEIPT])
}

/// The row that says how old a receipt is.
#[must_use]
pub fn receipt_age_key(time: Timestamp, kind: ReceiptKind, name: &str) -> Vec<u8> {
    let mut row = vec![RECEIPT_AGE];
    row.extend_from_slice(&time.as_millis().to_be_bytes());
    row.push(kind.tag());
    row.extend_from_slice(name.as_bytes());
    row
}

/// All receipts, oldest first.
#[must_use]
pub fn receipt_age_range() -> KeyRange {
    KeyRange::prefix(&[RECEIPT_AGE])
}

/// The row of the next collection id.
#[must_use]
pub fn next_id_key() -> Vec<u8> {
    vec![STORE, 0x01]
}

/// The row of the row format.
#[must_use]
pub fn format_key() -> Vec<u8> {
    vec![STORE, 0x02]
}

/// The row that is there while rows of an older format are upgraded.
#[must_use]
pub fn upgrading_key() -> Vec<u8> {
    vec![STORE, 0x03]
}

/// All key rows, of all collections.
#[must_use]
pub fn all_keys_range() -> KeyRange {
    KeyRange::prefix(&[KEY])
}

// === impl Row ===

impl Row {
    /// Reads a row back from its key and value.
    pub fn decode(key: &[u8], value: Bytes) -> Result<Self, StoreError> {
        Self::parse(key, &mut Fields(value))
            .ok_or_else(|| damaged(&format!("the row with key {:02x?}", &key[..key.len().min(17)])))
    }

    fn parse(key: &[u8], value: &mut Fields) -> Option<Self> {
        let row = match KeyParts::of(key)? {
            KeyParts::Name { name } => Self::Name { name, id: value.id()? },
            KeyParts::Meta { id } => Self::Meta { id, meta: Meta::parse(value)? },
            KeyParts::Log { id, version, key } => {
                Self::Log { id, version, key, row: LogRow::parse(value)? }
            }
            KeyParts::Key { id, key } => Self::Key { id, key, row: KeyRow::parse(value)? },
            KeyParts::Order { id, sort_key, key } => Self::Order { id, sort_key, key },
            KeyParts::Segment { id, segment } => {
                Self::Segment { id, segment, digest: value.digest()? }
            }
            KeyParts::Tombstone { id, time, version, key } => {
                Self::Tombstone { id, time, version, key }
            }
            KeyParts::Doomed { id } => Self::Doomed { id },
            KeyParts::Receipt { kind, name } => {
                Self::Receipt { kind, name, receipt: Receipt::parse(value)? }
            }
            KeyParts::ReceiptAge { time, kind, name } => Self::ReceiptAge { time, kind, name },
            KeyParts::NextId => Self::NextId { id: value.id()? },
            KeyParts::Format => Self::Format { format: value.u32()? },
            KeyParts::Upgrading => Self::Upgrading,
            KeyParts::Member { id, segment, key } => Self::Member { id, segment, key },
            KeyParts::Policy { id } => Self::Policy { id, policy: value.policy()? },
            KeyParts::Audience { name, subject } => Self::Audience { name, subject },
            KeyParts::AudienceState { name } => {
                Self::AudienceState { name, audience: Audience::parse(value)? }
            }
            KeyParts::Sweep { name } => Self::Sweep { name, sweep: value.sweep()? },
            KeyParts::Ack { place } => Self::Ack { place, held: Held::parse(value)? },
            KeyParts::AckAge { time, place } => Self::AckAge { time, place },
        };
        value.0.is_empty().then_some(row)
    }
}
