//! A store that measures how long its syncs take. Otherwise it is the one beneath.

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;

use super::{Batch, Direction, KeyRange, Store, StoreError, Usage};
use crate::metrics::Metrics;

/// A store whose syncs are measured.
#[derive(Debug)]
pub struct Measured<S> {
    store: S,
    metrics: Metrics,
}

// === impl Measured ===

impl<S: Store> Measured<S> {
    /// Measures `store`.
    pub fn new(store: S, metrics: Metrics) -> Self {
        Self { store, metrics }
    }
}

impl<S: Store> Store for Measured<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(key)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.store.get_many(keys)
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.store.scan(range, direction, visit)
    }

    fn room(&self) -> Result<(), StoreError> {
        self.store.room()
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.store.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        let synced = self.store.sync();
        self.metrics.synced(began.elapsed());
        synced
    }

    fn is_behind(&self) -> bool {
        self.store.is_behind()
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }
}
