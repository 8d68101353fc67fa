//! With an idempotency key, a commit that is sent again happens once.

use sync_proto::types::{Commit, Condition};
use sync_tests::compose::{commit_if, name, put, version};
use sync_tests::server::TestServer;
use sync_tests::wait::until_true;
use tokio_util::task::TaskTracker;
use tonic::Code;

fn keyed(key: &str, value: &str) -> Commit {
    let mutations = vec![put("list", "a", value), put("other", "a", value)];
    Commit { mutations, idempotency_key: key.to_owned(), ..Commit::default() }
}

/// G4: a retry returns the first answer and changes nothing, also after a restart and after
/// others have written; the same key with another request is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_returns_the_first_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = TestServer::on_disk(dir.path(), |_| {}).await;
    let first = server.wire().commit_reply(keyed("once", "1")).await.unwrap();
    assert!(!first.replayed);
    server.wire().commit(vec![put("list", "a", "between")]).await;
    for round in 0..2 {
        let again = server.wire().commit_reply(keyed("once", "1")).await.unwrap();
        assert!(again.replayed, "round {round}");
        assert_eq!(again.collections, first.collections);
        let refusal = server.wire().commit_reply(keyed("once", "2")).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().starts_with("idempotency_key: "), "{refusal}");
        server.stop().await;
        server = TestServer::on_disk(dir.path(), |_| {}).await;
    }
    let contents = server.wire().load("list").await.contents();
    assert_eq!(contents[&b"a"[..]], b"between", "nothing was written again");
    assert_eq!(server.wire().head(&name("list")).await.unwrap().version, version(2));
    server.stop().await;
}

/// G4: twenty copies of one request at the same moment are one commit.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_duplicates_happen_once() {
    let server = TestServer::start().await;
    let tracker = TaskTracker::new();
    for round in 0..5u64 {
        let value = round.to_string();
        let copies: Vec<_> = (0..20)
            .map(|_| {
                let (wire, request) = (server.new_connection(), keyed(&value, &value));
                tracker.spawn(async move { wire.commit_reply(request).await.unwrap() })
            })
            .collect();
        let mut first = 0;
        for copy in copies {
            let reply = copy.await.unwrap();
            first += usize::from(!reply.replayed);
            assert!(reply.collections.iter().all(|c| c.version == round + 1), "{reply:?}");
        }
        assert_eq!(first, 1, "one of them was the first");
    }
    server.stop().await;
}

/// A key protects what happened: a refused commit leaves it free. And it protects for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_free_after_a_refusal_and_after_its_window() {
    let server = TestServer::with(|config| config.idempotency_window_s = 1).await;
    let wire = server.wire();
    let refused = commit_if(
        "list",
        Condition::ItemPresent(sync_tests::compose::key("a")),
        vec![put("list", "a", "0")],
    );
    let refused = Commit { idempotency_key: "key".to_owned(), ..refused };
    wire.commit_reply(refused.clone()).await.unwrap_err();
    let first = wire.commit_reply(keyed("key", "1")).await.unwrap();
    assert!(!first.replayed);
    wire.commit(vec![put("list", "a", "between")]).await;
    until_true("the window to pass", async || {
        !wire.commit_reply(keyed("key", "1")).await.unwrap().replayed
    })
    .await;
    assert_eq!(wire.head(&name("list")).await.unwrap().version, version(3));
    server.stop().await;
}

/// Keys are counted: above the most that is kept, the oldest go although their window has not
/// passed.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_keys_is_bounded() {
    let server = TestServer::with(|config| config.idempotency_keys_max = 5).await;
    let wire = server.wire();
    for number in 0..20 {
        let number = number.to_string();
        wire.commit_reply(keyed(&number, &number)).await.unwrap();
    }
    until_true("the oldest key to be forgotten", async || {
        let other = wire.commit_reply(keyed("0", "another request")).await;
        other.is_ok()
    })
    .await;
    let newest = wire.commit_reply(keyed("19", "19")).await.unwrap();
    assert!(newest.replayed, "the newest is still kept");
    server.stop().await;
}
