//! A process that writes is killed at random moments, half of them while it starts: whatever it
//! reported as synced is there and whole, and nothing is half there (G3, G4).
//! `DELTASYNC_SEED` replays the moments, `DELTASYNC_CRASH_CYCLES` sets their number.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sync_server::store::disk::{DiskOptions, DiskStore};
use sync_server::store::{Batch, Direction, KeyRange, Store};
use tempfile::TempDir;

const CYCLES: u64 = 10;

/// Names the data directory; a test binary that finds it writes until it is killed.
const CHILD_DIR: &str = "DELTASYNC_CRASH_DIR";

/// Batches whose rows are kept; older ones are removed by the batch that comes.
const KEPT: u64 = 12;

const HEAD: &[u8] = b"head";

fn open(dir: &Path) -> DiskStore {
    let options =
        DiskOptions { cache_bytes: 4 << 20, free_bytes_min: 0, lock_wait: Duration::from_secs(20) };
    DiskStore::open(dir, &options).unwrap()
}

/// The rows that batch `number` writes: a few or many, small or large.
fn rows(number: u64) -> BTreeMap<Vec<u8>, Bytes> {
    let mut dice = SmallRng::seed_from_u64(number);
    let count = if number.is_multiple_of(7) { 800 } else { dice.random_range(0..30) };
    let mut rows = BTreeMap::new();
    for row in 0..count {
        let len = if dice.random_bool(0.03) { 15_000..200_000 } else { 0..300 };
        let key = format!("{:08x}/{number}/{row}", dice.random::<u32>());
        let value = vec![dice.random::<u8>(); dice.random_range(len)];
        rows.insert(key.into_bytes(), value.into());
    }
    rows
}

fn head(store: &DiskStore) -> u64 {
    let head = store.get(HEAD).unwrap().unwrap_or_default();
    if head.is_empty() { 0 } else { u64::from_be_bytes(head.as_ref().try_into().unwrap()) }
}

fn batch(number: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(HEAD.to_vec(), Bytes::copy_from_slice(&number.to_be_bytes()));
    if let Some(old) = number.checked_sub(KEPT) {
        for key in rows(old).into_keys() {
            batch.remove(key);
        }
    }
    for (key, value) in rows(number) {
        batch.put(key, value);
    }
    batch
}

/// Exactly the rows of the last batches, each with its value.
fn check(store: &DiskStore, reported: u64) -> u64 {
    let head = head(store);
    assert!(head >= reported, "batch {reported} was reported, the store ends with {head}");
    let mut expected: BTreeMap<_, _> =
        (head.saturating_sub(KEPT - 1).max(1)..=head).flat_map(rows).collect();
    if head > 0 {
        expected.insert(HEAD.to_vec(), Bytes::copy_from_slice(&head.to_be_bytes()));
    }
    let all = KeyRange::prefix(&[]);
    let visit = &mut |key: &[u8], value| {
        let expected = expected.remove(key);
        assert!(expected == Some(value), "a row of head {head} that nobody wrote");
        ControlFlow::Continue(())
    };
    store.scan(&all, Direction::Forward, visit).unwrap();
    assert!(expected.is_empty(), "{} rows of head {head} are missing", expected.len());
    head
}

fn start(dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "writes_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The other process; without its variable, as in a plain test run, there is nothing to do.
#[test]
fn writes_until_killed() {
    let Some(dir) = env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir));
    let mut out = std::io::stdout();
    for number in head(&store) + 1.. {
        store.apply(&batch(number)).unwrap();
        // Sometimes several batches share a sync.
        if !number.is_multiple_of(5) {
            store.sync().unwrap();
            writeln!(out, "\nsynced {number}").and_then(|()| out.flush()).unwrap();
        }
    }
}

#[test]
fn kill_at_any_moment_loses_nothing_reported() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("DELTASYNC_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    eprintln!("DELTASYNC_SEED={seed}");
    let mut dice = SmallRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    let mut head = 0;
    for cycle in 0..number("DELTASYNC_CRASH_CYCLES").unwrap_or(CYCLES) {
        let alive = if cycle % 2 == 0 { 0..30 } else { 30..600 };
        let alive = Duration::from_millis(dice.random_range(alive));
        let mut child = start(dir.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reports = thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("synced ")?.parse().ok())
                .last()
        });
        thread::sleep(alive);
        child.kill().unwrap();
        let reported: u64 = reports.join().unwrap().unwrap_or(head);
        child.wait().unwrap();
        // Every third time the next process meets the directory as the killed one left it.
        head = head.max(reported);
        if cycle % 3 < 2 {
            head = check(&open(dir.path()), head);
        }
    }
    let found = check(&open(dir.path()), head);
    eprintln!("{found} batches");
}
