//! What comes late: answers to pulls of an earlier stay in the conversation, results of writes that
//! were given out before something was told, and stores that fail.

use super::*;

fn head_of(at: u64) -> Outcome {
    Outcome::Aligned(head(at, Digest::EMPTY))
}

/// G4: somebody looks away while a pull is under way, and the collection moves then. The answer to
/// that pull knows nothing of the move, and settles nothing.
#[test]
fn an_answer_of_an_earlier_stay_settles_nothing() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(5)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| empty(0, 5));
    talk.input(Input::LookAt(vec![name(1)]));
    let (old, _) = talk.pulls.remove(0);
    talk.input(Input::LookAt(Vec::new()));
    talk.told(&[(1, Some(exists(6)))]);
    talk.pass(GATHER * 2);
    assert_eq!(talk.pulls.len(), 1, "asked for again");

    let late = session::Input::Pulled(old, Ok(vec![head_of(5)]));
    talk.input(Input::Session(late));
    assert_eq!(talk.state(1), FollowState::CatchingUp, "it knows nothing of version 6");
    assert_eq!(talk.desk.processed(), Some(Cursor::at(epoch(), version(1))));
    talk.answer(|_| empty(5, 6));
    assert_eq!(talk.state(1), FollowState::Current);
    let standing = talk.store.standing(&name(1)).unwrap();
    assert_eq!(standing.cursor, Some(Cursor::at(epoch(), version(6))));
}

/// The same when it is unfollowed and followed again within a round trip: "not found" was said of
/// another moment.
#[test]
fn an_old_not_found_settles_nothing_either() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(InboxEntry::Exists(epoch(), version(5))))]);
    talk.pass(GATHER * 2);
    let (old, _) = talk.pulls.remove(0);
    talk.told(&[(1, None)]);
    talk.told(&[(1, Some(exists(6)))]);
    talk.pass(GATHER * 2);
    let late = session::Input::Pulled(old, Ok(vec![Outcome::NotFound]));
    talk.input(Input::Session(late));
    assert_eq!(talk.state(1), FollowState::CatchingUp);
    talk.answer(|_| empty(0, 6));
    assert_eq!(talk.state(1), FollowState::Current);
}

/// A note that was not taken is made once more; then there is nothing to wake up for.
#[test]
fn a_desk_rests_after_a_note_that_failed() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.failing_notes = 1;
    talk.answer(|_| Outcome::Denied);
    assert_eq!(talk.failing_notes, 0, "a note failed");
    // What was to be noted is taken back before it is tried again.
    talk.told(&[(1, None)]);
    let mut turns = 0;
    let until = talk.now + Duration::from_secs(30);
    while talk.now < until {
        let due = talk.desk.deadline();
        talk.now = due.clamp(talk.now, until);
        talk.input(Input::Session(session::Input::Elapsed));
        turns += 1;
        assert!(turns < 1_000, "it never rests: {:?} to go", until - talk.now);
    }
}
