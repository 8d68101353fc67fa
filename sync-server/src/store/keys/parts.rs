//! What a row's key alone says: enough to name the row when its value cannot be read. Pure.

use bytes::Bytes;
use sync_proto::digest::Segment;
use sync_proto::types::{CollectionName, Key, SortKey, Subject, Timestamp, Version};

use super::super::rows::{Fields, ReceiptKind};
use super::audience::END_OF_NAME;
use super::{
    ACK, ACK_AGE, AUDIENCE, AUDIENCE_STATE, AckPlace, CollectionId, DOOMED, KEY, LOG, MEMBER, META,
    NAME, ORDER, POLICY, RECEIPT, RECEIPT_AGE, SEGMENT, STORE, SWEEP, TOMBSTONE,
};

/// The key of a row, told apart by its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the picture in `keys` is the documentation")]
pub enum KeyParts {
    Name { name: String },
    Meta { id: CollectionId },
    Log { id: CollectionId, version: Version, key: Key },
    Key { id: CollectionId, key: Key },
    Order { id: CollectionId, sort_key: SortKey, key: Key },
    Segment { id: CollectionId, segment: Segment },
    Tombstone { id: CollectionId, time: Timestamp, version: Version, key: Key },
    Doomed { id: CollectionId },
    Receipt { kind: ReceiptKind, name: String },
    ReceiptAge { time: Timestamp, kind: ReceiptKind, name: String },
    NextId,
    Format,
    Upgrading,
    Member { id: CollectionId, segment: Segment, key: Key },
    Policy { id: CollectionId },
    Audience { name: CollectionName, subject: Subject },
    AudienceState { name: CollectionName },
    Sweep { name: CollectionName },
    Ack { place: AckPlace },
    AckAge { time: Timestamp, place: AckPlace },
}

// === impl KeyParts ===

impl KeyParts {
    /// Reads a key; `None` = no row has such a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Option<Self> {
        let mut key = Fields(Bytes::copy_from_slice(key));
        let parts = match key.u8()? {
            NAME => Self::Name { name: key.text()? },
            META => Self::Meta { id: key.id()? },
            LOG => Self::Log { id: key.id()?, version: key.version()?, key: key.item_key()? },
            KEY => Self::Key { id: key.id()?, key: key.item_key()? },
            ORDER => Self::Order {
                id: key.id()?,
                sort_key: key.escaped_sort_key()?,
                key: key.item_key()?,
            },
            SEGMENT => Self::Segment {
                id: key.id()?,
                segment: Segment::new(u16::from_be_bytes(key.array()?))?,
            },
            TOMBSTONE => Self::Tombstone {
                id: key.id()?,
                time: Timestamp::from_millis(key.u64()?),
                version: key.version()?,
                key: key.item_key()?,
            },
            DOOMED => Self::Doomed { id: key.id()? },
            RECEIPT => Self::Receipt { kind: ReceiptKind::from_tag(key.u8()?)?, name: key.text()? },
            RECEIPT_AGE => Self::ReceiptAge {
                time: Timestamp::from_millis(key.u64()?),
                kind: ReceiptKind::from_tag(key.u8()?)?,
                name: key.text()?,
            },
            STORE => match key.u8()? {
                0x01 => Self::NextId,
                0x02 => Self::Format,
                0x03 => Self::Upgrading,
                _ => return None,
            },
            MEMBER => Self::Member {
                id: key.id()?,
                segment: Segment::new(u16::from_be_bytes(key.array()?))?,
                key: key.item_key()?,
            },
            POLICY => Self::Policy { id: key.id()? },
            AUDIENCE => {
                let text = key.text()?;
                let (name, subject) = text.split_once(char::from(END_OF_NAME))?;
                let name = CollectionName::new(name).ok()?;
                Self::Audience { name, subject: Subject::new(subject).ok()? }
            }
            AUDIENCE_STATE => Self::AudienceState { name: key.name()? },
            SWEEP => Self::Sweep { name: key.name()? },
            ACK => Self::Ack { place: key.ack_place()? },
            ACK_AGE => {
                Self::AckAge { time: Timestamp::from_millis(key.u64()?), place: key.ack_place()? }
            }
            _ => return None,
        };
        key.0.is_empty().then_some(parts)
    }
}
