//! The requests of one connection, counted. Pure: two counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request that has begun. It has ended when this is dropped: with its answer's body, or before,
/// where the answer has none.
#[derive(Debug)]
pub(crate) struct OpenRequest(Requests);

// === impl Requests ===

impl Requests {
    /// One begins.
    pub(crate) fn open(&self) -> OpenRequest {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.clone())
    }

    /// How many have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// How many have begun and not ended.
    pub(crate) fn open_now(&self) -> u64 {
        // In this order: what ends in between has begun before.
        let ended = self.0.ended.load(Ordering::Relaxed);
        self.begun().saturating_sub(ended)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}
