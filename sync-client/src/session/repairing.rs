//! When a copy must be put right, in which way, and what keeps a repair that does not help from
//! being repeated for ever. Pure.

use std::time::{Duration, Instant};

use sync_proto::types::{CollectionName, Reset, ResetReason};

use super::cost::{Choice, Facts, choose};
use super::mending::Mending;
use super::status::{RepairHow, RepairReason};
use super::track::Track;
use super::{Action, Context};
use crate::backoff::part_of;

/// A repair that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repair {
    pub(super) reason: RepairReason,
    pub(super) how: RepairHow,
    /// Several have not helped.
    pub(super) stuck: bool,
}

/// A copy that was good for this long may be repaired at once; before, repairs wait.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// Repairs that follow each other closely, after which a copy is loaded whatever that costs.
const ATTEMPTS_BY_COST: u32 = 3;
/// After so many the copy is stuck: somebody should look.
const ATTEMPTS_UNTIL_STUCK: u32 = 6;
/// A copy that is stuck is tried again this often, give or take a half.
const STUCK_RETRY: Duration = Duration::from_secs(30 * 60);
/// Bytes of an item while nothing is known of the server's.
const ITEM_BYTES_GUESS: u64 = 100;

// === impl Track ===

impl Track {
    /// Puts the copy right. Repairs that follow each other closely wait longer and longer, so
    /// that one which does not help is not repeated for ever.
    pub(super) fn repair(
        &mut self,
        name: &CollectionName,
        reason: RepairReason,
        cx: &mut Context<'_>,
    ) {
        *cx.stats.repairs.entry(reason).or_default() += 1;
        let was_good = self.good_since.take();
        if was_good.is_some_and(|since: Instant| cx.now - since >= GOOD_FOR) {
            self.repairs.reset();
            self.repaired = None;
        }
        let at = self.standing.active();
        let attempts = self.repairs.attempts();
        let same = self.repaired.replace((reason, at)) == Some((reason, at));
        let facts = self.facts(reason, same || attempts >= ATTEMPTS_BY_COST, cx);
        let choice = choose(&facts);
        let stuck = attempts >= ATTEMPTS_UNTIL_STUCK;
        cx.stats.stuck += u64::from(attempts == ATTEMPTS_UNTIL_STUCK);
        self.drop_mend();
        self.caught_up = false;
        // What a stream brings meanwhile proves nothing of the deletes that were missed before.
        self.unverified = choice.how == RepairHow::Delta;
        self.verify = choice.how == RepairHow::Delta;
        self.fresh = choice.how != RepairHow::Delta;
        self.mend = (choice.how == RepairHow::Reconcile).then(|| Mending::new(facts));
        self.repair = Some(Repair { reason, how: choice.how, stuck });
        chosen(name, choice, cx);
        let wait = self.repairs.next(cx.dice);
        let wait = match attempts {
            0 => Duration::ZERO,
            _ if stuck => STUCK_RETRY / 2 + part_of(STUCK_RETRY, cx.dice),
            _ => wait,
        };
        self.keep_back(wait, cx.now);
    }

    fn facts(&self, reason: RepairReason, again: bool, cx: &Context<'_>) -> Facts {
        let known = self.total > 0 || self.total_bytes > 0;
        let ours = self.standing.tally.items;
        let continued = reason == RepairReason::Reset(ResetReason::BelowFloor)
            && !self.verify
            && self.standing.load.is_none()
            && self.scope.is_all();
        Facts {
            reason,
            items: if known { self.total } else { ours },
            bytes: if known { self.total_bytes } else { ours * ITEM_BYTES_GUESS },
            behind: continued.then_some(self.behind),
            // Only a whole collection has sums to compare with.
            comparable: *cx.compares
                && self.scope.is_all()
                && self.standing.cursor.is_some()
                && ours > 0,
            again,
        }
    }

    /// Comparing is given up, for a load.
    pub(super) fn load_instead(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        let Some(mend) = self.mend.take() else { return };
        self.pull = super::track::PullState::Idle;
        if let Some(repair) = &mut self.repair {
            repair.how = RepairHow::Load;
        }
        let choice = Choice { how: RepairHow::Load, ..choose(&mend.facts) };
        chosen(name, choice, cx);
        self.pull_soon(cx.now);
    }

    /// The server has answered from an older state than it has shown: an older store is in its
    /// place.
    pub(super) fn is_ahead(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        self.behind = 0;
        self.repair(name, RepairReason::Reset(ResetReason::AheadOfHead), cx);
    }

    /// A reset of the server, about the copy.
    pub(super) fn start_over(
        &mut self,
        name: &CollectionName,
        reset: &Reset,
        cx: &mut Context<'_>,
    ) {
        let at = self.active().map_or(0, |at| at.version.get());
        self.behind = reset.head.version.get().saturating_sub(at);
        self.repair(name, RepairReason::Reset(reset.reason), cx);
    }

    /// Whether a reset is about where the copy stands now, and not about a place that it has
    /// left since the server looked.
    pub(super) fn is_concerned(&self, reset: &Reset) -> bool {
        let Some(at) = self.active() else { return false };
        let same = at.epoch == reset.head.epoch;
        match reset.reason {
            ResetReason::EpochChanged => !same,
            ResetReason::AheadOfHead => same && at.version.max(at.base) > reset.head.version,
            ResetReason::BelowFloor => same && at.version.max(at.base) < reset.head.floor,
            ResetReason::TooLarge | ResetReason::Forced => true,
        }
    }
}

fn chosen(name: &CollectionName, choice: Choice, cx: &mut Context<'_>) {
    *cx.stats.repair_ways.entry(choice.how).or_default() += 1;
    cx.actions.push_back(Action::Chosen(name.clone(), choice));
}
