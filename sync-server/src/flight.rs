//! Bytes on their way to a peer: counted from the moment they are encoded until the transport has
//! let go of them. Only then a stream builds its next page, and only then a claim ends.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::budget::Claim;

/// What a call costs besides its message: the state of its stream, its headers, its tasks.
pub const CALL_BYTES: usize = 8 * 1024;

/// What the transport gets at once. In parts one sees whether the peer takes any.
const PART_BYTES_MAX: usize = 32 * 1024;

/// What is on its way to one call of a peer.
#[derive(Debug, Default)]
pub struct Flight {
    state: Mutex<State>,
    landed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that the transport has not let go of.
    bytes: usize,
    /// The claim that covers them.
    claim: Option<Claim>,
}

/// Some bytes of a flight. They have landed when this is dropped.
#[derive(Debug)]
pub struct Cargo {
    bytes: Bytes,
    flight: Arc<Flight>,
}

// === impl Flight ===

impl Flight {
    /// A flight with nothing on board yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Sets out with these bytes. The claim covers them until everything on board has landed;
    /// without one, somebody else claims for them.
    pub fn load(self: &Arc<Self>, bytes: Bytes, claim: Option<Claim>) -> Cargo {
        let mut state = self.state.lock();
        state.bytes += bytes.len();
        if let Some(mut claim) = claim {
            claim.shrink_to(CALL_BYTES + state.bytes);
            claim.await_peer();
            state.claim = Some(claim);
        }
        drop(state);
        Cargo { bytes, flight: Arc::clone(self) }
    }

    /// Whether everything has landed.
    #[must_use]
    pub fn has_landed(&self) -> bool {
        self.state.lock().bytes == 0
    }

    /// Waits until everything has landed.
    pub async fn landed(&self) {
        loop {
            let notified = self.landed.notified();
            if self.has_landed() {
                return;
            }
            notified.await;
        }
    }
}

// === impl Cargo ===

impl Cargo {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next part, for the transport.
    pub fn unload(&mut self) -> Bytes {
        let bytes = self.bytes.split_to(PART_BYTES_MAX.min(self.bytes.len()));
        Bytes::from_owner(Self { bytes, flight: Arc::clone(&self.flight) })
    }
}

impl AsRef<[u8]> for Cargo {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Cargo {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        state.bytes -= self.bytes.len();
        if state.bytes == 0 {
            state.claim = None;
            self.flight.landed.notify_one();
        } else if let Some(claim) = &mut state.claim {
            claim.await_peer();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::budget::Budget;

    /// G8: bytes count until the transport has let go of the last of them.
    #[tokio::test]
    async fn bytes_count_until_they_have_landed() {
        let budget = Budget::new("pages_mib", 1_000_000);
        let lane = budget.lane(CancellationToken::new());
        let flight = Flight::new();
        flight.landed().await;
        let claim = lane.claim(400_000).await;
        let bytes = vec![7; PART_BYTES_MAX + 10];
        let size = bytes.len();
        let mut cargo = flight.load(bytes.into(), Some(claim));
        assert_eq!(budget.held(), CALL_BYTES + size, "what was claimed too much is given back");
        let (first, second) = (cargo.unload(), cargo.unload());
        assert_eq!((first.len(), second.len()), (PART_BYTES_MAX, 10));
        assert!(cargo.is_empty());
        drop((cargo, second));
        assert!(flight.landed().now_or_never().is_none());
        let part = first.slice(2..);
        drop(first);
        assert_eq!(budget.held(), CALL_BYTES + size, "a part is still with the transport");
        drop(part);
        flight.landed().await;
        assert_eq!(budget.held(), 0);
    }
}
