//! What may be forgotten, and when. Pure. Tombstones go oldest first, so that one number, the
//! floor, says which cursors may have missed one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::types::{Key, Policy, Timestamp, Version};

use super::workspace::Undo;
use crate::store::Batch;
use crate::store::keys::{CollectionId, key_key, log_key, meta_key, tombstone_key};
use crate::store::rows::Meta;

/// How long tombstones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Older ones may go.
    pub tombstone_age_max: Duration,
    /// Above this number the oldest go whatever their age.
    pub tombstones_max: u64,
}

/// A tombstone with the rows that remember it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// When the item was deleted.
    pub time: Timestamp,
    /// Version of the delete.
    pub version: Version,
    /// The item's key.
    pub key: Key,
    /// Its key row.
    pub key_row: Bytes,
    /// Its log row.
    pub log_row: Bytes,
}

/// A purge to write.
#[derive(Debug, Default)]
pub struct Purge {
    /// The writes.
    pub batch: Batch,
    /// The same rows as they were.
    pub undo: Undo,
    /// The collection afterwards.
    pub meta: Option<Meta>,
}

// === impl Retention ===

impl Retention {
    /// How a collection with this policy is kept.
    #[must_use]
    pub fn under(&self, policy: &Policy) -> Self {
        Self {
            tombstone_age_max: policy.tombstone_age_max.unwrap_or(self.tombstone_age_max),
            tombstones_max: policy.tombstones_max.unwrap_or(self.tombstones_max),
        }
    }

    /// The same as a policy that says everything. There is no quota unless one is set.
    #[must_use]
    pub fn in_force(&self, policy: &Policy) -> Policy {
        let kept = self.under(policy);
        Policy {
            tombstone_age_max: Some(kept.tombstone_age_max),
            tombstones_max: Some(kept.tombstones_max),
            bytes_max: Some(policy.bytes_max.unwrap_or(0)),
            diffusion: policy.diffusion,
        }
    }

    /// How many of a collection's tombstones may go now, judged without looking at them: the
    /// rest depends on their age.
    #[must_use]
    pub fn surplus(&self, tombstones: u64) -> u64 {
        tombstones.saturating_sub(self.tombstones_max)
    }

    /// Whether a tombstone is old enough to go.
    #[must_use]
    pub fn outlived(&self, time: Timestamp, now: Timestamp) -> bool {
        let age = now.as_millis().saturating_sub(time.as_millis());
        u128::from(age) > self.tombstone_age_max.as_millis()
    }
}

/// Plans to forget these tombstones, the oldest of the collection, in their order.
#[must_use]
pub fn purge(id: CollectionId, meta: &Meta, oldest: &[Tombstone]) -> Purge {
    let Some(last) = oldest.last() else { return Purge::default() };
    assert!(
        oldest.windows(2).all(|pair| pair[0].version <= pair[1].version),
        "tombstones are purged in version order"
    );
    let mut after = meta.clone();
    after.head.floor = after.head.floor.max(last.version);
    let count = u64::try_from(oldest.len()).expect("a purge is small");
    after.head.tombstones = after.head.tombstones.checked_sub(count).expect("counted when deleted");
    assert!(after.head.floor <= after.head.version, "the floor stays below the head");

    let mut undo = BTreeMap::new();
    for tombstone in oldest {
        let Tombstone { time, version, key, key_row, log_row } = tombstone;
        undo.insert(log_key(id, *version, key), Some(log_row.clone()));
        undo.insert(key_key(id, key), Some(key_row.clone()));
        undo.insert(tombstone_key(id, *time, *version, key), Some(Bytes::new()));
    }
    let mut batch = Batch::default();
    for row in undo.keys() {
        batch.remove(row.clone());
    }
    undo.insert(meta_key(id), Some(meta.encode()));
    batch.put(meta_key(id), after.encode());
    Purge { batch, undo, meta: Some(after) }
}
