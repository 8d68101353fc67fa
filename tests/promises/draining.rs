//! A server that is told to stop says so everywhere, in order, and stops in time.

use std::time::{Duration, Instant};

use sync_proto::types::{Event, GoodbyeReason};
use sync_tests::compose::{commit, put, scratch};
use sync_tests::server::TestServer;
use sync_tests::wait::until_true;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// X14: 200 open streams each get a goodbye with a delay, then their end; commits that were
/// under way are answered; the server ends well within its grace.
#[tokio::test(flavor = "multi_thread")]
async fn every_stream_gets_a_goodbye_and_every_commit_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), |config| config.grace_s = 10).await;
    let tracker = TaskTracker::new();
    let mut streams = Vec::new();
    for number in 0..200 {
        let wire = if number % 50 == 0 { server.new_connection() } else { server.wire().clone() };
        let mut events = wire.subscribe(vec![scratch("list")]).await;
        events.accepted().await;
        streams.push(tracker.spawn(async move {
            loop {
                let event = events.next().await;
                if let Event::Goodbye(goodbye) = event {
                    assert_eq!(events.try_next().await.unwrap(), None, "nothing follows");
                    return goodbye;
                }
            }
        }));
    }
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let wire = server.new_connection();
            tracker.spawn(async move {
                for number in 0.. {
                    let put = put("list", format!("{writer} {number}"), "");
                    match wire.try_commit(commit(vec![put])).await {
                        Ok(_) => {}
                        // What came after the end may have found no connection at all.
                        Err(status) => return (number, status),
                    }
                }
                unreachable!("the server stops")
            })
        })
        .collect();
    sync_tests::wait::pass(Duration::from_millis(100)).await;
    let stopping = Instant::now();
    server.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    for stream in streams {
        let goodbye = stream.await.unwrap();
        assert_eq!(goodbye.reason, GoodbyeReason::Draining);
        assert!(goodbye.retry_after >= Duration::from_millis(500) && !goodbye.jitter.is_zero());
    }
    let reopened = TestServer::on_disk(dir.path(), |_| {}).await;
    let kept = reopened.wire().load("list").await.contents();
    for (writer, ended) in writers.into_iter().enumerate() {
        let (acknowledged, status) = ended.await.unwrap();
        assert!(
            matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
            "{status}"
        );
        for number in 0..acknowledged {
            assert!(kept.contains_key(format!("{writer} {number}").as_bytes()), "G3");
        }
    }
    reopened.stop().await;
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
