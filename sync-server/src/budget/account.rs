//! The budgets of a server, and what one connection may hold of each.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Budget, CONNECTION_SHARE, Claim, Exhausted, Lane, Weight};
use crate::flight::CALL_BYTES;

/// The setting that the budget of first loads and reconciliations comes from.
pub const LOADS_SETTING: &str = "loads_mib";

/// What an answer may hold that is kept small because others hold all room.
pub const BRIEF_BYTES: usize = 64 * 1024;

/// Requests of one connection that may wait for room: fewer than fill the connection's window, so
/// that those for which there is room get on.
pub const WAITING_UPLOADS_MAX: usize = 12;

/// One connection may hold this part of what first loads may: more, because that is less, so that a
/// connection that is alone makes as many side by side as other answers.
const LOADS_CONNECTION_SHARE: usize = 2;

/// And this part of what answers of a few words may: they are many at a time.
const TELLS_CONNECTION_SHARE: usize = 2;

/// Calls of a connection that wait for room. More are refused at once.
const WAITING_CALLS: usize = 64;

/// So many calls of a connection are its first: few, for the same reason as the next.
const FIRST_CALLS: usize = 8;

/// What one connection may hold of small answers: two that are made, which is little, because many
/// connections that take nothing must not be able to hold all of it.
const BRIEFS_CONNECTION_BYTES: usize = 2 * BRIEF_BYTES;

/// What one connection may hold, of each budget.
#[derive(Debug, Clone)]
pub struct Account {
    /// Tells connections apart.
    pub connection: u64,
    /// Calls, whatever they are about.
    pub calls: Lane,
    /// The first of them: whoever makes few at a time finds room also when others make all there may
    /// be.
    pub first_calls: Lane,
    /// Places for calls that wait for that: also such a call costs something.
    pub waiting_calls: Lane,
    /// Requests that arrive or are worked on.
    pub requests: Lane,
    /// Requests that wait for room. What they have sent stays with the transport, where it takes
    /// the place of others of the connection.
    pub uploads: Arc<Semaphore>,
    /// Answers that are made or have not been taken.
    pub replies: Lane,
    /// Those of a few words, which need not wait for others to be taken.
    pub tells: Lane,
    /// Those that were kept small because others hold all room.
    pub briefs: Lane,
    /// Answers to first loads and reconciliations.
    pub loads: Lane,
    /// Messages of subscriptions that have not been taken.
    pub pages: Lane,
    /// The same of those that many subscribers share.
    pub shared_pages: Lane,
}

/// The budgets of a server.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Of [`Account::calls`].
    pub calls: Budget,
    /// Of [`Account::first_calls`].
    pub first_calls: Budget,
    /// Of [`Account::waiting_calls`], in calls.
    pub waiting_calls: Budget,
    /// Of [`Account::requests`].
    pub requests: Budget,
    /// Of [`Account::replies`].
    pub replies: Budget,
    /// Of [`Account::tells`].
    pub tells: Budget,
    /// Of [`Account::briefs`].
    pub briefs: Budget,
    /// Of [`Account::loads`].
    pub loads: Budget,
    /// Of [`Account::pages`].
    pub pages: Budget,
    /// Of [`Account::shared_pages`].
    pub shared_pages: Budget,
}

// === impl Account ===

impl Account {
    /// Room for a call, which is waited for if not too many do.
    pub async fn call(&self, within: Duration) -> Result<Claim, Exhausted> {
        if let Some(claim) = self.first_calls.try_claim(CALL_BYTES) {
            return Ok(claim);
        }
        if let Some(claim) = self.calls.try_claim(CALL_BYTES) {
            return Ok(claim);
        }
        let Some(_place) = self.waiting_calls.try_claim(1) else {
            return Err(self.calls.exhausted());
        };
        let first = self.first_calls.claim(CALL_BYTES);
        let claim = self.calls.claim_within_or(CALL_BYTES, first, within).await?;
        Ok(claim.into_inner())
    }

    /// The same account, for a call whose answer costs so much: shared, because a copy costs a call
    /// more than its answer may.
    #[must_use]
    pub fn weighing(self: &Arc<Self>, weight: Weight) -> Arc<Self> {
        if weight == Weight::PLAIN {
            return Arc::clone(self);
        }
        Arc::new(Self {
            replies: self.replies.weighing(weight),
            tells: self.tells.weighing(weight),
            briefs: self.briefs.weighing(weight),
            loads: self.loads.weighing(weight),
            pages: self.pages.weighing(weight),
            shared_pages: self.shared_pages.weighing(weight),
            ..Self::clone(self)
        })
    }
}

// === impl Budgets ===

impl Budgets {
    /// The parts of one connection.
    #[must_use]
    pub fn account(&self, connection: u64, cut: &CancellationToken) -> Account {
        // Of all that the setting grants, so that also the least of it has room for one answer.
        let replies = [&self.replies, &self.tells, &self.briefs].map(Budget::total);
        let replies = replies.iter().sum::<usize>() / CONNECTION_SHARE;
        let calls = (self.calls.total() + self.first_calls.total()) / CONNECTION_SHARE;
        Account {
            connection,
            uploads: Arc::new(Semaphore::new(WAITING_UPLOADS_MAX)),
            calls: self.calls.part(calls, cut.clone()),
            waiting_calls: self.waiting_calls.part(WAITING_CALLS, cut.clone()),
            first_calls: self.first_calls.part(FIRST_CALLS * CALL_BYTES, cut.clone()),
            requests: self.requests.lane(cut.clone()),
            replies: self.replies.part(replies, cut.clone()),
            tells: self.tells.part(self.tells.total() / TELLS_CONNECTION_SHARE, cut.clone()),
            briefs: self.briefs.part(BRIEFS_CONNECTION_BYTES, cut.clone()),
            loads: self.loads.part(self.loads.total() / LOADS_CONNECTION_SHARE, cut.clone()),
            pages: self.pages.lane(cut.clone()),
            shared_pages: self.shared_pages.lane(cut.clone()),
        }
    }
}
