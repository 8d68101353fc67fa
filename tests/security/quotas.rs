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
    let op = |collection: &str, op| {
        let mutation = v1::Mutation { collection: collection.to_owned(), op: Some(op) };
        v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
    };
    let put = |collection: &str, key: &str, bytes| {
        let value = vec![b'v'; bytes].into();
        let put = v1::PutItem { key: key.to_owned().into(), value, sort_key: None };
        op(collection, v1::mutation::Op::Put(put))
    };
    let refused = |status: Status| {
        assert_eq!(reason_of(&status), Some(Reason::StoredBytes), "{status}");
        let details = status.get_error_details();
        let violation = &details.quota_failure().unwrap().violations[0];
        assert_eq!(violation.subject, "below:users/alice");
        assert_eq!(violation.description, "stored_bytes: 10000 bytes of live items");
        assert!(details.retry_info().is_none(), "it does not pass by itself");
    };
    let server = start().await;
    let mut wire = server.wire().showing(&token("alice")).write();
    wire.commit(put("users/alice/a", "k", 5_000)).await.unwrap();
    wire.commit(put("users/alice/b", "k", 4_000)).await.unwrap();
    refused(wire.commit(put("users/alice", "k", 2_000)).await.unwrap_err());
    wire.commit(put("users/alice2", "k", 9_000)).await.unwrap();
    server.stop().await;

    let server = start().await;
    let mut wire = server.wire().showing(&token("alice")).write();
    refused(wire.commit(put("users/alice/c", "k", 2_000)).await.unwrap_err());
    let delete = v1::mutation::Op::Delete(v1::DeleteItem { key: "k".into() });
    wire.commit(op("users/alice/b", delete)).await.unwrap();
    wire.commit(put("users/alice/c", "k", 2_000)).await.unwrap();
    server.stop().await;
}
