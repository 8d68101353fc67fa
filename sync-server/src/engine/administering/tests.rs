//! Policies, purges and epochs over a ledger in memory.

use std::time::Duration;

use sync_proto::types::{Commit, Key, Mutation, Op, SortKey, Timestamp, Value};

use super::*;
use crate::core::plan::Refusal;
use crate::core::request::Request;
use crate::core::retention::Retention;
use crate::engine::ledger::Settings;
use crate::engine::purging::Rest;
use crate::store::memory::{Fault, MemoryStore};

const RETENTION: Retention =
    Retention { tombstone_age_max: Duration::from_secs(60), tombstones_max: 1_000 };

fn open(store: MemoryStore) -> Ledger<MemoryStore> {
    let settings = Settings { retention: RETENTION, ..Settings::default() };
    Ledger::open(store, settings, &mut |_| {}).unwrap()
}

fn list() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

fn try_commit(ledger: &Ledger<MemoryStore>, second: u64, ops: Vec<Op>) -> Result<(), Refusal> {
    let mutations = ops.into_iter().map(|op| Mutation { collection: list(), op }).collect();
    let request =
        Request::Commit { commit: Commit { mutations, ..Commit::default() }, fingerprint: [0; 16] };
    let mut mint = || Epoch::new(7).unwrap();
    let mut group = ledger.commit(&[request], at(second), &mut mint).unwrap();
    group.answers.remove(0).map(|_| ())
}

fn commit(ledger: &Ledger<MemoryStore>, second: u64, ops: Vec<Op>) {
    try_commit(ledger, second, ops).unwrap();
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn put(name: &str, len: usize) -> Op {
    Op::Put { key: key(name), value: Value::new(vec![b'v'; len]).unwrap(), sort_key: None }
}

fn delete(name: &str) -> Op {
    Op::Delete { key: key(name) }
}

fn ask(ledger: &Ledger<MemoryStore>, asked: &Administration) -> Result<Administered, AdminRefusal> {
    let mut mint = || Epoch::new(8).unwrap();
    ledger.administer(&list(), asked, at(0), &mut mint, &mut || true).unwrap()
}

fn set(ledger: &Ledger<MemoryStore>, policy: Policy) {
    ask(ledger, &Administration::SetPolicy(policy.into())).unwrap();
}

fn purge_by_policy(ledger: &Ledger<MemoryStore>, second: u64) {
    while ledger.purge_step(at(second), &mut || true).unwrap() != Rest::Nothing {}
}

fn head(ledger: &Ledger<MemoryStore>) -> Head {
    ledger.head(&list()).unwrap()
}

fn floor(ledger: &Ledger<MemoryStore>) -> u64 {
    head(ledger).floor.get()
}

/// Ten items at second 1, and a delete of one of them at each of the seconds 2 to 11: versions 2
/// to 11.
fn deleted() -> Ledger<MemoryStore> {
    let ledger = open(MemoryStore::new());
    let name = |n: u64| format!("item {n}");
    commit(&ledger, 1, (2..=11).map(|n| put(&name(n), 1)).collect());
    for n in 2..=11 {
        commit(&ledger, n, vec![delete(&name(n))]);
    }
    ledger
}

/// G5: a policy wins over the server's settings, in both directions; what it does not say follows
/// them. It survives a restart and ends with the collection.
#[test]
fn a_policy_wins_over_the_settings() {
    let ledger = deleted();
    purge_by_policy(&ledger, 12);
    assert_eq!(floor(&ledger), 0, "younger than a minute, fewer than a thousand");
    set(&ledger, Policy { tombstones_max: Some(7), ..Policy::default() });
    purge_by_policy(&ledger, 12);
    assert_eq!((floor(&ledger), head(&ledger).tombstones), (4, 7));
    let age = Policy { tombstone_age_max: Some(Duration::from_secs(5)), ..Policy::default() };
    set(&ledger, age);
    let ledger = open(ledger.store().crash());
    purge_by_policy(&ledger, 12);
    assert_eq!(floor(&ledger), 6, "those of second 7 are exactly five seconds old");
    let inspected = ledger.inspect(&list(), at(0)).unwrap().unwrap();
    let both = Policy { tombstones_max: Some(7), ..age };
    assert_eq!((inspected.policy, inspected.oldest_tombstone), (both, Some(at(7))));
    assert_eq!(inspected.effective, Policy { bytes_max: Some(0), ..both });
    set(&ledger, Policy { tombstone_age_max: Some(Duration::from_secs(600)), ..Policy::default() });
    purge_by_policy(&ledger, 100);
    assert_eq!(floor(&ledger), 6, "the settings would have forgotten the rest");
    ledger.delete_collection(&list(), None, at(100)).unwrap().unwrap();
    purge_by_policy(&ledger, 100);
    commit(&ledger, 100, vec![put("again", 1)]);
    let ledger = open(ledger.store().crash());
    assert_eq!(ledger.inspect(&list(), at(0)).unwrap().unwrap().policy, Policy::default());
}

/// G5: a purge forgets exactly the deletes up to a version; the floor is that of the last of them,
/// and moves with them, whatever fails.
#[test]
fn a_purge_is_exact() {
    let ledger = deleted();
    let purge = |up_to| {
        let up_to = Version::new(up_to).unwrap();
        ask(&ledger, &Administration::Purge { up_to, epoch: None })
    };
    let purged = |answer: Result<Administered, AdminRefusal>| {
        let Ok(Administered::Purged { count, head, done: true }) = answer else {
            panic!("{answer:?}")
        };
        (count, head.floor.get(), head.tombstones)
    };
    assert_eq!(purged(purge(1)), (0, 0, 10), "version 1 deleted nothing");
    assert_eq!(purged(purge(5)), (4, 5, 6));
    assert_eq!(purged(purge(5)), (0, 5, 6), "once is enough");
    assert_eq!(purge(12), Err(AdminRefusal::AboveHead(head(&ledger).cursor())));
    let of_another = Administration::Purge { up_to: Version::ZERO, epoch: Epoch::new(9) };
    assert_eq!(ask(&ledger, &of_another), Err(AdminRefusal::OtherEpoch(head(&ledger).cursor())));
    ledger.store().fail_next_sync(Fault::Before);
    let up_to = Version::new(11).unwrap();
    let asked = Administration::Purge { up_to, epoch: None };
    let mut mint = || Epoch::new(8).unwrap();
    ledger.administer(&list(), &asked, at(0), &mut mint, &mut || true).unwrap_err();
    assert_eq!(floor(&ledger), 5, "what is not durable does not show");
    let lost = open(ledger.store().crash());
    assert_eq!((floor(&lost), head(&lost).tombstones), (5, 6));
    let kept = open(ledger.store().crash_keeping(usize::MAX));
    assert_eq!((floor(&kept), head(&kept).tombstones), (11, 0));
}

/// A purge of many deletes is done in steps, as long as it is told to go on.
#[test]
fn a_large_purge_takes_steps() {
    let ledger = open(MemoryStore::new());
    commit(&ledger, 1, (0..500).map(|n| put(&n.to_string(), 0)).collect());
    commit(&ledger, 2, (0..500).map(|n| delete(&n.to_string())).collect());
    let mut asked = Administration::Purge { up_to: Version::new(2).unwrap(), epoch: None };
    let (mut steps, mut purged) = (0, 0);
    loop {
        let mut mint = || unreachable!("nothing is created");
        let answer =
            ledger.administer(&list(), &asked, at(0), &mut mint, &mut || false).unwrap().unwrap();
        let Administered::Purged { count, head, done } = answer else { panic!("{answer:?}") };
        (steps, purged) = (steps + 1, purged + count);
        assert_eq!(head.tombstones, 500 - purged);
        asked = Administration::Purge { up_to: head.version, epoch: Some(head.epoch) };
        if done {
            break;
        }
    }
    assert!(steps > 10, "{steps} steps");
    assert_eq!((purged, floor(&ledger)), (500, 2));
}

/// G2, G3: a new epoch keeps items and versions, and is durable before it shows.
#[test]
fn a_new_epoch_keeps_the_items() {
    let ledger = deleted();
    commit(&ledger, 20, vec![put("kept", 3)]);
    let before = head(&ledger);
    let Ok(Administered::Rotated(after)) = ask(&ledger, &Administration::RotateEpoch) else {
        panic!("an epoch was asked for")
    };
    assert_eq!(after, Head { epoch: Epoch::new(8).unwrap(), ..before });
    assert_eq!(head(&ledger), after);
    assert_eq!(head(&open(ledger.store().crash())), after);
    ledger.store().fail_next_sync(Fault::After);
    let mut mint = || Epoch::new(9).unwrap();
    ledger
        .administer(&list(), &Administration::RotateEpoch, at(0), &mut mint, &mut || true)
        .unwrap_err();
    assert_eq!(head(&ledger), after, "what is perhaps not durable does not show");
}

/// G11: a quota refuses what would make the collection larger than it says, by name, and changes
/// nothing; what makes it smaller passes, also above the quota.
#[test]
fn a_quota_refuses_growth_and_nothing_else() {
    let ledger = open(MemoryStore::new());
    // A key of one byte and a value of 99: a hundred bytes each.
    commit(&ledger, 1, vec![put("a", 99), put("b", 99)]);
    set(&ledger, Policy { bytes_max: Some(250), ..Policy::default() });
    let ledger = open(ledger.store().crash());
    commit(&ledger, 2, vec![put("c", 49)]);
    assert_eq!(head(&ledger).bytes, 250, "exactly the quota");
    let before = head(&ledger);
    let refused = try_commit(&ledger, 3, vec![put("d", 0)]).unwrap_err();
    assert!(matches!(refused, Refusal::OverQuota { bytes: 251, quota: 250, .. }), "{refused}");
    assert_eq!(head(&ledger), before, "nothing has changed");
    commit(&ledger, 3, vec![delete("b"), put("d", 0)]);
    assert_eq!(head(&ledger).bytes, 151);
    set(&ledger, Policy { bytes_max: Some(100), ..Policy::default() });
    commit(&ledger, 4, vec![put("a", 98)]);
    let sort_key = SortKey::new("z").unwrap();
    let grows = vec![Op::Reorder { key: key("a"), sort_key }];
    assert!(matches!(try_commit(&ledger, 5, grows), Err(Refusal::OverQuota { .. })));
    commit(&ledger, 5, vec![put("a", 97), put("d", 1)]);
    assert_eq!(head(&ledger).bytes, 150, "as large as before, above the quota");
    set(&ledger, Policy { bytes_max: Some(0), ..Policy::default() });
    commit(&ledger, 6, vec![put("d", 10_000)]);
    // Of two commits in one group the second is judged after the first.
    set(&ledger, Policy { bytes_max: Some(11_000), ..Policy::default() });
    let request = |name: &str| {
        let mutations = vec![Mutation { collection: list(), op: put(name, 600) }];
        let commit = Commit { mutations, ..Commit::default() };
        Request::Commit { commit, fingerprint: [0; 16] }
    };
    let both = [request("e"), request("f")];
    let group = ledger.commit(&both, at(7), &mut || Epoch::new(7).unwrap()).unwrap();
    let passed: Vec<bool> = group.answers.iter().map(Result::is_ok).collect();
    assert_eq!(passed, [true, false]);
}

/// What does not exist cannot be administered.
#[test]
fn there_is_nothing_to_administer_without_a_collection() {
    let ledger = open(MemoryStore::new());
    assert_eq!(ledger.inspect(&list(), at(0)).unwrap(), None);
    for asked in [
        Administration::SetPolicy(PolicyChange::default()),
        Administration::Purge { up_to: Version::ZERO, epoch: None },
        Administration::RotateEpoch,
    ] {
        assert_eq!(ask(&ledger, &asked), Err(AdminRefusal::NotFound));
    }
}
