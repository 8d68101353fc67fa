//! What a feed tells a consumer that looks seldom.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests name the one case they want")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::digest::Segment;
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Cursor, Epoch, Key, Scope, SortKey, Value, Version,
};

use super::*;
use crate::codec::Raw;
use crate::collection::Collection;
use crate::session::Status;
use crate::store::{
    Applied, MemoryStore, Notes, ReplicaStore, Rescoped, Snapshot, Staged, Standing, Step,
    StoreError, Sums, Write,
};

/// A store in memory that waits and fails on request.
#[derive(Debug, Clone, Default)]
struct Frail {
    rows: MemoryStore,
    /// Writes wait while a test holds this.
    busy: Arc<Mutex<()>>,
    /// Reads wait while a test holds this.
    slow: Arc<Mutex<()>>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Reads of this key fail.
    get: Option<Key>,
    /// The rows before a swap are damaged.
    swapped: bool,
}

/// A copy that tests change by hand.
struct Desk {
    view: Arc<View>,
    at: u64,
}

fn key(number: u64) -> Key {
    Key::new(format!("{number:09}")).unwrap()
}

fn change(number: u64, value: Option<u8>, at: u64) -> Change {
    let version = Version::new(at).unwrap();
    let kind = value.map_or(ChangeKind::Delete, |value| ChangeKind::Put {
        value: Some(Value::new(vec![value]).unwrap()),
        sort_key: SortKey::default(),
        value_version: version,
    });
    Change { key: key(number), version, created: version, kind }
}

// === impl Frail ===

impl Frail {
    /// The disk is slow; a reader that waits for it on the thread of the test waits for itself.
    fn disk(&self) {
        let free = self.slow.try_lock_for(std::time::Duration::from_secs(10));
        assert!(free.is_some(), "a read waits where it keeps everybody waiting");
    }
}

impl ReplicaStore for Frail {
    fn standing(&self, collection: &CollectionName) -> Result<Standing, StoreError> {
        self.rows.standing(collection)
    }

    fn rescope(&self, collection: &CollectionName, scope: &Scope) -> Result<Rescoped, StoreError> {
        self.rows.rescope(collection, scope)
    }

    fn get(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, StoreError> {
        self.disk();
        if self.faults.lock().get.as_ref() == Some(key) {
            return Err(StoreError::Damaged { place: "a row" });
        }
        self.rows.get(collection, key)
    }

    fn snapshot(&self, collection: &CollectionName) -> Result<Box<dyn Snapshot>, StoreError> {
        self.disk();
        self.rows.snapshot(collection)
    }

    fn write_with(
        &self,
        collection: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> Result<Applied, StoreError> {
        let _free = self.busy.lock();
        self.rows.write_with(collection, write, notes)
    }

    fn note(&self, notes: &Notes) -> Result<(), StoreError> {
        self.rows.note(notes)
    }

    fn notes(&self, owner: &CollectionName) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.rows.notes(owner)
    }

    fn swapped(
        &self,
        collection: &CollectionName,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Changed>, StoreError> {
        if self.faults.lock().swapped {
            return Err(StoreError::Damaged { place: "the rows before" });
        }
        self.rows.swapped(collection, after, limit)
    }

    fn forget_swapped(&self, collection: &CollectionName) {
        self.rows.forget_swapped(collection);
    }

    fn sums(&self, collection: &CollectionName) -> Result<Sums, StoreError> {
        self.rows.sums(collection)
    }

    fn stage(&self, collection: &CollectionName, edits: Vec<Staged>) -> Result<(), StoreError> {
        self.rows.stage(collection, edits)
    }

    fn stage_rest(
        &self,
        collection: &CollectionName,
        segments: &BTreeSet<Segment>,
    ) -> Result<(), StoreError> {
        self.rows.stage_rest(collection, segments)
    }

    fn sweep(&self, rows_max: usize) -> Result<bool, StoreError> {
        self.rows.sweep(rows_max)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.rows.flush()
    }
}

// === impl Desk ===

impl Desk {
    fn new() -> Self {
        Self::on(MemoryStore::new())
    }

    fn on(store: impl ReplicaStore) -> Self {
        let name = CollectionName::new("list").unwrap();
        let view = View::new(name, Scope::All, Arc::new(store)).unwrap();
        Self { view: Arc::new(view), at: 0 }
    }

    fn collection(&self) -> Collection<Raw> {
        Collection::new(self.view.clone())
    }

    async fn write(&mut self, items: impl IntoIterator<Item = (u64, Option<u8>)>, reload: bool) {
        self.at += 1;
        let at = self.at;
        let changes = items.into_iter().map(|(number, value)| change(number, value, at)).collect();
        let to = Cursor::at(Epoch::new(1).unwrap(), Version::new(at).unwrap());
        let expected = self.view.store().standing(self.view.name()).unwrap().active();
        let step = match expected {
            Some(_) if !reload => Step::Page { changes, to },
            Some(_) | None => Step::BeginLoad { changes, to },
        };
        self.view.write(Write { expected, step }).await.unwrap();
    }

    /// Everything that a feed has to tell.
    async fn drain(feed: &mut Differences<Raw>) -> Vec<Difference<Bytes>> {
        let mut told = Vec::new();
        while let Ok(next) =
            tokio::time::timeout(std::time::Duration::from_millis(50), feed.next()).await
        {
            told.push(next.unwrap().unwrap());
        }
        told
    }
}

#[tokio::test]
async fn a_feed_that_begins_with_all_meets_writes_without_gap_or_repeat() {
    let mut desk = Desk::new();
    desk.write((0..300).map(|n| (n, Some(1))), false).await;
    let mut feed = desk.collection().subscribe_with_all().await;
    for _ in 0..100 {
        assert!(matches!(feed.next().await, Some(Ok(Difference::Inserted(_)))));
    }
    // One behind the place that the feed has reached, one before it, one that goes there.
    desk.write([(10, Some(2)), (250, Some(2)), (260, None)], false).await;
    let told = Desk::drain(&mut feed).await;
    let inserted = told.iter().filter(|told| matches!(told, Difference::Inserted(_))).count();
    let updated = told.iter().filter(|told| matches!(told, Difference::Updated { .. })).count();
    assert_eq!((inserted, updated, told.len()), (199, 1, 201));
    assert_eq!(told.iter().filter(|told| **told == Difference::Complete).count(), 1);
    let new = told.iter().find_map(|told| match told {
        Difference::Inserted(entry) if entry.key == key(250) => Some(entry.value.clone()),
        _ => None,
    });
    assert_eq!(new, Some(Bytes::from_static(&[2])));
}

#[tokio::test]
async fn x9_a_feed_that_remembers_too_much_begins_again() {
    let mut desk = Desk::new();
    desk.write([(0, Some(1))], false).await;
    let collection = desk.collection();
    let mut whole = collection.subscribe_with_all().await;
    let mut news = collection.subscribe().await;
    assert_eq!(Desk::drain(&mut whole).await.len(), 2);
    let many = KEYS_MAX as u64 + 10;
    desk.write((1..many).map(|n| (n, Some(1))), false).await;
    assert_eq!(news.feed.backlog.lock().dirty.len(), 0, "memory is bounded");

    assert_eq!(news.next().await.unwrap().unwrap(), Difference::Reloaded);
    desk.write([(3, None)], false).await;
    let told = Desk::drain(&mut news).await;
    let deleted = told.iter().filter(|told| matches!(told, Difference::Deleted { .. })).count();
    assert_eq!((told.len() as u64, deleted), (many + 2, 1), "also a feed of news tells all then");
    assert_eq!(told.last(), Some(&Difference::Complete));

    assert_eq!(whole.next().await.unwrap().unwrap(), Difference::Reloaded);
    let told = Desk::drain(&mut whole).await;
    assert_eq!(told.len() as u64, many, "every item but one, and the word that this is all");
    assert_eq!(told.last(), Some(&Difference::Complete));
}

#[tokio::test]
async fn x8_items_that_come_and_go_unseen_are_not_remembered() {
    let mut desk = Desk::new();
    let mut feed = desk.collection().subscribe().await;
    for number in 0..50 {
        desk.write([(number, Some(1))], false).await;
        desk.write([(number, None)], false).await;
    }
    assert_eq!(feed.feed.backlog.lock().dirty.len(), 0);
    assert_eq!(feed.feed.backlog.lock().order.len(), 0);
    desk.write([(7, Some(1))], false).await;
    assert!(matches!(&Desk::drain(&mut feed).await[..], [Difference::Inserted(_)]));
}

#[tokio::test]
async fn contents_that_are_too_much_to_remember_are_told_without_old() {
    let mut desk = Desk::new();
    desk.write((0..3).map(|n| (n, Some(1))), false).await;
    let mut feed = desk.collection().subscribe().await;
    feed.feed.backlog.lock().old_bytes = OLD_BYTES_MAX;
    desk.write([(1, None), (2, Some(9))], false).await;
    feed.feed.backlog.lock().old_bytes = 0;
    let told = Desk::drain(&mut feed).await;
    assert!(matches!(&told[0], Difference::Deleted { old: None, .. }));
    assert!(matches!(&told[1], Difference::Updated { old: None, .. }));
}

#[tokio::test]
async fn a_reload_is_told_as_what_differs() {
    let mut desk = Desk::new();
    desk.write((0..5_000).map(|n| (n, Some(1))), false).await;
    let mut feed = desk.collection().subscribe().await;
    desk.write((1..5_001).map(|n| (n, Some(if n == 7 { 2 } else { 1 }))), true).await;
    let told = Desk::drain(&mut feed).await;
    let keys: Vec<&str> = told
        .iter()
        .map(|told| match told {
            Difference::Inserted(entry) if entry.key == key(5_000) => "inserted",
            Difference::Updated { new, .. } if new.key == key(7) => "updated",
            Difference::Deleted { key: gone, old: Some(_) } if *gone == key(0) => "deleted",
            _ => "wrong",
        })
        .collect();
    assert_eq!(keys, ["deleted", "updated", "inserted"]);
}

#[tokio::test]
async fn a_feed_that_is_dropped_is_forgotten_and_a_stopped_replica_ends_feeds() {
    let mut desk = Desk::new();
    let collection = desk.collection();
    for _ in 0..10 {
        drop(collection.subscribe().await);
    }
    assert!(desk.view.feeds() <= 1);
    let mut feed = collection.subscribe().await;
    desk.write([(1, Some(1))], false).await;
    desk.view.set_status(Status::Stopped);
    assert!(matches!(feed.next().await, Some(Ok(Difference::Inserted(_)))));
    assert!(feed.next().await.is_none());
}

/// A consumer that was asked once while a write was under way, and never again.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "only the thread of the write waits for it")]
async fn a_consumer_that_is_not_polled_any_more_stops_no_write() {
    let store = Frail::default();
    let mut desk = Desk::on(store.clone());
    desk.write([(1, Some(1))], false).await;
    let view = desk.view.clone();
    let mut kept = desk.collection().subscribe_with_all().await;
    let mut next = Box::pin(kept.next());
    let busy = store.busy.lock();
    let mut write = Box::pin(desk.write([(2, Some(1))], false));
    assert!(futures::poll!(&mut write).is_pending());
    while view.gate().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(futures::poll!(&mut next).is_pending());
    drop(busy);
    let soon = std::time::Duration::from_secs(10);
    tokio::time::timeout(soon, write).await.unwrap();
    for number in 3..5 {
        let write = desk.write([(number, Some(1))], false);
        tokio::time::timeout(soon, write).await.expect("nobody holds the gate");
    }
    let told = tokio::time::timeout(soon, next).await.expect("the consumer was woken");
    assert!(matches!(told, Some(Ok(Difference::Inserted(_)))));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_loses_nothing_that_was_told_before_it() {
    let store = Frail::default();
    let mut desk = Desk::on(store.clone());
    desk.write((0..4).map(|n| (n, Some(1))), false).await;
    let mut feed = desk.collection().subscribe().await;
    desk.write([(0, None), (1, None), (2, Some(2)), (3, None)], false).await;
    store.faults.lock().get = Some(key(2));
    for gone in 0..2 {
        let told = feed.next().await.unwrap().unwrap();
        assert!(matches!(told, Difference::Deleted { key: told, .. } if told == key(gone)));
    }
    assert!(feed.next().await.unwrap().is_err(), "then the failure is told");
    store.faults.lock().get = None;
    let rest = Desk::drain(&mut feed).await;
    assert!(matches!(&rest[..], [Difference::Updated { .. }, Difference::Deleted { .. }]));
}

/// The write happened, whatever becomes of the comparison with the rows before it.
#[tokio::test]
async fn a_damaged_old_copy_does_not_undo_its_repair() {
    let store = Frail::default();
    let mut desk = Desk::on(store.clone());
    desk.write((0..4).map(|n| (n, Some(1))), false).await;
    let mut feed = desk.collection().subscribe().await;
    store.faults.lock().swapped = true;
    desk.write((0..2).map(|n| (n, Some(2))), true).await;
    assert_eq!(desk.collection().standing().tally.items, 2);
    assert_eq!(feed.next().await.unwrap().unwrap(), Difference::Reloaded);
}

/// G8: on a runtime of one thread, a disk that does not answer holds up who reads it, and neither
/// other feeds nor whatever else runs there.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "only threads of reads wait for it")]
async fn a_slow_disk_delays_only_who_reads_it() {
    let store = Frail::default();
    let mut slow = Desk::on(store.clone());
    slow.write((0..300).map(|n| (n, Some(1))), false).await;
    let collection = slow.collection();
    let mut feed = collection.subscribe_with_all().await;
    let mut items = collection.items().await.unwrap();
    let one = key(1);
    let busy = store.slow.lock();

    let mut get = Box::pin(collection.get(&one));
    let mut window = Box::pin(collection.window(0, 5));
    let mut told = Box::pin(feed.next());
    assert!(futures::poll!(&mut get).is_pending() && futures::poll!(&mut window).is_pending());
    assert!(futures::poll!(&mut told).is_pending());
    drop(told);

    let mut quick = Desk::new();
    let mut other = quick.collection().subscribe().await;
    for number in 0..20 {
        quick.write([(number, Some(1))], false).await;
        assert!(matches!(other.next().await, Some(Ok(Difference::Inserted(_)))));
        assert!(quick.collection().get(&key(number)).await.unwrap().is_some());
    }

    drop(busy);
    assert_eq!(get.await.unwrap(), Some(Bytes::from_static(&[1])));
    assert_eq!(window.await.unwrap().len(), 5);
    // Who was cancelled while it waited loses nothing.
    let told = Desk::drain(&mut feed).await;
    assert_eq!((told.len(), told.last()), (301, Some(&Difference::Complete)));
    let mut read = 0;
    while let Some(item) = items.next().await {
        assert_eq!(item.unwrap().key, key(read));
        read += 1;
    }
    assert_eq!(read, 300);
}
