//! Which clients are remembered, and how much of them.

use sync_proto::types::{Epoch, Version};

use super::*;

fn key(client_id: &str, subject: &str) -> ClientKey {
    ClientKey { client_id: client_id.to_owned(), subject: subject.to_owned() }
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn at(epoch: u64, version: u64) -> Cursor {
    Cursor::at(Epoch::new(epoch).unwrap(), Version::new(version).unwrap())
}

fn now(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// What the books say is what is there.
fn check(clients: &Clients) {
    let positions: usize = clients.by_key.values().map(|client| client.sent.len()).sum();
    let ordered: usize = clients.by_key.values().map(|client| client.sent_by_turn.len()).sum();
    assert_eq!(positions, ordered);
    let idle = clients.by_key.values().filter(|client| client.streams == 0 || client.bytes > 0);
    assert!(clients.by_turn.len() >= idle.count(), "what may be forgotten has its turn");
    let of_client = |(key, client): (&Arc<ClientKey>, &Client)| {
        let sent: usize = client.sent.keys().map(position_bytes).sum();
        assert_eq!(sent, client.bytes);
        assert!(client.sent.len() <= POSITIONS_MAX);
        client_bytes(key) + sent
    };
    assert_eq!(clients.by_key.iter().map(of_client).sum::<usize>(), clients.bytes());
    assert!(clients.bytes() <= CLIENTS_BYTES_MAX);
}

/// The newest cursor counts, whatever was sent again later; another epoch is another life.
#[test]
fn the_newest_cursor_is_remembered() {
    let mut clients = Clients::default();
    let (phone, list) = (key("phone", "alice"), name("list"));
    for (sent, newest) in [(3, 3), (9, 9), (5, 9), (9, 9)] {
        clients.sent(&phone, [(list.clone(), at(7, sent))], now(1));
        assert_eq!(clients.newest_sent(&phone, &list), Some(at(7, newest)));
    }
    clients.sent(&phone, [(list.clone(), at(8, 1))], now(2));
    assert_eq!(clients.newest_sent(&phone, &list), Some(at(8, 1)));
    assert_eq!(clients.newest_sent(&phone, &name("other")), None);
    for other in [key("phone", "bob"), key("phone", ""), key("tablet", "alice")] {
        assert_eq!(clients.newest_sent(&other, &list), None, "G10: {other:?}");
    }
    check(&clients);
}

/// G8: however many clients come, only so much is remembered, of the newest of them.
#[test]
fn clients_are_bounded() {
    let mut clients = Clients::default();
    let long = "x".repeat(500);
    let count = 60_000;
    for number in 0..count {
        let list = name(&format!("{long}/{number}"));
        clients.sent(&key(&number.to_string(), "me"), [(list, at(7, 1))], now(number));
        if number % 10_007 == 0 {
            check(&clients);
        }
    }
    check(&clients);
    assert!(clients.len() < 40_000, "{}", clients.len());
    assert!(clients.bytes() > CLIENTS_BYTES_MAX - 2_000, "all of the room is used");
    let first_kept = count - clients.len() as u64;
    let known = |number: u64| {
        clients.newest_sent(&key(&number.to_string(), "me"), &name(&format!("{long}/{number}")))
    };
    assert_eq!((known(first_kept), known(first_kept - 1)), (Some(at(7, 1)), None));
}

/// G8: one client that reads ever more collections does not push all others out.
#[test]
fn positions_of_a_client_are_bounded() {
    let mut clients = Clients::default();
    clients.sent(&key("other", ""), [(name("list"), at(7, 1))], now(0));
    let many = |from: u64| (from..from + 256).map(|number| (name(&number.to_string()), at(7, 1)));
    let most = POSITIONS_MAX as u64;
    for from in (0..3 * most).step_by(256) {
        clients.sent(&key("one", ""), many(from), now(1));
    }
    check(&clients);
    assert_eq!(clients.newest_sent(&key("other", ""), &name("list")), Some(at(7, 1)));
    let known = |number: u64| clients.newest_sent(&key("one", ""), &name(&number.to_string()));
    assert_eq!((known(2 * most), known(2 * most - 1)), (Some(at(7, 1)), None));
}

/// G8: a client with a stream is never lost, but what it was sent may be.
#[test]
fn clients_with_streams_stay() {
    let mut clients = Clients::default();
    let watcher = key("watcher", "");
    clients.stream_opened(&watcher, now(0));
    clients.stream_opened(&watcher, now(0));
    clients.sent(&watcher, [(name("list"), at(7, 1))], now(0));
    for number in 0..100_000_u64 {
        clients.sent(&key(&number.to_string(), ""), [(name("list"), at(7, 1))], now(1));
    }
    check(&clients);
    assert_eq!(clients.newest_sent(&watcher, &name("list")), None);
    assert_eq!(clients.list("watcher", None, 9), std::slice::from_ref(&watcher));
    let known = clients.known(&watcher, 9).unwrap();
    assert_eq!((known.streams, known.last_seen), (2, now(0)));
    clients.stream_closed(&watcher, now(5));
    clients.stream_closed(&watcher, now(6));
    assert_eq!(clients.known(&watcher, 9).unwrap().streams, 0);
    // More streams than there is room for: nothing is forgotten but what was sent.
    let mut clients = Clients::default();
    for number in 0..100_000_u64 {
        clients.stream_opened(&key(&number.to_string(), ""), now(1));
    }
    assert_eq!(clients.len(), 100_000);
}

/// Pages of every size hold every client once, in order, also while others come and go.
#[test]
fn pages_of_clients_miss_none() {
    let mut clients = Clients::default();
    for client_id in ["a", "ab", "ab", "b", "c"] {
        for subject in ["", "x", "y"] {
            clients.sent(&key(client_id, subject), [(name("list"), at(7, 1))], now(1));
        }
    }
    for (prefix, wanted) in [("", 12), ("a", 6), ("ab", 3), ("b", 3), ("d", 0)] {
        for most in 1..14 {
            let (mut after, mut found) = (None, Vec::new());
            loop {
                let page = clients.list(prefix, after.as_ref(), most);
                let Some(last) = page.last() else { break };
                let sealed = token(prefix, last);
                assert!(position(&sealed, "other").is_err());
                after = position(&sealed, prefix).unwrap();
                assert_eq!(after.as_ref(), Some(last));
                found.extend(page);
            }
            assert_eq!(found.len(), wanted, "{prefix} by {most}");
            assert!(found.is_sorted());
        }
    }
}
