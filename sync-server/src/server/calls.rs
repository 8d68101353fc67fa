//! The calls that a server waits for before it ends: each has begun before the server was told to
//! stop, and none can be held open by a peer that is silent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::SERVICES;
use super::connections::Peer;

/// Counts calls, and refuses new ones when the server stops.
#[derive(Debug, Clone)]
pub(super) struct CallsLayer {
    /// Calls that have not been answered.
    pub(super) open: TaskTracker,
    /// Cancelled when the server begins to stop.
    pub(super) drain: CancellationToken,
    /// From then on, what a peer still has to send of its requests must come within this.
    pub(super) upload_within: Duration,
}

/// All services, behind a [`CallsLayer`].
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    inner: S,
    layer: CallsLayer,
}

/// The body of a request: ends when the server does not wait for it any longer.
struct Upload {
    body: Body,
    end: BoxFuture<'static, ()>,
    ended: bool,
}

// === impl CallsLayer ===

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, layer: self.clone() }
    }
}

// === impl Calls ===

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.asks();
            let number = peer.number();
            request.extensions_mut().insert(number);
        }
        // Health is told to the end, and those who watch it or reflect have nothing to lose.
        if !is_of_ours(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        // Count first, ask then: a call that is not refused is waited for.
        let open = self.layer.open.token();
        if self.layer.drain.is_cancelled() {
            let refusal = Status::unavailable("the server is stopping");
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        }
        let (drain, within) = (self.layer.drain.clone(), self.layer.upload_within);
        let call = self.inner.call(request.map(|body| Upload::limit(body, drain, within)));
        Box::pin(async move {
            let answer = call.await;
            drop(open);
            answer
        })
    }
}

fn is_of_ours(path: &str) -> bool {
    let service = path.trim_start_matches('/').split('/').next();
    service.is_some_and(|service| SERVICES.contains(&service))
}

// === impl Upload ===

impl Upload {
    fn limit(body: Body, drain: CancellationToken, within: Duration) -> Body {
        let end = Box::pin(async move {
            drain.cancelled().await;
            tokio::time::sleep(within).await;
        });
        Body::new(Self { body, end, ended: false })
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.end.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.ended = true;
        let status = Status::unavailable("the server is stopping; the request was not complete");
        Poll::Ready(Some(Err(status)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
