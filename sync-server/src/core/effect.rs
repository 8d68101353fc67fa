//! What one mutation does to one item: its two rows, and the counters and sums of its
//! collection. Pure.

use sync_proto::convert::{decode_change, encode_change};
use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{Change, ChangeKind, Head, Key, SortKey, Timestamp, Value, Version};

use super::workspace::{Slot, Stored, Working};
use crate::store::StoreError;
use crate::store::rows::{KeyRow, LogRow, RowKind};

/// What a mutation changes.
pub(super) enum Effect {
    Put { value: Value, sort_key: SortKey, same_value: bool },
    Delete,
}

// === impl Effect ===

impl Effect {
    /// Bytes that the item brings into its version.
    pub(super) fn size(&self, key: &Key) -> usize {
        let content = match self {
            Self::Put { value, sort_key, .. } => value.as_bytes().len() + sort_key.as_bytes().len(),
            Self::Delete => 0,
        };
        key.as_bytes().len() + content
    }

    /// Bytes of the live item that it leaves.
    pub(super) fn live_bytes(&self, key: &Key) -> u64 {
        match self {
            Self::Put { .. } => u64::try_from(self.size(key)).expect("limits keep items small"),
            Self::Delete => 0,
        }
    }
}

// === impl Working ===

impl Working {
    /// Gives an item its state at `version`.
    pub(super) fn put(&mut self, key: &Key, effect: Effect, version: Version, time: Timestamp) {
        let old = self.stored(key).cloned();
        let new = match effect {
            Effect::Put { value, sort_key, same_value } => {
                live_row(key, old.as_ref(), &value, sort_key, same_value, version, time)
            }
            Effect::Delete => tombstone_row(key, old.as_ref(), version, time),
        };
        self.set(key, Some(new));
    }

    /// Gives a key its rows, or takes them; counters and sums follow.
    pub(super) fn set(&mut self, key: &Key, new: Option<Stored>) {
        let head = &mut self.meta.now.as_mut().expect("a planned collection exists").head;
        let segment = self.segments.entry(Segment::of_key(key)).or_insert(Slot::loaded(None));
        let sum = segment.now.get_or_insert_default();
        let slot = self.items.entry(key.clone()).or_insert(Slot::loaded(None));
        if let Some(old) = &slot.now {
            count(head, key, old, u64::wrapping_sub);
            head.digest -= old.key.digest;
            *sum -= old.key.digest;
        }
        if let Some(new) = &new {
            count(head, key, new, u64::wrapping_add);
            head.digest += new.key.digest;
            *sum += new.key.digest;
        }
        slot.now = new;
    }
}

/// What a put over a live item changes; `None` = nothing.
pub(super) fn put_over(
    old: &Stored,
    value: &Value,
    sort_key: Option<&SortKey>,
) -> Result<Option<Effect>, StoreError> {
    let same_value = value_of(old)? == *value;
    let sort_key = sort_key.unwrap_or(&old.key.sort_key).clone();
    if same_value && sort_key == old.key.sort_key {
        return Ok(None);
    }
    Ok(Some(Effect::Put { value: value.clone(), sort_key, same_value }))
}

/// The value that a live row holds.
pub(super) fn value_of(stored: &Stored) -> Result<Value, StoreError> {
    let damaged = |reason: String| StoreError::Damaged {
        place: format!("the log row of version {}", stored.key.version),
        reason,
    };
    let change = decode_change(stored.log.change.clone()).map_err(|e| damaged(e.to_string()))?;
    match change.kind {
        ChangeKind::Put { value: Some(value), .. } => Ok(value),
        ChangeKind::Put { value: None, .. } | ChangeKind::Delete | ChangeKind::LeftScope => {
            Err(damaged("holds no value".to_owned()))
        }
    }
}

fn live_row(
    key: &Key,
    old: Option<&Stored>,
    value: &Value,
    sort_key: SortKey,
    same_value: bool,
    version: Version,
    time: Timestamp,
) -> Stored {
    let alive = old.filter(|old| old.key.kind == RowKind::Live);
    let created = alive.map_or(version, |old| old.key.created);
    let value_version = alive.filter(|_| same_value).map_or(version, |old| old.key.value_version);
    let change = Change {
        key: key.clone(),
        version,
        created,
        kind: ChangeKind::Put {
            value: Some(value.clone()),
            sort_key: sort_key.clone(),
            value_version,
        },
    };
    Stored {
        log: LogRow { kind: RowKind::Live, created, value_version, change: encode_change(&change) },
        key: KeyRow {
            kind: RowKind::Live,
            version,
            created,
            value_version,
            time,
            value_len: u32::try_from(value.as_bytes().len()).expect("a value is at most 1 MiB"),
            digest: Digest::of_item(key, version, &sort_key, value.as_bytes()),
            sort_key,
        },
    }
}

fn tombstone_row(key: &Key, old: Option<&Stored>, version: Version, time: Timestamp) -> Stored {
    let created = old.map_or(version, |old| old.key.created);
    let change = Change { key: key.clone(), version, created, kind: ChangeKind::Delete };
    Stored {
        log: LogRow {
            kind: RowKind::Tombstone,
            created,
            value_version: version,
            change: encode_change(&change),
        },
        key: KeyRow {
            kind: RowKind::Tombstone,
            version,
            created,
            value_version: version,
            time,
            value_len: 0,
            digest: Digest::EMPTY,
            sort_key: SortKey::default(),
        },
    }
}

/// Adds a row to the counters of its collection, or takes it out.
fn count(head: &mut Head, key: &Key, stored: &Stored, step: impl Fn(u64, u64) -> u64) {
    match stored.key.kind {
        RowKind::Live => {
            head.items = step(head.items, 1);
            head.bytes = step(head.bytes, item_bytes(key, &stored.key));
        }
        RowKind::Tombstone => head.tombstones = step(head.tombstones, 1),
    }
}

/// Bytes of a live item: its key, sort key and value.
pub(super) fn item_bytes(key: &Key, row: &KeyRow) -> u64 {
    let names = key.as_bytes().len() + row.sort_key.as_bytes().len();
    u64::try_from(names).expect("limits keep names small") + u64::from(row.value_len)
}
