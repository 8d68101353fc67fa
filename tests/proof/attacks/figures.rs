//! What honest clients saw, in figures, and when a server counts as well again. Pure: samples in,
//! verdicts out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A commit or a pull on a connection that was there before.
    Call,
    /// A live subscriber to be told of a commit.
    Delivery,
    /// The first answer on a new connection.
    Newcomer,
}

/// One wait.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) what: What,
    /// When it was due to begin: a call that waits for the one before it is late, too.
    pub(crate) due: Instant,
    pub(crate) took: Duration,
    /// Why it was in vain.
    pub(crate) failed: Option<String>,
}

/// Waits of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) count: usize,
    pub(crate) failed: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    /// How often for each reason.
    pub(crate) reasons: BTreeMap<String, usize>,
}

// === impl Figures ===

impl Figures {
    /// Those of one kind; what was in vain counts with the time it took, too.
    pub(crate) fn of<'a>(what: What, samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut figures = Self::default();
        let mut took = Vec::new();
        for sample in samples.into_iter().filter(|sample| sample.what == what) {
            took.push(sample.took);
            if let Some(reason) = &sample.failed {
                *figures.reasons.entry(reason.clone()).or_default() += 1;
                figures.failed += 1;
            }
        }
        took.sort_unstable();
        let at = |percent: usize| {
            let place = (took.len() * percent).div_ceil(100).saturating_sub(1);
            took.get(place).copied().unwrap_or_default()
        };
        Self { count: took.len(), p50: at(50), p99: at(99), max: at(100), ..figures }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (p50, p99, max) = (ms(self.p50), ms(self.p99), ms(self.max));
        write!(f, "{:5} {p50:6.1} {p99:6.1} {max:7.1} {:4}", self.count, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(what: What, ms: u64, failed: Option<&str>) -> Sample {
        let failed = failed.map(ToOwned::to_owned);
        Sample { what, due: Instant::now(), took: Duration::from_millis(ms), failed }
    }

    #[test]
    fn the_slowest_of_a_hundred_is_above_the_99th() {
        let mut samples: Vec<_> = (1..=100).map(|ms| sample(What::Call, ms, None)).collect();
        samples.push(sample(What::Delivery, 7_000, None));
        let figures = Figures::of(What::Call, &samples);
        let ms = |time: Duration| time.as_millis();
        assert_eq!((ms(figures.p50), ms(figures.p99), ms(figures.max)), (50, 99, 100));
        samples
            .extend([sample(What::Call, 5_000, Some("late")), sample(What::Call, 1, Some("late"))]);
        let figures = Figures::of(What::Call, &samples);
        assert_eq!((figures.count, figures.failed, figures.reasons["late"]), (102, 2, 2));
        assert_eq!(ms(figures.p99), 100, "the slowest of 102 and the one before it are beyond");
        assert_eq!(Figures::of(What::Newcomer, &samples).max, Duration::ZERO);
    }
}
