//! The server holds cursors for clients: what may be acknowledged, what is kept of it, and how a
//! client goes on from there that has kept nothing.
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sync_client::{MemoryStore, Replica, ReplicaBuilder, SyncClient};
use sync_proto::types::{
    ClientInfo, Cursor, Delta, Epoch, Event, Outcome, Plan, ResetReason, Subscribe, Target,
};
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use sync_tests::compose::{delete, name, put, scratch, version};
use sync_tests::data::hex;
use sync_tests::reader::PlainReader;
use sync_tests::server::TestServer;
use sync_tests::stream::Events;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

const PHONE: &str = "phone";

/// The same target, from the cursor that the server holds.
fn held(collection: &str) -> Target {
    Target { from_last_ack: true, ..scratch(collection) }
}

/// Pulls from the cursor that the server holds.
async fn pull_held(wire: &Wire, client_id: &str, collection: &str) -> Outcome {
    wire.pull_as(client_id, vec![held(collection)]).await.remove(0)
}

/// Where the server lets a client begin.
async fn held_at(wire: &Wire, client_id: &str, collection: &str) -> Option<Cursor> {
    match pull_held(wire, client_id, collection).await {
        Outcome::Aligned(head) => Some(head.cursor()),
        Outcome::Delta(delta) if delta.from.version == version(0) => None,
        Outcome::Delta(delta) => Some(delta.from),
        other => panic!("{other:?}"),
    }
}

/// A page of at most so many changes, as this client.
async fn page_as(wire: &Wire, client_id: &str, target: Target, most: u32) -> Delta {
    let request = v1::PullRequest {
        targets: vec![target.into()],
        max_changes_per_target: most,
        client_id: client_id.to_owned(),
        ..Default::default()
    };
    match wire.pull_raw(request).await.unwrap().remove(0) {
        Outcome::Delta(delta) => delta,
        other => panic!("a delta was due, not {other:?}"),
    }
}

async fn subscribe_as(wire: &Wire, client_id: &str, targets: Vec<Target>) -> Events {
    let (heartbeat, client_id) = (Duration::from_millis(200), client_id.to_owned());
    wire.try_subscribe(Subscribe { targets, heartbeat, client_id }).await.unwrap()
}

async fn commits(wire: &Wire, collection: &str, from: u64, to: u64) {
    for number in from..=to {
        wire.commit(vec![put(collection, number.to_string(), number.to_string())]).await;
    }
}

async fn cursor(wire: &Wire, collection: &str, number: u64) -> Cursor {
    Cursor { version: version(number), ..wire.head(&name(collection)).await.unwrap().cursor() }
}

fn assert_refused(refused: Result<(), Status>, code: Code, text: &str) {
    let refusal = refused.unwrap_err();
    assert_eq!(refusal.code(), code, "{refusal}");
    assert!(refusal.message().starts_with(text), "{text}: {refusal}");
}

async fn clients(wire: &Wire, prefix: &str, page_size: u32) -> Result<Vec<ClientInfo>, Status> {
    let (mut found, mut page_token) = (Vec::new(), Bytes::default());
    loop {
        let prefix = prefix.to_owned();
        let request = v1::ListClientsRequest { prefix, page_size, page_token };
        let mut admin = wire.admin();
        let page = within("the clients", admin.list_clients(request)).await?.into_inner();
        assert!(page.clients.len() <= page_size as usize);
        found.extend(page.clients.into_iter().map(|one| ClientInfo::try_from(one).unwrap()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// G2, G3: what is acknowledged moves forward only, for each device by itself, and outlives the
/// server; a late or repeated ack is answered like any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_ack_is_durable_and_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = TestServer::on_disk(dir.path(), |_| {}).await;
    commits(server.wire(), "list", 1, 9).await;
    commits(server.wire(), "other", 1, 2).await;
    for device in [PHONE, "tablet"] {
        server.wire().pull_as(device, vec![scratch("list"), scratch("other")]).await;
    }
    let at = async |wire: &Wire, number| ("list", cursor(wire, "list", number).await);
    let (three, six) = (at(server.wire(), 3).await, at(server.wire(), 6).await);
    let other = ("other", cursor(server.wire(), "other", 2).await);
    server.wire().ack(PHONE, &[six, other]).await.unwrap();
    server.wire().ack("tablet", &[three]).await.unwrap();
    for _ in 0..2 {
        let wire = server.wire();
        for late in [three, six, at(wire, 1).await] {
            wire.ack(PHONE, &[late]).await.unwrap();
        }
        assert_eq!(held_at(wire, PHONE, "list").await, Some(six.1));
        assert_eq!(held_at(wire, PHONE, "other").await, Some(other.1), "aligned");
        assert_eq!(held_at(wire, "tablet", "list").await, Some(three.1));
        assert_eq!(held_at(wire, "tablet", "other").await, None);
        assert_eq!(held_at(wire, "stranger", "list").await, None);
        server.stop().await;
        server = TestServer::on_disk(dir.path(), |_| {}).await;
    }
    let wire = server.wire();
    let mut reader = PlainReader::new(Target { cursor: Some(six.1), ..scratch("list") });
    let Outcome::Delta(delta) = pull_held(wire, PHONE, "list").await else { panic!("7, 8, 9") };
    assert_eq!((delta.from, delta.changes.len(), delta.has_more), (six.1, 3, false));
    reader.target.cursor = Some(delta.to);
    let nine = at(wire, 9).await;
    wire.ack(PHONE, &[nine]).await.unwrap();
    assert!(matches!(pull_held(wire, PHONE, "list").await, Outcome::Aligned(_)));
    server.stop().await;
}

/// G4, G11: a claim of more than was sent is refused by its index, and nothing of its call is
/// kept; a claim of what a stream has just sent is not.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_more_than_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let wire = server.wire();
    commits(wire, "list", 1, 9).await;
    commits(wire, "other", 1, 9).await;
    let at = async |collection, number| (collection, cursor(wire, collection, number).await);
    let first = page_as(wire, PHONE, scratch("list"), 3).await;
    assert_eq!((first.to.version, first.has_more), (version(3), true));
    let sent = ("list", first.to);
    let beyond = [at("list", 4).await, at("list", 3).await];
    for claim in beyond {
        let refused = wire.ack(PHONE, &[at("other", 1).await, claim]).await;
        let wanted = "acked[1].cursor: claims more than was sent";
        assert_refused(refused, Code::FailedPrecondition, wanted);
    }
    assert_eq!(held_at(wire, PHONE, "list").await, None);
    assert_eq!(held_at(wire, PHONE, "other").await, None, "nothing of the calls is kept");
    wire.ack(PHONE, &[sent]).await.unwrap();
    let above = at("other", 10).await;
    let refused = wire.ack("tablet", &[above]).await;
    assert_refused(refused, Code::FailedPrecondition, "acked[0].cursor: above the head");
    let strange = Epoch::new(above.1.epoch.get() ^ 1).unwrap();
    let refused = wire.ack("tablet", &[("other", Cursor { epoch: strange, ..above.1 })]).await;
    assert_refused(refused, Code::FailedPrecondition, "acked[0].cursor: of another epoch");
    let refused = wire.ack(PHONE, &[at("list", 1).await, ("none", above.1)]).await;
    assert_refused(refused, Code::NotFound, "acked[1].collection: there is no such");
    assert_refused(wire.ack("", &[sent]).await, Code::InvalidArgument, "client_id: must be set");

    let mut events = subscribe_as(wire, PHONE, vec![held("list")]).await;
    events.accepted().await;
    let mut reader = PlainReader::new(Target { cursor: Some(sent.1), ..scratch("list") });
    for round in 10..20 {
        let version = wire.commit(vec![put("list", "k", round.to_string())]).await;
        while reader.version() < version {
            let Event::Changes(_, delta) = events.next_news().await else { continue };
            reader.target.cursor = Some(delta.to);
            wire.ack(PHONE, &[("list", delta.to)]).await.unwrap();
        }
    }
    drop(events);
    server.stop().await;
    // A server that has just started does not know what was sent before; the head bounds it still.
    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let wire = server.wire();
    let refused = wire.ack(PHONE, &[("other", above.1)]).await;
    assert_refused(refused, Code::FailedPrecondition, "acked[0].cursor: above the head");
    let head = cursor(wire, "other", 9).await;
    wire.ack(PHONE, &[("other", head)]).await.unwrap();
    assert_eq!(held_at(wire, PHONE, "other").await, Some(head));
    server.stop().await;
}

/// G10: two subjects with the same client id neither see nor move each other's cursors, and
/// nobody acknowledges what is not theirs to read.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_client_id_of_two_subjects_is_two_clients() {
    let token = |secret: &str, read: &str, admin| TokenConfig {
        sha256: hex(&Sha256::digest(secret)),
        subject: secret.to_owned(),
        read: vec![read.to_owned()],
        write: vec!["*".to_owned()],
        admin,
    };
    let tokens = vec![token("alice", "*", true), token("bob", "list", false)];
    let server = TestServer::with(|config| config.tokens = tokens).await;
    let (alice, bob) = (server.wire().showing("alice"), server.wire().showing("bob"));
    commits(&alice, "list", 1, 9).await;
    commits(&alice, "secret", 1, 9).await;
    alice.pull_as(PHONE, vec![scratch("list"), scratch("secret")]).await;
    let head = ("list", cursor(&alice, "list", 9).await);
    // What was sent to alice was not sent to bob.
    let first = page_as(&bob, PHONE, scratch("list"), 2).await.to;
    let refused = bob.ack(PHONE, &[head]).await;
    assert_refused(refused, Code::FailedPrecondition, "acked[0].cursor: claims more");
    bob.ack(PHONE, &[("list", first)]).await.unwrap();
    alice.ack(PHONE, &[head]).await.unwrap();
    assert_eq!(held_at(&bob, PHONE, "list").await.map(|at| at.version), Some(version(2)));
    assert_eq!(held_at(&alice, PHONE, "list").await, Some(head.1));
    let refused = bob.ack(PHONE, &[head, ("secret", cursor(&alice, "secret", 1).await)]).await;
    assert_refused(refused, Code::PermissionDenied, "acked[1].collection: not allowed");
    let refused = bob.ack(PHONE, &[("none", head.1)]).await;
    assert_refused(refused, Code::PermissionDenied, "acked[0].collection: not allowed");
    assert!(matches!(pull_held(&bob, PHONE, "secret").await, Outcome::Denied));
    assert_eq!(clients(&bob, "", 9).await.unwrap_err().code(), Code::PermissionDenied);
    let seen = clients(&alice, "", 1).await.unwrap();
    let subjects: Vec<_> = seen.iter().map(|client| client.subject.as_str()).collect();
    assert_eq!(subjects, ["alice", "bob"]);
    assert!(seen.iter().all(|client| client.client_id == PHONE));
    assert_eq!(seen[1].positions.len(), 1, "{seen:?}");
    server.stop().await;
}

async fn plan(wire: &Wire, client_id: &str, collection: &str) -> Plan {
    let mut events = subscribe_as(wire, client_id, vec![held(collection)]).await;
    events.accepted().await.remove(0).plan
}

async fn reason(wire: &Wire, client_id: &str, target: Target) -> Option<ResetReason> {
    match wire.pull_as(client_id, vec![target]).await.remove(0) {
        Outcome::Reset(reset) => Some(reset.reason),
        _ => None,
    }
}

/// G5, G6: a cursor that is held is judged like one that is shown, by pulls and by streams:
/// existence, epoch, floor; and none that is held is a first load.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_cursor_is_judged_like_any_other() {
    let server = TestServer::with(|config| config.tombstones_max = 0).await;
    let wire = server.wire();
    commits(wire, "list", 1, 9).await;
    assert!(matches!(pull_held(wire, PHONE, "none").await, Outcome::NotFound));
    assert_eq!(plan(wire, PHONE, "none").await, Plan::Absent);
    assert_eq!(plan(wire, PHONE, "list").await, Plan::Load, "nothing is held");
    wire.ack(PHONE, &[("list", cursor(wire, "list", 5).await)]).await.unwrap();
    assert_eq!(plan(wire, PHONE, "list").await, Plan::CatchUp);
    wire.ack(PHONE, &[("list", cursor(wire, "list", 9).await)]).await.unwrap();
    assert_eq!(plan(wire, PHONE, "list").await, Plan::Live);
    // The floor passes behind it: what was deleted is not known any more.
    wire.commit(vec![delete("list", "3"), put("list", "4", "new")]).await;
    until_true("the delete to be forgotten", async || {
        wire.head(&name("list")).await.unwrap().tombstones == 0
    })
    .await;
    let below = Some(ResetReason::BelowFloor);
    assert_eq!(reason(wire, PHONE, held("list")).await, below);
    let part = Target { scope: sync_proto::types::Scope::KeyPrefix("4".into()), ..held("list") };
    assert_eq!(reason(wire, PHONE, Target { verify: true, ..part }).await, below);
    assert!(
        matches!(plan(wire, PHONE, "list").await, Plan::Reset(reset) if Some(reset.reason) == below)
    );
    let verify = Target { verify: true, ..held("list") };
    let doubtful = page_as(wire, PHONE, verify, 9).await;
    assert!(doubtful.unverified && doubtful.from.version == version(9), "{doubtful:?}");
    // Whoever starts over begins without it, and what it acknowledges then counts.
    let load = page_as(wire, PHONE, scratch("list"), 99).await;
    assert!(load.initial && !load.has_more);
    wire.ack(PHONE, &[("list", load.to)]).await.unwrap();
    assert_eq!(plan(wire, PHONE, "list").await, Plan::Live);
    // Another life of the collection.
    wire.delete_collection("list").await;
    assert!(matches!(pull_held(wire, PHONE, "list").await, Outcome::NotFound));
    commits(wire, "list", 1, 20).await;
    assert_eq!(reason(wire, PHONE, held("list")).await, Some(ResetReason::EpochChanged));
    let late = wire.ack(PHONE, &[("list", load.to)]).await;
    assert_refused(late, Code::FailedPrecondition, "acked[0].cursor: of another epoch");
    let load = page_as(wire, PHONE, scratch("list"), 7).await;
    wire.ack(PHONE, &[("list", load.to)]).await.unwrap();
    assert_eq!(held_at(wire, PHONE, "list").await, Some(load.to), "the new epoch replaces the old");
    server.stop().await;
}

/// A load that is under way goes on from the cursor that is held, base and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_from_its_ack() {
    let server = TestServer::start().await;
    let wire = server.wire();
    commits(wire, "list", 1, 9).await;
    let mut reader = PlainReader::new(scratch("list"));
    let mut from_ack = false;
    let mut pages = 0;
    loop {
        let delta = page_as(wire, PHONE, Target { from_last_ack: from_ack, ..scratch("list") }, 2);
        let delta = delta.await;
        assert_eq!(delta.initial, delta.from.version < version(9), "{delta:?}");
        reader.apply(&delta);
        wire.ack(PHONE, &[("list", delta.to)]).await.unwrap();
        (from_ack, pages) = (true, pages + 1);
        if pages == 2 {
            // A row of the load moves ahead, another goes.
            wire.commit(vec![put("list", "1", "moved"), delete("list", "9")]).await;
        }
        if !delta.has_more {
            break;
        }
    }
    assert!(pages >= 5, "{pages} pages");
    let wanted = wire.load("list").await;
    assert!(reader.copy == wanted.copy && reader.seen.resets == 0);
    server.stop().await;
}

/// Held cursors end by age, and the oldest first by number; a client that says the same again
/// keeps its own.
#[tokio::test(flavor = "multi_thread")]
async fn held_cursors_are_forgotten_in_time() {
    let server = TestServer::with(|config| config.acks_max = 2).await;
    let wire = server.wire();
    commits(wire, "list", 1, 3).await;
    let at = ("list", cursor(wire, "list", 2).await);
    for client_id in ["a", "b", "c", "d"] {
        wire.ack(client_id, &[at]).await.unwrap();
    }
    // Each is asked until then and no longer: a client without a cursor begins a load, which it is
    // not allowed to do again and again.
    for client_id in ["a", "b"] {
        let gone = async || held_at(wire, client_id, "list").await.is_none();
        until_true("the oldest to be forgotten", gone).await;
    }
    assert_eq!(held_at(wire, "d", "list").await, Some(at.1), "the newest stays");
    server.stop().await;

    let server = TestServer::with(|config| config.ack_age_max_s = 2).await;
    let wire = server.wire();
    commits(wire, "list", 1, 3).await;
    let at = ("list", cursor(wire, "list", 2).await);
    wire.ack("quiet", &[at]).await.unwrap();
    wire.ack("busy", &[at]).await.unwrap();
    until_true("what is old to be forgotten", async || {
        wire.ack("busy", &[at]).await.unwrap();
        held_at(wire, "quiet", "list").await.is_none()
    })
    .await;
    assert_eq!(held_at(wire, "busy", "list").await, Some(at.1));
    server.stop().await;
}

/// Operators see who is connected, who has acknowledged, and how far each is behind, also of
/// clients that were not heard of since the server has started.
#[tokio::test(flavor = "multi_thread")]
async fn operators_see_where_clients_stand() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let wire = server.wire();
    commits(wire, "list", 1, 9).await;
    commits(wire, "other", 1, 2).await;
    page_as(wire, PHONE, scratch("list"), 4).await;
    let acked = cursor(wire, "list", 3).await;
    wire.ack(PHONE, &[("list", acked)]).await.unwrap();
    let mut events = subscribe_as(wire, "tablet", vec![scratch("list"), scratch("other")]).await;
    while !matches!(events.next_news().await, Event::CaughtUp(of, _) if of == name("other")) {}
    wire.pull_one(scratch("list")).await;
    for page_size in [1, 2, 9] {
        let seen = clients(wire, "", page_size).await.unwrap();
        assert_eq!(seen.len(), 2, "those without a name are not listed: {seen:?}");
        let (phone, tablet) = (&seen[0], &seen[1]);
        assert_eq!((phone.client_id.as_str(), phone.streams), (PHONE, 0));
        let at = &phone.positions[0];
        let sent = at.sent.map(|sent| sent.version);
        assert_eq!((sent, at.acked, at.behind), (Some(version(4)), Some(acked), 6));
        assert_eq!((tablet.client_id.as_str(), tablet.streams), ("tablet", 1));
        let behind: Vec<_> = tablet.positions.iter().map(|at| at.behind).collect();
        assert_eq!(behind, [0, 0]);
    }
    assert_eq!(clients(wire, "tab", 9).await.unwrap().len(), 1);
    drop(events);
    until_true("the stream to be gone", async || {
        clients(wire, "tablet", 9).await.unwrap()[0].streams == 0
    })
    .await;
    server.stop().await;
    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let seen = clients(server.wire(), "", 9).await.unwrap();
    assert_eq!((seen.len(), seen[0].client_id.as_str()), (1, PHONE), "what was sent is forgotten");
    let at = &seen[0].positions[0];
    assert_eq!((at.sent, at.acked, at.behind), (None, Some(acked), 6));
    assert!(seen[0].last_seen > sync_proto::types::Timestamp::default());
    let bad = v1::ListClientsRequest { page_token: "x".into(), ..Default::default() };
    let refusal = server.wire().admin().list_clients(bad).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    server.stop().await;
}

/// Where the server knows that a client has a collection.
async fn acked_by(wire: &Wire, client_id: &str) -> Option<Cursor> {
    let known = clients(wire, client_id, 10).await.unwrap();
    known.first()?.positions.first()?.acked
}

/// G6, G8: a replica with a name tells how far its copies are, by itself, and goes on with it when the
/// collection begins another life; one without a name tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_tells_how_far_it_is() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let stop = CancellationToken::new();
    let run = |client_id: &str, every: Option<Duration>| {
        let client = SyncClient::builder(server.uri()).client_id(client_id).build().unwrap();
        let builder = Replica::builder(client, MemoryStore::new()).collection(name("list"));
        let builder = builder.heartbeat(Duration::from_millis(200));
        let builder = every.into_iter().fold(builder, ReplicaBuilder::ack_every);
        let (replica, driver) = builder.build().unwrap();
        (replica, TaskTracker::new().spawn(driver.run(stop.clone())))
    };
    let every = Duration::from_millis(100);
    let replicas = [run(PHONE, Some(every)), run("", None)];
    let told = async |at: Cursor| {
        until_true("the ack", async || acked_by(wire, PHONE).await == Some(at)).await;
    };
    told(wire.head(&name("list")).await.unwrap().cursor()).await;
    wire.commit(vec![put("list", "b", "1")]).await;
    told(wire.head(&name("list")).await.unwrap().cursor()).await;
    wire.delete_collection("list").await;
    wire.commit(vec![put("list", "c", "1")]).await;
    told(wire.head(&name("list")).await.unwrap().cursor()).await;
    let all = clients(wire, "", 100).await.unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    let acked = all.iter().filter(|one| one.positions.iter().any(|at| at.acked.is_some()));
    assert_eq!(acked.count(), 1, "who has no name of its own tells: {all:?}");
    stop.cancel();
    for (_, driving) in replicas {
        within("the driver to end", driving).await.unwrap().unwrap();
    }
    server.stop().await;
}
