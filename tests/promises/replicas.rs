//! The client crate against the real server: whatever happens on the way, a replica ends with
//! exactly the server's items, and its application noticed nothing.

use std::time::Duration;

use rand::RngExt as _;
use sync_client::{DiskStore, MemoryStore, RepairReason};
use sync_proto::types::{Commit, ResetReason, Version};
use sync_tests::compose::{delete, name, put, version};
use sync_tests::device::{Consumer, Device};
use sync_tests::process::Program;
use sync_tests::proxy::Proxy;
use sync_tests::seed::dice;
use sync_tests::server::{TestServer, copy_dir};
use sync_tests::wait::{pass, until, until_true};
use sync_tests::wire::Wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SERVER;

/// Blows that a replica takes in the storm.
const BLOWS: usize = 14;

/// Commits until told to stop, each until it is acknowledged; returns the last version.
async fn write_through(wire: Wire, stop: CancellationToken) -> Version {
    for number in 0u64.. {
        let key = format!("{:02}", number * 7 % 41);
        let change = if number % 4 == 3 {
            delete("list", key)
        } else {
            put("list", key, format!("value {number}"))
        };
        let commit = Commit {
            mutations: vec![change, put("list", "number", number.to_string())],
            idempotency_key: number.to_string(),
            ..Commit::default()
        };
        let done = wire.commit_persistently(commit).await;
        if stop.is_cancelled() {
            return done[0].version;
        }
    }
    unreachable!("the numbers do not end")
}

/// G1, G2, G9, T12, X9: the server is killed and restarted, connections are cut and refused, while
/// a writer goes on. A replica in memory, one on disk, a consumer of
/// differences and one that never looks: all end with the server's items, none was ever reset.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_converge_through_a_storm() {
    let (mut dice, _seed) = dice();
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = Program::new(SERVER, data.path());
    let mut process = program.start_serving().await;
    let proxy = Proxy::to(program.address()).await;
    let memory = Device::start(&proxy.uri(), MemoryStore::new(), &["list", "none"]);
    let store = DiskStore::open(copies.path().join("copy.redb")).unwrap();
    let disk = Device::start(&proxy.uri(), store, &["list"]);
    let mut consumer = Consumer::of(&memory, "list").await;
    let idle = Consumer::of(&memory, "list").await;
    let done = CancellationToken::new();
    let writer = TaskTracker::new().spawn(write_through(program.wire(), done.clone()));
    for _ in 0..BLOWS {
        pass(Duration::from_millis(dice.random_range(20..400))).await;
        consumer.take_ready();
        match dice.random_range(0..3) {
            0 => proxy.cut(),
            1 => {
                proxy.close(true);
                pass(Duration::from_millis(dice.random_range(0..300))).await;
                proxy.close(false);
            }
            _ => {
                process.kill();
                process = program.start_serving().await;
            }
        }
    }
    done.cancel();
    let last = writer.await.unwrap();
    let wire = program.wire();
    for device in [&memory, &disk] {
        device.converge(&wire, "list").await;
        let stats = device.replica.stats();
        assert_eq!((stats.loads, stats.digest_mismatches), (1, 0), "{stats:?}");
        assert!(stats.repairs.is_empty() && stats.stream_failures > 0, "{stats:?}");
    }
    assert!(last > version(20), "{last} versions");
    consumer.take_until(&memory.contents("list")).await;
    assert!(consumer.deletes > 0, "deletes are differences too");
    let mut late = idle;
    late.take_until(&memory.contents("list")).await;
    memory.stop().await;
    disk.stop().await;
    process.kill();
}

/// X15: the peer vanishes without a word in the middle of live changes: the device notices, and
/// goes on from its cursor over a new connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed() {
    let server = TestServer::start().await;
    let proxy = Proxy::to(server.address()).await;
    let wire = server.wire();
    wire.commit((0..100).map(|n| put("list", format!("{n:02}"), "")).collect()).await;
    let device = Device::start(&proxy.uri(), MemoryStore::new(), &["list"]);
    device.converge(wire, "list").await;
    let before = device.replica.stats();
    proxy.freeze();
    wire.commit(vec![put("list", "news", ""), delete("list", "00")]).await;
    device.converge(wire, "list").await;
    let after = device.replica.stats();
    assert_eq!((after.loads, after.changes_applied), (1, before.changes_applied + 2), "{after:?}");
    assert!(after.stream_failures > before.stream_failures);
    device.stop().await;
    // The server has not noticed yet; what it does not know it waits for when it stops.
    drop(proxy);
    server.stop().await;
}

/// G1, T05, T10: a first load is cut again and again, the application restarted in between: it
/// goes on where it was, and is not visible before it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_first_load_goes_on() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let filler = vec![b'x'; 2_000];
    for part in 0..30 {
        let rows = (0..300).map(|n| put("list", format!("{part:02} {n:03}"), &filler));
        wire.commit(rows.collect()).await;
    }
    let copies = tempfile::tempdir().unwrap();
    let path = copies.path().join("copy.redb");
    let (mut applied, mut runs, mut came) = (0, 0, Version::ZERO);
    loop {
        runs += 1;
        let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
        let copy = device.collection("list");
        let standing = until("the load to get on", async || {
            let standing = copy.standing();
            let load = standing.load.map(|load| load.cursor.version);
            let moved = standing.cursor.is_some() || load.is_some_and(|at| at > came);
            moved.then_some(standing)
        })
        .await;
        came = standing.load.map_or(came, |load| load.cursor.version);
        let whole = standing.cursor.is_some();
        assert_eq!(copy.len(), if whole { 9_000 } else { 0 }, "half a list is shown");
        if whole {
            device.converge(wire, "list").await;
            applied += device.replica.stats().changes_applied;
            device.stop().await;
            break;
        }
        let stats = device.replica.stats();
        device.stop().await;
        applied += stats.changes_applied;
        // Everything moves meanwhile, so that the pages behind the load's base differ.
        wire.commit(vec![put("list", "00 000", runs.to_string())]).await;
    }
    assert!(runs >= 2, "the load was over before it could be interrupted");
    assert!(applied < 13_000, "{applied} changes for 9,000 items in {runs} runs");
    server.stop().await;
}

/// G5, T01, T10: a device is away while its deletes are forgotten: it notices, loads anew, and
/// shows the old list until the new one is whole. No ghost stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_for_too_long_has_no_ghosts() {
    let server = TestServer::with(|config| config.tombstones_max = 2).await;
    let wire = server.wire();
    wire.commit((0..50).map(|n| put("list", format!("{n:02}"), "old")).collect()).await;
    let copies = tempfile::tempdir().unwrap();
    let path = copies.path().join("copy.redb");
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    device.converge(wire, "list").await;
    device.stop().await;
    for number in 0..20 {
        wire.commit(vec![delete("list", format!("{number:02}"))]).await;
    }
    until_true("the deletes to be forgotten", async || {
        wire.head(&name("list")).await.unwrap().floor >= version(19)
    })
    .await;
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    let mut consumer = Consumer::of(&device, "list").await;
    device.converge(wire, "list").await;
    consumer.take_until(&device.contents("list")).await;
    assert_eq!(device.contents("list").len(), 30);
    device.stop().await;
    server.stop().await;
}

/// G6, T03: the collection was deleted and created anew at the very version that the device
/// has, while it was away and while it is connected.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_was_created_anew_replaces_the_copy() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let copies = tempfile::tempdir().unwrap();
    let path = copies.path().join("copy.redb");
    let recreate = async |life: u32| {
        if life > 0 {
            wire.delete_collection("list").await;
        }
        wire.commit(vec![put("list", "always", life.to_string())]).await;
        wire.commit(vec![put("list", format!("life {life}"), "")]).await;
    };
    recreate(0).await;
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    device.converge(wire, "list").await;
    device.stop().await;
    recreate(1).await;
    assert_eq!(wire.head(&name("list")).await.unwrap().version, version(2), "the trap");
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    device.converge(wire, "list").await;
    let mut consumer = Consumer::of(&device, "list").await;
    for life in 2..5 {
        recreate(life).await;
        device.converge(wire, "list").await;
        consumer.take_until(&device.contents("list")).await;
    }
    assert_eq!(device.contents("list").len(), 2);
    device.stop().await;
    server.stop().await;
}

/// G6, T04: the server came back from an older backup. The device's extra commits are gone; it
/// ends with the server's items.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_ahead_of_a_restored_server_goes_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (live, backup) = (dir.path().join("live"), dir.path().join("backup"));
    let server = TestServer::on_disk(&live, |_| {}).await;
    server.wire().commit(vec![put("list", "kept", "1")]).await;
    server.stop().await;
    copy_dir(&live, &backup);
    let server = TestServer::on_disk(&live, |_| {}).await;
    server.wire().commit(vec![put("list", "lost", "1"), put("list", "kept", "2")]).await;
    let path = dir.path().join("copy.redb");
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    device.converge(server.wire(), "list").await;
    device.stop().await;
    server.stop().await;
    let restored = TestServer::on_disk(&backup, |_| {}).await;
    let device = Device::start(&restored.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    until_true("the device to notice", async || {
        device.collection("list").standing().cursor.is_some_and(|at| at.version == version(1))
    })
    .await;
    device.converge(restored.wire(), "list").await;
    assert_eq!(device.contents("list").len(), 1);
    device.stop().await;
    restored.stop().await;
}

/// G6, G9: a data directory was copied and both copies run, with the same epochs and the same numbers
/// for other contents. A device that is taken from one to the other finds out: where the head is below
/// its cursor by that, elsewhere by the digest, and even where both stand at the very same number.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_runs_twice_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    let server = TestServer::on_disk(&one, |_| {}).await;
    server.wire().commit((0..40).map(|n| put("list", format!("item {n}"), "same")).collect()).await;
    server.stop().await;
    copy_dir(&one, &other);
    let (one, other) =
        (TestServer::on_disk(&one, |_| {}).await, TestServer::on_disk(&other, |_| {}).await);
    let write = async |server: &TestServer, to: u64, text: &str| {
        while server.wire().head(&name("list")).await.unwrap().version < version(to) {
            server.wire().commit(vec![put("list", "last", text), delete("list", text)]).await;
            server.wire().commit(vec![put("list", text, "here only")]).await;
        }
    };
    let path = dir.path().join("copy.redb");
    let visit = async |server: &TestServer, reason: RepairReason| {
        let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
        until_true("the device to notice", async || {
            device.replica.stats().repairs.contains_key(&reason)
        })
        .await;
        device.converge(server.wire(), "list").await;
        device.stop().await;
    };
    write(&one, 5, "one").await;
    write(&other, 3, "other").await;
    let device = Device::start(&one.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    device.converge(one.wire(), "list").await;
    device.stop().await;
    visit(&other, RepairReason::Reset(ResetReason::AheadOfHead)).await;
    visit(&one, RepairReason::DigestMismatch).await;
    write(&other, 5, "other").await;
    let at = async |server: &TestServer| server.wire().head(&name("list")).await.unwrap().cursor();
    assert_eq!(at(&one).await, at(&other).await, "the trap: the very same cursor");
    visit(&other, RepairReason::DigestMismatch).await;
    one.stop().await;
    other.stop().await;
}

/// G1, G7: many collections on one stream, some of them absent at first: each converges, and a
/// drained server is found again without a reset.
#[tokio::test(flavor = "multi_thread")]
async fn many_collections_follow_through_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let wire = program.wire();
    let names: Vec<String> = (0..60).map(|number| format!("team/{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in names.iter().take(30) {
        wire.commit(vec![put(name, "a", "1")]).await;
    }
    let uri = format!("http://{}", program.address());
    let device = Device::start(&uri, MemoryStore::new(), &names);
    for name in &names[..30] {
        device.converge(&wire, name).await;
    }
    process.terminate();
    assert!(process.ended().await.success(), "{}", process.log());
    process = program.start_serving().await;
    wire.commit(names.iter().map(|name| put(name, "b", "2")).collect()).await;
    for name in &names {
        device.converge(&wire, name).await;
    }
    let stats = device.replica.stats();
    assert!(stats.repairs.is_empty() && stats.loads == 60, "{stats:?}");
    device.stop().await;
    process.kill();
}
