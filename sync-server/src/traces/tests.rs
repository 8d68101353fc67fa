//! What spans say, and that there is room for so many and no more.

use super::*;

const CALL: &str = "deltasync.v1.SyncService/Pull";

fn parent(flags: u8) -> SpanContext {
    let (trace, span) = (TraceId::from(7), SpanId::from(9));
    let flags = opentelemetry::trace::TraceFlags::new(flags);
    SpanContext::new(trace, span, flags, true, opentelemetry::trace::TraceState::NONE)
}

fn said(span: &opentelemetry_sdk::trace::SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key.as_str() == key);
    found.map(|one| one.value.to_string())
}

/// The caller decides whether its trace is sampled; only without one the share counts.
#[test]
fn the_caller_decides_before_the_share() {
    for (per_mille, flags, expected) in
        [(0, Some(1), true), (1_000, Some(0), false), (0, None, false), (1_000, None, true)]
    {
        let (traces, _ended) = Traces::queued(per_mille, Metrics::off());
        let caller = flags.map(parent);
        let ids = traces.begin(CALL, caller.as_ref()).ids();
        assert_eq!(ids.is_some(), expected, "{per_mille} {flags:?}");
        if let (Some(caller), Some((trace, span))) = (caller, ids) {
            assert_eq!(trace, caller.trace_id());
            assert_ne!(span, caller.span_id());
        }
    }
    assert!(Traces::default().begin(CALL, Some(&parent(1))).ids().is_none(), "it is off");
}

/// A span ends with its last holder, and says how its call ended: a fault of ours is an error, a
/// refusal is none, and who does not wait for an answer has cancelled the call.
#[test]
fn a_span_ends_with_its_last_holder() {
    let (traces, mut ended) = Traces::queued(0, Metrics::off());
    let first = traces.begin(CALL, Some(&parent(1)));
    let second = first.clone();
    first.answered(0, None);
    drop(first);
    assert!(ended.try_recv().is_err(), "somebody holds it");
    second.answered(14, Some(Reason::Stopping));
    second.tell(Happening::Reset("BELOW_FLOOR"));
    second.ends("failed");
    drop(second);
    let span = ended.try_recv().unwrap();
    assert_eq!(span.status, Status::error(""));
    assert_eq!(said(&span, "rpc.response.status_code").as_deref(), Some("UNAVAILABLE"));
    assert_eq!(said(&span, "deltasync.reason").as_deref(), Some("STOPPING"));
    assert_eq!(said(&span, "deltasync.stream.end").as_deref(), Some("failed"));
    assert_eq!(span.events.events[0].name, "reset");

    let refused = traces.begin(CALL, Some(&parent(1)));
    refused.answered(7, Some(Reason::NotAllowed));
    drop(refused);
    assert_eq!(ended.try_recv().unwrap().status, Status::Unset);
    drop(traces.begin(CALL, Some(&parent(1))));
    let given_up = ended.try_recv().unwrap();
    assert_eq!(said(&given_up, "rpc.response.status_code").as_deref(), Some("CANCELLED"));
}

/// G8: whoever resets a thousand targets, and however many calls there are while nothing is sent,
/// what is kept has a bound, and what is dropped is counted.
#[test]
fn what_waits_is_bounded() {
    let metrics = Metrics::on();
    let (traces, mut ended) = Traces::queued(1_000, metrics.clone());
    let stream = traces.begin(CALL, None);
    for _ in 0..1_024 {
        stream.tell(Happening::Reset("FORCED"));
    }
    drop(stream);
    let span = ended.try_recv().unwrap();
    assert_eq!((span.events.events.len(), span.events.dropped_count), (32, 992));
    for _ in 0..2_048 + 5 {
        drop(traces.begin(CALL, None));
    }
    let page = metrics.render(&crate::metrics::Sample::default());
    assert!(page.contains("deltasync_spans_total{result=\"dropped\"} 5\n"), "{page}");
    let waiting = std::iter::from_fn(|| ended.try_recv().ok()).count();
    assert_eq!(waiting, 2_048);
}

/// G11: an address that cannot be one is named before anything starts.
#[test]
fn an_address_is_a_host_and_a_port() {
    for good in ["http://127.0.0.1:4317", "http://collector:4317/", "http://[::1]:4317"] {
        assert_eq!(wrong_with(good), None, "{good}");
    }
    for bad in [
        "collector:4317",
        "https://collector:4317",
        "http://me:word@collector:4317",
        "http://c:1/v1/traces",
        "http://c:1/?a",
        "/",
        "no address",
    ] {
        assert!(wrong_with(bad).is_some(), "{bad}");
    }
}
