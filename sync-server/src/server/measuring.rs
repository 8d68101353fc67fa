//! The page of metrics beside the server: looks at what is there when somebody asks, and is shown
//! until the last call has ended.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connections::Bounds;
use crate::budget::Budget;
use crate::metrics::{Sample, Waiting, page};
use crate::rpc::Context;
use crate::store::Store;

/// A page that is shown. Dropping it ends it too, without waiting.
pub(super) struct Shown {
    end: DropGuard,
    tasks: TaskTracker,
}

/// What a page is made of.
struct Watched<S> {
    context: Arc<Context<S>>,
    bounds: Bounds,
}

// === impl Shown ===

impl Shown {
    pub(super) fn start<S: Store>(
        listener: TcpListener,
        context: &Arc<Context<S>>,
        bounds: &Bounds,
    ) -> Self {
        let watched = Watched { context: Arc::clone(context), bounds: bounds.clone() };
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let metrics = context.metrics.clone();
        let render = move || watched.context.metrics.render(&watched.sample());
        tasks.spawn(page::serve(listener, metrics, Arc::new(render), end.clone()));
        tasks.close();
        Self { end: end.drop_guard(), tasks }
    }

    /// Ends it, and waits until nobody is served any more.
    pub(super) async fn end(self) {
        self.end.disarm().cancel();
        self.tasks.wait().await;
    }
}

// === impl Watched ===

impl<S: Store> Watched<S> {
    fn waiting(&self) -> Waiting {
        let budgets = &self.bounds.budgets;
        let sum = |of: &[&Budget]| of.iter().map(|budget| budget.waiting() as u64).sum();
        Waiting {
            calls: budgets.waiting_calls.held() as u64,
            requests: sum(&[&budgets.requests]),
            replies: sum(&[&budgets.replies, &budgets.tells, &budgets.briefs]),
            loads: sum(&[&budgets.loads]),
            pages: sum(&[&budgets.pages, &budgets.shared_pages]),
            reads: self.context.reads.waiting() as u64,
        }
    }

    fn sample(&self) -> Sample {
        let ledger = &self.context.ledger;
        let (usage, totals) = (ledger.store().usage(), ledger.totals());
        let (page_hits, page_misses) = ledger.page_hits_and_misses();
        let (streams, targets) = self.context.streams.places.taken();
        let Bounds { connections_max, slots, budgets, .. } = &self.bounds;
        let replies = [&budgets.replies, &budgets.tells, &budgets.briefs];
        Sample {
            store_bytes: usage.bytes,
            unsynced_files: usage.unsynced_files,
            free_disk_bytes: usage.free_bytes,
            collections: totals.collections,
            items: totals.items,
            tombstones: totals.tombstones,
            live_bytes: totals.bytes,
            floor_distance: totals.floor_distance,
            reads: self.context.reads.running() as u64,
            acks: totals.acks,
            clients: self.context.clients.len() as u64,
            write_queue: self.context.writes.queued() as u64,
            streams: streams as u64,
            targets: targets as u64,
            connections: (connections_max - slots.available_permits()) as u64,
            requests_bytes: budgets.requests.held() as u64,
            replies_bytes: replies.map(Budget::held).iter().sum::<usize>() as u64,
            loads_bytes: budgets.loads.held() as u64,
            pages_bytes: (budgets.pages.held() + budgets.shared_pages.held()) as u64,
            waiting: self.waiting(),
            page_hits,
            page_misses,
            spread: ledger.spread_totals(),
        }
    }
}
