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
        // Makes way, but not for ever: whoever writes all the time must not keep a cap from winning.
        let hurries = self.purge_step > PURGE_STEP_MIN;
        if self.ledger.is_behind() && !hurries && self.last_purge.elapsed() < PURGE_ROUND {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sync_proto::types::{CollectionName, Commit, Key, Mutation, Op, Value};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::request::Request;
    use crate::core::retention::Retention;
    use crate::engine::hub::Hub;
    use crate::engine::ledger::{Ledger, Settings};
    use crate::engine::reserving::Reserved;
    use crate::engine::writer::Writer;
    use crate::metrics::Metrics;
    use crate::store::memory::MemoryStore;

    fn commit(op: impl Fn(Key) -> Op) -> Request {
        let collection = CollectionName::new("c").unwrap();
        let key = |number: u8| Key::new(vec![number]).unwrap();
        let mutation = |number| Mutation { collection: collection.clone(), op: op(key(number)) };
        let mutations = (0..200).map(mutation).collect();
        let commit =
            Commit { mutations, preconditions: Vec::new(), idempotency_key: String::new() };
        Request::Commit { commit, fingerprint: [0; 16] }
    }

    /// G8: purges make way for commits of a store that is behind, but whoever writes without a pause
    /// does not keep more tombstones there than the cap allows.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_cap_wins_over_a_store_that_is_always_behind() {
        let store = MemoryStore::new();
        store.set_behind(true);
        let retention = Retention { tombstones_max: 0, ..Settings::default().retention };
        let settings = Settings { retention, ..Settings::default() };
        let ledger = Arc::new(Ledger::open(store, settings, &mut |_| {}).unwrap());
        let (hub, fatal) = (Arc::new(Hub::default()), CancellationToken::new());
        let (writer, queue) =
            Writer::start(Arc::clone(&ledger), hub, Metrics::off(), fatal).unwrap();
        let put = |key| Op::Put { key, value: Value::new(&b"x"[..]).unwrap(), sort_key: None };
        let began = Instant::now();
        let (mut least, mut rounds) = (u64::MAX, 0);
        while least >= 100 && began.elapsed() < PURGE_ROUND * 20 {
            queue.commit(commit(put), Reserved::default()).await.unwrap();
            queue.commit(commit(|key| Op::Delete { key }), Reserved::default()).await.unwrap();
            rounds += 1;
            // Something else writes meanwhile, and changes no tombstones.
            for _ in 0..20 {
                queue.commit(commit(|key| Op::Delete { key }), Reserved::default()).await.unwrap();
            }
            let head = ledger.head(&CollectionName::new("c").unwrap()).unwrap();
            least = least.min(head.tombstones);
        }
        assert!(least < 100, "{least} tombstones are left at least after {rounds} rounds");
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap().unwrap();
    }
}
