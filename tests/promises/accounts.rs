//! Accounts of a subject against the real server: away and back, two devices, unfollowed or deleted,
//! hot, thousands of which a few changed, away for longer than the inbox remembers, a server that is
//! killed while everything is caught up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use sync_client::account::{Account, AccountBuilder, FollowState};
use sync_client::store::StoreError;
use sync_client::{Collection, DiskStore, Driver, MemoryStore, Raw, ReplicaStore, SyncClient};
use sync_proto::types::{Head, Key, Mutation, Op, Subject};
use sync_proto::v1;
use sync_server::config::Config;
use sync_tests::compose::{name, put};
use sync_tests::process::Program;
use sync_tests::server::TestServer;
use sync_tests::wait::{PATIENCE, until_true, within};
use sync_tests::wire::Wire;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An account as an application runs it.
struct Phone {
    account: Account,
    stop: CancellationToken,
    driving: JoinHandle<Result<(), StoreError>>,
}

fn follow(collection: &str) -> Mutation {
    let subject = Subject::new("ada").unwrap();
    Mutation { collection: name(collection), op: Op::Follow { subject } }
}

fn unfollow(collection: &str) -> Mutation {
    let subject = Subject::new("ada").unwrap();
    Mutation { collection: name(collection), op: Op::Unfollow { subject } }
}

/// So many collections with an item each, all of them followed.
async fn fill(wire: &Wire, collections: usize) {
    let names: Vec<String> = (0..collections).map(|number| format!("c/{number}")).collect();
    for some in names.chunks(1_000) {
        wire.commit(some.iter().map(|name| put(name, "a", "1")).collect()).await;
        wire.commit(some.iter().map(|name| follow(name)).collect()).await;
    }
}

async fn head(wire: &Wire, collection: &str) -> Option<Head> {
    wire.head(&name(collection)).await
}

/// How far the server knows that a device has come with the inbox.
async fn acked(wire: &Wire, phone: &Phone) -> Option<u64> {
    let prefix = phone.account.client_id().to_owned();
    let request = v1::ListClientsRequest { prefix, ..Default::default() };
    let reply = within("the clients", wire.admin().list_clients(request)).await.unwrap();
    let inbox = phone.account.subject().inbox();
    let clients = reply.into_inner().clients;
    let mut positions = clients.iter().flat_map(|client| &client.positions);
    let position = positions.find(|position| position.collection == inbox.as_str())?;
    position.acked.as_ref().map(|cursor| cursor.version)
}

// === impl Phone ===

impl Phone {
    fn builder(uri: &str, store: impl ReplicaStore) -> AccountBuilder {
        let client = SyncClient::connect(uri).unwrap();
        Account::builder(client, store, Subject::new("ada").unwrap())
            .heartbeat(Duration::from_millis(500))
            .longest_backoff(Duration::from_millis(300))
            .ack_every(Duration::from_millis(200))
    }

    fn start(uri: &str, store: impl ReplicaStore) -> Self {
        let (account, driver) = Self::builder(uri, store).build().unwrap();
        Self::of(account, driver)
    }

    fn of(account: Account, driver: Driver) -> Self {
        let stop = CancellationToken::new();
        let driving = TaskTracker::new().spawn(driver.run(stop.clone()));
        Self { account, stop, driving }
    }

    fn on_disk(uri: &str, dir: &Path) -> Self {
        Self::start(uri, DiskStore::open(dir.join("account.redb")).unwrap())
    }

    async fn settle(&self) {
        let settled = self.account.wait_until_settled(PATIENCE).await;
        let (summary, stats) = (*self.account.summary().borrow(), self.account.stats());
        assert_eq!(settled, Ok(()), "{summary:?} {stats:?}");
    }

    fn state(&self, collection: &str) -> Option<FollowState> {
        self.account.get(&name(collection)).map(|one| one.state)
    }

    fn copy(&self, collection: &str) -> Collection<Raw> {
        self.account.collection(&name(collection)).unwrap()
    }

    fn contents(&self, collection: &str) -> BTreeMap<Key, Bytes> {
        let items = self.copy(collection).reader().iter().unwrap();
        items.map(|entry| entry.unwrap()).map(|entry| (entry.key, entry.value)).collect()
    }

    /// G1, G9: the copy is the server's collection.
    async fn has(&self, wire: &Wire, collection: &str) {
        let wanted = head(wire, collection).await.unwrap();
        let copy = self.copy(collection);
        copy.wait_for(wanted.cursor(), PATIENCE).await.unwrap();
        assert_eq!(copy.standing().tally.digest, wanted.digest, "{collection}");
    }

    async fn end(self) {
        self.stop.cancel();
        within("the account to end", self.driving).await.unwrap().unwrap();
    }
}

/// G1, G4: what happened elsewhere meanwhile is here after coming back, on every device: commits,
/// deletions, unfollows, what is followed anew. The copy of what is not followed is dropped, that of
/// what was deleted is kept, empty.
#[tokio::test(flavor = "multi_thread")]
async fn what_happened_meanwhile_is_here_after_coming_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire, 20).await;
    let phone = Phone::on_disk(&server.uri(), dir.path());
    let tablet = Phone::start(&server.uri(), MemoryStore::new());
    phone.settle().await;
    tablet.settle().await;
    let list = phone.account.list();
    assert_eq!(list.len(), 20);
    phone.end().await;

    wire.commit(vec![put("c/3", "b", "2"), put("c/4", "b", "2"), follow("not/yet")]).await;
    wire.commit(vec![unfollow("c/5")]).await;
    wire.delete_collection("c/6").await;
    until_true("the tablet was there", async || {
        tablet.state("c/6") == Some(FollowState::Deleted) && tablet.state("c/5").is_none()
    })
    .await;
    tablet.has(wire, "c/3").await;

    let store = DiskStore::open(dir.path().join("account.redb")).unwrap();
    let (account, driver) = Phone::builder(&server.uri(), store).build().unwrap();
    assert_eq!(account.list(), list, "shown before the network answers");
    let phone = Phone::of(account, driver);
    until_true("the phone knows", async || phone.state("c/6") == Some(FollowState::Deleted)).await;
    phone.settle().await;
    for device in [&phone, &tablet] {
        device.has(wire, "c/3").await;
        device.has(wire, "c/4").await;
        assert!(device.contents("c/5").is_empty() && device.state("c/5").is_none());
        assert!(device.contents("c/6").is_empty());
        assert_eq!(device.state("not/yet"), Some(FollowState::Absent));
    }
    assert_ne!(phone.account.client_id(), tablet.account.client_id());
    wire.commit(vec![put("not/yet", "a", "1"), put("c/6", "again", "1")]).await;
    for device in [&phone, &tablet] {
        device.has(wire, "not/yet").await;
        device.has(wire, "c/6").await;
    }
    // Each says how far it has come: to the end, in the end.
    let inbox = wire.head(&phone.account.subject().inbox()).await.unwrap().version.get();
    for device in [&phone, &tablet] {
        until_true("all is acknowledged", async || acked(wire, device).await == Some(inbox)).await;
        // The server knows before the answer is here.
        let stats = || device.account.stats();
        until_true("each was taken", async || stats().acks == stats().acks_accepted).await;
    }
    phone.end().await;
    tablet.end().await;
    server.stop().await;
}

/// 5,000 collections are followed and 3 have changed: the inbox by its stream, and one pull.
#[tokio::test(flavor = "multi_thread")]
async fn three_of_five_thousand_cost_one_pull_and_two_kilobytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire, 5_000).await;
    let phone = Phone::on_disk(&server.uri(), dir.path());
    phone.settle().await;
    let first = phone.account.session_stats();
    phone.end().await;
    wire.commit(["c/17", "c/170", "c/4999"].map(|of| put(of, "b", "2")).to_vec()).await;

    // A machine that stalls for a moment must not lose the stream.
    let store = DiskStore::open(dir.path().join("account.redb")).unwrap();
    let patient = Phone::builder(&server.uri(), store).heartbeat(Duration::from_secs(15));
    let (account, driver) = patient.build().unwrap();
    let phone = Phone::of(account, driver);
    for of in ["c/17", "c/170", "c/4999"] {
        phone.has(wire, of).await;
    }
    phone.settle().await;
    let stats = phone.account.session_stats();
    eprintln!("first {} pulls, {} bytes", first.pulls, first.bytes_received);
    eprintln!("then {} pulls, {} bytes", stats.pulls, stats.bytes_received);
    assert!(first.pulls <= 40, "{first:?}");
    assert_eq!((stats.pulls, stats.streams), (1, 1), "{stats:?}");
    assert!(stats.bytes_received < 2_048, "{stats:?}");
    phone.end().await;
    server.stop().await;
}

/// Collections that inboxes do not announce are followed by what pulls and streams say besides.
#[tokio::test(flavor = "multi_thread")]
async fn hot_collections_are_followed() {
    fn only_read(config: &mut Config) {
        (config.write_audience_max, config.notice_interval_ms) = (0, 10);
    }
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::with(only_read).await;
    let wire = server.wire();
    fill(wire, 30).await;
    let phone = Phone::on_disk(&server.uri(), dir.path());
    for number in 0..30 {
        phone.has(wire, &format!("c/{number}")).await;
    }
    for round in 0..5 {
        wire.commit((0..30).map(|n| put(&format!("c/{n}"), "b", round.to_string())).collect())
            .await;
    }
    for number in 0..30 {
        phone.has(wire, &format!("c/{number}")).await;
    }
    phone.settle().await;
    phone.end().await;
    // Away: the inbox says nothing new, what is told besides does.
    wire.commit((10..20).map(|n| put(&format!("c/{n}"), "away", "1")).collect()).await;
    wire.delete_collection("c/20").await;
    let phone = Phone::on_disk(&server.uri(), dir.path());
    for number in 10..20 {
        phone.has(wire, &format!("c/{number}")).await;
    }
    until_true("the deletion is known", async || phone.contents("c/20").is_empty()).await;
    assert!(phone.account.stats().polled >= 10, "{:?}", phone.account.stats());
    phone.end().await;
    server.stop().await;
}

/// G5, G6: away for longer than the inbox remembers unfollows: it is repaired by what differs, no
/// unfollow is missed, and only what moved is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn away_for_longer_than_the_inbox_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire, 400).await;
    let phone = Phone::on_disk(&server.uri(), dir.path());
    phone.settle().await;
    phone.end().await;
    wire.commit(vec![unfollow("c/5"), unfollow("c/6")]).await;
    wire.commit(vec![put("c/7", "b", "2")]).await;
    let inbox = Subject::new("ada").unwrap().inbox();
    let at = wire.head(&inbox).await.unwrap().version.get();
    let purge = v1::PurgeRequest { collection: inbox.to_string(), up_to_version: at };
    within("a purge", wire.admin().purge(purge)).await.unwrap();

    let phone = Phone::on_disk(&server.uri(), dir.path());
    phone.has(wire, "c/7").await;
    until_true("the unfollows are known", async || {
        phone.account.list().len() == 398 && phone.contents("c/5").is_empty()
    })
    .await;
    phone.settle().await;
    let (stats, session) = (phone.account.stats(), phone.account.session_stats());
    assert_eq!((session.loads, stats.caught_up), (0, 1), "{session:?}");
    assert!(!session.repairs.is_empty(), "the cursor could not be continued: {session:?}");
    phone.end().await;
    server.stop().await;
}

/// G1, G3: the server is killed again and again while hundreds of collections are caught up.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_delays_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(super::SERVER, &dir.path().join("server"));
    let mut process = program.start_serving().await;
    let wire = program.wire();
    fill(&wire, 300).await;
    let phone = Phone::on_disk(&format!("http://{}", program.address()), dir.path());
    for round in 0..3 {
        process.kill();
        process = program.start_serving().await;
        let puts = (0..300).map(|n| put(&format!("c/{n}"), "b", round.to_string()));
        program.wire().commit(puts.collect()).await;
    }
    let wire = program.wire();
    for number in 0..300 {
        phone.has(&wire, &format!("c/{number}")).await;
    }
    phone.settle().await;
    phone.end().await;
    process.terminate();
    within("the server to end", process.ended()).await;
}
