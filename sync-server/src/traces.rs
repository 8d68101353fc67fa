//! Spans of calls, for a collector if there is one: where they are made and what they say. Sending
//! them is `server::collector`; nothing here waits for it. A span says fixed words and numbers only:
//! no name of a collection, no key, value, token or subject (G10).

use std::sync::Arc;

use hyper::Uri;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{RandomIdGenerator, Sampler, SdkTracer, SdkTracerProvider, Span};
use parking_lot::Mutex;
use sync_proto::types::Reason;

use self::queue::{Ended, Queue};
use crate::metrics::Metrics;

pub(crate) mod parent;
pub(crate) mod queue;

#[cfg(test)]
mod tests;

/// Events of a span: a stream may be reset in every target, and lives for an hour.
const EVENTS_MAX: u32 = 32;
/// Attributes of a span, and of an event: more than there are.
const ATTRIBUTES_MAX: u32 = 16;

/// Bytes of the name of the service.
pub(crate) const SERVICE_NAME_LEN_MAX: usize = 128;

/// Codes of `google.rpc.Code`, as OpenTelemetry writes them.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Those that are the fault of a server; the others are its caller's.
const FAULTS: [&str; 6] =
    ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

/// What becomes of a call that nobody waits for any more.
const CANCELLED: i32 = 1;

/// Makes spans; off, it costs nothing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(Option<SdkTracer>);

/// The span of a call, if it is traced. Clones are the same span; it ends with the last of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallTrace(Option<Arc<Mutex<Traced>>>);

/// What happens on a stream, beside the changes that it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    /// It was accepted, with so many targets.
    Opened(usize),
    /// A target cannot be continued, for this reason.
    Reset(&'static str),
    /// A target is behind, and the subscriber does not make room.
    Lagging,
    /// A target may not be read any more.
    Revoked,
}

/// A span, and what is known of its end only then.
#[derive(Debug)]
struct Traced {
    span: Span,
    answer: Option<(i32, Option<Reason>)>,
    end: Option<&'static str>,
}

/// Why spans cannot be sent to `endpoint`; nothing if they can.
pub(crate) fn wrong_with(endpoint: &str) -> Option<&'static str> {
    let Ok(uri) = endpoint.parse::<Uri>() else { return Some("is no address") };
    if uri.scheme_str() != Some("http") {
        return Some("must begin with http://: a collector close by speaks TLS to others");
    }
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return Some("names no host");
    };
    // It is printed and logged.
    if authority.as_str().contains('@') {
        return Some("must not hold credentials");
    }
    (uri.path() != "/" || uri.query().is_some())
        .then_some("must be a host and a port, without a path")
}

// === impl Traces ===

impl Traces {
    /// Spans end in the queue that is returned. Of the traces that begin here so many of a thousand
    /// are sampled; of others, those that the caller says.
    pub(crate) fn queued(per_mille: u32, metrics: Metrics) -> (Self, Ended) {
        let (queue, ended) = Queue::new(metrics);
        let share = Sampler::TraceIdRatioBased(f64::from(per_mille) / 1_000.0);
        // All of them: what is not said here is taken from variables of the environment.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(share)))
            .with_id_generator(RandomIdGenerator::default())
            .with_max_events_per_span(EVENTS_MAX)
            .with_max_attributes_per_span(ATTRIBUTES_MAX)
            .with_max_attributes_per_event(ATTRIBUTES_MAX)
            .with_max_links_per_span(0)
            .with_resource(Resource::builder_empty().build())
            .with_span_processor(queue)
            .build();
        (Self(Some(provider.tracer("sync-server"))), ended)
    }

    /// Begins the span of a call.
    pub(crate) fn begin(&self, call: &'static str, parent: Option<&SpanContext>) -> CallTrace {
        let Some(tracer) = &self.0 else { return CallTrace::default() };
        let context = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent.clone())
        });
        let builder = SpanBuilder::from_name(call).with_kind(SpanKind::Server);
        let mut span = tracer.build_with_context(builder, &context);
        if !span.is_recording() {
            return CallTrace::default();
        }
        span.set_attribute(KeyValue::new("rpc.system.name", "grpc"));
        span.set_attribute(KeyValue::new("rpc.method", call));
        CallTrace(Some(Arc::new(Mutex::new(Traced { span, answer: None, end: None }))))
    }
}

// === impl CallTrace ===

impl CallTrace {
    /// Where the span is found, if it is traced.
    pub(crate) fn ids(&self) -> Option<(TraceId, SpanId)> {
        let traced = self.0.as_ref()?.lock();
        let context = traced.span.span_context();
        Some((context.trace_id(), context.span_id()))
    }

    /// The call was answered so; of a stream the last answer counts.
    pub(crate) fn answered(&self, code: i32, reason: Option<Reason>) {
        if let Some(traced) = &self.0 {
            traced.lock().answer = Some((code, reason));
        }
    }

    /// Something happened on a stream.
    pub(crate) fn tell(&self, what: Happening) {
        let Some(traced) = &self.0 else { return };
        let (name, said) = match what {
            Happening::Opened(targets) => {
                let targets = i64::try_from(targets).unwrap_or(i64::MAX);
                ("opened", Some(KeyValue::new("deltasync.targets", targets)))
            }
            Happening::Reset(reason) => ("reset", Some(KeyValue::new("deltasync.reason", reason))),
            Happening::Lagging => ("lagging", None),
            Happening::Revoked => ("revoked", None),
        };
        traced.lock().span.add_event(name, said.into_iter().collect());
    }

    /// The stream ends, because of this.
    pub(crate) fn ends(&self, why: &'static str) {
        if let Some(traced) = &self.0 {
            traced.lock().end = Some(why);
        }
    }
}

// === impl Traced ===

impl Drop for Traced {
    fn drop(&mut self) {
        let (code, reason) = self.answer.unwrap_or((CANCELLED, None));
        let unknown = "UNKNOWN";
        let code = usize::try_from(code).ok().and_then(|code| CODES.get(code)).unwrap_or(&unknown);
        self.span.set_attribute(KeyValue::new("rpc.response.status_code", *code));
        if let Some(reason) = reason {
            self.span.set_attribute(KeyValue::new("deltasync.reason", reason.as_str()));
        }
        if let Some(end) = self.end {
            self.span.set_attribute(KeyValue::new("deltasync.stream.end", end));
        }
        if FAULTS.contains(code) {
            self.span.set_attribute(KeyValue::new("error.type", *code));
            self.span.set_status(Status::error(""));
        }
        self.span.end();
    }
}
