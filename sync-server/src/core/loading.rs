//! Loads the rows that a group of commits touches, in two rounds however many they are: what lies
//! at a key, then the log rows that it points to. Pure: whoever calls gives the rows. A store may
//! have its readers wait for a turn, so a row that is asked for alone costs a wait of its own.

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

/// A collection, taken out of the workspace while its rows are loaded.
struct Wanted {
    name: CollectionName,
    id: CollectionId,
    working: Working,
    items: Vec<(Key, Purpose)>,
    segments: Vec<Segment>,
    /// Items that are changed, with what lies at their keys.
    changed: Vec<(Key, Option<KeyRow>)>,
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
        let mut wanted = Vec::new();
        let mut others = Needs::default();
        (others.receipts, others.members, others.acks) =
            (needs.receipts, needs.members, needs.acks);
        for (name, keys) in needs.items {
            match find(&name) {
                Some((id, meta)) => {
                    let items = keys.into_iter().collect();
                    wanted.push(Wanted::new(name, id, Working::present(id, meta), items));
                }
                None => {
                    workspace.collections.insert(name, Working::absent());
                }
            }
        }
        workspace.load_items(wanted, REPLACED_BYTES_MAX, &mut get_many)?;
        workspace.load_others(others, &mut get_many)?;
        Ok(workspace)
    }

    /// Loads entries of inboxes, also if another part of the group has loaded some of them.
    pub(super) fn load_entries(
        &mut self,
        inboxes: impl Iterator<Item = (CollectionName, Vec<Key>)>,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let mut wanted = Vec::new();
        for (inbox, keys) in inboxes {
            let loaded = self.collections.remove(&inbox);
            let working = loaded.unwrap_or_else(|| match known.find(&inbox) {
                Some((id, meta)) => Working::present(id, meta),
                None => Working::absent(),
            });
            match working.id {
                Some(id) if working.meta.before.is_some() => {
                    let new = keys.into_iter().filter(|key| !working.items.contains_key(key));
                    let items = new.map(|key| (key, Purpose::Changed)).collect();
                    wanted.push(Wanted::new(inbox, id, working, items));
                }
                // An inbox that this group creates has no rows yet.
                Some(_) | None => {
                    self.collections.insert(inbox, working);
                }
            }
        }
        // Entries are small, and their number is bounded where they are written.
        match self.load_items(wanted, u64::MAX, &mut |keys| known.rows(keys)) {
            Ok(()) => Ok(()),
            Err(LoadError::Store(error)) => Err(error),
            Err(LoadError::ReplacesTooMuch { .. }) => unreachable!("there is no limit"),
        }
    }

    fn load_items(
        &mut self,
        mut wanted: Vec<Wanted>,
        replaced_max: u64,
        get_many: &mut GetMany<'_>,
    ) -> Result<(), LoadError> {
        let mut asked = Vec::new();
        for one in &wanted {
            asked.extend(one.items.iter().map(|(key, _)| key_key(one.id, key)));
            asked.extend(one.segments.iter().map(|segment| segment_key(one.id, *segment)));
        }
        let mut answers = Answers::to(&asked, get_many)?;
        let mut replaced = 0;
        for one in &mut wanted {
            // Bound what is about to be loaded, before it is loaded.
            replaced += one.load_rows(&mut answers)?;
            if replaced > replaced_max {
                return Err(LoadError::ReplacesTooMuch { bytes: replaced });
            }
        }
        asked.clear();
        asked.extend(wanted.iter().flat_map(Wanted::logs));
        let mut answers = Answers::to(&asked, get_many)?;
        for mut one in wanted {
            one.load_logs(&mut answers)?;
            self.collections.insert(one.name, one.working);
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
}

// === impl Wanted ===

impl Wanted {
    fn new(
        name: CollectionName,
        id: CollectionId,
        working: Working,
        items: Vec<(Key, Purpose)>,
    ) -> Self {
        let changed = items.iter().filter(|(_, purpose)| *purpose == Purpose::Changed);
        let mut segments: Vec<_> = changed.map(|(key, _)| Segment::of_key(key)).collect();
        segments.sort_unstable();
        segments.dedup();
        segments.retain(|segment| !working.segments.contains_key(segment));
        Self { name, id, working, items, segments, changed: Vec::new() }
    }

    /// Takes what lies at the keys, and the sums of the segments; how many bytes of values the
    /// log rows of those have that are changed.
    fn load_rows(&mut self, answers: &mut Answers) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for (key, purpose) in self.items.drain(..) {
            let row = answers.next().map(KeyRow::decode).transpose()?;
            match (purpose, row) {
                (Purpose::Changed, row) => {
                    bytes += row.as_ref().map_or(0, |row| u64::from(row.value_len));
                    self.changed.push((key, row));
                }
                (Purpose::Judged, Some(row)) if row.kind == RowKind::Live => {
                    self.working.judged.insert(key, row);
                }
                (Purpose::Judged, _) => {}
            }
        }
        for segment in &self.segments {
            let sum = answers.next().map(|row| segment_sum(&row)).transpose()?;
            self.working.segments.insert(*segment, Slot::loaded(sum));
        }
        Ok(bytes)
    }

    /// Where the log rows are of what is changed.
    fn logs(&self) -> impl Iterator<Item = Vec<u8>> {
        self.changed
            .iter()
            .filter_map(|(key, row)| Some(log_key(self.id, row.as_ref()?.version, key)))
    }

    fn load_logs(&mut self, answers: &mut Answers) -> Result<(), StoreError> {
        for (key, row) in self.changed.drain(..) {
            let stored = row.map(|row| stored(self.id, row, answers.next())).transpose()?;
            self.working.items.insert(key, Slot::loaded(stored));
        }
        Ok(())
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
