//! The durable state of all collections, as readers find it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use sync_proto::types::{CollectionName, Diffusion};

use crate::core::stored::Sums;
use crate::core::workspace::Undo;
use crate::store::keys::CollectionId;
use crate::store::rows::{Audience, Meta};

/// The durable state of all collections, and the undo of the batch that is not durable yet.
#[derive(Debug, Default)]
pub(in crate::engine) struct Heads {
    pub(in crate::engine) by_name: BTreeMap<CollectionName, (CollectionId, Arc<Meta>)>,
    /// Those who follow, by name.
    pub(in crate::engine) audiences: BTreeMap<CollectionName, Audience>,
    /// Names whose followers are not written to, and which switch that was.
    pub(in crate::engine) read_diffused: BTreeMap<CollectionName, u64>,
    /// The same by switch.
    pub(in crate::engine) read_since: BTreeMap<u64, CollectionName>,
    /// How often a name came into `read_diffused` or left it.
    pub(in crate::engine) switches: u64,
    /// Cursors that are held for clients.
    pub(in crate::engine) acks: u64,
    pub(in crate::engine) undo: Arc<Undo>,
    /// Bytes below names that have a quota.
    pub(super) sums: Sums,
}

// === impl Heads ===

impl Heads {
    /// Publishes the state of a collection.
    pub(in crate::engine) fn set(&mut self, id: CollectionId, meta: Meta) {
        let before = self.by_name.get(&meta.name).map(|(_, before)| &before.head);
        let there = before.map_or(0, |before| before.bytes);
        self.sums.moved(meta.name.as_str(), there, meta.head.bytes);
        if let Some(before) = before {
            let after = &meta.head;
            assert!(
                before.epoch != after.epoch
                    || (before.version <= after.version && before.floor <= after.floor),
                "a head never goes back within an epoch"
            );
        }
        self.by_name.insert(meta.name.clone(), (id, Arc::new(meta)));
    }

    /// There is no such collection any more.
    pub(in crate::engine) fn remove(&mut self, name: &CollectionName) {
        if let Some((_, gone)) = self.by_name.remove(name) {
            self.sums.moved(name.as_str(), gone.head.bytes, 0);
        }
    }

    /// Bytes of live items of the collection of this name and of those below it, if that is known.
    pub(in crate::engine) fn bytes_below(&self, root: &str) -> Option<u64> {
        self.sums.of(root)
    }

    /// Counts them further, at most so many collections.
    pub(in crate::engine) fn count_below(&mut self, root: &str, most: usize) -> Option<u64> {
        let Self { by_name, sums, .. } = self;
        let own = by_name.get(root).map_or(0, |(_, meta)| meta.head.bytes);
        sums.count(root, most, own, |from| {
            let behind = by_name.range::<str, _>((from, Bound::Unbounded));
            behind.map(|(name, (_, meta))| (name.as_str(), meta.head.bytes))
        })
    }

    /// Says who follows a name; how they are told from now on, if that is otherwise than before.
    pub(in crate::engine) fn set_audience(
        &mut self,
        name: &CollectionName,
        audience: Option<Audience>,
    ) -> Option<Diffusion> {
        let is_read = audience.is_some_and(|audience| audience.mode == Diffusion::Read);
        let before = match audience {
            Some(audience) => self.audiences.insert(name.clone(), audience),
            None => self.audiences.remove(name),
        };
        if is_read != self.read_diffused.contains_key(name) {
            self.switches += 1;
            if is_read {
                self.read_diffused.insert(name.clone(), self.switches);
                self.read_since.insert(self.switches, name.clone());
            } else if let Some(since) = self.read_diffused.remove(name) {
                self.read_since.remove(&since);
            }
        }
        let (before, audience) = (before?, audience?);
        (before.mode != audience.mode).then_some(audience.mode)
    }
}
