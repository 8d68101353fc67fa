//! Acks and clients at the door: what is sent arrives, what makes no sense is refused by name.
#![allow(clippy::unwrap_used, reason = "tests")]

use sync_proto::limits::{ACK_POSITIONS_MAX, ID_LEN_MAX};
use sync_proto::types::{
    Ack, ClientInfo, ClientPosition, CollectionName, Cursor, Decision, Epoch, Explanation, Pull,
    ResetReason, Subscribe, Timestamp, Version,
};
use sync_proto::v1;

fn position(number: usize) -> v1::AckedCursor {
    let cursor = Some(v1::Cursor { epoch: 7, version: number as u64 + 1, base: 0 });
    v1::AckedCursor { collection: format!("c/{number}"), cursor }
}

fn ack(client_id: &str, acked: Vec<v1::AckedCursor>) -> v1::AckRequest {
    v1::AckRequest { client_id: client_id.to_owned(), acked }
}

/// G11: every field of an ack is checked by name; at the limit it passes, one beyond it does not.
#[test]
fn an_ack_is_checked_field_by_field() {
    let refused = |request: v1::AckRequest| Ack::try_from(request).unwrap_err().field;
    let many = |count| (0..count).map(position).collect::<Vec<_>>();
    assert!(Ack::try_from(ack(&"x".repeat(ID_LEN_MAX), many(ACK_POSITIONS_MAX))).is_ok());
    for (request, field) in [
        (ack("", many(1)), "client_id"),
        (ack(&"x".repeat(ID_LEN_MAX + 1), many(1)), "client_id"),
        (ack("a\nb", many(1)), "client_id"),
        (ack("me", Vec::new()), "acked"),
        (ack("me", many(ACK_POSITIONS_MAX + 1)), "acked"),
        (ack("me", vec![position(0), position(1), position(0)]), "acked[2].collection"),
    ] {
        assert_eq!(refused(request), field);
    }
    let bad = |change: fn(&mut v1::AckedCursor)| {
        let mut second = position(1);
        change(&mut second);
        refused(ack("me", vec![position(0), second]))
    };
    assert_eq!(bad(|at| at.collection.clear()), "acked[1].collection");
    assert_eq!(bad(|at| at.cursor = None), "acked[1].cursor");
    assert_eq!(bad(|at| at.cursor = Some(v1::Cursor::default())), "acked[1].cursor");
    assert_eq!(bad(|at| at.cursor.as_mut().unwrap().epoch = 0), "acked[1].cursor.epoch");
    assert_eq!(bad(|at| at.cursor.as_mut().unwrap().version = 1 << 63), "acked[1].cursor.version");
}

/// A cursor with a load under way arrives with its base.
#[test]
fn what_is_acknowledged_arrives_as_it_was() {
    let mut loading = position(3);
    loading.cursor.as_mut().unwrap().base = 90;
    let wire = ack("me", vec![position(0), loading]);
    assert_eq!(v1::AckRequest::from(Ack::try_from(wire.clone()).unwrap()), wire);
}

/// G11: whoever has no name has no cursor at the server; the target says so, not the call.
#[test]
fn a_held_cursor_needs_a_client_id() {
    let target = |name: &str, from_last_ack| v1::Target {
        collection: name.to_owned(),
        from_last_ack,
        ..v1::Target::default()
    };
    let targets = vec![target("a", false), target("b", true)];
    let pull = |client_id: &str| {
        let (targets, client_id) = (targets.clone(), client_id.to_owned());
        Pull::try_from(v1::PullRequest { targets, client_id, ..Default::default() }).unwrap()
    };
    assert!(pull("me").targets.iter().all(Result::is_ok));
    let anonymous = pull("").targets;
    assert!(anonymous[0].is_ok());
    assert_eq!(anonymous[1].as_ref().unwrap_err().field, "targets[1].from_last_ack");
    let subscribe = |client_id: &str| {
        let (targets, client_id) = (targets.clone(), client_id.to_owned());
        Subscribe::try_from(v1::SubscribeRequest { targets, client_id, ..Default::default() })
    };
    assert!(subscribe("me").is_ok());
    assert_eq!(subscribe("").unwrap_err().field, "targets[1].from_last_ack");
}

#[test]
fn a_client_arrives_as_it_was() {
    let cursor = Cursor::at(Epoch::new(7).unwrap(), Version::new(3).unwrap());
    let name = |name: &str| CollectionName::new(name).unwrap();
    let time = Timestamp::from_millis(99);
    let at = |name, sent, acked: Option<Cursor>| {
        let acked_at = acked.map(|_| time);
        ClientPosition { collection: name, sent, acked, acked_at, head: Some(cursor), behind: 9 }
    };
    let client = ClientInfo {
        client_id: "phone".to_owned(),
        subject: "alice".to_owned(),
        last_seen: Timestamp::from_millis(123_456),
        streams: 2,
        streams_lagging: 1,
        streams_parked: 1,
        positions: vec![at(name("a"), Some(cursor), None), at(name("b"), None, Some(cursor))],
        more_positions: true,
    };
    assert_eq!(ClientInfo::try_from(v1::ClientInfo::from(client.clone())).unwrap(), client);
    let decision = |reset_reason, answer: &str| Decision {
        time: Timestamp::from_millis(9_000),
        first_time: time,
        times: 3,
        subject: "alice".to_owned(),
        collection: name("a"),
        call: "pull".to_owned(),
        shown: Some(cursor),
        answer: answer.to_owned(),
        reset_reason,
        failed_code: 8,
        failed_reason: Some("LOADS_BUSY".to_owned()),
        first_shown: None,
        reached: None,
        bytes: 1,
    };
    let reset = decision(Some(ResetReason::BelowFloor), "reset");
    let decisions = vec![reset, decision(None, "delta")];
    let explained = Explanation { clients: vec![client], decisions };
    let wire = v1::ExplainClientResponse::from(explained.clone());
    assert_eq!(Explanation::try_from(wire).unwrap(), explained);
}
