//! The trace that a call is made in (W3C Trace Context), as the application tells it. The client
//! knows no system of traces, so it brings none along.

use std::fmt;
use std::sync::Arc;

use tonic::Request;

/// Where the application is in its trace, as the headers of the same names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// Which trace, and which span of it: `00-<trace id>-<span id>-<flags>`.
    pub traceparent: String,
    /// What systems of traces want to find again; mostly empty.
    pub tracestate: String,
}

/// Asks the application.
#[derive(Clone)]
pub(super) struct TraceSource(Arc<dyn Fn() -> Option<TraceContext> + Send + Sync>);

// === impl TraceSource ===

impl TraceSource {
    pub(super) fn new(ask: impl Fn() -> Option<TraceContext> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Tells the server. What is no header is not told: a trace is no reason for a call to fail.
    pub(super) fn tell<T>(&self, request: &mut Request<T>) {
        let Some(context) = (self.0)() else { return };
        let Ok(parent) = context.traceparent.parse() else {
            tracing::debug!("a traceparent is no header");
            return;
        };
        request.metadata_mut().insert("traceparent", parent);
        if let Ok(state) = context.tracestate.parse()
            && !context.tracestate.is_empty()
        {
            request.metadata_mut().insert("tracestate", state);
        }
    }
}

impl fmt::Debug for TraceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceSource")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be a header is left out, and the call is made without it.
    #[test]
    fn only_headers_are_told() {
        for (traceparent, tracestate, expected) in [
            ("00-1-2-01", "a=1", [Some("00-1-2-01"), Some("a=1")]),
            ("00-1-2-01", "", [Some("00-1-2-01"), None]),
            ("00-1-2-01", "a\n", [Some("00-1-2-01"), None]),
            ("00-1\n", "a=1", [None, None]),
        ] {
            let context =
                TraceContext { traceparent: traceparent.into(), tracestate: tracestate.into() };
            let mut request = Request::new(());
            TraceSource::new(move || Some(context.clone())).tell(&mut request);
            let told = ["traceparent", "tracestate"].map(|name| {
                request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned())
            });
            assert_eq!(told, expected.map(|value| value.map(str::to_owned)), "{traceparent:?}");
        }
        let mut request = Request::new(());
        TraceSource::new(|| None).tell(&mut request);
        assert!(request.metadata().is_empty());
    }
}
