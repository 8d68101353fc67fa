//! The page of metrics of the real program: what it counts, and that nobody who reads it, or
//! pretends to, is in the way of the server.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sync_proto::types::{Condition, Cursor, Event, Outcome, Timestamp};
use sync_proto::v1;
use sync_server::metrics::described::ALL;
use sync_tests::compose::{after, commit_if, delete, key, name, put, scratch, version};
use sync_tests::data::workspace;
use sync_tests::wait::{until, until_true, within};
use sync_tests::wire::Wire;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::SERVER;

/// A server that shows metrics.
pub(crate) struct Shown {
    child: Child,
    address: SocketAddr,
    page: SocketAddr,
}

// === impl Shown ===

impl Shown {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut child = Command::new(SERVER)
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .args(["--cache-mib", "16", "--free-disk-min-mib", "1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut address = |wanted: &str| -> SocketAddr {
            let line = lines.find(|line| line.contains(wanted)).expect("it tells where it listens");
            let (_, address) = line.split_once("address=").expect("with its address");
            address.split(' ').next().unwrap().parse().unwrap()
        };
        let (page, address) = (address("showing metrics"), address("serving"));
        // Its log must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, page }
    }

    pub(crate) async fn page(&self) -> String {
        let answer = ask(self.page, "GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await;
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        page.to_owned()
    }

    /// Waits until the page has this line.
    async fn until(&self, line: &str) {
        until_true(line, async || self.page().await.lines().any(|found| found == line)).await;
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended = until("its end", async || self.child.try_wait().unwrap()).await;
        assert_eq!(ended.code(), Some(0));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a request and returns what comes until the connection is closed.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn value(page: &str, metric: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{metric} is not in\n{page}")).parse().unwrap()
}

/// Everything that the page describes moves when it happens, and only then.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_is_on_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Shown::start(dir.path());
    let page = server.page().await;
    let missing = ALL.iter().find(|one| !page.contains(&format!("# TYPE {} ", one.name)));
    assert!(missing.is_none(), "{missing:?}");
    assert!(value(&page, "deltasync_items") < 0.5, "{page}");

    let wire = Wire::to(server.address);
    wire.commit(vec![put("list", "a", "1"), put("list", "b", "1"), put("other", "a", "1")]).await;
    wire.commit(vec![delete("list", "a")]).await;
    let refused = commit_if("list", Condition::ItemAbsent(key("b")), vec![put("list", "b", "2")]);
    wire.try_commit(refused).await.unwrap_err();
    let head = wire.head(&name("list")).await.unwrap();
    let strange = Cursor { version: version(99), ..head.cursor() };
    let outcomes = wire
        .pull(vec![
            scratch("list"),
            after("list", head.cursor()),
            scratch("none"),
            after("list", strange),
        ])
        .await;
    assert!(matches!(
        outcomes[..],
        [Outcome::Delta(_), Outcome::Aligned(_), Outcome::NotFound, Outcome::Reset(_)]
    ));
    let mut stream = wire.subscribe(vec![scratch("list"), after("other", strange)]).await;
    while !matches!(stream.next().await, Event::CaughtUp(..)) {}
    server.until("deltasync_streams 1").await;

    let page = server.page().await;
    for (metric, expected) in [
        ("deltasync_collections", 2.0),
        ("deltasync_items", 2.0),
        ("deltasync_tombstones", 1.0),
        ("deltasync_commits_total{result=\"done\"}", 2.0),
        ("deltasync_commits_total{result=\"refused\"}", 1.0),
        ("deltasync_commits_total{result=\"unknown\"}", 0.0),
        ("deltasync_mutations_total", 4.0),
        ("deltasync_commit_group_commits_count", 3.0),
        ("deltasync_pull_targets_total{outcome=\"delta\"}", 1.0),
        ("deltasync_pull_targets_total{outcome=\"aligned\"}", 1.0),
        ("deltasync_pull_targets_total{outcome=\"not_found\"}", 1.0),
        ("deltasync_pull_targets_total{outcome=\"reset\"}", 1.0),
        ("deltasync_resets_total{call=\"pull\",reason=\"ahead_of_head\"}", 1.0),
        ("deltasync_resets_total{call=\"subscribe\",reason=\"ahead_of_head\"}", 0.0),
        ("deltasync_resets_total{call=\"subscribe\",reason=\"epoch_changed\"}", 1.0),
        ("deltasync_calls_total{call=\"SyncService/Pull\",result=\"ok\"}", 1.0),
        ("deltasync_calls_total{call=\"WriteService/Commit\",result=\"refused\"}", 1.0),
        ("deltasync_call_seconds_count{call=\"WriteService/Commit\"}", 3.0),
        ("deltasync_sent_bytes_total{kind=\"reconcile\"}", 0.0),
        ("deltasync_subscribers{state=\"live\"}", 1.0),
        ("deltasync_store_unsynced_files", 0.0),
        ("deltasync_write_queue_length", 0.0),
        ("deltasync_connections", 1.0),
    ] {
        assert!((value(&page, metric) - expected).abs() < 0.5, "{metric}, not {expected}:\n{page}");
    }
    assert!(value(&page, "deltasync_sync_seconds_count") >= 2.0, "{page}");
    assert!(value(&page, "deltasync_store_bytes") > 1e6, "{page}");
    assert!(value(&page, "deltasync_disk_free_bytes") > 1e6, "{page}");
    assert!(value(&page, "process_start_time_seconds") > 1.7e9, "{page}");
    assert!(value(&page, "deltasync_sent_bytes_total{kind=\"load\"}") > 0.0, "{page}");
    assert!(value(&page, "deltasync_store_amplification") > 1.0, "{page}");
    latencies(&server, &wire).await;
    drop(stream);
    server.until("deltasync_streams 0").await;
    server.stop().await;
}

/// A call that its caller does not wait for is counted as that, and not as a fault of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let server = Shown::start(dir.path());
    let mut calls = Wire::to(server.address).write();
    let pending = calls.import(tokio_stream::pending::<v1::ImportRequest>());
    let waited = tokio::time::timeout(Duration::from_millis(300), pending).await;
    assert!(waited.is_err(), "{waited:?}");
    server
        .until("deltasync_calls_total{call=\"WriteService/Import\",result=\"cancelled\"} 1")
        .await;
    let page = server.page().await;
    let failed = "deltasync_calls_total{call=\"WriteService/Import\",result=\"failed\"}";
    assert!(value(&page, failed) < 0.5, "{page}");
    server.stop().await;
}

/// What is committed while a stream is open, and acknowledged for the first time, is timed.
async fn latencies(server: &Shown, wire: &Wire) {
    let before = wire.head(&name("list")).await.unwrap();
    let delivered = value(&server.page().await, "deltasync_delivered_seconds_count");
    wire.pull_as("phone", vec![after("list", before.cursor())]).await;
    let there = Timestamp::now();
    // The clock of commits has milliseconds: what is committed in the same one as the stream began,
    // or as the client was first heard of, is not timed.
    until_true("a commit that is delivered", async || {
        wire.commit(vec![put("list", "c", format!("{:?}", std::time::Instant::now()))]).await;
        let head = wire.head(&name("list")).await.unwrap();
        head.commit_time > there
            && value(&server.page().await, "deltasync_delivered_seconds_count") > delivered
    })
    .await;
    let head = wire.head(&name("list")).await.unwrap();
    wire.pull_as("phone", vec![after("list", before.cursor())]).await;
    for _ in 0..2 {
        wire.ack("phone", &[("list", head.cursor())]).await.unwrap();
    }
    server.until("deltasync_applied_seconds_count 1").await;
}

/// G8: whoever reads the page slowly, wrongly or in crowds is bounded, keeps nobody else from
/// committing, and is no reason for the server not to end.
#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_page_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Shown::start(dir.path());
    let elsewhere = ask(server.page, "GET / HTTP/1.1\r\nhost: here\r\n\r\n").await;
    assert!(elsewhere.starts_with("HTTP/1.1 404 "), "{elsewhere}");
    let wrong = ask(server.page, "POST /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await;
    assert!(wrong.starts_with("HTTP/1.1 405 "), "{wrong}");
    let endless = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(server.page).await.unwrap();
    // It may be closed while we still write.
    drop(stream.write_all(endless.as_bytes()).await);
    let mut answer = Vec::new();
    drop(within("an answer", stream.read_to_end(&mut answer)).await);
    assert!(!String::from_utf8_lossy(&answer).contains("deltasync_"));

    // As many silent readers as there may be, and more: those are closed at once.
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(server.page).await.unwrap());
    }
    let mut last = silent.pop().unwrap();
    assert_eq!(within("a close", last.read(&mut [0])).await.unwrap_or(0), 0);
    Wire::to(server.address).commit(vec![put("list", "a", "1")]).await;
    // The silent ones lose their places in time.
    let answered = until("a page", async || {
        let mut stream = TcpStream::connect(server.page).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        (!answer.is_empty()).then_some(answer)
    });
    assert!(answered.await.contains("deltasync_items 1"));
    let _silent_again = TcpStream::connect(server.page).await.unwrap();
    server.stop().await;
}

/// Whoever runs the server finds each metric in its manual.
#[test]
fn the_manual_tells_every_metric() {
    let manual = std::fs::read_to_string(workspace().join("docs/OPERATIONS.md")).unwrap();
    for metric in ALL {
        assert!(manual.contains(&format!("| `{}", metric.name)), "{} is missing", metric.name);
    }
}
