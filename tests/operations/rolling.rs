//! A server that is stopped and started again and again while clients write and follow: what its
//! operator does for an upgrade.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sync_client::{MemoryStore, SyncClient};
use sync_proto::types::{Cursor, Key};
use sync_tests::compose::{commit, delete, key, put};
use sync_tests::device::{Consumer, Device};
use sync_tests::process::Program;
use sync_tests::report::report;
use sync_tests::seed::number;
use sync_tests::wait::{pass, until_true, within};
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;

use crate::SERVER;

/// Restarts, unless the environment says otherwise (`DELTASYNC_RESTARTS`).
const RESTARTS: u64 = 4;
const WRITERS: u64 = 4;
const DEVICES: usize = 8;
/// Items that stay: whoever sees fewer sees a list that was emptied to be filled again.
const STAYING: u64 = 500;
/// Between two restarts, so that everybody is back and at work.
const UNDER_WAY: Duration = Duration::from_millis(700);

/// What a writer has done.
#[derive(Debug, Default)]
struct Written {
    acknowledged: AtomicU64,
    /// The longest that one write took, in milliseconds.
    slowest_ms: AtomicU64,
}

fn client(uri: &str) -> SyncClient {
    SyncClient::builder(uri).retry_for(Duration::from_secs(30)).build().unwrap()
}

/// Writes item after item, and deletes every other one, through the restarts: what a caller sees of
/// them is time.
async fn write(client: SyncClient, writer: u64, done: Arc<Written>, stop: Arc<AtomicBool>) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut mutations = vec![put("list", format!("w{writer}-{number}"), number.to_string())];
        if number % 2 == 1 {
            mutations.push(delete("list", format!("w{writer}-{}", number - 1)));
        }
        let began = Instant::now();
        client.commit(commit(mutations)).await.expect("a restart is no error to a writer");
        let took = u64::try_from(began.elapsed().as_millis()).unwrap();
        done.slowest_ms.fetch_max(took, Ordering::Relaxed);
        done.acknowledged.fetch_add(1, Ordering::Relaxed);
        number += 1;
        pass(Duration::from_millis(2)).await;
    }
    number
}

/// What the writers have written, if nothing is lost and nothing done twice.
fn expected(written: &[u64]) -> BTreeMap<Key, Bytes> {
    let staying = (0..STAYING).map(|item| (key(format!("stays-{item}")), Bytes::from("x")));
    let of_writer = |(writer, count): (usize, &u64)| {
        let kept = move |number: &u64| number % 2 == 1 || number + 1 == *count;
        let item = move |number: u64| {
            (key(format!("w{writer}-{number}")), Bytes::from(number.to_string()))
        };
        (0..*count).filter(kept).map(item).collect::<Vec<_>>()
    };
    staying.chain(written.iter().enumerate().flat_map(of_writer)).collect()
}

/// Looks at a copy all the time: it never goes back, and never lacks what stays. How often it moved.
async fn watch(device: Arc<Device>, stop: Arc<AtomicBool>) -> u64 {
    let list = device.collection("list");
    let (mut seen, mut moves): (Option<Cursor>, u64) = (None, 0);
    while !stop.load(Ordering::Relaxed) {
        let standing = list.standing();
        let cursor = standing.cursor.expect("a copy that was there is there");
        let goes_on = |seen: Cursor| cursor.epoch == seen.epoch && cursor.version >= seen.version;
        let back = !seen.is_none_or(goes_on);
        assert!(!back, "G1: {cursor} after {seen:?}");
        assert!(standing.tally.items >= STAYING, "G5: {} items are shown", standing.tally.items);
        moves += u64::from(seen != Some(cursor));
        seen = Some(cursor);
        pass(Duration::from_millis(5)).await;
    }
    moves
}

/// A copy holds what was acknowledged and nothing else, and was loaded once.
async fn check(device: Arc<Device>, wire: &Wire, expected: &BTreeMap<Key, Bytes>) {
    device.converge(wire, "list").await;
    assert!(device.contents("list") == *expected, "G3");
    let stats = device.replica.stats();
    assert_eq!((stats.loads, stats.repairs.len()), (1, 0), "its own first load: {stats:?}");
    Arc::into_inner(device).expect("nobody looks any more").stop().await;
}

/// G1, G2, G3, G5: restarts under load cost clients time and nothing else. Writers get every answer,
/// nothing is lost or done twice; copies never go back, are never emptied, loaded anew or repaired;
/// consumers of differences are told each once.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_cost_clients_time_only() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path()).with(&["--goodbye-jitter-ms=100"]);
    let mut process = program.start_serving().await;
    let uri = format!("http://{}", program.address());
    let staying = (0..STAYING).map(|item| put("list", format!("stays-{item}"), "x")).collect();
    program.wire().commit(staying).await;

    let mut devices = Vec::new();
    for _ in 0..DEVICES {
        let device = Device::start_with(client(&uri), MemoryStore::new(), &["list"]);
        device.converge(&program.wire(), "list").await;
        devices.push(Arc::new(device));
    }
    let mut consumer = Consumer::of(&devices[0], "list").await;
    let (tasks, stop, done) = (TaskTracker::new(), Arc::default(), Arc::<Written>::default());
    let watching: Vec<_> = devices
        .iter()
        .map(|device| tasks.spawn(watch(Arc::clone(device), Arc::clone(&stop))))
        .collect();
    let writing: Vec<_> = (0..WRITERS)
        .map(|number| {
            tasks.spawn(write(client(&uri), number, Arc::clone(&done), Arc::clone(&stop)))
        })
        .collect();

    let restarts = number("DELTASYNC_RESTARTS").unwrap_or(RESTARTS);
    let mut away = Vec::new();
    for restart in 0..restarts {
        let before = done.acknowledged.load(Ordering::Relaxed);
        pass(UNDER_WAY).await;
        let began = Instant::now();
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
        process.check_log();
        process = program.start_serving().await;
        away.push(began.elapsed());
        let working = || done.acknowledged.load(Ordering::Relaxed) > before + WRITERS;
        until_true(&format!("writers after restart {restart}"), async || working()).await;
        consumer.take_ready();
    }
    pass(UNDER_WAY).await;
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writing {
        written.push(within("a writer to end", writer).await.unwrap());
    }
    for watcher in watching {
        assert!(within("a watcher to end", watcher).await.unwrap() > restarts, "it followed");
    }

    let expected = expected(&written);
    consumer.take_until(&expected).await;
    for device in devices {
        check(device, &program.wire(), &expected).await;
    }
    away.sort_unstable();
    report(&format!(
        "{restarts} restarts, {:.1?} to {:.1?} from the signal until it serves; {} writes of {WRITERS} \
         writers, slowest {} ms; {DEVICES} copies: none loaded or repaired",
        away[0],
        away[away.len() - 1],
        written.iter().sum::<u64>(),
        done.slowest_ms.load(Ordering::Relaxed),
    ));
    process.kill();
}
