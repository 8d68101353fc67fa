//! Encryption: what is spoken, what is not, and how certificates are exchanged while it is.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sync_proto::types::Event;
use sync_server::config::Config;
use sync_tests::compose::{put, scratch};
use sync_tests::process::Program;
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::SERVER;
use crate::authority::{Authority, Client};

/// A server with a certificate of this authority.
async fn encrypted(
    authority: &Authority,
    change: impl FnOnce(&mut Config),
) -> (TestServer, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    authority.server().write(dir.path(), "server");
    let server = TestServer::with(|config| {
        config.tls_cert_file = Some(dir.path().join("server.crt"));
        config.tls_key_file = Some(dir.path().join("server.key"));
        change(config);
    })
    .await;
    (server, dir)
}

/// TLS 1.2 and 1.3 are spoken, with h2 and nothing else; plain text and other authorities' friends
/// get no answer.
#[tokio::test(flavor = "multi_thread")]
async fn only_tls_with_http_2_is_spoken() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (server, _dir) = encrypted(&ours, |_| {}).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Client::speaking(&[version], &ours, None);
        let stream = client.connect(server.address()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let wire = client.wire(server.address()).await.unwrap();
        wire.commit(vec![put("list", "a", "1")]).await;
    }
    let other = Client::new(&ours, None).offering(&["http/1.1"]);
    assert!(other.connect(server.address()).await.is_err(), "no protocol in common");
    // Without an offer the handshake is fine, and nothing is said after it.
    let silent = Client::new(&ours, None).offering(&[]);
    let mut stream = silent.connect(server.address()).await.unwrap();
    let mut said = Vec::new();
    drop(within("the end", stream.read_to_end(&mut said)).await);
    assert!(said.is_empty(), "{said:?}");
    assert!(Client::new(&theirs, None).connect(server.address()).await.is_err());
    let request =
        sync_proto::v1::PullRequest { targets: vec![scratch("list").into()], ..Default::default() };
    assert!(server.wire().pull_raw(request).await.is_err(), "plain text");
    server.stop().await;
}

/// A peer that does not finish its handshake is gone in time, and in nobody's way meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_a_deadline() {
    let authority = Authority::new();
    let (server, _dir) = encrypted(&authority, |config| config.tls_handshake_timeout_s = 1).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let wire = Client::new(&authority, None).wire(server.address()).await.unwrap();
    wire.commit(vec![put("list", "a", "1")]).await;
    for stream in &mut silent {
        let mut byte = [0];
        let ended = within("its end", stream.read(&mut byte)).await;
        let gone =
            ended.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |n| n == 0);
        assert!(gone, "it is cut off");
    }
    let took = begun.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    wire.commit(vec![put("list", "b", "1")]).await;
    server.stop().await;
}

/// A new certificate is for new connections, and disturbs none that is open; one that does not fit
/// its key, or is none, changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_exchanged_while_the_server_runs() {
    let (old, new) = (Authority::new(), Authority::new());
    let (server, dir) = encrypted(&old, |_| {}).await;
    let (to_old, to_new) = (Client::new(&old, None), Client::new(&new, None));
    let wire = to_old.wire(server.address()).await.unwrap();
    wire.commit(vec![put("list", "a", "1")]).await;
    let mut events = wire.subscribe(vec![scratch("list")]).await;
    while !matches!(events.next().await, Event::CaughtUp(..)) {}
    // Half of a pair, for longer than it takes to notice.
    std::fs::write(dir.path().join("server.crt"), new.server().certificate).unwrap();
    let mut beats = 0;
    while beats < 6 {
        beats += usize::from(matches!(events.next().await, Event::Bookmark(..)));
    }
    to_old.connect(server.address()).await.unwrap();
    new.server().write(dir.path(), "server");
    until_true("the new certificate", async || to_new.connect(server.address()).await.is_ok())
        .await;
    assert!(to_old.connect(server.address()).await.is_err());
    std::fs::write(dir.path().join("server.crt"), "no certificate").unwrap();
    wire.commit(vec![put("list", "b", "2")]).await;
    let event = events.next_news().await;
    assert!(matches!(event, Event::Changes(..)), "the old connection goes on: {event:?}");
    to_new.connect(server.address()).await.unwrap();
    drop(events);
    server.stop().await;
}

/// Plain text for others than this machine is refused at the start, with what to do instead; where
/// it is asked for, the log shouts.
#[tokio::test(flavor = "multi_thread")]
async fn plain_text_for_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let anywhere = SocketAddr::from(([0, 0, 0, 0], program.address().port()));
    let open = program.at(anywhere);
    let mut refused = open.start();
    assert_eq!(refused.ended().await.code(), Some(2), "{}", refused.log());
    let log = refused.log();
    assert!(log.contains("tls_cert_file") && log.contains("plaintext_anywhere"), "{log}");
    let mut shouting = open.with(&["--plaintext-anywhere", "true"]).start_serving().await;
    until_true("a shout", async || shouting.log().contains("PLAINTEXT ANYWHERE")).await;
    shouting.terminate();
    assert_eq!(shouting.ended().await.code(), Some(0));
}
