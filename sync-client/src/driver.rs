//! The one task that runs a replica's session over the network.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use sync_proto::types::CollectionName;
use tokio_util::sync::CancellationToken;

use crate::client::SyncClient;
use crate::session::{Config, Stats, Status};
use crate::store::{ReplicaStore, StoreError};
use crate::view::View;

/// Runs a replica. Not cloneable: a replica has one.
pub struct Driver {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    views: Arc<BTreeMap<CollectionName, Arc<View>>>,
    stats: Arc<Mutex<Stats>>,
    config: Config,
}

// === impl Driver ===

impl Driver {
    pub(crate) fn new(
        client: SyncClient,
        store: Arc<dyn ReplicaStore>,
        views: Arc<BTreeMap<CollectionName, Arc<View>>>,
        stats: Arc<Mutex<Stats>>,
        config: Config,
    ) -> Self {
        Self { client, store, views, stats, config }
    }

    /// Keeps the copies right until `stop` is cancelled. Ends earlier only when the local store
    /// fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        stop.cancelled().await;
        self.store.flush()?;
        for view in self.views.values() {
            view.set_status(Status::Stopped);
        }
        Ok(())
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("client", &self.client)
            .field("config", &self.config)
            .field("stats", &self.stats.lock())
            .finish_non_exhaustive()
    }
}
