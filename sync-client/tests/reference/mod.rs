//! A small reference server: what the protocol says, over plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_proto::digest::Digest;
use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, CollectionName, Cursor, Delta, Epoch, Event, Failure, Head,
    Key, Outcome, Plan, Position, Reset, ResetReason, SortKey, Subscribe, Timestamp, Value,
    Version,
};

#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(crate) collections: BTreeMap<CollectionName, Log>,
    /// Digest of every state that was ever at the head.
    pub(crate) history: BTreeMap<(CollectionName, u64, Version), Digest>,
    next_epoch: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Log {
    epoch: Epoch,
    head: Version,
    floor: Version,
    pub(crate) rows: BTreeMap<Key, Row>,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) version: Version,
    created: Version,
    value_version: Version,
    /// `None` = a tombstone.
    pub(crate) content: Option<(Bytes, SortKey)>,
}

/// A stream as the server serves it.
#[derive(Debug)]
pub(crate) struct Serving {
    targets: BTreeMap<CollectionName, Serve>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Serve {
    After(Option<Cursor>),
    Absent,
    Ended,
}

pub(crate) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

// === impl Server ===

impl Server {
    /// One random commit, which touches a few keys of one collection.
    pub(crate) fn commit(&mut self, name: &CollectionName, dice: &mut StdRng) {
        let log = self.collections.entry(name.clone()).or_insert_with(|| {
            self.next_epoch += 1;
            Log::new(self.next_epoch)
        });
        let next = log.head.get() + if dice.random_bool(0.1) { 1_000 } else { 1 };
        for _ in 0..dice.random_range(1..4) {
            let key = Key::new(format!("k{}", dice.random_range(0..40))).unwrap();
            log.change(key, version(next), dice);
        }
        log.head = version(next);
        self.remember(name);
    }

    /// One commit that puts one item.
    pub(crate) fn put(&mut self, name: &CollectionName, key: Key, value: Bytes) -> Head {
        self.edit(name, key, Some(value))
    }

    /// One commit that deletes one item.
    pub(crate) fn delete(&mut self, name: &CollectionName, key: Key) -> Head {
        self.edit(name, key, None)
    }

    fn edit(&mut self, name: &CollectionName, key: Key, value: Option<Bytes>) -> Head {
        let log = self.collections.entry(name.clone()).or_insert_with(|| {
            self.next_epoch += 1;
            Log::new(self.next_epoch)
        });
        let at = log.head.next();
        let created = log.rows.get(&key).map_or(at, |old| old.created);
        let content = value.map(|value| (value, SortKey::default()));
        log.rows.insert(key, Row { version: at, created, value_version: at, content });
        log.head = at;
        let head = log.head();
        self.remember(name);
        head
    }

    fn remember(&mut self, name: &CollectionName) {
        let log = &self.collections[name];
        let at = (name.clone(), log.epoch.get(), log.head);
        let before = self.history.insert(at, log.digest());
        assert!(before.is_none_or(|before| before == log.digest()), "a version was used twice");
    }

    /// Another life of the log with the same content.
    pub(crate) fn rotate(&mut self, name: &CollectionName) {
        if let Some(log) = self.collections.get_mut(name) {
            self.next_epoch += 1;
            log.epoch = Epoch::new(self.next_epoch).unwrap();
            log.floor = log.head;
            log.rows.retain(|_, row| row.content.is_some());
            self.remember(name);
        }
    }

    /// Forgets all tombstones.
    pub(crate) fn purge(&mut self, name: &CollectionName) {
        if let Some(log) = self.collections.get_mut(name) {
            let purged = log.rows.values().filter(|row| row.content.is_none());
            log.floor = purged.map(|row| row.version).max().unwrap_or(log.floor).max(log.floor);
            log.rows.retain(|_, row| row.content.is_some());
        }
    }

    pub(crate) fn outcome(
        &self,
        name: &CollectionName,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Outcome {
        let Some(log) = self.collections.get(name) else { return Outcome::NotFound };
        let head = log.head();
        let from = cursor.unwrap_or_else(|| Cursor::load_from(&head));
        let reset = |reason| {
            Outcome::Reset(Reset { reason, head, estimated_changes: 0, estimated_bytes: 0 })
        };
        let needed = if from.is_loading() { from.base } else { from.version };
        if from.epoch != head.epoch {
            return reset(ResetReason::EpochChanged);
        } else if from.version.max(from.base) > head.version {
            return reset(ResetReason::AheadOfHead);
        } else if from.version == head.version {
            return Outcome::Aligned(head);
        } else if needed < log.floor {
            return reset(ResetReason::BelowFloor);
        }
        Outcome::Delta(log.page(from, head, limit))
    }

    pub(crate) fn serve(&self, subscribe: &Subscribe) -> (Serving, Event) {
        let mut targets = BTreeMap::new();
        let mut accepted = Vec::new();
        for target in &subscribe.targets {
            let head = self.collections.get(&target.collection).map(Log::head);
            let (plan, serve) = match self.outcome(&target.collection, target.cursor, 1) {
                Outcome::Aligned(_) => (Plan::Live, Serve::After(target.cursor)),
                Outcome::Delta(_) => (Plan::CatchUp, Serve::After(target.cursor)),
                Outcome::Reset(reset) => (Plan::Reset(reset), Serve::Ended),
                _ => (Plan::Absent, Serve::Absent),
            };
            targets.insert(target.collection.clone(), serve);
            accepted.push(AcceptedTarget { collection: target.collection.clone(), plan, head });
        }
        (Serving { targets }, Event::Accepted(accepted, subscribe.heartbeat))
    }

    /// Whatever the stream has to say now.
    pub(crate) fn push(&self, serving: &mut Serving, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, serve) in &mut serving.targets {
            let cursor = match serve {
                Serve::Ended => continue,
                Serve::Absent if !self.collections.contains_key(name) => continue,
                Serve::Absent => None,
                Serve::After(cursor) => *cursor,
            };
            match self.outcome(name, cursor, limit) {
                Outcome::Delta(delta) => {
                    *serve = Serve::After(Some(delta.to));
                    let done = (!delta.has_more).then_some(delta.to);
                    events.push(Event::Changes(name.clone(), delta));
                    events.extend(done.map(|to| Event::CaughtUp(name.clone(), to)));
                }
                Outcome::Reset(reset) => {
                    *serve = Serve::Ended;
                    events.push(Event::Reset(name.clone(), reset));
                }
                Outcome::NotFound => {
                    *serve = Serve::Absent;
                    events.push(Event::Absent(name.clone()));
                }
                _ => {}
            }
        }
        events
    }

    pub(crate) fn bookmark(&self, serving: &Serving) -> Event {
        let position = |(name, serve): (&CollectionName, &Serve)| {
            let head = self.collections.get(name)?.head();
            (*serve == Serve::After(Some(head.cursor()))).then(|| Position {
                collection: name.clone(),
                cursor: head.cursor(),
                digest: Some(head.digest),
                commit_time: Timestamp::default(),
            })
        };
        Event::Bookmark(serving.targets.iter().filter_map(position).collect(), Timestamp::default())
    }
}

pub(crate) fn failure() -> Failure {
    Failure { code: 13, message: "simulated".into(), retry_after: None }
}

// === impl Log ===

impl Log {
    fn new(epoch: u64) -> Self {
        let epoch = Epoch::new(epoch).unwrap();
        Self { epoch, head: Version::ZERO, floor: Version::ZERO, rows: BTreeMap::new() }
    }

    fn change(&mut self, key: Key, at: Version, dice: &mut StdRng) {
        let live = self.rows.get(&key).filter(|row| row.content.is_some()).cloned();
        let roll = dice.random_range(0..10);
        let row = match live {
            Some(old) if roll < 3 => Row { version: at, content: None, ..old },
            // A reorder: the value stays, and its version with it.
            Some(old) if roll < 5 => {
                let sort_key = SortKey::new(vec![dice.random::<u8>()]).unwrap();
                let value = old.content.as_ref().unwrap().0.clone();
                Row { version: at, content: Some((value, sort_key)), ..old }
            }
            other => {
                let value = Bytes::from(dice.random::<u32>().to_be_bytes().to_vec());
                let created = other.map_or(at, |old| old.created);
                let content = Some((value, SortKey::default()));
                Row { version: at, created, value_version: at, content }
            }
        };
        let gone = row.content.is_none();
        if !gone || self.rows.contains_key(&key) {
            self.rows.insert(key, row);
        }
    }

    pub(crate) fn head(&self) -> Head {
        Head {
            epoch: self.epoch,
            version: self.head,
            floor: self.floor,
            items: self.rows.values().filter(|row| row.content.is_some()).count() as u64,
            tombstones: 0,
            bytes: 0,
            digest: self.digest(),
            commit_time: Timestamp::default(),
        }
    }

    fn digest(&self) -> Digest {
        self.rows.iter().fold(Digest::EMPTY, |sum, (key, row)| match &row.content {
            Some((value, sort_key)) => sum + Digest::of_item(key, row.version, sort_key, value),
            None => sum,
        })
    }

    fn page(&self, from: Cursor, head: Head, limit: usize) -> Delta {
        let mut rows: Vec<(&Key, &Row)> =
            self.rows.iter().filter(|(_, row)| row.version > from.version).collect();
        rows.sort_by_key(|(key, row)| (row.version, (*key).clone()));
        let skipped =
            |row: &Row| row.content.is_none() && from.is_loading() && row.version <= from.base;
        let mut changes: Vec<Change> = Vec::new();
        let mut more = false;
        for (key, row) in rows.into_iter().filter(|(_, row)| !skipped(row)) {
            let new_version = changes.last().is_some_and(|last| last.version < row.version);
            if new_version && changes.len() >= limit {
                more = true;
                break;
            }
            changes.push(outgoing(key, row, &from));
        }
        let last = changes.last().map(|change| change.version);
        let to = match last {
            Some(last) if more => from.between_pages(last),
            _ => head.cursor(),
        };
        Delta {
            from,
            to,
            changes,
            has_more: more,
            initial: from.is_loading(),
            digest: (!more).then_some(head.digest),
            unverified: false,
            head,
        }
    }
}

fn outgoing(key: &Key, row: &Row, from: &Cursor) -> Change {
    let kind = match &row.content {
        None => ChangeKind::Delete,
        Some((value, sort_key)) => {
            let known = from.is_caught_up()
                && row.created <= from.version
                && row.value_version <= from.version;
            let value = (!known).then(|| Value::new(value.clone()).unwrap());
            ChangeKind::Put { value, sort_key: sort_key.clone(), value_version: row.value_version }
        }
    };
    Change { key: key.clone(), version: row.version, created: row.created, kind }
}
