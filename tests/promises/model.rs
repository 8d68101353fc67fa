//! The ledger over memory and over disk does the same as a model that remembers everything,
//! under random commits, purges, deletes of collections and restarts. `DELTASYNC_SEED` repeats a
//! case.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use sync_proto::digest::{self, Segment};
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Commit, Condition, Cursor, Epoch, Found, Key, ListItems, ListOrder, Mutation,
    Op, OrderRange, Precondition, Reconcile, ResetReason, Round, Target, Timestamp, Version,
};
use sync_server::core::plan::Refusal;
use sync_server::core::request::Request;
use sync_server::core::retention::Retention;
use sync_server::core::route::LookLimits;
use sync_server::engine::ledger::{Group, Ledger, Settings};
use sync_server::engine::purging::Rest;
use sync_server::store::Store;
use sync_server::store::disk::{DiskOptions, DiskStore};
use sync_server::store::memory::MemoryStore;
use sync_tests::compose::{key, name, sort_key, value, version};
use sync_tests::seed;
use tempfile::TempDir;

use self::naive::Naive;
use self::readers::Readers;

mod naive;
mod readers;

/// Random cases per run when the environment does not say.
const CASES: u64 = 6;

/// Steps of a case.
const STEPS: usize = 400;

const COLLECTIONS: [&str; 3] = ["a", "a/b", "c"];

/// Tombstones live this long, and there are at most so many.
const RETENTION: Retention =
    Retention { tombstone_age_max: Duration::from_secs(5), tombstones_max: 6 };

/// Two ledgers, the model, and readers of all three.
struct World {
    dice: StdRng,
    dir: TempDir,
    memory: Ledger<MemoryStore>,
    disk: Option<Ledger<DiskStore>>,
    naive: Naive,
    readers: Readers,
    clock: u64,
    epochs: u64,
}

/// G1, G2, G4, G5: whatever happens, both engines give the answers that the model gives, and any
/// reader's delta is exactly what changed after its cursor.
#[test]
fn both_engines_are_the_model() {
    seed::each(CASES, |dice| {
        let mut world = World::new(dice);
        for _ in 0..STEPS {
            world.step();
        }
        world.reopen();
        world.check_everything();
    });
}

// === impl World ===

impl World {
    fn new(dice: StdRng) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Some(open_disk(&dir));
        let memory = open(MemoryStore::new());
        let (naive, readers) = (Naive::new(RETENTION), Readers::default());
        Self { dice, dir, memory, disk, naive, readers, clock: 1_000_000, epochs: 0 }
    }

    fn disk(&self) -> &Ledger<DiskStore> {
        self.disk.as_ref().expect("only away while it is opened again")
    }

    fn step(&mut self) {
        self.clock += self.dice.random_range(0..200);
        match self.dice.random_range(0..100) {
            0..50 => self.commit(),
            50..65 => self.exact_delta(),
            65..85 => self.read_a_page(),
            85..91 => self.purge(),
            91..93 => self.delete_collection(),
            93..95 => self.reopen(),
            _ => self.check_everything(),
        }
    }

    /// A group of commits; each is judged after the ones before it.
    fn commit(&mut self) {
        let commits: Vec<Commit> =
            (0..self.dice.random_range(1..4)).map(|_| self.random_commit()).collect();
        let now = Timestamp::from_millis(self.clock);
        let requests: Vec<Request> = commits
            .iter()
            .map(|commit| Request::Commit { commit: commit.clone(), fingerprint: [0; 16] })
            .collect();
        let first = self.epochs;
        let by_memory = group(&self.memory, &requests, now, first);
        let by_disk = group(self.disk(), &requests, now, first);
        let mut epochs = first;
        for ((commit, memory), disk) in commits.iter().zip(by_memory.answers).zip(by_disk.answers) {
            let wanted = self.naive.commit(commit, now, &mut || next_epoch(&mut epochs));
            let told = |answer: Result<sync_server::core::plan::Answer, Refusal>| {
                answer.map(|answer| answer.collections).map_err(|refusal| match refusal {
                    Refusal::Precondition { .. } => "precondition",
                    Refusal::ReorderOfMissing { .. } => "reorder",
                    Refusal::Damaged(_) | _ => panic!("{refusal}"),
                })
            };
            let (memory, disk) = (told(memory), told(disk));
            assert_eq!(memory, wanted, "memory: {commit:?}");
            assert_eq!(disk, wanted, "disk: {commit:?}");
        }
        self.epochs = epochs + 10;
    }

    fn random_commit(&mut self) -> Commit {
        let mut mutations: BTreeMap<(CollectionName, Key), Mutation> = BTreeMap::new();
        for _ in 0..self.dice.random_range(1..6) {
            let (collection, key) = (self.collection(), self.key());
            let op = match self.dice.random_range(0..10) {
                0..5 => Op::Put {
                    key: key.clone(),
                    value: value(["", "x", "y", "long value"].choose(&mut self.dice).unwrap()),
                    sort_key: self.dice.random_bool(0.3).then(|| self.place()),
                },
                5..9 => Op::Delete { key: key.clone() },
                _ => Op::Reorder { key: key.clone(), sort_key: self.place() },
            };
            mutations.insert((collection.clone(), key), Mutation { collection, op });
        }
        let preconditions = (0..self.dice.random_range(0..5) / 4).map(|_| self.condition());
        let preconditions = preconditions.collect();
        let mutations = mutations.into_values().collect();
        Commit { mutations, preconditions, idempotency_key: String::new() }
    }

    fn condition(&mut self) -> Precondition {
        let collection = self.collection();
        let head = self.memory.head(&collection);
        let near = head.map_or(0, |head| head.version.get()).max(1) - 1;
        let near = version(self.dice.random_range(near..near + 3));
        let condition = match self.dice.random_range(0..5) {
            0 => Condition::CollectionAbsent,
            1 => Condition::HeadEquals(head.map(|head| head.epoch), near),
            2 => Condition::ItemVersionEquals(self.key(), near),
            3 => Condition::ItemAbsent(self.key()),
            _ => Condition::ItemPresent(self.key()),
        };
        Precondition { collection, condition }
    }

    fn collection(&mut self) -> CollectionName {
        name(COLLECTIONS.choose(&mut self.dice).unwrap())
    }

    fn key(&mut self) -> Key {
        let keys = ["a", "b", "b/1", "b/2", "b0", "c", "\0", "zz", "zzz", "b/3", "b/4", "b/5"];
        key(keys.choose(&mut self.dice).unwrap())
    }

    fn place(&mut self) -> sync_proto::types::SortKey {
        sort_key(["", "1", "2", "\0"].choose(&mut self.dice).unwrap())
    }

    /// What a caught-up reader of any version and any part is told is exactly what changed since;
    /// if that is more than it wants to read, it is told so, and not otherwise.
    fn exact_delta(&mut self) {
        let collection = self.collection();
        let Some(head) = self.memory.head(&collection) else { return };
        let at = version(self.dice.random_range(0..=head.version.get() + 1));
        let scope = readers::random_scope(&mut self.dice);
        let look = readers::random_look(&mut self.dice);
        let mut wanted = self.naive.delta(&collection, &scope, at);
        let mut target = Target::all(collection, Some(Cursor::at(head.epoch, at)));
        target.changes_max = self.dice.random_bool(0.5).then(|| self.dice.random_range(1..8));
        if let Ok(changes) = &wanted {
            let count = u64::try_from(changes.len()).unwrap();
            if target.changes_max.is_some_and(|most| count > most) {
                wanted = Err(ResetReason::TooLarge);
            }
        }
        target.scope = scope;
        // In one look, by whichever way; and judged the same if it takes several.
        let whole = LookLimits { rows_max: LookLimits::FULL.rows_max, ..look };
        assert_eq!(readers::delta(&self.memory, &target, whole), wanted, "memory: {target:?}");
        assert_eq!(readers::delta(self.disk(), &target, whole), wanted, "disk: {target:?}");
        let judged = readers::delta(&self.memory, &target, look).map(|_| ());
        assert_eq!(judged, wanted.map(|_| ()), "{look:?}: {target:?}");
    }

    fn read_a_page(&mut self) {
        let disk = self.disk.as_ref().expect("only away while it is opened again");
        self.readers.step(&mut self.dice, &self.memory, disk, &self.naive, &COLLECTIONS);
    }

    fn purge(&mut self) {
        let now = Timestamp::from_millis(self.clock);
        while self.memory.purge_step(now, &mut || true).unwrap() != Rest::Nothing {}
        while self.disk().purge_step(now, &mut || true).unwrap() != Rest::Nothing {}
        self.naive.purge(now);
        self.check_heads();
    }

    fn delete_collection(&mut self) {
        let collection = self.collection();
        let wanted = self.naive.delete_collection(&collection);
        let memory =
            self.memory.delete_collection(&collection, None, Timestamp::now()).unwrap().ok();
        let disk = self.disk().delete_collection(&collection, None, Timestamp::now()).unwrap().ok();
        assert_eq!((memory, disk), (wanted, wanted));
    }

    /// What a restart finds: the synced rows, checked one by one.
    fn reopen(&mut self) {
        self.memory = open(self.memory.store().crash());
        let disk = self.disk.take().expect("it is opened again below");
        disk.into_store().close().unwrap();
        self.disk = Some(open_disk(&self.dir));
        self.check_heads();
    }

    fn check_heads(&self) {
        for collection in COLLECTIONS.map(name) {
            let wanted = self.naive.head(&collection);
            assert_eq!(self.memory.head(&collection), wanted, "memory: {collection}");
            assert_eq!(self.disk().head(&collection), wanted, "disk: {collection}");
        }
    }

    fn check_everything(&self) {
        self.check_heads();
        for collection in COLLECTIONS.map(name) {
            for order in [ListOrder::Key, ListOrder::SortKey] {
                let wanted = self.naive.list(&collection, order);
                assert_eq!(list(&self.memory, &collection, order), wanted, "memory");
                assert_eq!(list(self.disk(), &collection, order), wanted, "disk");
            }
            let wanted = self.naive.entries(&collection);
            assert_eq!(entries(&self.memory, &collection), wanted, "memory");
            assert_eq!(entries(self.disk(), &collection), wanted, "disk");
        }
    }
}

fn settings() -> Settings {
    Settings { retention: RETENTION, ..Settings::default() }
}

fn open<S: Store>(store: S) -> Ledger<S> {
    Ledger::open(store, settings(), &mut |_| {}).unwrap()
}

fn open_disk(dir: &TempDir) -> Ledger<DiskStore> {
    let options = DiskOptions { cache_bytes: 1 << 20, free_bytes_min: 1, ..DiskOptions::default() };
    open(DiskStore::open(dir.path(), &options).unwrap())
}

fn group<S: Store>(ledger: &Ledger<S>, requests: &[Request], now: Timestamp, first: u64) -> Group {
    let mut epochs = first;
    ledger.commit(requests, now, &mut || next_epoch(&mut epochs)).unwrap()
}

fn next_epoch(epochs: &mut u64) -> Epoch {
    *epochs += 1;
    Epoch::new(*epochs).unwrap()
}

fn list<S: Store>(
    ledger: &Ledger<S>,
    collection: &CollectionName,
    order: ListOrder,
) -> Option<Vec<(Key, Version)>> {
    let asked = ListItems {
        collection: collection.clone(),
        order,
        descending: false,
        page_size: 1_000,
        page_token: bytes::Bytes::new(),
        keys_only: false,
        key_prefix: bytes::Bytes::new(),
        stretch: OrderRange::default(),
        skip: 0,
    };
    let window = ledger.list_items(&asked, PAGE_BYTES_MAX).ok()?;
    Some(window.items.into_iter().map(|item| (item.key, item.version)).collect())
}

/// What reconciliations tell of all segments, a group at a time.
fn entries<S: Store>(
    ledger: &Ledger<S>,
    collection: &CollectionName,
) -> Option<Vec<(Segment, Key, Version)>> {
    let at = ledger.head(collection)?.cursor();
    let mut all = Vec::new();
    for group in (0..64).map(|number| digest::Group::new(number).unwrap()) {
        let segments = group.segments().collect();
        let round = Round::Entries { at, segments, page_token: bytes::Bytes::new() };
        let asked = Reconcile { collection: collection.clone(), round, client_id: String::new() };
        let Found::Entries(entries, _) = ledger.reconcile(&asked).unwrap().found else {
            panic!("entries were asked")
        };
        let told = entries.into_iter();
        all.extend(told.map(|entry| (Segment::of_key(&entry.key), entry.key, entry.version)));
    }
    Some(all)
}
