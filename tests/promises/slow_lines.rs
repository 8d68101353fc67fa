//! A line so slow that one page takes longer than any deadline: what moves is not dead (G1).

use std::time::Duration;

use sync_client::{MemoryStore, SyncClient};
use sync_tests::compose::put;
use sync_tests::device::Device;
use sync_tests::proxy::Proxy;
use sync_tests::server::TestServer;

/// A page of 1 MiB takes about three seconds: five heartbeats of a device, six call timeouts.
const RATE: u32 = 350_000;
const CALL_TIMEOUT: Duration = Duration::from_millis(500);

fn client(proxy: &Proxy) -> SyncClient {
    SyncClient::builder(proxy.uri()).call_timeout(CALL_TIMEOUT).build().unwrap()
}

async fn server_with_more_than_a_page() -> TestServer {
    let server = TestServer::start().await;
    let filler = vec![b'x'; 100_000];
    for number in 0..13 {
        server.wire().commit(vec![put("list", format!("{number:02}"), &filler)]).await;
    }
    server
}

/// G1, G7: each page takes longer than the silence after which a stream is dead. It is not: the
/// first load comes by one stream, which is never given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_over_a_slow_line_comes_by_one_stream() {
    let server = server_with_more_than_a_page().await;
    let proxy = Proxy::slow(server.address(), RATE).await;
    let device = Device::start_with(client(&proxy), MemoryStore::new(), &["list"]);
    device.converge(server.wire(), "list").await;
    let stats = device.replica.stats();
    assert_eq!((stats.loads, stats.streams, stats.stream_failures), (1, 1, 0), "{stats:?}");
    assert!(stats.bytes_received < 1_500_000, "nothing came twice: {stats:?}");
    device.stop().await;
    drop(proxy);
    server.stop().await;
}

/// G1: an answer takes longer than the timeout of a call, which is for lines that bring nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_a_slow_line_is_waited_for() {
    let server = server_with_more_than_a_page().await;
    let proxy = Proxy::slow(server.address(), RATE).await;
    let client = client(&proxy);
    let head = client.get_collection(&sync_tests::compose::name("list")).await.unwrap();
    let keys: Vec<_> = (0..9).map(|n| sync_tests::compose::key(format!("{n:02}"))).collect();
    let name = sync_tests::compose::name("list");
    let reply = client.get_items(&name, &keys, false).await.unwrap();
    assert_eq!((reply.results.len(), reply.head), (9, head));
    drop(proxy);
    server.stop().await;
}

/// X15: a line that has stopped is given up all the same, for a call and for a stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_that_stops_is_noticed() {
    let server = server_with_more_than_a_page().await;
    let proxy = Proxy::slow(server.address(), RATE).await;
    let client = SyncClient::builder(proxy.uri())
        .call_timeout(CALL_TIMEOUT)
        .retry_for(Duration::ZERO)
        .build()
        .unwrap();
    let name = sync_tests::compose::name("list");
    client.get_collection(&name).await.unwrap();
    proxy.freeze();
    let begun = tokio::time::Instant::now();
    let answer = client.get_collection(&name).await;
    assert_eq!(answer.unwrap_err(), sync_client::ClientError::Deadline);
    assert!(begun.elapsed() < CALL_TIMEOUT * 10, "{:?}", begun.elapsed());
    drop(proxy);
    server.stop().await;
}
