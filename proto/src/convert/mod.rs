//! The only place that knows wire types and checked types. What comes from outside goes through
//! `TryFrom` and is refused with the path of the field; what goes out goes through `From`.

use bytes::Bytes;
use prost::Message as _;

use crate::digest::Digest;
use crate::types::{
    Change, ChangeKind, CollectionName, Cursor, Delta, Epoch, Failure, Head, Item, Key, Malformed,
    Reset, ResetReason, SortKey, Timestamp, Value, Version,
};
use crate::v1;

mod ack;
mod admin;
mod ask;
mod clients;
mod inbox;
mod order;
mod read;
mod reconcile;
mod write;

pub use admin::{drain_request, grace, policy_change, policy_fields};
pub use inbox::{decode_inbox_entry, encode_inbox_entry, polled};
pub use order::{decode_scope, encode_scope};
pub use read::page_size;
pub use write::{decode_committed, encode_committed, head_equals, id, mutations};

/// What a message must hold for a reader to make sense of it.
fn required<T>(field: Option<T>, name: &str) -> Result<T, Malformed> {
    field.ok_or_else(|| Malformed::new(name, "must be set"))
}

fn collection(name: &str) -> Result<CollectionName, Malformed> {
    CollectionName::new(name)
}

fn version(number: u64, field: &str) -> Result<Version, Malformed> {
    Version::new(number).map_err(|refused| Malformed::new(field, refused.reason))
}

fn digest_of(bytes: &Bytes) -> Result<Digest, Malformed> {
    let sixteen: [u8; 16] = bytes
        .as_ref()
        .try_into()
        .map_err(|_| Malformed::new("digest", format!("{} bytes, a digest has 16", bytes.len())))?;
    Ok(Digest::from_be_bytes(sixteen))
}

fn optional_digest(bytes: &Bytes) -> Result<Option<Digest>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { digest_of(bytes).map(Some) }
}

fn digest_bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.to_be_bytes())
}

fn optional_digest_bytes(digest: Option<Digest>) -> Bytes {
    digest.map(digest_bytes).unwrap_or_default()
}

/// Encodes a change as it is stored and sent.
#[must_use]
pub fn encode_change(change: &Change) -> Bytes {
    v1::Change::from(change.clone()).encode_to_vec().into()
}

/// Decodes a change that was stored or sent.
pub fn decode_change(encoded: Bytes) -> Result<Change, Malformed> {
    let wire =
        v1::Change::decode(encoded).map_err(|error| Malformed::new("change", error.to_string()))?;
    wire.try_into()
}

// === Timestamp ===

impl From<Timestamp> for prost_types::Timestamp {
    fn from(time: Timestamp) -> Self {
        let millis = time.as_millis();
        Self {
            seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(millis % 1_000).expect("below 1,000") * 1_000_000,
        }
    }
}

/// A time stamp before 1970 or absent reads as 1970: it is for people, nothing hangs on it.
fn timestamp(time: Option<prost_types::Timestamp>) -> Timestamp {
    let time = time.unwrap_or_default();
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let millis = u64::try_from(time.nanos / 1_000_000).unwrap_or(0);
    Timestamp::from_millis(seconds.saturating_mul(1_000).saturating_add(millis))
}

// === Cursor ===

impl From<Cursor> for v1::Cursor {
    fn from(cursor: Cursor) -> Self {
        Self { epoch: cursor.epoch.get(), version: cursor.version.get(), base: cursor.base.get() }
    }
}

impl TryFrom<v1::Cursor> for Cursor {
    type Error = Malformed;

    fn try_from(cursor: v1::Cursor) -> Result<Self, Malformed> {
        let epoch = Epoch::new(cursor.epoch)
            .ok_or_else(|| Malformed::new("epoch", "must not be 0 in a cursor with a version"))?;
        let at = version(cursor.version, "version")?;
        let base = version(cursor.base, "base")?;
        // A base below the version can only mean that pages were under way.
        let base = if base == Version::ZERO { base } else { base.max(at) };
        Ok(Self { epoch, version: at, base })
    }
}

/// A word that may be absent.
fn some_word(word: String) -> Option<String> {
    (!word.is_empty()).then_some(word)
}

/// A cursor of zeros is an absent one: what a generated client sends when it forgets to leave it out.
fn optional_cursor(cursor: Option<v1::Cursor>) -> Result<Option<Cursor>, Malformed> {
    match cursor {
        None | Some(v1::Cursor { epoch: 0, version: 0, base: 0 }) => Ok(None),
        Some(cursor) => Cursor::try_from(cursor).map(Some).map_err(|e| e.within("cursor")),
    }
}

// === Head ===

impl From<Head> for v1::Head {
    fn from(head: Head) -> Self {
        Self {
            epoch: head.epoch.get(),
            version: head.version.get(),
            floor: head.floor.get(),
            items: head.items,
            digest: digest_bytes(head.digest),
            commit_time: Some(head.commit_time.into()),
            tombstones: head.tombstones,
            bytes: head.bytes,
        }
    }
}

impl TryFrom<v1::Head> for Head {
    type Error = Malformed;

    fn try_from(head: v1::Head) -> Result<Self, Malformed> {
        let parsed = Self {
            epoch: Epoch::new(head.epoch)
                .ok_or_else(|| Malformed::new("epoch", "must not be 0"))?,
            version: version(head.version, "version")?,
            floor: version(head.floor, "floor")?,
            items: head.items,
            tombstones: head.tombstones,
            bytes: head.bytes,
            digest: digest_of(&head.digest)?,
            commit_time: timestamp(head.commit_time),
        };
        if parsed.floor > parsed.version {
            return Err(Malformed::new("floor", "above the version"));
        }
        Ok(parsed)
    }
}

fn required_head(head: Option<v1::Head>) -> Result<Head, Malformed> {
    Head::try_from(required(head, "head")?).map_err(|e| e.within("head"))
}

// === Item ===

impl From<Item> for v1::Item {
    fn from(item: Item) -> Self {
        Self {
            key: item.key.to_bytes(),
            value: item.value.map(|value| value.to_bytes()).unwrap_or_default(),
            sort_key: item.sort_key.to_bytes(),
            version: item.version.get(),
            created_version: item.created.get(),
            value_version: item.value_version.get(),
            value_size: item.value_size,
        }
    }
}

impl TryFrom<v1::Item> for Item {
    type Error = Malformed;

    fn try_from(item: v1::Item) -> Result<Self, Malformed> {
        let left_out = item.value.is_empty() && item.value_size > 0;
        Ok(Self {
            key: Key::new(item.key)?,
            value: if left_out { None } else { Some(Value::new(item.value)?) },
            value_size: item.value_size,
            sort_key: SortKey::new(item.sort_key)?,
            version: version(item.version, "version")?,
            created: version(item.created_version, "created_version")?,
            value_version: version(item.value_version, "value_version")?,
        })
    }
}

// === Change ===

impl From<Change> for v1::Change {
    fn from(change: Change) -> Self {
        let kind = match change.kind {
            ChangeKind::Put { value, sort_key, value_version } => v1::change::Kind::Put(v1::Put {
                value_omitted: value.is_none(),
                value: value.map(|value| value.to_bytes()).unwrap_or_default(),
                sort_key: sort_key.to_bytes(),
                value_version: value_version.get(),
            }),
            ChangeKind::Delete => v1::change::Kind::Delete(v1::Delete {}),
            ChangeKind::LeftScope => v1::change::Kind::LeftScope(v1::LeftScope {}),
        };
        Self {
            key: change.key.to_bytes(),
            version: change.version.get(),
            created_version: change.created.get(),
            kind: Some(kind),
        }
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = Malformed;

    fn try_from(change: v1::Change) -> Result<Self, Malformed> {
        let kind = match required(change.kind, "kind")? {
            v1::change::Kind::Put(put) => ChangeKind::Put {
                value: if put.value_omitted { None } else { Some(Value::new(put.value)?) },
                sort_key: SortKey::new(put.sort_key)?,
                value_version: version(put.value_version, "value_version")?,
            },
            v1::change::Kind::Delete(v1::Delete {}) => ChangeKind::Delete,
            v1::change::Kind::LeftScope(v1::LeftScope {}) => ChangeKind::LeftScope,
        };
        Ok(Self {
            key: Key::new(change.key)?,
            version: version(change.version, "version")?,
            created: version(change.created_version, "created_version")?,
            kind,
        })
    }
}

// === Delta ===

impl From<Delta<Bytes>> for v1::Delta {
    fn from(delta: Delta<Bytes>) -> Self {
        Self {
            from: Some(delta.from.into()),
            to: Some(delta.to.into()),
            changes: delta.changes,
            has_more: delta.has_more,
            initial: delta.initial,
            digest: optional_digest_bytes(delta.digest),
            unverified: delta.unverified,
            head: Some(delta.head.into()),
        }
    }
}

impl TryFrom<v1::Delta> for Delta {
    type Error = Malformed;

    fn try_from(delta: v1::Delta) -> Result<Self, Malformed> {
        let from = Cursor::try_from(required(delta.from, "from")?).map_err(|e| e.within("from"))?;
        let to = Cursor::try_from(required(delta.to, "to")?).map_err(|e| e.within("to"))?;
        if from.epoch != to.epoch || from.version > to.version {
            return Err(Malformed::new("to", "does not lie behind `from` in the same epoch"));
        }
        let changes = decode_changes(delta.changes, from, to)?;
        if changes.is_empty() && delta.has_more {
            return Err(Malformed::new("has_more", "set on an empty delta"));
        }
        if delta.has_more == to.is_caught_up() {
            // Who believes one of them takes half a copy for the whole, or never ends.
            return Err(Malformed::new("has_more", "does not fit the base of `to`"));
        }
        Ok(Self {
            from,
            to,
            changes,
            has_more: delta.has_more,
            initial: delta.initial,
            digest: optional_digest(&delta.digest)?,
            unverified: delta.unverified,
            head: required_head(delta.head)?,
        })
    }
}

/// A page whose changes do not lie in order between its cursors is not a page: applying it
/// would break the copy silently.
fn decode_changes(encoded: Vec<Bytes>, from: Cursor, to: Cursor) -> Result<Vec<Change>, Malformed> {
    let mut changes = Vec::with_capacity(encoded.len());
    let mut before = from.version;
    for (index, bytes) in encoded.into_iter().enumerate() {
        let change = decode_change(bytes).map_err(|e| e.within_element("changes", index))?;
        let first_or_later =
            if index == 0 { change.version > before } else { change.version >= before };
        if !first_or_later || change.version > to.version {
            let reason = format!("{} out of order or outside of the delta", change.version);
            return Err(Malformed::new("version", reason).within_element("changes", index));
        }
        before = change.version;
        changes.push(change);
    }
    Ok(changes)
}

// === Reset ===

impl From<ResetReason> for v1::ResetReason {
    fn from(reason: ResetReason) -> Self {
        match reason {
            ResetReason::EpochChanged => Self::EpochChanged,
            ResetReason::AheadOfHead => Self::AheadOfHead,
            ResetReason::BelowFloor => Self::BelowFloor,
            ResetReason::TooLarge => Self::TooLarge,
            ResetReason::Forced => Self::Forced,
        }
    }
}

/// A reason that this program does not know yet still means "start over".
fn reset_reason(number: i32) -> ResetReason {
    match v1::ResetReason::try_from(number) {
        Ok(v1::ResetReason::EpochChanged) => ResetReason::EpochChanged,
        Ok(v1::ResetReason::AheadOfHead) => ResetReason::AheadOfHead,
        Ok(v1::ResetReason::BelowFloor) => ResetReason::BelowFloor,
        Ok(v1::ResetReason::TooLarge) => ResetReason::TooLarge,
        Ok(v1::ResetReason::Forced | v1::ResetReason::Unspecified) | Err(_) => ResetReason::Forced,
    }
}

impl From<Reset> for v1::Reset {
    fn from(reset: Reset) -> Self {
        Self {
            reason: v1::ResetReason::from(reset.reason).into(),
            head: Some(reset.head.into()),
            estimated_changes: reset.estimated_changes,
            estimated_bytes: reset.estimated_bytes,
        }
    }
}

impl TryFrom<v1::Reset> for Reset {
    type Error = Malformed;

    fn try_from(reset: v1::Reset) -> Result<Self, Malformed> {
        Ok(Self {
            reason: reset_reason(reset.reason),
            head: required_head(reset.head)?,
            estimated_changes: reset.estimated_changes,
            estimated_bytes: reset.estimated_bytes,
        })
    }
}

// === Failure ===

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        let retry = failure.retry_after.map_or(0, |wait| wait.as_millis().max(1));
        Self {
            code: failure.code,
            message: failure.message,
            retry_after_ms: u64::try_from(retry).unwrap_or(u64::MAX),
            reason: failure.reason.unwrap_or_default(),
        }
    }
}

impl From<v1::Failure> for Failure {
    fn from(failure: v1::Failure) -> Self {
        let retry = std::time::Duration::from_millis(failure.retry_after_ms);
        Self {
            code: failure.code,
            message: failure.message,
            retry_after: (!retry.is_zero()).then_some(retry),
            reason: some_word(failure.reason),
        }
    }
}
