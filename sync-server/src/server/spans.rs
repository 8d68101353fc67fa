//! A span for each call in the log: which call it is, and where it is found in the trace of its
//! caller, so that what is logged about it, also by the task of its stream, can be found from there.

use opentelemetry::trace::SpanContext;
use tracing::Span;
use tracing::field::{Empty, display};

use crate::auth::methods::METHODS;
use crate::traces::CallTrace;

/// The name of a call; a path that strangers made up is told to nobody.
pub(super) fn name_of(path: &str) -> &'static str {
    let known = METHODS.iter().find(|(known, _)| *known == path);
    known.map_or("unknown", |(known, _)| known.trim_start_matches('/'))
}

/// The span of a call in the log.
pub(super) fn of_call(
    call: &'static str,
    parent: Option<&SpanContext>,
    traced: &CallTrace,
) -> Span {
    let span = tracing::info_span!(
        "call",
        call,
        trace_id = Empty,
        parent_span_id = Empty,
        span_id = Empty
    );
    if let Some(parent) = parent {
        span.record("trace_id", display(parent.trace_id()));
        span.record("parent_span_id", display(parent.span_id()));
    }
    if let Some((trace_id, span_id)) = traced.ids() {
        if parent.is_none() {
            span.record("trace_id", display(trace_id));
        }
        span.record("span_id", display(span_id));
    }
    span
}
