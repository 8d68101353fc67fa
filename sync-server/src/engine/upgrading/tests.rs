//! Stores as older programs wrote them.

use std::collections::BTreeMap;

use sync_proto::types::{CollectionName, Found, Head, Reconcile, Round};

use crate::engine::ledger::{Ledger, Settings};
use crate::engine::purging::Rest;
use crate::store::memory::{Fault, Faults, MemoryStore};

use super::*;

/// All rows of a store that a program of format 1 wrote: four collections with items, sort keys,
/// tombstones and a floor, one that is deleted but not purged, receipts. Hexadecimal, key and
/// value.
const FORMAT_1: &str = include_str!("rows-format-1.txt");

fn old_store() -> MemoryStore {
    let unhex = |hex: &str| -> Vec<u8> {
        let digits: Vec<char> = hex.chars().collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    };
    let mut batch = Batch::default();
    for row in FORMAT_1.lines() {
        let (key, value) = row.split_once(' ').unwrap();
        batch.put(unhex(key), unhex(value).into());
    }
    let store = MemoryStore::new();
    store.apply(&batch).unwrap();
    store.sync().unwrap();
    store
}

fn open(store: MemoryStore) -> Result<Ledger<MemoryStore>, StoreError> {
    Ledger::open(store, Settings::default(), &mut |_| {})
}

fn heads(ledger: &Ledger<MemoryStore>) -> BTreeMap<CollectionName, Head> {
    ledger.list_collections("", &[String::new()], None, usize::MAX, |_| true).into_iter().collect()
}

/// How many items the index has.
fn indexed(ledger: &Ledger<MemoryStore>) -> usize {
    let mut count = 0;
    for (collection, head) in heads(ledger) {
        for group in 0..64 {
            let group = sync_proto::digest::Group::new(group).unwrap();
            let segments = group.segments().collect();
            let round = Round::Entries { at: head.cursor(), segments, page_token: Bytes::new() };
            let collection = collection.clone();
            let asked = Reconcile { collection, round, client_id: String::new() };
            let Found::Entries(entries, _) = ledger.reconcile(&asked).unwrap().found else {
                panic!("entries were asked")
            };
            count += entries.len();
        }
    }
    count
}

fn rows(store: &MemoryStore) -> usize {
    let mut rows = 0;
    let all = KeyRange { start: Vec::new(), end: None };
    let mut count = |_: &[u8], _| {
        rows += 1;
        ControlFlow::Continue(())
    };
    store.scan(&all, Direction::Forward, &mut count).unwrap();
    rows
}

/// A store of the first version opens, loses nothing, and has what the newer format adds.
#[test]
fn a_store_of_format_1_opens() {
    let before = rows(&old_store());
    let ledger = open(old_store()).unwrap();
    let heads = heads(&ledger);
    let told: Vec<_> = heads
        .iter()
        .map(|(name, head)| (name.as_str(), head.items, head.tombstones, head.floor.get()))
        .collect();
    assert_eq!(told, [("a", 7, 3, 4), ("a/b", 1, 0, 0), ("empty", 0, 1, 0), ("imported", 1, 0, 0)]);
    assert_eq!(indexed(&ledger), 9);
    // One more row an item, and one of the collection that waits to be purged.
    assert_eq!(rows(ledger.store()), before + 10);
    let now = sync_proto::types::Timestamp::from_millis(60_000);
    while ledger.purge_step(now, &mut || true).unwrap() != Rest::Nothing {}
    // Once upgraded it is an ordinary store, which is checked in full.
    let again = open(ledger.store().crash()).unwrap();
    assert_eq!((self::heads(&again), indexed(&again)), (heads, 9));
}

/// G3: an upgrade that is interrupted at any step is done again when the store is opened.
#[test]
fn an_interrupted_upgrade_is_done_again() {
    // The first call of each kind made the store.
    let calls = (2..5).flat_map(|call| [Fault::Before, Fault::After].map(|fault| (call, fault)));
    for (call, fault) in calls {
        let one = || [(call, fault)].into();
        for faults in [
            Faults { apply: one(), ..Faults::default() },
            Faults { sync: one(), ..Faults::default() },
        ] {
            let store = old_store();
            store.set_faults(faults.clone());
            upgrade(&store, true).unwrap_err();
            for left in [store.crash(), store.crash_keeping(1), store.crash_keeping(usize::MAX)] {
                let ledger = open(left).unwrap();
                assert_eq!((heads(&ledger).len(), indexed(&ledger)), (4, 9), "{faults:?}");
                open(ledger.store().crash()).unwrap();
            }
        }
    }
    let store = old_store();
    store.set_faults(Faults { apply: [(5, Fault::Before)].into(), ..Faults::default() });
    upgrade(&store, true).unwrap();
}

/// A store of format 2 lacks nothing but the number, and is checked in full before it is opened.
#[test]
fn a_store_of_format_2_opens() {
    let current = open(old_store()).unwrap().into_store().crash();
    let two = || {
        let store = current.fork();
        let mut batch = Batch::default();
        batch.put(keys::format_key(), Bytes::copy_from_slice(&2_u32.to_be_bytes()));
        store.apply(&batch).unwrap();
        store
    };
    let store = two();
    // The first call made it of format 2, the second upgrades it, and there is no third.
    store.set_faults(Faults { apply: [(3, Fault::Before)].into(), ..Faults::default() });
    let ledger = open(store).unwrap();
    assert_eq!((heads(&ledger).len(), indexed(&ledger)), (4, 9));
    let format = ledger.store().get(&keys::format_key()).unwrap().unwrap();
    assert_eq!(format.as_ref(), ROW_FORMAT.to_be_bytes());
    open(ledger.store().crash()).unwrap();
    let mut spoilt = Batch::default();
    let mut members = Vec::new();
    let all = KeyRange { start: Vec::new(), end: None };
    let visit = &mut |key: &[u8], value: Bytes| {
        if let Ok(Row::Member { .. }) = Row::decode(key, value) {
            members.push(key.to_vec());
        }
        ControlFlow::Continue(())
    };
    current.scan(&all, Direction::Forward, visit).unwrap();
    spoilt.remove(members.remove(0));
    let store = two();
    store.apply(&spoilt).unwrap();
    let refused = open(store).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}
