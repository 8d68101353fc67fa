//! What holds for every call, whichever service answers it: who calls is known before anything of
//! the request is read; what the call holds for its peer is claimed first (`upload`, `reply`); and
//! the server waits for it before it ends, if it has begun before.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use http_body::Body as _;
use sync_proto::types::Reason;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response, Version, header};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::about::About;
use super::connections::Peer;
use super::reply::Reply;
use super::spans;
use super::upload::{Shape, Upload, UploadBounds};
use crate::admission::Held;
use crate::auth::jwt::TOKEN_LEN_MAX;
use crate::auth::methods::{Rule, rule_of};
use crate::auth::principal::Credentials;
use crate::auth::{Access, AccessError, Caller};
use crate::budget::Weight;
use crate::metrics::Metrics;
use crate::rpc::outbox::Outgoing;
use crate::status;
use crate::traces::{CallTrace, Traces, parent};

/// Length of a header with credentials: a word, and the longest token that is believed.
const CREDENTIALS_LEN_MAX: usize = 16 + TOKEN_LEN_MAX;

/// Counts calls, knows who makes them, bounds what they hold, and refuses new ones when the server
/// stops.
#[derive(Debug, Clone)]
pub(super) struct CallsLayer {
    /// Calls that have not been answered.
    pub(super) open: TaskTracker,
    /// Who may call.
    pub(super) access: Access,
    /// Calls about the server itself.
    pub(super) about: About,
    /// How requests must arrive.
    pub(super) uploads: UploadBounds,
    /// Counts what is refused.
    pub(super) metrics: Metrics,
    /// Tells what becomes of calls, if somebody wants to know.
    pub(super) traces: Traces,
}

/// All services, behind a [`CallsLayer`].
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    inner: S,
    layer: CallsLayer,
}

/// A call that has not been answered.
struct Unanswered {
    metrics: Metrics,
    /// Until it is.
    path: Option<String>,
    began: Instant,
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
        let (began, path) = (Instant::now(), request.uri().path().to_owned());
        let peer = request.extensions().get::<Peer>().cloned();
        let reached = |rule: &Rule| peer.as_ref().is_none_or(|peer| peer.reach().has(*rule));
        let rule = rule_of(&path).filter(reached);
        let asked = peer.as_ref().map(|peer| {
            request.extensions_mut().insert(peer.number());
            peer.opens()
        });
        // Count first, ask then: a call that is not refused is waited for.
        let open = self.layer.open.token();
        match self.layer.admit(rule, &request, peer.as_ref()) {
            Ok(Some(caller)) => drop(request.extensions_mut().insert(caller)),
            Ok(None) => {}
            Err(refusal) => {
                let refused = self.layer.refuse(&path, request.headers(), refusal, began);
                return Box::pin(std::future::ready(Ok(refused)));
            }
        }
        // Health is told to the end, and those who watch it or reflect have nothing to lose.
        let about = rule.filter(|rule| matches!(rule, Rule::Open | Rule::Known));
        let peer = match (peer, about) {
            (Some(peer), None) => peer,
            (Some(peer), Some(rule)) => return self.tell(rule, &peer, request, began),
            // Only in tests: what has no connection has no bounds of one.
            (None, _) => return Box::pin(self.inner.call(request)),
        };
        let weight = request.extensions().get().copied().unwrap_or(Weight::PLAIN);
        let account = peer.account().weighing(weight);
        let shape = Shape::of(&path);
        let held = Held::default();
        request.extensions_mut().insert(Arc::clone(&account));
        request.extensions_mut().insert(held.clone());
        let resets = request.version() == Version::HTTP_2;
        let request = request.map(|body| {
            let uploads = self.layer.uploads.clone();
            Body::new(Upload::new((body, resets), shape, account, held.clone(), uploads))
        });
        let (span, traced) = self.layer.begin(&path, request.headers());
        let mut request = request;
        if traced.ids().is_some() {
            request.extensions_mut().insert(traced.clone());
        }
        let call = span.in_scope(|| self.inner.call(request));
        let metrics = self.layer.metrics.clone();
        let unanswered = Unanswered { metrics, path: Some(path), began };
        let answered = async move {
            let mut answer = call.await?;
            unanswered.answered(&mut answer, &traced);
            // Before it counts as answered: the end waits for that, and sends the last spans then.
            drop(traced);
            drop(open);
            // What the request claims is claimed until now.
            let room = held.answered();
            if let Some(outgoing) = answer.extensions_mut().remove::<Outgoing>() {
                return Ok(answer.map(|_| outgoing.into_body(asked)));
            }
            Ok(match room {
                Some(claim) if !answer.body().is_end_stream() => {
                    answer.map(|body| Body::new(Reply::new(body, claim, asked)))
                }
                // A refusal, which is all in the head of the answer.
                Some(_) | None => answer,
            })
        };
        Box::pin(answered.instrument(span))
    }
}

impl<S> Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    /// Answers a call about the server itself.
    fn tell(
        &mut self,
        rule: Rule,
        peer: &Peer,
        request: Request<Body>,
        began: Instant,
    ) -> <Self as Service<Request<Body>>>::Future {
        let about = self.layer.about.clone();
        match about.place(rule, request.uri().path(), peer.address()) {
            Ok(place) => {
                let answering = self.inner.call(request);
                Box::pin(async move { about.answer(place, answering).await })
            }
            Err(refusal) => {
                let path = request.uri().path().to_owned();
                let refused = self.layer.refuse(&path, request.headers(), refusal, began);
                Box::pin(std::future::ready(Ok(refused)))
            }
        }
    }
}

// === impl CallsLayer ===

impl CallsLayer {
    /// What is told of a call, in the log and in the trace of its caller.
    fn begin(&self, path: &str, headers: &HeaderMap) -> (tracing::Span, CallTrace) {
        let (call, parent) = (spans::name_of(path), parent::of_caller(headers));
        let traced = self.traces.begin(call, parent.as_ref());
        (spans::of_call(call, parent.as_ref(), &traced), traced)
    }

    /// Refuses a call by its head alone. Who is nobody causes no span.
    fn refuse(
        &self,
        path: &str,
        headers: &HeaderMap,
        refusal: Status,
        began: Instant,
    ) -> Response<Body> {
        let (code, reason) = (refusal.code(), status::reason_of(&refusal));
        if code == Code::Unauthenticated {
            note(&self.metrics, path, code, reason, began);
        } else {
            let (span, traced) = self.begin(path, headers);
            span.in_scope(|| note(&self.metrics, path, code, reason, began));
            traced.answered(code.into(), reason);
        }
        refusal.into_http()
    }

    /// Whether the call may begin, judged by its head alone, and who makes it; nobody in
    /// particular if that does not matter.
    fn admit(
        &self,
        rule: Option<Rule>,
        request: &Request<Body>,
        peer: Option<&Peer>,
    ) -> Result<Option<Caller>, Status> {
        if rule == Some(Rule::Open) {
            return Ok(None);
        }
        if self.uploads.drain.is_cancelled() {
            return Err(status::stopping("the server is stopping"));
        }
        let caller = self.access.identify(shown(request, peer)).map_err(status::access)?;
        // Also what the services may offer beyond the rules is not there.
        let rule =
            rule.ok_or_else(|| status::refused(Reason::NoSuchCall, "there is no such call"))?;
        let rights = caller.rights().map_err(status::access)?;
        if !rule.lets_begin(&rights) {
            return Err(status::access(AccessError::Denied));
        }
        Ok(Some(caller))
    }
}

// === impl Unanswered ===

impl Unanswered {
    /// Takes note of how the call was answered, and completes an error.
    fn answered(mut self, answer: &mut Response<Body>, traced: &CallTrace) {
        let status = Status::from_header_map(answer.headers());
        if let Some(completed) = status.as_ref().and_then(status::completed)
            && completed.add_header(answer.headers_mut()).is_err()
        {
            tracing::debug!("the details of an error are no header");
        }
        let reason = Status::from_header_map(answer.headers());
        let reason = reason.as_ref().and_then(status::reason_of);
        let code = status.map_or(Code::Ok, |status| status.code());
        if let Some(path) = self.path.take() {
            note(&self.metrics, &path, code, reason, self.began);
        }
        traced.answered(code.into(), reason);
    }
}

impl Drop for Unanswered {
    /// Whoever called has reset the call, or its connection is gone; or the server has a fault.
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let (code, reason) = if std::thread::panicking() {
                (Code::Internal, Some(Reason::Internal))
            } else {
                (Code::Cancelled, Some(Reason::CallerGone))
            };
            note(&self.metrics, path, code, reason, self.began);
        }
    }
}

fn note(metrics: &Metrics, path: &str, code: Code, reason: Option<Reason>, began: Instant) {
    let (code, took) = (code.into(), began.elapsed());
    metrics.erred(reason);
    metrics.refused(code);
    metrics.answered(path, code, took);
    tracing::debug!(code, reason = reason.map(Reason::as_str), ?took, "answered");
}

/// What a request shows of its caller.
fn shown(request: &Request<Body>, peer: Option<&Peer>) -> Credentials {
    let header = request.headers().get(header::AUTHORIZATION);
    // A header that is no text is shown all the same: it is not as if there were none.
    let header = header.map(|value| value.to_str().unwrap_or_default().trim());
    // Kept for as long as the call lasts, so it has a bound; none that is longer is known.
    let header = header.map(|value| if value.len() > CREDENTIALS_LEN_MAX { "" } else { value });
    let certificates = peer.and_then(Peer::certificates);
    Credentials { certificates, ..Credentials::of_header(header) }
}
