//! The kit bites: what a client says and shows is judged as the contract tells.
#![allow(clippy::unwrap_used, reason = "tests")]

use sync_conformance::seen::Seen;
use sync_conformance::truth::{At, Place, Truth};
use sync_proto::v1;

const DIGEST: &str = "aec0b1fb940a8cd5c0673df57ee79e10";

fn at(epoch: u64, version: u64, digest: &str) -> At {
    At {
        collection: "list".to_owned(),
        epoch: epoch.to_string(),
        version: version.to_string(),
        items: 1,
        digest: digest.to_owned(),
    }
}

/// A collection that was at versions 1 and 2 of epoch 7, and then at version 1 of epoch 5.
fn truth() -> Truth {
    let mut truth = Truth::default();
    for (epoch, version) in [(7, 1), (7, 2), (5, 1)] {
        truth.stands("list", Place { epoch, version }, 1, DIGEST.to_owned());
    }
    truth
}

/// G2: within an epoch, and from one life to the next, a copy moves forward.
#[test]
fn a_copy_that_goes_back_is_objected_to() {
    let truth = truth();
    let objection = |before: At, now: At| truth.objection(Some(&before), &now, false);
    assert_eq!(objection(at(7, 1, DIGEST), at(7, 2, DIGEST)), None);
    assert_eq!(objection(at(7, 2, DIGEST), at(5, 1, DIGEST)), None);
    assert!(objection(at(7, 2, DIGEST), at(7, 1, DIGEST)).is_some());
    assert!(objection(at(5, 1, DIGEST), at(7, 2, DIGEST)).is_some());
    let before = at(7, 2, DIGEST);
    assert_eq!(truth.objection(Some(&before), &at(7, 1, DIGEST), true), None, "it may go back");
}

/// G1, G9: what readers see is a state that the collection had.
#[test]
fn a_state_that_never_was_is_objected_to() {
    let truth = truth();
    assert!(truth.objection(None, &at(7, 3, DIGEST), false).is_some(), "no such version");
    assert!(truth.objection(None, &at(6, 1, DIGEST), false).is_some(), "no such epoch");
    assert!(truth.objection(None, &at(7, 1, "00"), false).is_some(), "other items");
    assert!(truth.objection(None, &at(0, 0, "00"), false).is_some(), "it was never gone");
    assert!(truth.is_head(&at(5, 1, DIGEST)) && !truth.is_head(&at(7, 2, DIGEST)));
}

/// R7: a cursor that was not handed out was computed, or is of a push that was lost.
#[test]
fn a_cursor_that_was_not_handed_out_is_objected_to() {
    let mut seen = Seen::default();
    let cursor = |version| v1::Cursor { epoch: 7, version, base: 0 };
    let shown = |version| v1::Target {
        collection: "list".to_owned(),
        cursor: Some(cursor(version)),
        ..v1::Target::default()
    };
    let delta = v1::Delta { to: Some(cursor(3)), ..v1::Delta::default() };
    let result = Some(v1::outcome::Result::Delta(delta));
    seen.answered("list", &v1::Outcome { result, ..v1::Outcome::default() });
    seen.asked(&shown(3));
    assert_eq!(seen.objections, Vec::<String>::new());
    seen.asked(&shown(4));
    assert_eq!(seen.objections.len(), 1);
}

/// R58: a retry is the same request under the same key.
#[test]
fn commits_without_their_key_are_objected_to() {
    let mut seen = Seen::default();
    let commit = |key: &str, collection: &str| v1::CommitRequest {
        idempotency_key: key.to_owned(),
        mutations: vec![v1::Mutation { collection: collection.to_owned(), op: None }],
        ..v1::CommitRequest::default()
    };
    seen.committing(&commit("one", "list"));
    seen.committing(&commit("one", "list"));
    assert_eq!(seen.objections, Vec::<String>::new());
    seen.committing(&commit("one", "other"));
    seen.committing(&commit("", "list"));
    assert_eq!(seen.objections.len(), 2);
}

/// R110, R112: an ack claims what was handed out, for the client that it was handed to.
#[test]
fn an_ack_of_more_than_was_handed_out_is_objected_to() {
    let mut seen = Seen::default();
    let cursor = |version| v1::Cursor { epoch: 7, version, base: 0 };
    let ack = |client_id: &str, version| v1::AckRequest {
        client_id: client_id.to_owned(),
        acked: vec![v1::AckedCursor {
            collection: "list".to_owned(),
            cursor: Some(cursor(version)),
        }],
    };
    let delta = v1::Delta { to: Some(cursor(3)), ..v1::Delta::default() };
    let result = Some(v1::outcome::Result::Delta(delta));
    seen.answered("list", &v1::Outcome { result, ..v1::Outcome::default() });
    seen.acking(&ack("mine", 3), "mine");
    assert_eq!(seen.objections, Vec::<String>::new());
    seen.acking(&ack("mine", 4), "mine");
    assert_eq!(seen.objections.len(), 1);
    seen.acking(&ack("another", 3), "mine");
    assert_eq!(seen.objections.len(), 2);
}

/// R61: what is sent again under a number of an import is the same.
#[test]
fn an_import_that_changes_is_objected_to() {
    let mut seen = Seen::default();
    let part = |id: &str, sequence, collection: &str| v1::ImportRequest {
        import_id: id.to_owned(),
        sequence,
        mutations: vec![v1::Mutation { collection: collection.to_owned(), op: None }],
    };
    seen.importing(&part("one", 1, "list"));
    seen.importing(&part("one", 2, "list"));
    seen.importing(&part("one", 1, "list"));
    assert_eq!(seen.objections, Vec::<String>::new());
    seen.importing(&part("one", 2, "other"));
    assert_eq!(seen.objections.len(), 1);
    seen.importing(&part("two", 3, "list"));
    assert_eq!(seen.objections.len(), 2);
}

/// R104: the head of a listing's first page is a place to go on from, that of the others is none.
#[test]
fn only_the_first_page_of_a_listing_is_a_place_to_go_on_from() {
    let mut seen = Seen::default();
    let head = |version| v1::Head { epoch: 7, version, ..v1::Head::default() };
    let page = |token: &'static [u8]| v1::ListItemsRequest {
        collection: "list".to_owned(),
        page_token: token.into(),
        ..v1::ListItemsRequest::default()
    };
    let shown = |version| v1::Target {
        collection: "list".to_owned(),
        cursor: Some(v1::Cursor { epoch: 7, version, base: 0 }),
        ..v1::Target::default()
    };
    seen.listed(&page(b""), Some(&head(3)));
    seen.listed(&page(b"next"), Some(&head(4)));
    seen.asked(&shown(3));
    assert_eq!(seen.objections, Vec::<String>::new());
    seen.asked(&shown(4));
    assert_eq!(seen.objections.len(), 1);
}
