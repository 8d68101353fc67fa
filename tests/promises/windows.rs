//! Windows of the client into a large collection, against the real server.
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use sync_client::{
    Detail, SyncClient, Verdict, Window, WindowBuilder, WindowDifference, WindowDifferences,
    WindowStart, WindowView,
};
use sync_proto::types::{Mutation, OrderPlace, Version};
use sync_tests::compose::{delete, key, name, put, put_at, reorder, sort_key};
use sync_tests::proxy::Proxy;
use sync_tests::seed::dice;
use sync_tests::server::TestServer;
use sync_tests::wait::within;
use sync_tests::wire::Wire;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Items of the large collection.
const ITEMS: usize = 50_000;
/// Bytes of each of its values.
const VALUE_BYTES: usize = 100;

/// A window with its driver at work.
struct Screen {
    window: Window,
    stop: CancellationToken,
    driver: JoinHandle<()>,
}

// === impl Screen ===

impl Screen {
    fn open(uri: &str, change: impl FnOnce(WindowBuilder) -> WindowBuilder) -> Self {
        let client = SyncClient::connect(uri).unwrap();
        let builder = Window::builder(client, name("list"));
        let builder = builder
            .heartbeat(Duration::from_millis(200))
            .longest_backoff(Duration::from_millis(500));
        let (window, driver) = change(builder).build();
        let stop = CancellationToken::new();
        let driver = TaskTracker::new().spawn(driver.run(stop.clone()));
        Self { window, stop, driver }
    }

    /// Waits until it is complete at this version or later, and has all contents on screen.
    async fn complete(&self, at_least: Version) -> Arc<WindowView> {
        let complete = |view: &Arc<WindowView>| match view.verdict {
            Verdict::Complete { at } => at.version >= at_least && has_details(view, 0..usize::MAX),
            _ => false,
        };
        within("a complete window", self.window.wait_for(complete)).await
    }

    async fn wait(&self, what: &str, wanted: impl Fn(&WindowView) -> bool) -> Arc<WindowView> {
        within(what, self.window.wait_for(|view| wanted(view))).await
    }

    async fn close(self) {
        self.stop.cancel();
        within("the end of a window", self.driver).await.unwrap();
    }
}

fn has_details(view: &WindowView, of: Range<usize>) -> bool {
    let on_screen = view.rows.iter().skip(of.start).take(of.end - of.start);
    on_screen.into_iter().all(|row| matches!(row.detail, Detail::Known(_)))
}

fn keys(view: &WindowView) -> Vec<String> {
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
    view.rows.iter().map(|row| text(row.key.as_bytes())).collect()
}

fn numbers(range: Range<usize>) -> Vec<String> {
    range.map(|n| format!("{n:05}")).collect()
}

/// `items` items, which stand in the order of their keys.
async fn fill(wire: &Wire, items: usize) -> Version {
    let item = |n: usize| put_at("list", format!("{n:05}"), [b'v'; VALUE_BYTES], "m");
    let mut last = Version::ZERO;
    for first in (0..items).step_by(5_000) {
        last = wire.commit((first..items.min(first + 5_000)).map(item).collect()).await;
    }
    last
}

/// The difference of this key, passing over others.
async fn told_of(differences: &mut WindowDifferences, of: &str) -> WindowDifference {
    let of = key(of);
    let told = async {
        loop {
            let difference = differences.next().await.expect("the window is open");
            let about = match &difference {
                WindowDifference::Entered(_, row) | WindowDifference::Changed(_, row) => &row.key,
                WindowDifference::Deleted(key)
                | WindowDifference::Left(key)
                | WindowDifference::Vanished(key) => key,
                WindowDifference::Moved | WindowDifference::Verdict(_) => continue,
            };
            if *about == of {
                return difference;
            }
        }
    };
    within("a difference", told).await
}

/// The first 20 of 50,000, grown, moved by rank and by place, and from the end: each costs about
/// what it shows, not what the collection holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_costs_what_it_shows() {
    let server = TestServer::start().await;
    let now = fill(server.wire(), ITEMS).await;
    let screen = Screen::open(&server.uri(), |builder| builder.first(20));
    let view = screen.complete(now).await;
    assert_eq!(keys(&view), numbers(0..20));
    assert_eq!((view.rank, view.total, view.ends), (Some(0), Some(ITEMS as u64), false));
    let first = screen.window.bytes_received();
    screen.window.grow(30);
    let view = screen.wait("a longer window", |view| view.rows.len() == 50).await;
    assert_eq!(keys(&view), numbers(0..50));
    screen.complete(now).await;
    let grown = screen.window.bytes_received() - first;
    screen.window.move_to(WindowStart::Rank(31_415));
    let there = |view: &WindowView| keys(view) == numbers(31_415..31_465);
    let view = screen.wait("the rows of a rank", there).await;
    assert_eq!(view.rank, Some(31_415));
    screen.complete(now).await;
    let place = OrderPlace { sort_key: sort_key("m"), key: Some(key("40000")) };
    screen.window.move_to(WindowStart::Place(place));
    screen.wait("the rows of a place", |view| keys(view) == numbers(40_000..40_050)).await;
    screen.complete(now).await;
    let all = screen.window.bytes_received();
    eprintln!("first 20: {first} bytes; 30 more: {grown}; with two moves of 50: {all}");
    screen.close().await;
    // 20 contents of 100 bytes, 30 rows of keys. A first load has more than 6,000,000.
    assert!(first < 20 * 200 + 30 * 60 + 1_000, "{first} bytes for 20 rows");
    assert!(grown < 30 * 200 + 30 * 60 + 2_000, "{grown} bytes for 30 more");
    assert!(all < 60_000, "{all} bytes for all of it");
    let last = Screen::open(&server.uri(), |builder| builder.first(3).descending(true));
    assert_eq!(keys(&*last.complete(now).await), ["49999", "49998", "49997"]);
    server.wire().commit(vec![put_at("list", "new", "", "z")]).await;
    last.wait("the newest", |view| keys(view) == ["new", "49999", "49998"]).await;
    last.close().await;
    server.stop().await;
}

/// While it is on screen: what is deleted, what leaves and what enters says so, and what was
/// behind the window moves up.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_kept_up_and_says_what_went() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let now = fill(wire, 1_000).await;
    let screen = Screen::open(&server.uri(), |builder| builder.first(5));
    screen.complete(now).await;
    let mut differences = screen.window.differences();
    for n in 0..5 {
        let told = told_of(&mut differences, &format!("{n:05}")).await;
        assert!(matches!(told, WindowDifference::Entered(at, _) if at == n), "{told:?}");
    }
    wire.commit(vec![reorder("list", "00001", "z")]).await;
    let told = told_of(&mut differences, "00001").await;
    assert_eq!(told, WindowDifference::Left(key("00001")));
    wire.commit(vec![delete("list", "00002")]).await;
    let told = told_of(&mut differences, "00002").await;
    assert_eq!(told, WindowDifference::Deleted(key("00002")));
    wire.commit(vec![put_at("list", "new", "value", "a")]).await;
    let told = told_of(&mut differences, "new").await;
    assert!(matches!(told, WindowDifference::Entered(0, _)), "{told:?}");
    let now = wire.commit(vec![put("list", "00003", "another")]).await;
    let view = screen.complete(now).await;
    assert_eq!(keys(&view), ["new", "00000", "00003", "00004", "00005"]);
    let Detail::Known(value) = &view.rows[2].detail else { panic!("{:?}", view.rows[2]) };
    assert_eq!(value.as_bytes(), b"another");
    assert_eq!(view.total, Some(1_000));
    screen.close().await;
    server.stop().await;
}

/// A storm of moves within and across the window, of inserts and deletes: it ends as the list, and
/// contents that did not change were not fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_outlives_a_storm_of_moves() {
    let (mut dice, _seed) = dice();
    let server = TestServer::start().await;
    let wire = server.wire();
    let now = fill(wire, 300).await;
    let screen = Screen::open(&server.uri(), |builder| builder.first(20));
    screen.complete(now).await;
    let before = screen.window.bytes_received();
    let mut now = now;
    for _ in 0..100 {
        let moves = (0..3).map(|n| {
            let item = format!("{:05}", n * 100 + dice.random_range(0..100));
            reorder("list", item, format!("m{:03}", dice.random_range(0..300)))
        });
        let moves: Vec<Mutation> = moves.collect();
        now = wire.commit(moves).await.max(now);
    }
    let view = screen.complete(now).await;
    let all = wire.load("list").await.in_list_order();
    let wanted: Vec<String> =
        all[..20].iter().map(|key| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect();
    assert_eq!(keys(&view), wanted);
    let bytes = screen.window.bytes_received() - before;
    eprintln!("100 commits of 3 moves: {bytes} bytes");
    // Keys and places of 300 moves, and at most 300 contents, once each.
    assert!(bytes < 300 * 60 + 300 * (VALUE_BYTES as u64 + 60), "{bytes} bytes");
    screen.close().await;
    server.stop().await;
}

/// T12, G1: the line is cut and the server cannot be reached: the last rows stay and say since when
/// they are not kept up; back again, they are the list.
#[tokio::test(flavor = "multi_thread")]
async fn an_offline_window_shows_what_it_had() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let now = fill(wire, 200).await;
    let proxy = Proxy::to(server.address()).await;
    let screen = Screen::open(&proxy.uri(), |builder| builder.first(10));
    let view = screen.complete(now).await;
    proxy.close(true);
    let stale = |view: &WindowView| matches!(view.verdict, Verdict::Stale { .. });
    let offline = screen.wait("a stale window", stale).await;
    assert_eq!(offline.rows, view.rows);
    let now = wire.commit(vec![delete("list", "00000"), reorder("list", "00009", "a")]).await;
    proxy.close(false);
    let view = screen.complete(now).await;
    let wanted: Vec<String> = [vec!["00009".to_owned()], numbers(1..9), numbers(10..11)].concat();
    assert_eq!(keys(&view), wanted);
    screen.close().await;
    server.stop().await;
}

/// T03: a collection that does not exist, comes, goes and comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_waits_for_its_collection() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let screen = Screen::open(&server.uri(), |builder| builder.first(3));
    screen.wait("its absence", |view| view.verdict == Verdict::Absent).await;
    let now = fill(wire, 10).await;
    assert_eq!(keys(&*screen.complete(now).await), numbers(0..3));
    let mut differences = screen.window.differences();
    told_of(&mut differences, "00000").await;
    wire.delete_collection("list").await;
    screen.wait("its absence", |view| view.verdict == Verdict::Absent).await;
    let told = told_of(&mut differences, "00000").await;
    assert_eq!(told, WindowDifference::Deleted(key("00000")));
    wire.commit(vec![put("list", "again", "value")]).await;
    screen.wait("its second life", |view| keys(view) == ["again"] && view.ends).await;
    screen.close().await;
    server.stop().await;
}
