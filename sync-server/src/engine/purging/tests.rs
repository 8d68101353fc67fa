//! What is forgotten, in which order, and that nobody waits for ever.

use std::time::Duration;

use sync_proto::types::{Commit, Epoch, Mutation, Op, Value};

use super::*;
use crate::core::request::Request;
use crate::core::retention::Retention;
use crate::engine::ledger::Settings;
use crate::store::memory::{Fault, MemoryStore};

const SECOND: u64 = 1_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + seconds * SECOND)
}

fn settings(age_s: u64, tombstones_max: u64) -> Settings {
    let tombstone_age_max = Duration::from_secs(age_s);
    Settings {
        retention: Retention { tombstone_age_max, tombstones_max },
        receipt_window: Duration::from_secs(600),
        receipts_max: 1_000,
        ..Settings::default()
    }
}

fn ledger(settings: Settings) -> Ledger<MemoryStore> {
    Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap()
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn mutation(collection: &str, item: usize, value: Option<Vec<u8>>) -> Mutation {
    let key = Key::new(format!("item {item:05}")).unwrap();
    let op = match value {
        Some(value) => Op::Put { key, value: Value::new(value).unwrap(), sort_key: None },
        None => Op::Delete { key },
    };
    Mutation { collection: name(collection), op }
}

fn commit(
    ledger: &Ledger<MemoryStore>,
    mutations: Vec<Mutation>,
    idempotency_key: String,
    seconds: u64,
) {
    let commit = Commit { mutations, preconditions: Vec::new(), idempotency_key };
    let request = Request::Commit { commit, fingerprint: [0; 16] };
    let mut mint = || Epoch::new(7).unwrap();
    let group = ledger.commit(&[request], at(seconds), &mut mint).unwrap();
    group.answers.into_iter().for_each(|answer| drop(answer.unwrap()));
}

/// Puts `count` items and deletes them again.
fn bury(ledger: &Ledger<MemoryStore>, collection: &str, count: usize, seconds: u64) {
    for items in (0..count).collect::<Vec<_>>().chunks(500) {
        let put = |item: &usize| mutation(collection, *item, Some(b"x".to_vec()));
        commit(ledger, items.iter().map(put).collect(), String::new(), seconds);
        let delete = |item: &usize| mutation(collection, *item, None);
        commit(ledger, items.iter().map(delete).collect(), String::new(), seconds);
    }
}

fn tombstones(ledger: &Ledger<MemoryStore>, collection: &str) -> u64 {
    ledger.head(&name(collection)).unwrap().tombstones
}

fn receipts(ledger: &Ledger<MemoryStore>) -> u64 {
    ledger.writing.lock().receipts
}

/// One batch.
fn one(ledger: &Ledger<MemoryStore>, seconds: u64) -> Rest {
    ledger.purge_step(at(seconds), &mut || false).unwrap()
}

/// Everything that may be forgotten; how many batches it took.
fn all(ledger: &Ledger<MemoryStore>, seconds: u64) -> usize {
    let mut batches = 0;
    let mut count = || {
        batches += 1;
        true
    };
    while ledger.purge_step(at(seconds), &mut count).unwrap() != Rest::Nothing {}
    batches
}

fn reopened(ledger: Ledger<MemoryStore>, settings: Settings) -> Ledger<MemoryStore> {
    Ledger::open(ledger.into_store().crash(), settings, &mut |_| {}).unwrap()
}

/// G5: purged down to the cap, whatever the age; the floor is the newest version forgotten, and
/// what is left fits together and is durable.
#[test]
fn the_cap_wins_over_the_age() {
    let settings = settings(1_000_000, 10);
    let ledger = ledger(settings);
    for item in 0..300 {
        bury(&ledger, "c", item % 3 + 1, item as u64);
    }
    bury(&ledger, "c", 200, 300);
    all(&ledger, 301);
    let head = ledger.head(&name("c")).unwrap();
    assert_eq!((head.tombstones, head.items), (10, 0));
    assert_eq!(head.floor, head.version, "some of the last delete are forgotten");
    assert_eq!(reopened(ledger, settings).head(&name("c")), Some(head));
}

#[test]
fn old_tombstones_go_and_young_ones_stay() {
    let ledger = ledger(settings(100, 1_000_000));
    bury(&ledger, "c", 40, 0);
    let floor = ledger.head(&name("c")).unwrap().version;
    bury(&ledger, "d", 40, 50);
    let other = (40..50).map(|item| mutation("c", item, Some(b"x".to_vec()))).collect();
    commit(&ledger, other, String::new(), 50);
    commit(&ledger, (40..50).map(|item| mutation("c", item, None)).collect(), String::new(), 50);
    assert_eq!(all(&ledger, 100), 2, "a look at each, nothing to forget");
    assert_eq!((tombstones(&ledger, "c"), tombstones(&ledger, "d")), (50, 40));
    all(&ledger, 101);
    assert_eq!((tombstones(&ledger, "c"), tombstones(&ledger, "d")), (10, 40));
    assert_eq!(ledger.head(&name("c")).unwrap().floor, floor);
    all(&ledger, 151);
    assert_eq!((tombstones(&ledger, "c"), tombstones(&ledger, "d")), (0, 0));
}

/// A collection with young tombstones costs one look, not one a round.
#[test]
fn young_tombstones_are_looked_at_once() {
    let ledger = ledger(settings(100, 1_000_000));
    for collection in 0..50 {
        bury(&ledger, &format!("c{collection}"), 1, 0);
    }
    assert_eq!(all(&ledger, 1), 50);
    bury(&ledger, "c7", 5, 2);
    assert_eq!(all(&ledger, 3), 0, "the oldest is known, a younger one changes nothing");
    assert_eq!(all(&ledger, 99), 0);
}

/// A collection that is never done does not keep others from their turn.
#[test]
fn a_busy_collection_starves_nobody() {
    let ledger = ledger(settings(1_000_000, 0));
    bury(&ledger, "a", 3_000, 0);
    bury(&ledger, "b", 30, 0);
    bury(&ledger, "c", 30, 0);
    for _ in 0..3 {
        assert_eq!(one(&ledger, 1), Rest::Surplus);
    }
    assert_eq!((tombstones(&ledger, "b"), tombstones(&ledger, "c")), (0, 0));
    assert_eq!(tombstones(&ledger, "a"), 3_000 - 33);
}

/// Surplus, old tombstones, receipts and deleted collections: each gets its turn.
#[test]
fn no_kind_waits_for_another() {
    let ledger = ledger(Settings { receipts_max: 0, ..settings(10, 500) });
    bury(&ledger, "doomed", 2_000, 0);
    ledger.delete_collection(&name("doomed"), None, Timestamp::from_millis(0)).unwrap().unwrap();
    bury(&ledger, "surplus", 2_000, 9);
    for round in 0..10 {
        bury(&ledger, &format!("old{round}"), 50, 0);
    }
    for receipt in 0..200 {
        let put = mutation("live", receipt, Some(b"x".to_vec()));
        commit(&ledger, vec![put], format!("key {receipt}"), 9);
    }
    let rows = |range| {
        let mut rows = 0;
        let mut count = |_: &[u8], _| {
            rows += 1;
            ControlFlow::Continue(())
        };
        ledger.store().scan(&range, Direction::Forward, &mut count).unwrap();
        rows
    };
    let [log, ..] = keys::doomed_ranges(CollectionId(1));
    let before = (rows(log.clone()), rows(keys::receipt_age_range()));
    for _ in 0..4 {
        one(&ledger, 11);
    }
    assert_eq!((rows(log), rows(keys::receipt_age_range())), (before.0 - 100, before.1 - 50));
    assert_eq!(tombstones(&ledger, "surplus"), 2_000 - 33);
    assert_eq!(tombstones(&ledger, "old0"), 17);
    all(&ledger, 11);
    assert_eq!(rows(keys::receipt_age_range()), 0);
    assert_eq!(tombstones(&ledger, "surplus"), 500);
    assert_eq!(tombstones(&ledger, "old9"), 0);
}

/// Many small deleted collections share a batch; big values get batches of their own.
#[test]
fn a_batch_is_bounded_by_rows_and_by_bytes() {
    let settings = settings(10, 10);
    let ledger = ledger(settings);
    for collection in 0..10 {
        let small = mutation(&format!("small{collection}"), 1, Some(b"x".to_vec()));
        commit(&ledger, vec![small], String::new(), 0);
        ledger
            .delete_collection(
                &name(&format!("small{collection}")),
                None,
                Timestamp::from_millis(0),
            )
            .unwrap()
            .unwrap();
    }
    assert_eq!(all(&ledger, 1), 1);
    let big = |item| mutation("big", item, Some(vec![7; 600 * 1024]));
    for item in 0..4 {
        commit(&ledger, vec![big(item)], String::new(), 0);
    }
    ledger.delete_collection(&name("big"), None, Timestamp::from_millis(0)).unwrap().unwrap();
    assert_eq!(all(&ledger, 1), 4, "each log row by itself, the last one with all other rows");
    assert!(ledger.writing.lock().doomed.is_empty());
    let usage = ledger.store().usage().bytes;
    assert!(usage < 1024, "{usage} bytes left");
    reopened(ledger, settings);
}

/// G3: until a step is durable, readers see the collection as it was before its first batch.
#[test]
fn a_step_of_many_batches_is_undone_as_a_whole() {
    let settings = settings(1_000_000, 0);
    let ledger = ledger(settings);
    bury(&ledger, "c", 200, 0);
    let before = ledger.head(&name("c")).unwrap();
    ledger.store().fail_next_sync(Fault::Before);
    ledger.purge_step(at(1), &mut || true).unwrap_err();
    assert_eq!(ledger.head(&name("c")), Some(before));
    assert_eq!(ledger.purge_step(at(1), &mut || true).unwrap(), Rest::Nothing);

    let heads = ledger.heads.read();
    let undone = |key: &[u8]| heads.undo.contains_key(key);
    let (id, meta) = heads.by_name[&name("c")].clone();
    let key = Key::new("item 00199").unwrap();
    assert!(undone(&keys::key_key(id, &key)) && undone(&log_key(id, before.version, &key)));
    let kept = heads.undo[&keys::meta_key(id)].clone();
    assert_eq!(kept, Some(meta.encode()), "the first of the batches found it so");
    drop(heads);
    assert_eq!(reopened(ledger, settings).head(&name("c")), Some(before));
}

#[test]
fn purges_leave_half_of_the_reserve() {
    let full = |free| leaves_reserve(Err(StoreError::Full { free, wanted: 100 })).unwrap();
    assert!(leaves_reserve(Ok(())).unwrap() && full(50) && !full(49));
    let ledger = ledger(settings(10, 10));
    bury(&ledger, "c", 50, 0);
    ledger.store().set_full(true);
    assert_eq!(one(&ledger, 20), Rest::Nothing);
    ledger.store().set_full(false);
    all(&ledger, 20);
    assert_eq!(tombstones(&ledger, "c"), 0);
}

/// A clock that went back brings rows that lie before what was removed already: they are found within
/// a minute.
#[test]
fn what_comes_before_a_front_is_forgotten_too() {
    let ledger = ledger(Settings { receipts_max: 0, ..settings(10, 1_000) });
    let put = |item| vec![mutation("c", item, Some(b"x".to_vec()))];
    for item in 0..150 {
        commit(&ledger, put(item), format!("commit {item}"), 100);
    }
    bury(&ledger, "d", 150, 100);
    all(&ledger, 120);
    assert_eq!((receipts(&ledger), tombstones(&ledger, "d")), (0, 0));
    commit(&ledger, put(1_000), "of an older clock".to_owned(), 20);
    bury(&ledger, "d", 3, 20);
    all(&ledger, 121);
    all(&ledger, 181);
    assert_eq!((receipts(&ledger), tombstones(&ledger, "d")), (0, 0));
}
