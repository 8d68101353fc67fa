//! A collector of spans (OTLP over gRPC) in the test's own process, as OpenTelemetry's own messages
//! say it: it takes them, or never answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
pub use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::wait::until;

/// A collector. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    seen: Arc<Seen>,
    _end: DropGuard,
}

/// What it was told.
#[derive(Debug, Default)]
struct Seen {
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    connections: AtomicUsize,
    attempts: AtomicUsize,
}

struct Service {
    seen: Arc<Seen>,
    answers: bool,
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.seen.attempts.fetch_add(1, Ordering::Relaxed);
        if !self.answers {
            return std::future::pending().await;
        }
        self.seen.requests.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

// === impl Collector ===

impl Collector {
    /// One that takes what it is sent.
    pub async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), true).await
    }

    /// One that lets everybody connect and answers nobody.
    pub async fn hanging() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), false).await
    }

    /// One at this address, which must be free.
    pub async fn at(address: SocketAddr, answers: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, end) = (Arc::<Seen>::default(), CancellationToken::new());
        let service = TraceServiceServer::new(Service { seen: Arc::clone(&seen), answers });
        let counted = Arc::clone(&seen);
        let incoming = TcpListenerStream::new(listener).inspect(move |_| {
            counted.connections.fetch_add(1, Ordering::Relaxed);
        });
        let ended = end.clone();
        TaskTracker::new().spawn(async move {
            let serving = tonic::transport::Server::builder().add_service(service);
            tokio::select! {
                () = ended.cancelled() => {}
                served = serving.serve_with_incoming(incoming) => served.unwrap(),
            }
        });
        Self { address, seen, _end: end.drop_guard() }
    }

    /// Its address as servers are told it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often somebody has connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// How often somebody has tried to tell it something.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.seen.attempts.load(Ordering::Relaxed)
    }

    /// Everything that it was told, as text.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{:#?}", self.seen.requests.lock())
    }

    /// What it was told of the server itself.
    #[must_use]
    pub fn resource(&self, key: &str) -> Option<String> {
        let requests = self.seen.requests.lock();
        let resource = requests.first()?.resource_spans.first()?.resource.clone()?;
        said(&resource.attributes, key)
    }

    /// All spans that it has, in the order in which they came.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let requests = self.seen.requests.lock();
        let scopes = requests.iter().flat_map(|one| &one.resource_spans);
        scopes.flat_map(|one| &one.scope_spans).flat_map(|one| &one.spans).cloned().collect()
    }

    /// The first span of this call, as soon as there is one.
    pub async fn span(&self, call: &str) -> Span {
        let found = || self.spans().into_iter().find(|span| span.name.ends_with(call));
        until(call, async || found()).await
    }
}

/// What a span says under this name.
#[must_use]
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    said(&span.attributes, key)
}

/// Names and words of the events of a span.
#[must_use]
pub fn events(span: &Span) -> Vec<(String, Option<String>)> {
    let word = |attributes: &[KeyValue]| text(attributes.first()?.value.as_ref()?);
    span.events.iter().map(|event| (event.name.clone(), word(&event.attributes))).collect()
}

fn said(attributes: &[KeyValue], key: &str) -> Option<String> {
    text(attributes.iter().find(|one| one.key == key)?.value.as_ref()?)
}

fn text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(_)
        | Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => None,
    }
}
