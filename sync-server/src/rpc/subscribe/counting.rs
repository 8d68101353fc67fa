//! What a stream says, in the metrics and in the span of its call.

use bytes::Bytes;
use sync_proto::types::{Delta, Event, Plan, ResetReason, Timestamp};

use super::Stream;
use crate::metrics::Revoked;
use crate::rpc::explaining;
use crate::store::Store;
use crate::traces::Happening;

// === impl Stream ===

impl<S: Store> Stream<S> {
    /// Takes note of what is about to be said. Before it is sent: a client may acknowledge it as soon as
    /// it has it.
    pub(super) fn say(&self, events: &[Event<Bytes>]) {
        for event in events {
            self.count(event);
            if let Some(client) = &self.client {
                client.says(event);
            }
        }
    }

    /// Counts what is about to be said.
    fn count(&self, event: &Event<Bytes>) {
        let metrics = &self.context.metrics;
        match event {
            Event::Accepted(targets, _) => {
                self.traced.tell(Happening::Opened(targets.len()));
                for target in targets {
                    if let Plan::Reset(reset) = &target.plan {
                        self.count_reset(reset.reason);
                    }
                }
            }
            Event::Reset(_, reset) => self.count_reset(reset.reason),
            Event::InboxNotice(_) => metrics.noticed(),
            Event::Revoked(_) => {
                metrics.revoked(Revoked::Target);
                self.traced.tell(Happening::Revoked);
            }
            Event::Lagging(..) => self.traced.tell(Happening::Lagging),
            Event::Changes(_, delta) => self.count_changes(delta),
            Event::Notice(..)
            | Event::Bookmark(..)
            | Event::CaughtUp(..)
            | Event::Absent(_)
            | Event::Failed(..)
            | Event::Goodbye(_) => {}
        }
    }

    fn count_reset(&self, reason: ResetReason) {
        self.context.metrics.stream_reset(reason);
        self.traced.tell(Happening::Reset(reason.as_str()));
    }

    pub(super) fn count_changes(&self, delta: &Delta<Bytes>) {
        let metrics = &self.context.metrics;
        metrics.sent(explaining::kind_of(delta), explaining::bytes_of(delta));
        let committed = delta.head.commit_time;
        if !delta.has_more && committed > self.began_at {
            metrics.delivered(committed, Timestamp::now());
        }
    }
}
