//! What takes long on a large store, and what commits feel of it meanwhile. Small by default; the
//! figures of docs/PROOF.md: `DELTASYNC_LARGE_ITEMS=1000000 cargo test --release -p sync-tests
//! --test operations large -- --nocapture` on a machine that does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use serde_json::Value;
use sync_proto::v1;
use sync_tests::backup;
use sync_tests::compose::{delete, name, put};
use sync_tests::process::Program;
use sync_tests::report::report;
use sync_tests::seed::number;
use sync_tests::wait::pass;
use sync_tests::wire::Wire;
use tokio::time::timeout;

use crate::SERVER;
use crate::offline::run;

/// Items, and afterwards tombstones, unless the environment says otherwise.
const ITEMS: u64 = 20_000;
/// Items of one commit.
const BATCH: u64 = 5_000;
/// Commits that say what a commit takes when nothing else happens: of a large store as many as are
/// made beside its purge, because the disk has slow moments of its own.
const QUIET_COMMITS: [u64; 2] = [200, 20_000];
/// No purge holds a commit up for longer. Judged of optimised programs.
const HELD_UP_MAX: Duration = Duration::from_millis(50);
/// What takes longest at a million items takes a few minutes on a busy machine.
const LONG: Duration = Duration::from_secs(30 * 60);

fn key(item: u64) -> String {
    // Neither in the order of commits nor in that of keys.
    format!("{:016x}", item.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

async fn fill(wire: &Wire, items: u64) {
    for first in (0..items).step_by(BATCH.try_into().unwrap()) {
        let batch = first..items.min(first + BATCH);
        wire.commit(batch.map(|item| put("large", key(item), [7; 100])).collect()).await;
    }
}

async fn empty(wire: &Wire, items: u64) {
    for first in (0..items).step_by(BATCH.try_into().unwrap()) {
        let batch = first..items.min(first + BATCH);
        wire.commit(batch.map(|item| delete("large", key(item))).collect()).await;
    }
}

/// One small commit after the other, and how long each took, until `work` is done; the last one began
/// before that.
async fn commits_beside<T>(wire: &Wire, work: impl Future<Output = T>) -> (T, Vec<Duration>) {
    let mut work = std::pin::pin!(timeout(LONG, work));
    let mut took = Vec::new();
    loop {
        let began = Instant::now();
        let commit = std::pin::pin!(wire.commit(vec![put("small", "k", took.len().to_string())]));
        match select(work, commit).await {
            Either::Left((done, commit)) => {
                commit.await;
                took.push(began.elapsed());
                return (done.expect("it ends within half an hour"), took);
            }
            Either::Right((_, rest)) => work = rest,
        }
        took.push(began.elapsed());
    }
}

/// What commits took: how many, the middle, the slowest, and when that began.
fn told(what: &str, took: &mut [Duration]) -> String {
    let slowest = (0..took.len()).max_by_key(|commit| took[*commit]).unwrap();
    let at: Duration = took[..slowest].iter().sum();
    took.sort_unstable();
    let (middle, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    let late = took.iter().filter(|took| **took > HELD_UP_MAX).count();
    format!(
        "{what}: {} commits, median {middle:.1?}, slowest {slowest:.1?} after {at:.1?}, \
         {late} above 50 ms",
        took.len()
    )
}

async fn purge(wire: &Wire) -> v1::PurgeResponse {
    let up_to_version = wire.head(&name("large")).await.unwrap().version.get();
    let request = v1::PurgeRequest { collection: "large".to_owned(), up_to_version };
    wire.admin().purge(request).await.unwrap().into_inner()
}

async fn back_up(wire: &Wire, file: &Path) -> usize {
    let bytes = backup::take(wire).await.unwrap();
    let size = bytes.len();
    // Elsewhere: who commits beside it must not wait for this.
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || std::fs::write(file, bytes)).await.unwrap().unwrap();
    size
}

fn done(args: &[&str], dir: &Path) -> (Value, Duration) {
    let began = Instant::now();
    let (code, printed, said) = run(args, dir);
    assert_eq!(code, 0, "{args:?}: {printed}{said}");
    (serde_json::from_str(&printed).unwrap(), began.elapsed())
}

/// G3, G8: backing up and purging a large store hold no commit up for long; what was backed up
/// restores, verifies and compacts.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_is_kept_beside_commits() {
    let items = number("DELTASYNC_LARGE_ITEMS").unwrap_or(ITEMS);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = Program::new(SERVER, dir.path()).with(&["--cache-mib=128"]);
    let mut process = program.start_serving().await;
    let wire = program.wire();
    fill(&wire, items).await;
    let commits = (items / 50).clamp(QUIET_COMMITS[0], QUIET_COMMITS[1]);
    let quiet = async {
        while wire.head(&name("small")).await.is_none_or(|head| head.version.get() < commits) {
            pass(Duration::from_millis(100)).await;
        }
    };
    let ((), mut took) = commits_beside(&wire, quiet).await;
    report(&told("nothing beside", &mut took));

    let file = files.path().join("backup");
    let began = Instant::now();
    let (bytes, mut took) = commits_beside(&wire, back_up(&wire, &file)).await;
    let lasted = began.elapsed();
    report(&told(&format!("backup of {items} items, {bytes} bytes, {lasted:.1?}"), &mut took));

    empty(&wire, items).await;
    let began = Instant::now();
    let (purged, mut took) = commits_beside(&wire, purge(&wire)).await;
    assert_eq!(purged.purged, items);
    assert_eq!(wire.head(&name("large")).await.unwrap().tombstones, 0);
    let lasted = began.elapsed();
    report(&told(&format!("purge of {items} tombstones, {lasted:.1?}"), &mut took));
    let late = took.iter().filter(|took| **took > HELD_UP_MAX).count();
    // A disk that is shared has slow moments whoever writes to it: see what nothing beside took.
    assert!(cfg!(debug_assertions) || late * 1_000 <= took.len(), "{late} of {}", took.len());
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    let (compacted, lasted) = done(&["compact", "--json"], dir.path());
    report(&format!("compact after the purge, {lasted:.1?}: {compacted}"));

    let restored = files.path().join("restored");
    let (_, lasted) = done(&["restore", "--json", "--from", file.to_str().unwrap()], &restored);
    report(&format!("restore of {items} items, {lasted:.1?}"));
    let (verified, _) = done(&["verify", "--json"], &restored);
    report(&format!("verify: {verified}"));
    assert!(verified["rows"].as_u64().unwrap() >= items * 4, "{verified}");
    let (compacted, lasted) = done(&["compact", "--json"], &restored);
    report(&format!("compact of {items} items, {lasted:.1?}: {compacted}"));
}
