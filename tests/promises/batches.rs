//! One pull, many targets: each has its own outcome, in order, and asking again ends.

use std::collections::BTreeSet;

use sync_proto::limits::{PAGE_BYTES_MAX, PULL_TARGETS_MAX};
use sync_proto::types::{Outcome, Target};
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use sync_tests::compose::{put, scratch};
use sync_tests::reader::PlainReader;
use sync_tests::server::TestServer;
use sync_tests::wire::Wire;
use tonic::Code;

/// SHA-256 of "reader".
const READER: &str = "3d0941964aa3ebdcb00ccef58b1bb399f9f898465e9886d5aec7f31090a0fb30";

/// Targets that hold something; the batch has three more that never do.
const FULL: usize = PULL_TARGETS_MAX - 3;

/// Who may read `pile` only, and write everything.
fn reader() -> TokenConfig {
    TokenConfig {
        sha256: READER.to_owned(),
        subject: "reader".to_owned(),
        read: vec!["pile".to_owned()],
        write: vec!["*".to_owned()],
        admin: false,
    }
}

fn pile(index: usize) -> String {
    format!("pile/{index:03}")
}

/// 253 collections of three items of 7 kB: five times the byte budget.
async fn filled() -> (TestServer, Wire) {
    let server = TestServer::with(|config| config.tokens = vec![reader()]).await;
    let wire = server.wire().showing("reader");
    for index in 0..FULL {
        for item in ["a", "b", "c"] {
            wire.commit(vec![put(&pile(index), item, vec![b'x'; 7_000])]).await;
        }
    }
    (server, wire)
}

/// G8, G11, T18: a batch of 256 with one denied, one missing and one that fails, five times the
/// byte budget: every other one progresses, deferred ones finish, the loop ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_its_budget_ends_and_hides_no_target() {
    let (server, wire) = filled().await;
    let mut readers: Vec<PlainReader> =
        (0..FULL).map(|index| PlainReader::new(scratch(&pile(index)))).collect();
    let mut done = BTreeSet::new();
    let mut rounds = 0;
    while done.len() < FULL {
        rounds += 1;
        assert!(rounds <= 12, "{} of {FULL} done after {rounds} rounds", done.len());
        let mut targets: Vec<v1::Target> =
            readers.iter().map(|reader| reader.target.clone().into()).collect();
        targets.insert(0, scratch("forbidden").into());
        targets.insert(100, scratch("pile/none").into());
        targets.push(Target { from_last_ack: true, ..scratch("pile/000") }.into());
        let request = v1::PullRequest { targets, ..Default::default() };
        let mut outcomes = wire.pull_raw(request).await.unwrap();

        let failing = outcomes.pop().unwrap();
        let Outcome::Failed(failure) = failing else { panic!("{failing:?}") };
        assert_eq!(failure.code, Code::InvalidArgument as i32);
        assert!(matches!(outcomes.remove(100), Outcome::NotFound));
        assert!(matches!(outcomes.remove(0), Outcome::Denied));
        let progress = progress(&mut readers, outcomes, &mut done);
        assert!(progress > 0, "a reply without any progress");
    }
    assert!(rounds >= 5, "5.3 MB of changes came in {rounds} replies of 1 MiB");
    assert!(readers.iter().all(|reader| reader.copy.rows.len() == 3));
    server.stop().await;
}

/// Hands out the outcomes; returns how many readers got on.
fn progress(
    readers: &mut [PlainReader],
    outcomes: Vec<Outcome>,
    done: &mut BTreeSet<usize>,
) -> usize {
    let mut bytes = 0;
    let mut moved = 0;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        if let Outcome::Delta(delta) = &outcome {
            bytes += 7_000 * delta.changes.len();
        }
        let before = readers[index].version();
        if readers[index].take(outcome) {
            done.insert(index);
        }
        moved += usize::from(readers[index].version() > before);
    }
    assert!(bytes <= PAGE_BYTES_MAX, "{bytes} bytes in one reply");
    moved
}

/// G8: whatever the budget, one target gets on, and the others are told to ask again.
#[tokio::test(flavor = "multi_thread")]
async fn a_tiny_budget_still_makes_progress() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for index in 0..5 {
        wire.commit(vec![put(&pile(index), "a", vec![b'x'; 300_000])]).await;
    }
    let mut waiting: Vec<PlainReader> =
        (0..5).map(|index| PlainReader::new(scratch(&pile(index)))).collect();
    for round in 0..5 {
        let targets = waiting.iter().map(|reader| reader.target.clone().into()).collect();
        let request = v1::PullRequest { targets, max_bytes: 1, ..Default::default() };
        let outcomes = wire.pull_raw(request).await.unwrap();
        let mut still = Vec::new();
        for (mut reader, outcome) in std::mem::take(&mut waiting).into_iter().zip(outcomes) {
            if !reader.take(outcome) {
                still.push(reader);
            }
        }
        assert_eq!(still.len(), 4 - round, "one target gets on in each round");
        waiting = still;
    }
    server.stop().await;
}

/// G11: a batch of no targets, or of too many, is refused as a whole, with the limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_1_to_256_targets() {
    let server = TestServer::start().await;
    for count in [0, PULL_TARGETS_MAX + 1] {
        let targets = vec![scratch("list").into(); count];
        let request = v1::PullRequest { targets, ..Default::default() };
        let refusal = server.wire().pull_raw(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().starts_with("targets: "), "{refusal}");
        assert!(refusal.message().contains("256"), "{refusal}");
    }
    let outcomes = server.wire().pull(vec![scratch("list"); PULL_TARGETS_MAX]).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::NotFound)));
    server.stop().await;
}
