//! A span for each call: which call it is, and the trace of the caller that it belongs to (W3C Trace
//! Context), so that what is logged about it, also by the task of its stream, can be found from there.

use tonic::codegen::http::HeaderMap;
use tracing::Span;
use tracing::field::Empty;

use crate::auth::methods::METHODS;

/// The header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";

/// The trace and the span of a caller.
#[derive(Debug, PartialEq, Eq)]
struct Parent<'a> {
    trace_id: &'a str,
    span_id: &'a str,
}

/// The span of a call that is made with these headers.
pub(super) fn of_call(path: &str, headers: &HeaderMap) -> Span {
    // A path that strangers made up is not logged.
    let known = METHODS.iter().find(|(known, _)| *known == path);
    let call = known.map_or("unknown", |(known, _)| known.trim_start_matches('/'));
    let span = tracing::info_span!("call", call, trace_id = Empty, parent_span_id = Empty);
    let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    if let Some(Parent { trace_id, span_id }) = header.and_then(parent) {
        span.record("trace_id", trace_id).record("parent_span_id", span_id);
    }
    span
}

/// What a header says; nothing if it is not as the standard says.
fn parent(header: &str) -> Option<Parent<'_>> {
    let mut parts = header.split('-');
    let version = hex(parts.next()?, 2).filter(|version| *version != "ff")?;
    let not_zero = |id: &&str| id.bytes().any(|digit| digit != b'0');
    let trace_id = hex(parts.next()?, 32).filter(not_zero)?;
    let span_id = hex(parts.next()?, 16).filter(not_zero)?;
    hex(parts.next()?, 2)?;
    // Later versions may say more.
    let whole = version != "00" || parts.next().is_none();
    whole.then_some(Parent { trace_id, span_id })
}

fn hex(text: &str, length: usize) -> Option<&str> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && text.len() == length).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G11: only what the standard allows is taken from a caller into the log.
    #[test]
    fn only_a_well_formed_parent_counts() {
        let (trace_id, span_id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let good = format!("00-{trace_id}-{span_id}-01");
        assert_eq!(parent(&good), Some(Parent { trace_id, span_id }));
        assert!(parent(&format!("cc-{trace_id}-{span_id}-01-more")).is_some());
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("{good}-more"),
            format!("ff-{trace_id}-{span_id}-01"),
            format!("00-{zeros}-{span_id}-01"),
            format!("00-{trace_id}-0000000000000000-01"),
            format!("00-{}-{span_id}-01", trace_id.to_uppercase()),
            format!("00-{trace_id}-{span_id}"),
            format!("00-{trace_id} -{span_id}-01"),
            format!("0-{trace_id}-{span_id}-01"),
        ] {
            assert_eq!(parent(&bad), None, "{bad}");
        }
    }
}
