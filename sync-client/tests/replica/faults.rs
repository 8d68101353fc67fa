//! A replica whose local store fails, or was damaged while nobody ran it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sync_client::store::{
    Applied, Changed, Notes, Rescoped, Row, Snapshot, Staged, Standing, StoreError, Sums, Write,
};
use sync_client::types::Scope;
use sync_proto::digest::Segment;

use super::*;

/// A store whose disk is full while a test says so.
#[derive(Debug, Clone, Default)]
struct Full {
    rows: MemoryStore,
    full: Arc<AtomicBool>,
}

impl ReplicaStore for Full {
    fn standing(&self, collection: &CollectionName) -> Result<Standing, StoreError> {
        self.rows.standing(collection)
    }

    fn rescope(&self, collection: &CollectionName, scope: &Scope) -> Result<Rescoped, StoreError> {
        self.rows.rescope(collection, scope)
    }

    fn get(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, StoreError> {
        self.rows.get(collection, key)
    }

    fn snapshot(&self, collection: &CollectionName) -> Result<Box<dyn Snapshot>, StoreError> {
        self.rows.snapshot(collection)
    }

    fn write_with(
        &self,
        collection: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> Result<Applied, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
            return Err(StoreError::Io { doing: "writing the local store", source });
        }
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

/// The disk is full for a while: the status says so, what is there stays readable, the driver goes
/// on, and afterwards nothing is missing and nothing was loaded anew.
#[tokio::test]
async fn a_full_disk_is_shown_and_waited_out() {
    let team = name("team");
    let server = TestServer::start().await;
    put(&server, &team, "alice", "admin");
    let store = Full::default();
    let running = Running::start(&server, store.clone(), &[&team]);
    running.assert_converges(&server, &team).await;
    store.full.store(true, Ordering::SeqCst);
    put(&server, &team, "bob", "guest");
    running.wait_for_status(&team, |status| matches!(status, Status::StoreFailing { .. })).await;
    let members = running.members(&team);
    assert_eq!(members.get(&key("alice")).await.unwrap().unwrap().role, "admin");
    put(&server, &team, "carol", "guest");
    store.full.store(false, Ordering::SeqCst);
    running.assert_converges(&server, &team).await;
    running.wait_for_status(&team, |status| *status == Status::Live).await;
    let stats = running.replica.stats();
    assert_eq!((stats.loads, stats.repairs.len()), (1, 0), "{stats:?}");
    running.end().await;
}

/// The file was cut short while nobody ran: the replica comes up empty, says nothing wrong, and
/// loads again; the old file is kept.
#[tokio::test]
async fn a_truncated_file_is_set_aside_and_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.redb");
    let team = name("team");
    let server = TestServer::start().await;
    server.commits(&team, 50);
    let running = Running::start(&server, DiskStore::open(&path).unwrap(), &[&team]);
    running.assert_converges(&server, &team).await;
    running.end().await;
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
    let store = DiskStore::open(&path).unwrap();
    assert_eq!((store.lives(), store.standing(&team).unwrap()), (1, Standing::default()));
    let running = Running::start(&server, store, &[&team]);
    running.assert_converges(&server, &team).await;
    assert!(dir.path().join("copy.redb.damaged").exists());
    running.end().await;
}

/// What does not decode today is kept as it came; a program that knows more reads it, without
/// anything being transferred.
#[tokio::test]
async fn what_did_not_decode_is_read_by_a_later_program() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Later {
        role: Option<String>,
        team: Option<u32>,
    }
    let team = name("team");
    let server = TestServer::start().await;
    put(&server, &team, "alice", "admin");
    server.state.lock().server.put(&team, key("mallory"), Bytes::from_static(b"{\"team\":7}"));
    let store = MemoryStore::new();
    let running = Running::start(&server, store.clone(), &[&team]);
    running.assert_converges(&server, &team).await;
    assert_eq!(running.members(&team).undecodable().await.unwrap().len(), 1);
    let later: Collection<Json<Later>> = running.replica.collection(&team).unwrap();
    let mallory = later.get(&key("mallory")).await.unwrap().unwrap();
    assert_eq!((mallory.role, mallory.team), (None, Some(7)));
    assert!(later.undecodable().await.unwrap().is_empty());
    // The old program hears of it when the item becomes one that it knows.
    let mut feed = running.members(&team).subscribe().await;
    put(&server, &team, "mallory", "guest");
    let told = tokio::time::timeout(SOON, feed.next()).await.unwrap();
    assert!(matches!(told, Some(Ok(Difference::Updated { old: None, .. }))), "{told:?}");
    running.end().await;
}
