//! When the writer does what can wait: between two groups a little, with nothing to do as much as the
//! store takes in without making commits wait.

use std::time::{Duration, Instant};

use sync_proto::types::Timestamp;

use super::Thread;
use crate::engine::purging::Rest;
use crate::store::{Store, StoreError};

/// Under load, this long between two steps of a purge.
pub(super) const PURGE_PAUSE: Duration = Duration::from_millis(20);

/// How long a step of a purge may hold up commits: so long as a rule, longer from step to step
/// while more is kept than the settings allow. At the end purging has more than half of the
/// writer's time, so a cap wins over whoever deletes as fast as the server lets them.
pub(super) const PURGE_STEP_MIN: Duration = Duration::from_millis(5);
const PURGE_STEP_MAX: Duration = Duration::from_millis(40);

/// With nothing to do, this long between two looks for something to purge.
const PURGE_ROUND: Duration = Duration::from_secs(1);

// === impl Thread ===

impl<S: Store> Thread<S> {
    /// Whether there is time for what can wait.
    pub(super) fn is_free(&self) -> bool {
        self.jobs.is_empty() && !self.ledger.is_behind()
    }

    /// With nothing to do, this long between two purges.
    pub(super) fn purge_round(&self) -> Duration {
        if self.unfinished { PURGE_PAUSE } else { PURGE_ROUND }
    }

    /// Purges between two groups.
    pub(super) fn purge_between(&mut self) -> Result<(), StoreError> {
        if self.ledger.is_behind() {
            return Ok(());
        }
        let began = Instant::now();
        self.tend(|_| began.elapsed() < PURGE_STEP_MIN)?;
        let (began, most) = (Instant::now(), self.purge_step);
        let rest = self.ledger.purge_step(Timestamp::now(), &mut || began.elapsed() < most)?;
        self.purge_step = match rest {
            Rest::Surplus => PURGE_STEP_MAX.min(most * 2),
            Rest::Nothing | Rest::More => PURGE_STEP_MIN,
        };
        self.last_purge = Instant::now();
        Ok(())
    }

    /// Steps of the work for followers, one at least; whether there is more. When there was none,
    /// it is looked for again after a while: that takes a look at every rate.
    pub(super) fn tend(&mut self, go_on: impl Fn(&Self) -> bool) -> Result<bool, StoreError> {
        if self.tended.is_some_and(|at| at.elapsed() < PURGE_ROUND) {
            return Ok(false);
        }
        loop {
            let more = self.ledger.tend_audiences(Timestamp::now())?;
            self.announce(None);
            self.tended = (!more).then(Instant::now);
            if !more || !go_on(self) {
                return Ok(more);
            }
        }
    }

    /// Purges until somebody wants to write.
    pub(super) fn purge_idle(&mut self) -> Result<Rest, StoreError> {
        let more = self.tend(Self::is_free)?;
        let rest = self.ledger.purge_step(Timestamp::now(), &mut || self.is_free())?;
        self.last_purge = Instant::now();
        self.unfinished = rest != Rest::Nothing || more;
        Ok(if rest == Rest::Nothing && more { Rest::More } else { rest })
    }
}
