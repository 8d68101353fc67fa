//! What is wrong beneath the rows is said of the row, and the store is left as it was.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::super::super::Store as _;
use super::super::tests::{options, put, restore, save, tamper, write};
use super::super::{DiskStore, tests};
use super::*;
use crate::store::disk::layout;

#[derive(Debug, Default, PartialEq, Eq)]
struct Rows(BTreeMap<Vec<u8>, Bytes>);

impl Reader for Rows {
    fn row(&mut self, key: &[u8], value: Bytes) {
        assert!(self.0.insert(key.to_vec(), value).is_none(), "{key:02x?} comes twice");
    }
}

fn store() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = tests::open(&dir);
    write(&store, b"a", "1");
    write(&store, b"large", vec![7; 100_000]);
    for number in 0..100_u8 {
        store.apply(&put(&[b'n', number], vec![number; 300])).unwrap();
    }
    store.close().unwrap();
    dir
}

/// All rows, read in three parts, and what is wrong.
fn read(dir: &Path) -> (Rows, Vec<Finding>) {
    let (aside, mut findings) = Aside::open(dir, None, &options()).unwrap();
    let cut = |start: &[u8], end: Option<&[u8]>| KeyRange {
        start: start.to_vec(),
        end: end.map(<[u8]>::to_vec),
    };
    let ranges = [cut(b"", Some(b"b")), cut(b"b", Some(b"n2")), cut(b"n2", None)];
    let parts = ranges.into_iter().map(|range| (range, Rows::default())).collect();
    let name = |key: &[u8]| format!("row {}", key.escape_ascii());
    let (read, damage) = aside.read_all(parts, &name, &|_| {}).unwrap();
    findings.extend(aside.strays().into_iter().chain(damage));
    let mut rows = Rows::default();
    for part in read {
        for (key, value) in part.0 {
            rows.row(&key, value);
        }
    }
    (rows, findings)
}

/// G11: looking changes no byte, and leaves nothing behind.
#[test]
fn looking_changes_nothing() {
    let dir = store();
    // What a killed process leaves is for the next start to remove.
    fs::write(dir.path().join("store/snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    let before = (save(dir.path()), names(dir.path()));
    let (rows, findings) = read(dir.path());
    assert_eq!(findings, []);
    assert_eq!(rows.0.len(), 102);
    assert_eq!(rows.0[&b"large"[..]], vec![7; 100_000]);
    assert!((save(dir.path()), names(dir.path())) == before);
    let scratch = TempDir::new().unwrap();
    drop(Aside::open(dir.path(), Some(scratch.path()), &options()).unwrap());
    assert!(names(scratch.path()).is_empty());
    drop(DiskStore::open(dir.path(), &options()).unwrap());
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

type Change = fn(&sled::Db);

/// G5: whatever is changed beneath, the row is named, and the others are still read.
#[test]
fn damage_is_told_of_the_row() {
    let dir = store();
    let whole = save(dir.path());
    let cases: [(Change, &str, &str); 6] = [
        (
            |db| {
                let key = layout::row_key(b"a");
                let mut bytes = db.get(&key).unwrap().unwrap().to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                db.insert(&key, bytes).unwrap();
            },
            "row a",
            "wrong checksum",
        ),
        (
            |db| drop(db.insert(layout::row_key(b"a"), vec![9, 9]).unwrap()),
            "row a",
            "cannot be a row",
        ),
        (|db| drop(db.remove(layout::row_key(b"a")).unwrap()), "the ledger row", "102 rows"),
        (|db| drop(db.remove(layout::chunk_key(1, 2)).unwrap()), "row large", "misses a part"),
        (
            |db| drop(db.insert(layout::chunk_key(7, 0), "orphan").unwrap()),
            "a part of a large row",
            "belongs to no row",
        ),
        (|db| drop(db.insert([9, 9], "stray").unwrap()), "the stored key", "no area"),
    ];
    for (number, (change, place, what)) in cases.into_iter().enumerate() {
        restore(dir.path(), &whole, |_| true);
        tamper(dir.path(), change);
        let (rows, findings) = read(dir.path());
        let named = findings.iter().any(|(at, said)| at.contains(place) && said.contains(what));
        assert!(named, "case {number}: {what} at {place} is not in {findings:#?}");
        assert!(rows.0.len() >= 101, "case {number}: {} rows were read", rows.0.len());
    }
}

/// What is wrong with the store as a whole is a finding, not the end.
#[test]
fn a_store_that_does_not_open_is_a_finding() {
    let dir = store();
    let older = save(dir.path());
    write(&tests::open(&dir), b"b", "2");
    restore(dir.path(), &older, |file| file != "high-water");
    let (rows, findings) = read(dir.path());
    assert_eq!(rows.0.len(), 102);
    let [(place, what)] = &findings[..] else { panic!("{findings:#?}") };
    assert!(place == "high-water" && what.contains("was synced"), "{findings:#?}");

    restore(dir.path(), &older, |_| true);
    fs::write(dir.path().join("store/db"), vec![7; 9_000_000]).unwrap();
    let (_, findings) = read(dir.path());
    assert!(!findings.is_empty());
    fs::write(dir.path().join("store/format"), "99\n").unwrap();
    let newer = Aside::open(dir.path(), None, &options()).unwrap_err();
    assert!(matches!(newer, StoreError::NewerFormat { .. }), "{newer}");
}
