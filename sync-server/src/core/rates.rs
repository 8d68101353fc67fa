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
    holders: HashMap<K, Used>,
    sweep_at: usize,
}

/// What one holder has used.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    commits: Bucket,
    mutations: Bucket,
}

/// Up to when what was taken is paid for, at this pace.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    paid: Duration,
    per_s: u64,
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
        Self { burst, holders: HashMap::new(), sweep_at: SWEEP_MIN }
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
        let used = self.judge(&holder, pace, mutations, now)?;
        self.holders.insert(holder, used);
        self.forget(now);
        Ok(())
    }

    /// Gives back mutations that were taken, because nothing was changed.
    pub fn give_back(&mut self, holder: &K, mutations: u64) {
        if let Some(used) = self.holders.get_mut(holder) {
            let bucket = &mut used.mutations;
            bucket.paid = bucket.paid.saturating_sub(cost(mutations, bucket.per_s));
        }
    }

    /// How many buckets are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    fn judge(
        &mut self,
        holder: &K,
        pace: Pace,
        mutations: u64,
        now: Duration,
    ) -> Result<Used, TooFast> {
        let used = match self.holders.get_mut(holder) {
            Some(used) => {
                used.commits.keep(pace.commits_per_s, now);
                used.mutations.keep(pace.mutations_per_s, now);
                *used
            }
            None => Used::default(),
        };
        let take = |counted, bucket: Bucket, count, per_s| {
            let too_fast = |wait| TooFast { counted, per_s, wait };
            bucket.take(count, per_s, self.burst, now).map_err(too_fast)
        };
        let commits = take(Counted::Commits, used.commits, 1, pace.commits_per_s)?;
        let per_s = pace.mutations_per_s;
        let mutations = take(Counted::Mutations, used.mutations, mutations, per_s)?;
        Ok(Used { commits, mutations })
    }

    fn forget(&mut self, now: Duration) {
        if self.holders.len() < self.sweep_at {
            return;
        }
        self.holders.retain(|_, used| used.latest() > now);
        if self.holders.len() >= HOLDERS_MAX {
            let mut moments: Vec<Duration> = self.holders.values().map(Used::latest).collect();
            let middle = moments.len() / 2;
            let (_, middle, _) = moments.select_nth_unstable(middle);
            let middle = *middle;
            self.holders.retain(|_, used| used.latest() > middle);
        }
        self.sweep_at = (2 * self.holders.len()).clamp(SWEEP_MIN, HOLDERS_MAX);
    }
}

// === impl Used ===

impl Used {
    fn latest(&self) -> Duration {
        self.commits.paid.max(self.mutations.paid)
    }
}

// === impl Bucket ===

impl Bucket {
    /// Goes on at this pace: what was taken is owed, not the time that it would have taken at the
    /// pace of then.
    fn keep(&mut self, per_s: u64, now: Duration) {
        if self.per_s == per_s {
            return;
        }
        let owed = self.paid.saturating_sub(now).as_nanos().saturating_mul(self.per_s.into());
        let used = if per_s == 0 { Duration::ZERO } else { nanos(owed / u128::from(per_s)) };
        *self = Self { paid: now.saturating_add(used), per_s };
    }

    /// The bucket without so many; or how long to wait first.
    fn take(
        self,
        count: u64,
        per_s: u64,
        burst: Duration,
        now: Duration,
    ) -> Result<Self, Duration> {
        let (used, cost) = (self.paid.saturating_sub(now), cost(count, per_s));
        let allowed = burst.saturating_sub(cost);
        if cost.is_zero() || used <= allowed {
            let paid = self.paid.max(now).saturating_add(cost);
            return Ok(Self { paid, per_s });
        }
        Err(used.saturating_sub(allowed))
    }
}

/// How long it takes until so many are allowed.
fn cost(count: u64, per_s: u64) -> Duration {
    if per_s == 0 {
        return Duration::ZERO;
    }
    nanos(u128::from(count) * 1_000_000_000 / u128::from(per_s))
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
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
        for millis in 100..=10_100 {
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

    /// What changed nothing costs no mutations, and nobody gains more than a full bucket by it.
    #[test]
    fn what_changed_nothing_is_given_back() {
        let pace = Pace { commits_per_s: 0, mutations_per_s: 100 };
        let mut rates = Rates::new(BURST);
        rates.take("a", pace, 200, at(0)).unwrap();
        rates.take("a", pace, 1, at(0)).unwrap_err();
        rates.give_back(&"a", 200);
        rates.give_back(&"nobody", 200);
        rates.take("a", pace, 200, at(0)).unwrap();
        rates.give_back(&"a", 10_000);
        rates.take("a", pace, 200, at(5_000)).unwrap();
        rates.take("a", pace, 1, at(5_000)).unwrap_err();
    }

    /// Whoever is allowed more waits for what is owed at the new pace, not for as long as before.
    #[test]
    fn another_pace_counts_at_once() {
        let paced = |mutations_per_s| Pace { commits_per_s: 0, mutations_per_s };
        let mut rates = Rates::new(BURST);
        rates.take("a", paced(1), 5_000, at(0)).unwrap();
        assert_eq!(rates.take("a", paced(1), 1, at(0)).unwrap_err().wait, at(4_999_000));
        assert_eq!(rates.take("a", paced(1_000), 1, at(0)).unwrap_err().wait, at(3_001));
        rates.take("a", paced(1_000), 1, at(3_001)).unwrap();
        rates.take("a", paced(0), 5_000, at(3_001)).unwrap();
        rates.take("a", paced(1_000), 2_000, at(3_001)).unwrap();
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
