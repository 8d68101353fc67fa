//! A server that is told to stop says so everywhere, in order, and stops in time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sync_proto::types::{Event, Goodbye, GoodbyeReason};
use sync_tests::compose::{commit, name, put, scratch};
use sync_tests::process::Program;
use sync_tests::server::TestServer;
use sync_tests::stream::Events;
use sync_tests::wait::until_true;
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::SERVER;

/// Streams that are open when the server is told to stop, and connections that share them.
const STREAMS: usize = 1_000;
const CONNECTIONS: usize = 4;

/// X14: a thousand open streams each get a goodbye with a delay of its own, then their end;
/// commits that were under way are answered, and none is half done; the process ends well, and
/// within its grace.
#[tokio::test(flavor = "multi_thread")]
async fn every_stream_gets_a_goodbye_and_every_commit_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let tracker = TaskTracker::new();
    let wires: Vec<_> = (0..CONNECTIONS).map(|_| program.wire()).collect();
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let mut events = wires[number % CONNECTIONS].subscribe(vec![scratch("left")]).await;
        events.accepted().await;
        streams.push(tracker.spawn(until_goodbye(events)));
    }
    let writers: Vec<_> =
        (0..8).map(|writer| tracker.spawn(write_pairs(program.wire(), writer))).collect();
    until_true("every writer to have written", async || {
        wires[0].head(&name("left")).await.is_some_and(|head| head.items >= 100)
    })
    .await;
    let stopping = Instant::now();
    process.terminate();
    let status = process.ended().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    // The grace is 10 s by default; a machine that is busy with other tests gets half of it.
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    process.check_log();

    let mut delays = BTreeSet::new();
    for stream in streams {
        let goodbye = stream.await.unwrap();
        assert_eq!(goodbye.reason, GoodbyeReason::Draining);
        assert!(goodbye.retry_after >= Duration::from_millis(500) && !goodbye.jitter.is_zero());
        assert!(goodbye.retry_after + goodbye.jitter <= Duration::from_millis(5_500));
        delays.insert(goodbye.retry_after);
    }
    // A thousand draws among 2,500 milliseconds: about 824 differ.
    assert!(delays.len() > STREAMS / 2, "only {} delays for {STREAMS} streams", delays.len());

    let reopened = TestServer::on_disk(dir.path(), |_| {}).await;
    let left = reopened.wire().load("left").await.contents();
    let right = reopened.wire().load("right").await.contents();
    assert_eq!(left, right, "G4: no commit is half done");
    for (writer, ended) in writers.into_iter().enumerate() {
        let (acknowledged, status) = ended.await.unwrap();
        // A call that the server never took, because its connection was ending: that is what tonic
        // calls an internal error, with the GOAWAY as its cause.
        let met_the_end = format!("{status:?}").contains("GoAway(b\"\", NO_ERROR, Remote)");
        assert!(
            matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
                || (status.code() == Code::Internal && met_the_end),
            "{status:?}"
        );
        for number in 0..acknowledged {
            assert!(left.contains_key(format!("{writer} {number}").as_bytes()), "G3");
        }
    }
    reopened.stop().await;
}

/// Reads a stream to its goodbye, which must be its last message.
async fn until_goodbye(mut events: Events) -> Goodbye {
    loop {
        if let Event::Goodbye(goodbye) = events.next().await {
            assert_eq!(events.try_next().await.unwrap(), None, "nothing follows");
            return goodbye;
        }
    }
}

/// Writes the same item to two collections at once, again and again; how many such commits were
/// acknowledged, and how the first one ended that was not.
async fn write_pairs(wire: Wire, writer: usize) -> (usize, Status) {
    for number in 0.. {
        let item = format!("{writer} {number}");
        let pair = vec![put("left", &item, ""), put("right", &item, "")];
        if let Err(status) = wire.try_commit(commit(pair)).await {
            // What came after the end may have found no connection at all.
            return (number, status);
        }
    }
    unreachable!("the server stops")
}

/// Health is told per service and says `NOT_SERVING` as soon as the server drains.
#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness() {
    let server = TestServer::start().await;
    let services =
        ["", "deltasync.v1.SyncService", "deltasync.v1.WriteService", "deltasync.v1.AdminService"];
    let mut watches = Vec::new();
    for service in services {
        let mut health = HealthClient::new(server.wire().channel());
        let ask = || HealthCheckRequest { service: service.to_owned() };
        let now = health.check(ask()).await.unwrap().into_inner();
        assert_eq!(now.status(), ServingStatus::Serving, "{service:?}");
        let mut watch = health.watch(ask()).await.unwrap().into_inner();
        let first = watch.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving, "{service:?}");
        watches.push(watch);
    }
    server.begin_stop();
    for watch in &mut watches {
        until_true("health to say NOT_SERVING", async || {
            let told = watch.message().await.unwrap().expect("told before the end");
            told.status() == ServingStatus::NotServing
        })
        .await;
    }
    // Whoever watches health has no reason to hang up, and must not keep the server from its end.
    let stopping = Instant::now();
    server.ended().await.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    drop(watches);
}
