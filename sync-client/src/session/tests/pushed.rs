//! Pushes: order, holes, repeats, bookmarks.

use super::*;

#[test]
fn t11_late_pushes_are_put_in_order_without_a_pull_and_repeats_are_dropped() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 12));
    talk.push(delta(11, 12));
    assert_eq!(talk.at(), Some(cursor(10)), "a repeat does not stand in for a hole");
    talk.pass(30 * MS);
    talk.push(delta(10, 11));
    assert_eq!(talk.at(), Some(cursor(12)));
    talk.push(delta(11, 12));
    talk.pass(Duration::from_secs(1));
    assert_eq!((talk.pulls.len(), talk.stats().repeats, talk.stats().held), (0, 1, 1));
    assert_eq!(talk.status[&name()], Status::Live);
}

#[test]
fn t12_a_lost_push_costs_one_pull_and_paging_stops_when_the_stream_joins() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 12));
    talk.pass(60 * MS);
    assert_eq!(talk.pulls.len(), 1, "a single hole waits 50 ms");
    assert_eq!(talk.shown(), Some(cursor(10)));
    for at in 12..62 {
        talk.push(delta(at, at + 1));
    }
    assert_eq!(talk.at(), Some(cursor(10)));
    talk.answer(vec![Outcome::Delta(page(10, 12, 62))]);
    assert_eq!(talk.at(), Some(cursor(62)), "what was kept continues the page");
    talk.pass(Duration::from_secs(5));
    assert_eq!((talk.pulls.len(), talk.stats().pulls, talk.stats().gaps), (0, 1, 1));
    assert_eq!(talk.stats().digest_mismatches, 0);
}

#[test]
fn holes_in_several_places_wait_longer_for_one_pull() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 12));
    talk.push(delta(15, 16));
    talk.pass(400 * MS);
    assert!(talk.pulls.is_empty());
    talk.pass(150 * MS);
    assert_eq!(talk.pulls.len(), 1);
}

#[test]
fn t13_a_version_that_jumps_is_no_gap() {
    let mut talk = Talk::live(10);
    let mut jump = delta(10, 11);
    jump.to = cursor(10_001);
    jump.digest = None;
    talk.push(jump);
    talk.pass(Duration::from_secs(1));
    assert_eq!((talk.at(), talk.pulls.len()), (Some(cursor(10_001)), 0));
}

#[test]
fn t15_an_empty_delta_moves_the_stored_cursor() {
    let mut talk = Talk::live(10);
    let empty = Delta { changes: Vec::new(), digest: Some(digest(10)), ..delta(10, 12) };
    talk.push(empty);
    assert_eq!(talk.at(), Some(cursor(12)));
    let again = Talk::new(&[name()], talk.store);
    assert_eq!(again.stream.unwrap().1.targets[0].cursor, Some(cursor(12)));
}

#[test]
fn a_push_that_overlaps_applies_only_what_is_new() {
    let mut talk = Talk::live(10);
    talk.push(delta(5, 12));
    assert_eq!(talk.at(), Some(cursor(12)));
    assert_eq!(talk.stats().digest_mismatches, 0);
}

#[test]
fn a_page_of_another_load_does_not_continue_this_one() {
    let mut talk = Talk::live(10);
    // It leaves out deletes up to 15, which a copy at 10 needs (G5).
    let from = Cursor { base: version(15), ..cursor(5) };
    talk.push(Delta { from, initial: true, ..delta(5, 15) });
    assert_eq!(talk.at(), Some(cursor(10)));
    talk.pass(60 * MS);
    assert_eq!(talk.shown(), Some(cursor(10)));
}

#[test]
fn a_push_read_before_a_page_does_not_complete_the_copy() {
    let mut talk = Talk::live(10);
    talk.push(delta(11, 14));
    talk.pass(60 * MS);
    // Read at head 20: rows that moved beyond 14 since are in neither.
    talk.answer(vec![Outcome::Delta(page(10, 12, 20))]);
    let at = talk.at().unwrap();
    assert_eq!((at.version, at.is_caught_up()), (version(14), false));
    talk.push(delta(14, 20));
    assert_eq!(talk.at(), Some(cursor(20)));
}

#[test]
fn a_bookmark_proves_the_copy_or_shows_a_gap() {
    let mut talk = Talk::live(10);
    let position = |at, digest| Position {
        collection: name(),
        cursor: cursor(at),
        digest: Some(digest),
        commit_time: Timestamp::default(),
    };
    let checks = talk.stats().digest_checks;
    talk.event(Event::Bookmark(vec![position(10, digest(10))], Timestamp::default()));
    assert_eq!(talk.stats().digest_checks, checks + 1);
    talk.event(Event::Bookmark(vec![position(12, digest(12))], Timestamp::default()));
    assert_eq!(talk.status[&name()], Status::Lagging);
    talk.pass(60 * MS);
    talk.answer(vec![Outcome::Delta(delta(10, 12))]);
    assert_eq!((talk.at(), talk.status[&name()]), (Some(cursor(12)), Status::Live));
    talk.event(Event::Bookmark(vec![position(12, digest(3))], Timestamp::default()));
    assert_eq!(talk.stats().digest_mismatches, 1);
}

#[test]
fn a_stream_of_another_life_is_left_once_a_pull_has_brought_everything() {
    let mut talk = Talk::live(10);
    let epoch = Epoch::new(9).unwrap();
    let foreign = Cursor { epoch, ..cursor(40) };
    talk.push(Delta {
        from: foreign,
        to: Cursor { version: version(41), ..foreign },
        ..delta(10, 11)
    });
    talk.answer(vec![Outcome::Aligned(head(10))]);
    assert_eq!(talk.at(), Some(cursor(10)));
    talk.pass(Duration::from_secs(3));
    assert_eq!((talk.closed, talk.stats().pulls), (1, 1));
}

#[test]
fn pushes_that_are_kept_are_bounded() {
    let mut talk = Talk::live(10);
    for at in 11..2_000 {
        talk.push(delta(at, at + 1));
    }
    assert_eq!(talk.stats().held, 256);
    assert!(talk.session.held_bytes < 1 << 20);
    talk.pass(60 * MS);
    talk.answer(vec![Outcome::Delta(delta(10, 2_000))]);
    assert_eq!((talk.at(), talk.session.held_bytes), (Some(cursor(2_000)), 0));
}
