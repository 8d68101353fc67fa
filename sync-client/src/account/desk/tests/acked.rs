//! How far the inbox is said to be processed, and when.

use super::*;

fn at(at: u64) -> Cursor {
    Cursor::at(epoch(), version(at))
}

/// An ack covers exactly what is done, comes after the disk has it, seldom, and again until the
/// server has taken it.
#[test]
fn an_ack_covers_the_processed_prefix_and_is_repeated_until_it_is_taken() {
    let mut talk = Talk::new();
    for number in 1..=3 {
        talk.told(&[(number, Some(exists(4)))]);
    }
    assert_eq!(talk.desk.processed(), None, "the first is not done");
    talk.pass(GATHER * 2);
    let failing = |of: &CollectionName| {
        let failure = Failure { code: 13, message: String::new(), retry_after: None, reason: None };
        if *of == name(2) { Outcome::Failed(failure) } else { empty(0, 4) }
    };
    while !talk.pulls.is_empty() {
        talk.answer(failing);
    }
    assert_eq!(talk.desk.processed(), Some(at(1)), "the third is behind the second");
    assert!(talk.acks.is_empty(), "nothing is on the disk yet");
    talk.input(Input::Flushed);
    assert_eq!(talk.acks, [at(1)]);

    talk.input(Input::Acked(Err(AckFault::Passing)));
    talk.pass(Duration::from_secs(1));
    assert_eq!(talk.acks, [at(1), at(1)]);
    talk.input(Input::Acked(Ok(())));
    // The second moves: it is asked for by a later version, so everything before that is done.
    talk.told(&[(2, Some(exists(5)))]);
    assert_eq!(talk.desk.processed(), Some(at(3)));
    talk.input(Input::Flushed);
    talk.pass(MS * 100);
    assert_eq!(talk.acks.len(), 2, "not so soon");
    talk.pass(Duration::from_secs(6));
    assert_eq!(talk.acks.last(), Some(&at(3)));
}

/// What is not followed any more is processed when its copy is gone; what may not be read, at
/// once.
#[test]
fn a_dropped_copy_and_a_denied_collection_are_processed() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4))), (2, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|of| if *of == name(2) { Outcome::Denied } else { empty(0, 4) });
    assert_eq!(talk.state(2), FollowState::Denied);
    assert_eq!(talk.desk.processed(), Some(at(1)));
    assert!(talk.store.standing(&name(1)).unwrap().cursor.is_some());
    talk.told(&[(1, None)]);
    assert_eq!(talk.store.standing(&name(1)).unwrap().cursor, None);
    assert!(!talk.list.contains_key(&name(1)));
    assert_eq!(talk.desk.processed(), Some(at(2)));
    let kept = talk.store.notes(&talk.inbox()).unwrap();
    assert_eq!(kept.len(), 1, "only the denied one is remembered");
}
