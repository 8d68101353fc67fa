//! The gRPC face of the engine: one file a service. Messages are checked at the door by
//! `sync_proto::convert`, errors get their status in [`crate::status`], everything else is the
//! engine's.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

use crate::auth::{Access, Caller};
use crate::engine::hub::Hub;
use crate::engine::ledger::Ledger;
use crate::engine::writer::Writes;
use crate::status;
use crate::store::Store;

pub mod admin;
mod subscribe;
pub mod sync;
pub mod write;

/// What every service needs.
#[derive(Debug)]
pub struct Context<S> {
    /// Reads.
    pub ledger: Arc<Ledger<S>>,
    /// News of heads.
    pub hub: Arc<Hub>,
    /// Writes.
    pub writes: Writes,
    /// Who may what.
    pub access: Access,
    /// Bounds of streams.
    pub streams: StreamSettings,
    /// Cancelled when the server begins to stop.
    pub drain: CancellationToken,
    /// Every task that a call leaves behind; the end of the server waits for them.
    pub tasks: TaskTracker,
}

/// Bounds of subscriptions.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Streams at once.
    pub slots: Arc<tokio::sync::Semaphore>,
    /// A stream older than this is ended with Goodbye, so that load can move between servers.
    pub age_max: std::time::Duration,
    /// Within this, clients spread their return after a Goodbye.
    pub goodbye_jitter: std::time::Duration,
}

// === impl Context ===

impl<S: Store> Context<S> {
    /// Who calls.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let header = request.metadata().get("authorization");
        let header = header.and_then(|value| value.to_str().ok());
        self.access.identify(header).map_err(status::access)
    }

    /// Runs a read of the store off the async workers.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger<S>) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let ledger = Arc::clone(&self.ledger);
        tokio::task::spawn_blocking(move || read(&ledger))
            .await
            .map_err(|error| status::lost_task(&error))
    }
}
