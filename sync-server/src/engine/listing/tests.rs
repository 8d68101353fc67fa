//! Listings of collections; windows of items are tested over the wire.

use sync_proto::types::{Commit, Epoch, Mutation, Op, Value};

use std::cell::Cell;

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::Settings;
use crate::store::memory::MemoryStore;

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

/// Collections `a/00000` and so on, and the three that the caller may read.
fn ledger() -> Ledger<MemoryStore> {
    let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {}).unwrap();
    let hidden = (0..2 * LIST_LOOKS_MAX + 500).map(|number| name(&format!("a/{number:05}")));
    let mine = ["a/00700/mine", "a/02300/mine", "b"].map(name);
    let put = |collection| {
        let key = Key::new("k").unwrap();
        let op = Op::Put { key, value: Value::new("v").unwrap(), sort_key: None };
        Mutation { collection, op }
    };
    let mutations = hidden.chain(mine).map(put).collect();
    let commit = Commit { mutations, preconditions: Vec::new(), idempotency_key: String::new() };
    let request = Request::Commit { commit, fingerprint: [0; 16] };
    let mut epochs = || Epoch::new(7).unwrap();
    let group = ledger.commit(&[request], Timestamp::from_millis(1), &mut epochs).unwrap();
    assert!(group.answers[0].is_ok());
    ledger
}

fn mine(name: &CollectionName) -> bool {
    name.as_str() == "b" || name.as_str().ends_with("/mine")
}

fn listed(
    ledger: &Ledger<MemoryStore>,
    prefix: &str,
    after: Option<&str>,
    most: usize,
    may_read: impl Fn(&CollectionName) -> bool,
) -> Vec<String> {
    let after = after.map(name);
    let all = [String::new()];
    let listed = ledger.list_collections(prefix, &all, after.as_ref(), most, may_read);
    listed.into_iter().map(|(name, _)| name.to_string()).collect()
}

/// G10: thousands that the caller may not read neither show nor hide anything.
#[test]
fn what_may_not_be_read_is_passed_over() {
    let ledger = ledger();
    let found = |prefix, after, most| listed(&ledger, prefix, after, most, mine);
    assert_eq!(found("", None, 9), ["a/00700/mine", "a/02300/mine", "b"]);
    assert_eq!(found("", None, 1), ["a/00700/mine"]);
    assert_eq!(found("", Some("a/00700/mine"), 1), ["a/02300/mine"]);
    assert_eq!(found("", Some("a/02300/mine"), 9), ["b"]);
    assert_eq!(found("a/", Some("a/02300/mine"), 9), [""; 0]);
    assert_eq!(found("a/023", Some("a/00001"), 9), ["a/02300/mine"]);
    assert_eq!(found("b", Some("a/00700/mine"), 9), ["b"]);
    assert_eq!(found("a/", Some("b"), 9), [""; 0]);
    assert_eq!(found("c", None, 9), [""; 0]);
}

/// G10: with stems the same is found, and no name is looked at that begins with none of them: the
/// time of an answer does not tell how many collections of others there are.
#[test]
fn names_of_others_are_not_looked_at() {
    let ledger = ledger();
    let looked = Cell::new(0);
    let may_read = |found: &CollectionName| {
        looked.set(looked.get() + 1);
        mine(found)
    };
    let stems = ["a/00700/", "a/02300/mine", "b", "c"].map(str::to_owned);
    for (prefix, after, wanted) in [
        ("", None, vec!["a/00700/mine", "a/02300/mine", "b"]),
        ("a/", None, vec!["a/00700/mine", "a/02300/mine"]),
        ("a/00700/mi", None, vec!["a/00700/mine"]),
        ("a/0070", Some("a/00001"), vec!["a/00700/mine"]),
        ("", Some("a/00700/mine"), vec!["a/02300/mine", "b"]),
        ("a/00701", None, vec![]),
        ("zz", None, vec![]),
    ] {
        let after = after.map(name);
        let listed = ledger.list_collections(prefix, &stems, after.as_ref(), 9, may_read);
        let names: Vec<_> = listed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, wanted, "{prefix}");
    }
    assert!(looked.get() <= 30, "{} names were looked at", looked.get());
}

#[test]
fn pages_cover_all_once() {
    let ledger = ledger();
    let mut all = Vec::new();
    loop {
        let after = all.last().cloned();
        let page = listed(&ledger, "a/", after.as_deref(), 333, |_| true);
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    assert_eq!(all.len(), 2 * LIST_LOOKS_MAX + 502);
    assert!(all.is_sorted_by(|one, next| one < next));
    assert_eq!(all, listed(&ledger, "a/", None, usize::MAX, |_| true));
}
