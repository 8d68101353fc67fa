//! What readers ask for, what they are sent and how soon: calls, streams, bytes, repairs;
//! and the spans of calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::metrics::{Gauge, Histogram, Key, Label, Recorder};
use sync_proto::types::Timestamp;

use super::labels::{CallResult, Labelled, RepairReader, SentKind, SpanResult, SubscriberState};
use super::{ByLabel, METADATA, Metrics, as_f64, histogram, labelled_gauge};
use crate::auth::methods::METHODS;

/// What the paths of our calls begin with.
const PACKAGE: &str = "/deltasync.v1.";

/// Handles of what is sent.
pub(super) struct Traffic {
    calls: BTreeMap<&'static str, CallHandles>,
    sent: ByLabel<SentKind, 3>,
    repairs: ByLabel<RepairReader, 3>,
    delivered: Histogram,
    applied: Histogram,
    subscribers: Arc<Subscribers>,
    subscriber_gauges: Vec<Gauge>,
    spans: ByLabel<SpanResult, 3>,
}

struct CallHandles {
    results: ByLabel<CallResult, 6>,
    seconds: Histogram,
}

/// How many streams are in each state.
#[derive(Debug, Default)]
struct Subscribers([AtomicU64; 3]);

/// A stream that is counted, in the state that it is in, until it is dropped.
#[derive(Debug)]
pub struct Presence {
    subscribers: Arc<Subscribers>,
    state: SubscriberState,
}

// === impl Traffic ===

impl Traffic {
    pub(super) fn new(recorder: &dyn Recorder) -> Self {
        let ours = METHODS.iter().filter_map(|(path, _)| Some((*path, call_of(path)?)));
        let handles = |(path, call)| {
            let label = Label::new("call", call);
            let key = Key::from_parts("deltasync_call_seconds", vec![label.clone()]);
            let results = ByLabel::new(recorder, "deltasync_calls_total", "result", Some(&label));
            (path, CallHandles { results, seconds: recorder.register_histogram(&key, &METADATA) })
        };
        let gauge = |(_, state): &(SubscriberState, &'static str)| {
            labelled_gauge(recorder, "deltasync_subscribers", Label::new("state", *state))
        };
        Self {
            calls: ours.map(handles).collect(),
            sent: ByLabel::new(recorder, "deltasync_sent_bytes_total", "kind", None),
            repairs: ByLabel::new(recorder, "deltasync_repairs_total", "reader", None),
            delivered: histogram(recorder, "deltasync_delivered_seconds"),
            applied: histogram(recorder, "deltasync_applied_seconds"),
            subscribers: Arc::default(),
            subscriber_gauges: SubscriberState::ALL.iter().map(gauge).collect(),
            spans: ByLabel::new(recorder, "deltasync_spans_total", "result", None),
        }
    }

    /// Shows how many streams are in each state now.
    pub(super) fn look(&self) {
        for (gauge, count) in self.subscriber_gauges.iter().zip(&self.subscribers.0) {
            gauge.set(as_f64(count.load(Ordering::Relaxed)));
        }
    }
}

/// The label of one of our calls, e.g. `SyncService/Pull`.
fn call_of(path: &'static str) -> Option<&'static str> {
    path.strip_prefix(PACKAGE)
}

// === impl Metrics ===

impl Metrics {
    /// A call was answered with this code, or its stream has begun.
    pub fn answered(&self, path: &str, code: i32, took: Duration) {
        if let Some(call) = self.handles.traffic.calls.get(path) {
            call.results.count(CallResult::of(code));
            call.seconds.record(took);
        }
    }

    /// So many bytes of changes, or of rounds, are sent.
    pub fn sent(&self, kind: SentKind, bytes: u64) {
        self.handles.traffic.sent.add(kind, bytes);
    }

    /// A reader begins to reconcile.
    pub fn repairs(&self, reader: RepairReader) {
        self.handles.traffic.repairs.count(reader);
    }

    /// The newest of what a stream sends was committed then.
    pub fn delivered(&self, committed: Timestamp, now: Timestamp) {
        self.handles.traffic.delivered.record(between(committed, now));
    }

    /// A client has applied what was committed then.
    pub fn applied(&self, committed: Timestamp, now: Timestamp) {
        self.handles.traffic.applied.record(between(committed, now));
    }

    /// So many spans ended so.
    pub fn spans(&self, result: SpanResult, count: usize) {
        self.handles.traffic.spans.add(result, count as u64);
    }

    /// Counts a stream.
    #[must_use]
    pub fn subscriber(&self) -> Presence {
        let subscribers = Arc::clone(&self.handles.traffic.subscribers);
        let state = SubscriberState::Live;
        subscribers.of(state).fetch_add(1, Ordering::Relaxed);
        Presence { subscribers, state }
    }
}

fn between(committed: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(now.as_millis().saturating_sub(committed.as_millis()))
}

// === impl Subscribers ===

impl Subscribers {
    fn of(&self, state: SubscriberState) -> &AtomicU64 {
        let [live, lagging, parked] = &self.0;
        match state {
            SubscriberState::Live => live,
            SubscriberState::Lagging => lagging,
            SubscriberState::Parked => parked,
        }
    }
}

// === impl Presence ===

impl Presence {
    /// The stream is in this state now.
    pub fn is(&mut self, state: SubscriberState) {
        if state != self.state {
            self.subscribers.of(self.state).fetch_sub(1, Ordering::Relaxed);
            self.subscribers.of(state).fetch_add(1, Ordering::Relaxed);
            self.state = state;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.subscribers.of(self.state).fetch_sub(1, Ordering::Relaxed);
    }
}
