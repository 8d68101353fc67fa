//! Copies that are put right by what differs, and what that costs (G1, G5, G9).

use std::collections::BTreeSet;
use std::path::Path;

use sync_client::store::ReplicaStore as _;
use sync_client::{DiskStore, MemoryStore, RepairHow, RepairReason, Status};
use sync_proto::v1;
use sync_tests::compose::{delete, name, put, version};
use sync_tests::device::{Consumer, Device};
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;

/// Items that one commit puts.
const BATCH: usize = 1_000;

/// So many items of about 128 bytes.
async fn fill(wire: &Wire, items: usize) {
    let numbers: Vec<usize> = (0..items).collect();
    for batch in numbers.chunks(BATCH) {
        wire.commit(batch.iter().map(|number| item(*number, 0)).collect()).await;
    }
}

fn item(number: usize, round: u32) -> sync_proto::types::Mutation {
    put("list", format!("item/{number:06}"), format!("{number:06} {round:0121}"))
}

async fn rotate_epoch(wire: &Wire) {
    let request = v1::RotateEpochRequest { collection: "list".to_owned() };
    within("a new epoch", wire.admin().rotate_epoch(request)).await.unwrap();
}

/// Flips a bit of every occurrence of some bytes in a file; how many there were.
fn flip(path: &Path, wanted: &[u8]) -> usize {
    let mut bytes = std::fs::read(path).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - wanted.len()).filter(|at| bytes[*at..].starts_with(wanted)).collect();
    for at in &places {
        bytes[*at] ^= 1;
    }
    std::fs::write(path, bytes).unwrap();
    places.len()
}

/// A device has loaded the list and is not running; what the load took.
async fn loaded(server: &TestServer, store: &MemoryStore) -> u64 {
    let device = Device::start(&server.uri(), store.clone(), &["list"]);
    device.converge(server.wire(), "list").await;
    let bytes = device.replica.stats().bytes_received;
    device.stop().await;
    bytes
}

async fn live(device: &Device) {
    let mut status = device.collection("list").status();
    within("the copy to be live", status.wait_for(|status| *status == Status::Live)).await.unwrap();
}

/// X1, G9: a bit of one row flips in the file of a copy. Its tally knows nothing of it; the check
/// of the rows finds it, and only its segment travels.
#[tokio::test(flavor = "multi_thread")]
async fn x1_a_flipped_row_heals_by_its_segment() {
    let server = TestServer::start().await;
    fill(server.wire(), 2_000).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.redb");
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    device.converge(server.wire(), "list").await;
    let load = device.replica.stats().bytes_received;
    device.stop().await;
    let flipped = format!("{:06} {:0121}", 777, 0);
    assert!(flip(&path, flipped.as_bytes()) >= 1, "the row is in the file");
    let device = Device::start(&server.uri(), DiskStore::open(&path).unwrap(), &["list"]);
    let mut consumer = Consumer::of(&device, "list").await;
    until_true("the damage to be found", async || device.replica.stats().reconciled > 0).await;
    live(&device).await;
    device.converge(server.wire(), "list").await;
    consumer.take_until(&device.contents("list")).await;
    let stats = device.replica.stats();
    assert_eq!(stats.repairs[&RepairReason::LocalDamage], 1, "{stats:?}");
    assert_eq!(stats.loads, 0, "{stats:?}");
    assert!(stats.reconcile_bytes * 30 < load, "{} of {load}", stats.reconcile_bytes);
    device.stop().await;
    server.stop().await;
}

/// The figures of the repair: 50,000 items of which 50 differ, and the same under a new epoch, as
/// after a restore that lost nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_costs_what_differs() {
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire, 50_000).await;
    let store = MemoryStore::new();
    let load = loaded(&server, &store).await;
    for (differing, percent) in [(0, 0.5), (50, 3.0)] {
        if differing > 0 {
            wire.commit((0..differing).map(|number| item(number * 997, 1)).collect()).await;
        }
        rotate_epoch(wire).await;
        let device = Device::start(&server.uri(), store.clone(), &["list"]);
        device.converge(wire, "list").await;
        let stats = device.replica.stats();
        device.stop().await;
        assert_eq!((stats.reconciled, stats.loads), (1, 0), "{stats:?}");
        let took = stats.bytes_received;
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let share = took as f64 * 100.0 / load as f64;
        eprintln!("{differing} of 50,000 items differ: {took} of {load} bytes, {share:.2} %");
        assert!(share <= percent, "{share} %");
    }
    server.stop().await;
}

/// G5, T01: below the floor, but no delete was missed: nothing but the delta travels. With a
/// delete that was missed: its segment, and no ghost stays.
#[tokio::test(flavor = "multi_thread")]
async fn t01_a_device_below_the_floor_gets_its_delta() {
    for missed in [false, true] {
        let server = TestServer::with(|config| config.tombstones_max = 2).await;
        let wire = server.wire();
        fill(wire, 2_000).await;
        let store = MemoryStore::new();
        let load = loaded(&server, &store).await;
        if missed {
            wire.commit(vec![delete("list", "item/000042")]).await;
        }
        for guest in 0..20 {
            wire.commit(vec![put("list", format!("guest/{guest}"), "")]).await;
            wire.commit(vec![delete("list", format!("guest/{guest}"))]).await;
        }
        wire.commit(vec![item(7, 1)]).await;
        let floor = version(30);
        until_true("the deletes to be forgotten", async || {
            wire.head(&name("list")).await.unwrap().floor >= floor
        })
        .await;
        let device = Device::start(&server.uri(), store, &["list"]);
        device.converge(wire, "list").await;
        let stats = device.replica.stats();
        assert_eq!(stats.loads, 0, "{stats:?}");
        assert_eq!(stats.repair_ways[&RepairHow::Delta], 1, "{stats:?}");
        assert_eq!(stats.unverified_proven, u64::from(!missed), "{stats:?}");
        assert_eq!(stats.reconciled, u64::from(missed), "{stats:?}");
        assert!(stats.bytes_received * 20 < load, "{} of {load}", stats.bytes_received);
        device.stop().await;
        server.stop().await;
    }
}

/// G4: while a copy is repaired readers see it as it was, or as it is repaired, and what a feed
/// tells adds up.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_repaired_list_is_never_seen() {
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire, 5_000).await;
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path().join("copy.redb")).unwrap();
    let device = Device::start(&server.uri(), store.clone(), &["list"]);
    device.converge(wire, "list").await;
    let before = device.contents("list");
    device.stop().await;
    let mut changes: Vec<_> = (0..300).map(|number| item(number * 16, 1)).collect();
    changes.extend((1..100).map(|number| delete("list", format!("item/{:06}", number * 16 + 1))));
    wire.commit(changes).await;
    rotate_epoch(wire).await;
    let device = Device::start(&server.uri(), store.clone(), &["list"]);
    let mut consumer = Consumer::of(&device, "list").await;
    let mut seen = BTreeSet::new();
    let reader = device.collection("list").reader();
    until_true("the copy to be repaired", async || {
        let items = reader.iter().unwrap().map(|entry| entry.unwrap());
        let moved = items.filter(|item| before.get(&item.key) != Some(&item.value)).count();
        seen.insert((moved, reader.iter().unwrap().count()));
        consumer.take_ready();
        device.replica.stats().reconciled > 0
    })
    .await;
    device.converge(wire, "list").await;
    assert!(
        seen.iter().all(|seen| [(0, 5_000), (300, 4_901), (0, 4_901)].contains(seen)),
        "{seen:?}"
    );
    assert_eq!(device.replica.stats().loads, 0);
    consumer.take_until(&device.contents("list")).await;
    assert!(store.standing(&name("list")).unwrap().load.is_none());
    device.stop().await;
    server.stop().await;
}
