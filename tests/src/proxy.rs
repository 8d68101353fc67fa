//! A line between clients and a server that can be cut, frozen, closed and slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A proxy. Dropping it ends it and cuts everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    lines: Arc<Mutex<Lines>>,
    passed: Arc<Passed>,
    _stop: DropGuard,
}

/// Bytes that were passed on, and connections.
#[derive(Debug, Default)]
struct Passed {
    to_server: AtomicU64,
    to_client: AtomicU64,
    connections: AtomicU64,
}

/// What befalls the connections that are open now, and the next ones.
#[derive(Debug, Default)]
struct Lines {
    cut: CancellationToken,
    frozen: CancellationToken,
    closed: bool,
    /// Bytes a second towards the client; `None` = as many as come.
    rate: Option<u32>,
}

/// Socket buffers before a slow line: what waits in them is as late as on a real one.
const SLOW_BUFFER_BYTES: u32 = 16 * 1024;
/// A slow line passes so many parts a second.
const PARTS_PER_SECOND: u32 = 50;

// === impl Proxy ===

impl Proxy {
    /// A proxy to `upstream`, which need not listen yet.
    pub async fn to(upstream: SocketAddr) -> Self {
        Self::with(upstream, Lines::default()).await
    }

    /// A proxy that passes only so many bytes a second towards the client, on each connection.
    pub async fn slow(upstream: SocketAddr, rate: u32) -> Self {
        Self::with(upstream, Lines { rate: Some(rate), ..Lines::default() }).await
    }

    async fn with(upstream: SocketAddr, lines: Lines) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(lines));
        let (passed, stop) = (Arc::default(), CancellationToken::new());
        let states = (Arc::clone(&lines), Arc::clone(&passed));
        TaskTracker::new().spawn(accept(listener, upstream, states, stop.clone()));
        Self { address, lines, passed, _stop: stop.drop_guard() }
    }

    /// Its address as clients write it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that were passed on: to the server, and to the client.
    #[must_use]
    pub fn passed(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.passed.to_server), count(&self.passed.to_client))
    }

    /// Connections that were let in.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.passed.connections.load(Ordering::Relaxed)
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        std::mem::take(&mut self.lines.lock().cut).cancel();
    }

    /// Half-opens every connection: nothing passes any more, in either direction, and nobody is
    /// told. New connections work.
    pub fn freeze(&self) {
        std::mem::take(&mut self.lines.lock().frozen).cancel();
    }

    /// Cuts every connection and lets none in, or lets them in again.
    pub fn close(&self, closed: bool) {
        self.lines.lock().closed = closed;
        if closed {
            self.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    (lines, passed): (Arc<Mutex<Lines>>, Arc<Passed>),
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (client, _) = accepted.unwrap();
        let (cut, frozen, rate) = {
            let lines = lines.lock();
            if lines.closed {
                continue;
            }
            (lines.cut.clone(), lines.frozen.clone(), lines.rate)
        };
        let passed = Arc::clone(&passed);
        passed.connections.fetch_add(1, Ordering::Relaxed);
        tracker.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = join(client, upstream, &passed, frozen, rate) => {}
            }
        });
    }
}

/// Passes bytes in both directions until one side ends.
async fn join(
    client: TcpStream,
    upstream: SocketAddr,
    passed: &Passed,
    frozen: CancellationToken,
    rate: Option<u32>,
) {
    let Ok(server) = connect(upstream, rate).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, &passed.to_server, &frozen, None) => {}
        () = pass(from_server, to_client, &passed.to_client, &frozen, rate) => {}
    }
}

async fn connect(upstream: SocketAddr, rate: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if rate.is_some() {
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
    }
    socket.connect(upstream).await
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    passed: &AtomicU64,
    frozen: &CancellationToken,
    rate: Option<u32>,
) {
    let part = rate.map_or(16 * 1024, |rate| (rate / PARTS_PER_SECOND).max(1));
    let mut buffer = vec![0; part as usize];
    loop {
        let read = tokio::select! {
            biased;
            () = frozen.cancelled() => return std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) if to.write_all(&buffer[..count]).await.is_err() => return,
            Ok(count) => {
                passed.fetch_add(count as u64, Ordering::Relaxed);
                if let Some(rate) = rate {
                    sleep(Duration::from_secs(1) * u32::try_from(count).unwrap() / rate).await;
                }
            }
        }
    }
}
