//! What the rows of [`super::keys`] hold, between bytes and types. Pure.

use std::time::Duration;

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use sync_proto::digest::Digest;
use sync_proto::types::{
    CollectionName, Epoch, Head, Key, Policy, SortKey, Subject, Timestamp, Version,
};

use super::StoreError;
use super::keys::{CollectionId, END_OF_SORT_KEY, ESCAPE, ESCAPED_ZERO};

pub use self::audience::{Audience, Sweep};

mod audience;

/// What is known of a collection as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub name: CollectionName,
    /// Its durable state.
    pub head: Head,
    /// What was set for it; has a row of its own.
    pub policy: Policy,
}

/// Whether a row is an item or the memory of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// An item.
    Live,
    /// A deleted item.
    Tombstone,
}

/// A row of the log: what is needed to judge it, and the change as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Item or tombstone.
    pub kind: RowKind,
    /// Version of the commit that created the item.
    pub created: Version,
    /// Version of the commit that last changed the value.
    pub value_version: Version,
    /// The encoded `v1::Change`.
    pub change: Bytes,
}

/// Where the one log row of a key is, and what planning needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Item or tombstone.
    pub kind: RowKind,
    /// Version of the log row.
    pub version: Version,
    /// Version of the commit that created the item.
    pub created: Version,
    /// Version of the commit that last changed the value.
    pub value_version: Version,
    /// When the commit happened.
    pub time: Timestamp,
    /// Bytes of the value; 0 for a tombstone.
    pub value_len: u32,
    /// Digest of the item; the empty one for a tombstone.
    pub digest: Digest,
    /// Place in list order; empty for a tombstone.
    pub sort_key: SortKey,
}

/// What a receipt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReceiptKind {
    /// The answer to a commit with an idempotency key.
    Commit,
    /// How far an import has come.
    Import,
}

/// The memory of a call, kept for the idempotency window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// When it was written.
    pub time: Timestamp,
    /// Tells another request under the same name apart.
    pub fingerprint: [u8; 16],
    /// The answer.
    pub payload: Bytes,
}

// === impl ReceiptKind ===

impl ReceiptKind {
    pub(super) fn tag(self) -> u8 {
        match self {
            Self::Commit => 1,
            Self::Import => 2,
        }
    }

    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Commit),
            2 => Some(Self::Import),
            _ => None,
        }
    }
}

// === impl RowKind ===

impl RowKind {
    pub(super) fn tag(self) -> u8 {
        match self {
            Self::Live => 1,
            Self::Tombstone => 2,
        }
    }

    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Live),
            2 => Some(Self::Tombstone),
            _ => None,
        }
    }
}

// === impl Meta ===

impl Meta {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = &self.head;
        let mut row = BytesMut::with_capacity(80 + self.name.as_str().len());
        row.put_u64(head.epoch.get());
        row.put_u64(head.version.get());
        row.put_u64(head.floor.get());
        row.put_u64(head.items);
        row.put_u64(head.tombstones);
        row.put_u64(head.bytes);
        row.put_slice(&head.digest.to_be_bytes());
        row.put_u64(head.commit_time.as_millis());
        row.put_slice(self.name.as_str().as_bytes());
        row.freeze()
    }

    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        let head = Head {
            epoch: Epoch::new(fields.u64()?)?,
            version: fields.version()?,
            floor: fields.version()?,
            items: fields.u64()?,
            tombstones: fields.u64()?,
            bytes: fields.u64()?,
            digest: fields.digest()?,
            commit_time: Timestamp::from_millis(fields.u64()?),
        };
        let name = CollectionName::new(&fields.text()?).ok()?;
        let policy = Policy::default();
        (head.floor <= head.version).then_some(Self { name, head, policy })
    }
}

// === impl LogRow ===

impl LogRow {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(17 + self.change.len());
        row.put_u8(self.kind.tag());
        row.put_u64(self.created.get());
        row.put_u64(self.value_version.get());
        row.put_slice(&self.change);
        row.freeze()
    }

    /// Reads a row's value.
    pub fn decode(value: Bytes) -> Result<Self, StoreError> {
        Self::parse(&mut Fields(value)).ok_or_else(|| damaged("a log row"))
    }

    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            kind: RowKind::from_tag(fields.u8()?)?,
            created: fields.version()?,
            value_version: fields.version()?,
            change: fields.rest(),
        })
    }
}

// === impl KeyRow ===

impl KeyRow {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(53 + self.sort_key.as_bytes().len());
        row.put_u8(self.kind.tag());
        row.put_u64(self.version.get());
        row.put_u64(self.created.get());
        row.put_u64(self.value_version.get());
        row.put_u64(self.time.as_millis());
        row.put_u32(self.value_len);
        row.put_slice(&self.digest.to_be_bytes());
        row.put_slice(self.sort_key.as_bytes());
        row.freeze()
    }

    /// Reads a row's value.
    pub fn decode(value: Bytes) -> Result<Self, StoreError> {
        Self::parse(&mut Fields(value)).ok_or_else(|| damaged("a key row"))
    }

    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            kind: RowKind::from_tag(fields.u8()?)?,
            version: fields.version()?,
            created: fields.version()?,
            value_version: fields.version()?,
            time: Timestamp::from_millis(fields.u64()?),
            value_len: fields.u32()?,
            digest: fields.digest()?,
            sort_key: SortKey::new(fields.rest()).ok()?,
        })
    }
}

// === impl Receipt ===

impl Receipt {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(24 + self.payload.len());
        row.put_u64(self.time.as_millis());
        row.put_slice(&self.fingerprint);
        row.put_slice(&self.payload);
        row.freeze()
    }

    /// Reads a row's value.
    pub fn decode(value: Bytes) -> Result<Self, StoreError> {
        Self::parse(&mut Fields(value)).ok_or_else(|| damaged("a receipt"))
    }

    /// Whether it protects no longer.
    #[must_use]
    pub fn expired(&self, now: Timestamp, window: Duration) -> bool {
        let age = now.as_millis().saturating_sub(self.time.as_millis());
        u128::from(age) >= window.as_millis()
    }

    /// The number of the last commit of the import that this is the receipt of.
    pub fn import_sequence(&self) -> Result<u64, StoreError> {
        Fields(self.payload.clone()).u64().ok_or_else(|| damaged("the receipt of an import"))
    }

    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            time: Timestamp::from_millis(fields.u64()?),
            fingerprint: fields.array()?,
            payload: fields.rest(),
        })
    }
}

/// The row of a policy.
#[must_use]
pub fn encode_policy(policy: &Policy) -> Bytes {
    let age =
        policy.tombstone_age_max.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let mut row = BytesMut::with_capacity(28);
    for field in [age, policy.tombstones_max, policy.bytes_max] {
        row.put_u8(u8::from(field.is_some()));
        row.put_u64(field.unwrap_or_default());
    }
    if let Some(diffusion) = policy.diffusion {
        row.put_u8(audience::tag(diffusion));
    }
    row.freeze()
}

/// Fields are taken from the front; whatever does not fit is `None`.
pub(crate) struct Fields(pub(crate) Bytes);

impl Fields {
    pub(crate) fn take(&mut self, len: usize) -> Option<Bytes> {
        (self.0.len() >= len).then(|| self.0.split_to(len))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        // Without a handle of its own for each number: checks read millions of them.
        let array = *self.0.first_chunk()?;
        self.0.advance(N);
        Some(array)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn id(&mut self) -> Option<CollectionId> {
        self.u64().map(CollectionId)
    }

    pub(crate) fn version(&mut self) -> Option<Version> {
        Version::new(self.u64()?).ok()
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_be_bytes)
    }

    /// Whether a number is said, and the number; 0 if not, so that a policy has one row only.
    fn said(&mut self) -> Option<(bool, u64)> {
        match (self.u8()?, self.u64()?) {
            (0, 0) => Some((false, 0)),
            (1, number) => Some((true, number)),
            _ => None,
        }
    }

    /// A policy, which ends what it is taken from.
    pub(crate) fn policy(&mut self) -> Option<Policy> {
        let numbers = self.numbers_of_policy()?;
        if self.0.is_empty() {
            return Some(numbers);
        }
        Some(Policy { diffusion: Some(audience::from_tag(self.u8()?)?), ..numbers })
    }

    /// The part of a policy that has a fixed length.
    pub(crate) fn numbers_of_policy(&mut self) -> Option<Policy> {
        let (age, most, bytes) = (self.said()?, self.said()?, self.said()?);
        let number = |(said, number): (bool, u64)| said.then_some(number);
        Some(Policy {
            tombstone_age_max: number(age).map(Duration::from_millis),
            tombstones_max: number(most),
            bytes_max: number(bytes),
            diffusion: None,
        })
    }

    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.rest().to_vec()).ok()
    }

    pub(crate) fn name(&mut self) -> Option<CollectionName> {
        CollectionName::new(&self.text()?).ok()
    }

    /// Where a sweep goes on.
    pub(crate) fn sweep(&mut self) -> Option<Sweep> {
        let text = self.text()?;
        if text.is_empty() {
            return Some(Sweep::default());
        }
        Subject::new(&text).ok().map(|next| Sweep(Some(next)))
    }

    pub(crate) fn item_key(&mut self) -> Option<Key> {
        Key::new(self.rest()).ok()
    }

    pub(crate) fn escaped_sort_key(&mut self) -> Option<SortKey> {
        SortKey::new(self.escaped()?).ok()
    }

    pub(crate) fn escaped(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            match self.u8()? {
                ESCAPE => match self.u8()? {
                    ESCAPED_ZERO => bytes.push(ESCAPE),
                    END_OF_SORT_KEY => return Some(bytes),
                    _ => return None,
                },
                byte => bytes.push(byte),
            }
        }
    }
}

pub(super) fn damaged(place: &str) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), reason: "its bytes make no sense".to_owned() }
}
