//! Where callers and operators come in, and for how long a connection is used.

use std::net::SocketAddr;
use std::time::Duration;

use sync_client::SyncClient;
use sync_proto::types::Event;
use sync_proto::v1;
use sync_tests::compose::{commit, put, scratch};
use sync_tests::process::Program;
use sync_tests::proxy::Proxy;
use sync_tests::server::TestServer;
use sync_tests::wait::{pass, within};
use sync_tests::wire::Wire;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Status;

use crate::SERVER;

/// A program whose operators come in elsewhere, and where.
fn with_a_door_for_operators(settings: &[&str]) -> (TempDir, Program, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = Program::new(SERVER, dir.path()).address();
    let admin_listen = format!("--admin-listen={elsewhere}");
    let program = Program::new(SERVER, dir.path()).with(&[&admin_listen]).with(settings);
    (dir, program, elsewhere)
}

async fn list_clients(wire: &Wire) -> Result<(), Status> {
    wire.admin().list_clients(v1::ListClientsRequest::default()).await.map(drop)
}

/// G11: with an address for operators, `AdminService` is served there and is unknown where callers come
/// in; everything else is served at both.
#[tokio::test]
async fn operators_come_in_elsewhere() {
    let (_dir, program, elsewhere) = with_a_door_for_operators(&[]);
    let mut process = program.start_serving().await;
    let (callers, operators) = (program.wire(), Wire::to(elsewhere));
    callers.commit(vec![put("list", "a", "1")]).await;
    let refused = list_clients(&callers).await.unwrap_err();
    let unknown = Status::unimplemented("there is no such call");
    assert_eq!((refused.code(), refused.message()), (unknown.code(), unknown.message()));
    list_clients(&operators).await.unwrap();
    operators.commit(vec![put("list", "b", "2")]).await;
    for wire in [&callers, &operators] {
        assert_eq!(wire.load("list").await.contents().len(), 2);
    }
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
}

/// G11: operators are let in when callers hold all the connections that there may be.
#[tokio::test]
async fn a_crowd_of_callers_does_not_keep_operators_out() {
    let (_dir, program, elsewhere) = with_a_door_for_operators(&["--connections-max=2"]);
    let _process = program.start_serving().await;
    let mut crowd = Vec::new();
    loop {
        let mut caller = TcpStream::connect(program.address()).await.unwrap();
        // Who is let in is greeted, who is one too many is shown out.
        let greeted = within("a greeting", caller.read(&mut [0])).await.is_ok_and(|read| read > 0);
        if !greeted {
            break;
        }
        crowd.push(caller);
    }
    assert!(crowd.len() <= 2);
    list_clients(&Wire::to(elsewhere)).await.unwrap();
}

/// G8, G11: a connection that is old takes no new calls, so that load can move between servers. No
/// call fails for it, and a stream that is open on it goes on.
#[tokio::test]
async fn connections_age_without_a_call_failing() {
    let server = TestServer::with(|config| config.connection_age_max_s = 1).await;
    let proxy = Proxy::to(server.address()).await;
    let mut events = Wire::to(proxy.address()).subscribe(vec![scratch("list")]).await;
    events.accepted().await;
    let client = SyncClient::builder(proxy.uri()).build().unwrap();
    let mut written = 0;
    while proxy.connections() < 4 {
        written += 1;
        client.commit(commit(vec![put("list", "a", written.to_string())])).await.unwrap();
        // Their age is what the test is about; the machine has other tests to run.
        pass(Duration::from_millis(2)).await;
    }
    let last = server.wire().load("list").await.version();
    loop {
        if let Event::Changes(_, delta) = events.next().await
            && delta.to.version == last
        {
            break;
        }
    }
    drop(events);
    server.stop().await;
}
