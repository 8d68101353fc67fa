//! Single scenes: what a row that goes says, what is fetched, what a lost server means.

use std::time::Duration;

use super::*;

/// A window of `rows` over `items` items, come to rest.
fn at_rest(items: usize, rows: usize) -> World {
    let mut world = World::new(1);
    for n in 0..items {
        world.server.put(&key(&format!("{n:02}")), sort_key("m"), "value");
    }
    world.machine =
        Machine::new(config(false), wish(rows, WindowStart::Rank(0), 0..usize::MAX), 1, world.now);
    world.told = None;
    rest(&mut world);
    world
}

fn rest(world: &mut World) {
    world.come_to_rest();
}

fn shown(world: &World) -> Vec<String> {
    let rows = world.machine.view().rows;
    rows.iter().map(|row| String::from_utf8(row.key.as_bytes().to_vec()).unwrap()).collect()
}

/// Everything that is told between now and rest.
fn told_of(world: &mut World, deed: impl FnOnce(&mut Server)) -> Vec<WindowDifference> {
    let before = world.machine.view();
    deed(&mut world.server);
    rest(world);
    let mut told = differences(Some(&before), &world.machine.view());
    told.retain(|difference| !matches!(difference, WindowDifference::Verdict(_)));
    told
}

/// A row that left, one that was pushed out and one that was deleted say so, and what is behind
/// the window moves up.
#[test]
fn a_row_that_goes_says_why() {
    let mut world = at_rest(30, 5);
    let left = told_of(&mut world, |server| server.reorder(&key("01"), sort_key("z")));
    assert!(left.contains(&WindowDifference::Left(key("01"))), "{left:?}");
    assert_eq!(shown(&world), ["00", "02", "03", "04", "05"]);
    let deleted = told_of(&mut world, |server| server.delete(&key("03")));
    assert!(deleted.contains(&WindowDifference::Deleted(key("03"))), "{deleted:?}");
    assert_eq!(shown(&world), ["00", "02", "04", "05", "06"]);
    let pushed = told_of(&mut world, |server| server.put(&key("new"), sort_key("a"), "x"));
    assert!(pushed.contains(&WindowDifference::Left(key("06"))), "{pushed:?}");
    let entered = |difference: &WindowDifference| matches!(difference, WindowDifference::Entered(0, row) if row.key == key("new"));
    assert!(pushed.iter().any(entered), "{pushed:?}");
    assert_eq!(pushed.len(), 2, "nothing else is told: {pushed:?}");
    // Deleted and created anew outside: what was here was deleted or has left, but is not here.
    let anew = told_of(&mut world, |server| {
        server.delete(&key("00"));
        server.put(&key("00"), sort_key("z"), "anew");
    });
    assert!(anew.contains(&WindowDifference::Left(key("00"))), "{anew:?}");
}

/// What went while the server could not say so is not called deleted.
#[test]
fn what_went_in_silence_has_vanished() {
    let mut world = at_rest(30, 5);
    let told = told_of(&mut world, |server| {
        server.delete(&key("02"));
        server.forget_deletes();
    });
    assert!(told.contains(&WindowDifference::Vanished(key("02"))), "{told:?}");
    assert_eq!(shown(&world), ["00", "01", "03", "04", "05"]);
}

/// A storm of moves within the window fetches nothing; a value that changes is fetched once; a
/// window that comes back finds its contents.
#[test]
fn contents_are_fetched_once() {
    let mut world = at_rest(60, 10);
    assert_eq!(world.fetched.len(), 10);
    for n in 0..50 {
        let (item, at) = (format!("{:02}", n % 10), format!("m{:02}", 49 - n));
        world.server.reorder(&key(&item), sort_key(&at));
        world.say();
        world.hear();
    }
    for n in 0..10 {
        world.server.reorder(&key(&format!("{n:02}")), sort_key("m"));
    }
    rest(&mut world);
    let fetched = |world: &World| world.fetched.values().sum::<u32>();
    // Items of the reserve were on screen meanwhile, once each.
    assert!(world.fetched.values().all(|times| *times == 1), "{:?}", world.fetched);
    let before = fetched(&world);
    let there = world.machine.wish.clone();
    let away = Wish { moves: 1, start: WindowStart::Rank(40), ..there.clone() };
    world.handle(Input::Wish(away));
    rest(&mut world);
    assert_eq!(world.machine.view().rank, Some(40));
    assert_eq!(shown(&world)[0], "40");
    world.handle(Input::Wish(Wish { moves: 2, ..there }));
    rest(&mut world);
    assert_eq!(fetched(&world), before + 10, "only those of the other place");
    world.server.put(&key("00"), sort_key("m"), "another");
    rest(&mut world);
    assert_eq!(fetched(&world), before + 11);
}

/// A word that an item has gone is of that item, not of one that has come since under its key, however
/// late it is heard.
#[test]
fn a_late_word_that_an_item_has_gone_is_not_of_the_next() {
    let mut world = at_rest(5, 5);
    let hear_all = |world: &mut World| {
        for _ in 0..20 {
            world.say();
            world.hear();
        }
    };
    world.server.put(&key("00"), sort_key("m"), "second");
    hear_all(&mut world);
    let Some((id, Action::Fetch(_, keys))) = world.questions.pop() else {
        panic!("the new content is asked for: {:?}", world.questions);
    };
    world.server.delete(&key("00"));
    let gone = world.server.get(&keys);
    world.server.put(&key("00"), sort_key("m"), "third");
    hear_all(&mut world);
    world.handle(Input::Fetched(id, gone));
    rest(&mut world);
    let rows = world.machine.view().rows;
    let row = rows.iter().find(|row| row.key == key("00")).expect("it is there");
    assert_eq!(row.detail, Detail::Known(world.server.value(&row.key).expect("it is there")));
}

/// Offline, the last state stays, and says since when it is not kept up.
#[test]
fn a_lost_server_leaves_a_stale_window() {
    let mut world = at_rest(30, 5);
    let before = shown(&world);
    world.cut();
    let Verdict::Stale { since } = world.machine.view().verdict else { panic!("not stale") };
    assert_eq!(since, world.now);
    for _ in 0..20 {
        world.now += Duration::from_secs(10);
        world.handle(Input::Elapsed);
        world.cut();
        assert_eq!(world.machine.view().verdict, Verdict::Stale { since });
        assert_eq!(shown(&world), before);
    }
    world.server.delete(&key("00"));
    rest(&mut world);
    assert_eq!(shown(&world), ["01", "02", "03", "04", "05"]);
}

/// A rank that the list does not have any more leads to its last rows.
#[test]
fn a_rank_behind_the_end_shows_the_last_rows() {
    let mut world = at_rest(30, 5);
    let far = Wish { moves: 1, start: WindowStart::Rank(1_000), ..world.machine.wish.clone() };
    world.handle(Input::Wish(far));
    rest(&mut world);
    let view = world.machine.view();
    assert_eq!((view.rank, view.ends), (Some(25), true));
    assert_eq!(shown(&world), ["25", "26", "27", "28", "29"]);
}

/// G8: a window that asks for more rows than it may hold says so.
#[test]
fn a_window_that_is_cut_says_so() {
    let mut world = at_rest(30, 5);
    let many = Wish { rows: usize::MAX, ..world.machine.wish.clone() };
    world.handle(Input::Wish(many));
    rest(&mut world);
    assert!(world.machine.view().ends, "the list is shorter than what a window may hold");
    assert_eq!(world.machine.rows_wanted(), super::super::machine::ROWS_MAX);
}

/// A stream that leaves something out is given up, and opened again from the cursor.
#[test]
fn a_gap_is_not_passed_over() {
    let mut world = at_rest(30, 5);
    let id = world.stream.as_ref().unwrap().0;
    world.server.delete(&key("00"));
    world.say();
    world.pipe.clear();
    world.server.delete(&key("01"));
    world.say();
    world.pipe.retain(|event| matches!(event, Event::Changes(..)));
    let later = world.pipe.pop().expect("a delta behind the gap");
    world.handle(Input::Event(id, later));
    assert_eq!(shown(&world), ["00", "01", "02", "03", "04"]);
    assert!(matches!(world.machine.view().verdict, Verdict::Stale { .. }));
    assert!(world.stream.is_none());
    rest(&mut world);
    assert_eq!(shown(&world), ["02", "03", "04", "05", "06"]);
}

/// G10: a right that is taken away ends the window; the rows are not said to be anything.
#[test]
fn a_window_that_is_denied_says_so() {
    let mut world = at_rest(30, 5);
    let (id, _) = world.stream.take().unwrap();
    world.handle(Input::Event(id, Event::Revoked(CollectionName::new("list").unwrap())));
    assert_eq!(world.machine.view().verdict, Verdict::Denied);
    assert!(world.questions.is_empty());
}

/// An answer that was given before what the stream has said since: its rows are caught up from
/// where they were read, or one that was deleted meanwhile would stay (G5).
#[test]
fn rows_that_come_late_are_caught_up() {
    let mut world = at_rest(60, 5);
    for n in 0..6 {
        world.server.delete(&key(&format!("{n:02}")));
    }
    let list = loop {
        world.say();
        world.hear();
        let is_list = |(_, asked): &(AskId, Action)| matches!(asked, Action::List(..));
        if let Some(index) = world.questions.iter().position(is_list) {
            break world.questions.remove(index);
        }
    };
    let (id, Action::List(_, list)) = list else { unreachable!("it was looked for") };
    let answer = world.server.list(&list);
    world.server.delete(&key("14"));
    world.say();
    while !world.pipe.is_empty() {
        world.hear();
    }
    world.handle(Input::Listed(id, answer));
    let longer = Wish { rows: 30, ..world.machine.wish.clone() };
    world.handle(Input::Wish(longer));
    rest(&mut world);
    assert!(!shown(&world).contains(&"14".to_owned()), "{:?}", shown(&world));
}

/// A listing that cannot be continued begins anew, and never at once: a server that aborts each of
/// them would be asked without end.
#[test]
fn a_listing_that_is_aborted_begins_anew_after_a_wait() {
    let mut world = at_rest(30, 5);
    let again = Wish { moves: 1, ..world.machine.wish.clone() };
    world.handle(Input::Wish(again));
    let (id, _) = world.questions.pop().expect("a listing");
    world.handle(Input::Listed(id, Err(Fault::BeginAgain)));
    assert!(world.questions.is_empty(), "not at once");
    assert!(world.machine.deadline().is_some_and(|at| at > world.now));
    rest(&mut world);
}

/// The rows of a collection that is deleted are not told as those of another place, also if the
/// window was moved before.
#[test]
fn a_deleted_collection_is_no_move() {
    let mut world = at_rest(30, 5);
    let there = Wish { moves: 1, start: WindowStart::Rank(3), ..world.machine.wish.clone() };
    world.handle(Input::Wish(there));
    rest(&mut world);
    let told = told_of(&mut world, Server::delete_collection);
    assert!(!told.contains(&WindowDifference::Moved), "{told:?}");
}

/// R41: a stream whose line brings something is waited for, and one whose line brings nothing is
/// given up.
#[test]
fn a_slow_line_that_moves_is_not_given_up() {
    let mut world = at_rest(30, 5);
    for round in 1..=3_u64 {
        world.now = world.machine.deadline().unwrap();
        world.handle(Input::Received(round << 20));
        world.handle(Input::Elapsed);
        assert!(world.stream.is_some(), "it moves");
    }
    world.now = world.machine.deadline().unwrap();
    world.handle(Input::Elapsed);
    assert!(matches!(world.machine.view().verdict, Verdict::Stale { .. }), "nothing came");
}

/// Credentials that are not known may just be renewed: that is soon found out, and not by all
/// windows at once, nor in a hot loop.
#[test]
fn credentials_that_are_not_known_are_tried_again_soon() {
    let mut world = at_rest(30, 5);
    let id = world.stream.as_ref().unwrap().0;
    world.handle(Input::StreamEnded(id, Fault::Unauthenticated));
    assert_eq!(world.machine.view().verdict, Verdict::Denied);
    let wait = world.machine.deadline().unwrap() - world.now;
    assert!(wait >= Duration::from_secs(5) && wait <= Duration::from_secs(10), "{wait:?}");
    world.now += wait;
    world.handle(Input::Elapsed);
    rest(&mut world);
    assert!(matches!(world.machine.view().verdict, Verdict::Complete { .. }));
}
