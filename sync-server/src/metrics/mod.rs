//! What the server measures: every metric is named, described and bounded here, and nowhere else.
//! Labels have a fixed set of values; no name, key or subject of a user ever becomes one.
//!
//! What happens is counted by handles ([`Metrics`]), what is there is looked at when somebody asks
//! ([`Sample`]). Without a listener ([`page`]) the handles count nothing and cost nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, NoopRecorder, Recorder, SharedString,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sync_proto::types::{Outcome, Reason, ResetReason};

use crate::engine::diffusing::SpreadTotals;

use self::described::{ALL, Kind};
use self::labels::{Labelled, PullOutcome, Refused};
use self::traffic::Traffic;

pub mod described;
mod labels;
pub mod page;
mod traffic;
mod waiting;

#[cfg(test)]
mod tests;

pub use self::labels::{
    CommitResult, Handshake, Reload, Reloaded, RepairReader, Revoked, SentKind, SpanResult,
    SubscriberState,
};
pub use self::traffic::Presence;
pub use self::waiting::Waiting;

/// What is looked at when somebody asks, all at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "`described` is the documentation")]
pub struct Sample {
    pub store_bytes: u64,
    pub unsynced_files: u64,
    pub free_disk_bytes: Option<u64>,
    pub collections: u64,
    pub items: u64,
    pub tombstones: u64,
    /// Bytes of live items.
    pub live_bytes: u64,
    /// Versions from the floor to the head, of the collection where they are fewest, and most.
    pub floor_distance: Option<(u64, u64)>,
    /// Reads of the store that are under way.
    pub reads: u64,
    pub acks: u64,
    pub clients: u64,
    pub write_queue: u64,
    pub streams: u64,
    pub connections: u64,
    /// Targets on live subscription streams.
    pub targets: u64,
    /// Bytes that are claimed for requests.
    pub requests_bytes: u64,
    /// Bytes that are claimed for answers.
    pub replies_bytes: u64,
    /// Likewise, for first loads and reconciliations.
    pub loads_bytes: u64,
    /// Bytes that are claimed for messages of subscriptions.
    pub pages_bytes: u64,
    /// Who waits.
    pub waiting: Waiting,
    pub page_hits: u64,
    pub page_misses: u64,
    pub spread: SpreadTotals,
}

/// Handles of all metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handles: Arc<Handles>,
    /// Renders what was counted; `None` = nothing is.
    prometheus: Option<PrometheusHandle>,
}

struct Handles {
    traffic: Traffic,
    group_commits: Histogram,
    group_entries: Histogram,
    sync_seconds: Histogram,
    mutations: Counter,
    commits: ByLabel<CommitResult, 4>,
    acks: ByLabel<CommitResult, 4>,
    pulls: ByLabel<PullOutcome, 7>,
    pull_resets: ByLabel<ResetReason, 5>,
    stream_resets: ByLabel<ResetReason, 5>,
    refusals: ByLabel<Refused, 3>,
    errors: ByLabel<Reason, { Reason::ALL.len() }>,
    revocations: ByLabel<Revoked, 2>,
    policy_reloads: ByLabel<Reload, 2>,
    key_reloads: ByLabel<Reload, 2>,
    certificate_reloads: ByLabel<Reload, 2>,
    authority_reloads: ByLabel<Reload, 2>,
    handshakes: ByLabel<Handshake, 3>,
    certificate_end: Gauge,
    page_hits: Counter,
    page_misses: Counter,
    notices: Counter,
    entries: Counter,
    to_write: Counter,
    to_read: Counter,
    sweeps: Counter,
    write_diffused: Gauge,
    read_diffused: Gauge,
    store_bytes: Gauge,
    unsynced_files: Gauge,
    free_disk_bytes: Gauge,
    collections: Gauge,
    items: Gauge,
    tombstones: Gauge,
    live_bytes: Gauge,
    amplification: Gauge,
    least_floor_distance: Gauge,
    most_floor_distance: Gauge,
    reads: Gauge,
    acks_held: Gauge,
    clients: Gauge,
    write_queue: Gauge,
    streams: Gauge,
    connections: Gauge,
    targets: Gauge,
    requests_bytes: Gauge,
    replies_bytes: Gauge,
    loads_bytes: Gauge,
    pages_bytes: Gauge,
    waiting: waiting::Gauges,
}

/// One counter for each value of a label.
struct ByLabel<L, const N: usize>(Vec<(L, Counter)>);

// === impl Metrics ===

impl Metrics {
    /// Measures nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { handles: Arc::new(Handles::new(&NoopRecorder)), prometheus: None }
    }

    /// Measures, and renders in the format of Prometheus.
    #[must_use]
    pub fn on() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in ALL {
            if let Kind::Histogram(buckets) = metric.kind {
                let matcher = Matcher::Full(metric.name.to_owned());
                builder = builder
                    .set_buckets_for_metric(matcher, buckets)
                    .expect("no histogram of ours is without buckets");
            }
        }
        let recorder = builder.build_recorder();
        for metric in ALL {
            let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        gauge(&recorder, "process_start_time_seconds").set(seconds_since_1970());
        let version = Label::new("version", env!("CARGO_PKG_VERSION"));
        let build = Key::from_parts("deltasync_build_info", vec![version]);
        recorder.register_gauge(&build, &METADATA).set(1.0);
        let handles = Arc::new(Handles::new(&recorder));
        Self { handles, prometheus: Some(recorder.handle()) }
    }

    /// How long a sync took.
    pub fn synced(&self, took: Duration) {
        self.handles.sync_seconds.record(took);
    }

    /// A group of commits and acks was written together, with so many entries of inboxes.
    pub fn wrote_group(&self, commits: usize, entries: u64) {
        self.handles.group_commits.record(as_f64(commits as u64));
        if entries > 0 {
            self.handles.group_entries.record(as_f64(entries));
        }
    }

    /// A commit ended; `mutations` = how many it had.
    pub fn committed(&self, result: CommitResult, mutations: usize) {
        self.handles.commits.count(result);
        if result == CommitResult::Done {
            self.handles.mutations.increment(mutations as u64);
        }
    }

    /// An ack ended.
    pub fn acked(&self, result: CommitResult) {
        self.handles.acks.count(result);
    }

    /// A target of a pull was answered.
    pub fn pulled<C>(&self, outcome: &Outcome<C>) {
        let outcome = match outcome {
            Outcome::Aligned(_) => PullOutcome::Aligned,
            Outcome::Delta(_) => PullOutcome::Delta,
            Outcome::Reset(reset) => {
                self.handles.pull_resets.count(reset.reason);
                PullOutcome::Reset
            }
            Outcome::Denied => PullOutcome::Denied,
            Outcome::NotFound => PullOutcome::NotFound,
            Outcome::Deferred(_) => PullOutcome::Deferred,
            Outcome::Failed(_) => PullOutcome::Failed,
        };
        self.handles.pulls.count(outcome);
    }

    /// A target of a subscription was reset.
    pub fn stream_reset(&self, reason: ResetReason) {
        self.handles.stream_resets.count(reason);
    }

    /// A call was answered with this status; those that refuse the caller are counted.
    pub fn refused(&self, code: i32) {
        if let Some(reason) = Refused::of(code) {
            self.handles.refusals.count(reason);
        }
    }

    /// A call was answered with an error of this reason, if it has one.
    pub fn erred(&self, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.handles.errors.count(reason);
        }
    }

    /// Something ended because a right did.
    pub fn revoked(&self, what: Revoked) {
        self.handles.revocations.count(what);
    }

    /// A file had changed and was looked at.
    pub fn reloaded(&self, what: Reloaded, result: Reload) {
        match what {
            Reloaded::Policy => self.handles.policy_reloads.count(result),
            Reloaded::Keys => self.handles.key_reloads.count(result),
            Reloaded::Certificate => self.handles.certificate_reloads.count(result),
            Reloaded::Authority => self.handles.authority_reloads.count(result),
        }
    }

    /// A TLS handshake ended.
    pub fn shook_hands(&self, how: Handshake) {
        self.handles.handshakes.count(how);
    }

    /// The server's certificate ends then.
    pub fn certificate_ends(&self, when: SystemTime) {
        let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.handles.certificate_end.set(since.as_secs_f64());
    }

    /// A stream of an inbox was told of what the inbox does not announce.
    pub fn noticed(&self) {
        self.handles.notices.increment(1);
    }

    /// Everything that was measured, with what is there now; nothing if nothing is measured.
    #[must_use]
    pub fn render(&self, sample: &Sample) -> String {
        self.handles.take(sample);
        self.prometheus.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }

    /// Folds what histograms have recorded into their buckets: until then every single value is
    /// kept, so this must happen also when nobody asks.
    pub fn fold(&self) {
        if let Some(prometheus) = &self.prometheus {
            prometheus.run_upkeep();
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("on", &self.prometheus.is_some()).finish_non_exhaustive()
    }
}

// === impl Handles ===

impl Handles {
    /// Sets what is there now.
    fn take(&self, sample: &Sample) {
        self.take_store(sample);
        self.traffic.look();
        self.acks_held.set(as_f64(sample.acks));
        self.clients.set(as_f64(sample.clients));
        self.write_queue.set(as_f64(sample.write_queue));
        self.streams.set(as_f64(sample.streams));
        self.connections.set(as_f64(sample.connections));
        self.targets.set(as_f64(sample.targets));
        self.requests_bytes.set(as_f64(sample.requests_bytes));
        self.replies_bytes.set(as_f64(sample.replies_bytes));
        self.loads_bytes.set(as_f64(sample.loads_bytes));
        self.pages_bytes.set(as_f64(sample.pages_bytes));
        self.waiting.take(&sample.waiting);
        self.page_hits.absolute(sample.page_hits);
        self.page_misses.absolute(sample.page_misses);
        let spread = &sample.spread;
        self.entries.absolute(spread.entries);
        self.to_write.absolute(spread.to_write);
        self.to_read.absolute(spread.to_read);
        self.sweeps.absolute(spread.sweeps);
        self.write_diffused.set(as_f64(spread.write_diffused));
        self.read_diffused.set(as_f64(spread.read_diffused));
    }

    /// What the store holds, and how much of the disk.
    fn take_store(&self, sample: &Sample) {
        self.store_bytes.set(as_f64(sample.store_bytes));
        self.unsynced_files.set(as_f64(sample.unsynced_files));
        // A disk that does not say how much is free must not look like a full one.
        self.free_disk_bytes.set(sample.free_disk_bytes.map_or(f64::NAN, as_f64));
        self.collections.set(as_f64(sample.collections));
        self.items.set(as_f64(sample.items));
        self.tombstones.set(as_f64(sample.tombstones));
        self.live_bytes.set(as_f64(sample.live_bytes));
        // Nothing is no multiple of nothing.
        let amplification = as_f64(sample.store_bytes) / as_f64(sample.live_bytes);
        self.amplification.set(if sample.live_bytes > 0 { amplification } else { f64::NAN });
        let distance =
            |of: fn((u64, u64)) -> u64| sample.floor_distance.map_or(f64::NAN, |d| as_f64(of(d)));
        self.least_floor_distance.set(distance(|(least, _)| least));
        self.most_floor_distance.set(distance(|(_, most)| most));
        self.reads.set(as_f64(sample.reads));
    }

    fn new(recorder: &dyn Recorder) -> Self {
        let resets = |call| {
            let call = Label::new("call", call);
            ByLabel::new(recorder, "deltasync_resets_total", "reason", Some(&call))
        };
        let followed = |mode| {
            let mode = Label::new("diffusion", mode);
            labelled_gauge(recorder, "deltasync_followed_collections", mode)
        };
        let labelled = |name, label, value| counter(recorder, name, vec![Label::new(label, value)]);
        let reloads = |what| {
            let what = Label::new("what", what);
            ByLabel::new(recorder, "deltasync_reloads_total", "result", Some(&what))
        };
        let distance = |of| {
            labelled_gauge(recorder, "deltasync_floor_distance_versions", Label::new("of", of))
        };
        Self {
            traffic: Traffic::new(recorder),
            group_commits: histogram(recorder, "deltasync_commit_group_commits"),
            group_entries: histogram(recorder, "deltasync_inbox_group_entries"),
            sync_seconds: histogram(recorder, "deltasync_sync_seconds"),
            mutations: counter(recorder, "deltasync_mutations_total", Vec::new()),
            commits: ByLabel::new(recorder, "deltasync_commits_total", "result", None),
            acks: ByLabel::new(recorder, "deltasync_acks_total", "result", None),
            pulls: ByLabel::new(recorder, "deltasync_pull_targets_total", "outcome", None),
            pull_resets: resets("pull"),
            stream_resets: resets("subscribe"),
            errors: ByLabel::new(recorder, "deltasync_errors_total", "reason", None),
            refusals: ByLabel::new(recorder, "deltasync_calls_refused_total", "reason", None),
            revocations: ByLabel::new(recorder, "deltasync_revocations_total", "what", None),
            policy_reloads: reloads("policy"),
            key_reloads: reloads("keys"),
            certificate_reloads: reloads("certificate"),
            authority_reloads: reloads("authority"),
            handshakes: ByLabel::new(recorder, "deltasync_tls_handshakes_total", "result", None),
            certificate_end: gauge(recorder, "deltasync_tls_certificate_end_seconds"),
            page_hits: labelled("deltasync_page_cache_total", "result", "hit"),
            page_misses: labelled("deltasync_page_cache_total", "result", "miss"),
            notices: counter(recorder, "deltasync_inbox_notices_total", Vec::new()),
            entries: counter(recorder, "deltasync_inbox_entries_total", Vec::new()),
            to_write: labelled("deltasync_diffusion_switches_total", "to", "write"),
            to_read: labelled("deltasync_diffusion_switches_total", "to", "read"),
            sweeps: counter(recorder, "deltasync_inbox_sweeps_total", Vec::new()),
            write_diffused: followed("write"),
            read_diffused: followed("read"),
            store_bytes: gauge(recorder, "deltasync_store_bytes"),
            unsynced_files: gauge(recorder, "deltasync_store_unsynced_files"),
            free_disk_bytes: gauge(recorder, "deltasync_disk_free_bytes"),
            collections: gauge(recorder, "deltasync_collections"),
            items: gauge(recorder, "deltasync_items"),
            tombstones: gauge(recorder, "deltasync_tombstones"),
            live_bytes: gauge(recorder, "deltasync_live_bytes"),
            amplification: gauge(recorder, "deltasync_store_amplification"),
            least_floor_distance: distance("least"),
            most_floor_distance: distance("most"),
            reads: gauge(recorder, "deltasync_reads"),
            acks_held: gauge(recorder, "deltasync_acks"),
            clients: gauge(recorder, "deltasync_clients"),
            write_queue: gauge(recorder, "deltasync_write_queue_length"),
            streams: gauge(recorder, "deltasync_streams"),
            targets: gauge(recorder, "deltasync_targets"),
            connections: gauge(recorder, "deltasync_connections"),
            requests_bytes: gauge(recorder, "deltasync_requests_held_bytes"),
            replies_bytes: gauge(recorder, "deltasync_replies_held_bytes"),
            loads_bytes: gauge(recorder, "deltasync_loads_held_bytes"),
            pages_bytes: gauge(recorder, "deltasync_pages_held_bytes"),
            waiting: waiting::Gauges::new(recorder),
        }
    }
}

// === impl ByLabel ===

impl<L: Labelled, const N: usize> ByLabel<L, N> {
    fn new(
        recorder: &dyn Recorder,
        name: &'static str,
        label: &'static str,
        more: Option<&Label>,
    ) -> Self {
        const { assert!(L::ALL.len() == N, "a label with another number of values") };
        let one = |(value, text): &(L, &'static str)| {
            let labels = more.into_iter().cloned().chain([Label::new(label, *text)]).collect();
            (*value, counter(recorder, name, labels))
        };
        Self(L::ALL.iter().map(one).collect())
    }

    fn count(&self, value: L) {
        self.add(value, 1);
    }

    fn add(&self, value: L, count: u64) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.increment(count);
        }
    }
}

const METADATA: Metadata<'static> = Metadata::new("deltasync", Level::INFO, None);

fn counter(recorder: &dyn Recorder, name: &'static str, labels: Vec<Label>) -> Counter {
    let counter = recorder.register_counter(&Key::from_parts(name, labels), &METADATA);
    // Seen from the start: a rate that begins with the first event misses it.
    counter.increment(0);
    counter
}

fn gauge(recorder: &dyn Recorder, name: &'static str) -> Gauge {
    recorder.register_gauge(&Key::from_static_name(name), &METADATA)
}

fn labelled_gauge(recorder: &dyn Recorder, name: &'static str, label: Label) -> Gauge {
    recorder.register_gauge(&Key::from_parts(name, vec![label]), &METADATA)
}

fn histogram(recorder: &dyn Recorder, name: &'static str) -> Histogram {
    recorder.register_histogram(&Key::from_static_name(name), &METADATA)
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "the format has floats; 2^53 is far away")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
