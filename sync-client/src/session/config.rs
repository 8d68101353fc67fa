//! How a session behaves: settings, and their limits. Pure.

use std::time::Duration;

use sync_proto::limits::{HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN};

/// How a session behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Names the device; empty = anonymous.
    pub client_id: String,
    /// Quiet time before the server gives a sign of life. Three times this long without a
    /// message, and the stream is dead.
    pub heartbeat: Duration,
    /// How often everything is pulled although nothing seems to be missing; 1 s to 24 h.
    pub safety_pull: Duration,
    /// Longest wait between two attempts to open the stream or to pull; 100 ms to 1 h.
    pub backoff_longest: Duration,
    /// The first self-check comes within this, at random; up to 36 h. A self-check reads a whole
    /// copy; the later ones are half a day to a day and a half apart.
    pub first_check: Duration,
}

/// Shortest and longest that [`Config::safety_pull`] can be.
const SAFETY_PULL_LIMITS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));
/// Shortest and longest that [`Config::backoff_longest`] can be.
const BACKOFF_LIMITS: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(60 * 60));
/// The first check comes early: many programs do not run for a day, and damage happens while they
/// do not run.
const SELF_CHECK_FIRST: Duration = Duration::from_secs(60 * 60);
const SELF_CHECK_FIRST_MAX: Duration = Duration::from_secs(36 * 60 * 60);

// === impl Config ===

impl Config {
    /// Without settings that would make a session busy or overflow a clock.
    pub(super) fn within_reason(self) -> Self {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let heartbeats = (millis(HEARTBEAT_MS_MIN), millis(HEARTBEAT_MS_MAX));
        Self {
            heartbeat: self.heartbeat.clamp(heartbeats.0, heartbeats.1),
            safety_pull: self.safety_pull.clamp(SAFETY_PULL_LIMITS.0, SAFETY_PULL_LIMITS.1),
            backoff_longest: self.backoff_longest.clamp(BACKOFF_LIMITS.0, BACKOFF_LIMITS.1),
            first_check: self.first_check.min(SELF_CHECK_FIRST_MAX),
            client_id: self.client_id,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_id: String::new(),
            heartbeat: Duration::from_secs(15),
            safety_pull: Duration::from_secs(15 * 60),
            backoff_longest: Duration::from_secs(30),
            first_check: SELF_CHECK_FIRST,
        }
    }
}
