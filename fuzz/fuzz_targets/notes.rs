//! What a client keeps beside its copies: the notes of accounts, and whatever else is in the table of
//! a replica's file that holds them. The file that knows a note is included as it is, so nothing of it
//! has to be public.
#![no_main]
#![allow(dead_code, reason = "the included file also makes notes")]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use redb::backends::InMemoryBackend;
use redb::{Database, TableDefinition};
use sync_client::store::Notes;
use sync_client::{DiskStore, ReplicaStore as _};
use sync_proto::types::CollectionName;

#[path = "../../sync-client/src/account"]
mod account {
    mod note;

    use note::Note;

    pub(crate) fn read(key: &[u8], content: &[u8]) {
        if let Some(name) = Note::name(key) {
            assert_eq!(Note::key(&name), key, "a key has one form");
        }
        let Some(note) = Note::decode(content) else { return };
        // What nobody writes, such as an error without end, is not kept.
        let error = note::shortened(&note.error).to_owned();
        assert!(note.error.starts_with(&error));
        let kept = Note { error, ..note };
        let again = kept.encode();
        assert!(again.len() <= content.len());
        assert_eq!(Note::decode(&again), Some(kept));
    }
}

const NOTES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/notes");

/// Rows of a table that is foreign.
const ROWS_MAX: usize = 8;

/// A file with these rows, each of them of the owner `a` if it says so.
fn file(rows: &[(bool, &[u8], &[u8])]) -> Arc<Database> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
    let database = Arc::new(database);
    drop(DiskStore::from_database(Arc::clone(&database)).unwrap());
    let write = database.begin_write().unwrap();
    let mut table = write.open_table(NOTES).unwrap();
    for (owned, key, content) in rows {
        let place = if *owned { [b"a\0", *key].concat() } else { key.to_vec() };
        table.insert(place.as_slice(), *content).unwrap();
    }
    drop(table);
    write.commit().unwrap();
    database
}

fuzz_target!(|input: (&[u8], &[u8], Vec<(bool, &[u8], &[u8])>)| {
    let (key, content, mut rows) = input;
    account::read(key, content);
    if rows.is_empty() {
        return;
    }
    rows.truncate(ROWS_MAX);
    let store = DiskStore::from_database(file(&rows)).unwrap();
    let owner = CollectionName::new("a").unwrap();
    let before = store.notes(&owner).expect("any bytes are notes");
    assert!(before.len() <= rows.len());
    // Whatever lies there: what is written is read, and nothing else moves.
    let mut notes = Notes::none(owner.clone());
    let (key, content) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(content));
    notes.edits.push((key.clone(), Some(content.clone())));
    store.note(&notes).expect("the disk is in memory");
    let mut wanted = before;
    wanted.retain(|(other, _)| *other != key);
    wanted.push((key, content));
    wanted.sort();
    assert_eq!(store.notes(&owner).unwrap(), wanted);
});
