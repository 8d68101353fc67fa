//! The store on disk is the store in memory, whatever is written, also after it was opened
//! again (G1, G4, X5, X6, X16; T14).
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::sync::Arc;

use proptest::prelude::*;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use sync_client::store::{
    Applied, DiskStore, MemoryStore, ReplicaStore, Row, Staged, Standing, Step, StoreError,
    Visible, Write, check,
};
use sync_proto::digest::Segment;
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Cursor, Epoch, Key, SortKey, Value, Version,
};

/// What a test does to both stores.
#[derive(Debug, Clone)]
enum Deed {
    /// Changes of (key, kind), and whether the page is the last one.
    Page(Vec<(u8, u8)>, bool),
    BeginLoad(Vec<(u8, u8)>, bool),
    /// Rows that a repair keeps, puts and removes; and whether the rest of some segments goes.
    Mend(Vec<(u8, u8)>, bool),
    Clear,
    Sweep,
    Reopen,
    /// A write that was decided upon another state.
    Stale,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let changes = || prop::collection::vec((0..12u8, 0..6u8), 0..6);
    let deed = prop_oneof![
        8 => (changes(), any::<bool>()).prop_map(|(changes, last)| Deed::Page(changes, last)),
        2 => (changes(), any::<bool>()).prop_map(|(changes, last)| Deed::BeginLoad(changes, last)),
        2 => (changes(), any::<bool>()).prop_map(|(edits, rest)| Deed::Mend(edits, rest)),
        1 => Just(Deed::Clear),
        1 => Just(Deed::Sweep),
        1 => Just(Deed::Reopen),
        1 => Just(Deed::Stale),
    ];
    prop::collection::vec(deed, 1..40)
}

fn name(number: u64) -> CollectionName {
    CollectionName::new(&format!("c/{number}")).unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn cursor(at: u64, last: bool) -> Cursor {
    let caught_up = Cursor::at(Epoch::new(5).unwrap(), version(at));
    if last { caught_up } else { caught_up.between_pages(version(at)) }
}

/// Kind 0 deletes, 1 leaves the value out, the others put one.
fn change((key, kind): (u8, u8), at: u64) -> Change {
    let value_version = if kind == 1 { version(at.saturating_sub(3)) } else { version(at) };
    let value = (kind != 1).then(|| Value::new(vec![kind; usize::from(kind) * 3]).unwrap());
    let sort_key = SortKey::new(vec![kind % 2; usize::from(kind) % 3]).unwrap();
    let kind = match kind {
        0 => ChangeKind::Delete,
        _ => ChangeKind::Put { value, sort_key, value_version },
    };
    let key = Key::new(vec![b'k', key]).unwrap();
    Change { key, version: version(at), created: version(1), kind }
}

/// An answer of a store that can be compared.
fn comparable(answer: Result<Applied, StoreError>) -> Result<Applied, String> {
    answer.map_err(|refused| format!("{refused:?}"))
}

fn same(memory: &MemoryStore, disk: &DiskStore, name: &CollectionName) {
    let (ours, theirs) = (memory.snapshot(name).unwrap(), disk.snapshot(name).unwrap());
    assert_eq!(ours.standing(), theirs.standing());
    assert_eq!(*ours.standing(), disk.standing(name).unwrap());
    let rows = ours.rows(None, 100).unwrap();
    assert_eq!(rows, theirs.rows(None, 100).unwrap());
    assert_eq!(ours.window(2, 3).unwrap(), theirs.window(2, 3).unwrap());
    assert_eq!(ours.window(0, 100).unwrap(), theirs.window(0, 100).unwrap());
    if let Some(row) = rows.get(1) {
        assert_eq!(
            ours.rows(Some(&rows[0].key), 1).unwrap(),
            theirs.rows(Some(&rows[0].key), 1).unwrap()
        );
        assert_eq!(disk.get(name, &row.key).unwrap().as_ref(), Some(row));
    }
    assert!(check(&*ours).unwrap() && check(&*theirs).unwrap());
}

fn other(name: &CollectionName) -> CollectionName {
    self::name(u64::from(name.as_str() == "c/0"))
}

/// Puts edits of a repair aside, in two steps.
fn stage(store: &dyn ReplicaStore, name: &CollectionName, edits: &[(u8, u8)], rest: bool, at: u64) {
    store.stage(name, vec![Staged::Remove(Key::new("forgotten").unwrap())]).unwrap();
    store.sums(name).unwrap();
    for edit in edits {
        let row = row(*edit, at);
        let edit = match edit.1 {
            0 => Staged::Remove(row.key),
            1 => Staged::Keep(row.key),
            _ => Staged::Put(row),
        };
        store.stage(name, vec![edit]).unwrap();
    }
    if rest {
        let even = (0..4_096).step_by(2).filter_map(Segment::new).collect();
        store.stage_rest(name, &even).unwrap();
    }
}

fn row(edit: (u8, u8), at: u64) -> Row {
    let Change { key, version, created, kind } = change((edit.0, edit.1.max(2)), at);
    let ChangeKind::Put { value: Some(value), sort_key, value_version } = kind else {
        unreachable!()
    };
    let value = bytes::Bytes::copy_from_slice(value.as_bytes());
    Row { key, value, sort_key, version, created, value_version }
}

fn step(deed: &Deed, at: u64, store: &MemoryStore, name: &CollectionName) -> Option<Step> {
    let page = |changes: &[(u8, u8)]| changes.iter().map(|one| change(*one, at)).collect();
    match deed {
        Deed::Page(changes, last) => {
            Some(Step::Page { changes: page(changes), to: cursor(at, *last) })
        }
        Deed::BeginLoad(changes, last) => {
            Some(Step::BeginLoad { changes: page(changes), to: cursor(at, *last) })
        }
        // Only a copy that is there can be repaired.
        Deed::Mend(..) if store.standing(name).unwrap().cursor.is_none() => None,
        Deed::Mend(..) => {
            let before = store.standing(name).unwrap().tally;
            let to = cursor(at, false);
            Some(Step::Mend { to, before, reorder: at.is_multiple_of(2) })
        }
        Deed::Clear => Some(Step::Clear),
        Deed::Stale => Some(Step::Page { changes: page(&[(0, 2)]), to: cursor(at, true) }),
        Deed::Sweep | Deed::Reopen => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_disk_store_is_the_memory_store(deeds in deeds()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.redb");
        let memory = MemoryStore::new();
        let mut disk = DiskStore::open(&path).unwrap();
        for (number, deed) in deeds.iter().enumerate() {
            let at = number as u64 + 2;
            let name = name(at % 2);
            let expected = match deed {
                Deed::Stale => Some(cursor(999, true)),
                Deed::Page(..)
                | Deed::BeginLoad(..)
                | Deed::Mend(..)
                | Deed::Clear
                | Deed::Sweep
                | Deed::Reopen => {
                    memory.standing(&name).unwrap().active()
                }
            };
            if let Deed::Mend(edits, rest) = deed {
                for store in [&memory as &dyn ReplicaStore, &disk] {
                    stage(store, &name, edits, *rest, at);
                    // What is put aside stays, whoever sweeps.
                    while store.sweep(2).unwrap() {}
                }
                prop_assert_eq!(memory.sums(&other(&name)).unwrap(), disk.sums(&other(&name)).unwrap());
            }
            if let Some(step) = step(deed, at, &memory, &name) {
                let write = Write { expected, step };
                let ours = comparable(memory.write(&name, &write));
                let theirs = comparable(disk.write(&name, &write));
                prop_assert_eq!(&ours, &theirs);
                if let Ok(Applied { visible: Visible::Swapped, .. }) = ours {
                    let first = memory.swapped(&name, None, 2).unwrap();
                    prop_assert_eq!(&first, &disk.swapped(&name, None, 2).unwrap());
                    let after = first.last().map(|changed| &changed.key);
                    let rest = memory.swapped(&name, after, 50).unwrap();
                    prop_assert_eq!(rest, disk.swapped(&name, after, 50).unwrap());
                }
            } else if let Deed::Mend(..) = deed {
            } else if let Deed::Sweep = deed {
                while disk.sweep(3).unwrap() {}
                memory.sweep(3).unwrap();
            } else {
                disk.flush().unwrap();
                drop(disk);
                disk = DiskStore::open(&path).unwrap();
            }
            same(&memory, &disk, &name);
        }
    }
}

/// What a reader sees while a load is staged is what was there before it.
#[test]
fn t10_a_load_shows_nothing_before_it_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.redb");
    for store in [&MemoryStore::new() as &dyn ReplicaStore, &DiskStore::open(&path).unwrap()] {
        let put = |key, at| vec![change((key, 3), at)];
        let name = name(1);
        let write = |step| {
            let expected = store.standing(&name).unwrap().active();
            store.write(&name, &Write { expected, step }).unwrap()
        };
        let keys = || {
            let rows = store.snapshot(&name).unwrap().rows(None, 9).unwrap();
            rows.iter().map(|row| row.key.as_bytes()[1]).collect::<Vec<_>>()
        };
        write(Step::BeginLoad { changes: put(1, 5), to: cursor(5, true) });
        write(Step::BeginLoad { changes: put(2, 6), to: cursor(6, false) });
        assert_eq!(keys(), [1]);
        write(Step::Page { changes: put(3, 7), to: cursor(7, false) });
        assert_eq!(keys(), [1]);
        assert_eq!(store.standing(&name).unwrap().load.unwrap().tally.items, 2);
        let applied = write(Step::Page { changes: put(4, 8), to: cursor(8, true) });
        assert_eq!(applied.visible, Visible::Swapped);
        assert_eq!(keys(), [2, 3, 4]);
    }
}

#[test]
fn changes_up_to_the_cursor_are_passed_over() {
    let store = MemoryStore::new();
    let name = name(1);
    let write = |changes: Vec<Change>, to| {
        let expected = store.standing(&name).unwrap().active();
        store.write(&name, &Write { expected, step: Step::Page { changes, to } }).unwrap()
    };
    write(vec![change((1, 3), 4), change((2, 3), 5)], cursor(5, true));
    let overlapping = vec![change((1, 0), 4), change((2, 4), 5), change((3, 3), 6)];
    let applied = write(overlapping, cursor(6, true));
    assert!(matches!(applied.visible, Visible::Rows(changed) if changed.len() == 1));
    assert_eq!(applied.standing.tally.items, 3);
}

#[test]
fn x5_compare_and_set_lets_one_of_two_through() {
    let store = MemoryStore::new();
    let name = name(1);
    let page = |key, at| Write {
        expected: None,
        step: Step::BeginLoad { changes: vec![change((key, 3), at)], to: cursor(at, true) },
    };
    let first = store.write(&name, &page(1, 5)).unwrap();
    let Err(StoreError::Conflict { standing }) = store.write(&name, &page(2, 6)) else {
        panic!("the second write was decided upon what is not there any more");
    };
    assert_eq!(*standing, first.standing);
    assert_eq!(store.standing(&name).unwrap(), first.standing);
}

/// Another replica on the same store sweeps whenever it likes.
#[test]
fn rows_that_are_compared_are_not_swept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.redb");
    for store in [&MemoryStore::new() as &dyn ReplicaStore, &DiskStore::open(&path).unwrap()] {
        let load = |number, item, at| {
            let name = name(number);
            let expected = store.standing(&name).unwrap().active();
            let changes = vec![change((item, 3), at)];
            let step = Step::BeginLoad { changes, to: cursor(at, true) };
            store.write(&name, &Write { expected, step }).unwrap();
        };
        load(1, 1, 5);
        load(2, 1, 5);
        load(1, 2, 6);
        load(2, 2, 6);
        store.forget_swapped(&name(2));
        while store.sweep(1).unwrap() {}
        assert_eq!(store.swapped(&name(1), None, 9).unwrap().len(), 2);
        store.forget_swapped(&name(1));
        while store.sweep(1).unwrap() {}
        assert!(store.swapped(&name(1), None, 9).unwrap().len() < 2);
    }
}

/// What cannot be read is not there: it is loaded anew, and leaves no rows behind.
#[test]
fn a_damaged_record_is_no_copy_and_its_rows_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::create(dir.path().join("app.redb")).unwrap());
    let store = DiskStore::from_database(database.clone()).unwrap();
    let load = |number: u64, at| {
        let name = name(number);
        let expected = store.standing(&name).unwrap().active();
        let changes = vec![change((1, 3), at), change((2, 3), at)];
        let step = Step::BeginLoad { changes, to: cursor(at, true) };
        store.write(&name, &Write { expected, step })
    };
    load(1, 5).unwrap();
    load(2, 5).unwrap();
    let copies: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("deltasync/copies");
    let write = database.begin_write().unwrap();
    write.open_table(copies).unwrap().insert(name(1).as_str(), &[1u8, 2][..]).unwrap();
    write.commit().unwrap();

    assert_eq!(store.standing(&name(1)).unwrap(), Standing::default());
    assert!(store.snapshot(&name(1)).unwrap().rows(None, 9).unwrap().is_empty());
    assert_eq!(load(1, 6).unwrap().standing.tally.items, 2);
    store.forget_swapped(&name(1));
    while store.sweep(9).unwrap() {}
    let rows: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/rows");
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(rows).unwrap().len().unwrap(), 4, "two copies of two rows");
    assert_eq!(store.standing(&name(2)).unwrap().tally.items, 2);
}

/// Changes come as slices of the message that brought them.
#[test]
fn a_row_keeps_no_message_alive() {
    let message = bytes::Bytes::from(vec![7; 1 << 20]);
    let slice = |at: usize| message.slice(at..at + 3);
    let kind = ChangeKind::Put {
        value: Some(Value::new(slice(6)).unwrap()),
        sort_key: SortKey::new(slice(3)).unwrap(),
        value_version: version(5),
    };
    let key = Key::new(slice(0)).unwrap();
    let changes = vec![Change { key, version: version(5), created: version(5), kind }];
    let store = MemoryStore::new();
    let write = Write { expected: None, step: Step::BeginLoad { changes, to: cursor(5, true) } };
    store.write(&name(1), &write).unwrap();
    drop(write);
    assert!(message.is_unique(), "the row has memory of its own");
    assert_eq!(store.snapshot(&name(1)).unwrap().rows(None, 9).unwrap().len(), 1);
}

const NOTES: TableDefinition<'_, &str, &str> = TableDefinition::new("notes");

#[test]
fn x6_a_reload_leaves_the_tables_of_the_application_alone() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::create(dir.path().join("app.redb")).unwrap());
    let write = database.begin_write().unwrap();
    write.open_table(NOTES).unwrap().insert("alice", "my best friend").unwrap();
    write.commit().unwrap();

    let store = DiskStore::from_database(database.clone()).unwrap();
    let name = name(1);
    for at in 2..6 {
        let expected = store.standing(&name).unwrap().active();
        let step = Step::BeginLoad { changes: vec![change((1, 3), at)], to: cursor(at, true) };
        store.write(&name, &Write { expected, step }).unwrap();
        while store.sweep(1).unwrap() {}
    }
    let expected = store.standing(&name).unwrap().active();
    store.write(&name, &Write { expected, step: Step::Clear }).unwrap();

    let read = database.begin_read().unwrap();
    let notes = read.open_table(NOTES).unwrap();
    assert_eq!(notes.get("alice").unwrap().unwrap().value(), "my best friend");
}

/// Rows and cursor are one transaction: a process that is killed comes back with both or neither.
#[test]
fn x16_a_copy_that_was_not_flushed_is_old_but_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.redb");
    let killed = dir.path().join("killed.redb");
    let store = DiskStore::open(&path).unwrap();
    let name = name(1);
    let mut seen = vec![Standing::default()];
    for at in 2..200 {
        let expected = store.standing(&name).unwrap().active();
        let changes = vec![change(((at % 12) as u8, 3), at)];
        let step = match expected {
            None => Step::BeginLoad { changes, to: cursor(at, true) },
            Some(_) => Step::Page { changes, to: cursor(at, true) },
        };
        seen.push(store.write(&name, &Write { expected, step }).unwrap().standing);
        if at % 23 == 0 {
            std::fs::copy(&path, &killed).unwrap();
            let found = DiskStore::open(&killed).unwrap();
            assert!(seen.contains(&found.standing(&name).unwrap()));
            assert!(check(&*found.snapshot(&name).unwrap()).unwrap());
        }
    }
    store.flush().unwrap();
    drop(store);
    let found = DiskStore::open(&path).unwrap();
    assert_eq!(found.standing(&name).unwrap(), *seen.last().unwrap());
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::create(dir.path().join("app.redb")).unwrap());
    drop(DiskStore::from_database(database.clone()).unwrap());
    let write = database.begin_write().unwrap();
    let numbers: TableDefinition<'_, &str, u64> = TableDefinition::new("deltasync/numbers");
    write.open_table(numbers).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    let refused = DiskStore::from_database(database).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 2, known: 1 }));
}

/// X1: rows that do not read, rows that are not what they were and a list order that fits
/// neither: the sums say so, and a repair puts it right, whatever the tally says.
#[test]
fn x1_rows_that_do_not_read_are_found_and_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::create(dir.path().join("app.redb")).unwrap());
    let store = DiskStore::from_database(database.clone()).unwrap();
    let name = name(1);
    let changes = (0..10).map(|key| change((key, 3), 5)).collect();
    let step = Step::BeginLoad { changes, to: cursor(5, true) };
    let sound = store.write(&name, &Write { expected: None, step }).unwrap().standing;
    let rows: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/rows");
    let place = |key: u8| [&1u64.to_be_bytes()[..], b"k", &[key]].concat();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(rows).unwrap();
        table.insert(&place(2)[..], &[1u8, 2][..]).unwrap();
        let mut flipped = table.get(&place(3)[..]).unwrap().unwrap().value().to_vec();
        // A bit of its sort key: it stands at another place now.
        flipped[26] ^= 0x10;
        table.insert(&place(3)[..], &flipped[..]).unwrap();
        table.remove(&place(4)[..]).unwrap();
    }
    write.commit().unwrap();

    let sums = store.sums(&name).unwrap();
    let segment = Segment::of_key(&Key::new(vec![b'k', 2]).unwrap());
    assert_eq!(sums.tally.items, 8);
    assert_eq!(sums.broken.into_iter().collect::<Vec<_>>(), [segment]);
    assert!(sums.disordered);
    let mut edits: Vec<Staged> = [2, 3, 4].map(|key| Staged::Put(row((key, 3), 5))).into();
    edits.push(Staged::Keep(Key::new(vec![b'k', 5]).unwrap()));
    store.stage(&name, edits).unwrap();
    let step = Step::Mend { to: cursor(5, false), before: sums.tally, reorder: sums.disordered };
    let write = Write { expected: sound.active(), step };
    let applied = store.write(&name, &write).unwrap();
    assert_eq!(applied.standing.tally, sound.tally);
    let Visible::Rows(named) = applied.visible else { panic!("{:?}", applied.visible) };
    assert_eq!(named.len(), 3);
    let snapshot = store.snapshot(&name).unwrap();
    assert!(check(&*snapshot).unwrap());
    assert_eq!(snapshot.window(0, 100).unwrap().len(), 10);
    assert!(!store.sums(&name).unwrap().disordered);
    while store.sweep(2).unwrap() {}
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(rows).unwrap().len().unwrap(), 10, "what was staged is swept");
}

/// A process that is killed during a repair leaves nothing behind.
#[test]
fn edits_of_a_repair_that_never_ended_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.redb");
    let store = DiskStore::open(&path).unwrap();
    let name = name(1);
    store.stage(&name, vec![Staged::Put(row((1, 3), 5))]).unwrap();
    assert!(!store.sweep(9).unwrap());
    store.flush().unwrap();
    drop(store);
    let store = DiskStore::open(&path).unwrap();
    while store.sweep(9).unwrap() {}
    drop(store);
    let database = Database::open(&path).unwrap();
    let rows: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/rows");
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(rows).unwrap().len().unwrap(), 0);
}

/// A repair of very many items keeps none of them in memory to be told.
#[test]
fn a_repair_of_very_much_is_not_named_item_by_item() {
    let store = MemoryStore::new();
    let name = name(1);
    let step = Step::BeginLoad { changes: vec![change((1, 3), 5)], to: cursor(5, true) };
    store.write(&name, &Write { expected: None, step }).unwrap();
    let item = |number: u32| {
        Staged::Put(Row { key: Key::new(number.to_be_bytes().to_vec()).unwrap(), ..row((1, 3), 5) })
    };
    store.stage(&name, (0..10_001).map(item).collect()).unwrap();
    let before = store.standing(&name).unwrap().tally;
    let step = Step::Mend { to: cursor(6, false), before, reorder: false };
    let applied = store.write(&name, &Write { expected: Some(cursor(5, true)), step }).unwrap();
    assert_eq!((applied.visible, applied.standing.tally.items), (Visible::Much, 10_002));
}
