//! Many collections in one answer. Synchronous; what a target's answer means on the wire is for
//! `rpc::sync`.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sync_proto::types::{CollectionName, Malformed, Outcome, Polled, Pull, Target};

use super::ledger::Ledger;
use super::reading::PageRequest;
use crate::core::page::PageLimits;
use crate::core::route::LookLimits;
use crate::store::{Store, StoreError};

#[cfg(test)]
mod tests;

/// How much one call may cost.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Looks into the store, besides one for each target, before the rest of the targets is
    /// deferred. A target in a large part of a larger log takes many.
    looks: usize,
    look: LookLimits,
}

/// Why one target has no answer. The others do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The target is not well-formed.
    #[error(transparent)]
    Malformed(Malformed),
    /// Storage failed.
    #[error("storage failed")]
    Store(#[source] StoreError),
}

/// The answer to one target.
pub type Answer = Result<Outcome<Bytes>, TargetError>;

/// The answer to one target, and what is said besides.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub outcome: Answer,
    /// What an inbox does not announce.
    pub polled: Polled,
}

// === impl Answered ===

impl From<Answer> for Answered {
    fn from(outcome: Answer) -> Self {
        Self { outcome, polled: Polled::default() }
    }
}

// === impl Effort ===

impl Effort {
    const FULL: Self = Self { looks: 64, look: LookLimits::FULL };
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Answers the targets. The byte budget is shared fairly: each target may take an equal part
    /// of what is left, and what it does not need goes to those behind it. `first` is whose turn
    /// comes first, chosen by chance: otherwise a target behind a busy one could be deferred for
    /// ever. `cancelled`: nobody waits for the answer any more. Targets that begin from the last
    /// ack have their cursors already ([`Ledger::resume`]).
    pub fn pull(
        &self,
        pull: &Pull,
        first: usize,
        may_read: impl Fn(&CollectionName) -> bool,
        cancelled: &AtomicBool,
    ) -> Vec<Answered> {
        self.pull_within(Effort::FULL, pull, first, may_read, cancelled)
    }

    fn pull_within(
        &self,
        effort: Effort,
        pull: &Pull,
        first: usize,
        may_read: impl Fn(&CollectionName) -> bool,
        cancelled: &AtomicBool,
    ) -> Vec<Answered> {
        let count = pull.targets.len();
        let mut left = pull.bytes_max;
        let mut looks = effort.looks + count;
        let mut answers: Vec<Answered> = Vec::new();
        answers.resize_with(count, || Answer::Ok(Outcome::Deferred(None)).into());
        for turn in 0..count {
            if cancelled.load(Ordering::Relaxed) {
                break;
            }
            // The first turn always gets on, whatever it costs: so does every reply.
            let spent = turn > 0 && looks == 0;
            let index = (first + turn) % count;
            // Before anything is sent, one version may be as large as a commit can be: so every
            // reply makes progress, and none exceeds the message limit.
            let nothing_yet = left == pull.bytes_max;
            let limits = PageLimits {
                changes_max: pull.changes_max,
                bytes_max: left / (count - turn),
                first_version_bytes_max: if nothing_yet { usize::MAX } else { left },
            };
            answers[index] = match &pull.targets[index] {
                Err(error) => Err(TargetError::Malformed(error.clone())).into(),
                Ok(target) if !may_read(&target.collection) => Ok(Outcome::Denied).into(),
                // Whoever needs no look is answered all the same.
                Ok(target) if spent => Ok(self.judge_all(target, limits, effort.look)).into(),
                Ok(target) => {
                    let asked = request(target, limits, effort.look);
                    let switches = self.switches();
                    let answered = self.page(&asked, &mut looks, cancelled);
                    let answered = answered.and_then(|(outcome, size)| {
                        left = left.saturating_sub(size);
                        let room = (left, nothing_yet && size == 0);
                        let polled = self.polled(target, &outcome, room, &mut looks, cancelled);
                        let (mut polled, size) = polled?;
                        // Switched after the page and before the poll: neither told of it.
                        polled.more |= self.switches() != switches
                            && target.collection.is_inbox()
                            && self.has_moved_on(&target.collection, &outcome);
                        left = left.saturating_sub(size);
                        Ok(Answered { outcome: Ok(outcome), polled })
                    });
                    answered.unwrap_or_else(|error| Err(TargetError::Store(error)).into())
                }
            };
        }
        answers
    }

    /// Whether a collection stands behind what an outcome tells to its end.
    fn has_moved_on(&self, collection: &CollectionName, outcome: &Outcome<Bytes>) -> bool {
        let told = match outcome {
            Outcome::Aligned(head) => head.cursor(),
            Outcome::Delta(delta) if !delta.has_more => delta.to,
            Outcome::Delta(_)
            | Outcome::Reset(_)
            | Outcome::Denied
            | Outcome::NotFound
            | Outcome::Deferred(_)
            | Outcome::Failed(_) => return false,
        };
        self.head(collection).is_some_and(|head| head.cursor() != told)
    }

    /// What can be said of a target without a look. Of an inbox that is not enough: what it does
    /// not announce takes a look.
    fn judge_all(&self, target: &Target, limits: PageLimits, look: LookLimits) -> Outcome<Bytes> {
        let outcome = self.judge(&request(target, limits, look));
        if let Outcome::Aligned(head) = outcome
            && target.collection.is_inbox()
            && !self.announces_everything()
        {
            return Outcome::Deferred(Some(head));
        }
        outcome
    }
}

fn request(target: &Target, limits: PageLimits, look: LookLimits) -> PageRequest<'_> {
    PageRequest {
        collection: &target.collection,
        cursor: target.cursor,
        scope: &target.scope,
        keys_only: target.keys_only,
        verify: target.verify,
        catch_up_max: target.changes_max,
        limits,
        look,
    }
}
