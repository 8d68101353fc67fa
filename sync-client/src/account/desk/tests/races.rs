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

/// A pull that failed is no word of the server: also where a stream takes its place, what was known
/// before something was told does not settle it.
#[test]
fn a_pull_that_failed_settles_nothing() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(InboxEntry::Absent))]);
    talk.input(Input::LookAt(vec![name(1)]));
    talk.answer(|_| Outcome::NotFound);
    assert_eq!(talk.state(1), FollowState::Absent);
    talk.told(&[(1, Some(exists(6)))]);
    talk.pass(STREAM_GRACE * 2);
    for round in 0..100 {
        while let Some((id, _)) = talk.pulls.pop() {
            let failed = session::Input::Pulled(id, Err(Fault::Passing));
            talk.input(Input::Session(failed));
        }
        let id = talk.stream.as_ref().unwrap().0;
        let ended = session::Input::StreamEnded(id, Fault::Passing);
        talk.input(Input::Session(ended));
        talk.pass(MS * 50);
        assert_ne!(talk.state(1), FollowState::Absent, "round {round}: nobody has said so");
    }
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

/// A store that fails for long is left alone for longer and longer.
#[test]
fn a_store_that_fails_is_asked_less_and_less() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.failing_notes = 1_000;
    talk.answer(|_| Outcome::Denied);
    talk.pass(Duration::from_secs(10 * 60));
    let tried = 1_000 - talk.failing_notes;
    assert!((10..60).contains(&tried), "{tried} times in ten minutes");
}

/// A note that does not read says nothing: what is followed is asked for, and the copy of what is
/// not is dropped.
#[test]
fn a_copy_whose_note_does_not_read_is_known() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(4))), (2, Some(exists(4)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| filled(0, 4));
    let mut notes = Notes::none(talk.inbox());
    for number in [1, 2, 3] {
        let damaged = Some(bytes::Bytes::from_static(b"damaged"));
        notes.edits.push((Note::key(&name(number)), damaged));
    }
    talk.store.note(&notes).unwrap();
    let clear = |number| Write {
        expected: talk.store.standing(&name(number)).unwrap().active(),
        step: crate::store::Step::Clear,
    };
    let load =
        crate::store::Step::BeginLoad { changes: Vec::new(), to: Cursor::at(epoch(), version(4)) };
    talk.store.write(&name(3), &Write { step: load, ..clear(3) }).unwrap();

    let mut talk = Talk::on(talk.store.clone(), talk.now, 0);
    talk.pass(GATHER * 2);
    assert_eq!(talk.store.standing(&name(3)).unwrap(), Standing::default(), "dropped");
    assert!(talk.store.standing(&name(1)).unwrap().cursor.is_some());
    talk.answer(|_| aligned(4));
    assert_eq!(talk.state(1), FollowState::Current);
    let kept = talk.store.notes(&talk.inbox()).unwrap();
    assert!(kept.iter().all(|(_, note)| Note::decode(note).is_some()), "{kept:?}");
    assert_eq!(kept.len(), 2);
}

/// A copy that is to be dropped is followed again before that is done: the list is not taken for
/// empty, it is the server's.
#[test]
fn a_copy_that_is_followed_again_while_it_is_dropped_is_right() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(5)))]);
    talk.pass(GATHER * 2);
    talk.answer(|_| filled(0, 5));
    assert_eq!(talk.state(1), FollowState::Current);
    // The later page waits for the one before it, which unfollows: both are written in one go.
    let (gone, again) = (talk.page(&[(1, None)]), talk.page(&[(1, Some(exists(5)))]));
    talk.event(again);
    talk.event(gone);
    talk.pass(GATHER * 2);
    let from = talk.shown[&name(1)].map_or(0, |at| at.version.get());
    talk.answer(|_| if from == 5 { aligned(5) } else { filled(0, 5) });
    let standing = talk.store.standing(&name(1)).unwrap();
    assert_eq!((standing.tally.items, talk.list[&name(1)].items), (1, 1));
    assert_eq!(talk.state(1), FollowState::Current);
    assert_eq!(talk.store.notes(&talk.inbox()).unwrap().len(), 1, "it is known");
}

/// One answer brings the inbox, which unfollows a collection, and that collection's first page:
/// no copy is left that nobody knows of.
#[test]
fn a_page_of_what_was_unfollowed_leaves_no_copy() {
    let mut talk = Talk::new();
    talk.told(&[(1, Some(exists(5)))]);
    talk.input(Input::LookAt(vec![name(1)]));
    let (inbox, now) = (talk.inbox(), talk.now);
    talk.desk.session.pull_now(&inbox, now);
    talk.input(Input::Session(session::Input::Elapsed));
    let failure = Failure { code: 13, message: String::new(), retry_after: None, reason: None };
    talk.answer(|_| Outcome::Failed(failure.clone()));
    talk.answer(|_| Outcome::Deferred(None));
    talk.now += Duration::from_secs(11);
    talk.input(Input::Session(session::Input::Elapsed));
    assert_eq!(talk.pulls[0].1, [inbox.clone(), name(1)], "in one pull");
    let Event::Changes(_, gone) = talk.page(&[(1, None)]) else { panic!() };
    let page = |of: &CollectionName| {
        if *of == inbox { Outcome::Delta(gone.clone()) } else { first_page(3, 5) }
    };
    talk.answer(page);
    talk.pass(GATHER * 2);
    assert!(!talk.list.contains_key(&name(1)));
    assert_eq!(talk.store.standing(&name(1)).unwrap(), Standing::default(), "no copy");
    assert!(talk.store.notes(&talk.inbox()).unwrap().is_empty());
    assert_eq!(talk.desk.summary().pending, 0);
}

/// The first page of a load of a list that stands at `head`.
fn first_page(at: u64, head_at: u64) -> Outcome {
    let Outcome::Delta(delta) = filled(0, at) else { panic!() };
    let to = delta.to.between_pages(version(at));
    let head = head(head_at, Digest::EMPTY);
    Outcome::Delta(Delta { to, has_more: true, digest: None, head, ..delta })
}

/// The digest of a list into which version `at` put its one item.
fn digest_of(at: u64) -> Digest {
    let key = Key::new("a".to_owned()).unwrap();
    Digest::of_item(&key, version(at), &SortKey::default(), &[1])
}

fn aligned(at: u64) -> Outcome {
    Outcome::Aligned(Head { items: 1, ..head(at, digest_of(at)) })
}

/// A list into which version `at` put its one item.
fn filled(from: u64, at: u64) -> Outcome {
    let Outcome::Delta(delta) = empty(from, at) else { panic!() };
    let value = Some(sync_proto::types::Value::new(vec![1]).unwrap());
    let kind = ChangeKind::Put { value, sort_key: SortKey::default(), value_version: version(at) };
    let key = Key::new("a".to_owned()).unwrap();
    let changes = vec![Change { key, version: version(at), created: version(at), kind }];
    let head = Head { items: 1, ..head(at, digest_of(at)) };
    Outcome::Delta(Delta { changes, digest: Some(digest_of(at)), head, ..delta })
}
