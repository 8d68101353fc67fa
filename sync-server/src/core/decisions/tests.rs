//! Which decisions are remembered, and how much of them.

use sync_proto::types::{Epoch, Version};

use super::*;

fn key(client_id: &str, subject: &str) -> ClientKey {
    ClientKey { client_id: client_id.to_owned(), subject: subject.to_owned() }
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn at(version: u64) -> Cursor {
    Cursor::at(Epoch::new(7).unwrap(), Version::new(version).unwrap())
}

fn now(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn pulled(shown: u64, answer: Answer) -> Decided {
    Decided { call: Call::Pull, shown: Some(at(shown)), answer, reached: None, bytes: 10 }
}

/// What the books say is what is there.
fn check(decisions: &Decisions) {
    assert_eq!(decisions.by_turn.len(), decisions.clients.len());
    let of_client = |(key, client): (&Arc<ClientKey>, &Client)| {
        assert_eq!(client.by_turn.len(), client.trails.len());
        assert!(client.trails.len() <= COLLECTIONS_MAX);
        let trails = client.trails.iter().map(|(name, trail)| {
            assert!(trail.kept.len() <= DECISIONS_MAX);
            trail_bytes(name) + trail.kept.len() * DECISION_BYTES
        });
        let trails: usize = trails.sum();
        assert_eq!(trails, client.bytes);
        client_bytes(key) + trails
    };
    assert_eq!(decisions.clients.iter().map(of_client).sum::<usize>(), decisions.bytes());
    assert!(decisions.bytes() <= DECISIONS_BYTES_MAX);
}

/// G6: the reason that was sent is the one that is told; the same in a row is one, with its count.
#[test]
fn what_was_decided_is_told_with_its_reason() {
    let mut decisions = Decisions::default();
    let (phone, list) = (key("phone", "alice"), name("list"));
    let reset = Answer::Reset(ResetReason::BelowFloor);
    for (second, decided) in
        [(1, pulled(3, Answer::Delta)), (2, pulled(5, reset)), (9, pulled(5, reset))]
    {
        decisions.decided(&phone, [(list.clone(), decided)], now(second));
    }
    let told = decisions.tell("phone", Some(&list), 9);
    let [delta, reset] = &told[..] else { panic!("{told:?}") };
    assert_eq!((delta.answer.as_str(), delta.times, delta.bytes), ("delta", 1, 10));
    assert_eq!((reset.answer.as_str(), reset.call.as_str()), ("reset", "pull"));
    assert_eq!((reset.reset_reason, reset.shown), (Some(ResetReason::BelowFloor), Some(at(5))));
    assert_eq!((reset.first_time, reset.time, reset.times), (now(2), now(9), 2));
    assert_eq!((reset.subject.as_str(), reset.bytes), ("alice", 20));
    for (client, collection) in [("phon", None), ("phone2", None), ("phone", Some(name("other")))] {
        assert!(decisions.tell(client, collection.as_ref(), 9).is_empty(), "{client}");
    }
    check(&decisions);
}

/// What a stream sends is told with the decision that opened it, also when pulls came between; its
/// end is a decision of its own, at the cursor that it had reached.
#[test]
fn what_a_stream_sends_belongs_to_its_decision() {
    let mut decisions = Decisions::default();
    let (phone, list) = (key("phone", ""), name("list"));
    let opened = Decided { call: Call::Subscribe, ..pulled(3, Answer::Delta) };
    decisions.decided(&phone, [(list.clone(), opened)], now(1));
    decisions.decided(&phone, [(list.clone(), pulled(3, Answer::Aligned))], now(2));
    let pushed = Pushed { reached: at(8), bytes: 90, at: now(5) };
    decisions.pushed(&phone, [(list.clone(), pushed)]);
    decisions.ended(&phone, list.clone(), Answer::Revoked, now(6));
    let told = decisions.tell("phone", None, 9);
    let words: Vec<_> = told.iter().map(|one| (one.call.as_str(), one.answer.as_str())).collect();
    assert_eq!(words, [("pull", "aligned"), ("subscribe", "delta"), ("subscribe", "revoked")]);
    assert_eq!((told[1].bytes, told[1].reached, told[1].time), (100, Some(at(8)), now(5)));
    assert_eq!(told[2].shown, Some(at(8)));
    check(&decisions);
}

/// G8: however many clients, collections and decisions there are, only so much is remembered, of
/// the newest.
#[test]
fn decisions_are_bounded() {
    let mut decisions = Decisions::default();
    let (phone, long) = (key("phone", "alice"), "x".repeat(400));
    for number in 0..1_000 {
        let (of_many, of_one) = (name(&format!("{long}/{number}")), name("list"));
        let answer = if number % 2 == 0 { Answer::Aligned } else { Answer::Delta };
        let decided = [(of_many, pulled(number, answer)), (of_one, pulled(number, answer))];
        decisions.decided(&phone, decided, now(number));
    }
    check(&decisions);
    let told = decisions.tell("phone", None, 10_000);
    assert_eq!(told.len(), COLLECTIONS_MAX - 1 + DECISIONS_MAX);
    assert_eq!(decisions.tell("phone", None, 5), told[told.len() - 5..]);

    for number in 0..40_000 {
        let list = name(&format!("{long}/{number}"));
        let decided = [(list, pulled(number, Answer::Denied))];
        decisions.decided(&key(&number.to_string(), "me"), decided, now(number));
    }
    check(&decisions);
    assert!(decisions.bytes() > DECISIONS_BYTES_MAX - 2_000, "all of the room is used");
    assert!(decisions.tell("phone", None, 9).is_empty() && decisions.tell("0", None, 9).is_empty());
    assert_eq!(decisions.tell("39999", None, 9).len(), 1);
}
