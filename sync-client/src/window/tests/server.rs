//! A server of one collection as a window needs it, over plain maps, with the memory of every state
//! that ever was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sync_proto::digest::Digest;
use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, CollectionName, Cursor, Delta, Epoch, Event, Head, Item,
    Key, ListItems, OrderPlace, Plan, Reset, ResetReason, Scope, SortKey, Target, Timestamp, Value,
    Version,
};

use super::super::machine::{Fault, Listed};
use crate::client::{Found, GetItemsReply};

/// (sort key, key, version), in list order.
pub(super) type State = Vec<(SortKey, Key, Version)>;

pub(super) struct Server {
    epochs: u64,
    life: Option<Life>,
    history: BTreeMap<(u64, Version), State>,
    deleted: BTreeSet<Key>,
    values: BTreeSet<(Key, Vec<u8>)>,
}

struct Life {
    epoch: Epoch,
    version: Version,
    floor: Version,
    rows: BTreeMap<Key, Row>,
}

struct Row {
    version: Version,
    created: Version,
    value_version: Version,
    /// `None` = a tombstone.
    content: Option<(SortKey, Value)>,
}

/// A target of a stream, as a server serves it.
#[allow(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub(super) struct Stream {
    target: Target,
    begun: bool,
    ended: bool,
    absent: bool,
    live: bool,
}

/// Rows that one page of a listing holds or passes at most.
const PAGE_ROWS: usize = 4;
/// Keys that one answer tells of: never all at once.
pub(super) const GET_KEYS: usize = 3;

fn name() -> CollectionName {
    CollectionName::new("list").unwrap()
}

// === impl Server ===

impl Server {
    pub(super) fn new() -> Self {
        Self {
            epochs: 0,
            life: None,
            history: BTreeMap::new(),
            deleted: BTreeSet::new(),
            values: BTreeSet::new(),
        }
    }

    pub(super) fn put(&mut self, key: &Key, sort_key: SortKey, value: &str) {
        let value = Value::new(Bytes::copy_from_slice(value.as_bytes())).unwrap();
        self.values.insert((key.clone(), value.as_bytes().to_vec()));
        self.write(key, Some((sort_key, value)));
    }

    pub(super) fn reorder(&mut self, key: &Key, sort_key: SortKey) {
        if let Some(value) = self.value(key) {
            self.write(key, Some((sort_key, value)));
        }
    }

    pub(super) fn delete(&mut self, key: &Key) {
        if self.value(key).is_some() {
            self.deleted.insert(key.clone());
            self.write(key, None);
        }
    }

    fn write(&mut self, key: &Key, content: Option<(SortKey, Value)>) {
        let epochs = &mut self.epochs;
        let life = self.life.get_or_insert_with(|| {
            *epochs += 1;
            let (version, floor) = (Version::ZERO, Version::ZERO);
            Life { epoch: Epoch::new(*epochs).unwrap(), version, floor, rows: BTreeMap::new() }
        });
        let version = life.version.next();
        life.version = version;
        let old = life.rows.get(key).filter(|old| old.content.is_some());
        let same = old.filter(|old| {
            let value = |content: &Option<(SortKey, Value)>| {
                content.as_ref().map(|(_, value)| value.clone())
            };
            value(&old.content) == value(&content)
        });
        let created = old.map_or(version, |old| old.created);
        let value_version = same.map_or(version, |old| old.value_version);
        life.rows.insert(key.clone(), Row { version, created, value_version, content });
        let state = life.state();
        self.history.insert((life.epoch.get(), version), state);
    }

    pub(super) fn delete_collection(&mut self) {
        if let Some(life) = self.life.take() {
            self.deleted.extend(life.rows.into_keys());
        }
    }

    pub(super) fn forget_deletes(&mut self) {
        let Some(life) = &mut self.life else { return };
        let dead = life.rows.iter().filter(|(_, row)| row.content.is_none());
        life.floor = dead.map(|(_, row)| row.version).max().unwrap_or(life.floor).max(life.floor);
        life.rows.retain(|_, row| row.content.is_some());
    }

    pub(super) fn head(&self) -> Option<Head> {
        self.life.as_ref().map(Life::head)
    }

    pub(super) fn at(&self, at: Cursor) -> State {
        self.history[&(at.epoch.get(), at.version)].clone()
    }

    pub(super) fn was_deleted(&self, key: &Key) -> bool {
        self.deleted.contains(key)
    }

    pub(super) fn had(&self, key: &Key, value: &Value) -> bool {
        self.values.contains(&(key.clone(), value.as_bytes().to_vec()))
    }

    pub(super) fn value(&self, key: &Key) -> Option<Value> {
        let row = self.life.as_ref()?.rows.get(key)?;
        row.content.as_ref().map(|(_, value)| value.clone())
    }

    pub(super) fn value_version(&self, key: &Key) -> u64 {
        let row = self.life.as_ref().and_then(|life| life.rows.get(key));
        row.map_or(0, |row| row.value_version.get())
    }

    pub(super) fn list(&self, asked: &ListItems) -> Result<Listed, Fault> {
        let life = self.life.as_ref().ok_or(Fault::Absent)?;
        let mut position = None;
        if !asked.page_token.is_empty() {
            let (epoch, rest) = asked.page_token.split_at(8);
            if u64::from_be_bytes(epoch.try_into().unwrap()) != life.epoch.get() {
                return Err(Fault::BeginAgain);
            }
            position = Some(place_of(rest));
        }
        let mut all: Vec<Item> = life.items().collect();
        if asked.descending {
            all.reverse();
        }
        let behind = all.into_iter().filter(|item| {
            let place = OrderPlace::of(&item.sort_key, &item.key);
            let behind = position.as_ref().is_none_or(|position| {
                if asked.descending { place < *position } else { place > *position }
            });
            behind && asked.stretch.contains(&item.sort_key, &item.key)
        });
        let mut items = Vec::new();
        let (mut skipped, mut passed, mut last, mut more) = (0, 0, None, false);
        for item in behind {
            if items.len() == asked.page_size || passed == PAGE_ROWS {
                more = true;
                break;
            }
            passed += 1;
            last = Some(OrderPlace::of(&item.sort_key, &item.key));
            if skipped < asked.skip {
                skipped += 1;
            } else {
                items.push(Item { value: None, ..item });
            }
        }
        let next = last.filter(|_| more).map(|place| token(life.epoch, &place));
        Ok(Listed { items, next, head: life.head(), skipped })
    }

    pub(super) fn get(&self, keys: &[Key]) -> Result<GetItemsReply, Fault> {
        let life = self.life.as_ref().ok_or(Fault::Absent)?;
        let results = keys.iter().take(GET_KEYS).map(|key| {
            let item = life.items().find(|item| item.key == *key);
            item.map_or_else(|| Found::Gone(key.clone()), Found::Item)
        });
        Ok(GetItemsReply { results: results.collect(), head: life.head() })
    }
}

fn token(epoch: Epoch, place: &OrderPlace) -> Bytes {
    let sort_key = place.sort_key.as_bytes();
    let mut token = epoch.get().to_be_bytes().to_vec();
    token.push(u8::try_from(sort_key.len()).unwrap());
    token.extend_from_slice(sort_key);
    token.extend_from_slice(place.key.as_ref().unwrap().as_bytes());
    token.into()
}

fn place_of(token: &[u8]) -> OrderPlace {
    let (sort_key, key) = token[1..].split_at(token[0].into());
    let sort_key = SortKey::new(Bytes::copy_from_slice(sort_key)).unwrap();
    OrderPlace::of(&sort_key, &Key::new(Bytes::copy_from_slice(key)).unwrap())
}

// === impl Life ===

impl Life {
    fn head(&self) -> Head {
        Head {
            epoch: self.epoch,
            version: self.version,
            floor: self.floor,
            items: self.rows.values().filter(|row| row.content.is_some()).count() as u64,
            tombstones: 0,
            bytes: 0,
            digest: Digest::EMPTY,
            commit_time: Timestamp::default(),
        }
    }

    /// In list order.
    fn items(&self) -> impl Iterator<Item = Item> {
        let mut items: Vec<Item> = Vec::new();
        for (key, row) in &self.rows {
            let Some((sort_key, value)) = &row.content else { continue };
            items.push(Item {
                key: key.clone(),
                value: Some(value.clone()),
                value_size: 0,
                sort_key: sort_key.clone(),
                version: row.version,
                created: row.created,
                value_version: row.value_version,
            });
        }
        items.sort_by(|a, b| (&a.sort_key, &a.key).cmp(&(&b.sort_key, &b.key)));
        items.into_iter()
    }

    fn state(&self) -> State {
        self.items().map(|item| (item.sort_key, item.key, item.version)).collect()
    }

    /// The next page behind a caught-up cursor, of so many changes.
    fn page(&self, target: &Target, from: Cursor, most: usize) -> Delta {
        let Scope::Order(range) = &target.scope else { panic!("a window asks for a stretch") };
        assert!(target.keys_only, "values are fetched by key");
        let mut rows: Vec<_> =
            self.rows.iter().filter(|(_, row)| row.version > from.version).collect();
        rows.sort_by_key(|(_, row)| row.version);
        let has_more = rows.len() > most;
        rows.truncate(most);
        let change = |(key, row): (&Key, &Row)| {
            let kind = match &row.content {
                None => ChangeKind::Delete,
                Some((sort_key, _)) if range.contains(sort_key, key) => ChangeKind::Put {
                    value: None,
                    sort_key: sort_key.clone(),
                    value_version: row.value_version,
                },
                Some(_) => ChangeKind::LeftScope,
            };
            Change { key: key.clone(), version: row.version, created: row.created, kind }
        };
        let changes: Vec<Change> = rows.into_iter().map(change).collect();
        let last = changes.last().map(|change| change.version);
        let to = match last.filter(|_| has_more) {
            Some(last) => from.between_pages(last),
            None => self.head().cursor(),
        };
        let (initial, unverified) = (false, false);
        Delta { from, to, changes, has_more, initial, digest: None, unverified, head: self.head() }
    }
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(target: Target) -> Self {
        Self { target, begun: false, ended: false, absent: false, live: false }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Where a caught-up target stands.
    pub(super) fn position(&self, server: &Server) -> Option<Cursor> {
        let at = self.target.cursor?;
        let head = server.head()?;
        let current = self.live && !self.ended && at.epoch == head.epoch;
        (current && at.version == head.version).then(|| head.cursor())
    }

    /// What the server says next.
    pub(super) fn say(&mut self, server: &Server, most: usize) -> Vec<Event> {
        if self.ended {
            return Vec::new();
        }
        let accepted = |plan, head| {
            let target = AcceptedTarget { collection: name(), plan, head };
            vec![Event::Accepted(vec![target], std::time::Duration::from_secs(1))]
        };
        let first = !std::mem::replace(&mut self.begun, true);
        let Some(life) = &server.life else {
            let told = std::mem::replace(&mut self.absent, true);
            return match (first, self.target.notify_only) {
                (true, true) => accepted(Plan::Notify, None),
                (true, false) => accepted(Plan::Absent, None),
                (false, _) if told => Vec::new(),
                (false, _) => vec![Event::Absent(name())],
            };
        };
        if self.target.notify_only {
            let head = Some(life.head());
            return match (first, std::mem::take(&mut self.absent)) {
                (true, _) => accepted(Plan::Notify, head),
                (false, true) => vec![Event::Notice(name(), life.head())],
                (false, false) => Vec::new(),
            };
        }
        let Some(at) = self.target.cursor.filter(|at| at.epoch == life.epoch) else {
            return self.reset(first, ResetReason::EpochChanged, life);
        };
        if at.version < life.floor && at.version != life.version {
            return self.reset(first, ResetReason::BelowFloor, life);
        }
        if first {
            self.live = at.version == life.version;
            let plan = if self.live { Plan::Live } else { Plan::CatchUp };
            return accepted(plan, Some(life.head()));
        }
        if at.version == life.version {
            return Vec::new();
        }
        let delta = life.page(&self.target, at, most);
        self.target.cursor = Some(delta.to);
        let mut events = Vec::new();
        let arrives = !delta.has_more && !self.live;
        if self.live && delta.has_more {
            events.push(Event::Lagging(name(), 1));
        }
        self.live = !delta.has_more;
        let to = delta.to;
        events.push(Event::Changes(name(), delta));
        events.extend(arrives.then(|| Event::CaughtUp(name(), to)));
        events
    }

    fn reset(&mut self, first: bool, reason: ResetReason, life: &Life) -> Vec<Event> {
        self.ended = true;
        let head = life.head();
        let reset = Reset { reason, head, estimated_changes: 0, estimated_bytes: 0 };
        if first {
            let target =
                AcceptedTarget { collection: name(), plan: Plan::Reset(reset), head: Some(head) };
            return vec![Event::Accepted(vec![target], std::time::Duration::from_secs(1))];
        }
        vec![Event::Reset(name(), reset)]
    }
}
