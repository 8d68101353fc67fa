//! A whole replica against the reference server behind a real socket.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sync_client::types::{CollectionName, Commit, Cursor, Head, Key, Mutation, Op, Value};
use sync_client::{
    Collection, Difference, DiskStore, Json, MemoryStore, Raw, Replica, ReplicaStore, Status,
    SyncClient, WaitError,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::service::TestServer;

mod faults;
#[allow(dead_code, reason = "shared by tests of which each needs a part")]
#[path = "../reference/mod.rs"]
mod reference;
mod repairs;
mod service;

/// Longer than anything here takes, also on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Member {
    role: String,
}

/// A replica at work; stops with the test.
struct Running {
    replica: Replica,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn key(key: &str) -> Key {
    Key::new(key.to_owned()).unwrap()
}

fn json(role: &str) -> Bytes {
    serde_json::to_vec(&Member { role: role.into() }).unwrap().into()
}

fn put(server: &TestServer, collection: &CollectionName, item: &str, role: &str) -> Cursor {
    let mut state = server.state.lock();
    state.server.put(collection, key(item), json(role)).cursor()
}

fn head(server: &TestServer, collection: &CollectionName) -> Head {
    server.state.lock().server.collections[collection].head()
}

// === impl Running ===

impl Running {
    fn start(server: &TestServer, store: impl ReplicaStore, names: &[&CollectionName]) -> Self {
        let client = SyncClient::connect(server.uri()).unwrap();
        let mut builder = Replica::builder(client, store)
            .heartbeat(Duration::from_millis(200))
            .longest_backoff(Duration::from_millis(400));
        for name in names {
            builder = builder.collection((*name).clone());
        }
        let (replica, driver) = builder.build().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { driver.run(stopped).await.unwrap() });
        Self { replica, stop, task }
    }

    fn members(&self, name: &CollectionName) -> Collection<Json<Member>> {
        self.replica.collection(name).unwrap()
    }

    /// Waits until the copy is the server's collection, and proves it by digest (G1, G9).
    async fn assert_converges(&self, server: &TestServer, name: &CollectionName) {
        let copy: Collection<Raw> = self.replica.collection(name).unwrap();
        let wanted = head(server, name);
        copy.wait_for(wanted.cursor(), SOON).await.unwrap();
        assert_eq!(copy.standing().tally.digest, wanted.digest);
        assert_eq!(copy.len(), wanted.items);
    }

    async fn wait_for_status(&self, name: &CollectionName, wanted: fn(&Status) -> bool) {
        let mut status = self.replica.collection::<Raw>(name).unwrap().status();
        tokio::time::timeout(SOON, status.wait_for(wanted)).await.unwrap().unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_replica_loads_follows_and_tells_the_differences() {
    let server = TestServer::start().await;
    let team = name("groups/42/members");
    put(&server, &team, "alice", "admin");
    put(&server, &team, "bob", "guest");
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    let members = running.members(&team);
    members.wait_until_ready(SOON).await.unwrap();
    assert_eq!(members.get(&key("alice")).await.unwrap().unwrap().role, "admin");
    assert_eq!(members.reader().iter().unwrap().count(), 2);

    let mut feed = members.subscribe().await;
    put(&server, &team, "carol", "guest");
    let Difference::Inserted(carol) = feed.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!((carol.key, carol.value.role.as_str()), (key("carol"), "guest"));
    put(&server, &team, "bob", "admin");
    let Difference::Updated { old, new } = feed.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!((old.unwrap().value.role.as_str(), new.value.role.as_str()), ("guest", "admin"));
    server.state.lock().server.delete(&team, key("alice"));
    let Difference::Deleted { key: gone, old } = feed.next().await.unwrap().unwrap() else {
        panic!()
    };
    assert_eq!((gone, old.unwrap().value.role.as_str()), (key("alice"), "admin"));

    let window = members.window(1, 5).await.unwrap();
    assert_eq!(window.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), [key("carol")]);
    assert!(members.staleness().unwrap() < SOON);
    running.assert_converges(&server, &team).await;
    let stats = running.replica.stats();
    assert!(stats.bytes_received > 0 && stats.digest_checks > 0 && stats.pulls == 0, "{stats:?}");
    running.end().await;
    assert!(feed.next().await.is_none(), "a feed ends with its replica");
    assert_eq!(members.wait_until_ready(SOON).await, Ok(()), "what was ready stays readable");
    assert_eq!(*members.status().borrow(), Status::Stopped);
}

#[tokio::test]
async fn local_data_is_there_before_the_network_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.redb");
    let team = name("team");
    let server = TestServer::start().await;
    server.commits(&team, 50);
    let running = Running::start(&server, DiskStore::open(&path).unwrap(), &[&team]);
    running.assert_converges(&server, &team).await;
    running.end().await;
    server.stop();

    let before = Instant::now();
    let running = Running::start(&server, DiskStore::open(&path).unwrap(), &[&team]);
    let copy: Collection<Raw> = running.replica.collection(&team).unwrap();
    assert_eq!(copy.len(), head(&server, &team).items);
    assert_eq!(copy.reader().iter().unwrap().count() as u64, copy.len());
    assert!(before.elapsed() < Duration::from_secs(5));
    let within = Duration::from_millis(300);
    assert_eq!(copy.wait_until_ready(within).await, Err(WaitError::Deadline));
    running.end().await;
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_nothing_is_loaded_twice() {
    let team = name("team");
    let server = TestServer::start().await;
    server.commits(&team, 100);
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    let loaded = running.replica.stats();

    server.stop();
    running.wait_for_status(&team, |status| matches!(status, Status::BackingOff { .. })).await;
    let kept = std::mem::take(&mut server.state.lock().server);
    let failures = running.replica.stats().stream_failures;
    let in_vain = async {
        while running.replica.stats().stream_failures == failures {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), in_vain).await.expect("another attempt");
    let server = TestServer::start_at(server.address, kept).await;
    server.commits(&team, 5);
    running.assert_converges(&server, &team).await;
    let stats = running.replica.stats();
    assert_eq!((stats.loads, stats.repairs.len()), (loaded.loads, 0));
    assert!(stats.changes_applied - loaded.changes_applied <= 20, "{stats:?}");
    running.end().await;
}

#[tokio::test]
async fn x15_a_peer_that_vanished_is_noticed_and_the_copy_resumes_from_its_cursor() {
    let team = name("team");
    let server = TestServer::start().await;
    server.commits(&team, 20);
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    let at = head(&server, &team).cursor();
    server.state.lock().silent = true;
    server.commits(&team, 3);
    running.wait_for_status(&team, |status| *status != Status::Live).await;
    server.state.lock().silent = false;
    running.assert_converges(&server, &team).await;
    assert_eq!(server.state.lock().shown[&team], Some(at));
    assert!(running.replica.stats().stream_failures >= 1);
    running.end().await;
}

#[tokio::test]
async fn a_goodbye_is_followed_by_a_new_stream() {
    let team = name("team");
    let server = TestServer::start().await;
    server.commits(&team, 20);
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    server.state.lock().goodbye = true;
    running.wait_for_status(&team, |status| *status != Status::Live).await;
    server.state.lock().goodbye = false;
    server.commits(&team, 3);
    running.assert_converges(&server, &team).await;
    assert_eq!(running.replica.stats().stream_failures, 0);
    running.end().await;
}

#[tokio::test]
async fn x4_what_does_not_parse_parks_its_collection_and_no_other() {
    let (good, bad) = (name("good"), name("bad"));
    let server = TestServer::start().await;
    server.commits(&good, 10);
    server.commits(&bad, 10);
    server.state.lock().garbled.insert(bad.clone());
    let running = Running::start(&server, MemoryStore::new(), &[&good, &bad]);
    running.assert_converges(&server, &good).await;
    running.wait_for_status(&bad, |status| matches!(status, Status::BackingOff { .. })).await;
    server.commits(&good, 10);
    running.assert_converges(&server, &good).await;
    let pulls = server.state.lock().pulls;
    assert!(pulls < 5, "retries are bounded: {pulls} pulls");
    running.end().await;
}

#[tokio::test]
async fn a_denied_collection_says_so_and_waiting_ends() {
    let (ours, theirs) = (name("ours"), name("theirs"));
    let server = TestServer::start().await;
    server.commits(&ours, 5);
    server.commits(&theirs, 5);
    server.state.lock().denied.insert(theirs.clone());
    let running = Running::start(&server, MemoryStore::new(), &[&ours, &theirs]);
    running.assert_converges(&server, &ours).await;
    let waited = running.members(&theirs).wait_until_ready(SOON).await;
    assert_eq!(waited, Err(WaitError::Denied));
    running.end().await;
}

#[tokio::test]
async fn an_absent_collection_is_ready_empty_and_loads_when_it_is_created() {
    let team = name("team");
    let server = TestServer::start().await;
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    let members = running.members(&team);
    members.wait_until_ready(SOON).await.unwrap();
    assert_eq!(*members.status().borrow(), Status::Absent);
    let mut feed = members.subscribe().await;
    put(&server, &team, "alice", "admin");
    assert!(matches!(feed.next().await, Some(Ok(Difference::Inserted(_)))));
    server.state.lock().server.collections.clear();
    assert!(matches!(feed.next().await, Some(Ok(Difference::Deleted { old: Some(_), .. }))));
    running.wait_for_status(&team, |status| *status == Status::Absent).await;
    assert!(members.is_empty());
    running.end().await;
}

#[tokio::test]
async fn x1_a_copy_that_is_not_the_servers_is_found_by_digest_and_exchanged() {
    let team = name("team");
    let server = TestServer::start().await;
    server.state.lock().compares = false;
    put(&server, &team, "alice", "admin");
    let store = MemoryStore::new();
    let running = Running::start(&server, store.clone(), &[&team]);
    running.assert_converges(&server, &team).await;
    running.end().await;

    // One row is lost and one is not what it was, as after a bad disk.
    damage(&store, &team);
    let running = Running::start(&server, store, &[&team]);
    running.wait_for_status(&team, |status| *status == Status::Live).await;
    running.assert_converges(&server, &team).await;
    assert_eq!(running.members(&team).get(&key("alice")).await.unwrap().unwrap().role, "admin");
    assert_eq!(running.replica.stats().digest_mismatches, 1);
    running.end().await;
}

/// Puts another row in the place of all, without moving the cursor.
fn damage(store: &MemoryStore, name: &CollectionName) {
    use sync_client::store::{Step, Write};
    use sync_client::types::{Change, ChangeKind, SortKey, Version};
    let at = store.standing(name).unwrap().cursor.unwrap();
    let version = Version::new(1).unwrap();
    let kind = ChangeKind::Put {
        value: Some(Value::new(json("flipped")).unwrap()),
        sort_key: SortKey::default(),
        value_version: version,
    };
    let changes = vec![Change { key: key("alice"), version, created: version, kind }];
    let write = Write { expected: Some(at), step: Step::BeginLoad { changes, to: at } };
    store.write(name, &write).unwrap();
}

#[tokio::test]
async fn an_item_that_does_not_decode_is_kept_apart_and_stops_nothing() {
    let team = name("team");
    let server = TestServer::start().await;
    put(&server, &team, "alice", "admin");
    server.state.lock().server.put(&team, key("mallory"), Bytes::from_static(b"not json"));
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    let members = running.members(&team);
    assert!(members.get(&key("mallory")).await.is_err());
    assert_eq!(members.reader().iter().unwrap().count(), 1);
    let undecodable = members.undecodable().await.unwrap();
    assert_eq!(undecodable.len(), 1);
    assert_eq!(undecodable[0].value, Bytes::from_static(b"not json"));

    let mut feed = members.subscribe_with_all().await;
    assert!(matches!(feed.next().await, Some(Ok(Difference::Inserted(_)))));
    assert!(matches!(feed.next().await, Some(Ok(Difference::Undecodable { .. }))));
    assert!(matches!(feed.next().await, Some(Ok(Difference::Complete))));
    running.end().await;
}

#[tokio::test]
async fn x9_a_consumer_that_stops_looking_stops_nobody_and_gets_the_net_change() {
    let team = name("team");
    let server = TestServer::start().await;
    put(&server, &team, "alice", "v0");
    put(&server, &team, "bob", "v0");
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    let members = running.members(&team);
    let (mut lazy, mut busy) = (members.subscribe().await, members.subscribe().await);
    for round in 1..50 {
        let at = put(&server, &team, "alice", &format!("v{round}"));
        members.wait_for(at, SOON).await.unwrap();
        assert!(matches!(busy.next().await, Some(Ok(Difference::Updated { .. }))));
    }
    // X8: came and went while nobody looked.
    put(&server, &team, "carol", "v0");
    running.assert_converges(&server, &team).await;
    server.state.lock().server.delete(&team, key("carol"));
    server.state.lock().server.delete(&team, key("bob"));
    running.assert_converges(&server, &team).await;

    let Difference::Updated { old, new } = lazy.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!((old.unwrap().value.role.as_str(), new.value.role.as_str()), ("v0", "v49"));
    let Difference::Deleted { key: gone, .. } = lazy.next().await.unwrap().unwrap() else {
        panic!()
    };
    assert_eq!(gone, key("bob"));
    put(&server, &team, "dave", "v0");
    assert!(matches!(lazy.next().await, Some(Ok(Difference::Inserted(_)))));
    running.end().await;
}

#[tokio::test]
async fn a_reload_tells_what_differs_and_no_more() {
    let team = name("team");
    let server = TestServer::start().await;
    for item in ["alice", "bob", "carol"] {
        put(&server, &team, item, "v0");
    }
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    let mut feed = running.members(&team).subscribe().await;
    {
        let mut state = server.state.lock();
        state.server.delete(&team, key("bob"));
        state.server.put(&team, key("carol"), json("v1"));
        state.server.rotate(&team);
    }
    running.assert_converges(&server, &team).await;
    put(&server, &team, "zoe", "last");
    let mut told = Vec::new();
    loop {
        match feed.next().await.unwrap().unwrap() {
            Difference::Inserted(zoe) if zoe.key == key("zoe") => break,
            Difference::Deleted { key, .. } => told.push((key, "deleted")),
            Difference::Updated { new, .. } => told.push((new.key, "updated")),
            other => panic!("{other:?}"),
        }
    }
    told.sort();
    assert_eq!(told, [(key("bob"), "deleted"), (key("carol"), "updated")]);
    running.end().await;
}

#[tokio::test]
async fn a_commit_is_repeated_under_one_key_and_happens_once() {
    let team = name("team");
    let server = TestServer::start().await;
    server.state.lock().lost_answers = 2;
    let client = SyncClient::connect(server.uri()).unwrap();
    let value = Value::new(json("admin")).unwrap();
    let op = Op::Put { key: key("alice"), value, sort_key: None };
    let mutations = vec![Mutation { collection: team.clone(), op }];
    let reply = client.commit(Commit { mutations, ..Commit::default() }).await.unwrap();
    assert!(reply.replayed);
    let state = server.state.lock();
    assert_eq!(state.idempotency_keys.len(), 3);
    assert!(state.idempotency_keys.iter().all(|key| *key == state.idempotency_keys[0]));
    assert_eq!(state.server.collections[&team].head().version.get(), 1);
}

/// A driver that is aborted, or never ran, leaves nobody waiting.
#[tokio::test]
async fn a_driver_that_is_dropped_stops_its_collections() {
    let team = name("team");
    let server = TestServer::start().await;
    put(&server, &team, "alice", "admin");
    let running = Running::start(&server, MemoryStore::new(), &[&team]);
    running.assert_converges(&server, &team).await;
    let members = running.members(&team);
    let mut feed = members.subscribe().await;
    running.task.abort();
    running.wait_for_status(&team, |status| *status == Status::Stopped).await;
    assert!(tokio::time::timeout(SOON, feed.next()).await.unwrap().is_none());

    let client = SyncClient::connect(server.uri()).unwrap();
    let builder = Replica::builder(client, MemoryStore::new()).collection(team.clone());
    let (replica, driver) = builder.build().unwrap();
    drop(driver);
    let copy: Collection<Raw> = replica.collection(&team).unwrap();
    assert_eq!(copy.wait_until_ready(SOON).await, Err(WaitError::Stopped));
}
