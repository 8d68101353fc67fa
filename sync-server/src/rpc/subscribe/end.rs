//! Why a stream ends, and what its subscriber is told of that.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use sync_proto::types::{Event, Goodbye, GoodbyeReason};
use tonic::Status;

/// The least that a client waits before it comes back after a Goodbye.
const GOODBYE_RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why a stream ends.
pub(super) enum End {
    /// The subscriber went away.
    Gone,
    /// The server says goodbye.
    Goodbye(GoodbyeReason),
    /// The server could not read.
    Failed(Status),
}

/// The last message of a stream. Half of the spread is ours: also clients that throw no dice come
/// back apart.
pub(super) fn goodbye(reason: GoodbyeReason, spread: Duration) -> Event<Bytes> {
    let jitter = spread / 2;
    let own = jitter.mul_f64(rand::rng().random_range(0.0..1.0));
    let retry_after = GOODBYE_RETRY_AFTER + own;
    Event::Goodbye(Goodbye { reason, retry_after, jitter })
}

// === impl End ===

impl End {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Goodbye(GoodbyeReason::Draining) => "draining",
            Self::Goodbye(GoodbyeReason::MaxAge) => "max_age",
            Self::Goodbye(GoodbyeReason::CredentialsExpired) => "credentials_expired",
            Self::Goodbye(GoodbyeReason::Overloaded) => "overloaded",
            Self::Failed(_) => "failed",
        }
    }
}
