//! Wakes the followers of crowded collections, on a thread of its own, in rounds. The writer does
//! not wait until thousands are woken; and a collection that is written to without a pause wakes
//! each of them once in a round, for all that was committed since the last one.
//!
//! ```text
//! group durable ─► collection due ─► its round has ended? ─► page for all ─► all woken
//!                                        │ no                                   │
//!                                        └── waits, other groups join it   next round
//! ```
//! A round is as long as it takes to serve so many: the larger the crowd, the more each message
//! brings. While much is committed rounds are longer, so that commits get their share of the
//! processor, as a network card that is busy interrupts less often. After a rest the first commit is
//! told at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sync_proto::types::CollectionName;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::ledger::Ledger;
use crate::core::page::PageLimits;
use crate::store::Store;

/// What a round is given for each follower: about what it costs the server to tell one.
const ROUND_EACH: Duration = Duration::from_micros(8);

/// No round is longer, unless much is committed: this is the most that a change is told later
/// because of the crowd.
const ROUND_MAX: Duration = Duration::from_millis(10);

/// So many versions in a round are much, and make the next one so many times as long.
const BUSY_VERSIONS: u64 = 8;
const BUSY_TIMES: u32 = 4;

/// Ends of rounds that are remembered; more than so many crowds are not busy at once as a rule.
const ROUNDS_MAX: usize = 1_024;

/// The thread. Dropping this ends and joins it, after the round that it is in.
#[derive(Debug)]
pub struct Herald {
    hub: Arc<Hub>,
    thread: Option<JoinHandle<()>>,
}

/// When each crowd may be woken again, and which are to be.
#[derive(Debug, Default)]
struct Rounds {
    ends: BTreeMap<CollectionName, Instant>,
    waiting: BTreeMap<CollectionName, Instant>,
}

// === impl Herald ===

impl Herald {
    /// Starts the thread. From now on the hub leaves crowds to it. Should it ever panic, `fatal` is
    /// cancelled: without it crowds would wait for their heartbeats.
    pub fn start<S: Store>(
        ledger: Arc<Ledger<S>>,
        hub: Arc<Hub>,
        fatal: CancellationToken,
    ) -> std::io::Result<Self> {
        let told = Arc::clone(&hub);
        let run = move || {
            let fatal = fatal.drop_guard();
            run(&ledger, &told);
            fatal.disarm();
        };
        let thread = std::thread::Builder::new().name("herald".to_owned()).spawn(run)?;
        Ok(Self { hub, thread: Some(thread) })
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.hub.close_crowds();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that wakes followers has panicked");
        }
    }
}

fn run<S: Store>(ledger: &Ledger<S>, hub: &Hub) {
    let mut rounds = Rounds::default();
    while let Some(due) = hub.crowds_due(rounds.next()) {
        let now = Instant::now();
        for name in rounds.take(due, now) {
            let versions = ledger.prepare_tail(&name, PageLimits::FULL);
            let woken = hub.wake(&name);
            rounds.woke(name, woken, versions, now);
        }
    }
    // The hub wakes who is due at the end; these had been taken from it.
    for name in rounds.waiting.keys() {
        hub.wake(name);
    }
}

// === impl Rounds ===

impl Rounds {
    /// When somebody who waits may be woken.
    fn next(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Who is woken now, of those who are due and those who have waited.
    fn take(&mut self, due: Vec<CollectionName>, now: Instant) -> Vec<CollectionName> {
        for name in due {
            let at = self.ends.get(&name).copied().unwrap_or(now);
            self.waiting.entry(name).or_insert(at);
        }
        let ready = self.waiting.iter().filter(|(_, at)| **at <= now);
        let ready: Vec<_> = ready.map(|(name, _)| name.clone()).collect();
        for name in &ready {
            self.waiting.remove(name);
        }
        ready
    }

    /// So many were woken and told of so many versions, which begins a round.
    fn woke(&mut self, name: CollectionName, woken: usize, versions: u64, now: Instant) {
        let each = u32::try_from(woken).unwrap_or(u32::MAX);
        let round = ROUND_EACH.saturating_mul(each).min(ROUND_MAX);
        let times = if versions >= BUSY_VERSIONS { BUSY_TIMES } else { 1 };
        self.ends.insert(name, now + round * times);
        if self.ends.len() > ROUNDS_MAX {
            self.ends.retain(|_, end| *end > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::engine::hub::Listener;
    use crate::engine::ledger::Settings;
    use crate::engine::tails::CROWD_MIN;
    use crate::store::memory::MemoryStore;

    fn name(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    /// A crowd is woken at once after a rest, and once in a round while it is busy, whatever others
    /// do; nobody is forgotten.
    #[test]
    fn a_busy_crowd_is_woken_once_in_a_round() {
        let mut rounds = Rounds::default();
        let (began, hot) = (Instant::now(), name("hot"));
        assert_eq!(rounds.take(vec![hot.clone()], began), slice::from_ref(&hot));
        rounds.woke(hot.clone(), 1_000, 1, began);
        assert_eq!(rounds.next(), None);
        let round = ROUND_EACH * 1_000;
        for part in 1..4 {
            let due = vec![hot.clone(), name("other")];
            assert_eq!(rounds.take(due, began + round * part / 4), [name("other")]);
        }
        assert_eq!(rounds.next(), Some(began + round));
        assert_eq!(rounds.take(Vec::new(), began + round), slice::from_ref(&hot));
        rounds.woke(hot.clone(), 1_000_000, BUSY_VERSIONS - 1, began + round);
        assert_eq!(rounds.take(vec![hot.clone()], began + round), [] as [CollectionName; 0]);
        let next = began + round + ROUND_MAX;
        assert_eq!(rounds.next(), Some(next));
        assert_eq!(rounds.take(Vec::new(), next), slice::from_ref(&hot));
        rounds.woke(hot.clone(), 1_000_000, BUSY_VERSIONS, next);
        assert_eq!(rounds.take(vec![hot.clone()], next + ROUND_MAX), [] as [CollectionName; 0]);
        assert_eq!(rounds.next(), Some(next + BUSY_TIMES * ROUND_MAX));
    }

    /// G8: what is remembered of crowds that are quiet again is forgotten.
    #[test]
    fn rounds_that_have_ended_are_forgotten() {
        let mut rounds = Rounds::default();
        let began = Instant::now();
        for number in 0..=ROUNDS_MAX {
            rounds.woke(name(&format!("{number}")), 1, 1, began);
        }
        rounds.woke(name("late"), 1, 1, began + ROUND_MAX);
        assert_eq!(rounds.ends.len(), 1);
    }

    /// Followers of a crowded collection are woken by the thread, soon, and others by whoever
    /// announces; when the thread ends, also those whose round had not come.
    #[tokio::test]
    async fn a_crowd_is_woken_by_the_herald() {
        let store = MemoryStore::new();
        let ledger = Arc::new(Ledger::open(store, Settings::default(), &mut |_| {}).unwrap());
        let hub = Arc::new(Hub::default());
        let fatal = CancellationToken::new();
        let herald = Herald::start(ledger, Arc::clone(&hub), fatal.clone()).unwrap();
        let listen = || hub.listen(vec![name("hot")]);
        let crowd: Vec<_> = (0..CROWD_MIN).map(|_| listen()).collect();
        for _ in 0..100 {
            hub.announce(&[name("hot")]);
            for listener in &crowd {
                let moved = tokio::time::timeout(Duration::from_secs(10), listener.moved());
                assert_eq!(moved.await.unwrap(), [0].into());
            }
        }
        // Long enough a round for the next announcement to wait for its end.
        let _larger: Vec<_> = (0..1_250).map(|_| listen()).collect();
        hub.announce(&[name("hot")]);
        let moved = async |listener: &Listener| {
            let moved = tokio::time::timeout(Duration::from_secs(10), listener.moved());
            assert_eq!(moved.await.expect("everybody is woken"), [0].into());
        };
        moved(&crowd[0]).await;
        hub.announce(&[name("hot")]);
        until_taken(&hub);
        drop(herald);
        assert!(!fatal.is_cancelled());
        moved(&crowd[0]).await;
        hub.announce(&[name("hot")]);
        moved(&crowd[0]).await;
    }

    /// Waits until the herald has taken what is due.
    fn until_taken(hub: &Hub) {
        let began = Instant::now();
        while hub.is_crowd_due() {
            assert!(began.elapsed() < Duration::from_secs(10), "the herald takes nothing");
            std::thread::yield_now();
        }
    }
}
