//! Operators set how a collection is kept, forget deletes and begin epochs; readers and writers
//! notice it only by what the protocol says of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sync_proto::types::{Event, Head, Outcome, Policy, ResetReason, Version};
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use sync_tests::compose::{delete, name, put, scratch};
use sync_tests::data::hex;
use sync_tests::reader::PlainReader;
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

const LIST: &str = "list";

async fn set_policy(wire: &Wire, policy: v1::Policy) -> Result<v1::Policy, Status> {
    let request = v1::SetPolicyRequest {
        collection: LIST.to_owned(),
        policy: Some(policy),
        ..Default::default()
    };
    let mut client = wire.admin();
    let reply = within("a policy to be set", client.set_policy(request)).await?;
    Ok(reply.into_inner().effective_policy.unwrap())
}

async fn inspect(wire: &Wire) -> Result<v1::InspectCollectionResponse, Status> {
    let request = v1::InspectCollectionRequest { collection: LIST.to_owned() };
    let mut client = wire.admin();
    let reply = within("a collection to be inspected", client.inspect_collection(request)).await?;
    Ok(reply.into_inner())
}

async fn purge(wire: &Wire, up_to_version: u64) -> Result<v1::PurgeResponse, Status> {
    let request = v1::PurgeRequest { collection: LIST.to_owned(), up_to_version };
    let mut client = wire.admin();
    Ok(within("a purge", client.purge(request)).await?.into_inner())
}

async fn rotate_epoch(wire: &Wire) -> Result<Head, Status> {
    let request = v1::RotateEpochRequest { collection: LIST.to_owned() };
    let mut client = wire.admin();
    let reply = within("a new epoch", client.rotate_epoch(request)).await?;
    Ok(Head::try_from(reply.into_inner().head.unwrap()).unwrap())
}

async fn head(wire: &Wire) -> Head {
    wire.head(&name(LIST)).await.unwrap()
}

fn tombstones(most: u64) -> v1::Policy {
    v1::Policy { tombstones_max: Some(most), ..v1::Policy::default() }
}

/// G10: every administration call needs the right to it, also those that are not offered.
#[tokio::test(flavor = "multi_thread")]
async fn only_operators_administer() {
    let token = |secret: &str, admin| TokenConfig {
        sha256: hex(&Sha256::digest(secret)),
        subject: "somebody".to_owned(),
        read: vec!["*".to_owned()],
        write: vec!["*".to_owned()],
        admin,
    };
    let tokens = vec![token("user", false), token("operator", true)];
    let server = TestServer::with(|config| config.tokens = tokens).await;
    let (user, operator) = (server.wire().showing("user"), server.wire().showing("operator"));
    user.commit(vec![put(LIST, "a", "1")]).await;
    let backup = v1::BackupRequest::default();
    for (wire, wanted) in [(&user, Code::PermissionDenied), (server.wire(), Code::Unauthenticated)]
    {
        assert_eq!(set_policy(wire, tombstones(1)).await.unwrap_err().code(), wanted);
        assert_eq!(inspect(wire).await.unwrap_err().code(), wanted);
        assert_eq!(purge(wire, 0).await.unwrap_err().code(), wanted);
        assert_eq!(rotate_epoch(wire).await.unwrap_err().code(), wanted);
        assert_eq!(wire.admin().backup(backup).await.unwrap_err().code(), wanted);
    }
    inspect(&operator).await.unwrap();
    server.stop().await;
}

/// A policy is set field by field, told back, and in force; what is absent stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_set_told_and_in_force() {
    let server = TestServer::with(|config| config.tombstones_max = 100).await;
    let wire = server.wire();
    assert_eq!(set_policy(wire, tombstones(2)).await.unwrap_err().code(), Code::NotFound);
    wire.commit((0..9).map(|n| put(LIST, n.to_string(), "")).collect()).await;
    wire.commit((0..6).map(|n| delete(LIST, n.to_string())).collect()).await;
    let effective = set_policy(wire, tombstones(2)).await.unwrap();
    assert_eq!((effective.tombstones_max, effective.bytes_max), (Some(2), Some(0)));
    until_true("the surplus to be forgotten", async || head(wire).await.tombstones == 2).await;
    let quota = v1::Policy { bytes_max: Some(10), ..v1::Policy::default() };
    set_policy(wire, quota).await.unwrap();
    let told = inspect(wire).await.unwrap();
    let own = v1::Policy { bytes_max: Some(10), ..tombstones(2) };
    assert_eq!(told.policy, Some(own));
    assert!(told.oldest_tombstone_time.is_some() && told.subscribers == 0);
    let refused = wire.try_commit(sync_tests::compose::commit(vec![put(LIST, "x", "1234567")]));
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("bytes_max) is 10"), "{refused}");
    let events = wire.subscribe(vec![scratch(LIST)]).await;
    assert_eq!(inspect(wire).await.unwrap().subscribers, 1);
    drop(events);
    let pinned = v1::Policy { diffusion: v1::Diffusion::Write.into(), ..v1::Policy::default() };
    let effective = set_policy(wire, pinned).await.unwrap();
    assert_eq!(effective.diffusion, i32::from(v1::Diffusion::Write));
    let fields = [v1::PolicyField::BytesMax, v1::PolicyField::Diffusion];
    let request = v1::SetPolicyRequest {
        collection: LIST.to_owned(),
        clear: fields.map(i32::from).to_vec(),
        ..Default::default()
    };
    let cleared = wire.admin().set_policy(request).await.unwrap().into_inner();
    let effective = cleared.effective_policy.unwrap();
    assert_eq!((effective.bytes_max, effective.diffusion), (Some(0), 0));
    assert_eq!(inspect(wire).await.unwrap().policy, Some(tombstones(2)));
    let hour = Policy { tombstone_age_max: Some(Duration::from_secs(3_600)), ..Policy::default() };
    let mut malformed = v1::Policy::from(hour);
    malformed.tombstone_age_max.as_mut().unwrap().seconds = -1;
    let refused = set_policy(wire, malformed).await.unwrap_err();
    assert!(refused.message().starts_with("policy.tombstone_age_max.seconds: "), "{refused}");
    let absent = v1::SetPolicyRequest { collection: LIST.to_owned(), ..Default::default() };
    let refused = wire.admin().set_policy(absent).await.unwrap_err();
    assert!(refused.message().starts_with("policy: "), "{refused}");
    assert_eq!(purge(wire, 99).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(purge(wire, u64::MAX).await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

/// G6: a new epoch is told to every cursor and every stream at once; items and versions stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_reaches_every_reader() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit((0..9).map(|n| put(LIST, n.to_string(), "")).collect()).await;
    let mut reader = PlainReader::new(scratch(LIST));
    let mut events = wire.subscribe(vec![reader.target.clone()]).await;
    events.accepted().await;
    reader.follow_to(&mut events, head(wire).await.version).await;
    let before = head(wire).await;
    let after = rotate_epoch(wire).await.unwrap();
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after, Head { epoch: after.epoch, ..before });
    loop {
        let event = events.next_news().await;
        if let Event::Reset(_, reset) = event {
            assert_eq!((reset.reason, reset.head), (ResetReason::EpochChanged, after));
            break;
        }
    }
    let outcome = wire.pull_one(reader.target.clone()).await;
    let Outcome::Reset(reset) = outcome else { panic!("{outcome:?}") };
    assert_eq!(reset.reason, ResetReason::EpochChanged);
    let kept = reader.copy.clone();
    reader.catch_up(wire).await;
    assert!(reader.copy == kept, "the items are the same");
    let next = wire.commit(vec![put(LIST, "more", "")]).await;
    assert_eq!(next, before.version.next(), "versions go on");
    server.stop().await;
}

/// Puts and deletes a few items again and again until it is told to stop.
async fn churn(wire: Wire, writer: usize, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let item = format!("{writer} {}", round % 7);
        wire.commit(vec![put(LIST, &item, round.to_string())]).await;
        if round % 3 != 0 {
            wire.commit(vec![delete(LIST, &item)]).await;
        }
        round += 1;
    }
}

/// Catches up again and again, page by page; whatever is wrong in a delta fails the test.
async fn read_on(wire: Wire, page: u32, stop: Arc<AtomicBool>) -> PlainReader {
    let mut reader = PlainReader::new(scratch(LIST));
    while !stop.load(Ordering::Relaxed) {
        reader.pull(&wire, page).await;
    }
    reader.catch_up(&wire).await;
    reader
}

/// G1, G5: purges up to the very head, and policies that change all the time, race readers that
/// page by ones and twos and writers that delete: everybody ends with the server's items, and the
/// floor never goes back.
#[tokio::test(flavor = "multi_thread")]
async fn purges_and_policies_race_readers_and_writers() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put(LIST, "first", "")]).await;
    let (tracker, stop) = (TaskTracker::new(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..3)
        .map(|n| tracker.spawn(churn(server.new_connection(), n, Arc::clone(&stop))))
        .collect();
    let readers: Vec<_> = [1, 2, 5, 1_000]
        .map(|page| tracker.spawn(read_on(server.new_connection(), page, Arc::clone(&stop))))
        .into();
    let (mut floor, mut purged) = (Version::ZERO, 0);
    for round in 0..200 {
        let before = head(wire).await;
        assert!(before.floor >= floor, "the floor went back");
        floor = before.floor;
        match round % 4 {
            0 => drop(set_policy(wire, tombstones(round % 5)).await.unwrap()),
            1 => drop(set_policy(wire, tombstones(1_000)).await.unwrap()),
            2 => purged += purge(wire, before.version.get()).await.unwrap().purged,
            _ => purged += purge(wire, before.version.get() / 2).await.unwrap().purged,
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        within("a writer to end", writer).await.unwrap();
    }
    assert!(purged > 0 && floor > Version::ZERO, "{purged} purged, floor {floor}");
    let wanted = wire.load(LIST).await.copy;
    let mut resets = 0;
    for reader in readers {
        let mut reader = within("a reader to end", reader).await.unwrap();
        reader.catch_up(wire).await;
        assert!(reader.copy == wanted, "a reader has something else");
        resets += reader.seen.resets;
    }
    eprintln!("{purged} purged by hand, {resets} resets");
    server.stop().await;
}

/// G8: a purge of very many deletes holds no commit up: it is done in steps between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_purge_does_not_stall_commits() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for part in 0..8 {
        let item = |n: usize| format!("{part} {n}");
        wire.commit((0..5_000).map(|n| put(LIST, item(n), "")).collect()).await;
        wire.commit((0..5_000).map(|n| delete(LIST, item(n))).collect()).await;
    }
    let before = head(wire).await;
    let other = server.new_connection();
    let purging =
        TaskTracker::new().spawn(async move { purge(&other, before.version.get()).await });
    let (mut worst, mut commits) = (Duration::ZERO, 0);
    while !purging.is_finished() {
        let began = std::time::Instant::now();
        wire.commit(vec![put("elsewhere", "k", commits.to_string())]).await;
        worst = worst.max(began.elapsed());
        commits += 1;
    }
    let purged = within("the purge", purging).await.unwrap().unwrap();
    assert_eq!((purged.purged, head(wire).await.tombstones), (40_000, 0));
    eprintln!("{commits} commits beside a purge of 40,000, the slowest took {worst:?}");
    assert!(commits > 20, "only {commits} commits had their turn");
    server.stop().await;
}
