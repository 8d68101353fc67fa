//! A whole store of which some rows are changed, lost or new: it opens or is refused, and one
//! that opens answers.
#![no_main]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::OnceLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sync_proto::types::{
    CollectionName, Commit, Epoch, Key, ListItems, ListOrder, Mutation, Op, OrderRange, SortKey,
    Timestamp, Value,
};
use sync_server::config::Config;
use sync_server::core::request::Request;
use sync_server::engine::ledger::Ledger;
use sync_server::store::memory::MemoryStore;
use sync_server::store::{Batch, Direction, KeyRange, Store as _};

type Rows = BTreeMap<Vec<u8>, Bytes>;

const NAMES: [&str; 2] = ["a", "a/b"];

/// The rows of a store with a past.
fn whole() -> &'static Rows {
    static WHOLE: OnceLock<Rows> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let settings = Config::default().ledger();
        let ledger = Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap();
        for number in 0..12_u64 {
            let mutations = NAMES.iter().map(|name| mutation(name, number)).collect();
            let idempotency_key = if number % 3 == 0 { number.to_string() } else { String::new() };
            let commit = Commit { mutations, idempotency_key, ..Commit::default() };
            let request = Request::Commit { commit, fingerprint: [7; 16] };
            let now = Timestamp::from_millis(1_000 + number);
            let mut epoch = || Epoch::new(5 + number).unwrap();
            ledger.commit(&[request], now, &mut epoch).unwrap();
        }
        let mut rows = Rows::new();
        let mut visit = |key: &[u8], value: Bytes| {
            rows.insert(key.to_vec(), value);
            ControlFlow::Continue(())
        };
        ledger.store().scan(&KeyRange::prefix(&[]), Direction::Forward, &mut visit).unwrap();
        rows
    })
}

fn mutation(name: &str, number: u64) -> Mutation {
    let key = Key::new(format!("key {}", number % 5)).unwrap();
    let op = if number % 4 == 3 {
        Op::Delete { key }
    } else {
        let value = Value::new(number.to_string()).unwrap();
        Op::Put { key, value, sort_key: Some(SortKey::new(vec![0, number as u8]).unwrap()) }
    };
    Mutation { collection: CollectionName::new(name).unwrap(), op }
}

/// Does what one instruction says to one row.
fn change(rows: &mut Rows, (row, what, at, byte): (u8, u8, u8, u8)) {
    let Some(key) = rows.keys().nth(usize::from(row) % rows.len().max(1)).cloned() else { return };
    let mut bytes = if what & 1 == 0 { rows[&key].to_vec() } else { key.clone() };
    let at = usize::from(at) % bytes.len().max(1);
    match what >> 1 & 3 {
        0 if !bytes.is_empty() => bytes[at] ^= byte,
        1 => bytes.truncate(at),
        2 => bytes.insert(at, byte),
        _ => {
            rows.remove(&key);
            return;
        }
    }
    if what & 1 == 0 {
        rows.insert(key, bytes.into());
    } else {
        // Under another key, in place of the old one or beside it.
        let value = rows[&key].clone();
        if what & 8 == 0 {
            rows.remove(&key);
        }
        rows.insert(bytes, value);
    }
}

fuzz_target!(|changes: Vec<(u8, u8, u8, u8)>| {
    let mut rows = whole().clone();
    for instruction in changes.into_iter().take(16) {
        change(&mut rows, instruction);
    }
    let store = MemoryStore::new();
    let mut batch = Batch::default();
    for (key, value) in rows {
        if !key.is_empty() && key.len() <= sync_server::store::KEY_BYTES_MAX {
            batch.put(key, value);
        }
    }
    store.apply(&batch).and_then(|()| store.sync()).unwrap();
    let Ok(ledger) = Ledger::open(store, Config::default().ledger(), &mut |_| {}) else { return };
    for name in NAMES {
        let list = ListItems {
            collection: CollectionName::new(name).unwrap(),
            order: ListOrder::SortKey,
            descending: false,
            page_size: 100,
            page_token: Bytes::new(),
            keys_only: false,
            key_prefix: Bytes::new(),
            stretch: OrderRange::default(),
            skip: 0,
        };
        if let Ok(window) = ledger.list_items(&list, usize::MAX) {
            let head = ledger.head(&list.collection).expect("it was listed");
            assert_eq!(window.items.len() as u64, head.items, "a checked store has what it says");
        }
    }
});
