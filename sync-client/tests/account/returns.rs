//! A device that comes back: what it costs to catch up on a few of thousands, also when the inbox
//! cannot be continued, and collections that the inbox does not announce.

use std::collections::BTreeSet;

use super::*;

/// 5,000 collections are followed, 3 have changed: the inbox by the stream and one pull.
#[tokio::test]
async fn three_of_five_thousand_cost_one_pull() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("account.redb");
    let server = server_with(5_000).await;
    let running = Running::start(&server, DiskStore::open(&path).unwrap());
    running.settle().await;
    running.end().await;
    {
        let mut state = server.state.lock();
        let asked: usize = state.asked.iter().map(Vec::len).sum();
        eprintln!("first: {} pulls, {asked} targets, {} bytes", state.pulls, state.answered_bytes);
        assert!(state.pulls < 60, "{} pulls", state.pulls);
        (state.pulls, state.answered_bytes) = (0, 0);
        state.asked.clear();
    }
    for of in ["c/17", "c/170", "c/4999"] {
        put(&server, &name(of), "b", "2");
    }
    let running = Running::start(&server, DiskStore::open(&path).unwrap());
    running.settle().await;
    for of in ["c/17", "c/170", "c/4999"] {
        running.assert_right(&server, of);
    }
    let counted = running.account.session_stats();
    running.end().await;
    let state = server.state.lock();
    let asked: BTreeSet<_> = state.asked.iter().flatten().map(CollectionName::as_str).collect();
    eprintln!(
        "then: {} pulls, {} bytes pulled, {} bytes",
        state.pulls, state.answered_bytes, counted.bytes_received
    );
    // And one question whether anything has moved that no inbox announces.
    assert_eq!(asked, BTreeSet::from(["c/17", "c/170", "c/4999", "inbox/ada"]));
    assert_eq!((counted.pulls, state.pulls), (1, 2));
    assert!(counted.bytes_received < 2_048, "{counted:?}");
}

/// A device is away for so long that the inbox has forgotten its unfollows: the inbox is repaired
/// by what differs, and only collections that moved are asked for.
#[tokio::test]
async fn away_for_longer_than_the_retention_costs_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("account.redb");
    let server = server_with(300).await;
    let running = Running::start(&server, DiskStore::open(&path).unwrap());
    running.settle().await;
    running.end().await;
    {
        let mut state = server.state.lock();
        state.server.unfollow(&subject().inbox(), &name("c/5"));
        state.server.purge(&subject().inbox());
        state.asked.clear();
    }
    for of in ["c/17", "c/170"] {
        put(&server, &name(of), "b", "2");
    }
    server.state.lock().server.rotate(&subject().inbox());
    let running = Running::start(&server, DiskStore::open(&path).unwrap());
    assert_eq!(running.account.list().len(), 300, "shown as it was");
    running.settle().await;
    assert_eq!(running.account.list().len(), 299);
    assert!(running.copy("c/5").is_empty(), "the unfollow was not missed");
    running.assert_right(&server, "c/17");
    let counted = running.account.session_stats();
    running.end().await;
    let state = server.state.lock();
    let asked: BTreeSet<_> = state.asked.iter().flatten().map(CollectionName::as_str).collect();
    let inbox = subject().inbox();
    assert_eq!(asked, BTreeSet::from(["c/17", "c/170", inbox.as_str()]));
    assert!(state.rounds > 0 && counted.loads == 0, "{counted:?}");
}

/// Collections that the inbox does not announce: their heads come with a pull, page by page, or by
/// notices of the stream.
#[tokio::test]
async fn hot_collections_are_followed_by_polled_heads_and_notices() {
    let server = server_with(8).await;
    for number in 0..6 {
        server.state.lock().server.set_hot(&name(&format!("c/{number}")), true);
    }
    let running = Running::start(&server, MemoryStore::new());
    running.settle().await;
    for number in 0..6 {
        put(&server, &name(&format!("c/{number}")), "hot", "2");
    }
    let right = |number: usize| {
        let of = name(&format!("c/{number}"));
        let head = server.state.lock().server.collections[&of].head();
        running.copy(of.as_str()).standing().cursor == Some(head.cursor())
    };
    until("notices are followed", || (0..6).all(right)).await;
    assert!(running.account.stats().polled >= 6, "{:?}", running.account.stats());
    // It cools down: what the inbox says then is known already.
    let asked = running.account.stats().asked;
    server.state.lock().server.set_hot(&name("c/0"), false);
    put(&server, &name("c/7"), "b", "2");
    until("the inbox has come", || right(7)).await;
    assert_eq!(running.account.stats().asked, asked + 1);
    running.end().await;
}

/// Two devices of one subject are told apart, and each is as far as it is.
#[tokio::test]
async fn each_device_has_its_own_place() {
    let server = server_with(4).await;
    let first = Running::start(&server, MemoryStore::new());
    first.settle().await;
    let inbox = subject().inbox();
    let acked = |device: &Running| {
        let id = device.account.client_id().to_owned();
        server.state.lock().acks.get(&(id, inbox.clone())).copied()
    };
    until("the first has acknowledged", || acked(&first).is_some_and(|at| at.version.get() == 4))
        .await;
    let (id, place) = (first.account.client_id().to_owned(), acked(&first));
    first.end().await;
    put(&server, &name("c/1"), "b", "2");
    let second = Running::start(&server, MemoryStore::new());
    second.settle().await;
    assert_ne!(second.account.client_id(), id);
    until("the second has, too", || acked(&second).is_some_and(|at| at.version.get() == 5)).await;
    assert_eq!(server.state.lock().acks.get(&(id, inbox.clone())).copied(), place);
    second.end().await;
}
