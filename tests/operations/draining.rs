//! A server that is told to stop while peers do nothing for it: the end comes in time all the same.

use std::time::{Duration, Instant};

use sync_proto::types::Event;
use sync_tests::compose::{commit, put, scratch};
use sync_tests::process::Program;
use sync_tests::server::TestServer;
use sync_tests::stream::Events;
use sync_tests::wait::until_true;
use sync_tests::wire::Wire;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::SERVER;

/// Streams that are open when the server is told to stop, and connections that share them.
const STREAMS: usize = 1_000;
const CONNECTIONS: usize = 4;
/// Connections on which nobody says anything, or no more than hello.
const SILENT: usize = 50;
const WRITERS: usize = 4;

/// The end without a collector, and the second that a collector gets: promised are 10 s and that
/// second, of which a machine that is busy with other tests takes half.
const END_MAX: Duration = Duration::from_secs(6);

/// X14, G8: neither a collector that takes the connection and never says a word, nor a thousand
/// streams that are traced, nor connections that are silent keep the server from a good end; what
/// was acknowledged is there after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mute_collector_does_not_delay_the_end() {
    let tasks = TaskTracker::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("--otlp-endpoint=http://{}", listener.local_addr().unwrap());
    let (connected, mut connections) = watch::channel(0);
    tasks.spawn(hold(listener, connected));

    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let program = program.with(&[&endpoint, "--otlp-sample-per-mille=1000"]);
    let mut process = program.start_serving().await;
    let wires: Vec<_> = (0..CONNECTIONS).map(|_| program.wire()).collect();
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let mut events = wires[number % CONNECTIONS].subscribe(vec![scratch("list")]).await;
        events.accepted().await;
        streams.push(tasks.spawn(until_goodbye(events)));
    }
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tasks.spawn(write(program.wire(), writer))).collect();
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut peer = TcpStream::connect(program.address()).await.unwrap();
        if number % 2 == 0 {
            peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        }
        silent.push(peer);
    }
    connections.wait_for(|connections| *connections > 0).await.unwrap();
    until_true("every writer to have written", async || {
        wires[0].load("list").await.contents().len() >= 100
    })
    .await;

    let stopping = Instant::now();
    process.terminate();
    let status = process.ended().await;
    let took = stopping.elapsed();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(took < END_MAX, "it took {took:?}");
    assert!(process.log().contains("spans were not sent before the end"), "{}", process.log());
    process.check_log();
    for stream in streams {
        stream.await.unwrap();
    }
    drop(silent);
    let reopened = TestServer::on_disk(dir.path(), |_| {}).await;
    let list = reopened.wire().load("list").await.contents();
    for (writer, acknowledged) in writers.into_iter().enumerate() {
        for number in 0..acknowledged.await.unwrap() {
            assert!(list.contains_key(item(writer, number).as_bytes()), "G3: {writer} {number}");
        }
    }
    reopened.stop().await;
}

/// Takes connections and does nothing with them; tells how many there are.
async fn hold(listener: TcpListener, connected: watch::Sender<usize>) {
    let mut held = Vec::new();
    while let Ok((connection, _)) = listener.accept().await {
        held.push(connection);
        connected.send_replace(held.len());
    }
}

async fn until_goodbye(mut events: Events) {
    while !matches!(events.next().await, Event::Goodbye(_)) {}
}

fn item(writer: usize, number: usize) -> String {
    format!("{writer} {number}")
}

/// Writes item after item, as long as they are acknowledged; how many were.
async fn write(wire: Wire, writer: usize) -> usize {
    let mut number = 0;
    while wire.try_commit(commit(vec![put("list", item(writer, number), "")])).await.is_ok() {
        number += 1;
    }
    number
}
