//! What a call answers whose budget of work is spent; all else is tested over the wire.

use sync_proto::types::{
    Commit, Cursor, Epoch, Key, Mutation, Op, ResetReason, Scope, Timestamp, Value, Version,
};

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::Settings;
use crate::store::memory::MemoryStore;

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

/// A collection `list` of a hundred items, one a version: 60 of them begin with `other`, then 40
/// with `mine`.
fn ledger() -> Ledger<MemoryStore> {
    let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {}).unwrap();
    for number in 0..100 {
        let of = if number < 60 { "other" } else { "mine" };
        let op = Op::Put {
            key: Key::new(format!("{of} {number}")).unwrap(),
            value: Value::new("v").unwrap(),
            sort_key: None,
        };
        let mutations = vec![Mutation { collection: name("list"), op }];
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let mut epochs = || Epoch::new(7).unwrap();
        ledger.commit(&[request], Timestamp::from_millis(1), &mut epochs).unwrap();
    }
    ledger
}

/// A cursor of `list`.
fn at(version: u64) -> Cursor {
    Cursor::at(Epoch::new(7).unwrap(), Version::new(version).unwrap())
}

fn target(collection: &str, cursor: Option<Cursor>) -> Target {
    Target::all(name(collection), cursor)
}

/// R13: when the work of a reply is spent, only those are deferred that need some; whoever has a
/// simpler answer gets it.
#[test]
fn whoever_needs_no_work_is_answered_when_it_is_spent() {
    // Looks so short that the log costs 20 of them, and the index, with 40 keys, is no way.
    let look = LookLimits { rows_max: 4, trial_rows: 2, ..LookLimits::FULL };
    let far_behind = Scope::KeyPrefix(Bytes::from_static(b"mine"));
    let of_another_epoch = Cursor { epoch: Epoch::new(8).unwrap(), ..at(1) };
    let targets = vec![
        Ok(Target { scope: far_behind, ..target("list", None) }),
        Err(Malformed::new("targets[1].collection", "is empty")),
        Ok(target("secret", None)),
        Ok(Target { from_last_ack: true, ..target("list", None) }),
        Ok(target("none", None)),
        Ok(target("list", Some(of_another_epoch))),
        Ok(target("list", Some(at(101)))),
        Ok(target("list", Some(at(100)))),
        Ok(target("list", Some(at(99)))),
    ];
    let pull = Pull { targets, bytes_max: 1 << 20, changes_max: 100, client_id: String::new() };
    let may_read = |name: &CollectionName| name.as_str() != "secret";
    let effort = Effort { looks: 0, look };
    let answers = ledger().pull_within(effort, &pull, 0, may_read, &AtomicBool::new(false));
    let told: Vec<_> = answers
        .iter()
        .map(|answer| match &answer.outcome {
            Ok(Outcome::Delta(delta)) if !delta.changes.is_empty() => "delta",
            Ok(Outcome::Delta(_)) => "empty delta",
            Ok(Outcome::Denied) => "denied",
            Ok(Outcome::NotFound) => "not found",
            Ok(Outcome::Reset(reset)) => match reset.reason {
                ResetReason::EpochChanged => "epoch",
                ResetReason::AheadOfHead => "ahead",
                ResetReason::BelowFloor | ResetReason::TooLarge | ResetReason::Forced => "reset",
            },
            Ok(Outcome::Aligned(_)) => "aligned",
            Ok(Outcome::Deferred(Some(head))) if head.items == 100 => "deferred",
            Ok(Outcome::Deferred(_) | Outcome::Failed(_)) => "something else",
            Err(TargetError::Malformed(_)) => "malformed",
            Err(TargetError::Store(_)) => "storage",
        })
        .collect();
    let wanted = [
        "delta",
        "malformed",
        "denied",
        "deferred",
        "not found",
        "epoch",
        "ahead",
        "aligned",
        "deferred",
    ];
    assert_eq!(told, wanted);
}
