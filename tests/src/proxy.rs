//! A line between clients and a server that can be cut, frozen and closed.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A proxy. Dropping it ends it and cuts everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    lines: Arc<Mutex<Lines>>,
    _stop: DropGuard,
}

/// What befalls the connections that are open now, and the next ones.
#[derive(Debug, Default)]
struct Lines {
    cut: CancellationToken,
    frozen: CancellationToken,
    closed: bool,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy to `upstream`, which need not listen yet.
    pub async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines: Arc<Mutex<Lines>> = Arc::default();
        let stop = CancellationToken::new();
        TaskTracker::new().spawn(accept(listener, upstream, Arc::clone(&lines), stop.clone()));
        Self { address, lines, _stop: stop.drop_guard() }
    }

    /// Its address as clients write it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
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
    lines: Arc<Mutex<Lines>>,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (client, _) = accepted.unwrap();
        let (cut, frozen) = {
            let lines = lines.lock();
            if lines.closed {
                continue;
            }
            (lines.cut.clone(), lines.frozen.clone())
        };
        tracker.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = join(client, upstream, frozen) => {}
            }
        });
    }
}

/// Passes bytes in both directions until one side ends.
async fn join(client: TcpStream, upstream: SocketAddr, frozen: CancellationToken) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, &frozen) => {}
        () = pass(from_server, to_client, &frozen) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, frozen: &CancellationToken) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            () = frozen.cancelled() => return std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) if to.write_all(&buffer[..count]).await.is_err() => return,
            Ok(_) => {}
        }
    }
}
