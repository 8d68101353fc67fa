//! One collection, row by row: which row lacks another, which says something else. Needs look-ups
//! for every row, so it is only for collections whose sums do not agree.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{Head, Key, Version};

use super::Findings;
use super::naming::{self, text};
use crate::core::check::Logged;
use crate::store::disk::aside::Aside;
use crate::store::keys::{self, CollectionId, Held, Row};
use crate::store::rows::{KeyRow, LogRow, Meta, Receipt, RowKind};

/// A collection under examination.
struct Exact<'a> {
    store: &'a Aside,
    id: CollectionId,
    findings: &'a mut Findings,
    /// What its log adds up to.
    items: u64,
    tombstones: u64,
    bytes: u64,
    digest: Digest,
    newest: Version,
    segments: BTreeMap<Segment, Digest>,
}

/// Names every row of a collection that does not fit the others.
pub(super) fn collection(store: &Aside, id: CollectionId, findings: &mut Findings) {
    let mut exact = Exact {
        store,
        id,
        findings,
        items: 0,
        tombstones: 0,
        bytes: 0,
        digest: Digest::EMPTY,
        newest: Version::default(),
        segments: BTreeMap::new(),
    };
    let meta = exact.meta();
    for range in keys::doomed_ranges(id) {
        store.scan(&range, &mut |key, value| {
            // A row that does not read, or does not fit itself, was told when all rows were read.
            if let Ok(row) = Row::decode(key, value) {
                exact.row(row, meta.as_ref().map(|meta| &meta.head));
            }
            ControlFlow::Continue(())
        });
    }
    exact.missing_segments();
    if let Some(meta) = meta {
        exact.head(&meta.head);
    }
}

/// Names every receipt without an age, and every age without a receipt.
pub(super) fn receipts(store: &Aside, findings: &mut Findings) {
    for range in [keys::receipt_range(), keys::receipt_age_range()] {
        store.scan(&range, &mut |place, value| {
            let what = match Row::decode(place, value) {
                Ok(Row::Receipt { kind, name, receipt }) => {
                    let age = keys::receipt_age_key(receipt.time, kind, &name);
                    store
                        .get(&age)
                        .is_none()
                        .then_some("it has no age and would never be forgotten")
                }
                Ok(Row::ReceiptAge { time, kind, name }) => {
                    let receipt = store.get(&keys::receipt_key(kind, &name));
                    let receipt = receipt.and_then(|value| Receipt::decode(value).ok());
                    let fits = receipt.is_some_and(|receipt| receipt.time == time);
                    (!fits).then_some("there is no receipt of that age")
                }
                _ => None,
            };
            if let Some(what) = what {
                findings.add((naming::row(place), what.to_owned()));
            }
            ControlFlow::Continue(())
        });
    }
}

/// Names every held cursor without an age, and every age without a cursor.
pub(super) fn acks(store: &Aside, findings: &mut Findings) {
    for range in [keys::ack_range(), keys::ack_age_range()] {
        store.scan(&range, &mut |place, value| {
            let what = match Row::decode(place, value) {
                Ok(Row::Ack { place, held }) => {
                    let age = store.get(&keys::ack_age_key(held.time, &place));
                    age.is_none().then_some("it has no age and would never be forgotten")
                }
                Ok(Row::AckAge { time, place }) => {
                    let held = store.get(&keys::ack_key(&place));
                    let held = held.and_then(|value| Held::decode(value).ok());
                    let fits = held.is_some_and(|held| held.time == time);
                    (!fits).then_some("there is no ack of that age")
                }
                _ => None,
            };
            if let Some(what) = what {
                findings.add((naming::row(place), what.to_owned()));
            }
            ControlFlow::Continue(())
        });
    }
}

// === impl Exact ===

impl Exact<'_> {
    fn finding(&mut self, row: &[u8], what: impl Into<String>) {
        self.findings.add((naming::row(row), what.into()));
    }

    fn meta(&mut self) -> Option<Meta> {
        let place = keys::meta_key(self.id);
        let Some(value) = self.store.get(&place) else {
            self.finding(&place, "it is missing, but there are rows of the collection");
            return None;
        };
        let Ok(Row::Meta { meta, .. }) = Row::decode(&place, value) else { return None };
        let name = keys::name_key(&meta.name);
        let id = self.store.get(&name).and_then(|value| match Row::decode(&name, value) {
            Ok(Row::Name { id, .. }) => Some(id),
            _ => None,
        });
        match id {
            Some(id) if id == self.id => {}
            Some(id) => self.finding(&name, format!("leads to {}, not to {}", id.0, self.id.0)),
            None => self.finding(&name, format!("is missing, it should lead to {}", self.id.0)),
        }
        Some(meta)
    }

    fn row(&mut self, row: Row, head: Option<&Head>) {
        match row {
            Row::Log { version, key, row, .. } => self.log_row(version, &key, row, head),
            Row::Key { key, row, .. } => self.key_row(&key, &row),
            Row::Order { sort_key, key, .. } => {
                let there = self.key_row_of(&key);
                let fits =
                    there.is_some_and(|it| it.kind == RowKind::Live && it.sort_key == sort_key);
                if !fits {
                    let place = keys::order_key(self.id, &sort_key, &key);
                    self.finding(&place, "no item is at this place");
                }
            }
            Row::Tombstone { time, version, key, .. } => {
                let there = self.key_row_of(&key);
                let fits = there.is_some_and(|it| {
                    it.kind == RowKind::Tombstone && it.version == version && it.time == time
                });
                if !fits {
                    let place = keys::tombstone_key(self.id, time, version, &key);
                    self.finding(&place, "there is no such tombstone");
                }
            }
            Row::Member { segment, key, .. } => {
                let there = self.key_row_of(&key);
                let fits = there.is_some_and(|it| it.kind == RowKind::Live);
                if !fits || Segment::of_key(&key) != segment {
                    let place = keys::member_key(self.id, segment, &key);
                    self.finding(&place, "there is no such item in this segment");
                }
            }
            Row::Segment { segment, digest, .. } => {
                let sum = self.segments.remove(&segment).unwrap_or(Digest::EMPTY);
                if sum != digest {
                    let place = keys::segment_key(self.id, segment);
                    self.finding(&place, format!("it says {digest}, the items add up to {sum}"));
                }
            }
            Row::Name { .. }
            | Row::Meta { .. }
            | Row::Policy { .. }
            | Row::Upgrading
            | Row::Doomed { .. }
            | Row::Receipt { .. }
            | Row::ReceiptAge { .. }
            | Row::Audience { .. }
            | Row::AudienceState { .. }
            | Row::Sweep { .. }
            | Row::Ack { .. }
            | Row::AckAge { .. }
            | Row::NextId { .. }
            | Row::Format { .. } => {}
        }
    }

    fn log_row(&mut self, version: Version, key: &Key, row: LogRow, head: Option<&Head>) {
        let Ok(logged) = Logged::of_log(version, key, row) else { return };
        let place = keys::log_key(self.id, version, key);
        self.newest = self.newest.max(version);
        if logged.live {
            self.items += 1;
            self.bytes += logged.bytes(key);
            self.digest += logged.digest;
            *self.segments.entry(Segment::of_key(key)).or_default() += logged.digest;
        } else {
            self.tombstones += 1;
        }
        if let Some(head) = head {
            if version > head.version {
                self.finding(&place, format!("it is above the head, {}", head.version));
            }
            if !logged.live && version < head.floor {
                self.finding(&place, format!("a tombstone below the floor, {}", head.floor));
            }
        }
        let Some(there) = self.key_row_of(key) else {
            return self.finding(&place, "its key has no key row");
        };
        if there.version != version {
            let what = format!("it was left behind: {} is at version {}", text(key), there.version);
            return self.finding(&place, what);
        }
        if let Some(what) = logged.difference(&Logged::of_key(&there)) {
            self.finding(&place, format!("its key row says another {what}"));
        }
    }

    fn key_row(&mut self, key: &Key, row: &KeyRow) {
        let place = keys::key_key(self.id, key);
        if self.store.get(&keys::log_key(self.id, row.version, key)).is_none() {
            let what = format!("it leads to version {}, where there is no such row", row.version);
            self.finding(&place, what);
        }
        let others = match row.kind {
            RowKind::Live => vec![
                (keys::order_key(self.id, &row.sort_key, key), "has no place in order"),
                (
                    keys::member_key(self.id, Segment::of_key(key), key),
                    "is not in the index of its segment",
                ),
            ],
            RowKind::Tombstone => vec![(
                keys::tombstone_key(self.id, row.time, row.version, key),
                "is a tombstone that would never be purged",
            )],
        };
        for (other, what) in others {
            if self.store.get(&other).is_none() {
                self.finding(&place, what);
            }
        }
    }

    fn key_row_of(&self, key: &Key) -> Option<KeyRow> {
        let value: Bytes = self.store.get(&keys::key_key(self.id, key))?;
        KeyRow::decode(value).ok()
    }

    fn missing_segments(&mut self) {
        for (segment, sum) in std::mem::take(&mut self.segments) {
            if sum != Digest::EMPTY {
                let place = keys::segment_key(self.id, segment);
                self.finding(&place, format!("it is missing, the items add up to {sum}"));
            }
        }
    }

    fn head(&mut self, head: &Head) {
        let place = keys::meta_key(self.id);
        for (what, said, found) in [
            ("items", head.items, self.items),
            ("tombstones", head.tombstones, self.tombstones),
            ("bytes", head.bytes, self.bytes),
        ] {
            if said != found {
                self.finding(&place, format!("it says {said} {what}, the log has {found}"));
            }
        }
        if head.digest != self.digest {
            let (said, found) = (head.digest, self.digest);
            self.finding(&place, format!("it says digest {said}, the log adds up to {found}"));
        }
    }
}
