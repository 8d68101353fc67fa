//! Acks in a ledger: all of a call or nothing, durable before they are told, forgotten in time.

use std::time::Duration;

use sync_proto::types::{Commit, Epoch, Key, Mutation, Op, Timestamp, Value, Version};

use super::*;
use crate::core::acks::{AckRefusal, AckRetention, Claim, Claims};
use crate::core::clients::Clients;
use crate::core::plan::Refusal;
use crate::core::request::Request;
use crate::engine::ledger::Settings;
use crate::engine::purging::Rest;
use crate::store::memory::{Fault, MemoryStore};

const EPOCH: u64 = 7;

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn client(client_id: &str, subject: &str) -> ClientKey {
    ClientKey { client_id: client_id.to_owned(), subject: subject.to_owned() }
}

fn at(version: u64) -> Cursor {
    Cursor::at(Epoch::new(EPOCH).unwrap(), Version::new(version).unwrap())
}

fn settings(age_s: u64, count_max: u64) -> Settings {
    let acks = AckRetention { age_max: Duration::from_secs(age_s), count_max };
    Settings { acks, ..Settings::default() }
}

fn put(collection: &str) -> Request {
    let key = Key::new("a").unwrap();
    let value = Value::new(rand::random::<[u8; 8]>().to_vec()).unwrap();
    let op = Op::Put { key, value, sort_key: None };
    let mutations = vec![Mutation { collection: name(collection), op }];
    Request::Commit { commit: Commit { mutations, ..Commit::default() }, fingerprint: [0; 16] }
}

fn ack(client: &ClientKey, positions: &[(&str, Cursor)]) -> Request {
    let claim = |(collection, cursor): &(&str, Cursor)| Claim {
        collection: name(collection),
        cursor: *cursor,
        sent: None,
    };
    let claims = positions.iter().map(claim).collect();
    Request::Ack(Claims { client: client.clone(), claims })
}

fn commit(
    ledger: &Ledger<MemoryStore>,
    requests: &[Request],
    seconds: u64,
) -> Result<Vec<Result<(), Refusal>>, StoreError> {
    let now = Timestamp::from_millis(1_000 * seconds);
    let group = ledger.commit(requests, now, &mut || Epoch::new(EPOCH).unwrap())?;
    Ok(group.answers.into_iter().map(|answer| answer.map(drop)).collect())
}

/// Collections `a` and `b` at version 3.
fn ledger(settings: Settings) -> Ledger<MemoryStore> {
    let ledger = Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap();
    for _ in 0..3 {
        for answer in commit(&ledger, &[put("a"), put("b")], 1).unwrap() {
            answer.unwrap();
        }
    }
    ledger
}

fn held(ledger: &Ledger<MemoryStore>, client: &ClientKey, collection: &str) -> Option<Cursor> {
    ledger.held(client, &name(collection)).unwrap().map(|held| held.cursor)
}

fn reopened(ledger: Ledger<MemoryStore>, settings: Settings) -> Ledger<MemoryStore> {
    Ledger::open(ledger.into_store().crash(), settings, &mut |_| {}).unwrap()
}

/// G4: one position that is wrong, and nothing of the call is held; others of the group are.
#[test]
fn a_call_is_taken_whole_or_not_at_all() {
    let ledger = ledger(Settings::default());
    let (phone, tablet) = (client("phone", ""), client("tablet", ""));
    let group = [
        ack(&phone, &[("a", at(1)), ("b", at(4))]),
        put("b"),
        ack(&tablet, &[("b", at(3)), ("a", at(2))]),
        ack(&phone, &[("b", at(4))]),
        ack(&phone, &[("gone", at(1))]),
    ];
    let answers = commit(&ledger, &group, 2).unwrap();
    let reason = |index: usize| match &answers[index] {
        Err(Refusal::Ack { index, reason }) => Some((*index, *reason)),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(0), Some((1, AckRefusal::AboveHead(at(3)))));
    // Version 4 is planned in the same group, and nobody has been shown it.
    assert_eq!(reason(3), Some((0, AckRefusal::AboveHead(at(3)))));
    assert_eq!(reason(4), Some((0, AckRefusal::NoCollection)));
    assert!(answers[1].is_ok() && answers[2].is_ok());
    assert_eq!((held(&ledger, &phone, "a"), held(&ledger, &phone, "b")), (None, None));
    assert_eq!(held(&ledger, &tablet, "a"), Some(at(2)));
    assert_eq!(ledger.totals().acks, 2);
    let again = reopened(ledger, Settings::default());
    assert_eq!(held(&again, &tablet, "b"), Some(at(3)));
    assert_eq!(again.totals().acks, 2);
}

/// G10: two subjects with the same client id, and two clients of one, are four strangers.
#[test]
fn nobody_moves_what_is_anothers() {
    let ledger = ledger(Settings::default());
    let clients = ["", "x", "x\0y", "x\0"].map(|subject| client("phone", subject));
    for (version, client) in (0..3).zip(&clients) {
        commit(&ledger, &[ack(client, &[("a", at(version + 1))])], 2).unwrap()[0].as_ref().unwrap();
    }
    for (version, client) in (0..3).zip(&clients) {
        assert_eq!(held(&ledger, client, "a"), Some(at(version + 1)));
    }
    assert_eq!(held(&ledger, &clients[3], "a"), None);
    let mut target = Target::all(name("a"), None);
    ledger.resume(&clients[1], &mut target).unwrap();
    assert_eq!(target.cursor, None, "who does not ask gets none");
    target.from_last_ack = true;
    ledger.resume(&clients[1], &mut target).unwrap();
    assert_eq!(target.cursor, Some(at(2)));
    ledger.resume(&clients[3], &mut target).unwrap();
    assert_eq!(target.cursor, None, "none is held: from scratch");
}

/// G3: an ack that is applied and not synced is shown to nobody; what a power cut leaves is
/// before or after it.
#[test]
fn an_ack_is_shown_when_it_is_durable() {
    for fault in [Fault::Before, Fault::After] {
        let ledger = ledger(Settings::default());
        let phone = client("phone", "");
        commit(&ledger, &[ack(&phone, &[("a", at(1))])], 2).unwrap()[0].as_ref().unwrap();
        ledger.store().fail_next_sync(fault);
        commit(&ledger, &[ack(&phone, &[("a", at(2))])], 2).unwrap_err();
        assert_eq!(held(&ledger, &phone, "a"), Some(at(1)), "{fault:?}");
        for keeping in [0, 1] {
            let left = ledger.store().crash_keeping(keeping);
            let again = Ledger::open(left, Settings::default(), &mut |_| {}).unwrap();
            let found = held(&again, &phone, "a").unwrap();
            assert!(found == at(1) || found == at(2), "{found:?}");
        }
    }
}

/// Everything that may be forgotten is; how many are left.
fn purge(ledger: &Ledger<MemoryStore>, seconds: u64) -> u64 {
    let now = Timestamp::from_millis(1_000 * seconds);
    while ledger.purge_step(now, &mut || true).unwrap() != Rest::Nothing {}
    ledger.totals().acks
}

/// What was not acknowledged for long is forgotten, and above the most that is held the oldest;
/// what was acknowledged again in between stays.
#[test]
fn old_acks_are_forgotten() {
    let settings = settings(100, 150);
    let ledger = ledger(settings);
    let phone = |number: u64| client(&number.to_string(), "");
    for number in 0..250 {
        let request = ack(&phone(number), &[("a", at(1))]);
        commit(&ledger, &[request], 10 + number / 10).unwrap()[0].as_ref().unwrap();
    }
    let small = ledger.purge_step(Timestamp::from_millis(35_000), &mut || false).unwrap();
    assert_eq!((small, ledger.totals().acks), (Rest::Surplus, 200), "a step is a small batch");
    assert_eq!(purge(&ledger, 35), 150);
    assert_eq!(
        (held(&ledger, &phone(99), "a"), held(&ledger, &phone(100), "a")),
        (None, Some(at(1)))
    );
    let again = ack(&phone(100), &[("a", at(1))]);
    commit(&ledger, &[again], 60).unwrap()[0].as_ref().unwrap();
    assert_eq!(purge(&ledger, 119), 150, "the oldest is from second 20");
    assert_eq!(purge(&ledger, 120), 141, "ten of that second, but one said it again");
    assert_eq!(held(&ledger, &phone(100), "a"), Some(at(1)));
    let ledger = reopened(ledger, settings);
    assert_eq!(ledger.totals().acks, 141, "the rows fit together");
    assert_eq!(purge(&ledger, 1_000), 0);
}

/// A collection that ends leaves its acks behind, and they mean nothing to a later one: the cursor
/// that is held is of another epoch.
#[test]
fn an_ack_ends_with_the_life_of_its_collection() {
    let ledger = ledger(Settings::default());
    let phone = client("phone", "");
    commit(&ledger, &[ack(&phone, &[("a", at(3))])], 2).unwrap()[0].as_ref().unwrap();
    ledger.delete_collection(&name("a"), None, Timestamp::from_millis(8)).unwrap().unwrap();
    let next = Epoch::new(8).unwrap();
    ledger.commit(&[put("a")], Timestamp::from_millis(9), &mut || next).unwrap();
    assert_eq!(held(&ledger, &phone, "a"), Some(at(3)), "of epoch 7, which no cursor matches");
    let late = &commit(&ledger, &[ack(&phone, &[("a", at(1))])], 3).unwrap()[0];
    assert!(
        matches!(late, Err(Refusal::Ack { reason: AckRefusal::OtherEpoch(_), .. })),
        "{late:?}"
    );
    let cursor = Cursor { epoch: next, ..at(1) };
    commit(&ledger, &[ack(&phone, &[("a", cursor)])], 3).unwrap()[0].as_ref().unwrap();
    assert_eq!(held(&ledger, &phone, "a"), Some(cursor), "a new epoch replaces the old one");
    reopened(ledger, Settings::default());
}

/// Operators see who is connected and who has acknowledged, each once, in order, page by page.
#[test]
fn clients_are_listed_whether_served_or_acking() {
    let ledger = ledger(Settings::default());
    let mut clients = Clients::default();
    let now = Timestamp::from_millis(9_000);
    clients.sent(&client("a", ""), [(name("a"), at(2))], now);
    clients.sent(&client("c", ""), [(name("a"), at(3)), (name("b"), at(1))], now);
    clients.stream_opened(&client("c", ""), now);
    for (who, collection, version) in [("b", "a", 1), ("c", "a", 2), ("d", "b", 3)] {
        let request = ack(&client(who, ""), &[(collection, at(version))]);
        commit(&ledger, &[request], 5).unwrap()[0].as_ref().unwrap();
    }
    for most in 1..6 {
        let (mut after, mut found): (Option<ClientKey>, Vec<ClientInfo>) = (None, Vec::new());
        loop {
            let known = clients.list("", after.as_ref(), most);
            let page = ledger.clients(known, "", after.as_ref(), most).unwrap();
            let describe = |key: ClientKey| {
                let known = clients.known(&key, 99);
                ledger.client(key, known).unwrap()
            };
            let page: Vec<_> = page.into_iter().map(describe).collect();
            let Some(last) = page.last() else { break };
            after = Some(client(&last.client_id, &last.subject));
            found.extend(page);
        }
        let ids: Vec<_> = found.iter().map(|client| client.client_id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c", "d"], "by {most}");
        let position = |client: usize, position: usize| {
            let at = &found[client].positions[position];
            (at.collection.as_str(), at.sent, at.acked, at.behind)
        };
        assert_eq!(position(0, 0), ("a", Some(at(2)), None, 1));
        assert_eq!(position(1, 0), ("a", None, Some(at(1)), 2));
        assert_eq!(position(2, 0), ("a", Some(at(3)), Some(at(2)), 1));
        assert_eq!(position(2, 1), ("b", Some(at(1)), None, 2));
        assert_eq!((found[1].last_seen.as_millis(), found[2].last_seen), (5_000, now));
        assert_eq!((found[1].streams, found[2].streams), (0, 1));
    }
    let of_c = ledger.clients(clients.list("c", None, 9), "c", None, 9).unwrap();
    assert_eq!(of_c.len(), 1);
}
