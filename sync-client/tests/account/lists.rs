//! What an account shows, and what becomes of copies.

use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, TableDefinition};

use super::*;

/// Follow, change, look, unfollow, delete, deny: the list tells each, and the copy is dropped,
/// kept empty, or kept.
#[tokio::test]
async fn the_list_tells_what_happens_and_copies_go_as_documented() {
    let server = server_with(3).await;
    let running = Running::start(&server, MemoryStore::new());
    running.settle().await;
    assert_eq!(running.account.list().len(), 3);
    for of in ["c/0", "c/1", "c/2"] {
        assert_eq!(running.state(of), Some(FollowState::Current));
        running.assert_right(&server, of);
    }
    let copy = running.copy("c/0");
    let mut feed = copy.subscribe().await;
    assert_eq!(*copy.status().borrow(), Status::Live);
    copy.wait_until_ready(SOON).await.unwrap();
    let mut changes = running.account.changes();

    server.state.lock().server.unfollow(&subject().inbox(), &name("c/0"));
    let Difference::Deleted { key: gone, .. } = feed.next().await.unwrap().unwrap() else {
        panic!()
    };
    assert_eq!(gone, key("a"));
    until("it is unfollowed", || running.state("c/0").is_none()).await;
    assert!(copy.is_empty() && copy.standing().cursor.is_none());
    assert_eq!(*copy.status().borrow(), Status::NotFollowed);
    let mut told = Vec::new();
    while let Some(change) = changes.next_now() {
        told.push(change);
    }
    assert!(matches!(&told[..], [ListChange::Unfollowed(one)] if one.name == name("c/0")));

    server.state.lock().server.delete_collection(&name("c/1"));
    until("it is deleted", || running.state("c/1") == Some(FollowState::Deleted)).await;
    assert!(running.copy("c/1").is_empty());

    server.state.lock().denied.insert(name("c/2"));
    put(&server, &name("c/2"), "b", "2");
    until("it is denied", || running.state("c/2") == Some(FollowState::Denied)).await;
    assert_eq!(running.copy("c/2").len(), 1, "kept as it was");
    assert_eq!(*running.copy("c/2").status().borrow(), Status::Denied);

    // It is created again, and loads by itself; followed again, the first comes back.
    put(&server, &name("c/1"), "again", "1");
    server.state.lock().server.follow(&subject().inbox(), &name("c/0"));
    running.settle().await;
    until("both are back", || {
        ["c/0", "c/1"].map(|of| running.state(of)) == [const { Some(FollowState::Current) }; 2]
    })
    .await;
    running.assert_right(&server, "c/0");
    running.assert_right(&server, "c/1");
    running.end().await;
    assert_eq!(*copy.status().borrow(), Status::Stopped);
}

/// Everything is shown from disk before the network answers, and the device keeps its name.
#[tokio::test]
async fn the_list_and_the_copies_are_there_before_the_network_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("account.redb");
    let server = server_with(20).await;
    let running = Running::start(&server, DiskStore::open(&path).unwrap());
    running.settle().await;
    let (list, device) = (running.account.list(), running.account.client_id().to_owned());
    running.end().await;
    server.stop();

    let running = Running::start(&server, DiskStore::open(&path).unwrap());
    assert_eq!(running.account.list(), list);
    assert_eq!(running.copy("c/7").reader().get(&key("a")).unwrap().unwrap(), "1");
    assert_eq!(running.account.client_id(), device);
    let summary: Summary = *running.account.summary().borrow();
    assert_eq!((summary.followed, summary.pending), (20, 0));
    running.end().await;
}

/// A collection whose answers do not parse, or fail, is tried again by itself; others go on.
#[tokio::test]
async fn a_poison_collection_never_blocks_the_others() {
    let server = server_with(10).await;
    server.state.lock().garbled.insert(name("c/3"));
    server.state.lock().poison.insert(name("c/4"));
    let running = Running::start(&server, MemoryStore::new());
    let failed = |of: &str| matches!(running.state(of), Some(FollowState::Failed { .. }));
    until("all others are current", || {
        let summary: Summary = *running.account.summary().borrow();
        summary.pending == 2 && failed("c/3") && failed("c/4")
    })
    .await;
    put(&server, &name("c/5"), "b", "2");
    let five = server.state.lock().server.collections[&name("c/5")].head().cursor();
    running.copy("c/5").wait_for(five, SOON).await.unwrap();
    let inbox = subject().inbox();
    let acked = || {
        let id = running.account.client_id().to_owned();
        server.state.lock().acks.get(&(id, inbox.clone())).map(|at| at.version.get())
    };
    // Each follow is a version of the inbox, so the fourth asks for the first poison.
    until("what is done is acknowledged", || acked() == Some(3)).await;

    server.state.lock().garbled.clear();
    server.state.lock().poison.clear();
    running.account.look_at(&[name("c/3"), name("c/4")]);
    running.settle().await;
    running.assert_right(&server, "c/3");
    running.assert_right(&server, "c/4");
    let head = || server.state.lock().server.collections[&inbox].head().version.get();
    until("all is acknowledged", || acked() == Some(head())).await;
    running.end().await;
}

/// Reads and writes of the application in the same file are its own (G-rule: never touched).
#[tokio::test]
async fn tables_of_the_application_are_never_touched() {
    const OURS: TableDefinition<'_, &str, &str> = TableDefinition::new("drafts");
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::create(dir.path().join("app.redb")).unwrap());
    let write = database.begin_write().unwrap();
    write.open_table(OURS).unwrap().insert("chat 7", "dear").unwrap();
    write.commit().unwrap();

    let server = server_with(3).await;
    let running = Running::start(&server, DiskStore::from_database(database.clone()).unwrap());
    running.settle().await;
    for of in ["c/0", "c/1", "c/2"] {
        server.state.lock().server.unfollow(&subject().inbox(), &name(of));
    }
    until("all are gone", || running.account.list().is_empty()).await;
    running.end().await;
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(OURS).unwrap().get("chat 7").unwrap().unwrap().value(), "dear");
}

/// What is looked at is carried by the stream: its changes come without a pull.
#[tokio::test]
async fn what_is_looked_at_is_live() {
    let server = server_with(5).await;
    let running = Running::start(&server, MemoryStore::new());
    running.settle().await;
    running.account.look_at(&[name("c/2"), name("not/followed")]);
    until("the stream carries it", || server.state.lock().shown.contains_key(&name("c/2"))).await;
    let copy = running.copy("c/2");
    let mut feed = copy.subscribe().await;
    let pulls = || running.account.session_stats().pulls;
    let before = pulls();
    put(&server, &name("c/2"), "b", "2");
    let Difference::Inserted(item) = feed.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(item.key, key("b"));
    running.settle().await;
    // What the stream brings later than it should, on a slow machine, is asked for once.
    assert!(pulls() <= before + 1, "no pull is needed");

    running.account.look_at(&[]);
    let streamed = || server.state.lock().shown.contains_key(&name("c/2"));
    until("the stream does not carry it any more", || !streamed()).await;
    let before = pulls();
    put(&server, &name("c/2"), "c", "3");
    let Difference::Inserted(item) = feed.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(item.key, key("c"));
    until("it is asked for", || pulls() > before).await;
    running.end().await;
}
