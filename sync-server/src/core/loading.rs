//! Loads the rows that a group of commits touches, in two rounds however many they are: what lies
//! at a key, then the log rows that it points to. Pure: whoever calls gives the rows. A store may
//! have its readers wait for a turn, so a row that is asked for alone costs a wait of its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{CollectionName, Key};

use super::inbox::Known;
use super::needs::{Needs, Purpose};
use super::workspace::{Slot, Stored, Working, Workspace};
use crate::store::StoreError;
use crate::store::keys::{self, CollectionId, Held, key_key, log_key, segment_key};
use crate::store::rows::{KeyRow, LogRow, Meta, Receipt, RowKind};

#[cfg(test)]
mod tests;

/// Bytes of values that one batch replaces or deletes: they are held in memory until it is
/// durable. A commit that alone replaces more is refused.
pub const REPLACED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a group cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It would replace too much at once.
    #[error("{bytes} bytes would be replaced at once, the limit is {REPLACED_BYTES_MAX}")]
    ReplacesTooMuch {
        /// Bytes of the values.
        bytes: u64,
    },
    /// Storage failed.
    #[error("storage failed")]
    Store(#[from] StoreError),
}

/// Gives the rows at these keys, in their order.
type GetMany<'a> = dyn FnMut(&[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> + 'a;

/// An item whose rows are wanted.
struct Wanted {
    collection: CollectionName,
    id: CollectionId,
    key: Key,
    purpose: Purpose,
}

/// Rows in the order in which they were asked for.
struct Answers(std::vec::IntoIter<Option<Bytes>>);

// === impl Workspace ===

impl Workspace {
    /// Loads what is needed. `find` gives the newest state of a collection, `get_many` the rows at
    /// keys, in their order.
    pub fn load(
        needs: Needs,
        next_id: u64,
        find: impl Fn(&CollectionName) -> Option<(CollectionId, Meta)>,
        mut get_many: impl FnMut(&[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError>,
    ) -> Result<Self, LoadError> {
        let mut workspace = Self::empty(next_id);
        let mut items = Vec::new();
        let mut others = Needs::default();
        (others.receipts, others.members, others.acks) =
            (needs.receipts, needs.members, needs.acks);
        for (name, keys) in needs.items {
            let working = match find(&name) {
                Some((id, meta)) => {
                    let wanted = |(key, purpose)| Wanted::new(&name, id, key, purpose);
                    items.extend(keys.into_iter().map(wanted));
                    Working::present(id, meta)
                }
                None => Working::absent(),
            };
            workspace.collections.insert(name, working);
        }
        workspace.load_items(items, REPLACED_BYTES_MAX, &mut get_many)?;
        workspace.load_others(others, &mut get_many)?;
        Ok(workspace)
    }

    /// Loads entries of inboxes, also if another part of the group has loaded some of them.
    pub(super) fn load_entries(
        &mut self,
        inboxes: impl Iterator<Item = (CollectionName, Vec<Key>)>,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let mut items = Vec::new();
        for (inbox, keys) in inboxes {
            let working = self.collections.entry(inbox.clone()).or_insert_with(|| {
                known
                    .find(&inbox)
                    .map_or_else(Working::absent, |(id, meta)| Working::present(id, meta))
            });
            // An inbox that this group creates has no rows yet.
            let (Some(id), true) = (working.id, working.meta.before.is_some()) else { continue };
            let new = keys.into_iter().filter(|key| !working.items.contains_key(key));
            items.extend(new.map(|key| Wanted::new(&inbox, id, key, Purpose::Changed)));
        }
        // Entries are small, and their number is bounded where they are written.
        match self.load_items(items, u64::MAX, &mut |keys| known.rows(keys)) {
            Ok(()) => Ok(()),
            Err(LoadError::Store(error)) => Err(error),
            Err(LoadError::ReplacesTooMuch { .. }) => unreachable!("there is no limit"),
        }
    }

    fn load_items(
        &mut self,
        items: Vec<Wanted>,
        replaced_max: u64,
        get_many: &mut GetMany<'_>,
    ) -> Result<(), LoadError> {
        let segments = self.unknown_segments(&items);
        let keys = items.iter().map(|item| key_key(item.id, &item.key));
        let sums = segments.iter().map(|((id, segment), _)| segment_key(*id, *segment));
        let mut answers = Answers::to(&keys.chain(sums).collect::<Vec<_>>(), get_many)?;
        let mut changed = Vec::new();
        let mut replaced = 0;
        for item in items {
            let row = answers.next().map(KeyRow::decode).transpose()?;
            match item.purpose {
                Purpose::Changed => {
                    // Bound what is about to be loaded, before it is loaded.
                    replaced += row.as_ref().map_or(0, |row| u64::from(row.value_len));
                    if replaced > replaced_max {
                        return Err(LoadError::ReplacesTooMuch { bytes: replaced });
                    }
                    changed.push((item, row));
                }
                Purpose::Judged => {
                    if let Some(row) = row.filter(|row| row.kind == RowKind::Live) {
                        self.working(&item.collection).judged.insert(item.key, row);
                    }
                }
            }
        }
        for ((_, segment), collection) in segments {
            let sum = answers.next().map(|row| segment_sum(&row)).transpose()?;
            self.working(&collection).segments.insert(segment, Slot::loaded(sum));
        }
        self.load_logs(changed, get_many)
    }

    /// The segments of changed items whose sums are not loaded yet.
    fn unknown_segments(
        &self,
        items: &[Wanted],
    ) -> BTreeMap<(CollectionId, Segment), CollectionName> {
        let mut segments = BTreeMap::new();
        for item in items.iter().filter(|item| item.purpose == Purpose::Changed) {
            let segment = Segment::of_key(&item.key);
            if !self.collections[&item.collection].segments.contains_key(&segment) {
                segments.entry((item.id, segment)).or_insert_with(|| item.collection.clone());
            }
        }
        segments
    }

    fn load_logs(
        &mut self,
        items: Vec<(Wanted, Option<KeyRow>)>,
        get_many: &mut GetMany<'_>,
    ) -> Result<(), LoadError> {
        let log = |(item, row): &(Wanted, Option<KeyRow>)| {
            Some(log_key(item.id, row.as_ref()?.version, &item.key))
        };
        let mut answers = Answers::to(&items.iter().filter_map(log).collect::<Vec<_>>(), get_many)?;
        for (item, row) in items {
            let stored = row.map(|row| stored(item.id, row, answers.next())).transpose()?;
            self.working(&item.collection).items.insert(item.key, Slot::loaded(stored));
        }
        Ok(())
    }

    fn load_others(&mut self, needs: Needs, get_many: &mut GetMany<'_>) -> Result<(), StoreError> {
        let receipts = needs.receipts.iter().map(|(kind, name)| keys::receipt_key(*kind, name));
        let members = needs.members.iter().map(|(name, subject)| keys::audience_key(name, subject));
        let acks = needs.acks.iter().map(keys::ack_key);
        let wanted: Vec<_> = receipts.chain(members).chain(acks).collect();
        let mut answers = Answers::to(&wanted, get_many)?;
        for receipt in needs.receipts {
            let row = answers.next().map(Receipt::decode).transpose()?;
            self.receipts.insert(receipt, Slot::loaded(row));
        }
        for (name, subject) in needs.members {
            self.load_member(name, subject, answers.next().is_some());
        }
        for place in needs.acks {
            let held = answers.next().map(Held::decode).transpose()?;
            self.acks.insert(place, Slot::loaded(held));
        }
        Ok(())
    }

    fn working(&mut self, name: &CollectionName) -> &mut Working {
        self.collections.get_mut(name).expect("put in before its rows were asked for")
    }
}

// === impl Wanted ===

impl Wanted {
    fn new(collection: &CollectionName, id: CollectionId, key: Key, purpose: Purpose) -> Self {
        Self { collection: collection.clone(), id, key, purpose }
    }
}

// === impl Answers ===

impl Answers {
    fn to(keys: &[Vec<u8>], get_many: &mut GetMany<'_>) -> Result<Self, StoreError> {
        if keys.is_empty() {
            return Ok(Self(Vec::new().into_iter()));
        }
        let rows = get_many(keys)?;
        assert_eq!(rows.len(), keys.len(), "a store answers for every key");
        Ok(Self(rows.into_iter()))
    }

    fn next(&mut self) -> Option<Bytes> {
        self.0.next().expect("as many answers as questions")
    }
}

fn stored(id: CollectionId, row: KeyRow, log: Option<Bytes>) -> Result<Stored, StoreError> {
    let log = log.ok_or_else(|| StoreError::Damaged {
        place: format!("collection {}, version {}", id.0, row.version),
        reason: "a key points to a log row that is not there".to_owned(),
    })?;
    Ok(Stored { key: row, log: LogRow::decode(log)? })
}

/// Reads a segment row.
fn segment_sum(row: &Bytes) -> Result<Digest, StoreError> {
    let sixteen: [u8; 16] = row.as_ref().try_into().map_err(|_| StoreError::Damaged {
        place: "a segment row".to_owned(),
        reason: format!("{} bytes, a digest has 16", row.len()),
    })?;
    Ok(Digest::from_be_bytes(sixteen))
}
