//! What the connection brings, counted where it enters: a page that takes minutes on a slow line
//! is progress long before it is a message, and a call that waits for it is not dead.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::ServiceExt as _;

use super::tls::Tls;

/// Bytes received over all connections of a client, one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    received: Arc<AtomicU64>,
}

/// A socket that is counted.
#[derive(Debug)]
struct Counted {
    socket: TcpStream,
    traffic: Traffic,
}

// === impl Traffic ===

impl Traffic {
    /// Bytes so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A channel that is connected when it is first needed, and counted here: with TLS, what is
    /// counted is what is sent.
    pub(super) fn channel(&self, endpoint: &Endpoint, tls: Option<Tls>) -> Channel {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let traffic = self.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let (http, traffic, tls) = (http.clone(), traffic.clone(), tls.clone());
            async move {
                let host = uri.host().unwrap_or_default().to_owned();
                let socket = http.oneshot(uri).await.map_err(io::Error::other)?.into_inner();
                let counted = Counted { socket, traffic };
                let line = match tls {
                    None => Either::Left(counted),
                    Some(tls) => Either::Right(tls.secure(&host, counted).await?),
                };
                Ok::<_, io::Error>(TokioIo::new(line))
            }
        }))
    }
}

// === impl Counted ===

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let came = buffer.filled().len() - before;
        self.traffic.received.fetch_add(came as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
