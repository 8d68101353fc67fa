//! The disk engine equals the oracle under random batches, reads, scans and restarts (G1, G4).
//! A failure prints its seed: `DELTASYNC_SEED` replays it, `DELTASYNC_CASES` sets the number of
//! seeds.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use sync_server::store::disk::{DiskOptions, DiskStore};
use sync_server::store::memory::MemoryStore;
use sync_server::store::{Batch, Direction, KEY_BYTES_MAX, KeyRange, Store};
use tempfile::TempDir;

const CASES: u64 = 3;
const STEPS: usize = 120;

/// The two engines and the dice.
struct Model {
    dice: SmallRng,
    dir: TempDir,
    disk: Option<DiskStore>,
    oracle: MemoryStore,
    /// Keys that were written once, so that later steps meet them again.
    keys: Vec<Vec<u8>>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let disk = Some(open(&dir));
        let dice = SmallRng::seed_from_u64(seed);
        Self { dice, dir, disk, oracle: MemoryStore::new(), keys: vec![Vec::new()] }
    }

    fn disk(&self) -> &DiskStore {
        self.disk.as_ref().unwrap()
    }

    fn step(&mut self) {
        match self.dice.random_range(0..100) {
            0..55 => self.write(),
            55..75 => self.get(),
            75..94 => self.scan(),
            94..97 => self.remove_a_range(),
            _ => self.reopen(),
        }
    }

    fn write(&mut self) {
        let mut batch = Batch::default();
        for _ in 0..self.dice.random_range(0..40) {
            let key = self.key();
            if self.dice.random_bool(0.3) {
                batch.remove(key);
            } else {
                self.keys.push(key.clone());
                let value = self.value();
                batch.put(key, value);
            }
        }
        self.apply(&batch);
    }

    fn remove_a_range(&mut self) {
        let mut batch = Batch::default();
        let range = self.range();
        for (key, _) in collect(&self.oracle, &range, Direction::Forward, usize::MAX) {
            batch.remove(key);
        }
        self.apply(&batch);
    }

    fn apply(&mut self, batch: &Batch) {
        self.disk().apply(batch).unwrap();
        self.oracle.apply(batch).unwrap();
        if self.dice.random_bool(0.5) {
            self.disk().sync().unwrap();
        }
    }

    fn get(&mut self) {
        let key = self.key();
        assert_eq!(self.disk().get(&key).unwrap(), self.oracle.get(&key).unwrap());
        let keys: Vec<_> = (0..self.dice.random_range(0..200)).map(|_| self.key()).collect();
        let expected: Vec<_> = keys.iter().map(|key| self.oracle.get(key).unwrap()).collect();
        assert_eq!(self.disk().get_many(&keys).unwrap(), expected);
    }

    fn scan(&mut self) {
        let range = self.range();
        let limit =
            if self.dice.random_bool(0.3) { self.dice.random_range(1..20) } else { 100_000 };
        for direction in [Direction::Forward, Direction::Backward] {
            let found = collect(self.disk(), &range, direction, limit);
            let expected = collect(&self.oracle, &range, direction, limit);
            assert!(found == expected, "{direction:?} scan of {range:?} differs");
        }
    }

    fn reopen(&mut self) {
        let disk = self.disk.take().unwrap();
        if self.dice.random_bool(0.5) {
            disk.close().unwrap();
        } else {
            drop(disk);
        }
        self.disk = Some(open(&self.dir));
        let all = KeyRange::prefix(&[]);
        let found = collect(self.disk(), &all, Direction::Forward, usize::MAX);
        assert!(found == collect(&self.oracle, &all, Direction::Forward, usize::MAX));
        assert_eq!(self.disk().usage().unsynced_files, 0);
    }

    /// Old keys, short keys, long keys with a common beginning, and runs of 0xFF.
    fn key(&mut self) -> Vec<u8> {
        match self.dice.random_range(0..10) {
            0..4 => self.keys.choose(&mut self.dice).unwrap().clone(),
            4..7 => self.bytes(0..6),
            7 => {
                let mut key = vec![b'k'; self.dice.random_range(300..KEY_BYTES_MAX - 8)];
                key.extend(self.bytes(0..8));
                key
            }
            _ => {
                let mut key = self.bytes(0..2);
                key.resize(key.len() + self.dice.random_range(0..12), u8::MAX);
                key.extend(self.bytes(0..3));
                key
            }
        }
    }

    fn bytes(&mut self, len: std::ops::Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; self.dice.random_range(len)];
        self.dice.fill_bytes(&mut bytes);
        bytes
    }

    fn value(&mut self) -> Bytes {
        let len = match self.dice.random_range(0..100) {
            0..80 => 0..200,
            80..97 => 15_000..40_000,
            _ => 1_000_000..3_200_000,
        };
        self.bytes(len).into()
    }

    fn range(&mut self) -> KeyRange {
        let start = self.key();
        match self.dice.random_range(0..4) {
            0 => KeyRange::prefix(&start),
            1 => KeyRange { start, end: None },
            _ => KeyRange::new(start, self.key()),
        }
    }
}

fn open(dir: &TempDir) -> DiskStore {
    // A small cache, so that pages really go out and come back.
    let options =
        DiskOptions { cache_bytes: 1 << 20, free_bytes_min: 0, lock_wait: Duration::from_secs(10) };
    DiskStore::open(dir.path(), &options).unwrap()
}

fn collect(
    store: &dyn Store,
    range: &KeyRange,
    direction: Direction,
    limit: usize,
) -> Vec<(Vec<u8>, Bytes)> {
    let mut rows = Vec::new();
    store
        .scan(range, direction, &mut |key, value| {
            rows.push((key.to_vec(), value));
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    rows
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn the_disk_engine_equals_the_oracle() {
    let (first, cases) = match (number("DELTASYNC_SEED"), number("DELTASYNC_CASES")) {
        (Some(seed), cases) => (seed, cases.unwrap_or(1)),
        (None, cases) => (rand::random::<u32>().into(), cases.unwrap_or(CASES)),
    };
    for seed in first..first + cases {
        eprintln!("DELTASYNC_SEED={seed}");
        let mut model = Model::new(seed);
        (0..STEPS).for_each(|_| model.step());
        model.reopen();
    }
}
