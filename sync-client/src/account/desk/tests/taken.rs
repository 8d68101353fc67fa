//! Whose turn it is, what becomes of failures, and what the list shows.

use super::*;

fn poison() -> Outcome {
    let failure = Failure { code: 13, message: "poison".into(), retry_after: None, reason: None };
    Outcome::Failed(failure)
}

/// Thousands of collections are caught up in few pulls, of which a bounded number is under way,
/// and one place is kept for what somebody looks at.
#[test]
fn thousands_go_into_few_pulls_and_what_is_looked_at_goes_first() {
    let mut talk = Talk::new();
    let all: Vec<_> = (0..3_000).map(|number| (number, Some(exists(4)))).collect();
    talk.told(&all);
    assert_eq!(talk.list.len(), 3_000);
    talk.pass(GATHER * 2);
    assert_eq!(talk.pulls.len(), 7, "the eighth is for who looks");
    assert!(talk.pulls.iter().all(|(_, names)| names.len() == 256));

    talk.input(Input::LookAt(vec![name(2_990), name(9_999)]));
    assert_eq!(talk.pulls.len(), 8);
    assert_eq!(talk.pulls[7].1, [name(2_990)], "alone, and at once");
    let mut pulls = 0;
    while !talk.pulls.is_empty() {
        talk.answer(|_| empty(0, 4));
        talk.pass(MS);
        assert!(talk.pulls.len() <= 8);
        pulls += 1;
    }
    assert_eq!(pulls, 3_000 / 256 + 2);
    assert!((0..3_000).all(|number| talk.state(number) == FollowState::Current));
    assert_eq!(talk.desk.summary().pending, 0);
    assert_eq!(talk.desk.session.fortune(&name(1), talk.now), None, "no track is kept");
    talk.pass(Duration::from_secs(2));
    let streamed = talk.stream.unwrap().1.targets;
    assert_eq!(streamed.len(), 2, "the inbox and what is looked at");
}

/// A poison collection keeps nobody waiting, is tried again later and later, also by the next
/// life, and shows why it fails.
#[test]
fn a_poison_collection_keeps_nobody_waiting_and_its_waits_outlive_the_process() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4))), (2, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|of| if *of == name(1) { poison() } else { empty(0, 4) });
    assert_eq!(talk.state(2), FollowState::Current);
    for attempt in 1..=4 {
        let FollowState::Failed { attempts, error, .. } = talk.state(1) else { panic!() };
        assert_eq!((attempts, error.as_str()), (attempt, "poison (code 13)"));
        while talk.pulls.is_empty() {
            talk.pass(MS * 100);
        }
        talk.answer(|_| poison());
    }
    // It moves meanwhile: that is no reason to hurry.
    talk.told(&[(1, Some(exists(5)))]);
    talk.pass(MS * 100);
    assert!(talk.pulls.is_empty());

    let clock_ms = talk.desk.clock.ms(talk.now);
    let mut next = Talk::on(talk.store.clone(), talk.now, clock_ms);
    let shown: Vec<_> = next.desk.followed().collect();
    let FollowState::Failed { attempts: 5, error, .. } = &shown[0].state else {
        panic!("{shown:?}")
    };
    assert_eq!(error, "poison (code 13)");
    next.pass(Duration::from_secs(5));
    assert!(next.pulls.is_empty(), "not before");
    next.pass(Duration::from_secs(30));
    assert_eq!(next.pulls.len(), 1, "tried again when its time has come");
    next.answer(|_| empty(0, 5));
    assert_eq!(next.state(1), FollowState::Current);
}

/// What the stream has brought already is not pulled again.
#[test]
fn what_is_covered_is_not_asked_for() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(0, 6));
    talk.told(&[(1, Some(exists(5)))]);
    talk.noticed(1, 6);
    talk.pass(GATHER * 2);
    assert!(talk.pulls.is_empty());
    assert_eq!(talk.state(1), FollowState::Current);
    talk.noticed(1, 7);
    talk.noticed(77, 7);
    talk.pass(GATHER * 2);
    assert_eq!(talk.answer(|_| empty(6, 7)), [name(1)], "what is not followed is not asked for");
}

/// A head behind the copy is late, or the server is an older one now: one pull tells, and what was
/// known before is then no reason to overhear the next head (G2).
#[test]
fn a_head_behind_the_copy_is_asked_for_once() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(0, 6));
    talk.noticed(1, 5);
    talk.pass(GATHER * 2);
    assert_eq!(talk.answer(|_| Outcome::Aligned(head(6, Digest::EMPTY))), [name(1)]);
    talk.pass(GATHER * 2);
    assert!(talk.pulls.is_empty(), "it was late");
    assert_eq!(talk.state(1), FollowState::Current);
}

/// A server that has gone back tells nothing of what stands where its inbox says. Whoever it did not
/// tell of, and stands elsewhere, is asked for (G1).
#[test]
fn who_is_not_told_of_stands_where_the_inbox_says() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(0, 4));
    talk.noticed(1, 7);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(4, 7));
    let told = vec![PolledHead { collection: name(1), entry: exists(7) }];
    talk.input(Input::Polled(Polled { heads: told, more: false }));
    talk.pass(GATHER * 2);
    assert!(talk.pulls.is_empty(), "it was told of");
    talk.input(Input::Polled(Polled { heads: Vec::new(), more: true }));
    talk.pass(GATHER * 2);
    assert!(talk.pulls.is_empty(), "there is more to be told");
    talk.input(Input::Polled(Polled { heads: Vec::new(), more: false }));
    talk.pass(GATHER * 2);
    assert_eq!(talk.answer(|_| Outcome::Aligned(head(7, Digest::EMPTY))), [name(1)]);
    assert_eq!(talk.state(1), FollowState::Current);
}

/// Something was told while a pull was under way that read before it: it is pulled again.
#[test]
fn what_was_told_during_a_pull_is_not_taken_for_done() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.told(&[(1, Some(exists(5)))]);
    let other_life = InboxEntry::Exists(Epoch::new(9).unwrap(), version(1));
    talk.answer(|_| empty(0, 4));
    assert_eq!(talk.state(1), FollowState::CatchingUp);
    talk.told(&[(1, Some(other_life))]);
    talk.answer(|_| empty(4, 5));
    assert_eq!(talk.state(1), FollowState::CatchingUp, "told after the pull was sent");
    talk.answer(|_| empty(5, 6));
    assert_eq!(talk.state(1), FollowState::Current, "the server's word is newer");
}

/// Heads that do not fit one answer are asked for behind the last name, until there are no more.
#[test]
fn polled_heads_are_read_to_their_end() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(InboxEntry::Absent)), (2, Some(InboxEntry::Absent))]);
    talk.polls.clear();
    let one = |number, more| Polled {
        heads: vec![PolledHead { collection: name(number), entry: exists(3) }],
        more,
    };
    talk.input(Input::Polled(one(1, true)));
    let (id, after) = talk.polls.remove(0);
    assert_eq!(after, Some(name(1)));
    talk.input(Input::PolledOn(id, Err(Fault::Passing)));
    talk.pass(Duration::from_secs(1));
    let (id, after) = talk.polls.remove(0);
    assert_eq!(after, Some(name(1)), "asked again");
    talk.input(Input::PolledOn(id, Ok(Polled { heads: Vec::new(), more: true })));
    talk.pass(Duration::from_secs(1));
    let (id, after) = talk.polls.remove(0);
    assert_eq!(after, Some(name(1)), "no room for any");
    talk.input(Input::PolledOn(id, Ok(one(2, false))));
    talk.pass(GATHER * 2);
    assert!(talk.polls.is_empty());
    let asked: usize = talk.pulls.iter().map(|(_, names)| names.len()).sum();
    assert_eq!(asked, 2);
}

/// G9, X6: copies that nobody looks at are checked in turn, and a damaged one is put right.
#[test]
fn copies_at_rest_are_checked_in_turn_and_put_right() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4))), (2, Some(exists(4))), (3, Some(InboxEntry::Absent))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(0, 4));
    let day = talk.now + Duration::from_secs(26 * 60 * 60);
    while talk.now < day {
        talk.pass(Duration::from_secs(60));
        talk.pulls.clear();
    }
    assert!(talk.checks.contains(&name(1)) && talk.checks.contains(&name(2)));
    assert!(!talk.checks.contains(&name(3)), "there is no copy");

    let mut talk = Talk::on(talk.store.clone(), talk.now, 0);
    talk.input(Input::Session(session::Input::SelfChecked(name(1), false)));
    assert_eq!(talk.desk.stats().failures, 0);
    assert_eq!(talk.answer(|_| empty(0, 4)), [name(1)]);
    assert_eq!(talk.state(1), FollowState::Current);
    assert!(talk.pulls.is_empty());
}

/// A device that comes back asks for the heads that no inbox announces, after each stream that is
/// opened, and does not call itself settled before it has heard of them.
#[test]
fn a_device_that_comes_back_is_not_settled_before_it_has_asked_for_heads() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(0, 4));
    assert_eq!(talk.desk.summary().pending, 0);
    assert!(!talk.desk.summary().is_settled(), "it has not heard");
    let (id, after) = talk.polls.remove(0);
    assert_eq!(after, None);
    let heads = vec![PolledHead { collection: name(1), entry: exists(5) }];
    let heads = Polled { heads, more: false };
    talk.input(Input::PolledOn(id, Ok(heads.clone())));
    assert!(!talk.desk.summary().is_settled(), "there is something to do");
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(4, 5));
    assert!(talk.desk.summary().is_settled() && talk.polls.is_empty());

    let ended = session::Input::StreamEnded(talk.stream.as_ref().unwrap().0, Fault::Passing);
    talk.input(Input::Session(ended));
    talk.pass(Duration::from_secs(1));
    talk.pulls.clear();
    let head = Some(head(talk.head, talk.digest));
    let target = AcceptedTarget { collection: talk.inbox(), plan: Plan::Live, head };
    talk.event(Event::Accepted(vec![target], Duration::from_secs(15)));
    assert!(!talk.desk.summary().is_settled(), "it may have missed something");
    let (id, _) = talk.polls.remove(0);
    talk.input(Input::PolledOn(id, Ok(heads)));
    assert!(talk.desk.summary().is_settled(), "{:?}", talk.desk.summary());
}

/// What failed is tried at once when somebody looks at it, once each time.
#[test]
fn what_failed_is_tried_at_once_when_it_is_looked_at() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| poison());
    assert!(matches!(talk.state(1), FollowState::Failed { attempts: 1, .. }));
    talk.input(Input::LookAt(vec![name(1)]));
    assert_eq!(talk.answer(|_| poison()), [name(1)]);
    assert!(matches!(talk.state(1), FollowState::Failed { attempts: 2, .. }));
    talk.pass(MS * 100);
    assert!(talk.pulls.is_empty(), "once");
    talk.input(Input::LookAt(vec![name(1)]));
    talk.answer(|_| empty(0, 4));
    assert_eq!(talk.state(1), FollowState::Current);
}

/// R124: what is not readable is not asked for because its head is told once more, only when it
/// moves.
#[test]
fn a_denied_collection_is_asked_for_when_it_moves() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| Outcome::Denied);
    talk.noticed(1, 4);
    talk.pass(GATHER * 2);
    assert!(talk.pulls.is_empty(), "it has not moved");
    talk.noticed(1, 5);
    talk.pass(GATHER * 2);
    assert_eq!(talk.answer(|_| Outcome::Denied), [name(1)]);
    assert_eq!(talk.state(1), FollowState::Denied);
}
