//! Spans of calls at a collector: whose children they are, when they end, what they say and what
//! they never say; and that a collector is in nobody's way, whatever it does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Status;
use sha2::{Digest as _, Sha256};
use sync_client::{SyncClient, TraceContext};
use sync_proto::types::{Cursor, Event, Outcome, Subscribe};
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use sync_tests::collector::{Collector, Span, SpanKind, StatusCode, attribute, events};
use sync_tests::compose::{after, commit, key, name, put, scratch, version};
use sync_tests::data::hex;
use sync_tests::process::{Process, Program};
use sync_tests::server::TestServer;
use sync_tests::wait::{PATIENCE, until_true, within};
use sync_tests::wire::Wire;
use tokio::net::TcpListener;
use tonic::Code;

use crate::SERVER;
use crate::metrics::ask;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What all this session's secrets have in them.
const WORD: &str = "sesame";

async fn traced_by(collector: &Collector) -> TestServer {
    let uri = collector.uri();
    TestServer::with(|config| config.otlp_endpoint = Some(uri)).await
}

/// The same connection, within a trace that its caller samples.
fn within_trace(wire: &Wire) -> Wire {
    wire.saying("traceparent", &format!("00-{TRACE}-{PARENT}-01"))
}

fn is_child(span: &Span) -> bool {
    hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == PARENT
}

/// A call is a child of its caller's span, and says how it ended: what the caller did wrong is no
/// error of the server. What is no `traceparent` counts as none, and whoever does not sample its
/// trace is not sampled here.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_child_of_its_callers_span() {
    let collector = Collector::start().await;
    let server = traced_by(&collector).await;
    let caller = within_trace(server.wire()).saying("tracestate", "vendor=1");
    caller.commit(vec![put("list", "a", "1")]).await;
    caller.pull_one(scratch("list")).await;
    let refused = caller.try_commit(commit(vec![])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let unsampled = server.wire().saying("traceparent", &format!("00-{TRACE}-{PARENT}-00"));
    unsampled.head(&name("list")).await.unwrap();
    let long = format!("00-{TRACE}-{PARENT}-01-{}", "x".repeat(4_000));
    for bad in [long, format!("00-{TRACE}-01"), "nonsense".to_owned()] {
        server.wire().saying("traceparent", &bad).load("list").await;
    }
    until_true("all spans", async || collector.spans().len() >= 6).await;
    server.stop().await;

    let spans = collector.spans();
    let (children, roots): (Vec<_>, Vec<_>) = spans.into_iter().partition(is_child);
    let of = |span: &Span| (span.name.clone(), attribute(span, "rpc.response.status_code"));
    let told: Vec<_> = children.iter().map(of).collect();
    let expected = [("Commit", "OK"), ("Pull", "OK"), ("Commit", "INVALID_ARGUMENT")];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (span, (call, code)) in children.iter().zip(expected) {
        assert!(span.name.starts_with("deltasync.v1.") && span.name.ends_with(call), "{span:?}");
        assert_eq!(attribute(span, "rpc.response.status_code").as_deref(), Some(code));
        assert_eq!(attribute(span, "rpc.method").as_ref(), Some(&span.name));
        assert_eq!((span.kind(), span.trace_state.as_str()), (SpanKind::Server, "vendor=1"));
        assert_eq!(span.status.as_ref().map(Status::code), Some(StatusCode::Unset), "{span:?}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && !span.span_id.is_empty());
    }
    assert_eq!(attribute(&children[2], "deltasync.reason").as_deref(), Some("MALFORMED"));
    assert_eq!(roots.len(), 3, "{roots:#?}");
    for root in roots {
        assert!(root.name.ends_with("/Pull") && root.parent_span_id.is_empty(), "{root:?}");
        assert_ne!(hex(&root.trace_id), TRACE);
    }
    assert_eq!(collector.resource("service.name").as_deref(), Some("sync-server"));
    assert!(collector.resource("service.instance.id").is_some());
}

/// G8: a stream is one span, from its opening to its end, whatever it is sent: it says what happened
/// and why it ended, and costs nothing for each page.
#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_stream_ends_with_it() {
    let collector = Collector::start().await;
    let server = traced_by(&collector).await;
    let wire = within_trace(server.wire());
    wire.commit(vec![put("list", "a", "1"), put("other", "a", "1")]).await;
    let head = wire.head(&name("list")).await.unwrap();
    let strange = Cursor { version: version(99), ..head.cursor() };
    let mut stream = wire.subscribe(vec![after("list", strange), scratch("other")]).await;
    let mut drained = wire.subscribe(vec![scratch("other")]).await;
    for number in 0..20 {
        wire.commit(vec![put("other", "a", number.to_string())]).await;
        while !matches!(stream.next().await, Event::Changes(..)) {}
    }
    collector.span("/Commit").await;
    assert!(collector.spans().iter().all(|span| !span.name.ends_with("/Subscribe")), "it goes on");
    drop(stream);
    let span = collector.span("/Subscribe").await;
    assert!(is_child(&span), "{span:?}");
    let expected = [("opened", Some("2")), ("reset", Some("AHEAD_OF_HEAD"))];
    let expected = expected.map(|(name, word)| (name.to_owned(), word.map(str::to_owned)));
    assert_eq!(events(&span), expected);
    assert_eq!(attribute(&span, "deltasync.stream.end").as_deref(), Some("gone"));
    server.begin_stop();
    while !matches!(drained.next().await, Event::Goodbye(_)) {}
    server.ended().await.unwrap();

    let spans = collector.spans();
    let streams: Vec<_> = spans.iter().filter(|span| span.name.ends_with("/Subscribe")).collect();
    assert_eq!(streams.len(), 2);
    assert_eq!(attribute(streams[1], "deltasync.stream.end").as_deref(), Some("draining"));
    let commits = spans.iter().filter(|span| span.name.ends_with("/Commit")).count();
    assert_eq!((commits, spans.len()), (21, 21 + 1 + 2), "a page is no span: {spans:#?}");
}

/// G10: of a whole session, with calls that are refused, nothing that is told names a collection, a
/// key, a value, a token or a subject; and who is nobody causes no span.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_no_secrets() {
    let collector = Collector::start().await;
    let uri = collector.uri();
    let token = format!("{WORD}-token-0123456789");
    let known = TokenConfig {
        sha256: hex(&Sha256::digest(&token)),
        subject: format!("{WORD}-subject"),
        read: vec![WORD.to_owned()],
        write: vec![WORD.to_owned()],
        admin: false,
    };
    let server = TestServer::with(|config| {
        config.otlp_endpoint = Some(uri);
        config.tokens = vec![known];
    });
    let server = server.await;
    let wire = within_trace(&server.wire().showing(&token));
    let list = format!("{WORD}/list");
    wire.commit(vec![put(&list, "sesame-key", "sesame-value")]).await;
    let Outcome::Delta(delta) = wire.pull_as("sesame-client", vec![scratch(&list)]).await.remove(0)
    else {
        panic!("a delta was due")
    };
    wire.ack("sesame-client", &[(&list, delta.to)]).await.unwrap();
    let mut stream = wire.subscribe(vec![scratch(&list), scratch("sesames/foreign")]).await;
    stream.accepted().await;
    let foreign = wire.try_commit(commit(vec![put("sesames/foreign", "a", "1")])).await;
    assert_eq!(foreign.unwrap_err().code(), Code::PermissionDenied);
    let operator =
        within("an answer", wire.admin().list_clients(v1::ListClientsRequest::default())).await;
    assert_eq!(operator.unwrap_err().code(), Code::PermissionDenied);
    let stranger = within_trace(&server.wire().showing("sesame-guess"));
    let refused = stranger.try_commit(commit(vec![put(&list, "a", "1")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    drop(stream);
    until_true("all spans", async || collector.spans().len() >= 6).await;
    server.stop().await;

    let calls: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    let named = |call: &str| calls.iter().filter(|name| name.ends_with(call)).count();
    let counts = ["/Commit", "/Pull", "/Ack", "/Subscribe", "/ListClients"].map(named);
    assert_eq!(counts, [2, 1, 1, 1, 1], "{calls:?}");
    assert!(!collector.told().contains(WORD), "{:.2000}", collector.told());
}

/// Nothing is sent, and nobody connected to, unless the settings say so; what they say counts, and
/// not what variables of other programs do.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_settings_count() {
    let collector = Collector::start().await;
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.uri());
    let others =
        ["env", &endpoint, "OTEL_TRACES_SAMPLER=always_off", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=0"];
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let session = async |program: &Program, spans: usize| {
        let mut process = program.through(&others).start_serving().await;
        within_trace(&program.wire()).commit(vec![put("list", "a", "1")]).await;
        program.wire().commit(vec![put("list", "a", "2")]).await;
        until_true("its spans", async || collector.spans().len() >= spans).await;
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
        process.check_log();
    };
    session(&program, 0).await;
    session(&program.clone().with(&["--otlp-endpoint="]), 0).await;
    assert_eq!(collector.connections(), 0, "it is off");

    let on = format!("--otlp-endpoint={}", collector.uri());
    let settings = [on.as_str(), "--otlp-sample-per-mille=0", "--otlp-service-name=ours"];
    session(&program.with(&settings), 1).await;
    let [span] = &collector.spans()[..] else { panic!("one is sampled: {}", collector.told()) };
    assert!(is_child(span) && attribute(span, "rpc.method").is_some(), "{span:?}");
    assert_eq!(collector.resource("service.name").as_deref(), Some("ours"));
}

/// The log says once that a collector takes nothing, and once that it does again.
fn said(process: &Process) -> [usize; 2] {
    let log = process.log();
    [" WARN ", "takes spans again"].map(|word| {
        let ours = log.lines().filter(|line| line.contains("the collector"));
        ours.filter(|line| line.contains(word)).count()
    })
}

/// G8: a collector that is away keeps no call waiting; what waits for it is sent when it comes, and
/// the log is not filled meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_may_come_late() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("--otlp-endpoint=http://{address}");
    let settings =
        [endpoint.as_str(), "--log=info,sync_server=debug", "--metrics-listen=127.0.0.1:0"];
    let program = Program::new(SERVER, dir.path()).with(&settings);
    let mut process = program.start_serving().await;
    within_trace(&program.wire()).commit(vec![put("list", "a", "1")]).await;
    until_true("a second attempt", async || process.log().contains("still takes no spans")).await;
    assert_eq!(said(&process), [1, 0], "{}", process.log());

    let collector = Collector::at(address, true).await;
    let span = collector.span("/Commit").await;
    assert!(is_child(&span), "{span:?}");
    until_true("word of it", async || said(&process) == [1, 1]).await;
    let log = process.log();
    let line = log.lines().find(|line| line.contains("showing metrics")).unwrap();
    let page = line.split("address=").nth(1).unwrap().split(' ').next().unwrap();
    let page: SocketAddr = page.parse().unwrap();
    let page = ask(page, "GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n").await;
    for line in ["{result=\"sent\"} 1", "{result=\"dropped\"} 0", "{result=\"refused\"} 0"] {
        assert!(page.contains(&format!("deltasync_spans_total{line}")), "{line}:\n{page}");
    }
    let ours = hex(&span.span_id);
    assert!(log.lines().any(|line| line.contains(&ours) && line.contains("answered")), "{log}");
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    process.check_log();
}

/// G8: nor does one that takes a connection and never answers; and the server ends in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_is_in_nobodys_way() {
    let collector = Collector::hanging().await;
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let program = program.with(&[&format!("--otlp-endpoint={}", collector.uri())]);
    let mut process = program.start_serving().await;
    let wire = program.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    until_true("an attempt", async || collector.attempts() > 0).await;
    let mut stream = wire.subscribe(vec![scratch("list")]).await;
    for number in 0..100 {
        wire.commit(vec![put("list", "a", number.to_string())]).await;
    }
    let stopping = Instant::now();
    process.terminate();
    while !matches!(stream.next().await, Event::Goodbye(_)) {}
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    // One second of it is the collector's.
    assert!(stopping.elapsed() < Duration::from_secs(6), "it took {:?}", stopping.elapsed());
    assert!(process.log().contains("spans were not sent before the end"), "{}", process.log());
    process.check_log();
}

/// The Rust client puts its calls, and its streams, into the trace that the application is in.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_tells_where_it_is_in_a_trace() {
    let collector = Collector::start().await;
    let server = traced_by(&collector).await;
    let context = || {
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        Some(TraceContext { traceparent, tracestate: String::new() })
    };
    let client = SyncClient::builder(server.uri()).trace_context(context).build().unwrap();
    server.wire().commit(vec![put("list", "a", "1")]).await;
    let list = name("list");
    client.get_items(&list, &[key("a")], false).await.unwrap();
    client.get_collection(&list).await.unwrap();
    let targets = vec![scratch("list")];
    let subscribe = Subscribe { targets, heartbeat: PATIENCE, client_id: String::new() };
    drop(client.subscribe(subscribe).await.unwrap());
    drop(client);
    until_true("all spans", async || collector.spans().len() >= 4).await;
    server.stop().await;
    let spans = collector.spans();
    let children: Vec<_> = spans.iter().filter(|span| is_child(span)).collect();
    assert_eq!((spans.len(), children.len()), (4, 3), "{spans:#?}");
}
