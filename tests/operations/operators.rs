//! What operators ask while the server serves: why a client is behind, whether the rows fit
//! together, and that it ends.

use std::time::Duration;

use sync_proto::types::{Cursor, Event, Explanation, GoodbyeReason, ResetReason, Subscribe};
use sync_proto::v1;
use sync_tests::compose::{after, delete, name, put, scratch, version};
use sync_tests::process::Program;
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tonic::{Code, Status};

use crate::SERVER;

async fn explain(wire: &Wire, client_id: &str, collection: &str) -> Result<Explanation, Status> {
    let (client_id, collection) = (client_id.to_owned(), collection.to_owned());
    let request = v1::ExplainClientRequest { client_id, collection };
    let reply = within("an explanation", wire.admin().explain_client(request)).await?;
    Ok(Explanation::try_from(reply.into_inner()).unwrap())
}

/// G8: a client that has stopped reading is told from one that has everything it asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_told_as_such() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1"), put("other", "a", "1")]).await;
    let open = async |client_id: &str, collection: &str| {
        let head = wire.head(&name(collection)).await.unwrap();
        let subscribe = Subscribe {
            targets: vec![after(collection, head.cursor())],
            heartbeat: Duration::from_secs(60),
            client_id: client_id.to_owned(),
        };
        let mut events = server.new_connection().try_subscribe(subscribe).await.unwrap();
        events.accepted().await;
        events
    };
    let mut stalled = open("stalled", "list").await;
    let _elsewhere = open("elsewhere", "other").await;
    // Beyond every window of the transport.
    for number in 0..60u8 {
        wire.commit(vec![put("list", format!("{}", number % 10), [number; 200_000])]).await;
    }
    let states = async |client_id: &str| {
        let explained = explain(wire, client_id, "").await.unwrap();
        let client = explained.clients.into_iter().next().unwrap();
        (client.streams, client.streams_lagging, client.streams_parked)
    };
    until_true("the server to see that it stalls", async || states("stalled").await == (1, 0, 1))
        .await;
    assert_eq!(states("elsewhere").await, (1, 0, 0));
    while !matches!(stalled.next().await, Event::CaughtUp(..)) {}
    until_true("it to be live again", async || states("stalled").await == (1, 0, 0)).await;
    server.stop().await;
}

/// G6, G8: which cursor a client showed, what was decided and why, by pull and by stream, how much
/// was sent, what it acknowledged and how far it is behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_explained() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1"), put("other", "a", "1")]).await;
    let head = wire.head(&name("list")).await.unwrap();
    let strange = Cursor { version: version(99), ..head.cursor() };
    wire.pull_as("phone", vec![scratch("list"), scratch("none")]).await;
    for _ in 0..2 {
        wire.pull_as("phone", vec![after("list", strange)]).await;
    }
    wire.ack("phone", &[("list", head.cursor())]).await.unwrap();
    let subscribe = Subscribe {
        targets: vec![after("list", head.cursor())],
        heartbeat: Duration::from_secs(60),
        client_id: "phone".to_owned(),
    };
    let mut events = wire.try_subscribe(subscribe).await.unwrap();
    events.accepted().await;
    wire.commit(vec![put("list", "b", "22")]).await;
    let pushed = loop {
        if let Event::Changes(_, delta) = events.next().await {
            break delta.to;
        }
    };

    let explained = explain(wire, "phone", "list").await.unwrap();
    let told: Vec<_> = explained
        .decisions
        .iter()
        .map(|one| (one.call.as_str(), one.answer.as_str(), one.times, one.shown))
        .collect();
    let expected = [
        ("pull", "delta", 1, None),
        ("pull", "reset", 2, Some(strange)),
        ("subscribe", "aligned", 1, Some(head.cursor())),
    ];
    assert_eq!(told, expected);
    assert_eq!(explained.decisions[1].reset_reason, Some(ResetReason::AheadOfHead));
    assert!(explained.decisions[0].bytes > 0 && explained.decisions[1].bytes == 0);
    let stream = &explained.decisions[2];
    assert_eq!(stream.reached, Some(pushed), "what was pushed belongs to it");
    assert!(stream.bytes > 0);
    let [client] = &explained.clients[..] else { panic!("{explained:?}") };
    assert_eq!((client.streams, client.positions.len()), (1, 1));
    let at = &client.positions[0];
    assert_eq!((at.sent, at.acked, at.head), (Some(pushed), Some(head.cursor()), Some(pushed)));
    assert_eq!(at.behind, pushed.version.get() - head.version.get());
    assert!(at.acked_at.is_some());

    let all = explain(wire, "phone", "").await.unwrap().decisions;
    assert!(all.iter().any(|one| one.collection == name("none") && one.answer == "not_found"));
    let none = explain(wire, "phon", "").await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound, "{none}");
    for (client_id, collection, field) in
        [("", "", "client_id: "), ("a\nb", "", "client_id: "), ("phone", "/a", "collection: ")]
    {
        let refused = explain(wire, client_id, collection).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "G11: {refused}");
    }
    drop(events);
    server.stop().await;
}

/// G6, G8: a client that was never sent anything is explained, too: that its call was refused as a
/// whole, and why; and where what it asks for stands. One that asks from the same place again and again
/// is seen to.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_get_on_is_explained() {
    let server = TestServer::with(|config| config.streams_max = 1).await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let head = wire.head(&name("list")).await.unwrap().cursor();
    let subscribe = |client_id: &str| Subscribe {
        targets: vec![scratch("list")],
        heartbeat: Duration::from_secs(60),
        client_id: client_id.to_owned(),
    };
    let mut events = wire.try_subscribe(subscribe("first")).await.unwrap();
    events.accepted().await;
    let refused = wire.try_subscribe(subscribe("second")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let explained = explain(wire, "second", "").await.unwrap();
    let [one] = &explained.decisions[..] else { panic!("{explained:?}") };
    assert_eq!(
        (one.call.as_str(), one.answer.as_str(), one.failed_code),
        ("subscribe", "refused", 8)
    );
    assert_eq!(one.failed_reason.as_deref(), Some("STREAMS_TAKEN"));
    for asked in ["", "list"] {
        let explained = explain(wire, "second", asked).await.unwrap();
        let [client] = &explained.clients[..] else { panic!("{explained:?}") };
        let [at] = &client.positions[..] else { panic!("{client:?}") };
        assert_eq!((at.sent, at.acked, at.head, at.behind), (None, None, Some(head), 1));
    }

    let later = |version| Cursor { version, ..head };
    wire.commit(vec![put("list", "b", "1")]).await;
    wire.pull_as("stuck", vec![after("list", later(version(0)))]).await;
    for _ in 0..3 {
        wire.pull_as("stuck", vec![after("list", head)]).await;
    }
    let explained = explain(wire, "stuck", "list").await.unwrap();
    let last = explained.decisions.last().unwrap();
    assert_eq!((last.answer.as_str(), last.times, last.shown), ("delta", 4, Some(head)));
    assert_eq!(last.first_shown, Some(later(version(0))), "the first time it stood elsewhere");
    drop(events);
    server.stop().await;
}

/// G9: a store is verified while it is written to; what changes is no finding.
#[tokio::test(flavor = "multi_thread")]
async fn a_serving_store_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let wire = server.wire();
    for list in ["a/1", "a/2", "b"] {
        wire.commit((0..400).map(|n| put(list, n.to_string(), "v")).collect()).await;
        wire.commit(vec![delete(list, "7")]).await;
    }
    let request = v1::VerifyRequest { prefix: "a/".to_owned() };
    let mut told = within("a start", wire.admin().verify(request)).await.unwrap().into_inner();
    let mut number = 0;
    let mut last = v1::VerifyResponse::default();
    while let Some(message) = within("progress", told.message()).await.unwrap() {
        assert!(message.findings.is_empty() && message.unsettled.is_empty(), "{message:?}");
        assert!(message.rows >= last.rows && message.estimated_rows >= message.rows);
        number += 1;
        wire.commit(vec![put("a/1", format!("new {number}"), "v")]).await;
        last = message;
    }
    assert_eq!((last.collections, last.findings_count), (2, 0));
    assert!(last.rows > 2 * 400 * 4, "{last:?}");
    server.stop().await;
}

/// X14: a server that an operator ends says goodbye on every stream, takes nothing more, and exits
/// well; a grace that makes no sense ends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let wire = program.wire();
    for seconds in [0, 301] {
        let grace = Some(prost_types::Duration { seconds, nanos: 0 });
        let refused = wire.admin().drain(v1::DrainRequest { grace }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with("grace.seconds: "), "G11: {refused}");
    }
    wire.commit(vec![put("list", "a", "1")]).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut events = wire.subscribe(vec![scratch("list")]).await;
        events.accepted().await;
        streams.push(events);
    }
    let grace = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    within("an answer", wire.admin().drain(v1::DrainRequest { grace })).await.unwrap();
    for mut events in streams {
        let reason = loop {
            if let Event::Goodbye(goodbye) = events.next().await {
                break goodbye.reason;
            }
        };
        assert_eq!(reason, GoodbyeReason::Draining);
    }
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("grace_s=2"), "{}", process.log());
    process.check_log();
    until_true("nobody to answer", async || {
        wire.try_commit(sync_tests::compose::commit(vec![put("list", "b", "1")])).await.is_err()
    })
    .await;
}

/// What a call logs, also at the end of its stream, belongs to the trace that its caller is in.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_logged_in_the_trace_of_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let program = program.with(&["--log=info,sync_server=debug", "--log-format=json"]);
    let process = program.start_serving().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let subscribe = Subscribe {
        targets: vec![scratch("private/list")],
        heartbeat: Duration::from_secs(60),
        client_id: String::new(),
    };
    let mut request = tonic::Request::new(v1::SubscribeRequest::from(subscribe));
    let header = format!("00-{trace}-00f067aa0ba902b7-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", header);
    let stream = within("a stream", program.wire().sync().subscribe(request)).await.unwrap();
    drop(stream);
    let found = until_true("the end of the stream in the log", async || {
        process.log().lines().any(|line| line.contains("a stream ends") && line.contains(trace))
    });
    found.await;
    let log = process.log();
    assert!(log.contains("deltasync.v1.SyncService/Subscribe"), "{log}");
    assert!(!log.contains("private"), "G10: {log}");
    drop(process);
}
