//! Whoever shows a cursor gets exactly one answer, and the right one, by pull and by
//! subscription alike. The order of the decisions: authorise, exists, epoch, ahead, equal,
//! floor, page.

use sync_proto::types::{Cursor, Epoch, Event, Head, Outcome, Plan, ResetReason, Target};
use sync_proto::v1;
use sync_tests::compose::{after, delete, name, put, scratch, version};
use sync_tests::reader::PlainReader;
use sync_tests::server::{TestServer, copy_dir};
use sync_tests::wait::until;
use sync_tests::wire::Wire;
use tonic::Code;

/// A collection of 60 versions whose floor is 50: 40 puts, then 20 deletes, of which the server
/// remembers 10.
async fn purged() -> (TestServer, Head) {
    let server = TestServer::with(|config| config.tombstones_max = 10).await;
    let wire = server.wire();
    for item in 0..40 {
        wire.commit(vec![put("list", format!("item {item:02}"), "value")]).await;
    }
    for item in 0..20 {
        wire.commit(vec![delete("list", format!("item {item:02}"))]).await;
    }
    let head = until("the floor to rise to 50", async || {
        wire.head(&name("list")).await.filter(|head| head.floor == version(50))
    })
    .await;
    assert_eq!((head.version, head.items, head.tombstones), (version(60), 20, 10));
    (server, head)
}

fn at(head: &Head, number: u64) -> Cursor {
    Cursor::at(head.epoch, version(number))
}

fn loading(head: &Head, number: u64, base: u64) -> Cursor {
    Cursor { base: version(base), ..at(head, number) }
}

/// What becomes of one target, by pull and by the first message of a subscription.
async fn both(wire: &Wire, target: Target) -> (Outcome, Plan) {
    let outcome = wire.pull_one(target.clone()).await;
    let plan = wire.subscribe(vec![target]).await.accepted().await.remove(0).plan;
    (outcome, plan)
}

#[track_caller]
fn assert_reset((outcome, plan): (Outcome, Plan), reason: ResetReason) {
    let Outcome::Reset(pulled) = outcome else { panic!("{reason:?} was due, not {outcome:?}") };
    assert_eq!(pulled.reason, reason);
    let Plan::Reset(told) = plan else { panic!("{reason:?} was due, not {plan:?}") };
    assert_eq!(told.reason, reason);
    assert_eq!(
        (pulled.estimated_changes, pulled.estimated_bytes),
        (pulled.head.items, pulled.head.bytes)
    );
}

#[track_caller]
fn assert_served((outcome, plan): (Outcome, Plan), changes: usize, how: &Plan) {
    let Outcome::Delta(delta) = outcome else { panic!("a delta was due, not {outcome:?}") };
    assert_eq!((delta.changes.len(), delta.unverified), (changes, false));
    assert_eq!(&plan, how);
}

/// G5, G6, T01, T02, X12: at the floor every delete is still there, below it the cursor is
/// refused; a first load is judged by the head at which it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_below_the_floor_never_yields_a_plain_delta() {
    let (server, head) = purged().await;
    let wire = server.wire();
    for below in [1, 30, 49] {
        assert_reset(both(wire, after("list", at(&head, below))).await, ResetReason::BelowFloor);
    }
    assert_served(both(wire, after("list", at(&head, 50))).await, 10, &Plan::CatchUp);
    assert_served(both(wire, after("list", at(&head, 59))).await, 1, &Plan::CatchUp);
    assert_served(both(wire, after("list", loading(&head, 25, 50))).await, 25, &Plan::Load);
    let begun_earlier = after("list", loading(&head, 25, 49));
    assert_reset(both(wire, begun_earlier).await, ResetReason::BelowFloor);
    server.stop().await;
}

/// G5, G9: who compares digests may go on below the floor, is told that deletes may be missing,
/// finds out, and ends with the server's items.
#[tokio::test(flavor = "multi_thread")]
async fn with_verify_an_old_cursor_gets_an_unverified_delta() {
    let (server, head) = purged().await;
    let wire = server.wire();
    let target = Target { verify: true, ..after("list", at(&head, 45)) };
    let (outcome, plan) = both(wire, target.clone()).await;
    let Outcome::Delta(delta) = outcome else { panic!("a delta was due, not {outcome:?}") };
    assert!(delta.unverified && delta.digest == Some(head.digest), "{delta:?}");
    assert_eq!(plan, Plan::CatchUp);

    let mut stale = wire.load("list").await;
    let kept: Vec<_> = stale.copy.rows.keys().cloned().collect();
    stale.target = target;
    stale.catch_up(wire).await;
    assert_eq!(stale.seen.resets, 0, "nothing was missing, the digest says so");
    assert!(stale.copy.rows.keys().eq(&kept));
    // The same cursor, but this copy still has an item whose delete was forgotten.
    let (server, mut ghost) = with_a_ghost().await;
    ghost.catch_up(server.wire()).await;
    assert_eq!(ghost.seen.resets, 1, "the digest tells that a delete is missing");
    assert!(ghost.copy == server.wire().load("list").await.copy);
    server.stop().await;
}

/// A reader that verifies, whose cursor lies below the floor, and that holds an item which has
/// been deleted and forgotten since.
async fn with_a_ghost() -> (TestServer, PlainReader) {
    let server = TestServer::with(|config| config.tombstones_max = 1).await;
    let wire = server.wire();
    wire.commit((0..9).map(|n| put("list", format!("item {n}"), "value")).collect()).await;
    let mut reader = wire.load("list").await;
    reader.target.verify = true;
    for item in 0..3 {
        wire.commit(vec![delete("list", format!("item {item}"))]).await;
    }
    until("the floor to rise", async || {
        wire.head(&name("list")).await.filter(|head| head.floor == version(3))
    })
    .await;
    (server, reader)
}

/// G6, T03: the log was created anew and stands at the very version that the client has.
#[tokio::test(flavor = "multi_thread")]
async fn an_equal_version_of_another_epoch_is_not_equality() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for collection in ["reborn", "calm"] {
        wire.commit(vec![put(collection, "a", "1")]).await;
        wire.commit(vec![put(collection, "b", "1")]).await;
    }
    let reborn = wire.load("reborn").await.target;
    let calm = wire.load("calm").await.target;
    let before = wire.delete_collection("reborn").await;
    wire.commit(vec![put("reborn", "c", "2")]).await;
    wire.commit(vec![put("reborn", "d", "2")]).await;
    let head = wire.head(&name("reborn")).await.unwrap();
    assert_eq!(head.version, before.version, "the trap: the same number");
    assert_ne!(head.epoch, before.epoch);

    assert_reset(both(wire, reborn.clone()).await, ResetReason::EpochChanged);
    let batch = vec![calm.clone(), reborn.clone(), calm];
    let outcomes = wire.pull(batch).await;
    assert!(matches!(outcomes[0], Outcome::Aligned(_)), "{:?}", outcomes[0]);
    let Outcome::Reset(reset) = &outcomes[1] else { panic!("{:?}", outcomes[1]) };
    assert_eq!((reset.reason, reset.head), (ResetReason::EpochChanged, head));
    assert!(matches!(outcomes[2], Outcome::Aligned(_)), "{:?}", outcomes[2]);
    // Epoch comes before everything else that could be said of the cursor.
    let mut ahead = reborn;
    ahead.cursor = Some(at(&before, 99));
    assert_reset(both(wire, ahead).await, ResetReason::EpochChanged);
    server.stop().await;
}

/// G6, T04: an older backup is in place; the client's cursor is ahead of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_ahead_of_a_restored_server_is_reset_and_never_clamped() {
    let (live, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = TestServer::on_disk(live.path(), |_| {}).await;
    server.wire().commit(vec![put("list", "kept", "1")]).await;
    server.stop().await;
    copy_dir(live.path(), backup.path());

    let server = TestServer::on_disk(live.path(), |_| {}).await;
    server.wire().commit(vec![put("list", "lost", "1")]).await;
    let mut reader = server.wire().load("list").await;
    assert_eq!(reader.version(), version(2));
    server.stop().await;

    let restored = TestServer::on_disk(backup.path(), |_| {}).await;
    let wire = restored.wire();
    assert_reset(both(wire, reader.target.clone()).await, ResetReason::AheadOfHead);
    let mut base_ahead = reader.target.clone();
    base_ahead.cursor.as_mut().unwrap().base = version(2);
    base_ahead.cursor.as_mut().unwrap().version = version(1);
    assert_reset(both(wire, base_ahead).await, ResetReason::AheadOfHead);
    reader.catch_up(wire).await;
    assert_eq!(reader.seen.resets, 1);
    assert!(reader.contents().into_keys().eq([b"kept".to_vec()]), "the client is the server");
    restored.stop().await;
}

/// G6: a catch-up beyond the reader's budget is refused as a whole; one change fewer is served;
/// a first load never is refused for its size, and what comes live does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_catch_up_beyond_the_budget_is_reset() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for item in 0..20 {
        wire.commit(vec![put("list", format!("item {item}"), "value")]).await;
    }
    let head = wire.head(&name("list")).await.unwrap();
    let budget = |cursor, most| Target { changes_max: Some(most), ..after("list", cursor) };
    let outcome = wire.pull_one(budget(at(&head, 10), 9)).await;
    let Outcome::Reset(reset) = outcome else { panic!("{outcome:?}") };
    assert_eq!((reset.reason, reset.estimated_changes), (ResetReason::TooLarge, 20));
    let outcome = wire.pull_one(budget(at(&head, 10), 10)).await;
    assert!(matches!(outcome, Outcome::Delta(_)), "{outcome:?}");
    let load = Target { changes_max: Some(1), ..scratch("list") };
    let outcome = wire.pull_one(load).await;
    assert!(matches!(outcome, Outcome::Delta(_)), "{outcome:?}");

    let mut events = wire.subscribe(vec![budget(at(&head, 10), 9)]).await;
    events.accepted().await;
    let event = events.next_news().await;
    let Event::Reset(_, reset) = event else { panic!("{event:?}") };
    assert_eq!(reset.reason, ResetReason::TooLarge);
    let mut events = wire.subscribe(vec![budget(at(&head, 19), 1)]).await;
    events.accepted().await;
    let mut reader = wire.load("list").await;
    reader.target.cursor = Some(at(&head, 19));
    reader.follow_to(&mut events, version(20)).await;
    wire.commit((0..9).map(|n| put("list", format!("live {n}"), "")).collect()).await;
    reader.follow_to(&mut events, version(21)).await;
    server.stop().await;
}

/// G11: what is wrong with one target concerns that target, and the answer names the field.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_target_fails_alone() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let good = v1::Target { collection: "list".to_owned(), ..Default::default() };
    let with_scope =
        |part| v1::Target { scope: Some(v1::Scope { part: Some(part) }), ..good.clone() };
    let keys = |keys: &[&'static str]| {
        let keys = keys.iter().map(|key| key.as_bytes().into()).collect();
        v1::scope::Part::Keys(v1::KeySet { keys })
    };
    let cursor = |epoch, version| v1::Target {
        cursor: Some(v1::Cursor { epoch, version, base: 0 }),
        ..good.clone()
    };
    let bad = [
        (v1::Target::default(), "targets[1].collection"),
        (v1::Target { collection: "a//b".to_owned(), ..good.clone() }, "targets[1].collection"),
        (cursor(0, 5), "targets[1].cursor.epoch"),
        (cursor(7, 1 << 63), "targets[1].cursor.version"),
        (with_scope(v1::scope::Part::KeyPrefix("".into())), "targets[1].scope.key_prefix"),
        (with_scope(keys(&[])), "targets[1].scope.keys"),
        (with_scope(keys(&["a", "a"])), "targets[1].scope.keys"),
    ];
    for (target, field) in bad {
        let targets = vec![good.clone(), target, good.clone()];
        let request = v1::PullRequest { targets, ..Default::default() };
        let outcomes = wire.pull_raw(request).await.unwrap();
        let Outcome::Failed(failure) = &outcomes[1] else { panic!("{field}: {:?}", outcomes[1]) };
        assert_eq!(failure.code, Code::InvalidArgument as i32);
        assert!(failure.message.starts_with(field), "{field}: {}", failure.message);
        assert_eq!(failure.retry_after, None, "repeating it unchanged is not worth while");
        for good in [&outcomes[0], &outcomes[2]] {
            assert!(matches!(good, Outcome::Delta(_)), "{field}: {good:?}");
        }
    }
    server.stop().await;
}

/// G6: what does not exist, what is complete, and what is not offered, each say so.
#[tokio::test(flavor = "multi_thread")]
async fn absent_aligned_and_nameless_are_told_apart() {
    let server = TestServer::start().await;
    let wire = server.wire();
    assert!(matches!(both(wire, scratch("none")).await, (Outcome::NotFound, Plan::Absent)));
    let old = Cursor::at(Epoch::new(7).unwrap(), version(3));
    let (outcome, plan) = both(wire, after("none", old)).await;
    assert!(matches!(outcome, Outcome::NotFound), "existence comes before epoch: {outcome:?}");
    assert_eq!(plan, Plan::Absent);
    wire.commit(vec![put("list", "a", "1")]).await;
    let reader = wire.load("list").await;
    let (outcome, plan) = both(wire, reader.target.clone()).await;
    assert!(matches!(outcome, Outcome::Aligned(_)), "{outcome:?}");
    assert_eq!(plan, Plan::Live);
    let acked = Target { from_last_ack: true, ..scratch("list") };
    let outcome = wire.pull_one(acked).await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.code, Code::InvalidArgument as i32);
    assert!(failure.message.starts_with("targets[0].from_last_ack: "), "{}", failure.message);
    server.stop().await;
}

/// X7, G8: a cursor that is shown again and again gets the same answer and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_replayed_a_thousand_times_changes_nothing() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let old = wire.load("list").await.target;
    wire.commit(vec![put("list", "b", "2"), delete("list", "a")]).await;
    let (first, head) = (wire.page(old.clone(), 0).await, wire.head(&name("list")).await);
    for _ in 0..1_000 {
        assert_eq!(wire.page(old.clone(), 0).await, first);
    }
    assert_eq!(wire.head(&name("list")).await, head);
    server.stop().await;
}
