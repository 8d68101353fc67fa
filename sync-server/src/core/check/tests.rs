//! Several checkers together find what one would find.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use sync_proto::types::{
    CollectionName, Commit, Epoch, Mutation, Op, SortKey, Subject, Timestamp, Value,
};

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::{Ledger, Settings};
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

/// Wherever the rows are cut, and in whatever order the parts are merged.
#[test]
fn parts_add_up_to_the_whole() {
    let rows = rows();
    let whole = feed(Checker::default(), &rows).finish().unwrap();
    assert_eq!((whole.collections.len(), whole.audiences.len()), (4, 1));
    let inboxes = whole.collections.iter().filter(|(_, meta)| meta.name.is_inbox());
    let inboxes: Arc<BTreeSet<_>> = Arc::new(inboxes.map(|(id, _)| *id).collect());
    assert_eq!(inboxes.len(), 2);
    for at in (0..rows.len()).step_by(7) {
        let (first, rest) = rows.split_at(at);
        for swapped in [false, true] {
            let (one, other) = if swapped { (rest, first) } else { (first, rest) };
            let mut checker = feed(Checker::of_part(true, inboxes.clone()), one);
            checker.merge(feed(Checker::of_part(true, inboxes.clone()), other));
            let merged = checker.finish().unwrap_or_else(|found| panic!("cut at {at}: {found:?}"));
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
