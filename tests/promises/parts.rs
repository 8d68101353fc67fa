//! Replicas of parts of collections: what they hold, and what becomes of a stored copy whose part
//! changes.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use sync_client::{Collection, DiskStore, Raw, Replica, Status, SyncClient};
use sync_proto::types::{OrderPlace, OrderRange, Scope, Version};
use sync_tests::compose::{delete, key, name, put, put_at, reorder, sort_key};
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A replica of a part of `list`, with its file.
struct Part {
    replica: Replica,
    list: Collection<Raw>,
    stop: CancellationToken,
    driver: JoinHandle<()>,
}

// === impl Part ===

impl Part {
    fn open(server: &TestServer, file: &Path, scope: Scope) -> Self {
        let client = SyncClient::connect(server.uri()).unwrap();
        let builder = Replica::builder(client, DiskStore::open(file).unwrap());
        let builder = builder.heartbeat(Duration::from_millis(200)).part(name("list"), scope);
        let (replica, driver) = builder.build().unwrap();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let driver = TaskTracker::new().spawn(async move { driver.run(stopping).await.unwrap() });
        let list = replica.collection(&name("list")).unwrap();
        Self { replica, list, stop, driver }
    }

    /// Waits until it stands at the server's head and has counted how it came there, and says what
    /// it has.
    async fn at_head(&self, wire: &Wire) -> Vec<String> {
        let head = wire.head(&name("list")).await.unwrap();
        self.list.wait_for(head.cursor(), PATIENCE).await.unwrap();
        let mut status = self.list.status();
        within("a part to be live", status.wait_for(|status| *status == Status::Live))
            .await
            .unwrap();
        self.keys().await
    }

    async fn keys(&self) -> Vec<String> {
        let rows = self.list.window(0, 1_000).await.unwrap();
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        rows.iter().map(|row| text(row.key.as_bytes())).collect()
    }

    async fn close(self) {
        self.stop.cancel();
        within("the end of a replica", self.driver).await.unwrap();
    }
}

fn prefix(bytes: &'static str) -> Scope {
    Scope::KeyPrefix(Bytes::from_static(bytes.as_bytes()))
}

fn stretch(from: &str, to: &str) -> Scope {
    let place = |at: &str| Some(OrderPlace { sort_key: sort_key(at), key: None });
    Scope::Order(OrderRange::new(place(from), place(to)).unwrap())
}

async fn fill(wire: &Wire) -> Version {
    let items = ["a1", "a2", "ab1", "ab2", "b1", "b2"];
    wire.commit(items.iter().map(|item| put_at("list", item, item, item)).collect()).await
}

/// G1, R42: replicas of a prefix, of keys and of a stretch hold their part, hear of what moves in and
/// out of it, and follow the head although what changes is elsewhere; nothing is pulled for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_followed_like_a_whole() {
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire).await;
    let dir = tempfile::tempdir().unwrap();
    let keys = Scope::Keys(vec![key("a1"), key("b1"), key("none")]);
    let parts = [prefix("ab"), keys, stretch("ab", "b2")];
    let parts: Vec<Part> = parts
        .into_iter()
        .enumerate()
        .map(|(n, scope)| Part::open(&server, &dir.path().join(format!("{n}.redb")), scope))
        .collect();
    let wanted = [vec!["ab1", "ab2"], vec!["a1", "b1"], vec!["ab1", "ab2", "b1"]];
    for (part, wanted) in parts.iter().zip(wanted) {
        assert_eq!(part.at_head(wire).await, wanted);
    }
    wire.commit(vec![reorder("list", "ab1", "z"), delete("list", "b1"), put("list", "none", "")])
        .await;
    wire.commit(vec![reorder("list", "a2", "b")]).await;
    let wanted = [vec!["ab2", "ab1"], vec!["none", "a1"], vec!["ab2", "a2"]];
    for (part, wanted) in parts.iter().zip(wanted) {
        assert_eq!(part.at_head(wire).await, wanted);
    }
    for round in 0..5 {
        wire.commit(vec![put_at("list", "elsewhere", format!("{round}"), "zz")]).await;
    }
    for part in &parts {
        part.at_head(wire).await;
        let stats = part.replica.stats();
        assert_eq!((stats.loads, stats.gaps, stats.digest_mismatches), (1, 0, 0), "{stats:?}");
    }
    for part in parts {
        part.close().await;
    }
    server.stop().await;
}

/// A stored copy whose part becomes narrower keeps its rows and its cursor, without a load; one
/// whose part becomes another is loaded anew, and shows what it had until then, also if the process
/// ends in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_copy_changes_its_part() {
    let server = TestServer::start().await;
    let wire = server.wire();
    fill(wire).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy.redb");
    let whole = Part::open(&server, &file, Scope::All);
    assert_eq!(whole.at_head(wire).await.len(), 6);
    whole.close().await;
    // While nobody looks: one goes out of the part, one comes into it.
    wire.commit(vec![reorder("list", "a2", "z"), put_at("list", "b3", "new", "ab")]).await;
    let narrow = Part::open(&server, &file, stretch("a", "ac"));
    assert_eq!(narrow.at_head(wire).await, ["a1", "b3", "ab1", "ab2"]);
    assert_eq!(narrow.replica.stats().loads, 0, "the cursor was continued");
    narrow.close().await;
    // Opened for another part, and closed before it could be loaded.
    let client = SyncClient::connect(server.uri()).unwrap();
    let builder = Replica::builder(client, DiskStore::open(&file).unwrap());
    let (replica, driver) = builder.part(name("list"), prefix("b")).build().unwrap();
    let list: Collection<Raw> = replica.collection(&name("list")).unwrap();
    assert_eq!((list.len(), list.standing().cursor), (4, None), "readers see the old part");
    drop((list, replica, driver));
    let other = Part::open(&server, &file, prefix("b"));
    assert_eq!(other.at_head(wire).await, ["b3", "b1", "b2"]);
    assert_eq!(other.replica.stats().loads, 1);
    other.close().await;
    // Back to the whole: never by the cursor of a part.
    let whole = Part::open(&server, &file, Scope::All);
    assert_eq!(whole.at_head(wire).await.len(), 7);
    until_true("a digest that fits", async || whole.replica.stats().digest_checks > 0).await;
    let stats = whole.replica.stats();
    assert_eq!((stats.loads, stats.digest_mismatches), (1, 0), "{stats:?}");
    whole.close().await;
    server.stop().await;
}

/// G5, R36: a part has no digest that would prove it: below the floor it is loaded anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_below_the_floor_is_loaded_anew() {
    let server = TestServer::with(|config| config.tombstones_max = 0).await;
    let wire = server.wire();
    fill(wire).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy.redb");
    let part = Part::open(&server, &file, prefix("a"));
    part.at_head(wire).await;
    part.close().await;
    let gone = wire.commit(vec![delete("list", "a1")]).await;
    wire.commit(vec![put("list", "b1", "again")]).await;
    until_true("the floor to rise", async || wire.head(&name("list")).await.unwrap().floor == gone)
        .await;
    let part = Part::open(&server, &file, prefix("a"));
    assert_eq!(part.at_head(wire).await, ["a2", "ab1", "ab2"]);
    let stats = part.replica.stats();
    assert_eq!((stats.loads, stats.reconcile_bytes), (1, 0), "{stats:?}");
    part.close().await;
    server.stop().await;
}
