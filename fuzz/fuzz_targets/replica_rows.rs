//! A replica's file whose rows are foreign: every call answers or fails, and a write after it
//! still works, for the replica repairs itself by writing.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use redb::backends::InMemoryBackend;
use redb::{Database, TableDefinition};
use sync_client::store::{Step, Write};
use sync_client::{DiskStore, ReplicaStore as _};
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Cursor, Epoch, Key, SortKey, Value, Version,
};

const COPIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("deltasync/copies");
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/rows");
const ORDER: TableDefinition<'_, &[u8], ()> = TableDefinition::new("deltasync/order");

fn page() -> (Vec<Change>, Cursor) {
    let version = Version::new(9).unwrap();
    let change = Change {
        key: Key::new("key").unwrap(),
        version,
        created: version,
        kind: ChangeKind::Put {
            value: Some(Value::new("value").unwrap()),
            sort_key: SortKey::new("").unwrap(),
            value_version: version,
        },
    };
    let epoch = Epoch::new(7).unwrap();
    (vec![change], Cursor { epoch, version, base: Version::ZERO })
}

fuzz_target!(|input: (&[u8], Vec<(&[u8], &[u8])>, Vec<&[u8]>)| {
    let (record, rows, order) = input;
    let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
    let database = Arc::new(database);
    let store = DiskStore::from_database(Arc::clone(&database)).unwrap();
    let write = database.begin_write().unwrap();
    {
        write.open_table(COPIES).unwrap().insert("c", record).unwrap();
        // The generation that the record names, if it names one.
        let generation = record.get(..8).unwrap_or(&[0; 8]);
        let mut table = write.open_table(ROWS).unwrap();
        for (key, row) in rows.into_iter().take(8) {
            table.insert([generation, key].concat().as_slice(), row).unwrap();
        }
        let mut table = write.open_table(ORDER).unwrap();
        for place in order.into_iter().take(8) {
            table.insert([generation, place].concat().as_slice(), ()).unwrap();
        }
    }
    write.commit().unwrap();

    let name = CollectionName::new("c").unwrap();
    drop(store.get(&name, &Key::new("key").unwrap()));
    if let Ok(snapshot) = store.snapshot(&name) {
        drop(snapshot.rows(None, 100));
        drop(snapshot.window(0, 100));
    }
    drop(store.sweep(100));
    let Ok(standing) = store.standing(&name) else { return };
    let (changes, to) = page();
    let expected = standing.active();
    // A page of a copy that is damaged may fail; a load from the beginning must not.
    drop(
        store.write(&name, &Write { expected, step: Step::Page { changes: changes.clone(), to } }),
    );
    let standing = store.standing(&name).unwrap();
    let load = Write { expected: standing.active(), step: Step::BeginLoad { changes, to } };
    store.write(&name, &load).expect("a damaged copy is loaded anew");
    let row = store.get(&name, &Key::new("key").unwrap()).unwrap().expect("it was loaded");
    assert_eq!(row.value, Bytes::from_static(b"value"));
});
