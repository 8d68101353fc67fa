//! Pulls and streams that fail.

use super::*;

#[test]
fn t18_of_a_batch_each_goes_its_own_way() {
    let names: Vec<CollectionName> =
        (0..300).map(|n| CollectionName::new(&format!("c/{n:03}")).unwrap()).collect();
    let mut talk = Talk::new(&names, MemoryStore::new());
    let id = talk.stream.as_ref().unwrap().0;
    let failed = |name: &CollectionName| {
        let failure =
            Failure { code: 14, message: String::new(), retry_after: Some(MS), reason: None };
        Event::Failed(name.clone(), failure)
    };
    for name in &names {
        talk.input(Input::Event(id, failed(name)));
    }
    talk.pass(Duration::from_secs(1));
    let mut outcomes = BTreeMap::new();
    let mut asked = 0;
    while asked < 600 && outcomes.len() < 298 {
        talk.pass(100 * MS);
        for (id, pull) in std::mem::take(&mut talk.pulls) {
            assert!(pull.targets.len() <= 256);
            asked += pull.targets.len();
            let answers = pull.targets.iter().map(|target| {
                let name = target.as_ref().unwrap().collection.clone();
                let seen: &mut u32 = outcomes.entry(name.clone()).or_default();
                *seen += 1;
                match name.as_str() {
                    "c/000" => Outcome::Denied,
                    "c/001" => Outcome::NotFound,
                    "c/002" => Outcome::Failed(Failure {
                        code: 13,
                        message: String::new(),
                        retry_after: None,
                        reason: None,
                    }),
                    _ if *seen == 1 => Outcome::Deferred(None),
                    _ => {
                        let from = Cursor { base: version(3), ..cursor(0) };
                        Outcome::Delta(Delta { from, initial: true, ..delta(0, 3) })
                    }
                }
            });
            let answers = answers.collect();
            talk.input(Input::Pulled(id, Ok(answers)));
        }
    }
    talk.pass(500 * MS);
    for (id, pull) in std::mem::take(&mut talk.pulls) {
        let from = Cursor { base: version(3), ..cursor(0) };
        let load = || Outcome::Delta(Delta { from, initial: true, ..delta(0, 3) });
        talk.input(Input::Pulled(id, Ok(pull.targets.iter().map(|_| load()).collect())));
    }
    let at = |n: usize| talk.store.standing(&names[n]).unwrap().cursor;
    assert!((3..300).all(|n| at(n) == Some(cursor(3))), "the deferred ones finish");
    assert_eq!(talk.status[&names[0]], Status::Denied);
    assert!(matches!(talk.status[&names[2]], Status::BackingOff { .. }), "it fails alone");
}

#[test]
fn a_pull_that_is_refused_as_a_whole_is_taken_apart() {
    let names = [CollectionName::new("a").unwrap(), CollectionName::new("b").unwrap()];
    let mut talk = Talk::new(&names, MemoryStore::new());
    let id = talk.stream.as_ref().unwrap().0;
    for name in &names {
        let failure =
            Failure { code: 13, message: String::new(), retry_after: Some(MS), reason: None };
        talk.input(Input::Event(id, Event::Failed(name.clone(), failure)));
    }
    while talk.pulls.first().is_none_or(|(_, pull)| pull.targets.len() < 2) {
        talk.pulls.clear();
        let id = PullId(talk.session.stats().pulls.saturating_sub(1));
        talk.input(Input::Pulled(id, Err(Fault::Passing)));
        talk.pass(100 * MS);
    }
    let (id, _) = talk.pulls.remove(0);
    talk.input(Input::Pulled(id, Err(Fault::Refused)));
    talk.pass(Duration::from_secs(31));
    assert_eq!(talk.pulls.iter().map(|(_, pull)| pull.targets.len()).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn the_back_off_begins_anew_only_when_something_has_moved() {
    let mut talk = Talk::live(10);
    for _ in 0..10 {
        let id = talk.stream.as_ref().unwrap().0;
        talk.input(Input::StreamEnded(id, Fault::Passing));
        assert!(matches!(talk.status[&name()], Status::BackingOff { .. }));
        talk.pass(Duration::from_secs(31));
        // Without a stream the copy is pulled now and then.
        while !talk.pulls.is_empty() {
            talk.answer(vec![Outcome::Aligned(head(10))]);
        }
        talk.accept(Plan::Live, Some(head(10)));
    }
    assert!(talk.session.line.attempts() >= 10, "being accepted is no progress");
    talk.push(delta(9, 10));
    assert!(talk.session.line.attempts() >= 10, "nor is what the copy has already");
    talk.push(delta(10, 11));
    assert_eq!(talk.session.line.attempts(), 0);
}

#[test]
fn streams_in_vain_do_not_make_pulls_in_vain_more_frequent() {
    let mut talk = Talk::live(10);
    let mut rested = None;
    for _ in 0..200 {
        let opened = talk.stream.take();
        if let Some((id, _)) = opened {
            talk.input(Input::StreamEnded(id, Fault::Passing));
        }
        while let Some((id, _)) = talk.pulls.pop() {
            assert!(rested.is_none_or(|until| until <= talk.now), "sooner than it was to wait");
            talk.input(Input::Pulled(id, Err(Fault::Passing)));
            rested = talk.session.tracks[&name()].pulls_rest_until;
        }
        let next = talk.session.deadline();
        talk.pass(next - talk.now + MS);
    }
    assert!(talk.stats().pull_failures >= 20, "pulls are tried, too");
}

#[test]
fn a_goodbye_is_obeyed() {
    let mut talk = Talk::live(10);
    let opened = talk.stream.as_ref().unwrap().0;
    talk.event(Event::Goodbye(Goodbye {
        reason: GoodbyeReason::Draining,
        retry_after: Duration::from_secs(7),
        jitter: Duration::from_secs(3),
    }));
    talk.pass(Duration::from_millis(6_990));
    assert_eq!(talk.stream.as_ref().unwrap().0, opened);
    talk.pass(Duration::from_secs(4));
    assert_ne!(talk.stream.as_ref().unwrap().0, opened);
    assert_eq!(talk.stats().stream_failures, 0);
}

#[test]
fn x2_a_safety_pull_finds_what_no_push_told() {
    let mut talk = Talk::live(10);
    for _ in 0..120 {
        talk.pass(Duration::from_secs(14));
        talk.event(Event::Bookmark(Vec::new(), Timestamp::default()));
        if !talk.pulls.is_empty() {
            break;
        }
    }
    talk.answer(vec![Outcome::Delta(delta(10, 15))]);
    assert_eq!((talk.at(), talk.stats().gaps), (Some(cursor(15)), 0));
}

/// X2: a catch-up whose pages a stream has lost goes on by the pull for safety, to its end (seed 8958
/// of an earlier simulation).
#[test]
fn a_catch_up_that_its_stream_lost_is_pulled_to_the_end() {
    let mut talk = Talk::new(&[name()], store_at(10));
    talk.accept(Plan::CatchUp, Some(head(62)));
    while talk.pulls.is_empty() {
        talk.pass(Duration::from_secs(14));
        talk.event(Event::Bookmark(Vec::new(), Timestamp::default()));
    }
    for at in [10, 12, 14] {
        talk.answer(vec![Outcome::Delta(page(at, at + 2, 62))]);
        assert_eq!(talk.pulls.len(), 1, "the stream is not waited for once more");
    }
    talk.answer(vec![Outcome::Delta(delta(16, 62))]);
    assert_eq!((talk.at(), &talk.status[&name()]), (Some(cursor(62)), &Status::Live));
}

#[test]
fn copies_are_checked_soon_and_then_every_half_a_day_to_a_day_and_a_half() {
    let mut talk = Talk::live(10);
    for hours in [0..=1, 12..=36] {
        let begun = talk.now;
        talk.checks = 0;
        while talk.checks == 0 {
            talk.event(Event::Bookmark(Vec::new(), Timestamp::default()));
            talk.pass(Duration::from_secs(40));
            while !talk.pulls.is_empty() {
                talk.answer(vec![Outcome::Aligned(head(10))]);
            }
        }
        let waited = (talk.now - begun).as_secs() / 3_600;
        assert!(hours.contains(&waited), "{waited}");
    }
    talk.input(Input::SelfChecked(name(), true));
    assert!(talk.stats().repairs.is_empty());
    talk.input(Input::SelfChecked(name(), false));
    assert_eq!(talk.stats().repairs[&RepairReason::LocalDamage], 1);
    assert_eq!(talk.shown(), None);
}

#[test]
fn x15_a_silent_stream_is_given_up_after_three_heartbeats() {
    let mut talk = Talk::live(10);
    let opened = talk.stream.as_ref().unwrap().0;
    talk.pass(Duration::from_secs(44));
    assert_eq!(talk.closed, 0);
    talk.pass(Duration::from_secs(2));
    let (id, subscribe) = talk.stream.as_ref().unwrap();
    assert!(talk.closed == 1 && *id != opened);
    assert_eq!(subscribe.targets[0].cursor, Some(cursor(10)));
    talk.input(Input::Event(opened, Event::Changes(name(), delta(10, 11))));
    assert_eq!(talk.at(), Some(cursor(10)), "the old stream counts no more");
}

/// Fails both collections on the stream, so that one pull asks for both; `answer` is its fate.
fn both_in_one_pull(answer: Fault) -> Talk {
    let names = [CollectionName::new("a").unwrap(), CollectionName::new("b").unwrap()];
    let mut talk = Talk::new(&names, MemoryStore::new());
    let id = talk.stream.as_ref().unwrap().0;
    talk.input(Input::StreamEnded(id, Fault::Passing));
    while talk.pulls.first().is_none_or(|(_, pull)| pull.targets.len() < 2) {
        for (id, _) in std::mem::take(&mut talk.pulls) {
            talk.input(Input::Pulled(id, Err(Fault::Passing)));
        }
        talk.pass(100 * MS);
    }
    let (id, _) = talk.pulls.remove(0);
    talk.input(Input::Pulled(id, Err(answer)));
    talk
}

#[test]
fn a_fault_of_everybody_makes_nobody_pull_alone() {
    let mut talk = both_in_one_pull(Fault::Lasting);
    talk.pass(4_900 * MS);
    assert!(talk.pulls.is_empty(), "all pulls wait for the same cause to pass");
    assert!(talk.session.tracks.values().all(|track| !track.solo));
    assert_eq!(talk.stats().target_failures, 0);
}

/// A token that is wrong looks like a server that is down, unless somebody says so.
#[test]
fn credentials_that_are_not_known_are_shown() {
    let mut talk = Talk::live(3);
    let id = talk.stream.as_ref().unwrap().0;
    talk.input(Input::StreamEnded(id, Fault::Unauthenticated));
    assert_eq!(talk.status[&name()], Status::Denied);
    let mut talk = both_in_one_pull(Fault::Unauthenticated);
    assert!(talk.status.values().all(|status| *status == Status::Denied), "{:?}", talk.status);
    talk.pass(4_900 * MS);
    assert!(talk.pulls.is_empty(), "it is not asked again at once");
}

#[test]
fn a_load_goes_on_by_pull_when_the_stream_does_not_open() {
    let mut talk = Talk::new(&[name()], MemoryStore::new());
    let opened = talk.stream.as_ref().unwrap().0;
    talk.input(Input::StreamEnded(opened, Fault::Passing));
    let begins = Cursor { base: version(20), ..cursor(0) };
    let middle = Cursor { base: version(20), ..cursor(8) };
    let first = Delta { from: begins, to: middle, initial: true, ..page(0, 8, 20) };
    talk.now += 300 * MS;
    talk.input(Input::Elapsed);
    assert_ne!(talk.stream.as_ref().unwrap().0, opened, "opening again");
    talk.answer(vec![Outcome::Delta(first)]);
    assert!(talk.pulls.is_empty(), "the stream is to bring the rest");
    let opening = talk.stream.as_ref().unwrap().0;
    talk.input(Input::StreamEnded(opening, Fault::Passing));
    assert_eq!(talk.shown(), Some(middle), "it did not");
}

#[test]
fn what_waits_behind_a_long_sleep_keeps_the_stream_alive() {
    let mut talk = Talk::live(10);
    talk.now += Duration::from_secs(600);
    talk.push(delta(10, 11));
    talk.input(Input::Elapsed);
    assert_eq!((talk.closed, talk.at()), (0, Some(cursor(11))));
    talk.now += Duration::from_secs(600);
    talk.input(Input::SelfChecked(name(), true));
    assert_eq!(talk.closed, 0, "a message may wait");
    talk.input(Input::Elapsed);
    assert_eq!(talk.closed, 1);
}

#[test]
fn an_answer_to_something_else_is_not_asked_for_again_at_once() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 12));
    talk.pass(60 * MS);
    let foreign = |at| Cursor { epoch: Epoch::new(9).unwrap(), ..cursor(at) };
    let answer = Delta { from: foreign(10), to: foreign(12), ..delta(10, 12) };
    talk.answer(vec![Outcome::Delta(answer)]);
    talk.pass(Duration::from_secs(9));
    assert_eq!((talk.pulls.len(), talk.stats().target_failures), (0, 1));
    talk.pass(Duration::from_secs(2));
    assert_eq!(talk.pulls.len(), 1);
}

#[test]
fn a_deferred_pull_waits_as_long_as_its_collection() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 12));
    talk.pass(60 * MS);
    let failure = Failure {
        code: 14,
        message: String::new(),
        retry_after: Some(Duration::from_secs(30)),
        reason: None,
    };
    talk.event(Event::Failed(name(), failure));
    talk.answer(vec![Outcome::Deferred(None)]);
    talk.pass(Duration::from_secs(20));
    assert!(talk.pulls.is_empty());
}

#[test]
fn settings_and_waits_beyond_reason_do_no_harm() {
    let standings = || BTreeMap::from([(name(), crate::store::Standing::default())]);
    for wait in [Duration::ZERO, Duration::MAX] {
        let config = Config { safety_pull: wait, backoff_longest: wait, ..Config::default() };
        let now = Instant::now();
        let mut session = Session::new(Config { heartbeat: wait, ..config }, standings(), 1, now);
        assert!(session.safety_at > now && session.safety_at < now + Duration::from_secs(200_000));
        let Some(Action::OpenStream(id, _)) = std::iter::from_fn(|| session.poll_action())
            .find(|a| matches!(a, Action::OpenStream(..)))
        else {
            panic!("a stream is opened");
        };
        session.handle(Input::Event(id, Event::Accepted(Vec::new(), wait)), now);
        let failure =
            Failure { code: 14, message: String::new(), retry_after: Some(wait), reason: None };
        session.handle(Input::Event(id, Event::Failed(name(), failure)), now);
        let goodbye = Goodbye { reason: GoodbyeReason::Draining, retry_after: wait, jitter: wait };
        session.handle(Input::Event(id, Event::Goodbye(goodbye)), now);
        assert!(session.line.deadline() <= now + Duration::from_secs(3 * 60 * 60));
    }
}

/// On a slow line a page is progress long before it is a message; what only keeps the line alive
/// is none, and in the end even a line that moves must have brought something.
#[test]
fn a_page_that_takes_long_keeps_its_stream_as_long_as_the_line_moves() {
    let mut talk = Talk::live(10);
    let mut received = 0;
    for _ in 0..15 {
        received += 8_000 * 46;
        talk.now += 46 * 1_000 * MS;
        talk.input(Input::Received(received));
        talk.input(Input::Elapsed);
        talk.pulls.clear();
        assert_eq!(talk.closed, 0, "part of a page has come");
    }
    talk.push(delta(10, 11));
    talk.now += 46 * 1_000 * MS;
    talk.input(Input::Received(received + 500));
    talk.input(Input::Elapsed);
    assert_eq!(talk.closed, 1, "signs of life are no page");

    let mut talk = Talk::live(10);
    for turn in 1..100 {
        talk.now += 46 * 1_000 * MS;
        talk.input(Input::Received(turn * 8_000 * 46));
        talk.input(Input::Elapsed);
        talk.pulls.clear();
        if talk.closed > 0 {
            assert!(turn > 15 && turn < 25, "{turn}");
            return;
        }
    }
    panic!("every wait has an end");
}

#[test]
fn pages_shrink_while_the_line_is_slow_and_grow_again() {
    let mut talk = Talk::live(10);
    let mut asked = Vec::new();
    let mut pull = |talk: &mut Talk, answer: Result<Vec<Outcome>, Fault>, took: Duration| {
        let id = talk.stream.as_ref().unwrap().0;
        talk.input(Input::StreamEnded(id, Fault::Passing));
        while talk.pulls.is_empty() {
            talk.pass(100 * MS);
        }
        let (id, pull) = talk.pulls.remove(0);
        asked.push(pull.bytes_max);
        talk.now += took;
        talk.input(Input::Pulled(id, answer));
        talk.pulls.clear();
        talk.session.pulls.flying.clear();
    };
    let aligned = || Ok(vec![Outcome::Aligned(head(10))]);
    pull(&mut talk, Err(Fault::Slow), Duration::from_secs(10));
    pull(&mut talk, aligned(), Duration::from_secs(6));
    pull(&mut talk, aligned(), Duration::from_secs(3));
    pull(&mut talk, aligned(), Duration::from_millis(100));
    pull(&mut talk, Err(Fault::Passing), Duration::from_millis(100));
    pull(&mut talk, aligned(), Duration::from_millis(100));
    let page = sync_proto::limits::PAGE_BYTES_MAX;
    assert_eq!(asked, [page, page / 2, page / 4, page / 4, page / 2, page / 2]);
}
