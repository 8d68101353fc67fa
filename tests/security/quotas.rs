//! How fast each principal may write (G8, G11), over the wire: a burst, then the rate; what is said of
//! it; and that nobody else notices.

use std::time::{Duration, Instant};

use sync_proto::types::Reason;
use sync_proto::v1;
use sync_server::status::reason_of;
use sync_tests::server::TestServer;
use sync_tests::wait::{pass, until_true, within};
use sync_tests::wire::Wire;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::guard::{Guarded, token, tokens};

const WRITERS: &str = "[[grants]]\nanyone = true\nwrite = [\"list\"]\n";

/// Whoever has written nothing may write this many seconds' worth at once, by default.
const BURST_S: usize = 10;

fn commit(mutations: usize) -> v1::CommitRequest {
    v1::CommitRequest { mutations: puts(mutations), ..Default::default() }
}

fn puts(mutations: usize) -> Vec<v1::Mutation> {
    let put = |n: usize| {
        let put = v1::PutItem { key: n.to_string().into(), value: "v".into(), sort_key: None };
        let op = Some(v1::mutation::Op::Put(put));
        v1::Mutation { collection: "list".to_owned(), op }
    };
    (0..mutations).map(put).collect()
}

async fn write(wire: &Wire, mutations: usize) -> Result<(), Status> {
    within("a commit", wire.write().commit(commit(mutations))).await.map(|_| ())
}

/// What a refusal says: its reason, and when to come again.
fn told(refused: &Status, limit: &str) -> (Reason, Duration) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let details = refused.get_error_details();
    let quota = details.quota_failure().expect("it is about a quota");
    assert_eq!(quota.violations[0].description, limit, "{refused}");
    let wait = details.retry_info().and_then(|retry| retry.retry_delay);
    (reason_of(refused).expect("a reason"), wait.expect("it passes"))
}

/// G8, G11: commits of one subject are refused above its rate, with the quota, the limit and when to
/// come again, which then holds; others are not concerned, and a policy that gives more counts at once.
#[tokio::test(flavor = "multi_thread")]
async fn commits_are_held_to_the_rate_of_their_principal() {
    let slow = "[[quotas]]\nsubjects = [\"slow\"]\ncommits_per_s = 1\n";
    let known = WRITERS.to_owned() + &tokens(&["slow", "brisk"]);
    let guarded = Guarded::start(&(known.clone() + slow)).await;
    let (wire, brisk) = (guarded.wire("slow"), guarded.wire("brisk"));
    let began = Instant::now();
    let mut passed = 0;
    let refused = loop {
        match write(&wire, 1).await {
            Ok(()) => passed += 1,
            Err(refused) => break refused,
        }
        assert!(passed < 1_000, "nobody is refused");
    };
    let most = BURST_S + 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((BURST_S..=most).contains(&passed), "{passed} passed");
    let (reason, wait) = told(&refused, "commits_per_s: 1 a second");
    assert_eq!(reason, Reason::CommitRate);
    assert!(refused.message().starts_with("commits_per_s: 1 a second"), "{refused}");
    assert!(!wait.is_zero() && wait <= Duration::from_secs(1), "{wait:?}");
    for _ in 0..3 * BURST_S {
        write(&brisk, 1).await.unwrap();
    }
    pass(wait).await;
    write(&wire, 1).await.expect("it has waited as long as it was told");
    guarded.exchange(&known);
    until_true("the quota is gone", async || write(&wire, 1).await.is_ok()).await;
    for _ in 0..3 * BURST_S {
        write(&wire, 1).await.unwrap();
    }
    guarded.server.stop().await;
}

/// G8, G11: so are mutations; an import is slowed down instead of refused.
#[tokio::test(flavor = "multi_thread")]
async fn mutations_are_counted_and_imports_wait() {
    let policy = WRITERS.to_owned()
        + &tokens(&["bulk", "loader"])
        + "[[quotas]]\nsubjects = [\"bulk\"]\nmutations_per_s = 50\n"
        + "[[quotas]]\nsubjects = [\"loader\"]\ncommits_per_s = 20\n";
    let guarded = Guarded::start(&policy).await;
    let bulk = guarded.wire("bulk");
    // More than a bucket holds: it passes when nothing is used, and is paid for afterwards.
    write(&bulk, 2 * BURST_S * 50).await.unwrap();
    let (reason, wait) = told(&write(&bulk, 1).await.unwrap_err(), "mutations_per_s: 50 a second");
    assert_eq!(reason, Reason::MutationRate);
    assert!(wait > Duration::from_secs(5), "{wait:?}");

    let part = |sequence| {
        let import_id = "i".to_owned();
        v1::ImportRequest { import_id, sequence, mutations: puts(1) }
    };
    let beyond = 12;
    let last = BURST_S as u64 * 20 + beyond;
    let began = Instant::now();
    let parts = tokio_stream::iter((1..=last).map(part));
    let mut writer = guarded.wire("loader").write();
    let done = within("an import", writer.import(parts)).await.unwrap().into_inner();
    assert_eq!((done.sequence, done.commits), (last, last));
    assert!(began.elapsed() >= Duration::from_millis(50 * (beyond - 1)), "{:?}", began.elapsed());
    guarded.server.stop().await;
}

/// A commit of one item.
fn put(collection: &str, key: &str, bytes: usize) -> v1::CommitRequest {
    let value = vec![b'v'; bytes].into();
    let put = v1::PutItem { key: key.to_owned().into(), value, sort_key: None };
    let op = Some(v1::mutation::Op::Put(put));
    let mutation = v1::Mutation { collection: collection.to_owned(), op };
    v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
}

fn delete(collection: &str, key: &str) -> v1::CommitRequest {
    let op = Some(v1::mutation::Op::Delete(v1::DeleteItem { key: key.to_owned().into() }));
    let mutation = v1::Mutation { collection: collection.to_owned(), op };
    v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
}

/// What is said of a commit for which there is no room below alice's name.
fn assert_full(status: &Status) {
    assert_eq!(reason_of(status), Some(Reason::StoredBytes), "{status}");
    let details = status.get_error_details();
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "below:users/alice");
    assert_eq!(violation.description, "stored_bytes: 10000 bytes of live items");
    assert!(details.retry_info().is_none(), "it does not pass by itself");
}

/// G11: what changes nothing gives its mutations back, whether it is refused or was done before.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_costs_no_mutations() {
    let policy = WRITERS.to_owned()
        + &tokens(&["bulk"])
        + "[[quotas]]\nsubjects = [\"bulk\"]\nmutations_per_s = 10\n";
    let guarded = Guarded::start(&policy).await;
    let mut wire = guarded.wire("bulk").write();
    let absent = v1::precondition::Condition::ItemAbsent("0".into());
    let first = v1::Precondition { collection: "list".to_owned(), condition: Some(absent) };
    let conditional = v1::CommitRequest { preconditions: vec![first], ..commit(5) };
    let keyed = v1::CommitRequest { idempotency_key: "i".to_owned(), ..commit(5) };
    wire.commit(conditional.clone()).await.unwrap();
    wire.commit(keyed.clone()).await.unwrap();
    wire.commit(commit(10 * BURST_S - 10)).await.unwrap();
    let mut waited = Duration::ZERO;
    let mut refused = 0;
    // Each of them takes as much as is there when there is any, and gives it back.
    while refused < 3 {
        let Err(status) = wire.commit(conditional.clone()).await else { panic!("0 is there") };
        match reason_of(&status) {
            Some(Reason::PreconditionFailed) => {
                refused += 1;
                assert!(wire.commit(keyed.clone()).await.unwrap().into_inner().replayed);
            }
            Some(Reason::MutationRate) => {
                let (_, wait) = told(&status, "mutations_per_s: 10 a second");
                waited += wait;
                pass(wait).await;
            }
            other => panic!("{other:?}: {status}"),
        }
    }
    // Five mutations once, and not six times.
    assert!(waited <= Duration::from_secs(1), "they were paid for: {waited:?}");
    guarded.server.stop().await;
}

/// G8, G11: bytes below a name are held to the policy, whoever writes them and across a restart; what
/// deletes passes, and neighbours are not concerned.
#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_are_held_to_the_quota_of_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    let text = "[[grants]]\nanyone = true\nwrite = [\"users\"]\n".to_owned()
        + &tokens(&["alice"])
        + "[[stored]]\nbelow = \"users/*\"\nbytes_max = 10_000\n";
    std::fs::write(&policy, text).unwrap();
    let store = dir.path().join("store");
    let start = || {
        let policy = policy.clone();
        TestServer::on_disk(&store, move |config| config.policy_file = Some(policy))
    };
    let server = start().await;
    let mut wire = server.wire().showing(&token("alice")).write();
    let keyed = put("users/alice/a", "k", 5_000);
    let keyed = v1::CommitRequest { idempotency_key: "first".to_owned(), ..keyed };
    let first = wire.commit(keyed.clone()).await.unwrap().into_inner();
    wire.commit(put("users/alice/b", "k", 4_000)).await.unwrap();
    assert_full(&wire.commit(put("users/alice", "k", 2_000)).await.unwrap_err());
    wire.commit(put("users/alice2", "k", 9_000)).await.unwrap();
    server.stop().await;

    let server = start().await;
    let mut wire = server.wire().showing(&token("alice")).write();
    assert_full(&wire.commit(put("users/alice/c", "k", 2_000)).await.unwrap_err());
    // What was done is done: its answer was lost, and is not refused for want of room.
    let again = wire.commit(keyed.clone()).await.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(again.collections, first.collections);
    let other = v1::CommitRequest { idempotency_key: "other".to_owned(), ..keyed };
    assert_full(&wire.commit(other).await.unwrap_err());
    wire.commit(delete("users/alice/b", "k")).await.unwrap();
    wire.commit(put("users/alice/c", "k", 2_000)).await.unwrap();
    assert_full(&wire.commit(put("users/alice/c", "l", 3_500)).await.unwrap_err());
    let gone =
        v1::DeleteCollectionRequest { collection: "users/alice/a".to_owned(), head_equals: None };
    wire.delete_collection(gone).await.unwrap();
    wire.commit(put("users/alice/c", "l", 7_000)).await.unwrap();
    assert_full(&wire.commit(put("users/alice/c", "m", 2_000)).await.unwrap_err());
    server.stop().await;
}

/// G8, G11: an import fills what there is and no more, says at which commit it ended, and goes on when
/// there is room; what it has done is not counted again. Commits that are under way together do not get
/// past the quota either.
#[tokio::test(flavor = "multi_thread")]
async fn imports_and_commits_at_once_fill_no_more_than_the_quota() {
    let policy = "[[grants]]\nanyone = true\nwrite = [\"users\"]\n".to_owned()
        + &tokens(&["alice"])
        + "[[stored]]\nbelow = \"users/*\"\nbytes_max = 10_000\n";
    let guarded = Guarded::start(&policy).await;
    let mut wire = guarded.wire("alice").write();
    let import = || {
        let part = |n: u64| {
            let mutations = put("users/alice/a", &n.to_string(), 1_000).mutations;
            v1::ImportRequest { import_id: "i".to_owned(), sequence: n, mutations }
        };
        tokio_stream::iter((1..=12).map(part))
    };
    let refused = wire.import(import()).await.unwrap_err();
    assert_full(&refused);
    assert!(refused.message().starts_with("commit 10: stored_bytes: "), "{refused}");
    let progress = v1::GetImportRequest { import_id: "i".to_owned() };
    assert_eq!(wire.get_import(progress).await.unwrap().into_inner().sequence, 9);
    let removed = [1, 2, 3, 4].map(|n: u64| delete("users/alice/a", &n.to_string()).mutations);
    let mutations = removed.into_iter().flatten().collect();
    wire.commit(v1::CommitRequest { mutations, ..Default::default() }).await.unwrap();
    let done = wire.import(import()).await.unwrap().into_inner();
    assert_eq!((done.sequence, done.skipped, done.commits), (12, 9, 3));

    // 8,000 of 10,000 bytes are there.
    let at_once = (0..20).map(|n| {
        let mut wire = guarded.wire("alice").write();
        async move { wire.commit(put("users/alice/b", &format!("{n:02}"), 900)).await }
    });
    let answers = futures::future::join_all(at_once).await;
    let passed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(passed <= 2, "{passed} of them fit");
    answers.iter().filter_map(|answer| answer.as_ref().err()).for_each(assert_full);
    guarded.server.stop().await;
}
