//! The door between wire and checked types: what is sent arrives as it was, and what is hostile
//! is refused or repaired, never a panic. `PROPTEST_CASES` sets the number of cases.
#![allow(clippy::unwrap_used, reason = "tests")]

mod generate;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use sync_proto::convert::{
    decode_change, decode_committed, encode_change, encode_committed, head_equals,
};
use sync_proto::types::{
    Change, Commit, Cursor, Delta, Event, Head, Item, ListItems, Outcome, Plan, Pull, Reconcile,
    Reconciled, Round, Subscribe, Target,
};
use sync_proto::v1;

/// Over the wire and back.
fn travel<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

/// The page as the server holds it: changes encoded.
fn encoded(delta: &Delta) -> Delta<Bytes> {
    let changes = delta.changes.iter().map(encode_change).collect();
    let Delta { from, to, has_more, initial, digest, unverified, head, .. } = *delta;
    Delta { from, to, changes, has_more, initial, digest, unverified, head }
}

fn outcome_to_wire(outcome: Outcome) -> v1::Outcome {
    let outcome: Outcome<Bytes> = match outcome {
        Outcome::Aligned(head) => Outcome::Aligned(head),
        Outcome::Delta(delta) => Outcome::Delta(encoded(&delta)),
        Outcome::Reset(reset) => Outcome::Reset(reset),
        Outcome::Denied => Outcome::Denied,
        Outcome::NotFound => Outcome::NotFound,
        Outcome::Deferred(head) => Outcome::Deferred(head),
        Outcome::Failed(failure) => Outcome::Failed(failure),
    };
    outcome.into()
}

fn event_to_wire(event: Event) -> v1::SubscribeResponse {
    let event: Event<Bytes> = match event {
        Event::Accepted(targets, heartbeat) => Event::Accepted(targets, heartbeat),
        Event::Changes(name, delta) => Event::Changes(name, encoded(&delta)),
        Event::Notice(name, head) => Event::Notice(name, head),
        Event::InboxNotice(notice) => Event::InboxNotice(notice),
        Event::Bookmark(positions, now) => Event::Bookmark(positions, now),
        Event::Reset(name, reset) => Event::Reset(name, reset),
        Event::Lagging(name, behind) => Event::Lagging(name, behind),
        Event::CaughtUp(name, cursor) => Event::CaughtUp(name, cursor),
        Event::Absent(name) => Event::Absent(name),
        Event::Revoked(name) => Event::Revoked(name),
        Event::Failed(name, failure) => Event::Failed(name, failure),
        Event::Goodbye(goodbye) => Event::Goodbye(goodbye),
    };
    event.into()
}

/// Bytes put over an encoded message, and how many bytes at its end are lost.
type Damage = (Vec<(prop::sample::Index, u8)>, usize);

fn damage() -> impl Strategy<Value = Damage> {
    (prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6), 0..4usize)
}

/// What arrives of a damaged message, if it can be decoded at all.
fn damaged<M: Message + Default>(message: &M, (edits, cut): &Damage) -> Option<M> {
    let mut wire = message.encode_to_vec();
    let len = wire.len();
    for (at, byte) in edits.iter().filter(|_| len > 0) {
        wire[at.index(len)] = *byte;
    }
    wire.truncate(len.saturating_sub(*cut));
    M::decode(wire.as_slice()).ok()
}

/// What is accepted although it was damaged must be a checked value that travels.
fn survives<M, T>(message: &M, damage: &Damage)
where
    M: Message + Default + From<T>,
    T: TryFrom<M> + Clone + PartialEq + std::fmt::Debug,
{
    let accepted = damaged(message, damage).and_then(|wire| T::try_from(wire).ok());
    if let Some(accepted) = accepted {
        let again = T::try_from(travel(&M::from(accepted.clone()))).ok();
        assert_eq!(again, Some(accepted), "what was accepted once is accepted again");
    }
}

/// For what travels one way only: refused or accepted, but no panic.
fn is_judged<M: Message + Default, T: TryFrom<M>>(message: &M, damage: &Damage) {
    let _judged = damaged(message, damage).map(|wire| T::try_from(wire).is_ok());
}

proptest! {
    #[test]
    fn cursors_travel(cursor in generate::cursor()) {
        prop_assert_eq!(Cursor::try_from(travel(&v1::Cursor::from(cursor))), Ok(cursor));
    }

    #[test]
    fn heads_travel(head in generate::head()) {
        prop_assert_eq!(Head::try_from(travel(&v1::Head::from(head))), Ok(head));
    }

    #[test]
    fn items_travel(item in generate::item()) {
        prop_assert_eq!(Item::try_from(travel(&v1::Item::from(item.clone()))), Ok(item));
    }

    #[test]
    fn changes_travel(change in generate::change()) {
        prop_assert_eq!(decode_change(encode_change(&change)), Ok(change));
    }

    #[test]
    fn deltas_travel(delta in generate::delta()) {
        let wire = v1::Delta::from(encoded(&delta));
        prop_assert_eq!(Delta::try_from(travel(&wire)), Ok(delta));
    }

    #[test]
    fn outcomes_travel(outcome in generate::outcome()) {
        let wire = outcome_to_wire(outcome.clone());
        prop_assert_eq!(Outcome::try_from(travel(&wire)), Ok(outcome));
    }

    #[test]
    fn events_travel(event in generate::event()) {
        let wire = event_to_wire(event.clone());
        prop_assert_eq!(Event::try_from(travel(&wire)), Ok(event));
    }

    #[test]
    fn targets_travel(target in generate::target()) {
        prop_assert_eq!(Target::try_from(travel(&v1::Target::from(target.clone()))), Ok(target));
    }

    #[test]
    fn pulls_travel(pull in generate::pull()) {
        let wire = v1::PullRequest::try_from(pull.clone()).unwrap();
        prop_assert_eq!(Pull::try_from(travel(&wire)), Ok(pull));
    }

    #[test]
    fn subscriptions_travel(asked in generate::subscribe()) {
        let wire = v1::SubscribeRequest::from(asked.clone());
        prop_assert_eq!(Subscribe::try_from(travel(&wire)), Ok(asked));
    }

    #[test]
    fn listings_travel(list in generate::list()) {
        let wire = v1::ListItemsRequest::from(list.clone());
        prop_assert_eq!(ListItems::try_from(travel(&wire)), Ok(list));
    }

    #[test]
    fn rounds_travel(asked in generate::reconcile()) {
        let wire = v1::ReconcileRequest::from(asked.clone());
        prop_assert_eq!(Reconcile::try_from(travel(&wire)), Ok(asked));
    }

    #[test]
    fn entries_travel((round, answer) in generate::entries()) {
        let wire = travel(&v1::ReconcileResponse::from(answer.clone()));
        prop_assert_eq!(Reconciled::from_wire(wire, &round), Ok(answer));
    }

    #[test]
    fn sums_travel(
        (round, answer) in generate::round().prop_flat_map(|round| {
            let answer = generate::sums(&round);
            (Just(round), answer)
        }),
    ) {
        prop_assume!(!matches!(round, Round::Entries { .. }));
        let wire = travel(&v1::ReconcileResponse::from(answer.clone()));
        prop_assert_eq!(Reconciled::from_wire(wire.clone(), &round), Ok(answer));
        // Sums of other nodes than those that were asked for compare apples with pears.
        let mut short = wire.clone();
        short.sums.pop();
        prop_assert!(Reconciled::from_wire(short, &round).is_err());
        let mut long = wire;
        long.sums.push(Bytes::from_static(&[0; 16]));
        prop_assert!(Reconciled::from_wire(long, &round).is_err());
    }

    /// An entry out of its place would make a copy lose, or keep, what the server has, or not.
    #[test]
    fn entries_out_of_place_are_refused((round, answer) in generate::entries()) {
        let wire = v1::ReconcileResponse::from(answer);
        let mut twice = wire.clone();
        twice.entries.push(twice.entries[twice.entries.len() - 1].clone());
        prop_assert!(Reconciled::from_wire(twice, &round).is_err());
        let Round::Entries { at, mut segments, page_token } = round else { unreachable!() };
        segments.remove(0);
        let other = Round::Entries { at, segments, page_token };
        prop_assert!(Reconciled::from_wire(wire, &other).is_err());
    }

    #[test]
    fn commits_travel(commit in generate::commit()) {
        let wire = v1::CommitRequest::from(commit.clone());
        prop_assert_eq!(Commit::try_from(travel(&wire)), Ok(commit));
    }

    #[test]
    fn answers_travel(committed in prop::collection::vec(generate::committed(), 0..5)) {
        prop_assert_eq!(decode_committed(encode_committed(&committed)), Ok(committed));
    }

    /// G11: what a damaged or hostile peer sends is refused, or is a value that could have been
    /// sent in good faith.
    #[test]
    fn damaged_requests_do_no_harm(
        commit in generate::commit(),
        target in generate::target(),
        pull in generate::pull(),
        asked in generate::subscribe(),
        list in generate::list(),
        reconcile in generate::reconcile(),
        damage in damage(),
    ) {
        survives::<v1::ReconcileRequest, Reconcile>(&reconcile.into(), &damage);
        survives::<v1::CommitRequest, Commit>(&commit.into(), &damage);
        survives::<v1::Target, Target>(&target.into(), &damage);
        survives::<v1::SubscribeRequest, Subscribe>(&asked.into(), &damage);
        survives::<v1::ListItemsRequest, ListItems>(&list.into(), &damage);
        is_judged::<_, Pull>(&v1::PullRequest::try_from(pull).unwrap(), &damage);
    }

    #[test]
    fn damaged_answers_do_no_harm(
        outcome in generate::outcome(),
        event in generate::event(),
        item in generate::item(),
        change in generate::change(),
        head in generate::head(),
        (round, entries) in generate::entries(),
        damage in damage(),
    ) {
        let entries = damaged(&v1::ReconcileResponse::from(entries), &damage);
        let _judged = entries.map(|wire| Reconciled::from_wire(wire, &round).is_ok());
        survives::<v1::Change, Change>(&change.into(), &damage);
        survives::<v1::Head, Head>(&head.into(), &damage);
        is_judged::<_, Item>(&v1::Item::from(item), &damage);
        is_judged::<_, Outcome>(&outcome_to_wire(outcome), &damage);
        is_judged::<_, Event>(&event_to_wire(event), &damage);
    }

    /// A reader applies what it accepted, so a page out of order must not be accepted.
    #[test]
    fn a_page_outside_of_its_cursors_is_refused(
        delta in generate::delta(),
        at in any::<prop::sample::Index>(),
        version in generate::version(),
    ) {
        prop_assume!(!delta.changes.is_empty());
        let mut wrong = delta.clone();
        let at = at.index(wrong.changes.len());
        wrong.changes[at].version = version;
        let fits = version > delta.from.version
            && version <= delta.to.version
            && (at == 0 || version >= wrong.changes[at - 1].version)
            && wrong.changes.get(at + 1).is_none_or(|next| version <= next.version);
        let parsed = Delta::try_from(v1::Delta::from(encoded(&wrong)));
        prop_assert_eq!(parsed.is_ok(), fits);
    }

    /// Between two pages a copy is not whole, and only the cursor that is kept says so.
    #[test]
    fn a_page_whose_cursor_denies_what_follows_is_refused(delta in generate::delta()) {
        let mut wire = v1::Delta::from(encoded(&delta));
        wire.has_more = !wire.has_more;
        prop_assert!(Delta::try_from(wire).is_err());
    }

    /// Numbers that no server of ours sends: refused, or read as something that travels.
    #[test]
    fn wild_numbers_do_no_harm(
        [epoch, version, base, floor] in any::<[u64; 4]>(),
        (seconds, nanos) in any::<(i64, i32)>(),
        digest in prop_oneof![generate::bytes(16..=16), generate::bytes(0..20)],
    ) {
        if let Ok(cursor) = Cursor::try_from(v1::Cursor { epoch, version, base }) {
            prop_assert_eq!(Cursor::try_from(v1::Cursor::from(cursor)), Ok(cursor));
            prop_assert!(cursor.base.get() == 0 || cursor.base >= cursor.version);
        }
        let _condition = head_equals(v1::HeadEquals { epoch, version });
        let commit_time = Some(prost_types::Timestamp { seconds, nanos });
        let wire = v1::Head { epoch, version, floor, digest, commit_time, ..v1::Head::default() };
        if let Ok(head) = Head::try_from(wire) {
            prop_assert_eq!(Head::try_from(v1::Head::from(head)), Ok(head));
            prop_assert!(head.floor <= head.version);
        }
    }
}

/// A newer server may know more plans; the other collections of the stream go on.
#[test]
fn a_plan_that_is_not_known_refuses_no_stream() {
    let target = |plan| v1::AcceptedTarget {
        collection: "list".into(),
        plan,
        ..v1::AcceptedTarget::default()
    };
    let targets = vec![target(v1::Plan::Live.into()), target(4_711)];
    let accepted = v1::Accepted { targets, heartbeat_ms: 1_000 };
    let message = Some(v1::subscribe_response::Message::Accepted(accepted));
    let Event::Accepted(targets, _) = v1::SubscribeResponse { message }.try_into().unwrap() else {
        panic!("an Accepted stays one");
    };
    assert_eq!(targets[0].plan, Plan::Live);
    assert_eq!(targets[1].plan, Plan::CatchUp);
}
