//! Loads, resets, damage, rights.

use super::*;
use crate::store::{Load, Tally};

#[test]
fn t10_a_first_load_resumes_where_it_was_interrupted_and_shows_only_the_whole() {
    let mut talk = Talk::new(&[name()], MemoryStore::new());
    let begins = Cursor { base: version(20), ..cursor(0) };
    let middle = Cursor { base: version(20), ..cursor(8) };
    talk.accept(Plan::Load, Some(head(20)));
    let first = Delta { from: begins, to: middle, initial: true, ..page(0, 8, 20) };
    talk.push(first);
    let standing = talk.store.standing(&name()).unwrap();
    assert_eq!(standing.tally, Tally::default(), "nothing is shown");
    assert_eq!(standing.load.map(|Load { cursor, .. }| cursor), Some(middle));
    assert_eq!(talk.status[&name()], Status::Loading { done: 8, total: 20 });

    let mut talk = Talk::new(&[name()], talk.store);
    assert_eq!(talk.stream.as_ref().unwrap().1.targets[0].cursor, Some(middle));
    talk.accept(Plan::Load, Some(head(20)));
    talk.push(Delta { from: middle, initial: true, ..delta(8, 20) });
    assert_eq!((talk.at(), talk.status[&name()]), (Some(cursor(20)), Status::Live));
    assert_eq!(talk.stats().digest_mismatches, 0);
}

#[test]
fn a_reset_is_followed_by_a_load_by_pull_and_a_new_stream() {
    let mut talk = Talk::live(10);
    let opened = talk.stream.as_ref().unwrap().0;
    talk.event(Event::Reset(name(), reset(ResetReason::EpochChanged)));
    let reason = RepairReason::Reset(ResetReason::EpochChanged);
    assert_eq!(talk.shown(), None, "from scratch");
    assert_eq!(talk.status[&name()], Status::Repairing { reason, how: RepairHow::Load });
    assert_eq!(talk.at(), Some(cursor(10)), "the old copy stays readable");
    let other = |at| Cursor { epoch: Epoch::new(8).unwrap(), ..cursor(at) };
    let from = Cursor { base: version(3), ..other(0) };
    let head = Head { epoch: Epoch::new(8).unwrap(), ..head(3) };
    talk.answer(vec![Outcome::Delta(Delta {
        from,
        to: other(3),
        initial: true,
        head,
        ..delta(0, 3)
    })]);
    assert_eq!(talk.at(), Some(other(3)));
    talk.pass(Duration::from_secs(2));
    let (id, subscribe) = talk.stream.as_ref().unwrap();
    assert!(*id != opened && talk.closed == 1);
    assert_eq!(subscribe.targets[0].cursor, Some(other(3)));
    assert_eq!(talk.stats().repairs[&reason], 1);
}

#[test]
fn a_reset_about_a_place_that_was_left_is_checked_by_a_pull() {
    let mut talk = Talk::live(10);
    let stale = Reset { head: head(10), ..reset(ResetReason::BelowFloor) };
    talk.event(Event::Reset(name(), stale));
    assert_eq!(talk.shown(), Some(cursor(10)));
    assert!(talk.stats().repairs.is_empty());
}

/// An older store was put in place between two pages, with the epoch that it had: the copy stands at
/// the head, but has read from a newer one. What lies between may be in it or not.
#[test]
fn a_server_that_went_back_between_two_pages_is_found_out() {
    let mut talk = Talk::live(10);
    talk.push(page(10, 20, 25));
    assert_ne!(talk.status[&name()], Status::Live);
    // The stream of the older store has nothing newer to say than where the copy stands.
    let position = Position {
        collection: name(),
        cursor: cursor(20),
        digest: Some(digest(20)),
        commit_time: Timestamp::default(),
    };
    talk.event(Event::Bookmark(vec![position], Timestamp::default()));
    assert_eq!(talk.shown(), Some(cursor(20).between_pages(version(20))), "a pull finds out");
    talk.answer(vec![Outcome::Aligned(head(20))]);
    let reason = RepairReason::Reset(ResetReason::AheadOfHead);
    assert_eq!(talk.stats().repairs[&reason], 1);
    assert!(matches!(talk.status[&name()], Status::Repairing { reason: why, .. } if why == reason));
}

/// G2: a load that was pushed long ago, and shows less than readers have seen, is no repair. An
/// answer to a pull that shows less proves that the server went back, and the next one is taken.
#[test]
fn a_load_of_an_older_state_is_not_shown() {
    let mut talk = Talk::live(10);
    talk.push(Delta { digest: Some(Digest::from_be_bytes([9; 16])), ..delta(10, 12) });
    assert_eq!(talk.shown(), None, "it is loaded anew");
    let older = |to| {
        let from = Cursor { base: version(to), ..cursor(0) };
        Delta { from, initial: true, ..delta(0, to) }
    };
    talk.push(older(11));
    assert_eq!(talk.at(), Some(cursor(12)), "what readers see did not go back");
    talk.answer(vec![Outcome::Delta(older(11))]);
    assert_eq!(talk.at(), Some(cursor(12)));
    let reason = RepairReason::Reset(ResetReason::AheadOfHead);
    assert_eq!(talk.stats().repairs[&reason], 1);
    while talk.pulls.is_empty() {
        talk.pass(Duration::from_secs(1));
    }
    talk.answer(vec![Outcome::Delta(older(11))]);
    assert_eq!(talk.at(), Some(cursor(11)), "the server has nothing newer");
}

#[test]
fn x1_a_digest_that_differs_is_repaired_once_at_once_and_then_ever_more_slowly() {
    let mut talk = Talk::live(10);
    let wrong = || Some(Digest::from_be_bytes([9; 16]));
    talk.push(Delta { digest: wrong(), ..delta(10, 11) });
    assert_eq!(talk.shown(), None, "the first repair does not wait");
    let mut waited = Duration::ZERO;
    for _ in 0..12 {
        let from = Cursor { base: version(11), ..cursor(0) };
        let load = Delta { from, initial: true, digest: wrong(), ..delta(0, 11) };
        talk.answer(vec![Outcome::Delta(load)]);
        let before = talk.now;
        while talk.pulls.is_empty() {
            let status = talk.status[&name()];
            assert!(matches!(status, Status::BackingOff { .. } | Status::Stuck { .. }));
            talk.pass(Duration::from_secs(1));
        }
        waited += talk.now - before;
    }
    assert_eq!((talk.stats().digest_mismatches, talk.stats().stuck), (13, 1));
    assert!(waited > Duration::from_secs(90 * 60), "the loop is broken: {waited:?}");
    let reason = RepairReason::DigestMismatch;
    assert_eq!(talk.status[&name()], Status::Repairing { reason, how: RepairHow::Load });
    let from = Cursor { base: version(11), ..cursor(0) };
    talk.answer(vec![Outcome::Delta(Delta { from, initial: true, ..delta(0, 11) })]);
    assert!(talk.session.is_settled() && talk.session.tracks[&name()].repair.is_none());
}

#[test]
fn an_absent_collection_empties_the_copy_and_loads_when_it_is_created() {
    let mut talk = Talk::live(10);
    talk.event(Event::Absent(name()));
    assert_eq!((talk.at(), talk.status[&name()]), (None, Status::Absent));
    let from = Cursor { base: version(2), ..cursor(0) };
    talk.push(Delta { from, initial: true, ..delta(0, 2) });
    assert_eq!((talk.at(), talk.status[&name()]), (Some(cursor(2)), Status::Live));
    assert!(talk.pulls.is_empty());
}

/// The stream says late that a life of the collection has ended, of which the copy is not.
#[test]
fn a_late_absent_does_not_empty_a_copy_of_a_newer_life() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 12));
    talk.pass(60 * MS);
    talk.answer(vec![Outcome::Reset(reset(ResetReason::EpochChanged))]);
    let other = |at| Cursor { epoch: Epoch::new(8).unwrap(), ..cursor(at) };
    let head = Head { epoch: Epoch::new(8).unwrap(), ..head(3) };
    let from = Cursor { base: version(3), ..other(0) };
    let load = Delta { from, to: other(3), initial: true, head, has_more: false, ..delta(0, 3) };
    // Its digest is sent later: until then the stream of the old life is not left.
    let page = Delta {
        to: Cursor { base: version(3), ..other(2) },
        has_more: true,
        digest: None,
        changes: (1..=2).map(item).collect(),
        ..load.clone()
    };
    talk.answer(vec![Outcome::Delta(page)]);
    talk.event(Event::Absent(name()));
    assert!(talk.store.standing(&name()).unwrap().load.is_some(), "the load goes on");
    talk.answer(vec![Outcome::Delta(Delta {
        from: Cursor { base: version(3), ..other(2) },
        changes: vec![item(3)],
        ..load
    })]);
    assert_eq!(talk.at(), Some(other(3)));
}

#[test]
fn t20_a_revoked_collection_takes_nothing_more() {
    let mut talk = Talk::live(10);
    talk.event(Event::Revoked(name()));
    talk.push(delta(10, 11));
    assert_eq!((talk.at(), talk.status[&name()]), (Some(cursor(10)), Status::Denied));
    talk.pass(Duration::from_secs(8 * 60));
    assert_eq!(talk.shown(), Some(cursor(10)), "asked again now and then");
}

#[test]
fn x5_a_copy_that_somebody_else_moved_is_read_again() {
    let mut talk = Talk::live(10);
    let delta_11 = delta(10, 11);
    let step = Step::Page { changes: delta_11.changes.clone(), to: delta_11.to };
    talk.store.write(&name(), &Write { expected: Some(cursor(10)), step }).unwrap();
    talk.push(delta(10, 12));
    assert_eq!((talk.at(), talk.stats().conflicts), (Some(cursor(11)), 1));
    assert_eq!(talk.shown(), Some(cursor(11)));
    talk.answer(vec![Outcome::Delta(delta(11, 12))]);
    assert_eq!((talk.at(), talk.stats().digest_mismatches), (Some(cursor(12)), 0));
}

#[test]
fn a_value_that_is_left_out_but_not_there_is_pulled_then_loaded() {
    let mut talk = Talk::live(10);
    let kind =
        ChangeKind::Put { value: None, sort_key: SortKey::default(), value_version: version(4) };
    let moved = Change { key: Key::new("not there").unwrap(), kind, ..item(11) };
    let broken = || Delta { changes: vec![moved.clone()], digest: None, ..delta(10, 11) };
    talk.push(broken());
    assert_eq!(talk.shown(), Some(cursor(10)), "a push may build on one that was lost");
    talk.answer(vec![Outcome::Delta(broken())]);
    assert_eq!(talk.shown(), None, "a pull builds on this very copy: it is damaged");
    assert_eq!(talk.stats().repairs[&RepairReason::LocalDamage], 1);
}
