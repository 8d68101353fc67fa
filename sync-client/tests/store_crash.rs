//! A process that writes a copy is killed at random moments: what is found is the copy as it was
//! after some write, whole and with its cursor; never older than what was flushed (G4, X16).
//! `DELTASYNC_SEED` repeats the moments, `DELTASYNC_CRASH_CYCLES` sets their number.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::store::{DiskStore, ReplicaStore, Step, Write, check};
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Cursor, Epoch, Key, SortKey, Value, Version,
};

const CYCLES: u64 = 10;

/// Names the file; a test binary that finds it writes until it is killed.
const CHILD_FILE: &str = "DELTASYNC_CRASH_COPY";

/// Every so many versions the copy is loaded anew, in two pages.
const LOAD_EVERY: u64 = 40;
const KEYS: u64 = 60;

fn name() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn cursor(at: u64) -> Cursor {
    Cursor::at(Epoch::new(5).unwrap(), Version::new(at).unwrap())
}

/// The change that version `at` makes: it deletes sometimes, and some values are large.
fn change(at: u64) -> Change {
    let version = Version::new(at).unwrap();
    let len = if at.is_multiple_of(11) { 30_000 } else { at % 200 };
    let value = vec![u8::try_from(at % 251).unwrap(); usize::try_from(len).unwrap()];
    let kind = if at % 7 == 3 {
        ChangeKind::Delete
    } else {
        ChangeKind::Put {
            value: Some(Value::new(value).unwrap()),
            sort_key: SortKey::new(vec![u8::try_from(at % 5).unwrap()]).unwrap(),
            value_version: version,
        }
    };
    Change {
        key: Key::new(format!("{:02}", at * 17 % KEYS)).unwrap(),
        version,
        created: version,
        kind,
    }
}

/// The latest change of each key up to a version.
fn state(at: u64) -> Vec<Change> {
    let latest: BTreeMap<Key, Change> =
        (1..=at).map(change).map(|change| (change.key.clone(), change)).collect();
    let mut changes: Vec<Change> = latest.into_values().collect();
    changes.retain(|change| change.kind != ChangeKind::Delete);
    changes.sort_by_key(|change| change.version);
    changes
}

fn write(store: &DiskStore, step: Step) {
    let expected = store.standing(&name()).unwrap().active();
    store.write(&name(), &Write { expected, step }).unwrap();
}

/// Takes the copy from the version before to this one.
fn advance(store: &DiskStore, at: u64) {
    if !at.is_multiple_of(LOAD_EVERY) && at > 1 {
        return write(store, Step::Page { changes: vec![change(at)], to: cursor(at) });
    }
    let mut first = state(at);
    let rest = first.split_off(first.len() / 2);
    let half = Version::new(at - 1).unwrap();
    let between =
        Cursor { version: first.last().map_or(Version::ZERO, |c| c.version), ..cursor(at) };
    let between = Cursor { base: half.max(Version::new(1).unwrap()), ..between };
    write(store, Step::BeginLoad { changes: first, to: between });
    write(store, Step::Page { changes: rest, to: cursor(at) });
}

/// What is visible is exactly some version.
fn found(store: &DiskStore) -> u64 {
    let snapshot = store.snapshot(&name()).unwrap();
    assert!(check(&*snapshot).unwrap(), "rows and digest are of one transaction");
    let at = snapshot.standing().cursor.map_or(0, |cursor| cursor.version.get());
    let rows = snapshot.rows(None, 1_000).unwrap();
    let mut wanted = state(at);
    wanted.sort_by_key(|change| change.key.clone());
    assert_eq!(rows.len(), wanted.len(), "of version {at}");
    for (row, change) in rows.iter().zip(&wanted) {
        let ChangeKind::Put { value, .. } = &change.kind else { unreachable!() };
        assert_eq!((&row.key, row.version), (&change.key, change.version));
        assert_eq!(Some(&row.value[..]), value.as_ref().map(Value::as_bytes));
    }
    assert_eq!(snapshot.window(0, 1_000).unwrap().len(), rows.len(), "each row has its place");
    at
}

fn start(file: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "writes_until_killed", "--nocapture"])
        .env(CHILD_FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The other process; without its variable, as in a plain test run, there is nothing to do.
#[test]
fn writes_until_killed() {
    let Some(file) = env::var_os(CHILD_FILE) else { return };
    let store = DiskStore::open(file).unwrap();
    let mut out = std::io::stdout();
    for at in found(&store) + 1.. {
        advance(&store, at);
        if at.is_multiple_of(9) {
            store.flush().unwrap();
            writeln!(out, "\nflushed {at}").and_then(|()| out.flush()).unwrap();
        }
        while at.is_multiple_of(LOAD_EVERY) && store.sweep(20).unwrap() {}
        store.forget_swapped(&name());
    }
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_copy() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("DELTASYNC_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    eprintln!("DELTASYNC_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy.redb");
    let mut flushed = 0;
    let mut at = 0;
    for cycle in 0..number("DELTASYNC_CRASH_CYCLES").unwrap_or(CYCLES) {
        let alive = if cycle % 3 == 0 { 0..40 } else { 40..400 };
        let alive = Duration::from_millis(dice.random_range(alive));
        let mut child = start(&file);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reports = thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("flushed ")?.parse::<u64>().ok())
                .last()
        });
        thread::sleep(alive);
        child.kill().unwrap();
        flushed = flushed.max(reports.join().unwrap().unwrap_or(0));
        child.wait().unwrap();
        at = found(&DiskStore::open(&file).unwrap());
        assert!(at >= flushed, "{flushed} was flushed, {at} is there");
    }
    eprintln!("{at} versions, {flushed} flushed");
    assert!(at > 100, "the writer did not get far: {at}");
}
