//! Sends spans to a collector (OTLP over gRPC), a batch at a time, beside everything that the server
//! does: no call and no end of the server waits for it for longer than said here.
//!
//! ```text
//! a span ends ─► queue (bounded) ─► batch ─► taken
//!                    │ full: dropped  │ ▲ not taken: again, ever later, a few times
//!                    ▼                ▼ │ refused, or too often: given up
//! ```

use std::error::Error;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::config::Config;
use crate::metrics::{Metrics, SpanResult};
use crate::traces::Traces;
use crate::traces::queue::Ended;

#[cfg(test)]
mod tests;

/// Spans of a batch, some 200 KiB.
const BATCH_LEN_MAX: usize = 512;
/// A batch is given up after so many: what is newer is worth more.
const ATTEMPTS_MAX: u32 = 5;
/// It is not said more often than this that spans cannot be sent.
const SAID_AGAIN: Duration = Duration::from_secs(600);

/// How long what may take.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// A span waits so long for others of its batch.
    gather_max: Duration,
    /// A collector gets this long to be connected to, and as long to take a batch.
    export_max: Duration,
    /// The wait after a first failure; each of the next is twice as long.
    retry_min: Duration,
    /// When everything else has ended, what still waits gets this long.
    flush_max: Duration,
}

const PACE: Pace = Pace {
    gather_max: Duration::from_secs(1),
    export_max: Duration::from_secs(5),
    retry_min: Duration::from_secs(1),
    flush_max: Duration::from_secs(1),
};

/// The way to a collector.
pub(super) struct Collector {
    client: TraceServiceClient<Channel>,
    pace: Pace,
    resource: ResourceAttributesWithSchema,
    ended: Ended,
    /// What is being sent, in the order in which it ended.
    batch: Vec<SpanData>,
    metrics: Metrics,
    said: Said,
}

/// What became of an attempt.
enum Sent {
    /// The collector has it, but so many spans of it.
    Taken { refused: usize },
    /// It does not want it.
    Refused(String),
    /// It may want it later.
    Failed(String),
}

/// What the log was told of the collector.
#[derive(Debug, Default)]
struct Said {
    failing: bool,
    at: Option<Instant>,
}

// === impl Collector ===

impl Collector {
    /// The collector of the configuration, and what makes spans for it; nothing if there is none.
    /// Connects when there is something to send.
    pub(super) fn of(
        config: &Config,
        metrics: &Metrics,
    ) -> Result<Option<(Traces, Self)>, tonic::transport::Error> {
        let Some(endpoint) = config.collector() else { return Ok(None) };
        let endpoint = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(PACE.export_max);
        let (traces, ended) = Traces::queued(config.otlp_sample_per_mille, metrics.clone());
        let instance = format!("{:016x}", rand::random::<u64>());
        let resource = Resource::builder_empty()
            .with_service_name(config.otlp_service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .build();
        let collector = Self {
            client: TraceServiceClient::new(endpoint.connect_lazy()),
            pace: PACE,
            resource: ResourceAttributesWithSchema::from(&resource),
            ended,
            batch: Vec::new(),
            metrics: metrics.clone(),
            said: Said::default(),
        };
        Ok(Some((traces, collector)))
    }

    /// Sends what has ended until `end`, and then, but not for long, what is left.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let flush_max = self.pace.flush_max;
        let late = async {
            end.cancelled().await;
            tokio::time::sleep(flush_max).await;
        };
        tokio::select! {
            biased;
            () = late => {}
            () = self.send_all(&end) => return,
        }
        let lost = self.batch.len() + std::iter::from_fn(|| self.ended.try_recv().ok()).count();
        self.metrics.spans(SpanResult::Dropped, lost);
        tracing::info!(spans = lost, "spans were not sent before the end");
    }

    async fn send_all(&mut self, end: &CancellationToken) {
        while self.gather(end).await {
            self.send_persistently(end).await;
        }
    }

    /// Waits for a span, and a moment for more, but no longer than to the end; whether there is one.
    async fn gather(&mut self, end: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            _ = self.ended.recv_many(&mut self.batch, BATCH_LEN_MAX) => {}
        }
        let until = Instant::now() + self.pace.gather_max;
        while self.batch.len() < BATCH_LEN_MAX {
            if end.is_cancelled() {
                // What is in the queue comes at once then, and nothing else.
                self.ended.close();
            }
            let room = BATCH_LEN_MAX - self.batch.len();
            tokio::select! {
                biased;
                () = end.cancelled(), if !self.ended.is_closed() => {}
                () = tokio::time::sleep_until(until) => break,
                more = self.ended.recv_many(&mut self.batch, room) => if more == 0 { break },
            }
        }
        !self.batch.is_empty()
    }

    /// Sends the batch, again if need be, but not for ever; at the end once.
    async fn send_persistently(&mut self, end: &CancellationToken) {
        let mut wait = self.pace.retry_min;
        for attempt in 1..=ATTEMPTS_MAX {
            if self.send().await {
                return;
            }
            if end.is_cancelled() || attempt == ATTEMPTS_MAX {
                break;
            }
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = tokio::time::sleep(wait) => wait *= 2,
            }
        }
        self.metrics.spans(SpanResult::Dropped, self.batch.len());
        self.batch.clear();
    }

    /// One attempt. Whether the batch is done with: taken, or refused for good.
    async fn send(&mut self) -> bool {
        let resource_spans = group_spans_by_resource_and_scope(self.batch.clone(), &self.resource);
        let mut request = Request::new(ExportTraceServiceRequest { resource_spans });
        request.set_timeout(self.pace.export_max);
        let sent = match timeout(self.pace.export_max, self.client.export(request)).await {
            Ok(Ok(answer)) => {
                let partly = answer.into_inner().partial_success.unwrap_or_default();
                Sent::Taken { refused: usize::try_from(partly.rejected_spans).unwrap_or(0) }
            }
            Ok(Err(status)) => Sent::of(&status),
            Err(_) => Sent::Failed("no answer in time".to_owned()),
        };
        self.tell(&sent);
        match sent {
            Sent::Taken { refused } => {
                let refused = refused.min(self.batch.len());
                self.metrics.spans(SpanResult::Refused, refused);
                self.metrics.spans(SpanResult::Sent, self.batch.len() - refused);
            }
            Sent::Refused(_) => self.metrics.spans(SpanResult::Refused, self.batch.len()),
            Sent::Failed(_) => return false,
        }
        self.batch.clear();
        true
    }

    /// Says it when it begins to fail and when that is over, not each time.
    fn tell(&mut self, sent: &Sent) {
        match sent {
            Sent::Taken { .. } => {
                if self.said.taken() {
                    tracing::info!("the collector takes spans again");
                }
            }
            Sent::Refused(error) | Sent::Failed(error) => {
                if self.said.not_taken(Instant::now()) {
                    tracing::warn!(
                        error,
                        "the collector takes no spans; they are dropped when too many wait"
                    );
                } else {
                    tracing::debug!(error, "the collector still takes no spans");
                }
            }
        }
    }
}

// === impl Sent ===

impl Sent {
    /// What an error means. What the collector says with it is not ours to log.
    fn of(status: &Status) -> Self {
        let code = status.code();
        let (mut told, mut cause) = (code.to_string(), status.source());
        while let Some(error) = cause {
            told = format!("{told}: {error}");
            cause = error.source();
        }
        let passes = matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        );
        // With a cause of its own it is from the way there.
        if passes || status.source().is_some() { Self::Failed(told) } else { Self::Refused(told) }
    }
}

// === impl Said ===

impl Said {
    /// Spans were not taken; whether to say so.
    fn not_taken(&mut self, now: Instant) -> bool {
        self.failing = true;
        let say = self.at.is_none_or(|at| now.duration_since(at) >= SAID_AGAIN);
        if say {
            self.at = Some(now);
        }
        say
    }

    /// Spans were taken; whether to say so.
    fn taken(&mut self) -> bool {
        std::mem::take(&mut self.failing)
    }
}
