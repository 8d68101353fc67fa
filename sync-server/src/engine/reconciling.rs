//! Rounds of a reconciliation over the store. The sums of segments are rows, and so is the index
//! of the items of a segment, so a round costs what it answers, however large the collection is.
//! Every answer is read from one durable state.

use std::ops::ControlFlow;

use sync_proto::digest::{Digest, Segment, value_hash};
use sync_proto::limits::RECONCILE_BYTES_MAX;
use sync_proto::types::{Found, Item, Key, LeafEntry, Reconcile, Reconciled, Round};

use super::items::Items;
use super::ledger::Ledger;
use super::view::View;
use crate::core::reconcile::{BeginAgain, PageRoom, continues, group_sums, leaf_sums};
use crate::core::window::{self, TokenRefusal};
use crate::store::keys::{
    CollectionId, ROW_HEADER_LEN, Row, group_range, member_key, member_range, segments_range,
};
use crate::store::{Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

/// Why a round has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// There is no such collection.
    #[error("there is no such collection")]
    NotFound,
    /// The rounds cannot go on from their first head.
    #[error(transparent)]
    BeginAgain(#[from] BeginAgain),
    /// The page token cannot be continued.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// Storage failed.
    #[error("storage failed")]
    Store(#[from] StoreError),
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Answers a round.
    pub fn reconcile(&self, asked: &Reconcile) -> Result<Reconciled, ReconcileError> {
        let (id, meta, view) = self.view(&asked.collection).ok_or(ReconcileError::NotFound)?;
        let head = meta.head;
        let found = match &asked.round {
            Round::Groups => Found::Sums(group_sums(sums(&segments_range(id), &view)?)),
            Round::Leaves { at, groups } => {
                continues(&head, *at)?;
                let mut leaves = Vec::new();
                for group in groups {
                    leaves.extend(leaf_sums(*group, sums(&group_range(id, *group), &view)?));
                }
                Found::Sums(leaves)
            }
            Round::Entries { at, segments, page_token } => {
                continues(&head, *at)?;
                let question = window::entries_question(&asked.collection, segments);
                let position = window::position(page_token, head.epoch, question)?;
                let (entries, last) = entries(id, segments, position, &view)?;
                let token = |place: Vec<u8>| window::token(head.epoch, question, &place);
                Found::Entries(entries, last.map(token).unwrap_or_default())
            }
        };
        Ok(Reconciled { head, found })
    }
}

/// The sums of the segments whose rows are in `range`.
fn sums<S: Store>(
    range: &KeyRange,
    view: &View<'_, S>,
) -> Result<Vec<(Segment, Digest)>, StoreError> {
    let mut sums = Vec::new();
    let mut broken = None;
    view.scan(range, Direction::Forward, &mut |place, value| {
        match Row::decode(place, value) {
            Ok(Row::Segment { segment, digest, .. }) => {
                sums.push((segment, digest));
                return ControlFlow::Continue(());
            }
            Ok(_) => broken = Some(foreign("the segment sums")),
            Err(error) => broken = Some(error),
        }
        ControlFlow::Break(())
    })?;
    broken.map_or(Ok(sums), Err)
}

/// The entries of these segments behind `position`, as many as fit, and the place where they end
/// if there may be more.
fn entries<S: Store>(
    id: CollectionId,
    segments: &[Segment],
    position: Option<&[u8]>,
    view: &View<'_, S>,
) -> Result<(Vec<LeafEntry>, Option<Vec<u8>>), StoreError> {
    let mut room = PageRoom::default();
    let mut entries = Vec::new();
    let mut last = position.map(<[u8]>::to_vec);
    let ranges = segments.iter().map(|segment| behind(member_range(id, *segment), position));
    let (keys, more) = members(ranges, room.entries(), view)?;
    for found in Items::new(id, keys, false, view) {
        let (key, item) = found?;
        let entry = entry(item)?;
        if !room.take(&entry) {
            return Ok((entries, last));
        }
        let place = member_key(id, Segment::of_key(&key), &key);
        last = Some(place[ROW_HEADER_LEN..].to_vec());
        entries.push(entry);
    }
    Ok((entries, last.filter(|_| more)))
}

/// The part of `range` behind the place that a page token points to.
fn behind(range: KeyRange, position: Option<&[u8]>) -> KeyRange {
    let Some(position) = position else { return range };
    // The smallest key behind it.
    let place = [&range.start[..ROW_HEADER_LEN], position, &[0]].concat();
    KeyRange { start: range.start.max(place), end: range.end }
}

/// Keys of the items in `ranges`, at most so many, and whether there are more.
fn members<S: Store>(
    ranges: impl Iterator<Item = KeyRange>,
    most: usize,
    view: &View<'_, S>,
) -> Result<(Vec<Key>, bool), StoreError> {
    let mut keys = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    let mut broken = None;
    let mut visit = |place: &[u8], value| {
        if keys.len() == most || bytes > RECONCILE_BYTES_MAX {
            more = true;
            return ControlFlow::Break(());
        }
        match Row::decode(place, value) {
            Ok(Row::Member { key, .. }) => {
                bytes += key.as_bytes().len();
                keys.push(key);
                return ControlFlow::Continue(());
            }
            Ok(_) => broken = Some(foreign("the items by segment")),
            Err(error) => broken = Some(error),
        }
        ControlFlow::Break(())
    };
    for range in ranges {
        let mut ended = false;
        view.scan(&range, Direction::Forward, &mut |place, value| {
            let flow = visit(place, value);
            ended = flow.is_break();
            flow
        })?;
        if ended {
            break;
        }
    }
    broken.map_or(Ok((keys, more)), Err)
}

fn entry(item: Option<Item>) -> Result<LeafEntry, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged {
        place: "the items by segment".to_owned(),
        reason: reason.to_owned(),
    };
    let item = item.ok_or_else(|| damaged("name an item that is not there"))?;
    let value = item.value.ok_or_else(|| damaged("name an item without a value"))?;
    Ok(LeafEntry {
        key: item.key,
        version: item.version,
        value_hash: value_hash(value.as_bytes()),
        sort_key: item.sort_key,
        created: item.created,
        value_version: item.value_version,
        value_size: item.value_size,
    })
}

fn foreign(place: &str) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), reason: "hold a row of another kind".to_owned() }
}
