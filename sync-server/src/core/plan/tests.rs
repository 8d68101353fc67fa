//! Planning: numbering, no-ops, preconditions, receipts, counters, and that a refused commit
//! leaves no trace.

use sync_proto::types::{Key, SortKey, Value};

use super::*;
use crate::core::workspace::Needs;
use crate::core::workspace::Planned;

/// A workspace in which everything asked for is absent.
fn empty(requests: &[Request]) -> Workspace {
    let mut needs = Needs::default();
    for request in requests {
        request.needs(&mut needs);
    }
    Workspace::load(needs, 1, |_| None, |keys| Ok(vec![None; keys.len()])).unwrap()
}

fn plan_all(requests: &[Request]) -> (Vec<Result<Answer, Refusal>>, Planned) {
    let mut workspace = empty(requests);
    let mut epochs = 0..;
    let mut mint = || Epoch::new(epochs.next().unwrap() + 7).unwrap();
    let now = Timestamp::from_millis(1_000);
    let mut at = Moment {
        now,
        receipt_window: Duration::from_secs(600),
        acks: AckRetention::default(),
        mint: &mut mint,
    };
    let answers = requests.iter().map(|request| workspace.plan(request, &mut at)).collect();
    (answers, workspace.finish())
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn key(key: &str) -> Key {
    Key::new(key.as_bytes().to_vec()).unwrap()
}

fn put(collection: &str, item: &str, value: &str) -> Mutation {
    let value = Value::new(value.as_bytes().to_vec()).unwrap();
    Mutation { collection: name(collection), op: Op::Put { key: key(item), value, sort_key: None } }
}

fn delete(collection: &str, item: &str) -> Mutation {
    Mutation { collection: name(collection), op: Op::Delete { key: key(item) } }
}

fn reorder(collection: &str, item: &str, place: &str) -> Mutation {
    let sort_key = SortKey::new(place.as_bytes().to_vec()).unwrap();
    Mutation { collection: name(collection), op: Op::Reorder { key: key(item), sort_key } }
}

fn commit(mutations: Vec<Mutation>) -> Request {
    keyed(mutations, "", 0)
}

fn keyed(mutations: Vec<Mutation>, idempotency_key: &str, fingerprint: u8) -> Request {
    let commit = Commit {
        mutations,
        preconditions: Vec::new(),
        idempotency_key: idempotency_key.to_owned(),
    };
    Request::Commit { commit, fingerprint: [fingerprint; 16] }
}

fn only_if(condition: Condition, mutations: Vec<Mutation>) -> Request {
    let preconditions = vec![Precondition { collection: name("c"), condition }];
    let commit = Commit { mutations, preconditions, idempotency_key: String::new() };
    Request::Commit { commit, fingerprint: [0; 16] }
}

fn versions(answer: &Result<Answer, Refusal>) -> Vec<(u64, u64)> {
    let answer = answer.as_ref().unwrap();
    answer.collections.iter().map(|c| (c.prev_version.get(), c.version.get())).collect()
}

/// G2: each commit of a group gets its own version, in order; each collection counts by itself.
#[test]
fn commits_are_numbered_per_collection() {
    let (answers, planned) = plan_all(&[
        commit(vec![put("a", "1", "x")]),
        commit(vec![put("a", "2", "x"), put("b", "1", "x")]),
        commit(vec![put("a", "1", "y")]),
    ]);
    assert_eq!(versions(&answers[0]), [(0, 1)]);
    assert_eq!(versions(&answers[1]), [(1, 2), (0, 1)]);
    assert_eq!(versions(&answers[2]), [(2, 3)]);
    let heads: Vec<_> = planned.moved.iter().map(|(_, meta)| meta.head.version.get()).collect();
    assert_eq!(heads, [3, 1]);
    assert_ne!(planned.moved[0].1.head.epoch, planned.moved[1].1.head.epoch);
}

/// DESIGN §5.5: a put that changes nothing is not a change, a delete of nothing neither.
#[test]
fn what_changes_nothing_gets_no_version() {
    let (answers, planned) = plan_all(&[
        commit(vec![put("c", "k", "x")]),
        commit(vec![put("c", "k", "x")]),
        commit(vec![delete("c", "other")]),
        commit(vec![delete("never", "k")]),
    ]);
    assert_eq!(versions(&answers[1]), [(1, 1)]);
    assert_eq!(versions(&answers[2]), [(1, 1)]);
    let absent = &answers[3].as_ref().unwrap().collections[0];
    assert_eq!((absent.epoch, absent.version), (None, Version::ZERO));
    assert_eq!(planned.moved.len(), 1, "a delete creates no collection");
}

/// G4: a commit that is refused leaves no trace, also between others of its group.
#[test]
fn a_refused_commit_changes_nothing() {
    let bad = commit(vec![put("c", "half", "done"), reorder("c", "missing", "1")]);
    let (answers, with) =
        plan_all(&[commit(vec![put("c", "k", "x")]), bad, commit(vec![put("c", "l", "x")])]);
    assert!(matches!(answers[1], Err(Refusal::ReorderOfMissing { index: 1 })));
    let good = [commit(vec![put("c", "k", "x")]), commit(vec![put("c", "l", "x")])];
    let (_, without) = plan_all(&good);
    assert_eq!(with.moved, without.moved);
    assert_eq!(with.undo, without.undo);
}

#[test]
fn preconditions_judge_the_state_before() {
    let first = commit(vec![put("c", "k", "x")]);
    let any = |condition| only_if(condition, vec![put("c", "k", "changed")]);
    let fails = [
        Condition::CollectionAbsent,
        Condition::HeadEquals(None, Version::new(2).unwrap()),
        Condition::HeadEquals(Epoch::new(99), Version::new(1).unwrap()),
        Condition::ItemVersionEquals(key("k"), Version::new(2).unwrap()),
        Condition::ItemVersionEquals(key("none"), Version::new(1).unwrap()),
        Condition::ItemAbsent(key("k")),
        Condition::ItemPresent(key("none")),
    ];
    for condition in fails {
        let text = format!("{condition:?}");
        let (answers, _) = plan_all(&[first.clone(), any(condition)]);
        assert!(matches!(answers[1], Err(Refusal::Precondition { index: 0, .. })), "{text}");
    }
    let holds = [
        Condition::HeadEquals(None, Version::new(1).unwrap()),
        Condition::HeadEquals(Epoch::new(7), Version::new(1).unwrap()),
        Condition::ItemVersionEquals(key("k"), Version::new(1).unwrap()),
        Condition::ItemAbsent(key("none")),
        Condition::ItemPresent(key("k")),
    ];
    for condition in holds {
        let text = format!("{condition:?}");
        let (answers, _) = plan_all(&[first.clone(), any(condition)]);
        assert_eq!(versions(&answers[1]), [(1, 2)], "{text}");
    }
    let (answers, _) = plan_all(&[any(Condition::CollectionAbsent)]);
    assert!(answers[0].is_ok());
}

#[test]
fn a_retry_in_the_same_group_gets_the_first_answer() {
    let (answers, planned) = plan_all(&[
        keyed(vec![put("c", "k", "x")], "once", 1),
        commit(vec![put("c", "k", "y")]),
        keyed(vec![put("c", "k", "x")], "once", 1),
        keyed(vec![put("c", "k", "z")], "once", 2),
    ]);
    assert_eq!(versions(&answers[2]), [(0, 1)]);
    assert!(answers[2].as_ref().unwrap().replayed);
    assert!(matches!(answers[3], Err(Refusal::KeyReused)));
    assert_eq!(planned.moved[0].1.head.version.get(), 2, "the retry changed nothing");
    assert_eq!(planned.receipts_added, 1);
}

#[test]
fn an_import_goes_on_where_it_stopped() {
    let import = |sequence, item: &str| Request::Import {
        import_id: "i".to_owned(),
        sequence,
        mutations: vec![put("c", item, "x")],
    };
    let (answers, planned) =
        plan_all(&[import(1, "a"), import(1, "a"), import(3, "c"), import(2, "b")]);
    assert!(!answers[0].as_ref().unwrap().replayed);
    assert!(answers[1].as_ref().unwrap().replayed);
    assert!(matches!(answers[2], Err(Refusal::ImportGap { found: 3, wanted: 2 })));
    assert!(!answers[3].as_ref().unwrap().replayed);
    assert_eq!(planned.moved[0].1.head.items, 2);
}

/// The counters follow inserts, updates, deletes and re-inserts.
#[test]
fn counters_follow_the_items() {
    let (_, planned) = plan_all(&[
        commit(vec![put("c", "a", "12345"), put("c", "b", "1")]),
        commit(vec![put("c", "a", "123"), delete("c", "b")]),
        commit(vec![put("c", "b", "1234")]),
        commit(vec![delete("c", "a"), reorder("c", "b", "9")]),
    ]);
    let head = planned.moved[0].1.head;
    assert_eq!((head.items, head.tombstones), (1, 1));
    assert_eq!(head.bytes, 1 + 4 + 1, "key, value and sort key of b");
    let b = Digest::of_item(
        &key("b"),
        Version::new(4).unwrap(),
        &SortKey::new(b"9".to_vec()).unwrap(),
        b"1234",
    );
    assert_eq!(head.digest, b);
}
