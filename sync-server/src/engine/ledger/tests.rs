//! What a ledger refuses to open.

use sync_proto::types::{Commit, Key, Mutation, Op, SortKey, Value};

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::rows::KeyRow;

fn open(store: MemoryStore) -> Result<Ledger<MemoryStore>, StoreError> {
    Ledger::open(store, Settings::default(), &mut |_| {})
}

fn write(store: &MemoryStore, key: Vec<u8>, value: Bytes) {
    let mut batch = Batch::default();
    batch.put(key, value);
    store.apply(&batch).unwrap();
    store.sync().unwrap();
}

/// A store with the item `k` in collection 1.
fn store() -> MemoryStore {
    let ledger = open(MemoryStore::new()).unwrap();
    let op = Op::Put {
        key: Key::new("k").unwrap(),
        value: Value::new("value").unwrap(),
        sort_key: Some(SortKey::new("place").unwrap()),
    };
    let collection = CollectionName::new("c").unwrap();
    let mutations = vec![Mutation { collection, op }];
    let commit = Commit { mutations, preconditions: Vec::new(), idempotency_key: String::new() };
    let request = Request::Commit { commit, fingerprint: [0; 16] };
    let mut mint = || Epoch::new(7).unwrap();
    let group = ledger.commit(&[request], Timestamp::from_millis(1), &mut mint).unwrap();
    assert!(group.answers[0].is_ok());
    ledger.into_store()
}

/// A newer program may use rows that this one cannot read: that is not damage.
#[test]
fn a_newer_format_is_told_from_damage() {
    let newer = store();
    write(&newer, vec![0x7f, 1, 2, 3], Bytes::from_static(b"unheard of"));
    let damaged = newer.fork();
    write(&newer, keys::format_key(), Bytes::copy_from_slice(&(ROW_FORMAT + 1).to_be_bytes()));
    let refused = open(newer).unwrap_err();
    let (found, known) = (ROW_FORMAT + 1, ROW_FORMAT);
    assert!(
        matches!(refused, StoreError::NewerFormat { found: f, known: k } if (f, k) == (found, known)),
        "{refused}"
    );
    assert!(matches!(open(damaged), Err(StoreError::Damaged { .. })));
}

/// Planning trusts key rows: each of their fields must be what the log says.
#[test]
fn a_key_row_that_differs_from_its_log_row_is_damage() {
    type Spoil = fn(&mut KeyRow);
    open(store()).unwrap();
    let place = keys::key_key(CollectionId(1), &Key::new("k").unwrap());
    let cases: [(&str, Spoil); 4] = [
        ("sort key", |row| row.sort_key = SortKey::new("elsewhere").unwrap()),
        ("length", |row| row.value_len += 1),
        ("digest", |row| row.digest = row.digest + row.digest),
        ("created", |row| row.created = row.created.next()),
    ];
    for (field, spoil) in cases {
        let store = store();
        let mut row = KeyRow::decode(store.get(&place).unwrap().unwrap()).unwrap();
        spoil(&mut row);
        write(&store, place.clone(), row.encode());
        assert!(matches!(open(store), Err(StoreError::Damaged { .. })), "{field}");
    }
}
