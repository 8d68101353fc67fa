//! Who waits for room in a budget, or for a turn: what back-pressure looks like from outside.

use ::metrics::{Gauge, Label, Recorder};

use super::{as_f64, labelled_gauge};

/// How many wait, by what for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Calls for room to begin.
    pub calls: u64,
    /// Requests for room to arrive.
    pub requests: u64,
    /// Answers for room to be made.
    pub replies: u64,
    /// The same of first loads and reconciliations.
    pub loads: u64,
    /// Messages of subscriptions for room to be made.
    pub pages: u64,
    /// Reads of the store for their turn.
    pub reads: u64,
}

/// One of them.
type Of = fn(&Waiting) -> u64;

/// A gauge for each of them.
pub(super) struct Gauges(Vec<(Of, Gauge)>);

// === impl Gauges ===

impl Gauges {
    pub(super) fn new(recorder: &dyn Recorder) -> Self {
        let gauge = |what| {
            labelled_gauge(recorder, "deltasync_waiting", Label::from_static_parts("for", what))
        };
        Self(vec![
            (|waiting| waiting.calls, gauge("calls")),
            (|waiting| waiting.requests, gauge("requests")),
            (|waiting| waiting.replies, gauge("replies")),
            (|waiting| waiting.loads, gauge("loads")),
            (|waiting| waiting.pages, gauge("pages")),
            (|waiting| waiting.reads, gauge("reads")),
        ])
    }

    pub(super) fn take(&self, waiting: &Waiting) {
        for (of, gauge) in &self.0 {
            gauge.set(as_f64(of(waiting)));
        }
    }
}
