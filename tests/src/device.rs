//! A replica as an application runs it: built, driven by a task, stopped, built again on the
//! same store.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use sync_client::store::{Row, Step, StoreError, Write};
use sync_client::{
    Collection, Difference, Differences, MemoryStore, Raw, Replica, ReplicaStore, SyncClient,
};
use sync_proto::types::{Change, ChangeKind, Cursor, Head, Key, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::compose::name;
use crate::wait::{PATIENCE, until_true, within};
use crate::wire::Wire;

/// A running replica.
#[derive(Debug)]
pub struct Device {
    /// The replica.
    pub replica: Replica,
    stop: CancellationToken,
    driving: JoinHandle<Result<(), StoreError>>,
}

/// A consumer of differences that believes them all.
#[derive(Debug)]
pub struct Consumer {
    feed: Differences<Raw>,
    /// What it has put together.
    pub rows: BTreeMap<Key, Bytes>,
    /// Deletes that it was told of.
    pub deletes: u64,
}

/// Copies are checked soon: what a test damages beneath them is found while it waits.
const FIRST_CHECK: Duration = Duration::from_secs(2);

// === impl Device ===

impl Device {
    /// Builds a replica of these collections and runs it; quick to notice and to try again.
    pub fn start(uri: &str, store: impl ReplicaStore, collections: &[&str]) -> Self {
        Self::start_with(SyncClient::connect(uri).unwrap(), store, collections)
    }

    /// The same with a client of the caller.
    pub fn start_with(client: SyncClient, store: impl ReplicaStore, collections: &[&str]) -> Self {
        let mut builder = Replica::builder(client, store)
            .first_check(FIRST_CHECK)
            .heartbeat(Duration::from_millis(200))
            .longest_backoff(Duration::from_millis(300));
        for collection in collections {
            builder = builder.collection(name(collection));
        }
        let (replica, driver) = builder.build().unwrap();
        let stop = CancellationToken::new();
        let driving = TaskTracker::new().spawn(driver.run(stop.clone()));
        Self { replica, stop, driving }
    }

    /// The bare view of a collection.
    #[must_use]
    pub fn collection(&self, collection: &str) -> Collection<Raw> {
        self.replica.collection(&name(collection)).unwrap()
    }

    /// What a reader of the replica sees.
    #[must_use]
    pub fn contents(&self, collection: &str) -> BTreeMap<Key, Bytes> {
        let items = self.collection(collection).reader().iter().unwrap();
        items.map(|entry| entry.unwrap()).map(|entry| (entry.key, entry.value)).collect()
    }

    /// Waits until it has a cursor.
    pub async fn reach(&self, collection: &str, cursor: Cursor) {
        let collection = self.collection(collection);
        if let Err(error) = collection.wait_for(cursor, PATIENCE).await {
            let (status, counted) = (*collection.status().borrow(), self.replica.stats());
            panic!("{error} for {cursor}: {status:?}, {:?}, {counted:?}", collection.standing());
        }
    }

    /// Waits until the copy of a collection is exactly the server's.
    pub async fn converge(&self, wire: &Wire, collection: &str) {
        let head = wire.head(&name(collection)).await.expect("the collection exists");
        self.reach(collection, head.cursor()).await;
        let copy = self.collection(collection);
        until_true("the digest to be the server's", async || {
            let standing = copy.standing();
            standing.cursor == Some(head.cursor()) && equals(&standing.tally, &head)
        })
        .await;
        let truth = wire.load(collection).await.contents();
        let mine: BTreeMap<Vec<u8>, Vec<u8>> = self
            .contents(collection)
            .into_iter()
            .map(|(key, value)| (key.as_bytes().to_vec(), value.to_vec()))
            .collect();
        assert_eq!(mine, truth, "{collection}");
    }

    /// Ends it although its store may not take the last word.
    pub async fn stop_anyway(self) {
        self.stop.cancel();
        drop(within("the driver to end", self.driving).await.unwrap());
    }

    /// Ends it; its store can be opened again.
    pub async fn stop(self) {
        self.stop.cancel();
        within("the driver to end", self.driving).await.unwrap().unwrap();
    }
}

/// The change that makes a row.
#[must_use]
pub fn change_of(row: &Row) -> Change {
    let value = Some(Value::new(row.value.clone()).expect("was checked"));
    let kind =
        ChangeKind::Put { value, sort_key: row.sort_key.clone(), value_version: row.value_version };
    Change { key: row.key.clone(), version: row.version, created: row.created, kind }
}

/// Another store that holds the same copy of a collection.
#[must_use]
pub fn copied(store: &dyn ReplicaStore, collection: &str) -> MemoryStore {
    let name = name(collection);
    let to = store.standing(&name).unwrap().cursor.expect("there is a copy");
    let rows = store.snapshot(&name).unwrap().rows(None, usize::MAX).unwrap();
    let changes = rows.iter().map(change_of).collect();
    let copy = MemoryStore::new();
    copy.write(&name, &Write { expected: None, step: Step::BeginLoad { changes, to } }).unwrap();
    copy
}

fn equals(tally: &sync_client::store::Tally, head: &Head) -> bool {
    (tally.items, tally.digest) == (head.items, head.digest)
}

// === impl Consumer ===

impl Consumer {
    /// A consumer that begins with what is there.
    pub async fn of(device: &Device, collection: &str) -> Self {
        let feed = device.collection(collection).subscribe_with_all().await;
        Self { feed, rows: BTreeMap::new(), deletes: 0 }
    }

    /// Takes differences until it has put together `wanted`.
    pub async fn take_until(&mut self, wanted: &BTreeMap<Key, Bytes>) {
        while self.rows != *wanted {
            let what = format!("a difference: {} rows of {}", self.rows.len(), wanted.len());
            let difference = within(&what, self.feed.next()).await;
            self.take(difference.expect("the replica runs").unwrap());
        }
    }

    /// Takes what is there, without waiting.
    pub fn take_ready(&mut self) {
        while let Some(difference) = self.feed.next().now_or_never() {
            self.take(difference.expect("the replica runs").unwrap());
        }
    }

    /// Takes one difference; each must fit what was told before.
    fn take(&mut self, difference: Difference<Bytes>) {
        match difference {
            Difference::Inserted(new) => {
                let known = self.rows.insert(new.key.clone(), new.value);
                assert_eq!(known, None, "inserted twice: {:?}", new.key);
            }
            Difference::Updated { old, new } => {
                let known = self.rows.insert(new.key.clone(), new.value);
                assert!(known.is_some(), "an update of what was not told: {:?}", new.key);
                assert!(old.is_none_or(|old| known == Some(old.value)), "another old value");
            }
            Difference::Deleted { key, old } => {
                let known = self.rows.remove(&key);
                assert!(known.is_some(), "a delete of what was not told: {key:?}");
                assert!(old.is_none_or(|old| known == Some(old.value)), "another old value");
                self.deletes += 1;
            }
            Difference::Complete => {}
            Difference::Reloaded => self.rows.clear(),
            undecodable @ (Difference::Undecodable { .. } | _) => panic!("{undecodable:?}"),
        }
    }
}
