//! What an operator is told about a client that is behind.

use sync_client::types::{Epoch, Timestamp, Version};

use super::*;

fn at(version: u64) -> Cursor {
    Cursor::at(Epoch::new(7).unwrap(), Version::new(version).unwrap())
}

fn client(streams: u32) -> ClientInfo {
    ClientInfo {
        client_id: "phone".to_owned(),
        subject: "alice".to_owned(),
        last_seen: Timestamp::from_millis(1_000),
        streams,
        streams_lagging: 0,
        streams_parked: 0,
        positions: Vec::new(),
        more_positions: false,
    }
}

fn position(sent: u64, acked: Option<u64>, head: Option<u64>) -> ClientPosition {
    let from = acked.unwrap_or(sent);
    ClientPosition {
        collection: CollectionName::new("list").unwrap(),
        sent: Some(at(sent)),
        acked: acked.map(at),
        acked_at: None,
        head: head.map(at),
        behind: head.map_or(0, |head| head - from),
    }
}

fn failed(answer: &str, reason: Reason) -> Decision {
    Decision { failed_reason: Some(reason.as_str().to_owned()), ..decided(answer, None, 8) }
}

fn decided(answer: &str, reset_reason: Option<ResetReason>, failed_code: i32) -> Decision {
    Decision {
        time: Timestamp::from_millis(2_000),
        first_time: Timestamp::from_millis(1_000),
        times: 3,
        subject: "alice".to_owned(),
        collection: CollectionName::new("list").unwrap(),
        call: "pull".to_owned(),
        shown: Some(at(1)),
        first_shown: None,
        answer: answer.to_owned(),
        reset_reason,
        failed_code,
        failed_reason: None,
        reached: None,
        bytes: 0,
    }
}

/// Each way of being behind is told apart, with the reason in the words of the wire.
#[test]
fn every_way_of_being_behind_has_its_own_words() {
    let behind = position(3, None, Some(9));
    let cases = [
        (client(1), position(9, Some(9), Some(9)), None, Colour::Green, "in step"),
        (client(1), position(9, None, None), None, Colour::Yellow, "there is no such collection"),
        (client(1), position(9, Some(4), Some(9)), None, Colour::Yellow, "it was sent everything"),
        (client(1), behind.clone(), None, Colour::Yellow, "6 versions behind with a stream"),
        (client(0), behind.clone(), None, Colour::Yellow, "6 versions behind and not connected"),
        (
            ClientInfo { streams_lagging: 1, ..client(2) },
            behind.clone(),
            None,
            Colour::Yellow,
            "6 versions behind, and being caught up",
        ),
        (
            ClientInfo { streams_lagging: 1, streams_parked: 1, ..client(2) },
            behind.clone(),
            None,
            Colour::Red,
            "6 versions behind, and 1 of its 2 streams takes nothing",
        ),
        (
            client(0),
            behind.clone(),
            Some(decided("reset", Some(ResetReason::BelowFloor), 0)),
            Colour::Red,
            "reset below_floor, 3 times in a row: its cursor is older",
        ),
        (
            client(0),
            behind.clone(),
            Some(decided("reset", Some(ResetReason::EpochChanged), 0)),
            Colour::Red,
            "reset epoch_changed",
        ),
        (client(1), behind.clone(), Some(decided("denied", None, 0)), Colour::Red, "denied"),
        (client(1), behind.clone(), Some(decided("failed", None, 8)), Colour::Red, "failed code 8"),
        (client(1), behind, Some(decided("delta", None, 0)), Colour::Yellow, "6 versions behind"),
    ];
    judge(cases);
}

/// Who is not known to have what was sent is not called in step; who asks from the same place all the
/// time is stuck; and what was refused as a whole has its reason.
#[test]
fn what_is_not_known_is_not_said() {
    let behind = position(3, None, Some(9));
    judge([
        (client(1), position(9, None, Some(9)), None, Colour::Dim, "it was sent everything, and"),
        (
            client(1),
            position(9, None, Some(9)),
            Some(Decision { shown: Some(at(9)), ..decided("aligned", None, 0) }),
            Colour::Green,
            "in step",
        ),
        (
            client(0),
            position(9, None, Some(9)),
            Some(Decision {
                first_shown: Some(at(1)),
                reached: Some(at(9)),
                ..decided("delta", None, 0)
            }),
            Colour::Red,
            "3 times in a row it showed",
        ),
        (
            client(0),
            behind.clone(),
            Some(failed("failed", Reason::LoadsBusy)),
            Colour::Red,
            "failed LOADS_BUSY, 3 times in a row: first loads",
        ),
        (
            client(0),
            behind.clone(),
            Some(failed("refused", Reason::StreamsTaken)),
            Colour::Red,
            "refused STREAMS_TAKEN, 3 times in a row: as many streams",
        ),
    ]);
}

/// Says of each of these what is to be said.
fn judge<const N: usize>(cases: [(ClientInfo, ClientPosition, Option<Decision>, Colour, &str); N]) {
    for (client, at, last, colour, words) in cases {
        let said = verdict(&client, &at, last.as_ref());
        assert_eq!(said.colour, colour, "{said:?}");
        assert!(said.text.starts_with(words), "{words}: {said:?}");
    }
}

/// The last decision about that collection counts, of that subject.
#[test]
fn another_subject_is_another_client() {
    let of_bob = Decision { subject: "bob".to_owned(), ..decided("denied", None, 0) };
    let mut alice = client(0);
    alice.positions.push(position(3, None, Some(9)));
    let explained = Explanation { clients: vec![alice], decisions: vec![of_bob] };
    let said: Vec<_> = verdicts(&explained).map(|(_, _, verdict)| verdict.colour).collect();
    assert_eq!(said, [Colour::Yellow]);
}
