//! What a call holds for its peer, and who is let in by another door. First loads and reconciliations
//! are answered from a budget of their own, so that however many there are, and however slowly they are
//! taken, a resume finds room. A few words need little of it, and a page can be cut short: neither waits
//! for others who do not take their answers.
//!
//! ```text
//! request complete ─► a few words: room among tells, or replies
//!                 └─► a page: room for all of it among replies, or for a brief one among briefs
//!                         ├─► a resume: answered from there
//!                         └─► a load: gives it back ─► room among loads or briefs, or refused
//!                                                      after a while
//! too much for a brief page (one large version) ─► gives it back ─► room for all of it
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use parking_lot::Mutex;
use sync_proto::limits::MESSAGE_BYTES_MAX;

use crate::budget::{Account, BRIEF_BYTES, Claim, Exhausted, Lane};
use crate::flight::CALL_BYTES;

/// Room for any answer: a message, with what it takes to make it.
pub const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX + CALL_BYTES;

/// How long a load waits for room that others hold: longer than it takes to cut a peer that takes
/// nothing.
const LOAD_WITHIN: Duration = Duration::from_secs(5);

/// What is put into an answer that has only room among briefs. It is held in two forms while it is
/// made, and what is not counted, such as heads, needs the rest.
pub const BRIEF_PAGE_BYTES: usize = 24 * 1024;

/// Room for an answer, in one of the budgets.
#[derive(Debug)]
pub struct Granted {
    claim: Claim,
    /// It is only for a brief one; there would be room for any of this lane.
    brief_for: Option<Lane>,
}

/// What a call holds for its peer. An extension of the request; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Claims>>);

#[derive(Debug, Default)]
struct Claims {
    /// The call itself.
    call: Option<Claim>,
    /// The request.
    request: Option<Claim>,
    /// The answer.
    answer: Option<Granted>,
}

// === impl Granted ===

impl Granted {
    /// Room for any answer.
    pub async fn whole(lane: &Lane, within: Duration) -> Result<Self, Exhausted> {
        let claim = lane.claim_within(ANSWER_BYTES_MAX, within).await?;
        Ok(Self { claim, brief_for: None })
    }

    /// Room for any answer of this lane, or for a brief one while others hold all there is.
    pub async fn page(
        account: &Account,
        whole: &Lane,
        within: Duration,
    ) -> Result<Self, Exhausted> {
        let brief = account.briefs.claim(BRIEF_BYTES);
        Ok(match whole.claim_within_or(ANSWER_BYTES_MAX, brief, within).await? {
            Either::Left(claim) => Self { claim, brief_for: None },
            Either::Right(claim) => Self { claim, brief_for: Some(whole.clone()) },
        })
    }

    /// Room for an answer of a few words, of so many bytes at most.
    pub async fn words(
        account: &Account,
        bytes: usize,
        within: Duration,
    ) -> Result<Self, Exhausted> {
        let Account { tells, replies, .. } = account;
        if let Some(claim) = tells.try_claim(bytes) {
            return Ok(Self { claim, brief_for: None });
        }
        let claim = replies.claim_within_or(bytes, tells.claim(bytes), within).await?.into_inner();
        Ok(Self { claim, brief_for: None })
    }

    /// What was claimed.
    #[must_use]
    pub fn into_claim(self) -> Claim {
        self.claim
    }
}

// === impl Held ===

impl Held {
    /// There is room for the call itself. The peer has to send its request.
    pub fn begin(&self, mut call: Claim) {
        call.await_peer();
        self.0.lock().call = Some(call);
    }

    /// There is room for more of the request, which the peer has to send.
    pub fn request(&self, claim: Claim) {
        let mut claims = self.0.lock();
        let request = match claims.request.take() {
            Some(request) => request.with(claim),
            None => claim,
        };
        claims.request.insert(request).await_peer();
    }

    /// The peer has sent more. Whoever asked for it has done with all messages before the one
    /// that is open, which has this length.
    pub fn took(&self, open: usize) {
        let mut claims = self.0.lock();
        if let Some(call) = &mut claims.call {
            call.await_peer();
        }
        if let Some(request) = &mut claims.request {
            request.shrink_to(open.min(MESSAGE_BYTES_MAX));
            request.await_peer();
        }
    }

    /// The peer has sent everything, and must perhaps take other answers from this lane first.
    pub fn waits_for(&self, lane: &Lane) {
        self.0.lock().upload().for_each(|claim| claim.await_lane(lane));
    }

    /// There is room for the answer; it is the server's turn.
    pub fn may_answer(&self, granted: Granted) {
        let mut claims = self.0.lock();
        claims.upload().for_each(Claim::await_server);
        claims.answer = Some(granted);
    }

    /// Whether there is only room for a brief answer: of [`BRIEF_PAGE_BYTES`].
    #[must_use]
    pub fn is_brief(&self) -> bool {
        self.0.lock().answer.as_ref().is_some_and(|granted| granted.brief_for.is_some())
    }

    /// The call is answered: what it held goes, but for the room of its answer.
    #[must_use]
    pub fn answered(&self) -> Option<Claim> {
        std::mem::take(&mut *self.0.lock()).answer.map(Granted::into_claim)
    }

    /// Exchanges the room among replies for as much among loads, or for that of a brief answer. What
    /// it had goes first: who waits here keeps nobody else from an answer.
    pub async fn become_load(&self, account: &Account) -> Result<(), Exhausted> {
        self.exchange(&account.loads, Granted::page(account, &account.loads, LOAD_WITHIN)).await
    }

    /// The same for a load that cannot be cut short.
    pub async fn become_whole_load(&self, account: &Account) -> Result<(), Exhausted> {
        self.become_whole_load_within(account, LOAD_WITHIN).await
    }

    /// Is answered from among the replies after all: something of it is no load.
    pub async fn become_reply(&self, account: &Account) -> Result<(), Exhausted> {
        self.exchange(&account.replies, Granted::page(account, &account.replies, LOAD_WITHIN)).await
    }

    /// Exchanges the room of a brief answer for that of any: something of it cannot be cut short.
    pub async fn become_whole(&self) -> Result<(), Exhausted> {
        let whole = self.0.lock().answer.as_ref().and_then(|granted| granted.brief_for.clone());
        let Some(whole) = whole else { return Ok(()) };
        self.exchange(&whole, Granted::whole(&whole, LOAD_WITHIN)).await
    }

    async fn become_whole_load_within(
        &self,
        account: &Account,
        most: Duration,
    ) -> Result<(), Exhausted> {
        self.exchange(&account.loads, Granted::whole(&account.loads, most)).await
    }

    async fn exchange(
        &self,
        lane: &Lane,
        granting: impl Future<Output = Result<Granted, Exhausted>>,
    ) -> Result<(), Exhausted> {
        let before = self.0.lock().answer.take();
        drop(before);
        // Also a call that waits holds something: a peer that asks for more and more, and takes
        // nothing, would otherwise never be cut for it.
        self.waits_for(lane);
        self.may_answer(granting.await?);
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

    fn account(budgets: &Budgets) -> Arc<Account> {
        Arc::new(budgets.account(0, &CancellationToken::new()))
    }

    async fn admitted(account: &Account) -> Held {
        let held = Held::default();
        held.may_answer(Granted::whole(&account.replies, BRIEF).await.unwrap());
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
        late.become_load(&accounts[3]).now_or_never().expect("it may be a brief one").unwrap();
        assert!(late.is_brief());
        assert_eq!(budgets.replies.held(), 0);
        let late = admitted(&accounts[3]).await;
        let refused = late.become_whole_load_within(&accounts[3], BRIEF).await.unwrap_err();
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
        let mut claim = held.answered().unwrap();
        assert_eq!(budgets.loads.held(), (7 * ANSWER_BYTES_MAX).div_ceil(3));
        claim.shrink_to(300);
        assert_eq!(budgets.loads.held(), 700);
    }

    /// G8: while others hold all room, a page gets that of a brief one, and exchanges it for more if it
    /// must; a connection whose own part is used up waits for itself.
    #[tokio::test]
    async fn a_page_is_brief_while_others_hold_all_room() {
        let budgets = Config { replies_mib: 16, ..Config::default() }.budgets();
        let accounts = [(); 5].map(|()| account(&budgets));
        let page = async |account: &Account| {
            Granted::page(account, &account.replies, BRIEF).await.unwrap()
        };
        let mut held = Vec::new();
        for account in &accounts[..3] {
            held.push(page(account).await);
        }
        assert!(held.iter().all(|granted| granted.brief_for.is_none()));
        assert!(page(&accounts[0]).now_or_never().is_none(), "it has to take its own first");

        let late = Held::default();
        late.may_answer(page(&accounts[4]).await);
        assert!(late.is_brief());
        assert_eq!(budgets.briefs.held(), BRIEF_BYTES);
        assert!(late.become_whole().now_or_never().is_none(), "there is no room");
        assert_eq!(budgets.briefs.held(), 0, "it does not keep others from theirs");

        // What is too large for it waits for its own part, and keeps what comes behind it from trying.
        late.may_answer(page(&accounts[4]).await);
        let mut waiting = Box::pin(late.become_whole());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(page(&accounts[4]).now_or_never().is_none());
        drop(waiting);

        late.may_answer(page(&accounts[4]).await);
        drop(held);
        late.become_whole().await.unwrap();
        assert!(!late.is_brief());
        assert_eq!(budgets.replies.held(), 4 * 1024 * 1024, "all of a connection's part");
    }

    /// G8: a few words do not wait for pages that nobody takes, and if there are too many of them they
    /// take the room of pages.
    #[tokio::test]
    async fn words_do_not_wait_for_pages() {
        let budgets = Config { replies_mib: 16, ..Config::default() }.budgets();
        let accounts = [(); 4].map(|()| account(&budgets));
        let words = async |account: &Account| Granted::words(account, 16 * 1024, BRIEF).await;
        let mut held = Vec::new();
        for account in &accounts[..3] {
            held.push(Granted::whole(&account.replies, BRIEF).await.unwrap());
        }
        let replies = budgets.replies.held();
        let said = words(&accounts[3]).await.unwrap();
        assert_eq!((budgets.tells.held(), budgets.replies.held()), (16 * 1024, replies));
        drop((held, said));
        let mut said = Vec::new();
        while budgets.replies.held() == 0 {
            said.push(words(&accounts[3]).await.unwrap());
        }
        assert!(said.len() > 16, "{}", said.len());
    }
}
