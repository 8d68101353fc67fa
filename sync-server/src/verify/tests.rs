//! Whatever is wrong with a row is said of that row.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{
    CollectionName, Commit, Cursor, Epoch, Key, Mutation, Op, SortKey, Timestamp, Value, Version,
};
use tempfile::TempDir;

use super::*;
use crate::core::acks::{Claim, Claims};
use crate::core::request::Request;
use crate::engine::ledger::{Ledger, Settings};
use crate::store::disk::{DiskOptions, DiskStore};
use crate::store::keys::{self, AckPlace, ClientKey, CollectionId};
use crate::store::rows::{KeyRow, Meta, ReceiptKind};
use crate::store::{Batch, Store};

const ID: CollectionId = CollectionId(1);

fn options() -> DiskOptions {
    let lock_wait = Duration::from_secs(10);
    DiskOptions { cache_bytes: 16 << 20, free_bytes_min: 0, lock_wait }
}

fn key(key: &'static str) -> Key {
    Key::new(key).unwrap()
}

fn version(version: u64) -> Version {
    Version::new(version).unwrap()
}

/// Collection 1 has the items `a` and `b` and the tombstone of `c`; collection 2 has many items, some
/// of them large.
fn store(dir: &Path) {
    let store = DiskStore::open(dir, &options()).unwrap();
    let ledger = Ledger::open(store, Settings::default(), &mut |_| {}).unwrap();
    let put = |collection: &str, key: Key, len: usize| Mutation {
        collection: CollectionName::new(collection).unwrap(),
        op: Op::Put {
            key,
            value: Value::new(vec![7; len]).unwrap(),
            sort_key: Some(SortKey::new("place").unwrap()),
        },
    };
    let delete = Mutation {
        collection: CollectionName::new("one").unwrap(),
        op: Op::Delete { key: key("c") },
    };
    let many = (0..200_u8).map(|n| put("two", Key::new(vec![n]).unwrap(), 90 * usize::from(n)));
    let commits = [
        vec![put("one", key("a"), 3), put("one", key("b"), 3), put("one", key("c"), 3)],
        vec![delete],
        many.collect(),
    ];
    for mutations in commits {
        let idempotency_key = format!("{} mutations", mutations.len());
        let request = Request::Commit {
            commit: Commit { mutations, idempotency_key, ..Commit::default() },
            fingerprint: [0; 16],
        };
        let mut mint = || Epoch::new(7).unwrap();
        let group = ledger.commit(&[request], Timestamp::from_millis(5), &mut mint).unwrap();
        assert!(group.answers.iter().all(Result::is_ok));
    }
    let AckPlace { client, collection } = place();
    let cursor = Cursor::at(Epoch::new(7).unwrap(), version(1));
    let claims = vec![Claim { collection, cursor, sent: None }];
    let request = Request::Ack(Claims { client, claims });
    let mut mint = || Epoch::new(7).unwrap();
    let group = ledger.commit(&[request], Timestamp::from_millis(5), &mut mint).unwrap();
    assert!(group.answers.iter().all(Result::is_ok));
    ledger.into_store().close().unwrap();
}

fn place() -> AckPlace {
    let client = ClientKey { client_id: "phone".to_owned(), subject: "alice".to_owned() };
    AckPlace { client, collection: CollectionName::new("one").unwrap() }
}

/// Changes rows behind the ledger's back.
fn spoil(dir: &Path, change: impl FnOnce(&DiskStore, &mut Batch)) {
    let store = DiskStore::open(dir, &options()).unwrap();
    let mut batch = Batch::default();
    change(&store, &mut batch);
    store.apply(&batch).unwrap();
    store.close().unwrap();
}

fn verified(dir: &Path) -> Verified {
    let (store, before) = Aside::open(dir, None, &options()).unwrap();
    verify(&store, before, &|_| {}).unwrap()
}

#[test]
fn a_sound_store_has_no_findings() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let verified = verified(dir.path());
    assert_eq!(verified.findings, []);
    assert_eq!((verified.findings_count, verified.collections), (0, 2));
    assert!(verified.rows > 600, "{verified:?}");
}

type Spoil = fn(&DiskStore, &mut Batch);

/// What is done to the store, which row must be named, and what must be said of it.
const CASES: [(Spoil, &str, &str); 17] = [
    (
        |_, batch| batch.remove(keys::log_key(ID, version(1), &key("a"))),
        "collection 1, key row of \"a\"",
        "leads to version 1, where there is no such row",
    ),
    (
        |_, batch| batch.remove(keys::key_key(ID, &key("a"))),
        "collection 1, log row of version 1, key \"a\"",
        "no key row",
    ),
    (
        |_, batch| batch.remove(keys::order_key(ID, &SortKey::new("place").unwrap(), &key("b"))),
        "collection 1, key row of \"b\"",
        "no place in order",
    ),
    (
        |_, batch| {
            let place = keys::order_key(ID, &SortKey::new("nowhere").unwrap(), &key("b"));
            batch.put(place, Bytes::new());
        },
        "collection 1, order row of \"b\" at \"nowhere\"",
        "no item is at this place",
    ),
    (
        |_, batch| {
            let time = Timestamp::from_millis(5);
            batch.remove(keys::tombstone_key(ID, time, version(2), &key("c")));
        },
        "collection 1, key row of \"c\"",
        "never be purged",
    ),
    (
        |_, batch| {
            let time = Timestamp::from_millis(6);
            batch.put(keys::tombstone_key(ID, time, version(2), &key("c")), Bytes::new());
        },
        "collection 1, age row of version 2, key \"c\"",
        "no such tombstone",
    ),
    (
        |_, batch| {
            let place = keys::segment_key(ID, Segment::of_key(&key("a")));
            batch.put(place, Bytes::copy_from_slice(&Digest::EMPTY.to_be_bytes()));
        },
        "collection 1, sum of segment",
        "the items add up to",
    ),
    (
        |_, batch| batch.remove(keys::segment_key(ID, Segment::of_key(&key("b")))),
        "collection 1, sum of segment",
        "it is missing",
    ),
    (
        |store, batch| change_key_row(store, batch, |row| row.value_len += 1),
        "collection 1, log row of version 1, key \"a\"",
        "another value length",
    ),
    (
        |store, batch| change_meta(store, batch, |meta| meta.head.items += 1),
        "collection 1, its head",
        "it says 3 items, the log has 2",
    ),
    (
        |store, batch| change_meta(store, batch, |meta| meta.head.version = version(1)),
        "collection 1, log row of version 2, key \"c\"",
        "above the head",
    ),
    (|_, batch| batch.remove(keys::meta_key(ID)), "collection 1, its head", "it is missing"),
    (
        |_, batch| batch.remove(keys::name_key(&CollectionName::new("one").unwrap())),
        "the name \"one\"",
        "it should lead to 1",
    ),
    (|_, batch| batch.remove(first_age()), "the receipt of \"3 mutations\"", "never be forgotten"),
    (
        |_, batch| batch.remove(keys::receipt_key(ReceiptKind::Commit, "3 mutations")),
        "the age of the receipt of \"3 mutations\"",
        "no receipt of that age",
    ),
    (
        |_, batch| batch.remove(keys::ack_age_key(Timestamp::from_millis(5), &place())),
        "the ack of client \"phone\" of \"alice\" in one",
        "never be forgotten",
    ),
    (
        |_, batch| batch.remove(keys::ack_key(&place())),
        "the age of the ack of client \"phone\"",
        "no ack of that age",
    ),
];

fn first_age() -> Vec<u8> {
    keys::receipt_age_key(Timestamp::from_millis(5), ReceiptKind::Commit, "3 mutations")
}

fn change_key_row(store: &DiskStore, batch: &mut Batch, change: fn(&mut KeyRow)) {
    let place = keys::key_key(ID, &key("a"));
    let mut row = KeyRow::decode(store.get(&place).unwrap().unwrap()).unwrap();
    change(&mut row);
    batch.put(place, row.encode());
}

fn change_meta(store: &DiskStore, batch: &mut Batch, change: fn(&mut Meta)) {
    let place = keys::meta_key(ID);
    let value = store.get(&place).unwrap().unwrap();
    let Ok(Row::Meta { mut meta, .. }) = Row::decode(&place, value) else { panic!("no head") };
    change(&mut meta);
    batch.put(place, meta.encode());
}

/// Each wrong row is named, and nothing of the other collection.
#[test]
fn a_wrong_row_is_named() {
    for (number, (change, place, what)) in CASES.into_iter().enumerate() {
        let dir = TempDir::new().unwrap();
        store(dir.path());
        spoil(dir.path(), change);
        let verified = verified(dir.path());
        let named =
            verified.findings.iter().any(|(at, said)| at.contains(place) && said.contains(what));
        assert!(named, "case {number}: {what} at {place} is not in {:#?}", verified.findings);
        let other = verified
            .findings
            .iter()
            .any(|(at, said)| at.contains("collection 2") || said.contains("collection 2"));
        assert!(!other, "case {number}: {:#?}", verified.findings);
        let sound = if number < 13 { 1 } else { 2 };
        assert_eq!(verified.collections, sound, "case {number}");
    }
}

/// A store that is wrong everywhere is not told whole.
#[test]
fn findings_are_bounded() {
    let mut findings = Findings::default();
    for number in 0..FINDINGS_MAX as u64 + 5 {
        findings.add((number.to_string(), "wrong".to_owned()));
    }
    assert_eq!((findings.kept.len(), findings.count), (FINDINGS_MAX, FINDINGS_MAX as u64 + 5));
}

fn subject(name: &str) -> sync_proto::types::Subject {
    sync_proto::types::Subject::new(name).unwrap()
}

/// Whatever does not fit between audiences and inboxes is said of the row that does not.
#[test]
fn rows_of_followers_are_named() {
    let one = || CollectionName::new("one").unwrap();
    let cases: [(Spoil, &str, &str); 5] = [
        (
            |_, batch| {
                let name = CollectionName::new("one").unwrap();
                batch.remove(keys::audience_key(&name, &subject("a")));
            },
            "collection 3, key row of \"one\"",
            "the subject is not in the audience",
        ),
        (
            |_, batch| {
                let name = CollectionName::new("one").unwrap();
                batch.put(keys::audience_key(&name, &subject("c")), Bytes::new());
            },
            "the audience of \"one\", subject \"c\"",
            "the inbox has no entry",
        ),
        (
            |_, batch| {
                let name = CollectionName::new("one").unwrap();
                batch.remove(keys::audience_state_key(&name));
            },
            "the audience of \"one\", subject \"a\"",
            "the audience as a whole has no row",
        ),
        (
            |_, batch| {
                let name = CollectionName::new("one").unwrap();
                batch.put(keys::sweep_key(&name), Bytes::new());
            },
            "the sweep of \"one\"",
            "needs no sweep",
        ),
        (
            |store, batch| {
                // The collection is one version further than its followers were told.
                let Ok(Row::Meta { mut meta, .. }) = Row::decode(
                    &keys::meta_key(ID),
                    store.get(&keys::meta_key(ID)).unwrap().unwrap(),
                ) else {
                    panic!("a head")
                };
                meta.head.version = meta.head.version.next();
                batch.put(keys::meta_key(ID), meta.encode());
            },
            "the audience of \"one\", subject \"b\"",
            "the collection stands at",
        ),
    ];
    for (spoil_with, place, what) in cases {
        let dir = TempDir::new().unwrap();
        store(dir.path());
        let disk = DiskStore::open(dir.path(), &options()).unwrap();
        let ledger = Ledger::open(disk, Settings::default(), &mut |_| {}).unwrap();
        let follow = |who| Mutation { collection: one(), op: Op::Follow { subject: subject(who) } };
        let commit = Commit { mutations: vec![follow("a"), follow("b")], ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let mut mint = || Epoch::new(7).unwrap();
        ledger.commit(&[request], Timestamp::from_millis(5), &mut mint).unwrap();
        ledger.into_store().close().unwrap();
        assert_eq!(verified(dir.path()).findings, []);
        spoil(dir.path(), spoil_with);
        let found = verified(dir.path());
        let named = found.findings.iter().any(|(row, said)| row == place && said.contains(what));
        assert!(named, "{place}: {what}: {:?}", found.findings);
    }
}

/// G4, G9: a start finds in one pass what `Ledger::open` finds in a second one, and refuses what does
/// not fit.
#[test]
fn a_start_reads_everything_once() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let read = AtomicU64::new(0);
    let hear = |rows| read.store(rows, Ordering::Relaxed);
    let (opened, checked) = starting::open(dir.path(), &options(), &hear).unwrap();
    let rows = checked.rows;
    assert!(rows > 800 && read.load(Ordering::Relaxed) <= rows);
    let all = |ledger: &Ledger<DiskStore>| {
        ledger.list_collections("", &[String::new()], None, 100, |_| true)
    };
    let once = Ledger::over(opened, Settings::default(), checked).unwrap();
    let listed = all(&once);
    once.into_store().close().unwrap();
    let opened = DiskStore::open(dir.path(), &options()).unwrap();
    let twice = Ledger::open(opened, Settings::default(), &mut |_| {}).unwrap();
    assert_eq!((listed.len(), &listed), (2, &all(&twice)));
    twice.into_store().close().unwrap();
    spoil(dir.path(), |_, batch| batch.remove(keys::key_key(ID, &key("a"))));
    let refused = starting::open_existing(dir.path(), &options(), &hear).unwrap_err();
    assert!(matches!(refused, crate::store::StoreError::Damaged { .. }), "{refused}");
}
