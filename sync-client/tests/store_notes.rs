//! Notes of both stores: made with a copy or not at all, each owner's its own, there again after
//! the file was opened again, and never made when the copy is not what it should be (G4).
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use sync_client::store::{
    DiskStore, MemoryStore, Notes, ReplicaStore, Row, Step, StoreError, Write,
};
use sync_proto::digest::Digest;
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Cursor, Epoch, Key, SortKey, Value, Version,
};

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn cursor(at: u64) -> Cursor {
    Cursor::at(Epoch::new(5).unwrap(), Version::new(at).unwrap())
}

fn page(at: u64) -> Step {
    let version = Version::new(at).unwrap();
    let kind = ChangeKind::Put {
        value: Some(Value::new("v").unwrap()),
        sort_key: SortKey::default(),
        value_version: version,
    };
    let key = Key::new("k").unwrap();
    Step::Page { changes: vec![Change { key, version, created: version, kind }], to: cursor(at) }
}

fn notes(owner: &str, edits: &[(&str, Option<&str>)]) -> Notes {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let edits = edits.iter().map(|(key, note)| (bytes(key), note.map(bytes))).collect();
    Notes { edits, ..Notes::none(name(owner)) }
}

fn found(store: &dyn ReplicaStore, owner: &str) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    store.notes(&name(owner)).unwrap().iter().map(|(key, note)| (text(key), text(note))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, note)| ((*key).to_owned(), (*note).to_owned())).collect()
}

fn keeps_notes(store: &dyn ReplicaStore) {
    let copy = name("c/1");
    let write = |expected, at| Write { expected, step: page(at) };
    store
        .write_with(
            &copy,
            &write(None, 1),
            &notes("inbox/a", &[("", Some("me")), ("c/1", Some("x"))]),
        )
        .unwrap();
    store.note(&notes("inbox/a/b", &[("c/1", Some("another's"))])).unwrap();
    store.note(&notes("inbox/a", &[("c/0", Some("y")), ("c/0", Some("z"))])).unwrap();
    assert_eq!(found(store, "inbox/a"), pairs(&[("", "me"), ("c/0", "z"), ("c/1", "x")]));
    assert_eq!(found(store, "inbox/a/b"), pairs(&[("c/1", "another's")]));

    // A write that is refused makes no notes.
    let refused = store.write_with(&copy, &write(None, 2), &notes("inbox/a", &[("c/1", None)]));
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(found(store, "inbox/a").len(), 3);

    // A copy that is not what it should be keeps its notes; one that is loses them with the write.
    let wrong = Notes { only_at: Some(Digest::EMPTY), ..notes("inbox/a", &[("c/1", None)]) };
    store.write_with(&copy, &write(Some(cursor(1)), 2), &wrong).unwrap();
    assert_eq!(found(store, "inbox/a").len(), 3);
    let Row { key, sort_key, value, .. } =
        store.get(&copy, &Key::new("k").unwrap()).unwrap().unwrap();
    let digest = Digest::of_item(&key, Version::new(3).unwrap(), &sort_key, &value);
    let right = Notes { only_at: Some(digest), ..notes("inbox/a", &[("c/1", None)]) };
    store.write_with(&copy, &write(Some(cursor(2)), 3), &right).unwrap();
    assert_eq!(found(store, "inbox/a"), pairs(&[("", "me"), ("c/0", "z")]));
}

#[test]
fn a_store_in_memory_keeps_notes_with_their_copies() {
    keeps_notes(&MemoryStore::new());
}

#[test]
fn a_store_on_disk_keeps_notes_with_their_copies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.redb");
    keeps_notes(&DiskStore::open(&path).unwrap());
    let store = DiskStore::open(&path).unwrap();
    assert_eq!(found(&store, "inbox/a"), pairs(&[("", "me"), ("c/0", "z")]));
    assert_eq!(found(&store, "inbox/a/b"), pairs(&[("c/1", "another's")]));
}
