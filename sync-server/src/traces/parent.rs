//! The trace that a caller says it is in (W3C Trace Context). Pure. Whatever is not as the standard
//! says, or longer than anybody needs, counts as not said.

use std::str::FromStr as _;

use hyper::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Which trace, and which span of it.
const TRACEPARENT: &str = "traceparent";
/// What other systems along the way want to find again.
const TRACESTATE: &str = "tracestate";

/// The one has 55 bytes; later versions of the standard may say more.
const PARENT_BYTES_MAX: usize = 256;
/// What the standard wants to be passed on of the other, and what a span costs at most for it.
const STATE_BYTES_MAX: usize = 512;

/// The span of a caller that sends these headers.
pub(crate) fn of_caller(headers: &HeaderMap) -> Option<SpanContext> {
    let mut said = headers.get_all(TRACEPARENT).iter();
    let header = said.next()?;
    // Two callers are none.
    if said.next().is_some() || header.len() > PARENT_BYTES_MAX {
        return None;
    }
    let (trace_id, span_id, flags) = parent(header.to_str().ok()?)?;
    Some(SpanContext::new(trace_id, span_id, flags, true, state(headers)))
}

/// What a header says; nothing if it is not as the standard says.
fn parent(header: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = header.split('-');
    let version = hex(parts.next()?, 2).filter(|version| *version != "ff")?;
    let trace_id = TraceId::from_hex(hex(parts.next()?, 32)?).ok()?;
    let span_id = SpanId::from_hex(hex(parts.next()?, 16)?).ok()?;
    let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
    // Later versions may say more.
    let whole = version != "00" || parts.next().is_none();
    let valid = whole && trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
    // Of the flags only one is understood.
    valid.then(|| (trace_id, span_id, TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

/// Lines of the same header are one list.
fn state(headers: &HeaderMap) -> TraceState {
    let mut list = String::new();
    for line in headers.get_all(TRACESTATE) {
        let Ok(line) = line.to_str() else { return TraceState::NONE };
        if list.len() + line.len() >= STATE_BYTES_MAX {
            return TraceState::NONE;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(line);
    }
    TraceState::from_str(&list).unwrap_or(TraceState::NONE)
}

fn hex(text: &str, length: usize) -> Option<&str> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && text.len() == length).then_some(text)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn said(headers: &[(&'static str, &str)]) -> Option<SpanContext> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        of_caller(&map)
    }

    /// G11: only what the standard allows is taken from a caller.
    #[test]
    fn only_a_well_formed_parent_counts() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let parent = said(&[(TRACEPARENT, &good)]).unwrap();
        assert_eq!((parent.trace_id().to_string(), parent.is_sampled()), (TRACE.to_owned(), true));
        assert_eq!((parent.span_id().to_string(), parent.is_remote()), (SPAN.to_owned(), true));
        let later = said(&[(TRACEPARENT, &format!("cc-{TRACE}-{SPAN}-fe-more"))]).unwrap();
        assert_eq!(later.trace_flags(), TraceFlags::NOT_SAMPLED);
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("{good}-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{TRACE} -{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-{}", "x".repeat(PARENT_BYTES_MAX)),
        ] {
            assert_eq!(said(&[(TRACEPARENT, &bad)]), None, "{bad}");
        }
        assert_eq!(said(&[(TRACEPARENT, &good), (TRACEPARENT, &good)]), None, "two are none");
    }

    /// What goes with it is bounded, and may be wrong without harm to the rest.
    #[test]
    fn the_state_of_a_trace_is_bounded() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let with = |states: &[&str]| {
            let states = states.iter().map(|state| (TRACESTATE, *state));
            let headers: Vec<_> =
                std::iter::once((TRACEPARENT, good.as_str())).chain(states).collect();
            said(&headers).unwrap().trace_state().header()
        };
        assert_eq!(with(&["a=1", "b=2,c=3"]), "a=1,b=2,c=3");
        let long = format!("a={}", "x".repeat(250));
        for bad in [vec!["no pair"], vec![&long, &long, &long]] {
            assert_eq!(with(&bad), "", "{bad:?}");
        }
    }
}
