//! What is loaded is what lies there, in two rounds.

use std::cell::RefCell;
use std::collections::BTreeMap;

use sync_proto::types::{Cursor, Epoch, Head, Policy, SortKey, Timestamp, Version};

use super::*;

const ID: CollectionId = CollectionId(3);

type Rows = BTreeMap<Vec<u8>, Bytes>;

fn name() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn key(key: &str) -> Key {
    Key::new(key.as_bytes().to_vec()).unwrap()
}

fn meta() -> Meta {
    let Cursor { epoch, version, .. } =
        Cursor::at(Epoch::new(7).unwrap(), Version::new(9).unwrap());
    let head = Head {
        epoch,
        version,
        floor: Version::default(),
        items: 2,
        tombstones: 1,
        bytes: 0,
        digest: Digest::EMPTY,
        commit_time: Timestamp::from_millis(1),
    };
    Meta { name: name(), head, policy: Policy::default() }
}

fn key_row(kind: RowKind, version: u64, value_len: u32) -> KeyRow {
    let version = Version::new(version).unwrap();
    KeyRow {
        kind,
        version,
        created: version,
        value_version: version,
        time: Timestamp::from_millis(1),
        value_len,
        digest: Digest::EMPTY,
        sort_key: SortKey::default(),
    }
}

/// A key with both of its rows, and its segment.
fn put(rows: &mut Rows, at: &str, row: &KeyRow) {
    let log = LogRow {
        kind: row.kind,
        created: row.created,
        value_version: row.value_version,
        change: Bytes::copy_from_slice(at.as_bytes()),
    };
    rows.insert(key_key(ID, &key(at)), row.encode());
    rows.insert(log_key(ID, row.version, &key(at)), log.encode());
    let sum = sum_of(at);
    let sum = Bytes::copy_from_slice(&sum.to_be_bytes());
    rows.insert(segment_key(ID, Segment::of_key(&key(at))), sum);
}

fn sum_of(at: &str) -> Digest {
    Digest::of_item(&key(at), Version::default(), &SortKey::default(), b"")
}

fn needs() -> Needs {
    let mut needs = Needs::default();
    for at in ["a", "b", "gone", "absent"] {
        needs.changed(&name(), &key(at));
    }
    for at in ["b", "c", "gone too", "absent too"] {
        needs.judged(&name(), &key(at));
    }
    needs
}

fn rows() -> Rows {
    let mut rows = Rows::new();
    for (at, kind, version) in [
        ("a", RowKind::Live, 1),
        ("b", RowKind::Live, 2),
        ("c", RowKind::Live, 3),
        ("gone", RowKind::Tombstone, 4),
        ("gone too", RowKind::Tombstone, 5),
    ] {
        put(&mut rows, at, &key_row(kind, version, 10));
    }
    rows
}

/// Loads from `rows`; also how many were asked for at a time.
fn load(rows: &Rows) -> (Result<Workspace, LoadError>, Vec<usize>) {
    let asked = RefCell::new(Vec::new());
    let get_many = |keys: &[Vec<u8>]| {
        asked.borrow_mut().push(keys.len());
        Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
    };
    let loaded = Workspace::load(needs(), 5, |_| Some((ID, meta())), get_many);
    (loaded, asked.into_inner())
}

/// Each row comes to its own place, and nothing is asked for twice.
#[test]
fn rows_come_to_their_places_in_two_rounds() {
    let rows = rows();
    let (loaded, asked) = load(&rows);
    let working = &loaded.unwrap().collections[&name()];
    let change = |at: &str| {
        working.items[&key(at)].before.as_ref().map(|it| (it.key.version.get(), &it.log.change[..]))
    };
    assert_eq!(change("a"), Some((1, b"a".as_slice())));
    assert_eq!(change("b"), Some((2, b"b".as_slice())));
    assert_eq!(change("gone"), Some((4, b"gone".as_slice())));
    assert_eq!(change("absent"), None);
    assert_eq!(working.items.len(), 4, "what is only judged needs no log row");
    let judged: Vec<_> = working.judged.iter().map(|(at, row)| (at, row.version.get())).collect();
    assert_eq!(judged, [(&key("c"), 3)]);
    let sum = |at: &str| working.segments[&Segment::of_key(&key(at))].before;
    assert_eq!(sum("a"), Some(sum_of("a")));
    assert_eq!(sum("absent"), None);
    // Seven keys and the segments of four, then the log rows of three.
    assert_eq!(asked, [7 + 4, 3]);
}

/// G11: what would not fit in memory is refused before it is read.
#[test]
fn too_much_is_refused_before_it_is_read() {
    let half = u32::try_from(REPLACED_BYTES_MAX / 2).unwrap();
    let mut rows = rows();
    put(&mut rows, "a", &key_row(RowKind::Live, 1, half));
    put(&mut rows, "b", &key_row(RowKind::Live, 2, half - 10));
    assert!(load(&rows).0.is_ok(), "exactly as much as is allowed");
    put(&mut rows, "b", &key_row(RowKind::Live, 2, half - 9));
    let (refused, asked) = load(&rows);
    assert!(
        matches!(refused, Err(LoadError::ReplacesTooMuch { bytes }) if bytes > REPLACED_BYTES_MAX)
    );
    assert_eq!(asked.len(), 1);
}

/// G4: a key without its log row, or a sum that is none, is damage and names its place.
#[test]
fn what_is_missing_is_damage() {
    let mut broken = rows();
    broken.remove(&log_key(ID, Version::new(2).unwrap(), &key("b")));
    let told = |rows| match load(rows).0 {
        Err(LoadError::Store(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(told(&broken).contains("version 2"), "{}", told(&broken));
    let mut broken = rows();
    broken.insert(segment_key(ID, Segment::of_key(&key("a"))), Bytes::from_static(b"short"));
    assert!(told(&broken).contains("segment"), "{}", told(&broken));
}
