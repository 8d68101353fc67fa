//! What becomes of open streams and long calls when a right ends while they last.

use std::time::{Duration, Instant};

use sync_proto::types::{Event, Goodbye, GoodbyeReason, Outcome, Plan, Subscribe, Target};
use sync_proto::v1;
use sync_tests::compose::{after, commit, name, put, scratch};
use sync_tests::report::report;
use sync_tests::stream::Events;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::guard::{Guarded, follows, token, tokens};

/// From the exchange of a policy to the last word of whatever it ends. The promise is a second;
/// the machine of a test may be busy with twenty others.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What is promised, judged by the middle of so many.
const PROMISED: Duration = Duration::from_secs(1);
const REVOCATIONS: usize = 7;

/// A few heartbeats in which nothing must be said.
const SILENCE: Duration = Duration::from_millis(400);

const EVERYBODY: [&str; 3] = ["root", "alice", "bob"];

/// `root` may everything, the others what `lines` say.
fn policy(lines: &str) -> String {
    let root =
        "[[grants]]\nsubjects = [\"root\"]\nread = [\"*\"]\nwrite = [\"*\"]\nadmin = [\"*\"]\n";
    format!("{lines}\n{root}{}", tokens(&EVERYBODY))
}

fn reads(subject: &str, names: &[&str]) -> String {
    format!("[[grants]]\nsubjects = [\"{subject}\"]\nread = {names:?}\n")
}

/// The next message but bookmarks, which must not be about `gone`.
async fn news(events: &mut Events, gone: &str) -> Event {
    loop {
        let event = events.next().await;
        let Event::Bookmark(positions, _) = &event else { return event };
        let told = positions.iter().any(|one| one.collection.as_str() == gone);
        assert!(!told, "{gone} is told in a bookmark");
    }
}

/// G10: a right that ends with a new policy ends the target within a second: `Revoked`, and nothing
/// of it after; the other targets go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_ends_with_its_right_and_the_others_go_on() {
    let guarded = Guarded::start(&policy(&reads("alice", &["kept", "gone"]))).await;
    let (root, alice) = (guarded.wire("root"), guarded.wire("alice"));
    root.commit(vec![put("kept", "a", "1")]).await;
    root.commit(vec![put("gone", "a", "1")]).await;
    let mut events = alice.subscribe(vec![scratch("kept"), scratch("gone")]).await;
    assert!(events.accepted().await.iter().all(|target| target.plan == Plan::Load));
    let mut caught_up = 0;
    while caught_up < 2 {
        caught_up += usize::from(matches!(events.next().await, Event::CaughtUp(..)));
    }

    let begun = Instant::now();
    guarded.exchange(&policy(&reads("alice", &["kept"])));
    let event = events.next_news().await;
    let took = begun.elapsed();
    let Event::Revoked(name) = event else { panic!("{event:?}") };
    assert_eq!(name.as_str(), "gone");
    assert!(took < AT_ONCE, "it took {took:?}");
    root.commit(vec![put("gone", "b", "2")]).await;
    root.commit(vec![put("kept", "b", "2")]).await;
    let event = news(&mut events, "gone").await;
    assert!(matches!(&event, Event::Changes(name, _) if name.as_str() == "kept"), "{event:?}");
    // A heartbeat later there is still nothing of it.
    assert!(matches!(events.next().await, Event::Bookmark(positions, _) if positions.len() == 1));
    assert!(matches!(alice.pull_one(scratch("gone")).await, Outcome::Denied));
    drop(events);
    guarded.server.stop().await;
}

/// G10: from the exchange of a policy to the last word takes less than a second, while the collection
/// moves all the time; not once is anything of it said after.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_takes_less_than_a_second() {
    let (open, shut) =
        (policy(&reads("alice", &["kept", "gone"])), policy(&reads("alice", &["kept"])));
    let guarded = Guarded::start(&shut).await;
    let (root, alice) = (guarded.wire("root"), guarded.wire("alice"));
    root.commit(vec![put("kept", "a", "1")]).await;
    let stop = CancellationToken::new();
    let (ended, writer) = (stop.clone(), guarded.wire("root"));
    let writing = TaskTracker::new().spawn(async move {
        while !ended.is_cancelled() {
            writer.commit(vec![put("gone", "a", "1")]).await;
        }
    });
    let mut took = Vec::new();
    for _ in 0..REVOCATIONS {
        guarded.exchange(&open);
        until_true("the right", async || {
            matches!(alice.pull_one(scratch("gone")).await, Outcome::Delta(_))
        })
        .await;
        let mut events = alice.subscribe(vec![scratch("kept"), scratch("gone")]).await;
        while !matches!(events.next().await, Event::CaughtUp(name, _) if name.as_str() == "gone") {}
        let begun = Instant::now();
        guarded.exchange(&shut);
        while !matches!(events.next().await, Event::Revoked(name) if name.as_str() == "gone") {}
        took.push(begun.elapsed());
        let after = news(&mut events, "gone");
        let silent = tokio::time::timeout(SILENCE, after).await;
        assert!(silent.is_err(), "{silent:?} after the last word");
    }
    stop.cancel();
    within("the writer to end", writing).await.unwrap();
    took.sort_unstable();
    report(&format!("{REVOCATIONS} revocations: {took:.1?}"));
    // The machine of a test may be busy with twenty others for a while, not all the time.
    assert!(took[REVOCATIONS / 2] < PROMISED, "{took:?}");
    assert!(took[REVOCATIONS - 1] < AT_ONCE, "{took:?}");
    guarded.server.stop().await;
}

/// G10: who is revoked is told goodbye on the stream, hears nothing after, and is let in no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_caller() {
    let guarded = Guarded::start(&policy(&reads("alice", &["list"]))).await;
    let (root, alice) = (guarded.wire("root"), guarded.wire("alice"));
    root.commit(vec![put("list", "a", "1")]).await;
    let mut events = alice.subscribe(vec![scratch("list")]).await;
    while !matches!(events.next().await, Event::CaughtUp(..)) {}
    let begun = Instant::now();
    guarded.exchange(&(policy(&reads("alice", &["list"])) + "[revoked]\nsubjects = [\"alice\"]\n"));
    let event = events.next_news().await;
    let took = begun.elapsed();
    let Event::Goodbye(Goodbye { reason, .. }) = event else { panic!("{event:?}") };
    assert_eq!(reason, GoodbyeReason::CredentialsExpired);
    assert!(took < AT_ONCE, "it took {took:?}");
    root.commit(vec![put("list", "b", "2")]).await;
    assert_eq!(events.try_next().await.unwrap(), None, "nothing comes after");
    let request = v1::PullRequest { targets: vec![scratch("list").into()], ..Default::default() };
    let refused = alice.pull_raw(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let again = Subscribe {
        targets: vec![scratch("list")],
        heartbeat: Duration::from_secs(1),
        client_id: String::new(),
    };
    let refused = alice.try_subscribe(again).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    guarded.server.stop().await;
}

/// G10: an import and a backup end with the right to them, although nothing is sent meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn long_calls_end_with_their_caller() {
    let writes = "[[grants]]\nsubjects = [\"alice\"]\nwrite = [\"list\"]\n";
    let guarded = Guarded::start(&policy(writes)).await;
    let alice = guarded.wire("alice");
    let (sender, messages) = mpsc::channel(1);
    let mutations = vec![put("list", "a", "1").into()];
    let first = v1::ImportRequest { import_id: "one".to_owned(), sequence: 1, mutations };
    sender.send(first).await.unwrap();
    let mut calls = alice.write();
    let import =
        TaskTracker::new().spawn(async move { calls.import(ReceiverStream::new(messages)).await });
    let root = guarded.wire("root");
    until_true("the first commit", async || {
        matches!(root.pull_one(scratch("list")).await, Outcome::Delta(_))
    })
    .await;
    guarded.exchange(&(policy(writes) + "[revoked]\nsubjects = [\"alice\"]\n"));
    let refused = within("the end of the import", import).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(root.load("list").await.copy.rows.len(), 1, "what was done stays done");
    drop(sender);
    guarded.server.stop().await;
}

/// G10: an import that is slowed down is judged again when its turn comes: what a right that has ended
/// would have let it write meanwhile is not written.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_waits_is_judged_again() {
    let slow = "[[quotas]]\nsubjects = [\"alice\"]\nmutations_per_s = 10\n";
    let writes = "[[grants]]\nsubjects = [\"alice\"]\nwrite = [\"list\"]\n".to_owned() + slow;
    let guarded = Guarded::start(&policy(&writes)).await;
    let (root, alice) = (guarded.wire("root"), guarded.wire("alice"));
    let message = |sequence: u64, mutations: std::ops::Range<u32>| v1::ImportRequest {
        import_id: "one".to_owned(),
        sequence,
        mutations: mutations.map(|key| put("list", key.to_string(), "1").into()).collect(),
    };
    // All that may be written at once, and three seconds' worth.
    let messages = tokio_stream::iter([message(1, 0..100), message(2, 100..130)]);
    let mut calls = alice.write();
    let import = TaskTracker::new().spawn(async move { calls.import(messages).await });
    until_true("the first commit", async || {
        matches!(root.pull_one(scratch("list")).await, Outcome::Delta(_))
    })
    .await;
    guarded.exchange(&policy(slow));
    let refused = within("the end of the import", import).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(root.load("list").await.copy.rows.len(), 100, "nothing came after the right");
    guarded.server.stop().await;
}

/// Subscribers that are sent what they do not take, `of` a collection from a cursor or from scratch,
/// until there is no room for more, of 16 MiB.
async fn hold(guarded: &Guarded, of: &Target) -> Vec<Events> {
    let endpoint = Endpoint::from_shared(guarded.server.uri()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(20_000);
    let mut held = Vec::new();
    for _ in 0..20 {
        let wire = Wire::over(endpoint.connect_lazy()).showing(&token("root"));
        held.push(wire.subscribe(vec![of.clone()]).await);
    }
    // The first of them have room.
    for events in &mut held[..8] {
        events.accepted().await;
    }
    held
}

/// G10: a read that waits for room is judged when it has been made, not only before.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_is_judged_again() {
    let guarded = Guarded::start_with(&policy(&reads("alice", &["list"])), |config, _| {
        config.loads_mib = 16;
    })
    .await;
    let (root, alice) = (guarded.wire("root"), guarded.wire("alice"));
    root.commit(vec![put("list", "a", "1")]).await;
    root.commit(vec![put("large", "k", vec![b'l'; 1_000_000])]).await;
    let held = hold(&guarded, &scratch("large")).await;
    let request = v1::ReconcileRequest { collection: "list".to_owned(), ..Default::default() };
    let mut calls = alice.sync();
    let begun = Instant::now();
    let read = TaskTracker::new().spawn(async move { calls.reconcile(request).await });
    guarded.exchange(&policy(&reads("alice", &["kept"])));
    let refused = within("the read", read).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(begun.elapsed() > PROMISED, "it waited for nobody");
    drop(held);
    guarded.server.stop().await;
}

/// G10: that a right has ended is told within a second also when there is no room for anything else,
/// which comes when others were cut, after two.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_no_room() {
    let guarded = Guarded::start_with(&policy(&reads("alice", &["gone"])), |config, _| {
        config.pages_mib = 16;
    })
    .await;
    let (root, alice) = (guarded.wire("root"), guarded.wire("alice"));
    root.commit(vec![put("gone", "a", "1")]).await;
    root.commit(vec![put("large", "k", "")]).await;
    let before = root.head(&name("large")).await.unwrap().cursor();
    root.commit(vec![put("large", "k", vec![b'l'; 1_000_000])]).await;
    let mut events = alice.subscribe(vec![scratch("gone")]).await;
    while !matches!(events.next().await, Event::CaughtUp(..)) {}
    let held = hold(&guarded, &after("large", before)).await;
    let begun = Instant::now();
    guarded.exchange(&policy(&reads("alice", &["kept"])));
    let event = events.next_news().await;
    let took = begun.elapsed();
    assert!(matches!(&event, Event::Revoked(_)), "{event:?}");
    assert!(took < PROMISED + PROMISED / 2, "it took {took:?}");
    drop(held);
    guarded.server.stop().await;
}

/// G10: a policy that makes no sense is not taken up: rights stay as they were, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_changes_nothing() {
    let guarded = Guarded::start(&policy(&reads("alice", &["list"]))).await;
    let (root, alice, bob) = (guarded.wire("root"), guarded.wire("alice"), guarded.wire("bob"));
    root.commit(vec![put("list", "a", "1")]).await;
    guarded.exchange("[[grants]]\nanyone = true\nread = [\"list//\"]\n");
    let mut events = alice.subscribe(vec![scratch("list")]).await;
    events.accepted().await;
    // So many heartbeats are far longer than a good policy takes.
    let mut beats = 0;
    while beats < 5 {
        let event = events.next().await;
        beats += usize::from(matches!(event, Event::Bookmark(..)));
        assert!(!matches!(event, Event::Revoked(_) | Event::Goodbye(_)), "{event:?}");
    }
    assert!(matches!(bob.pull_one(scratch("list")).await, Outcome::Denied));
    // And a good one after it is.
    guarded.exchange(&policy(&(reads("alice", &["list"]) + &reads("bob", &["list"]))));
    until_true("the new right", async || {
        matches!(bob.pull_one(scratch("list")).await, Outcome::Delta(_))
    })
    .await;
    drop(events);
    guarded.server.stop().await;
}

/// G10: a user reaches the inbox of the user's own, follows for nobody else, and nobody reads it
/// along.
#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_is_its_subjects_own() {
    let everybody = "[[grants]]\nanyone = true\nread = [\"inbox/{subject}\", \"groups\"]\n\
                     follow = [\"groups\"]\n";
    let guarded = Guarded::start(&policy(everybody)).await;
    let (root, alice, bob) = (guarded.wire("root"), guarded.wire("alice"), guarded.wire("bob"));
    alice.commit(vec![follows("groups/1", "alice")]).await;
    for refused in
        [follows("groups/1", "bob"), follows("teams/1", "alice"), put("groups/1", "a", "1")]
    {
        let refused = alice.try_commit(commit(vec![refused])).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    // Below alice's inbox is that of another subject.
    root.commit(vec![follows("groups/1", "alice/phone")]).await;
    let inboxes = ["inbox/alice", "inbox/bob", "inbox/alice/phone", "inbox/nobody"].map(scratch);
    let outcomes = alice.pull(inboxes.to_vec()).await;
    assert!(matches!(outcomes[0], Outcome::Delta(_)), "{:?}", outcomes[0]);
    assert!(outcomes[1..].iter().all(|outcome| matches!(outcome, Outcome::Denied)), "{outcomes:?}");
    assert!(matches!(bob.pull_one(scratch("inbox/alice")).await, Outcome::Denied));
    let mut events = bob.subscribe(inboxes.to_vec()).await;
    let plans: Vec<Plan> = events.accepted().await.into_iter().map(|one| one.plan).collect();
    assert_eq!(plans, [Plan::Denied, Plan::Absent, Plan::Denied, Plan::Denied]);
    drop(events);
    guarded.server.stop().await;
}
