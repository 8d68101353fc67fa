//! Pulls and streams that fail.

use super::*;

#[test]
fn t18_of_a_batch_each_goes_its_own_way() {
    let names: Vec<CollectionName> =
        (0..300).map(|n| CollectionName::new(&format!("c/{n:03}")).unwrap()).collect();
    let mut talk = Talk::new(&names, MemoryStore::new());
    let id = talk.stream.as_ref().unwrap().0;
    let failed = |name: &CollectionName| {
        let failure = Failure { code: 14, message: String::new(), retry_after: Some(MS) };
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
        let failure = Failure { code: 13, message: String::new(), retry_after: Some(MS) };
        talk.input(Input::Event(id, Event::Failed(name.clone(), failure)));
    }
    while talk.pulls.first().is_none_or(|(_, pull)| pull.targets.len() < 2) {
        talk.pulls.clear();
        let id = PullId(talk.session.stats().pulls.saturating_sub(1));
        talk.input(Input::Pulled(id, Err(Fault::Passing)));
        talk.pass(100 * MS);
    }
    let (id, _) = talk.pulls.remove(0);
    talk.input(Input::Pulled(id, Err(Fault::Lasting)));
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
    talk.push(delta(10, 11));
    assert_eq!(talk.session.line.attempts(), 0);
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

#[test]
fn copies_are_checked_between_half_a_day_and_a_day_and_a_half() {
    let mut talk = Talk::live(10);
    let begun = talk.now;
    while talk.checks == 0 {
        talk.event(Event::Bookmark(Vec::new(), Timestamp::default()));
        talk.pass(Duration::from_secs(40));
        while !talk.pulls.is_empty() {
            talk.answer(vec![Outcome::Aligned(head(10))]);
        }
    }
    let hours = (talk.now - begun).as_secs() / 3_600;
    assert!((12..=36).contains(&hours), "{hours}");
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
