//! The rows that a group of commits touches: as they were, and as planned so far. Pure. When the
//! group is planned, the difference between the two is the batch to write and the undo that
//! shows readers the durable state until the batch is durable.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{CollectionName, Head, Key, SortKey, Timestamp, Version};

use super::inbox::{Spreading, Told};
use crate::store::Batch;
use crate::store::keys::{
    self, AckPlace, CollectionId, Held, key_key, log_key, member_key, meta_key, name_key,
    order_key, segment_key, tombstone_key,
};
use crate::store::rows::{Audience, KeyRow, LogRow, Meta, Receipt, ReceiptKind, RowKind, Sweep};

pub use super::loading::{LoadError, REPLACED_BYTES_MAX};
pub use super::needs::Needs;

/// Rows as they were before a batch that is applied but not yet durable. A row that did not
/// exist is `None`.
pub type Undo = BTreeMap<Vec<u8>, Option<Bytes>>;

/// What a group of commits touches.
#[derive(Debug, Default)]
pub struct Workspace {
    pub(super) collections: BTreeMap<CollectionName, Working>,
    pub(super) receipts: BTreeMap<(ReceiptKind, String), Slot<Receipt>>,
    pub(super) spreading: Spreading,
    pub(super) acks: BTreeMap<AckPlace, Slot<Held>>,
    pub(super) next_id: u64,
    next_id_before: u64,
}

/// A collection that a group touches.
#[derive(Debug)]
pub(super) struct Working {
    pub(super) id: Option<CollectionId>,
    pub(super) meta: Slot<Meta>,
    pub(super) items: BTreeMap<Key, Slot<Stored>>,
    /// Rows of live items that are judged by preconditions but not changed.
    pub(super) judged: BTreeMap<Key, KeyRow>,
    pub(super) segments: BTreeMap<Segment, Slot<Digest>>,
}

/// A row before the group and as planned so far.
#[derive(Debug, Clone)]
pub(super) struct Slot<T> {
    pub(super) before: Option<T>,
    pub(super) now: Option<T>,
}

/// The two rows of a key: an item or a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) key: KeyRow,
    pub(super) log: LogRow,
}

/// What a planned group changes.
#[derive(Debug, Default)]
pub struct Planned {
    /// The writes, to be applied atomically.
    pub batch: Batch,
    /// The same rows as they were.
    pub undo: Undo,
    /// Collections that moved, with their new state.
    pub moved: Vec<(CollectionId, Meta)>,
    /// The id that the next new collection gets.
    pub next_id: u64,
    /// How many receipts were added (a receipt that replaces another does not count).
    pub receipts_added: u64,
    /// Audiences that changed; `None`: nobody is left.
    pub audiences: Vec<(CollectionName, Option<Audience>)>,
    /// What is left to be told behind deletions; `None`: nothing.
    pub sweeps: Vec<(CollectionName, Option<Sweep>)>,
    /// What followers were told.
    pub told: Told,
    /// How many cursors are held that were not held before.
    pub acks_added: u64,
}

// === impl Workspace ===

impl Workspace {
    /// A group that touches nothing yet.
    #[must_use]
    pub fn empty(next_id: u64) -> Self {
        Self { next_id, next_id_before: next_id, ..Self::default() }
    }

    /// Plans that a collection has this state, without any change of its items.
    pub fn set_meta(&mut self, id: CollectionId, before: Meta, now: Meta) {
        let name = now.name.clone();
        let meta = Slot { before: Some(before), now: Some(now) };
        self.collections.insert(name, Working { id: Some(id), meta, ..Working::absent() });
    }

    /// The item as planned so far, if it is live.
    pub(super) fn live(&self, name: &CollectionName, key: &Key) -> Option<&Stored> {
        self.collections.get(name)?.live(key)
    }

    /// The key row of an item as planned so far, if it is live.
    pub(super) fn live_row(&self, name: &CollectionName, key: &Key) -> Option<&KeyRow> {
        let working = self.collections.get(name)?;
        working.live(key).map(|stored| &stored.key).or_else(|| working.judged.get(key))
    }

    /// The collection as planned so far.
    pub(super) fn meta(&self, name: &CollectionName) -> Option<&Meta> {
        self.collections.get(name)?.meta.now.as_ref()
    }

    /// Where the collection stood before the group.
    pub(super) fn durable_head(&self, name: &CollectionName) -> Option<&Head> {
        self.collections.get(name)?.meta.before.as_ref().map(|meta| &meta.head)
    }

    /// The difference between what was loaded and what is planned.
    #[must_use]
    pub fn finish(mut self) -> Planned {
        let mut planned = Planned { next_id: self.next_id, ..Planned::default() };
        self.write_audiences(&mut planned);
        for (name, working) in self.collections {
            let Some(id) = working.id else { continue };
            if !working.has_moved() {
                continue;
            }
            let meta = working.meta.now.clone().expect("a commit never removes a collection");
            working.write_rows(id, &mut planned);
            if working.meta.before.is_none() {
                let id_row = Bytes::copy_from_slice(&id.0.to_be_bytes());
                planned.set(name_key(&name), None, Some(id_row));
            }
            planned.set(
                meta_key(id),
                working.meta.before.as_ref().map(Meta::encode),
                Some(meta.encode()),
            );
            planned.moved.push((id, meta));
        }
        for ((kind, name), slot) in self.receipts {
            planned.write_receipt(kind, &name, &slot);
        }
        for (place, slot) in self.acks {
            planned.write_ack(&place, &slot);
        }
        if self.next_id != self.next_id_before {
            let row = |id: u64| Some(Bytes::copy_from_slice(&id.to_be_bytes()));
            planned.set(keys::next_id_key(), row(self.next_id_before), row(self.next_id));
        }
        planned
    }
}

// === impl Working ===

impl Working {
    pub(super) fn absent() -> Self {
        Self {
            id: None,
            meta: Slot::loaded(None),
            items: BTreeMap::new(),
            judged: BTreeMap::new(),
            segments: BTreeMap::new(),
        }
    }

    /// As it is, with no row loaded.
    pub(super) fn present(id: CollectionId, meta: Meta) -> Self {
        Self { id: Some(id), meta: Slot::loaded(Some(meta)), ..Self::absent() }
    }

    /// Whether the group changes it.
    pub(super) fn has_moved(&self) -> bool {
        self.meta.before != self.meta.now
    }

    /// How many commits of the group changed it. Each has a version of its own.
    pub(super) fn commits(&self) -> u64 {
        let head = |meta: &Option<Meta>| meta.as_ref().map(|meta| meta.head);
        match (head(&self.meta.before), head(&self.meta.now)) {
            (Some(before), Some(now)) if before.epoch == now.epoch => {
                now.version.get() - before.version.get()
            }
            (_, Some(now)) => now.version.get(),
            (_, None) => 1,
        }
    }

    pub(super) fn live(&self, key: &Key) -> Option<&Stored> {
        self.stored(key).filter(|stored| stored.key.kind == RowKind::Live)
    }

    pub(super) fn stored(&self, key: &Key) -> Option<&Stored> {
        self.items.get(key)?.now.as_ref()
    }

    fn write_rows(&self, id: CollectionId, planned: &mut Planned) {
        for (key, slot) in &self.items {
            if slot.before != slot.now {
                write_item(id, key, slot, planned);
            }
        }
        for (segment, slot) in &self.segments {
            let row = |digest: &Digest| Bytes::copy_from_slice(&digest.to_be_bytes());
            // An empty sum is no row, so that a segment that lost its last item costs nothing.
            let kept = slot.now.as_ref().filter(|digest| **digest != Digest::EMPTY);
            planned.set(segment_key(id, *segment), slot.before.as_ref().map(row), kept.map(row));
        }
    }
}

// === impl Slot ===

impl<T: Clone> Slot<T> {
    pub(super) fn loaded(row: Option<T>) -> Self {
        Self { before: row.clone(), now: row }
    }
}

// === impl Planned ===

impl Planned {
    pub(super) fn set(&mut self, key: Vec<u8>, before: Option<Bytes>, after: Option<Bytes>) {
        if before == after {
            return;
        }
        match after {
            Some(value) => self.batch.put(key.clone(), value),
            None => self.batch.remove(key.clone()),
        }
        let clash = self.undo.insert(key, before);
        assert!(clash.is_none(), "a row is planned once");
    }

    fn write_receipt(&mut self, kind: ReceiptKind, name: &str, slot: &Slot<Receipt>) {
        if slot.before == slot.now {
            return;
        }
        move_marker(slot.before.as_ref(), slot.now.as_ref(), self, |receipt: &Receipt| {
            Some(keys::receipt_age_key(receipt.time, kind, name))
        });
        self.receipts_added += u64::from(slot.before.is_none());
        self.set(
            keys::receipt_key(kind, name),
            slot.before.as_ref().map(Receipt::encode),
            slot.now.as_ref().map(Receipt::encode),
        );
    }

    fn write_ack(&mut self, place: &AckPlace, slot: &Slot<Held>) {
        if slot.before == slot.now {
            return;
        }
        move_marker(slot.before.as_ref(), slot.now.as_ref(), self, |held: &Held| {
            Some(keys::ack_age_key(held.time, place))
        });
        self.acks_added += u64::from(slot.before.is_none());
        self.set(
            keys::ack_key(place),
            slot.before.as_ref().map(Held::encode),
            slot.now.as_ref().map(Held::encode),
        );
    }
}

fn write_item(id: CollectionId, key: &Key, slot: &Slot<Stored>, planned: &mut Planned) {
    let log_at = |stored: &Stored| log_key(id, stored.key.version, key);
    if let Some(before) = &slot.before {
        planned.set(log_at(before), Some(before.log.encode()), None);
    }
    if let Some(now) = &slot.now {
        planned.set(log_at(now), None, Some(now.log.encode()));
    }
    planned.set(
        key_key(id, key),
        slot.before.as_ref().map(|stored| stored.key.encode()),
        slot.now.as_ref().map(|stored| stored.key.encode()),
    );
    move_marker(slot.before.as_ref(), slot.now.as_ref(), planned, |stored| {
        sort_key_of(stored).map(|sort_key| order_key(id, sort_key, key))
    });
    move_marker(slot.before.as_ref(), slot.now.as_ref(), planned, |stored| {
        sort_key_of(stored).map(|_| member_key(id, Segment::of_key(key), key))
    });
    move_marker(slot.before.as_ref(), slot.now.as_ref(), planned, |stored| {
        tombstone_of(stored).map(|(time, version)| tombstone_key(id, time, version, key))
    });
}

/// Moves a row that has a place but no content, if its place changed.
fn move_marker<T>(
    before: Option<&T>,
    now: Option<&T>,
    planned: &mut Planned,
    place: impl Fn(&T) -> Option<Vec<u8>>,
) {
    let (before, now) = (before.and_then(&place), now.and_then(&place));
    if before == now {
        return;
    }
    if let Some(place) = before {
        planned.set(place, Some(Bytes::new()), None);
    }
    if let Some(place) = now {
        planned.set(place, None, Some(Bytes::new()));
    }
}

fn sort_key_of(stored: &Stored) -> Option<&SortKey> {
    (stored.key.kind == RowKind::Live).then_some(&stored.key.sort_key)
}

fn tombstone_of(stored: &Stored) -> Option<(Timestamp, Version)> {
    (stored.key.kind == RowKind::Tombstone).then_some((stored.key.time, stored.key.version))
}
