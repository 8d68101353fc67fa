//! The connections of a server: how many there may be, how long one may say nothing, and that
//! all of them end with the server. HTTP/2 itself bounds none of this.
//!
//! ```text
//! accepted ─► shakes hands in time (TLS) ─► asks for something in time ─► lives until its peer or
//!     │ │          └───► closed                  │                        the server ends it: then
//!     │ └───► is silent ─► closed  ◄─────────────┘                        each takes leave
//!     └─────► one too many ─► closed at once
//! ```

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::transport::server::Connected;

use super::gather::Gather;
use super::leave::Leave;
use super::line::{Line, Proven, Tls};
use super::peers::{Peers, Seat};
use super::reach::Reach;
use super::web::heads::Heads;
use crate::auth::chain::Chain;
use crate::budget::{Account, Budgets};
use crate::metrics::{Handshake, Metrics};
use crate::requests::{OpenRequest, Requests};
use crate::rpc::loads::ConnectionNumber;

/// The pause after an accept that failed for a reason of ours, such as too many open files: it
/// fails again until something is closed, and asking at once would only take the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failures to accept are told at most this often; they come ten times a second.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// Connections where operators come in.
const OPERATORS_MAX: usize = 64;

/// Bounds of connections.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Connections at once.
    pub(super) connections_max: usize,
    /// One for each connection that there may be.
    pub(super) slots: Arc<Semaphore>,
    /// How many of them one peer may have.
    pub(super) peers: Peers,
    /// A connection that has not made a request by then is closed.
    pub(super) first_request_within: Duration,
    /// One that is older is closed, whatever goes on on it.
    pub(super) life_max: Duration,
    /// Those that have made a request, until they are closed.
    pub(super) of_use: TaskTracker,
    /// Cuts all connections when cancelled.
    pub(super) cut: CancellationToken,
    /// How they are secured; `None` = they are not.
    pub(super) tls: Option<Tls>,
    /// Whether HTTP/1.1 is spoken, too.
    pub(super) http_1: bool,
    /// Counts handshakes.
    pub(super) metrics: Metrics,
    /// What they may hold.
    pub(super) budgets: Budgets,
    /// What they reach.
    pub(super) reach: Reach,
    /// How many were accepted, wherever they came in: the last one's number.
    pub(super) numbers: Arc<AtomicU64>,
}

/// Takes connections from a listener.
struct Acceptor {
    listener: TcpListener,
    bounds: Bounds,
    /// Connections that were one too many.
    refused: u64,
    last_warning: Option<Instant>,
}

/// A connection that ends in time.
pub(super) struct Connection {
    line: Gather<Line>,
    heads: Heads,
    peer: Peer,
    /// Resolves when the server has a reason to close the connection.
    end: BoxFuture<'static, io::ErrorKind>,
    ended: Option<io::ErrorKind>,
    /// Once its own side has been closed.
    leave: Option<Leave>,
    _slot: (OwnedSemaphorePermit, Seat),
}

/// The far end of a connection; an extension of each of its requests.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Once it has made a request.
    of_use: Arc<OnceLock<TaskTrackerToken>>,
    all_of_use: TaskTracker,
    /// Where it is; its network, if that is what is counted as one.
    address: IpAddr,
    /// `None`: there is no handshake.
    proven: Option<Proven>,
    account: Arc<Account>,
    requests: Requests,
    reach: Reach,
}

/// The connections that a listener accepts, for as long as it is asked. Never ends and never
/// fails.
pub(super) fn accept_all(
    listener: TcpListener,
    bounds: Bounds,
) -> impl Stream<Item = Result<Connection, Infallible>> {
    let acceptor = Acceptor { listener, bounds, refused: 0, last_warning: None };
    futures::stream::unfold(acceptor, async |mut acceptor| {
        let connection = acceptor.accept().await;
        Some((Ok(connection), acceptor))
    })
}

// === impl Bounds ===

impl Bounds {
    /// The bounds where operators come in, who from now on do so there alone. They have places of
    /// their own, so that they are let in when callers hold all of theirs.
    pub(super) fn of_operators(&mut self) -> Self {
        self.reach = Reach::Callers;
        Self {
            reach: Reach::All,
            connections_max: OPERATORS_MAX,
            slots: Arc::new(Semaphore::new(OPERATORS_MAX)),
            peers: Peers::new(OPERATORS_MAX),
            ..self.clone()
        }
    }
}

// === impl Acceptor ===

impl Acceptor {
    async fn accept(&mut self) -> Connection {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.recover(&error).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.bounds.slots).try_acquire_owned() else {
                self.refused += 1;
                let connections_max = self.bounds.connections_max;
                tracing::debug!(connections_max, refused = self.refused, "one connection too many");
                continue;
            };
            let Some(seat) = self.bounds.peers.seat(address.ip()) else {
                self.refused += 1;
                tracing::debug!(%address, refused = self.refused, "one connection of a peer too many");
                continue;
            };
            // Answers are small and awaited: none should wait to be sent with the next.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection was gone when it was accepted");
            }
            return Connection::new(stream, (slot, seat), &self.bounds);
        }
    }

    /// A peer that has gone again is no reason to pause; everything else is a lack of ours.
    async fn recover(&mut self, error: &io::Error) {
        if is_of_peer(error.kind()) {
            tracing::debug!(%error, "a connection was gone before it was accepted");
            return;
        }
        let now = Instant::now();
        if self.last_warning.is_none_or(|last| now.duration_since(last) >= WARNING_PAUSE) {
            self.last_warning = Some(now);
            tracing::warn!(%error, "connections cannot be accepted");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn is_of_peer(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}

// === impl Connection ===

impl Connection {
    fn new(stream: TcpStream, slot: (OwnedSemaphorePermit, Seat), bounds: &Bounds) -> Self {
        let number = bounds.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        // A token of its own, so that connections do not meet at one lock with every read, and
        // one can be cut alone.
        let cut = bounds.cut.child_token();
        let account = Arc::new(bounds.budgets.account(number, &cut));
        let requests = Requests::default();
        let (line, proven) = Line::open(stream, bounds.tls.as_ref(), bounds.metrics.clone());
        let line = Gather::new(line, requests.clone());
        let proven = bounds.tls.is_some().then_some(proven);
        let heads = Heads::new(bounds.http_1, requests.clone());
        let all_of_use = bounds.of_use.clone();
        let (address, reach) = (slot.1.peer(), bounds.reach);
        let of_use = Arc::default();
        let peer = Peer { of_use, all_of_use, address, proven, account, requests, reach };
        let end = Box::pin(end(peer.clone(), bounds.clone(), cut));
        Self { line, heads, peer, end, ended: None, leave: None, _slot: slot }
    }

    /// Fails when the connection is to be closed; otherwise wakes the task when it will be.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none()
            && let Poll::Ready(kind) = self.end.as_mut().poll(context)
        {
            self.ended = Some(kind);
        }
        self.ended.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

/// Resolves when the server closes the connection, with the reason.
async fn end(peer: Peer, bounds: Bounds, cut: CancellationToken) -> io::ErrorKind {
    let late = async {
        let Some(tls) = &bounds.tls else { return std::future::pending().await };
        tokio::time::sleep(tls.handshake_within).await;
        if peer.has_proven() {
            std::future::pending::<()>().await;
        }
    };
    let silent = async {
        tokio::time::sleep(bounds.first_request_within).await;
        if peer.of_use.get().is_some() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => io::ErrorKind::ConnectionAborted,
        () = late => {
            bounds.metrics.shook_hands(Handshake::Late);
            tracing::debug!("a connection did not finish its handshake in time");
            io::ErrorKind::TimedOut
        }
        () = silent => {
            tracing::debug!("a connection made no request in time");
            io::ErrorKind::TimedOut
        }
        () = tokio::time::sleep(bounds.life_max) => {
            tracing::debug!("a connection was still used when it should long have ended");
            io::ErrorKind::TimedOut
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let this = &mut *self;
        let Some(most) = this.heads.read_max() else {
            return Pin::new(&mut this.line).poll_read(context, buffer);
        };
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most.min(buffer.remaining())));
        ready!(Pin::new(&mut this.line).poll_read(context, &mut part))?;
        let read = part.filled().len();
        if this.heads.took(part.filled()).is_err() {
            tracing::debug!("a connection sends too much before a request");
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.line).poll_write_vectored(context, slices)
    }

    /// Not for HTTP/2, see [`super::gather`]. For HTTP/1.1 it is how the library lets what it writes
    /// lie where it is, and be counted there: it would copy 400 KiB of it otherwise.
    fn is_write_vectored(&self) -> bool {
        self.heads.are_of_http_1()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.line).poll_flush(context)
    }

    /// Closes its own side, and then waits for the peer to close the other.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.leave.is_none() {
            let shut = Pin::new(&mut this.line).poll_shutdown(context);
            // One that is cut, or too old, does not wait until its last bytes are taken.
            if shut.is_pending() && this.check(context).is_err() {
                return Poll::Ready(Ok(()));
            }
            ready!(shut)?;
            this.leave = Some(Leave::default());
        }
        // A peer that has asked for nothing has no answers to lose.
        if this.peer.of_use.get().is_none() || this.check(context).is_err() {
            return Poll::Ready(Ok(()));
        }
        let Some(leave) = &mut this.leave else { return Poll::Ready(Ok(())) };
        leave.poll(&mut this.line, context).map(Ok)
    }
}

// === impl Peer ===

impl Peer {
    /// What it has proven by its handshake; that is over before it can ask for anything.
    pub(super) fn certificates(&self) -> Option<Arc<Chain>> {
        self.proven.as_ref()?.get()?.clone()
    }

    fn has_proven(&self) -> bool {
        self.proven.as_ref().is_none_or(|proven| proven.get().is_some())
    }

    /// It has made a request, so its connection is of use. The request is open until the guard is
    /// dropped.
    pub(super) fn opens(&self) -> OpenRequest {
        self.of_use.get_or_init(|| self.all_of_use.token());
        self.requests.open()
    }

    /// Tells its connection apart from all others of this server.
    pub(super) fn number(&self) -> ConnectionNumber {
        ConnectionNumber(self.account.connection)
    }

    /// Who is counted as one with it.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// What is served where its connection came in.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// What its connection may hold.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}
