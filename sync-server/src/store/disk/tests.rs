//! Each guard, tried by the accident that it is there for.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use super::*;

pub(super) fn options() -> DiskOptions {
    DiskOptions { cache_bytes: 16 << 20, free_bytes_min: 0, lock_wait: Duration::from_secs(10) }
}

pub(super) fn open(dir: &TempDir) -> DiskStore {
    DiskStore::open(dir.path(), &options()).unwrap()
}

pub(super) fn refusal(dir: &TempDir) -> StoreError {
    DiskStore::open(dir.path(), &options()).unwrap_err()
}

pub(super) fn put(key: &[u8], value: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::default();
    batch.put(key.to_vec(), value.into());
    batch
}

pub(super) fn write(store: &DiskStore, key: &[u8], value: impl Into<Bytes>) {
    store.apply(&put(key, value)).unwrap();
    store.sync().unwrap();
}

pub(super) fn rows(store: &DiskStore, direction: Direction) -> Vec<(Vec<u8>, Bytes)> {
    let mut rows = Vec::new();
    store
        .scan(&KeyRange::prefix(&[]), direction, &mut |key, value| {
            rows.push((key.to_vec(), value));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

/// The files of a closed store.
pub(super) fn save(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(dir.join("store")).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Puts back the saved files that `wanted` names, and removes the newer ones among them.
pub(super) fn restore(dir: &Path, saved: &[(PathBuf, Vec<u8>)], wanted: impl Fn(&str) -> bool) {
    let wanted = |path: &Path| wanted(path.file_name().unwrap().to_str().unwrap());
    for (path, _) in save(dir).iter().filter(|(path, _)| wanted(path)) {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in saved.iter().filter(|(path, _)| wanted(path)) {
        fs::write(path, bytes).unwrap();
    }
}

/// Writes behind the store's back.
pub(super) fn tamper(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let db = Files::new(dir).unwrap().open_sled(&options()).unwrap();
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

#[test]
fn keys_with_runs_of_ff_are_scanned_both_ways() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut expected = Vec::new();
    // Some of the groups get a leaf boundary exactly between their two kinds of keys.
    for group in 0..60 {
        let mut batch = Batch::default();
        for row in 0..=group {
            expected.push([&[group, b'a'], &[u8::MAX; 7][..], &[row]].concat());
        }
        for row in 0..20 {
            expected.push(vec![group, b'b', row]);
        }
        for key in expected.iter().filter(|key| key[0] == group) {
            batch.put(key.clone(), Bytes::new());
        }
        store.apply(&batch).unwrap();
    }
    assert_scans(&store, &expected);
}

#[test]
fn keys_that_begin_with_each_other_are_scanned_both_ways() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut batch = Batch::default();
    // More than a page of them, each the first possible key behind the one before.
    let expected: Vec<_> = (0..400).map(|len| vec![0; len]).collect();
    for key in &expected {
        batch.put(key.clone(), Bytes::new());
    }
    store.apply(&batch).unwrap();
    assert_scans(&store, &expected);
}

fn assert_scans(store: &DiskStore, expected: &[Vec<u8>]) {
    let keys = |direction| rows(store, direction).into_iter().map(|(key, _)| key);
    assert!(keys(Direction::Forward).eq(expected.iter().cloned()));
    assert!(keys(Direction::Backward).eq(expected.iter().rev().cloned()));
}

#[test]
fn an_older_state_is_refused() {
    let dir = TempDir::new().unwrap();
    write(&open(&dir), b"a", "1");
    let older = save(dir.path());
    write(&open(&dir), b"a", "2");
    restore(dir.path(), &older, |file| file != "high-water");
    let error = refusal(&dir);
    let expected = "it ends with batch 1, but 2 was synced";
    assert!(matches!(&error, StoreError::WentBack { reason } if reason == expected), "{error}");
    // With the mark of its time it is a backup like any other.
    restore(dir.path(), &older, |_| true);
    assert_eq!(open(&dir).get(b"a").unwrap().unwrap(), "1");
}

#[test]
fn a_store_that_opens_empty_is_refused() {
    let dir = TempDir::new().unwrap();
    write(&open(&dir), b"a", "1");
    restore(dir.path(), &[], |file| file == "db" || file.starts_with("snap."));
    assert!(matches!(refusal(&dir), StoreError::WentBack { .. }));
}

#[test]
fn the_mark_of_another_store_is_refused() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    drop((open(&dir), open(&other)));
    let mark = "store/high-water";
    fs::copy(other.path().join(mark), dir.path().join(mark)).unwrap();
    assert!(matches!(refusal(&dir), StoreError::WentBack { .. }));
}

#[test]
fn a_store_without_all_its_files_is_refused() {
    for missing in ["high-water", "format"] {
        let dir = TempDir::new().unwrap();
        write(&open(&dir), b"a", "1");
        fs::remove_file(dir.path().join("store").join(missing)).unwrap();
        let error = refusal(&dir);
        assert!(matches!(&error, StoreError::Damaged { place, .. } if place.contains(missing)));
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let format = dir.path().join("store/format");
    fs::write(&format, "3\n").unwrap();
    assert!(matches!(refusal(&dir), StoreError::NewerFormat { found: 3, known: 2 }));
    // An older one is opened, and older programs are told to leave it alone from then on.
    fs::write(&format, "1\n").unwrap();
    drop(open(&dir));
    assert_eq!(fs::read_to_string(&format).unwrap(), "2\n");
}

#[test]
fn leftovers_of_a_killed_start_do_not_keep_it_from_starting() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("store.new/blobs")).unwrap();
    fs::write(dir.path().join("store.new/conf"), "half").unwrap();
    write(&open(&dir), b"a", "1");
    // Sorts behind every finished snapshot.
    fs::write(dir.path().join("store/snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    assert_eq!(open(&dir).get(b"a").unwrap().unwrap(), "1");
}

#[test]
fn files_that_are_never_synced_are_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    store.apply(&put(b"a", "1")).unwrap();
    fs::write(dir.path().join("store/blobs/1"), "x").unwrap();
    assert_eq!(store.usage().unsynced_files, 1);
    store.sync().unwrap();
    let error = store.close().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("never synced"), "{cause}");
    fs::write(dir.path().join("store/blobs/1"), "x").unwrap();
    assert!(matches!(refusal(&dir), StoreError::Damaged { .. }));
}

#[test]
fn one_process_at_a_time() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let hasty = DiskOptions { lock_wait: Duration::from_millis(50), ..options() };
    let refusal = DiskStore::open(dir.path(), &hasty);
    assert!(matches!(refusal, Err(StoreError::InUse { .. })));
    std::thread::scope(|scope| {
        let next = scope.spawn(|| DiskStore::open(dir.path(), &options()).map(drop));
        drop(store);
        next.join().unwrap().unwrap();
    });
}

#[test]
fn damaged_files_of_sled_end_in_an_error() {
    for (file, content) in [("conf", b"segment_size: 7\n....".to_vec()), ("db", vec![7; 9_000_000])]
    {
        let dir = TempDir::new().unwrap();
        write(&open(&dir), b"a", "1");
        fs::write(dir.path().join("store").join(file), content).unwrap();
        let error = refusal(&dir);
        assert!(
            matches!(error, StoreError::Damaged { .. } | StoreError::WentBack { .. }),
            "{error}"
        );
    }
}

/// A thread that panics lets go of its store: that is the thread's end, not that of the process.
#[test]
fn a_thread_that_panics_may_hold_a_store() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let panics = std::thread::spawn(move || {
        let _held = store;
        panic!("as a test that fails");
    });
    assert!(panics.join().is_err());
    drop(open(&dir));
}

#[test]
fn a_panic_of_sled_while_opening_is_an_error() {
    let dir = TempDir::new().unwrap();
    write(&open(&dir), b"a", "1");
    let db = dir.path().join("store/db");
    let mut bytes = fs::read(&db).unwrap();
    // Two segments of the same number.
    bytes.resize(layout::SEGMENT_BYTES, 0);
    bytes.extend_from_within(..);
    fs::write(db, bytes).unwrap();
    let error = refusal(&dir);
    assert!(error.to_string().contains("sled panics"), "{error}");
}

#[test]
fn rows_that_do_not_add_up_are_refused() {
    let dir = TempDir::new().unwrap();
    let large = vec![7; 100_000];
    let store = open(&dir);
    write(&store, b"a", "1");
    write(&store, b"b", large);
    drop(store);
    let whole = save(dir.path());
    let row = layout::row_key(b"a");
    let part = layout::chunk_key(1, 3);
    let older = |db: &sled::Db| {
        let mut ledger = read_ledger(db).unwrap().unwrap();
        db.insert(&row, layout::NewRow::encode(&row, b"0", &mut ledger).bytes).unwrap();
    };
    let flipped = |db: &sled::Db| {
        let mut bytes = db.get(&row).unwrap().unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        db.insert(&row, bytes).unwrap();
        assert!(matches!(read::get(db, &row), Err(StoreError::Damaged { .. })));
    };
    let changes: [&dyn Fn(&sled::Db); 7] = [
        &flipped,
        &|db| drop(db.remove(&row).unwrap()),
        &|db| drop(db.insert(&row, vec![0, 0, 0, 0, 0, 9]).unwrap()),
        &older,
        &|db| drop(db.remove(part).unwrap()),
        &|db| drop(db.insert(part, vec![8; layout::CHUNK_BYTES]).unwrap()),
        &|db| drop(db.insert(layout::chunk_key(7, 0), "orphan").unwrap()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        restore(dir.path(), &whole, |_| true);
        tamper(dir.path(), change);
        let error = refusal(&dir);
        assert!(matches!(error, StoreError::Damaged { .. }), "change {number}: {error}");
    }
    restore(dir.path(), &whole, |_| true);
    drop(open(&dir));
}

#[test]
fn a_failed_sync_returns_and_closes_the_store() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    write(&store, b"a", "1");
    real_sync::tests::fail_one_sync_under(dir.path());
    store.apply(&put(b"a", "2")).unwrap();
    let started = Instant::now();
    store.sync().unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    store.sync().unwrap_err();
    store.apply(&put(b"a", "3")).unwrap_err();
    store.get(b"a").unwrap_err();
    drop(store);
    let found = open(&dir).get(b"a").unwrap().unwrap();
    assert!(found == "1" || found == "2", "{found:?}");
}

/// G3: neither failed file is written again, and what was synced before is there.
#[test]
fn a_fold_that_fails_closes_the_store() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    write(&store, b"a", "1");
    // The journal has nothing left to sync.
    real_sync::tests::fail_one_sync_under(dir.path());
    store.settle().unwrap_err();
    store.apply(&put(b"a", "3")).unwrap_err();
    store.get(b"a").unwrap_err();
    drop(store);
    assert_eq!(open(&dir).get(b"a").unwrap().unwrap(), "1");
}

#[test]
fn every_fold_really_syncs() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for round in 0..20 {
        write(&store, b"a", vec![round]);
        let before = real_sync::count();
        store.settle().unwrap();
        assert!(real_sync::count() > before || !cfg!(target_os = "linux"));
    }
}

/// The rows of a killed process: what was synced, and what was applied since.
fn killed(dir: &TempDir) -> TempDir {
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("store")).unwrap();
    fs::create_dir(copy.path().join("store/blobs")).unwrap();
    for (path, bytes) in save(dir.path()) {
        fs::write(copy.path().join("store").join(path.file_name().unwrap()), bytes).unwrap();
    }
    copy
}

/// G3, G5: what only the journal has is there after a kill, large rows and removals too.
#[test]
fn a_killed_store_is_replayed() {
    let dir = TempDir::new().unwrap();
    let large = Bytes::from(vec![7; 100_000]);
    let store = open(&dir);
    write(&store, b"a", "1");
    write(&store, b"gone", large.clone());
    store.settle().unwrap();
    write(&store, b"a", "2");
    write(&store, b"large", large.clone());
    let mut batch = Batch::default();
    batch.remove(b"gone".to_vec());
    store.apply(&batch).unwrap();
    let copy = killed(&dir);
    for _ in 0..2 {
        let expected = [(b"a".to_vec(), Bytes::from("2")), (b"large".to_vec(), large.clone())];
        assert_eq!(rows(&open(&copy), Direction::Forward), expected);
    }
    // Without the journal it is an older store.
    let copy = killed(&dir);
    fs::remove_file(copy.path().join("store/journal-0")).unwrap();
    fs::remove_file(copy.path().join("store/journal-1")).unwrap();
    assert!(matches!(refusal(&copy), StoreError::WentBack { .. }));
}

/// Readers see one store, whichever of its three places a row is in, both ways.
#[test]
fn rows_above_sled_are_scanned_with_those_in_it() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..3_u8 {
        let mut batch = Batch::default();
        for number in (0..4_000_u16).filter(|number| number % (u16::from(round) + 2) == 0) {
            let key = number.to_be_bytes().to_vec();
            if number % 7 == u16::from(round) {
                batch.remove(key.clone());
                expected.remove(&key);
            } else {
                batch.put(key.clone(), vec![round].into());
                expected.insert(key, Bytes::from(vec![round]));
            }
        }
        store.apply(&batch).unwrap();
        match round {
            0 => store.settle().unwrap(),
            1 => drop(store.core.overlay.write().freeze()),
            _ => {}
        }
    }
    let expected: Vec<_> = expected.into_iter().collect();
    assert_eq!(rows(&store, Direction::Forward), expected);
    assert!(rows(&store, Direction::Backward).iter().eq(expected.iter().rev()));
    for (key, value) in &expected {
        assert_eq!(store.get(key).unwrap().as_ref(), Some(value));
    }
    // The frozen rows were never handed to the thread.
    mem::forget(store);
}

/// G3: a store that is dropped in the middle of folding leaves what a kill leaves, and does not keep
/// its process waiting.
#[test]
fn a_fold_is_given_up_when_the_store_is_dropped() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut batch = Batch::default();
    for number in 0..40_000_u32 {
        batch.put(number.to_be_bytes().to_vec(), vec![7; 100].into());
    }
    store.apply(&batch).unwrap();
    write(&store, b"last", "1");
    assert!(store.core.is_folding(), "there was enough to begin");
    let mark = store.core.folded().sequence;
    drop(store);
    let mut left = 0;
    tamper(dir.path(), |db| left = read_ledger(db).unwrap().unwrap().sequence);
    assert_eq!(left, mark, "not all of it was folded");
    assert_eq!(rows(&open(&dir), Direction::Forward).len(), 40_001);
}

/// More than is folded at once, while readers look: nothing is missing, nothing is seen twice.
#[test]
fn folding_goes_on_beside_readers() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let rounds = 3 * FOLD_BYTES / 100_000;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while seen < rounds {
                let found = rows(&store, Direction::Forward);
                assert!(found.len() >= seen, "{} rows after {seen}", found.len());
                seen = found.len();
            }
        });
        for round in 0..rounds {
            let key = u32::try_from(round).unwrap().to_be_bytes();
            write(&store, &key, vec![7; 100_000]);
        }
        reader.join().unwrap();
    });
    assert!(store.core.folded().sequence > 1, "some of it is in sled");
    store.close().unwrap();
    assert_eq!(rows(&open(&dir), Direction::Backward).len(), rounds);
}

/// G8: whoever makes way when the store says that it is behind never fills it so far that commits
/// have to wait.
#[test]
fn a_store_says_when_it_is_behind() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let (mut was_behind, mut number) = (0, 0_u32);
    while was_behind < 3 {
        while store.is_behind() {
            was_behind += 1;
            store.core.wait().unwrap();
        }
        store.apply(&put(&number.to_be_bytes(), vec![7; 8_000])).unwrap();
        number += 1;
        let folding = store.core.is_folding();
        assert!(!folding || store.core.overlay.read().bytes() < FOLD_BYTES, "a commit would wait");
    }
    assert!(!store.is_behind(), "nothing is being folded");
}
