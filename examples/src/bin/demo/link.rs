//! A network link that counts: a relay between one client and the server. What the table says
//! about bytes is what went through here, all of it: answers, pushes, and the framing of both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const BUFFER_BYTES: usize = 64 * 1024;

/// A link to the server.
pub(crate) struct Link {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Bytes that went through a link.
#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
}

// === impl Link ===

impl Link {
    /// A link to the server at `server`.
    pub(crate) async fn open(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let link = Self {
            address: listener.local_addr()?,
            counts: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (counts, stop, tasks) = (link.counts.clone(), link.stop.clone(), link.tasks.clone());
        tasks.spawn(accept(listener, server, counts, stop, link.tasks.clone()));
        Ok(link)
    }

    /// Where the client connects to.
    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that the client has received.
    pub(crate) fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// Bytes that the client has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// Cuts it.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Ends when the link is cut, or when accepting fails: its client then cannot connect, which is
/// what a cut link is.
async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    counts: Arc<Counts>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
        let relay = relay(client, server, counts.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(relay));
    }
}

async fn relay(client: TcpStream, server: SocketAddr, counts: Arc<Counts>) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        ended = pump(from_client, to_server, &counts.sent) => ended,
        ended = pump(from_server, to_client, &counts.received) => ended,
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
        to.write_all(&buffer[..length]).await?;
    }
}
