//! What a call holds for its peer, and who is let in by another door: first loads and reconciliations
//! are answered from a budget of their own, so that however many there are, and however slowly they are
//! taken, a resume finds room.
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

/// Room for any answer: a message, with what it takes to make it.
pub const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX + CALL_BYTES;

/// How long a load waits for room that others hold: longer than it takes to cut a peer that takes
/// nothing.
const LOAD_WITHIN: Duration = Duration::from_secs(5);

/// What a call holds for its peer. An extension of the request; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Claims>>);

#[derive(Debug, Default)]
struct Claims {
    /// The call itself.
    call: Option<Claim>,
    /// The request.
    request: Option<Claim>,
    /// The answer, and the budget that its room is of.
    answer: Option<(Lane, Claim)>,
}

// === impl Held ===

impl Held {
    /// There is room for the call itself. The peer has to send its request.
    pub fn begin(&self, mut call: Claim, account: &Account) {
        call.await_peer(&account.calls);
        self.0.lock().call = Some(call);
    }

    /// There is room for more of the request, which the peer has to send.
    pub fn request(&self, claim: Claim, account: &Account) {
        let mut claims = self.0.lock();
        let request = match claims.request.take() {
            Some(request) => request.with(claim),
            None => claim,
        };
        claims.request.insert(request).await_peer(&account.requests);
    }

    /// The peer has sent more. Whoever asked for it has done with all messages before the one
    /// that is open, which has this length.
    pub fn took(&self, open: usize, account: &Account) {
        let mut claims = self.0.lock();
        if let Some(call) = &mut claims.call {
            call.await_peer(&account.calls);
        }
        if let Some(request) = &mut claims.request {
            request.shrink_to(open.min(MESSAGE_BYTES_MAX));
            request.await_peer(&account.requests);
        }
    }

    /// The peer has sent everything, and must perhaps take other answers from this lane first.
    pub fn waits_for(&self, lane: &Lane) {
        self.0.lock().upload().for_each(|claim| claim.await_lane(lane));
    }

    /// There is room for the answer; it is the server's turn.
    pub fn may_answer(&self, lane: &Lane, claim: Claim) {
        let mut claims = self.0.lock();
        claims.upload().for_each(Claim::await_server);
        claims.answer = Some((lane.clone(), claim));
    }

    /// The call is answered: what it held goes, but for the room of its answer.
    #[must_use]
    pub fn answered(&self) -> Option<(Lane, Claim)> {
        std::mem::take(&mut *self.0.lock()).answer
    }

    /// Exchanges the room among replies for as much among loads. What it had goes first: who waits
    /// here keeps nobody else from an answer.
    pub async fn become_load(&self, account: &Account) -> Result<(), Exhausted> {
        self.become_load_within(account, LOAD_WITHIN).await
    }

    /// Is answered from among the replies after all: something of it is no load.
    pub async fn become_reply(&self, account: &Account) -> Result<(), Exhausted> {
        self.claim(&account.replies, LOAD_WITHIN).await
    }

    async fn become_load_within(&self, account: &Account, most: Duration) -> Result<(), Exhausted> {
        let before = self.0.lock().answer.take();
        drop(before);
        self.claim(&account.loads, most).await
    }

    async fn claim(&self, lane: &Lane, most: Duration) -> Result<(), Exhausted> {
        // Also a call that waits holds something: a peer that asks for more and more, and takes
        // nothing, would otherwise never be cut for it.
        self.waits_for(lane);
        let claim = lane.claim_within(ANSWER_BYTES_MAX, most).await?;
        self.may_answer(lane, claim);
        Ok(())
    }
}

// === impl Claims ===

impl Claims {
    fn upload(&mut self) -> impl Iterator<Item = &mut Claim> {
        [&mut self.call, &mut self.request].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::budget::{Budgets, Weight};
    use crate::config::Config;

    const BRIEF: Duration = Duration::from_millis(20);

    fn account(budgets: &Budgets) -> Account {
        budgets.account(0, &CancellationToken::new())
    }

    async fn admitted(account: &Account) -> Held {
        let held = Held::default();
        let claim = account.replies.claim(ANSWER_BYTES_MAX).await;
        held.may_answer(&account.replies, claim);
        held
    }

    /// G8: a load waits with no room among replies, and is refused by the name of its own budget.
    #[tokio::test]
    async fn a_load_holds_nothing_that_a_resume_needs() {
        let config = Config { loads_mib: 16, ..Config::default() };
        let budgets = config.budgets();
        let accounts = [(); 4].map(|()| account(&budgets));
        let mut loads = Vec::new();
        for account in &accounts[..3] {
            let held = admitted(account).await;
            held.become_load(account).await.unwrap();
            loads.push(held);
        }
        assert_eq!(budgets.loads.held(), 3 * ANSWER_BYTES_MAX, "no other one fits");
        let late = admitted(&accounts[3]).await;
        let refused = late.become_load_within(&accounts[3], BRIEF).await.unwrap_err();
        assert_eq!(refused.setting(), "loads_mib");
        assert_eq!(budgets.replies.held(), 0);
        assert!(late.answered().is_none());
        late.become_reply(&accounts[3]).await.unwrap();
        assert_eq!(budgets.replies.held(), ANSWER_BYTES_MAX);
    }

    /// G8: a connection that is alone makes as many first loads side by side as other answers, and
    /// leaves as many to others.
    #[tokio::test]
    async fn a_lone_connection_loads_as_fast_as_it_reads() {
        let budgets = Config::default().budgets();
        let (account, other) = (account(&budgets), account(&budgets));
        let mut replies = Vec::new();
        while let Some(claim) = account.replies.claim(ANSWER_BYTES_MAX).now_or_never() {
            replies.push(claim);
        }
        let side_by_side = replies.len();
        drop(replies);
        assert!(side_by_side >= 3, "{side_by_side} of them");
        let mut loads = Vec::new();
        for account in [account, other] {
            for _ in 0..side_by_side {
                let held = admitted(&account).await;
                let load = held.become_load(&account).now_or_never();
                load.expect("it is made beside the others").unwrap();
                loads.push(held);
            }
            let next = admitted(&account).await;
            assert!(next.become_load(&account).now_or_never().is_none(), "it waits for its own");
        }
    }

    /// G8: a load for a page in a browser costs what it is in base64 as well.
    #[tokio::test]
    async fn loads_in_base64_cost_both_forms() {
        let budgets = Config::default().budgets();
        let account = account(&budgets).weighing(Weight::AND_BASE64);
        let held = admitted(&account).await;
        held.become_load(&account).await.unwrap();
        let (_, mut claim) = held.answered().unwrap();
        assert_eq!(budgets.loads.held(), (7 * ANSWER_BYTES_MAX).div_ceil(3));
        claim.shrink_to(300);
        assert_eq!(budgets.loads.held(), 700);
    }
}
