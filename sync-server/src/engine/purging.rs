//! Forgetting what may be forgotten: rows of deleted collections, receipts, acks, tombstones. A step is
//! some small batches and one sync; the kinds take turns, and so do collections, so that none waits
//! for another to be done. Like the ledger it knows no clock: whoever paces it
//! says how long a step may go on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use sync_proto::types::{CollectionName, Head, Key, Timestamp, Version};

use super::ledger::{Ledger, Writing};
use crate::core::retention::{self, Tombstone};
use crate::core::workspace::Undo;
use crate::store::keys::{self, CollectionId, Row, log_key};
use crate::store::rows::Meta;
use crate::store::{Batch, Direction, Store, StoreError};

use self::fronts::Fronts;

mod aged;
mod fronts;
#[cfg(test)]
mod tests;

/// Rows that one batch removes. Small: sled leaks memory in batches of many removes.
const BATCH_ROWS_MAX: usize = 100;

/// Bytes of values that one batch removes; a row that alone has more goes by itself. Below the
/// engine a value is many small rows, and each of them is a remove.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Tombstones that one batch removes; each has three rows.
const BATCH_TOMBSTONES_MAX: usize = BATCH_ROWS_MAX / 3;

/// Batches of one step, which share a sync: what readers need to undo stays small.
const STEP_BATCHES_MAX: usize = 64;

/// Collections that one step judges by what is known of them in memory.
const STEP_LOOKS_MAX: usize = 4_096;

/// How much is left to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, at this time.
    Nothing,
    /// There is more to look at, or to forget.
    More,
    /// More is kept than the settings allow: whoever paces the steps should hurry.
    Surplus,
}

/// What purging remembers between steps.
#[derive(Debug, Default)]
pub(super) struct Purging {
    /// Whose turn it is.
    turn: Turn,
    /// The round over all collections goes on behind this one.
    looked: Option<CollectionName>,
    /// Collections with more tombstones than the settings allow.
    over: Waiting,
    /// Collections whose oldest tombstone may have fallen due.
    due: Waiting,
    /// No tombstone of the collection is older than this. An entry stays true while tombstones
    /// come (they are younger) and go; it only leads to a look too early. So a collection costs a
    /// look into the store when its oldest tombstone may have fallen due, and none in between.
    oldest: BTreeMap<CollectionId, Timestamp>,
    /// Where to look for what is removed next.
    fronts: Fronts,
}

/// Collections that are served round robin.
#[derive(Debug, Default)]
struct Waiting {
    names: BTreeSet<CollectionName>,
    served: Option<CollectionName>,
}

/// What is forgotten next. Surplus tombstones do not queue behind old ones: the cap is a promise
/// about space, and there may be many collections with a few old ones.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Turn {
    #[default]
    Doomed,
    Receipts,
    Acks,
    Surplus,
    Outlived,
}

/// A step under way: what is applied, but not synced and published yet.
#[derive(Debug, Default)]
struct Step {
    batches: usize,
    /// Collections that this step changed, as they are now.
    moved: BTreeMap<CollectionName, (CollectionId, Meta)>,
}

/// The tombstones of a collection that may go.
#[derive(Debug, Default)]
struct Outlived {
    /// The oldest, as many as fit into a batch.
    tombstones: Vec<Tombstone>,
    /// There may be more of them.
    more: bool,
    /// When the first that must stay was made.
    stays: Option<Timestamp>,
}

// === impl Turn ===

impl Turn {
    const COUNT: usize = 5;

    fn next(self) -> Self {
        match self {
            Self::Doomed => Self::Receipts,
            Self::Receipts => Self::Acks,
            Self::Acks => Self::Surplus,
            Self::Surplus => Self::Outlived,
            Self::Outlived => Self::Doomed,
        }
    }
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Forgets some of what may be forgotten, batch by batch for as long as `go_on` says, makes
    /// it durable, and returns how much is left.
    ///
    /// Purges go on when the disk is too full for commits: they are what makes room again. But
    /// sled writes before it frees, so they leave the lower half of the reserve alone: it is for
    /// deleting collections, and for closing the store.
    pub fn purge_step(
        &self,
        now: Timestamp,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Rest, StoreError> {
        let mut writing = self.writing.lock();
        if writing.failed || !leaves_reserve(self.store.room())? {
            return Ok(Rest::Nothing);
        }
        writing.purging.fronts.look_at_the_clock(now);
        let round_ended = self.find_ready(&mut writing.purging, now);
        let mut step = Step::default();
        let mut in_vain = 0;
        while in_vain < Turn::COUNT && step.batches < STEP_BATCHES_MAX {
            let turn = writing.purging.turn;
            writing.purging.turn = turn.next();
            let worked = match turn {
                Turn::Doomed => self.purge_doomed(&mut writing, &mut step)?,
                Turn::Receipts => self.purge_receipts(&mut writing, &mut step, now)?,
                Turn::Acks => self.purge_acks(&mut writing, &mut step, now)?,
                Turn::Surplus | Turn::Outlived => {
                    self.purge_tombstones(&mut writing, &mut step, turn, now)?
                }
            };
            in_vain = if worked { 0 } else { in_vain + 1 };
            if worked && !go_on() {
                break;
            }
        }
        if step.batches > 0 {
            let acks = writing.acks;
            self.settle(&mut writing, |heads| {
                heads.acks = acks;
                for (id, meta) in step.moved.into_values() {
                    heads.set(id, meta);
                }
            })?;
        }
        let surplus = writing.receipts > self.settings.receipts_max
            || self.settings.acks.surplus(writing.acks) > 0
            || !writing.purging.over.names.is_empty();
        Ok(if in_vain == Turn::COUNT {
            if round_ended { Rest::Nothing } else { Rest::More }
        } else {
            if surplus { Rest::Surplus } else { Rest::More }
        })
    }

    /// Goes on with the round over all collections, in memory; true = it has come to its end.
    fn find_ready(&self, purging: &mut Purging, now: Timestamp) -> bool {
        let heads = self.heads.read();
        let behind =
            purging.looked.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
        let mut looks = 0;
        let mut last = None;
        for (name, (id, meta)) in heads.by_name.range::<str, _>((behind, Bound::Unbounded)) {
            if looks == STEP_LOOKS_MAX {
                break;
            }
            looks += 1;
            last = Some(name);
            if meta.head.tombstones == 0 {
                continue;
            }
            let retention = self.settings.retention.under(&meta.policy);
            let oldest = purging.oldest.get(id);
            if retention.surplus(meta.head.tombstones) > 0 {
                purging.over.add(name);
            } else if oldest.is_none_or(|oldest| retention.outlived(*oldest, now)) {
                purging.due.add(name);
            }
        }
        let ended = looks < STEP_LOOKS_MAX;
        purging.looked = if ended { None } else { last.cloned() };
        ended
    }

    /// Rows of deleted collections, the first deleted first.
    fn purge_doomed(&self, writing: &mut Writing, step: &mut Step) -> Result<bool, StoreError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut gone = 0;
        let mut passed = Vec::new();
        for id in &writing.doomed {
            for range in keys::doomed_ranges(*id) {
                let left = writing.purging.fronts.left_of(&range);
                let mut last = None;
                self.store.scan(&left, Direction::Forward, &mut |key, value| {
                    if is_full(&batch, bytes + value.len()) {
                        bytes = BATCH_BYTES_MAX;
                        return ControlFlow::Break(());
                    }
                    bytes += value.len();
                    batch.remove(key.to_vec());
                    last = Some(key.to_vec());
                    ControlFlow::Continue(())
                })?;
                passed.extend(last.map(|last| (range, last)));
            }
            if is_full(&batch, bytes) {
                break;
            }
            batch.remove(keys::doomed_key(*id));
            gone += 1;
        }
        // Nobody finds a deleted collection, so its rows need no undo.
        self.forget(writing, step, &batch, Undo::new())?;
        for (range, last) in passed {
            writing.purging.fronts.pass(&range, &last);
        }
        for id in writing.doomed.drain(..gone) {
            writing.purging.oldest.remove(&id);
        }
        Ok(!batch.is_empty())
    }

    /// The oldest tombstones of the collection whose turn it is.
    fn purge_tombstones(
        &self,
        writing: &mut Writing,
        step: &mut Step,
        turn: Turn,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let purging = &mut writing.purging;
        let queue = if turn == Turn::Surplus { &mut purging.over } else { &mut purging.due };
        let Some(name) = queue.take() else { return Ok(false) };
        let found = step.moved.get(&name).cloned().or_else(|| {
            let heads = self.heads.read();
            heads.by_name.get(&name).map(|(id, meta)| (*id, Meta::clone(meta)))
        });
        // Gone since it was put there.
        let Some((id, meta)) = found else { return Ok(true) };
        let retention = self.settings.retention.under(&meta.policy);
        let surplus = retention.surplus(meta.head.tombstones);
        let outlived = self.oldest(&purging.fronts, id, |count, time, _| {
            count < surplus || retention.outlived(time, now)
        })?;
        let purge = retention::purge(id, &meta, &outlived.tombstones);
        let after = purge.meta.unwrap_or(meta);
        if retention.surplus(after.head.tombstones) > 0 {
            purging.over.add(&name);
        } else if outlived.more {
            purging.due.add(&name);
        } else if let Some(stays) = outlived.stays {
            purging.oldest.insert(id, stays);
        }
        step.moved.insert(name, (id, after));
        self.forget(writing, step, &purge.batch, purge.undo)?;
        writing.purging.passed(id, &outlived.tombstones);
        Ok(true)
    }

    fn forget(
        &self,
        writing: &mut Writing,
        step: &mut Step,
        batch: &Batch,
        undo: Undo,
    ) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        step.batches += 1;
        self.apply(writing, batch, undo)
    }

    /// Forgets deletes up to a version, batch by batch for as long as `go_on` says: how many, the
    /// head afterwards, and whether none is left.
    pub(super) fn purge_up_to(
        &self,
        writing: &mut Writing,
        id: CollectionId,
        mut meta: Meta,
        up_to: Version,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(u64, Head, bool), StoreError> {
        let before = meta.head.tombstones;
        let mut step = Step::default();
        let done = loop {
            let fronts = &writing.purging.fronts;
            let oldest = self.oldest(fronts, id, |_, _, version| version <= up_to)?;
            let purge = retention::purge(id, &meta, &oldest.tombstones);
            self.forget(writing, &mut step, &purge.batch, purge.undo)?;
            writing.purging.passed(id, &oldest.tombstones);
            meta = purge.meta.unwrap_or(meta);
            if !oldest.more {
                break true;
            }
            if step.batches == STEP_BATCHES_MAX || !go_on() {
                break false;
            }
        };
        let head = meta.head;
        if step.batches > 0 {
            self.settle(writing, |heads| heads.set(id, meta))?;
        }
        Ok((before - head.tombstones, head, done))
    }

    /// The oldest tombstones of a collection, while `may_go` says so of one, given how many come
    /// before it.
    fn oldest(
        &self,
        fronts: &Fronts,
        id: CollectionId,
        may_go: impl Fn(u64, Timestamp, Version) -> bool,
    ) -> Result<Outlived, StoreError> {
        let mut outlived = Outlived::default();
        let mut places = Vec::new();
        let mut broken = None;
        let left = fronts.left_of(&keys::tombstone_range(id));
        self.store.scan(
            &left,
            Direction::Forward,
            &mut |key, value| match Row::decode(key, value) {
                Ok(Row::Tombstone { time, version, key, .. }) => {
                    let count = u64::try_from(places.len()).expect("a batch is small");
                    if !may_go(count, time, version) {
                        outlived.stays = Some(time);
                        return ControlFlow::Break(());
                    }
                    if places.len() == BATCH_TOMBSTONES_MAX {
                        outlived.more = true;
                        return ControlFlow::Break(());
                    }
                    places.push((time, version, key));
                    ControlFlow::Continue(())
                }
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(error) = broken {
            return Err(error);
        }
        outlived.tombstones = self.tombstones(id, places)?;
        Ok(outlived)
    }

    /// The tombstones at these places, with their rows.
    fn tombstones(
        &self,
        id: CollectionId,
        places: Vec<(Timestamp, Version, Key)>,
    ) -> Result<Vec<Tombstone>, StoreError> {
        let wanted: Vec<_> = places
            .iter()
            .flat_map(|(_, version, key)| [keys::key_key(id, key), log_key(id, *version, key)])
            .collect();
        let mut rows = self.store.get_many(&wanted)?.into_iter();
        let mut row = |version: Version| {
            rows.next().flatten().ok_or_else(|| StoreError::Damaged {
                place: format!("collection {}, version {version}", id.0),
                reason: "a tombstone lacks one of its rows".to_owned(),
            })
        };
        let with_rows = |(time, version, key)| {
            let (key_row, log_row) = (row(version)?, row(version)?);
            Ok(Tombstone { time, version, key, key_row, log_row })
        };
        places.into_iter().map(with_rows).collect()
    }
}

// === impl Purging ===

impl Purging {
    /// These tombstones of a collection are removed, the oldest it had.
    fn passed(&mut self, id: CollectionId, tombstones: &[Tombstone]) {
        if let Some(Tombstone { time, version, key, .. }) = tombstones.last() {
            let last = keys::tombstone_key(id, *time, *version, key);
            self.fronts.pass(&keys::tombstone_range(id), &last);
        }
    }
}

// === impl Waiting ===

impl Waiting {
    fn add(&mut self, name: &CollectionName) {
        if !self.names.contains(name) {
            self.names.insert(name.clone());
        }
    }

    /// The collection whose turn it is.
    fn take(&mut self) -> Option<CollectionName> {
        let behind =
            self.served.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
        let next = self.names.range::<str, _>((behind, Bound::Unbounded)).next();
        let next = next.or_else(|| self.names.first())?.clone();
        self.names.remove(&next);
        self.served = Some(next.clone());
        Some(next)
    }
}

/// Whether a batch takes no more rows, if its values have so many bytes.
fn is_full(batch: &Batch, bytes: usize) -> bool {
    batch.len() >= BATCH_ROWS_MAX || (!batch.is_empty() && bytes >= BATCH_BYTES_MAX)
}

/// Whether the disk leaves purges room to work.
fn leaves_reserve(room: Result<(), StoreError>) -> Result<bool, StoreError> {
    match room {
        Ok(()) => Ok(true),
        Err(StoreError::Full { free, wanted }) => Ok(free >= wanted.div_ceil(2)),
        Err(error) => Err(error),
    }
}
