//! The end of the server when a call asks for it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Says that the server is to end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    asked: CancellationToken,
    grace: Arc<OnceLock<Duration>>,
}

// === impl Ending ===

impl Ending {
    /// Asks for the end, perhaps with another grace than the configured one; the first that is named
    /// counts.
    pub fn ask(&self, grace: Option<Duration>) {
        if let Some(grace) = grace {
            self.grace.get_or_init(|| grace);
        }
        self.asked.cancel();
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// The time that open calls get.
    #[must_use]
    pub fn grace(&self, configured: Duration) -> Duration {
        self.grace.get().copied().unwrap_or(configured)
    }
}
