//! Spans that have ended and wait to be sent: a queue with a bound, at which whatever comes is
//! dropped and counted. Nobody ever waits for it.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;

use crate::metrics::{Metrics, SpanResult};

/// Spans that wait: a collector that is away for a moment loses none, one that is away for long
/// costs a few megabytes.
const QUEUE_LEN_MAX: usize = 2_048;

/// Where spans end.
#[derive(Debug)]
pub(super) struct Queue {
    ended: mpsc::Sender<SpanData>,
    metrics: Metrics,
}

/// The spans that have ended.
pub(crate) type Ended = mpsc::Receiver<SpanData>;

// === impl Queue ===

impl Queue {
    pub(super) fn new(metrics: Metrics) -> (Self, Ended) {
        let (ended, waiting) = mpsc::channel(QUEUE_LEN_MAX);
        (Self { ended, metrics }, waiting)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.ended.try_send(span).is_err() {
            self.metrics.spans(SpanResult::Dropped, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
