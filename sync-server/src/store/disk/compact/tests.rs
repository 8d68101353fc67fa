//! Compacting changes nothing but the size, whatever ends it.

use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use tempfile::TempDir;

use super::super::super::{Batch, Direction, KeyRange};
use super::super::tests::{options, refusal, restore, rows, save, tamper, write};
use super::super::{HighWater, layout, read_ledger, tests};
use super::*;

/// Name a data directory, and the step after which the process that compacts it dies.
const CHILD_DIR: &str = "DELTASYNC_COMPACT_DIR";
const CHILD_STEP: &str = "DELTASYNC_COMPACT_STEP";

const STEPS: [Step; 6] = [
    Step::Copying { done: 0, total: 0 },
    Step::Copied,
    Step::Checked,
    Step::Named,
    Step::MovedAway,
    Step::Exchanged,
];

/// A store with a past: most of what was written is gone again.
fn used(rows: u32) -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = tests::open(&dir);
    for batch in 0..rows / 100 {
        let mut written = Batch::default();
        for row in 0..100 {
            let key = (batch * 100 + row).to_be_bytes().to_vec();
            // Large rows that go, and a few that stay.
            let len = match row {
                7 if batch % 10 == 0 => 40_000,
                8 => 20_000,
                _ => 200,
            };
            written.put(key, vec![u8::try_from(row).unwrap(); len].into());
        }
        store.apply(&written).unwrap();
        store.sync().unwrap();
    }
    for batch in 0..rows / 100 {
        let mut removed = Batch::default();
        for row in (0..100).filter(|row| row % 10 != 7) {
            removed.remove((batch * 100 + row).to_be_bytes().to_vec());
        }
        store.apply(&removed).unwrap();
    }
    store.close().unwrap();
    dir
}

fn compact(dir: &Path) -> Result<Compacted, StoreError> {
    DiskStore::open_existing(dir, &options())?.compact(&options(), &mut |_| {})
}

type Content = (Vec<(Vec<u8>, Bytes)>, Ledger);

fn content(dir: &TempDir) -> Content {
    let store = tests::open(dir);
    let rows = rows(&store, Direction::Forward);
    (rows, read_ledger(&store.core.db).unwrap().unwrap())
}

fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// G2, G3: the copy has every row, large ones too, the same identity, sequence, sums and mark; it
/// is smaller, and it is a store like any other afterwards.
#[test]
fn compacting_changes_nothing_but_the_size() {
    let dir = used(20_000);
    let before = content(&dir);
    let mark = HighWater::open(&dir.path().join("store/high-water")).unwrap().unwrap().mark();
    let compacted = compact(dir.path()).unwrap();
    assert_eq!(names(&dir), ["lock", "store"]);
    assert_eq!(compacted.rows, before.1.rows);
    assert!(compacted.bytes_after * 2 < compacted.bytes_before, "{compacted:?}");
    let after = HighWater::open(&dir.path().join("store/high-water")).unwrap().unwrap().mark();
    assert_eq!(after, mark);
    assert!(content(&dir) == before);
    let store = tests::open(&dir);
    assert_eq!(store.usage().unsynced_files, 0);
    write(&store, b"more", "1");
    drop(store);
    // Once more, and an empty one.
    compact(dir.path()).unwrap();
    assert_eq!(tests::open(&dir).get(b"more").unwrap().unwrap(), "1");
    let empty = TempDir::new().unwrap();
    drop(tests::open(&empty));
    assert_eq!(compact(empty.path()).unwrap().rows, 0);
    drop(tests::open(&empty));
}

/// G2: what was put aside before is still refused, compacted or not.
#[test]
fn an_older_state_is_still_refused() {
    let dir = used(1_000);
    let older = save(dir.path());
    write(&tests::open(&dir), b"more", "1");
    compact(dir.path()).unwrap();
    restore(dir.path(), &older, |file| file != "high-water");
    let error = refusal(&dir);
    assert!(matches!(error, StoreError::WentBack { .. }), "{error}");
}

/// The process that dies; without its variables, as in a plain test run, there is nothing to do.
#[test]
fn compacts_until_killed() {
    let (Some(dir), Ok(step)) = (env::var_os(CHILD_DIR), env::var(CHILD_STEP)) else { return };
    let deadly = STEPS[step.parse::<usize>().unwrap()];
    let store = DiskStore::open_existing(Path::new(&dir), &options()).unwrap();
    let told = &mut |step| {
        if std::mem::discriminant(&step) == std::mem::discriminant(&deadly) {
            // Nothing is closed, dropped or flushed, as with kill -9.
            std::process::abort();
        }
    };
    store.compact(&options(), told).unwrap();
}

fn killed_after(dir: &TempDir, step: usize) {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store::disk::compact::tests::compacts_until_killed"])
        .env(CHILD_DIR, dir.path())
        .env(CHILD_STEP, step.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!child.success(), "it was not killed after {:?}", STEPS[step]);
}

/// X1: killed after any step, the store is whole and has every row; nothing is left beside it after
/// the next start, whether that serves or compacts again.
#[test]
fn a_kill_between_any_two_steps_leaves_one_whole_store() {
    let whole = used(6_000);
    let expected = content(&whole);
    let files = save(whole.path());
    for (step, name) in STEPS.iter().enumerate() {
        for again in [false, true] {
            restore(whole.path(), &files, |_| true);
            killed_after(&whole, step);
            assert!(names(&whole).len() > 2, "nothing was left half done after {name:?}");
            if again {
                compact(whole.path()).unwrap();
            }
            assert!(content(&whole) == expected, "killed after {name:?}");
            assert_eq!(names(&whole), ["lock", "store"], "killed after {name:?}");
        }
    }
}

/// G3: a program that knows nothing of copies may have written beside one.
#[test]
fn a_store_wins_over_its_copy() {
    let dir = used(1_000);
    killed_after(&dir, 3);
    assert_eq!(names(&dir), ["lock", "store", "store.next"]);
    fs::rename(dir.path().join("store.next"), dir.path().join("kept")).unwrap();
    write(&tests::open(&dir), b"more", "1");
    fs::rename(dir.path().join("kept"), dir.path().join("store.next")).unwrap();
    assert_eq!(tests::open(&dir).get(b"more").unwrap().unwrap(), "1");
    assert_eq!(names(&dir), ["lock", "store"]);
}

#[test]
fn a_store_that_was_moved_away_is_not_replaced_by_an_empty_one() {
    let dir = used(1_000);
    fs::rename(dir.path().join("store"), dir.path().join("store.old")).unwrap();
    let error = refusal(&dir);
    assert!(matches!(&error, StoreError::Damaged { place, .. } if place.contains("store.old")));
}

/// G11: what cannot be done is refused before anything is touched.
#[test]
fn what_cannot_be_compacted_is_refused_and_left_alone() {
    let missing = compact(Path::new("no such directory")).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    let nothing = TempDir::new().unwrap();
    let missing = compact(nothing.path()).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(names(&nothing).is_empty());

    let dir = used(1_000);
    let files = save(dir.path());
    let greedy = DiskOptions { free_bytes_min: u64::MAX - 1, ..options() };
    let store = DiskStore::open_existing(dir.path(), &greedy).unwrap();
    let full = store.compact(&greedy, &mut |_| {}).unwrap_err();
    assert!(matches!(full, StoreError::NoRoom { .. }), "{full}");
    assert_eq!(names(&dir), ["lock", "store"]);

    let store = tests::open(&dir);
    let hasty = DiskOptions { lock_wait: std::time::Duration::from_millis(50), ..options() };
    let busy = DiskStore::open_existing(dir.path(), &hasty).unwrap_err();
    assert!(matches!(busy, StoreError::InUse { .. }), "{busy}");
    drop(store);

    restore(dir.path(), &files, |_| true);
    tamper(dir.path(), |db| drop(db.remove(layout::row_key(&7_u32.to_be_bytes())).unwrap()));
    let damaged = compact(dir.path()).unwrap_err();
    assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
    assert_eq!(names(&dir), ["lock", "store"]);
}

/// A copy that is not right never becomes the store.
#[test]
fn a_wrong_copy_is_thrown_away() {
    let dir = used(1_000);
    let expected = content(&dir);
    let store = tests::open(&dir);
    let copy = store.core.files.beside("store.copy");
    let error = store
        .compact(&options(), &mut |step| {
            if step == Step::Copied {
                let db = copy.open_sled(&options()).unwrap();
                db.remove(layout::row_key(&7_u32.to_be_bytes())).unwrap();
                db.flush().unwrap();
            }
        })
        .unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(names(&dir), ["lock", "store"]);
    assert!(content(&dir) == expected);
    let all = KeyRange::prefix(&[]);
    tests::open(&dir)
        .scan(&all, Direction::Forward, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
}
