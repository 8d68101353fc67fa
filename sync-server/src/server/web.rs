//! gRPC-Web, which pages in a browser speak, as gRPC: outermost of all that calls pass through, so
//! whatever holds for a call of gRPC holds for one from a page. A codec of our own, because the
//! usual one copies what it puts into base64 outside of every budget.
//!
//! ```text
//! request ─► of gRPC ─────────────────────────────────────► passed on as it is
//!        ├─► of gRPC-Web, by a page that may or by no page ─► as gRPC ─► the answer as gRPC-Web
//!        ├─► a browser asks whether a page may call ───────► told so
//!        └─► anything else, or a page that may not ────────► refused, nothing of it is done
//! ```

use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either};
use http_body_util::Full;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use tower::{Layer, Service};

use self::coding::{Answer, Coding, Unread};
use super::connections::Peer;
use crate::budget::Weight;
use crate::metrics::Metrics;
use crate::requests::OpenRequest;
use crate::security::origins::Origins;

mod coding;
pub(super) mod heads;

/// Headers of an answer that a page may read.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// Headers that a page may send.
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, traceparent, tracestate, x-grpc-web, x-user-agent",
);

/// A browser need not ask again for so long, in seconds. None keeps it for longer.
const ASKED_FOR_S: HeaderValue = HeaderValue::from_static("7200");

/// Puts gRPC-Web before all services, or nothing.
#[derive(Debug, Clone)]
pub(super) struct WebLayer {
    pages: Option<Origins>,
    metrics: Metrics,
}

/// All services, behind a [`WebLayer`].
#[derive(Debug, Clone)]
pub(super) struct Web<S> {
    inner: S,
    layer: WebLayer,
}

/// What a request is.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// A call of gRPC.
    Call,
    /// One of gRPC-Web.
    WebCall { request: Coding, answer: Coding },
    /// Whether a page may call.
    Preflight,
    /// Nothing that is answered here.
    Refused(StatusCode, &'static str),
}

// === impl WebLayer ===

impl WebLayer {
    /// Lets these pages call; `None` = gRPC-Web is off.
    pub(super) fn new(pages: Option<Origins>, metrics: Metrics) -> Self {
        Self { pages, metrics }
    }
}

impl<S> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Web<S> {
        Web { inner, layer: self.clone() }
    }
}

// === impl Web ===

impl<S> Service<Request<Body>> for Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(pages) = &self.layer.pages else {
            return Either::Left(self.inner.call(request));
        };
        let asked = Asked::by(&request, pages);
        let open = request.extensions().get::<Peer>().map(Peer::opens);
        let (page, version) = (request.headers().get(header::ORIGIN).cloned(), request.version());
        let (told, unread) = match asked {
            Asked::Call => return Either::Left(self.inner.call(request)),
            Asked::WebCall { request: coding, answer } => {
                let unread = Unread::default();
                let answered = self.inner.call(as_grpc(request, coding, answer, unread.clone()));
                return Either::Right(Box::pin(async move {
                    let answered = answered.await?;
                    if version != Version::HTTP_2 {
                        unread.discard().await;
                    }
                    Ok(as_web(answered, answer, page, open))
                }));
            }
            Asked::Preflight => (permission(page), Unread::default()),
            Asked::Refused(status, text) => {
                tracing::debug!(%status, text, "what is no call is refused");
                if status == StatusCode::FORBIDDEN {
                    self.layer.metrics.refused(Code::PermissionDenied.into());
                }
                (refusal(status, text, version), Unread::all(request.into_body()))
            }
        };
        Either::Right(Box::pin(async move {
            unread.discard().await;
            Ok(told.map(|body| Body::new(Answer::new(body, Coding::Binary, open))))
        }))
    }
}

// === impl Asked ===

impl Asked {
    /// Judged by the head alone. A page that may not call is refused whatever else it asks; its
    /// browser would only keep the answer from it.
    fn by(request: &Request<Body>, pages: &Origins) -> Self {
        let (headers, method) = (request.headers(), request.method());
        let coding = headers.get(header::CONTENT_TYPE).and_then(Coding::of);
        let may_be_grpc = coding.is_none() && method != Method::OPTIONS;
        if may_be_grpc && request.version() == Version::HTTP_2 {
            return Self::Call;
        }
        if headers.get(header::ORIGIN).is_some_and(|page| !pages.allow(page.as_bytes())) {
            return Self::Refused(
                StatusCode::FORBIDDEN,
                "grpc_web_origins: pages of this origin may not call\n",
            );
        }
        let asks = headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        match coding {
            Some(request) if method == Method::POST => {
                let answer = headers.get(header::ACCEPT).and_then(Coding::of).unwrap_or(request);
                Self::WebCall { request, answer }
            }
            None if method == Method::OPTIONS && asks => Self::Preflight,
            None if method == Method::POST => Self::Refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "over HTTP/1.1 only application/grpc-web+proto and -text+proto are spoken\n",
            ),
            Some(_) | None => Self::Refused(StatusCode::METHOD_NOT_ALLOWED, "calls are POST\n"),
        }
    }
}

/// The same request, as gRPC has it.
fn as_grpc(
    request: Request<Body>,
    coding: Coding,
    answer: Coding,
    unread: Unread,
) -> Request<Body> {
    let mut request = request.map(|body| Body::new(coding::Request::new(body, coding, unread)));
    if answer == Coding::Base64 {
        request.extensions_mut().insert(Weight::AND_BASE64);
    }
    let headers = request.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// The answer, as gRPC-Web has it; a page that called may read it.
fn as_web(
    answer: Response<Body>,
    coding: Coding,
    page: Option<HeaderValue>,
    open: Option<OpenRequest>,
) -> Response<Body> {
    let mut answer = answer.map(|body| Body::new(Answer::new(body, coding, open)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, coding.media_type());
    allow(headers, page, header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    answer
}

/// What a browser is told that asks for a page which may call.
fn permission(page: Option<HeaderValue>) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, ASKED_FOR_S);
    allow(headers, page, header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
    answer
}

fn allow(headers: &mut HeaderMap, page: Option<HeaderValue>, name: HeaderName, these: HeaderValue) {
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(page) = page {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
        headers.insert(name, these);
    }
}

/// Without a permission: no page may read this.
fn refusal(status: StatusCode, text: &'static str, version: Version) -> Response<Body> {
    let mut answer = Response::new(Body::new(Full::from(text)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    }
    // What follows on the connection is nothing that is waited for.
    if version != Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
