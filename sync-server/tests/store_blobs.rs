//! Nothing ever lands in sled's `blobs/`, which is never synced: rows of any size, keys as long
//! as keys get, and the removals that make nodes merge while readers walk over them.
//! `DELTASYNC_SEED` replays the dice, `DELTASYNC_CASES` sets the number of rounds.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use sync_server::store::disk::{DiskOptions, DiskStore};
use sync_server::store::{Batch, Direction, KEY_BYTES_MAX, KeyRange, Store};
use tempfile::TempDir;

const ROUNDS: u64 = 1;

/// Enough for an index node to be split, whose keys cannot be shortened.
const KEYS: u32 = 5_000;

const ROWS_A_BATCH: usize = 500;

fn open(dir: &TempDir) -> DiskStore {
    let options = DiskOptions {
        cache_bytes: 32 << 20,
        free_bytes_min: 0,
        lock_wait: Duration::from_secs(10),
    };
    DiskStore::open(dir.path(), &options).unwrap()
}

/// As long as a key gets, of bytes that get longer when stored; keys differ only at the end.
fn key(number: u32) -> Vec<u8> {
    let mut key = vec![u8::MAX; KEY_BYTES_MAX];
    key[KEY_BYTES_MAX - 4..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(dice: &mut SmallRng) -> Bytes {
    let len = match dice.random_range(0..1_000) {
        0..600 => 0..100,
        600..900 => 1_000..20_000,
        900..997 => 20_000..100_000,
        _ => 1_000_000..3 << 20,
    };
    vec![dice.random(); dice.random_range(len)].into()
}

/// Applies, syncs (which fails if there is an unsynced file) and looks again.
fn write(store: &DiskStore, batch: &Batch) {
    store.apply(batch).unwrap();
    store.sync().unwrap();
    assert_eq!(store.usage().unsynced_files, 0);
}

fn put_all(store: &DiskStore, dice: &mut SmallRng, keys: &[u32]) {
    for some in keys.chunks(ROWS_A_BATCH) {
        let mut batch = Batch::default();
        for number in some {
            batch.put(key(*number), value(dice));
        }
        write(store, &batch);
    }
}

fn remove_all(store: &DiskStore, keys: &[u32]) {
    for some in keys.chunks(ROWS_A_BATCH) {
        let mut batch = Batch::default();
        for number in some {
            batch.remove(key(*number));
        }
        write(store, &batch);
    }
}

fn count(store: &DiskStore, direction: Direction) -> usize {
    let mut rows = 0;
    let visit = &mut |_: &[u8], _| {
        rows += 1;
        ControlFlow::Continue(())
    };
    store.scan(&KeyRange::prefix(&[]), direction, visit).unwrap();
    rows
}

/// Fills, changes and thins out the store in ways that split and merge its nodes.
fn round(store: &DiskStore, dice: &mut SmallRng) {
    let mut keys: Vec<u32> = (0..KEYS).collect();
    keys.shuffle(dice);
    put_all(store, dice, &keys);
    put_all(store, dice, &keys[..KEYS as usize / 4]);
    // Leaves a few rows in every leaf, then fewer: neighbour after neighbour is merged.
    keys.sort_unstable();
    let (few, most): (Vec<u32>, Vec<u32>) = keys.iter().partition(|number| *number % 8 == 0);
    remove_all(store, &most);
    assert_eq!(count(store, Direction::Forward), few.len());
    let (fewer, rest): (Vec<u32>, Vec<u32>) = few.iter().partition(|number| *number % 64 == 0);
    remove_all(store, &rest);
    assert_eq!(count(store, Direction::Backward), fewer.len());
    remove_all(store, &fewer);
    assert_eq!(count(store, Direction::Forward), 0);
}

#[test]
fn nothing_lands_in_a_file_that_is_never_synced() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("DELTASYNC_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    eprintln!("DELTASYNC_SEED={seed}");
    let mut dice = SmallRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    for _ in 0..number("DELTASYNC_CASES").unwrap_or(ROUNDS) {
        let store = open(&dir);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for direction in [Direction::Forward, Direction::Backward] {
                let (store, done) = (&store, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        count(store, direction);
                    }
                });
            }
            // Also if the round panics: the readers must end for the panic to get out.
            let _stop = Stop(&done);
            round(&store, &mut dice);
        });
        store.close().unwrap();
    }
    assert_eq!(count(&open(&dir), Direction::Forward), 0);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
