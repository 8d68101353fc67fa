//! How often somebody may commit, and how much: a bucket of commits and one of mutations for each.
//! Pure: the clock comes in. A bucket is one moment, up to which what was taken is paid for; one whose
//! moment has passed is full, and forgotten: it is like one that never was.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Buckets that are remembered. Those of who commits least are forgotten above it, which gives them
/// a full one.
const HOLDERS_MAX: usize = 65_536;

/// Full buckets are looked for when there are twice as many as were left the last time, and not
/// before there are so many.
const SWEEP_MIN: usize = 1_024;

/// What is allowed in a second; 0 = any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Commits.
    pub commits_per_s: u64,
    /// Mutations of commits.
    pub mutations_per_s: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Commits.
    Commits,
    /// Mutations of commits.
    Mutations,
}

/// Somebody commits too fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {per_s} a second, and they are used up; retry later", .counted.quota())]
pub struct TooFast {
    /// What there was too much of.
    pub counted: Counted,
    /// How much of it a second is allowed.
    pub per_s: u64,
    /// After this there is room again.
    pub wait: Duration,
}

/// The buckets of everybody.
#[derive(Debug)]
pub struct Rates<K> {
    burst: Duration,
    paid: HashMap<K, Paid>,
    sweep_at: usize,
}

/// Up to when what was taken is paid for.
#[derive(Debug, Clone, Copy, Default)]
struct Paid {
    commits: Duration,
    mutations: Duration,
}

// === impl Pace ===

impl Pace {
    /// Whether nothing is counted.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Counted ===

impl Counted {
    /// The name of the quota.
    #[must_use]
    pub const fn quota(self) -> &'static str {
        match self {
            Self::Commits => "commits_per_s",
            Self::Mutations => "mutations_per_s",
        }
    }
}

// === impl Rates ===

impl<K: Eq + Hash> Rates<K> {
    /// Full buckets, which hold what is allowed in so long.
    #[must_use]
    pub fn new(burst: Duration) -> Self {
        Self { burst, paid: HashMap::new(), sweep_at: SWEEP_MIN }
    }

    /// Takes one commit of so many mutations out of somebody's buckets, or nothing. What is larger
    /// than a bucket passes when that is full, and is paid for afterwards.
    pub fn take(
        &mut self,
        holder: K,
        pace: Pace,
        mutations: u64,
        now: Duration,
    ) -> Result<(), TooFast> {
        let paid = self.paid.get(&holder).copied().unwrap_or_default();
        let judge = |counted, paid, count, per_s| {
            let wait = |wait| TooFast { counted, per_s, wait };
            pay(paid, cost(count, per_s), self.burst, now).map_err(wait)
        };
        let commits = judge(Counted::Commits, paid.commits, 1, pace.commits_per_s)?;
        let mutations = judge(Counted::Mutations, paid.mutations, mutations, pace.mutations_per_s)?;
        self.paid.insert(holder, Paid { commits, mutations });
        self.forget(now);
        Ok(())
    }

    /// How many buckets are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paid.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paid.is_empty()
    }

    fn forget(&mut self, now: Duration) {
        if self.paid.len() < self.sweep_at {
            return;
        }
        self.paid.retain(|_, paid| paid.latest() > now);
        if self.paid.len() >= HOLDERS_MAX {
            let mut moments: Vec<Duration> = self.paid.values().map(Paid::latest).collect();
            let middle = moments.len() / 2;
            let (_, middle, _) = moments.select_nth_unstable(middle);
            let middle = *middle;
            self.paid.retain(|_, paid| paid.latest() > middle);
        }
        self.sweep_at = (2 * self.paid.len()).clamp(SWEEP_MIN, HOLDERS_MAX);
    }
}

// === impl Paid ===

impl Paid {
    fn latest(&self) -> Duration {
        self.commits.max(self.mutations)
    }
}

/// How long it takes until so many are allowed.
fn cost(count: u64, per_s: u64) -> Duration {
    if per_s == 0 {
        return Duration::ZERO;
    }
    let nanos = u128::from(count) * 1_000_000_000 / u128::from(per_s);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Up to when it is paid for then; or how long to wait first.
fn pay(
    paid: Duration,
    cost: Duration,
    burst: Duration,
    now: Duration,
) -> Result<Duration, Duration> {
    let used = paid.saturating_sub(now);
    let allowed = burst.saturating_sub(cost);
    if cost.is_zero() || used <= allowed {
        return Ok(paid.max(now).saturating_add(cost));
    }
    Err(used.saturating_sub(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Duration = Duration::from_secs(2);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A burst passes at once, then as many a second as are allowed; others have buckets of their
    /// own, and who waits as long as was said is served.
    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let pace = Pace { commits_per_s: 10, mutations_per_s: 0 };
        let mut rates = Rates::new(BURST);
        for _ in 0..20 {
            rates.take("a", pace, 5_000, at(0)).unwrap();
        }
        let refused = rates.take("a", pace, 1, at(0)).unwrap_err();
        assert_eq!((refused.counted, refused.wait), (Counted::Commits, at(100)));
        assert!(refused.to_string().starts_with("commits_per_s: 10 a second"), "{refused}");
        rates.take("b", pace, 1, at(0)).unwrap();
        rates.take("a", pace, 1, at(100)).unwrap();
        let mut served = 0;
        for millis in 100..10_100 {
            served += u32::from(rates.take("a", pace, 1, at(millis)).is_ok());
        }
        assert_eq!(served, 100, "ten a second");
    }

    /// What is refused takes nothing; what is larger than the bucket passes when it is full.
    #[test]
    fn large_commits_are_paid_for_afterwards() {
        let pace = Pace { commits_per_s: 100, mutations_per_s: 100 };
        let mut rates = Rates::new(BURST);
        rates.take("a", pace, 1_000, at(0)).unwrap();
        let refused = rates.take("a", pace, 1, at(0)).unwrap_err();
        assert_eq!((refused.counted, refused.wait), (Counted::Mutations, at(8_010)));
        assert!(rates.take("a", pace, 1, at(8_009)).is_err());
        rates.take("a", pace, 1, at(8_010)).unwrap();
        // Deleting a collection is a commit without mutations.
        rates.take("a", pace, 0, at(8_010)).unwrap();
    }

    /// G8: however many come, only so many are remembered, those who commit most; who is idle is
    /// forgotten.
    #[test]
    fn memory_is_bounded() {
        let pace = Pace { commits_per_s: 1, mutations_per_s: 0 };
        let mut rates = Rates::new(BURST);
        for _ in 0..2 {
            rates.take(u64::MAX, pace, 1, at(0)).unwrap();
        }
        for number in 0..3 * HOLDERS_MAX as u64 {
            rates.take(number, pace, 1, at(0)).unwrap();
            assert!(rates.len() <= HOLDERS_MAX);
        }
        assert!(rates.take(u64::MAX, pace, 1, at(0)).is_err(), "the busiest is remembered");
        for number in 0..2 * SWEEP_MIN as u64 {
            rates.take(number, pace, 1, at(60_000 + 10 * number)).ok();
        }
        assert!(rates.len() < 2 * SWEEP_MIN, "{}", rates.len());
    }
}
