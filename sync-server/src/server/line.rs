//! The bytes of a connection, plain or through TLS. The handshake is part of the first read or
//! write, so nobody waits for it but its peer; what the peer has proven is known before it can ask
//! for anything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::auth::chain::Chain;
use crate::metrics::{Handshake, Metrics};
use crate::security::certificates::{HTTP_1, HTTP_2};

/// How connections are secured.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Exchanged when certificates are; connections that are open keep theirs.
    pub(crate) config: Arc<RwLock<Arc<ServerConfig>>>,
    /// A handshake that takes longer is given up.
    pub(crate) handshake_within: Duration,
    /// Whether HTTP/1.1 is spoken, too.
    pub(crate) http_1: bool,
}

/// What the handshake of a connection has brought to light; nothing while it lasts.
pub(super) type Proven = Arc<OnceLock<Option<Arc<Chain>>>>;

/// A connection's bytes.
pub(super) struct Line {
    state: State,
    http_1: bool,
    proven: Proven,
    metrics: Metrics,
}

enum State {
    Plain(TcpStream),
    Shaking(Box<Accept<TcpStream>>),
    Secure(Box<TlsStream<TcpStream>>),
    Failed,
}

// === impl Line ===

impl Line {
    /// A connection that was accepted, and where what its peer proves will be.
    pub(super) fn open(stream: TcpStream, tls: Option<&Tls>, metrics: Metrics) -> (Self, Proven) {
        let proven = Proven::default();
        let state = match tls {
            None => State::Plain(stream),
            Some(tls) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&tls.config.read()));
                State::Shaking(Box::new(acceptor.accept(stream)))
            }
        };
        let http_1 = tls.is_some_and(|tls| tls.http_1);
        (Self { state, http_1, proven: Arc::clone(&proven), metrics }, proven)
    }

    /// Goes on with the handshake, if there is one.
    fn shake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let http_1 = self.http_1;
        let State::Shaking(accept) = &mut self.state else { return Poll::Ready(Ok(())) };
        let shaken = ready!(accept.poll_unpin(context)).and_then(|stream| {
            let chain = checked(&stream, http_1)?;
            Ok((stream, chain))
        });
        match shaken {
            Ok((stream, chain)) => {
                self.metrics.shook_hands(Handshake::Done);
                self.state = State::Secure(Box::new(stream));
                // It is set once: there is one handshake.
                self.proven.get_or_init(|| chain);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.metrics.shook_hands(Handshake::Failed);
                tracing::debug!(kind = ?error.kind(), "a handshake failed");
                self.state = State::Failed;
                Poll::Ready(Err(error))
            }
        }
    }
}

/// What is known after a handshake: which HTTP will be spoken, and who the peer is.
fn checked(stream: &TlsStream<TcpStream>, http_1: bool) -> io::Result<Option<Arc<Chain>>> {
    let (_, session) = stream.get_ref();
    let spoken = match session.alpn_protocol() {
        Some(protocol) => protocol == HTTP_2 || (http_1 && protocol == HTTP_1),
        // Whoever says nothing means HTTP/1.1.
        None => http_1,
    };
    if !spoken {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not offer h2"));
    }
    let chain = session.peer_certificates().map(Chain::new).transpose();
    let chain = chain.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(chain.map(Arc::new))
}

fn failed() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.shake(context))?;
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            State::Secure(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            State::Shaking(_) | State::Failed => Poll::Ready(Err(failed())),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.shake(context))?;
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            State::Secure(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            State::Shaking(_) | State::Failed => Poll::Ready(Err(failed())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.shake(context))?;
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            State::Secure(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
            State::Shaking(_) | State::Failed => Poll::Ready(Err(failed())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.shake(context))?;
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_flush(context),
            State::Secure(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            State::Shaking(_) | State::Failed => Poll::Ready(Err(failed())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            State::Secure(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            // There is nothing to take leave of.
            State::Shaking(_) | State::Failed => Poll::Ready(Ok(())),
        }
    }
}
