//! Who is let in by another door: first loads and reconciliations are answered from a budget of their
//! own, so that however many there are, and however slowly they are taken, a resume finds room.
//!
//! ```text
//! request complete ─► room for an answer (replies) ─► a resume: answered from there
//!                                                 └─► a load: gives it back ─► room among loads, or
//!                                                                              refused after a while
//! ```

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sync_proto::limits::MESSAGE_BYTES_MAX;

use crate::budget::{Account, Claim, Exhausted, Lane};
use crate::flight::CALL_BYTES;

/// How long a load waits for room that others hold: longer than it takes to cut a peer that takes
/// nothing.
const LOAD_WITHIN: Duration = Duration::from_secs(5);

/// The room that a call has for its answer, and the budget that it is of. An extension of the
/// request; clones are the same room.
#[derive(Debug, Clone, Default)]
pub struct AnswerRoom(Arc<Mutex<Option<(Lane, Claim)>>>);

// === impl AnswerRoom ===

impl AnswerRoom {
    /// There is room.
    pub fn give(&self, lane: Lane, claim: Claim) {
        *self.0.lock() = Some((lane, claim));
    }

    /// Takes it, for the answer.
    #[must_use]
    pub fn take(&self) -> Option<(Lane, Claim)> {
        self.0.lock().take()
    }

    /// Exchanges the room among replies for as much among loads. What it had goes first: who waits
    /// here keeps nobody else from an answer.
    pub async fn become_load(&self, account: &Account) -> Result<(), Exhausted> {
        self.become_load_within(account, LOAD_WITHIN).await
    }

    /// Is answered from among the replies after all: something of it is no load.
    pub async fn become_reply(&self, account: &Account) -> Result<(), Exhausted> {
        let bytes = MESSAGE_BYTES_MAX + CALL_BYTES;
        let claim = account.replies.claim_within(bytes, LOAD_WITHIN).await?;
        self.give(account.replies.clone(), claim);
        Ok(())
    }

    async fn become_load_within(&self, account: &Account, most: Duration) -> Result<(), Exhausted> {
        let Some((_, claim)) = self.take() else { return Ok(()) };
        let bytes = claim.bytes();
        drop(claim);
        let claim = account.loads.claim_within(bytes, most).await?;
        self.give(account.loads.clone(), claim);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::Config;

    /// G8: a load waits with no room among replies, and is refused by the name of its own budget.
    #[tokio::test]
    async fn a_load_holds_nothing_that_a_resume_needs() {
        let config = Config { loads_mib: 16, replies_mib: 16, ..Config::default() };
        let budgets = config.budgets();
        let accounts: Vec<_> =
            (0..5).map(|number| budgets.account(number, &CancellationToken::new())).collect();
        let mut rooms = Vec::new();
        for account in &accounts {
            let room = AnswerRoom::default();
            let claim = account.replies.claim(4 * 1024 * 1024).await;
            room.give(account.replies.clone(), claim);
            rooms.push(room);
            if rooms.len() < accounts.len() {
                rooms.last().unwrap().become_load(account).await.unwrap();
            }
        }
        assert_eq!(budgets.loads.held(), 16 * 1024 * 1024, "four loads have all of it");
        let brief = Duration::from_millis(20);
        let refused = rooms[4].become_load_within(&accounts[4], brief).await.unwrap_err();
        assert_eq!(refused.setting(), "loads_mib");
        assert_eq!(budgets.replies.held(), 0);
        assert!(rooms[4].take().is_none());
    }
}
