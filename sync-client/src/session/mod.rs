//! The conversation with the server. Pure.

mod stats;
mod status;

pub use stats::Stats;
pub use status::{RepairReason, Status};

use std::time::Duration;

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names the device; empty = anonymous.
    pub client_id: String,
    /// Quiet time before the server gives a sign of life.
    pub heartbeat: Duration,
    /// How often everything is pulled although nothing seems to be missing.
    pub safety_pull: Duration,
    /// Longest wait between two attempts to open the stream.
    pub backoff_longest: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            heartbeat: Duration::from_secs(15),
            safety_pull: Duration::from_mins(15),
            backoff_longest: Duration::from_secs(30),
        }
    }
}
