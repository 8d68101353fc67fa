//! A small reference server: what the protocol says, over plain maps.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_proto::digest::{Digest, SEGMENTS, Segment, value_hash};
use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, CollectionName, Cursor, Delta, Epoch, Event, Failure,
    Found, Head, Item, Key, LeafEntry, Outcome, Plan, Position, Reconciled, Reset, ResetReason,
    Round, SortKey, Subscribe, Target, Timestamp, Value, Version,
};

#[allow(dead_code, reason = "shared by tests of which each needs a part")]
pub(crate) mod inboxes;

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
    /// Count and digest at a head: a large list is looked at often.
    known: Cell<Option<(Epoch, Version, u64, Digest)>>,
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
    /// And whether a cursor below the floor is served.
    targets: BTreeMap<CollectionName, (Serve, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Serve {
    After(Option<Cursor>),
    Absent,
    Ended,
}

/// Why the rounds of a reconciliation cannot go on.
#[derive(Debug)]
pub(crate) enum NoRound {
    Moved,
    NotFound,
}

/// Entries of a reconciliation that a page holds.
const ENTRIES: usize = 3;
/// Items are said to be large, so that comparing copies pays.
const ITEM_BYTES: u64 = 10_000;

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

    /// Another backup is in place. With the epoch that it had, somebody has copied a directory.
    pub(crate) fn restore(&mut self, name: &CollectionName, backup: Log, anew: bool) {
        let (epoch, head) = (backup.epoch.get(), backup.head);
        self.collections.insert(name.clone(), backup);
        if anew {
            return self.rotate(name);
        }
        // What comes after it uses versions again.
        self.history.retain(|(of, life, at), _| of != name || *life != epoch || *at <= head);
    }

    /// The answer to a round of a reconciliation.
    pub(crate) fn round(
        &self,
        name: &CollectionName,
        round: &Round,
    ) -> Result<Reconciled, NoRound> {
        let log = self.collections.get(name).ok_or(NoRound::NotFound)?;
        let going_on = |at: &Cursor| {
            let same = at.epoch == log.epoch && at.version >= log.floor;
            if same { Ok(()) } else { Err(NoRound::Moved) }
        };
        let found = match round {
            Round::Groups => Found::Sums(log.sums().chunks(64).map(sum).collect()),
            Round::Leaves { at, groups } => {
                going_on(at)?;
                let sums = log.sums();
                let group = |number: usize| sums[number * 64..(number + 1) * 64].to_vec();
                Found::Sums(groups.iter().flat_map(|one| group(one.get().into())).collect())
            }
            Round::Entries { at, segments, page_token } => {
                going_on(at)?;
                log.entries(segments, page_token)
            }
        };
        Ok(Reconciled { head: log.head(), found })
    }

    /// The items of these keys that exist.
    pub(crate) fn items(&self, name: &CollectionName, keys: &[Key]) -> Option<(Vec<Item>, Head)> {
        let log = self.collections.get(name)?;
        let item = |key: &Key| log.rows.get(key)?.item(key);
        Some((keys.iter().filter_map(item).collect(), log.head()))
    }

    pub(crate) fn outcome(&self, target: &Target, limit: usize) -> Outcome {
        let Target { collection: name, cursor, verify, .. } = target;
        self.look(name, *cursor, *verify, limit)
    }

    fn look(
        &self,
        name: &CollectionName,
        cursor: Option<Cursor>,
        verify: bool,
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
        } else if needed < log.floor && (!verify || from.is_loading()) {
            return reset(ResetReason::BelowFloor);
        }
        let unverified = needed < log.floor;
        Outcome::Delta(Delta { unverified, ..log.page(from, head, limit) })
    }

    pub(crate) fn serve(&self, subscribe: &Subscribe) -> (Serving, Event) {
        let mut targets = BTreeMap::new();
        let mut accepted = Vec::new();
        for target in &subscribe.targets {
            let head = self.collections.get(&target.collection).map(Log::head);
            let (plan, serve) = match self.outcome(target, 1) {
                Outcome::Aligned(_) => (Plan::Live, Serve::After(target.cursor)),
                Outcome::Delta(_) => (Plan::CatchUp, Serve::After(target.cursor)),
                Outcome::Reset(reset) => (Plan::Reset(reset), Serve::Ended),
                _ => (Plan::Absent, Serve::Absent),
            };
            targets.insert(target.collection.clone(), (serve, target.verify));
            accepted.push(AcceptedTarget { collection: target.collection.clone(), plan, head });
        }
        (Serving { targets }, Event::Accepted(accepted, subscribe.heartbeat))
    }

    /// Whatever the stream has to say now.
    pub(crate) fn push(&self, serving: &mut Serving, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, (serve, verify)) in &mut serving.targets {
            let cursor = match serve {
                Serve::Ended => continue,
                Serve::Absent if !self.collections.contains_key(name) => continue,
                Serve::Absent => None,
                Serve::After(cursor) => *cursor,
            };
            match self.look(name, cursor, *verify, limit) {
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
        let position = |(name, (serve, _)): (&CollectionName, &(Serve, bool))| {
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
    Failure { code: 13, message: "simulated".into(), retry_after: None, reason: None }
}

// === impl Log ===

impl Log {
    fn new(epoch: u64) -> Self {
        let epoch = Epoch::new(epoch).unwrap();
        Self {
            epoch,
            head: Version::ZERO,
            floor: Version::ZERO,
            rows: BTreeMap::new(),
            known: Cell::new(None),
        }
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
        let (items, digest) = self.tally();
        Head {
            epoch: self.epoch,
            version: self.head,
            floor: self.floor,
            items,
            tombstones: 0,
            bytes: items * ITEM_BYTES,
            digest,
            commit_time: Timestamp::default(),
        }
    }

    fn live(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.rows.iter().filter(|(_, row)| row.content.is_some())
    }

    /// The sums of all segments.
    fn sums(&self) -> Vec<Digest> {
        let mut sums = vec![Digest::EMPTY; SEGMENTS];
        for (key, row) in self.live() {
            let (value, sort_key) = row.content.as_ref().unwrap();
            let segment = usize::from(Segment::of_key(key).get());
            sums[segment] += Digest::of_item(key, row.version, sort_key, value);
        }
        sums
    }

    /// A page of the items of these segments; the token is the last key of the one before.
    fn entries(&self, segments: &[Segment], page_token: &Bytes) -> Found {
        let place = |key: &Key| (Segment::of_key(key), key.clone());
        let after = (!page_token.is_empty()).then(|| place(&Key::new(page_token.clone()).unwrap()));
        let within = |(key, _): &(&Key, &Row)| {
            segments.contains(&Segment::of_key(key)) && Some(place(key)) > after
        };
        let mut rows: Vec<(&Key, &Row)> = self.live().filter(within).collect();
        rows.sort_by_key(|(key, _)| place(key));
        let more = rows.len() > ENTRIES;
        rows.truncate(ENTRIES);
        let next = rows.last().filter(|_| more).map(|(key, _)| key.to_bytes());
        Found::Entries(
            rows.iter().filter_map(|(key, row)| row.entry(key)).collect(),
            next.unwrap_or_default(),
        )
    }

    fn digest(&self) -> Digest {
        self.tally().1
    }

    fn tally(&self) -> (u64, Digest) {
        if let Some((epoch, head, items, digest)) = self.known.get()
            && (epoch, head) == (self.epoch, self.head)
        {
            return (items, digest);
        }
        let (items, digest) = (self.live().count() as u64, self.sum());
        self.known.set(Some((self.epoch, self.head, items, digest)));
        (items, digest)
    }

    fn sum(&self) -> Digest {
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

fn sum(sums: &[Digest]) -> Digest {
    sums.iter().fold(Digest::EMPTY, |sum, one| sum + *one)
}

// === impl Row ===

impl Row {
    fn item(&self, key: &Key) -> Option<Item> {
        let (value, sort_key) = self.content.clone()?;
        let value_size = u32::try_from(value.len()).unwrap();
        Some(Item {
            key: key.clone(),
            value: Some(Value::new(value).unwrap()),
            value_size,
            sort_key,
            version: self.version,
            created: self.created,
            value_version: self.value_version,
        })
    }

    fn entry(&self, key: &Key) -> Option<LeafEntry> {
        let Item { key, sort_key, version, created, value_version, value_size, value } =
            self.item(key)?;
        let value_hash = value_hash(value?.as_bytes());
        Some(LeafEntry { key, version, value_hash, sort_key, created, value_version, value_size })
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
