//! Several checkers together find what one would find.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use sync_proto::types::{
    CollectionName, Commit, Cursor, Epoch, Mutation, Op, SortKey, Subject, Timestamp, Value,
};

use super::*;
use crate::core::acks::{Claim, Claims};
use crate::core::request::Request;
use crate::engine::ledger::{Ledger, Settings};
use crate::store::keys::{AckPlace, ClientKey, Held, ack_age_key, ack_key};
use crate::store::memory::MemoryStore;
use crate::store::{Direction, KeyRange, Store};

type Rows = Vec<(Vec<u8>, Bytes)>;

/// Items, tombstones and two collections, one of which two subjects follow.
fn rows() -> Rows {
    let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {}).unwrap();
    for round in 0..40_u8 {
        let op = |number: u8| {
            let key = Key::new(vec![number]).unwrap();
            if (number + round).is_multiple_of(4) {
                Op::Delete { key }
            } else {
                let sort_key = Some(SortKey::new(vec![round, number]).unwrap());
                Op::Put { key, value: Value::new(vec![number; 9]).unwrap(), sort_key }
            }
        };
        let collection = CollectionName::new(if round % 2 == 0 { "a" } else { "b" }).unwrap();
        let mutations = (0..20).map(op);
        let mutations = mutations.map(|op| Mutation { collection: collection.clone(), op });
        let subject = Subject::new(if round == 2 { "one" } else { "other" }).unwrap();
        let follow = Mutation { collection: collection.clone(), op: Op::Follow { subject } };
        let mutations = mutations.chain((round % 2 == 0).then_some(follow));
        let commit = Commit { mutations: mutations.collect(), ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let mut mint = || Epoch::new(7).unwrap();
        let group = ledger.commit(&[request], Timestamp::from_millis(9), &mut mint).unwrap();
        assert!(group.answers.iter().all(Result::is_ok));
    }
    let ack = |client_id: &str, version| {
        let cursor = Cursor::at(Epoch::new(7).unwrap(), Version::new(version).unwrap());
        let collection = CollectionName::new("a").unwrap();
        let client = ClientKey { client_id: client_id.to_owned(), subject: String::new() };
        Request::Ack(Claims { client, claims: vec![Claim { collection, cursor, sent: None }] })
    };
    let acks = [ack("phone", 20), ack("tablet", 3)];
    let group = ledger.commit(&acks, Timestamp::from_millis(9), &mut || Epoch::new(7).unwrap());
    assert!(group.unwrap().answers.iter().all(Result::is_ok));
    let mut rows = Vec::new();
    let all = KeyRange { start: Vec::new(), end: None };
    let visit = &mut |key: &[u8], value| {
        rows.push((key.to_vec(), value));
        ControlFlow::Continue(())
    };
    ledger.into_store().scan(&all, Direction::Forward, visit).unwrap();
    rows
}

fn feed(mut checker: Checker, rows: &[(Vec<u8>, Bytes)]) -> Checker {
    for (key, value) in rows {
        checker.row(key, value.clone());
    }
    checker
}

fn inboxes(whole: &Checked) -> Arc<BTreeSet<CollectionId>> {
    let inboxes = whole.collections.iter().filter(|(_, meta)| meta.name.is_inbox());
    Arc::new(inboxes.map(|(id, _)| *id).collect())
}

/// Wherever the rows are cut, and in whatever order the parts are merged.
#[test]
fn parts_add_up_to_the_whole() {
    let rows = rows();
    let whole = feed(Checker::default(), &rows).finish().unwrap();
    assert_eq!((whole.collections.len(), whole.audiences.len()), (4, 1));
    let inboxes = inboxes(&whole);
    assert_eq!(inboxes.len(), 2);
    for at in (0..rows.len()).step_by(7) {
        let (first, rest) = rows.split_at(at);
        for swapped in [false, true] {
            let (one, other) = if swapped { (rest, first) } else { (first, rest) };
            let mut checker = feed(Checker::of_part(true, inboxes.clone()), one);
            checker.merge(feed(Checker::of_part(true, inboxes.clone()), other));
            let merged = checker.finish().unwrap_or_else(|found| panic!("cut at {at}: {found:?}"));
            assert_eq!((merged.acks, whole.acks), (2, 2));
            assert_eq!((merged.rows, merged.collections), (whole.rows, whole.collections.clone()));
        }
    }
}

/// G5: no row can be missing, and none can be there twice, unnoticed.
#[test]
fn a_row_that_is_missing_is_noticed() {
    let rows = rows();
    for gone in 0..rows.len() {
        let mut less = rows.clone();
        let (key, _) = less.remove(gone);
        let report = feed(Checker::default(), &less).report();
        assert!(report.findings_count > 0, "nobody misses {key:02x?}");
    }
}

/// A cursor that is held above the head would be a reader that skips what comes.
#[test]
fn an_ack_above_the_head_is_noticed() {
    let mut rows = rows();
    let inboxes = inboxes(&feed(Checker::default(), &rows).finish().unwrap());
    let client = ClientKey { client_id: "watch".to_owned(), subject: String::new() };
    let place = AckPlace { client, collection: CollectionName::new("a").unwrap() };
    let held = |epoch, version| Held {
        time: Timestamp::from_millis(9),
        cursor: Cursor::at(Epoch::new(epoch).unwrap(), Version::new(version).unwrap()),
    };
    rows.push((ack_age_key(Timestamp::from_millis(9), &place), Bytes::new()));
    for (held, fits) in [(held(7, 20), true), (held(7, 21), false), (held(8, 21), true)] {
        let mut more = rows.clone();
        more.push((ack_key(&place), held.encode()));
        let (one, other) = more.split_at(more.len() - 1);
        let of_part = || Checker::of_part(true, inboxes.clone());
        let mut parts = feed(of_part(), one);
        parts.merge(feed(of_part(), other));
        for checker in [feed(Checker::default(), &more), parts] {
            let found = checker.finish();
            assert_eq!(found.is_ok(), fits, "{held:?}: {found:?}");
        }
    }
}
