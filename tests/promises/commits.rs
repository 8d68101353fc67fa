//! A commit happens as a whole or not at all, once, and says what it did.

use sync_proto::types::{Committed, Condition, Epoch, Version};
use sync_tests::compose::{
    commit, commit_if, delete, key, name, put, put_at, reorder, sort_key, version,
};
use sync_tests::server::TestServer;
use tokio_util::task::TaskTracker;
use tonic::Code;

/// G4, G11: each precondition holds or is refused by name, and what is refused changes nothing,
/// in none of the collections that it names.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_precondition_fails_changes_nothing() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    wire.commit(vec![put("list", "b", "1")]).await;
    wire.commit(vec![put("list", "gone", "1")]).await;
    wire.commit(vec![delete("list", "gone")]).await;
    let head = wire.head(&name("list")).await.unwrap();
    let other = Epoch::new(head.epoch.get() ^ 1);
    let head_at = |epoch, at| Condition::HeadEquals(epoch, version(at));
    let item_at = |k: &str, at| Condition::ItemVersionEquals(key(k), version(at));
    let fail = [
        ("list", Condition::CollectionAbsent),
        ("list", head_at(None, 3)),
        ("list", head_at(None, 5)),
        ("list", head_at(other, 4)),
        ("none", head_at(None, 1)),
        ("list", item_at("a", 2)),
        ("list", item_at("gone", 3)),
        ("none", item_at("a", 1)),
        ("list", Condition::ItemAbsent(key("a"))),
        ("list", Condition::ItemPresent(key("gone"))),
        ("none", Condition::ItemPresent(key("a"))),
    ];
    for (collection, condition) in fail {
        let why = format!("{collection} {condition:?}");
        let mut refused = commit_if(collection, condition, vec![put("list", "new", "1")]);
        refused.mutations.push(put("created by nobody", "a", "1"));
        let holds = sync_proto::types::Precondition {
            collection: name("list"),
            condition: Condition::ItemPresent(key("a")),
        };
        refused.preconditions.insert(0, holds);
        let status = wire.try_commit(refused).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{why}: {status}");
        assert!(status.message().starts_with("preconditions[1]: "), "{why}: {status}");
    }
    assert_eq!(wire.head(&name("list")).await, Some(head));
    assert_eq!(wire.head(&name("created by nobody")).await, None);
    let hold = [
        ("none", Condition::CollectionAbsent),
        ("list", head_at(None, 5)),
        ("list", head_at(Some(head.epoch), 6)),
        ("list", item_at("a", 1)),
        ("list", Condition::ItemAbsent(key("gone"))),
        ("list", Condition::ItemPresent(key("b"))),
    ];
    for (index, (collection, condition)) in hold.into_iter().enumerate() {
        let mutations = vec![put("list", format!("new {index}"), "1")];
        wire.try_commit(commit_if(collection, condition, mutations)).await.unwrap();
    }
    server.stop().await;
}

/// Preconditions are judged against the state before the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_does_not_judge_itself() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let create = || commit_if("list", Condition::ItemAbsent(key("a")), vec![put("list", "a", "1")]);
    wire.try_commit(create()).await.unwrap();
    let status = wire.try_commit(create()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let turn = commit_if("list", Condition::ItemPresent(key("a")), vec![delete("list", "a")]);
    wire.try_commit(turn).await.unwrap();
    wire.try_commit(create()).await.unwrap();
    server.stop().await;
}

/// What changes nothing is not a change: no version, no push, no creation.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changes_nothing_takes_no_version() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put_at("list", "a", "1", "place")]).await;
    let before = wire.head(&name("list")).await.unwrap();
    let nothing = [
        put("list", "a", "1"),
        put_at("list", "a", "1", "place"),
        delete("list", "none"),
        reorder("list", "a", "place"),
    ];
    for mutation in nothing {
        let done = wire.try_commit(commit(vec![mutation])).await.unwrap().remove(0);
        assert_eq!((done.prev_version, done.version), (version(1), version(1)), "{done:?}");
    }
    assert_eq!(wire.head(&name("list")).await.unwrap(), before);
    let done = wire.try_commit(commit(vec![delete("none", "a")])).await.unwrap().remove(0);
    let nowhere = Committed {
        collection: name("none"),
        epoch: None,
        prev_version: Version::ZERO,
        version: Version::ZERO,
    };
    assert_eq!(done, nowhere);
    assert_eq!(wire.head(&name("none")).await, None);
    server.stop().await;
}

/// G4: one commit gives one version to each collection that it changes, and says so, by name.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_tells_where_each_collection_stands() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("b", "x", "1")]).await;
    wire.commit(vec![put("b", "x", "2")]).await;
    let both = vec![put("b", "y", "1"), put("c", "x", "1"), put("a", "x", "1"), put("c", "y", "1")];
    let mut mutations = both;
    mutations.push(delete("d", "x"));
    let done = wire.try_commit(commit(mutations)).await.unwrap();
    let told: Vec<_> = done
        .iter()
        .map(|done| (done.collection.as_str(), done.prev_version.get(), done.version.get()))
        .collect();
    assert_eq!(told, [("a", 0, 1), ("b", 2, 3), ("c", 0, 1), ("d", 0, 0)]);
    for done in &done[..3] {
        let head = wire.head(&done.collection).await.unwrap();
        assert_eq!((Some(head.epoch), head.version), (done.epoch, done.version));
    }
    let c = wire.load("c").await;
    assert!(c.copy.rows.values().all(|row| row.version == version(1)), "one version for both");
    server.stop().await;
}

/// A put keeps an item's place unless it says another; a reorder keeps the value; both keep what
/// the item's versions tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_keeps_the_place_and_a_reorder_the_value() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put_at("list", "a", "1", "first")]).await;
    wire.commit(vec![put("list", "a", "2")]).await;
    wire.commit(vec![reorder("list", "a", "second")]).await;
    let row = wire.load("list").await.copy.rows[&key("a")].clone();
    assert_eq!((row.created, row.value_version, row.version), (version(1), version(2), version(3)));
    assert_eq!((row.sort_key, row.value.unwrap().as_bytes()), (sort_key("second"), &b"2"[..]));

    let missing = commit(vec![put("list", "b", "1"), reorder("list", "none", "x")]);
    let status = wire.try_commit(missing).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("mutations[1].reorder.key"), "{status}");
    wire.commit(vec![delete("list", "a")]).await;
    let dead = commit(vec![reorder("list", "a", "third")]);
    assert_eq!(wire.try_commit(dead).await.unwrap_err().code(), Code::FailedPrecondition);
    let head = wire.commit(vec![put("list", "a", "3")]).await;
    let row = wire.load("list").await.copy.rows[&key("a")].clone();
    assert_eq!((row.created, row.sort_key, head), (version(5), sort_key(""), version(5)));
    server.stop().await;
}

/// G2, G4: sixteen writers count up one number by compare-and-set; no increment is lost, no
/// version is given twice.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_lose_no_update() {
    const WRITERS: usize = 16;
    const EACH: usize = 20;
    let server = TestServer::start().await;
    server.wire().commit(vec![put("list", "count", "0")]).await;
    let tracker = TaskTracker::new();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let wire = server.new_connection();
            tracker.spawn(async move {
                let mut given = Vec::new();
                while given.len() < EACH {
                    let seen = wire.load("list").await;
                    let row = &seen.copy.rows[&key("count")];
                    let text = String::from_utf8(row.value.as_ref().unwrap().as_bytes().to_vec());
                    let next = text.unwrap().parse::<usize>().unwrap() + 1;
                    let condition = Condition::ItemVersionEquals(key("count"), row.version);
                    let step =
                        commit_if("list", condition, vec![put("list", "count", next.to_string())]);
                    if let Ok(done) = wire.try_commit(step).await {
                        given.push(done[0].version);
                    }
                }
                given
            })
        })
        .collect();
    let mut given = Vec::new();
    for writer in writers {
        given.extend(writer.await.unwrap());
    }
    given.sort_unstable();
    let expected = (2..=WRITERS * EACH + 1).map(|number| version(u64::try_from(number).unwrap()));
    assert!(given.into_iter().eq(expected), "versions follow each other, none twice");
    let count = server.wire().load("list").await.contents().into_values().next().unwrap();
    assert_eq!(String::from_utf8(count).unwrap(), (WRITERS * EACH).to_string());
    server.stop().await;
}
