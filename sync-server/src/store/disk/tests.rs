//! Each guard, tried by the accident that it is there for.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use tempfile::TempDir;

use super::*;

fn options() -> DiskOptions {
    DiskOptions { cache_bytes: 16 << 20, free_bytes_min: 0, lock_wait: Duration::from_millis(200) }
}

fn open(dir: &TempDir) -> DiskStore {
    DiskStore::open(dir.path(), &options()).unwrap()
}

fn refusal(dir: &TempDir) -> StoreError {
    DiskStore::open(dir.path(), &options()).unwrap_err()
}

fn put(key: &[u8], value: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::default();
    batch.put(key.to_vec(), value.into());
    batch
}

fn write(store: &DiskStore, key: &[u8], value: impl Into<Bytes>) {
    store.apply(&put(key, value)).unwrap();
    store.sync().unwrap();
}

fn rows(store: &DiskStore, direction: Direction) -> Vec<(Vec<u8>, Bytes)> {
    let mut rows = Vec::new();
    store
        .scan(&KeyRange::prefix(&[]), direction, &mut |key, value| {
            rows.push((key.to_vec(), value));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

/// Writes behind the store's back.
fn tamper(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let files = Files::new(dir).unwrap();
    let db = files.open_sled(&options()).unwrap();
    change(&db);
    db.flush().unwrap();
}

#[test]
fn what_was_synced_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let large = Bytes::from(vec![7; 3 << 20]);
    let store = open(&dir);
    write(&store, b"a", "1");
    write(&store, b"b", large.clone());
    store.close().unwrap();

    let store = open(&dir);
    assert_eq!(store.get(b"a").unwrap().unwrap(), "1");
    assert_eq!(store.get(b"b").unwrap().unwrap(), large);
    assert_eq!(store.get(b"c").unwrap(), None);
    assert_eq!(store.usage().unsynced_files, 0);
    assert!(store.usage().bytes > 3 << 20);
}
