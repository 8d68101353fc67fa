//! What peers do to a server with the connections they open: nothing, mostly. They are raw, so
//! that a test says what they send and when, and sees what becomes of each connection.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peers;

use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::Message as _;
use sync_proto::v1;
use sync_server::server::ServeError;
use sync_server::store::memory::MemoryStore;
use sync_server::store::{Batch, Direction, KeyRange, Store, StoreError, Usage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::task::TaskTracker;

use peers::{Peer, Server, grpc_status, within};

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SUBSCRIBE: &str = "/deltasync.v1.SyncService/Subscribe";

/// A store whose next sync takes a while, once told so.
struct SlowStore {
    memory: MemoryStore,
    slow: Arc<AtomicBool>,
}

/// The program, in a process with few open files.
struct Program {
    child: Child,
    address: SocketAddr,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

// === impl SlowStore ===

impl Store for SlowStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.memory.get(key)
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.memory.scan(range, direction, visit)
    }

    fn room(&self) -> Result<(), StoreError> {
        self.memory.room()
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.memory.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.slow.load(Ordering::Relaxed) {
            let never = Mutex::new(());
            Condvar::new().wait_for(&mut never.lock(), Duration::from_secs(3));
        }
        self.memory.sync()
    }

    fn usage(&self) -> Usage {
        self.memory.usage()
    }
}

// === impl Program ===

impl Program {
    fn start(dir: &std::path::Path, open_files: u32) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n $0 && exec \"$@\"", &open_files.to_string()])
            .arg(env!("CARGO_BIN_EXE_sync-server"))
            .args(["--listen", "127.0.0.1:0", "--first-request-timeout-s", "2"])
            .arg("--data-dir")
            .arg(dir)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("serving address=")?;
            Some(address.split(' ').next()?.parse().unwrap())
        });
        Self { child, address: address.unwrap(), lines }
    }

    /// The processor time that it has used, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Ends it and returns what it still said.
    fn end(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.map(Result::unwrap).collect()
    }
}

/// Waits until the server has closed the connection; what it said before.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is as good an end as any.
    drop(within(stream.read_to_end(&mut said)).await);
    said
}

/// Waits until a newcomer is served.
async fn until_served(server: &Server) {
    within(async {
        let builder = h2::client::Builder::new;
        loop {
            if let Ok(mut peer) = Peer::over(server.connect().await, builder()).await
                && peer.is_served().await
            {
                break;
            }
        }
    })
    .await;
}

fn put() -> v1::CommitRequest {
    let put = v1::PutItem { key: "k".into(), value: "v".into(), ..Default::default() };
    let op = Some(v1::mutation::Op::Put(put));
    let mutation = v1::Mutation { collection: "list".to_owned(), op };
    v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
}

/// X14: nobody who says nothing, or takes nothing, or never comes to an end, delays the end.
#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_do_not_delay_the_end() {
    let server = Server::start(|config| config.grace_s = 60).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(server.connect().await);
    }
    let mut preface = server.connect().await;
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();

    let mut stalled = h2::client::Builder::new();
    stalled.initial_window_size(0);
    let mut stalled = Peer::over(server.connect().await, stalled).await.unwrap();
    let mut subscription = stalled.call(SUBSCRIBE).await.unwrap();
    let target = v1::Target { collection: "list".to_owned(), ..Default::default() };
    subscription.send(&v1::SubscribeRequest { targets: vec![target], ..Default::default() }, true);
    let subscribed = within(subscription.response).await.unwrap();
    assert_eq!(subscribed.status(), 200);

    let mut peer = server.peer().await;
    let reflecting = peer.call(REFLECT).await.unwrap();
    let reflected = within(reflecting.response).await.unwrap();
    let half = peer.call(COMMIT).await.unwrap();
    assert!(peer.is_served().await, "the server has seen the calls before");

    let stopping = Instant::now();
    server.stop().await.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    let refused = within(half.response).await.unwrap();
    assert_eq!(grpc_status(&refused), "14", "UNAVAILABLE: nothing has happened");
    for mut stream in silent.into_iter().chain([preface]) {
        closed(&mut stream).await;
    }
    drop((subscribed, reflected));
    drop(within(stalled.connection).await);
}

/// X14: a peer that is still sending when the server has said all it had to say is not told that
/// its connection is broken: it would throw away what it has not read yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_still_sends_gets_its_last_message() {
    assert_last_message(Duration::ZERO).await;
}

/// X14: nor is one that comes to nothing for a while: whoever has asked for something is waited for
/// longer than those who are silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_peer_gets_its_last_message() {
    assert_last_message(Duration::from_millis(900)).await;
}

/// A subscriber that comes to nothing for so long when the server ends, and sends more before it
/// reads what it was told, gets its goodbye.
async fn assert_last_message(busy: Duration) {
    let server = Server::start(|config| config.grace_s = 60).await;
    let (near, far) = tokio::io::duplex(1 << 20);
    let ending = Arc::new(AtomicBool::new(false));
    let link = slow_link(server.connect().await, far, Arc::clone(&ending), busy);
    let link = TaskTracker::new().spawn(link);
    let mut peer = Peer::over(near, h2::client::Builder::new()).await.unwrap();
    let mut call = peer.call(SUBSCRIBE).await.unwrap();
    let target = v1::Target { collection: "list".to_owned(), ..Default::default() };
    call.send(&v1::SubscribeRequest { targets: vec![target], ..Default::default() }, true);
    let mut body = within(call.response).await.unwrap().into_body();
    within(body.data()).await.unwrap().unwrap();

    ending.store(true, Ordering::Release);
    let stopping = Instant::now();
    let (stopped, last, linked) = tokio::join!(server.stop(), within(body.data()), within(link));
    stopped.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    linked.unwrap().unwrap();
    let last = v1::SubscribeResponse::decode(&last.unwrap().unwrap()[5..]).unwrap().message;
    assert!(matches!(last, Some(v1::subscribe_response::Message::Goodbye(_))), "{last:?}");
}

/// Passes on what a peer and the server say. From `ending` on it holds back what the server says,
/// is `busy` first, sends more when that has closed its side, and only then hands it over. It fails
/// when it cannot send, as libraries do.
async fn slow_link(
    server: TcpStream,
    peer: DuplexStream,
    ending: Arc<AtomicBool>,
    busy: Duration,
) -> io::Result<()> {
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let (mut server, to_server) = server.into_split();
    let (mut peer, mut to_peer) = tokio::io::split(peer);
    let to_server = Arc::new(tokio::sync::Mutex::new(to_server));
    let of_peer = Arc::clone(&to_server);
    let passing = TaskTracker::new().spawn(async move {
        let mut preface = vec![0; 24];
        peer.read_exact(&mut preface).await?;
        let mut next = Some(preface);
        while let Some(frame) = next {
            of_peer.lock().await.write_all(&frame).await?;
            next = read_frame(&mut peer).await?;
        }
        io::Result::Ok(())
    });
    let mut held = Vec::new();
    while let Some(mut frame) = read_frame(&mut server).await? {
        if !ending.load(Ordering::Acquire) {
            to_peer.write_all(&frame).await?;
            continue;
        }
        if held.is_empty() {
            comes_to_nothing(busy).await;
        }
        if frame[3..5] == PING[3..5] {
            // The server asks whether all it said before has come in.
            frame[4] = 1;
            to_server.lock().await.write_all(&frame).await?;
        } else {
            held.extend_from_slice(&frame);
        }
    }
    for _ in 0..3 {
        to_server.lock().await.write_all(&PING).await?;
        comes_to_nothing(Duration::from_millis(50)).await;
    }
    to_peer.write_all(&held).await?;
    passing.abort();
    Ok(())
}

/// What is slow is the link itself, so there is nothing to wait for but time.
async fn comes_to_nothing(busy: Duration) {
    tokio::time::timeout(busy, std::future::pending::<()>()).await.unwrap_err();
}

/// The next frame of HTTP/2; `None` = the far end has closed its side.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 9];
    if stream.read(&mut frame[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut frame[1..]).await?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
    frame.resize(9 + length as usize, 0);
    stream.read_exact(&mut frame[9..]).await?;
    Ok(Some(frame))
}

/// A call that does not end within the grace is worth an error, also if the disk comes back.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_end_exceed_the_grace() {
    let slow = Arc::new(AtomicBool::new(false));
    let store = SlowStore { memory: MemoryStore::new(), slow: Arc::clone(&slow) };
    let server = Server::over(store, |config| config.grace_s = 1).await;
    let mut peer = server.peer().await;
    slow.store(true, Ordering::Relaxed);
    let mut commit = peer.call(COMMIT).await.unwrap();
    commit.send(&put(), true);
    assert!(peer.is_served().await, "the server has seen the commit before");
    let ended = server.stop().await;
    assert!(matches!(ended, Err(ServeError::Grace(_))), "{ended:?}");
}

/// One connection too many is closed at once, until there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_capped() {
    let server = Server::start(|config| config.connections_max = 10).await;
    let mut peer = server.peer().await;
    let mut silent = Vec::new();
    for _ in 0..9 {
        silent.push(server.connect().await);
    }
    for _ in 0..3 {
        assert_eq!(closed(&mut server.connect().await).await, b"", "closed at once");
    }
    assert!(peer.is_served().await);
    drop(silent.pop());
    until_served(&server).await;
    server.stop().await.unwrap();
}

/// One connection of a peer too many is closed at once; others have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_peer_are_capped() {
    let server = Server::start(|config| config.connections_per_peer_max = 3).await;
    let mut peer = server.peer().await;
    let mut silent = vec![server.connect().await, server.connect().await];
    assert_eq!(closed(&mut server.connect().await).await, b"", "closed at once");
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = other.connect(server.address).await.unwrap();
    let mut other = Peer::over(other, h2::client::Builder::new()).await.unwrap();
    assert!(other.is_served().await && peer.is_served().await);
    drop(silent.pop());
    until_served(&server).await;
    server.stop().await.unwrap();
}

/// A connection that is of no use is closed; one request is enough to be of use.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_must_ask_in_time() {
    let server = Server::start(|config| config.first_request_timeout_s = 1).await;
    let mut asking = server.peer().await;
    assert!(asking.is_served().await);
    let opened = Instant::now();
    let mut silent = server.connect().await;
    let polite = server.peer().await;
    closed(&mut silent).await;
    assert!(opened.elapsed() >= Duration::from_millis(900), "after {:?}", opened.elapsed());
    drop(within(polite.connection).await);
    assert!(opened.elapsed() < Duration::from_secs(5), "after {:?}", opened.elapsed());
    assert!(asking.is_served().await, "the same connection");
    server.stop().await.unwrap();
}

/// A process that may not open more files waits quietly until it may.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_open_files_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), 64);
    let before = program.ticks();
    let opened = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(program.address).await.unwrap());
    }
    closed(&mut silent[0]).await;
    let (used, passed) = (program.ticks() - before, opened.elapsed());
    assert!(passed >= Duration::from_secs(1), "it had to wait");
    assert!(used < 50, "{used} hundredths of a second of the processor within {passed:?}");
    let stream = TcpStream::connect(program.address).await.unwrap();
    let peer = Peer::over(stream, h2::client::Builder::new()).await;
    assert!(peer.unwrap().is_served().await, "when files are free again");
    let warnings = program.end();
    let warnings = warnings.iter().filter(|line| line.contains("connections cannot be accepted"));
    assert_eq!(warnings.count(), 1, "told, and not ten times a second");
}
