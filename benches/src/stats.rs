//! What several runs come to: the median, and how far they lie apart. Pure: no store, no clock, no
//! async.

use serde::Serialize;

/// The median of some runs, with the spread that says what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Half of the runs are below.
    pub median: f64,
    /// The least of them.
    pub min: f64,
    /// The greatest of them.
    pub max: f64,
    /// How many there were.
    pub runs: usize,
}

// === impl Summary ===

impl Summary {
    /// What these runs come to; `None` = there were none.
    #[must_use]
    pub fn of(runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[half]
        } else {
            f64::midpoint(sorted[half - 1], sorted[half])
        };
        Some(Self { median, min, max, runs: sorted.len() })
    }
}

/// The value that this share of the samples does not exceed; `None` = there are none. Sorts them.
#[must_use]
pub fn percentile(samples: &mut [u32], share: f64) -> Option<u32> {
    assert!((0.0..=1.0).contains(&share), "{share} is no share");
    samples.sort_unstable();
    let last = samples.len().checked_sub(1)?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index that is rounded up, and bounded by the last one"
    )]
    let rank = (share * samples.len() as f64).ceil() as usize;
    Some(samples[rank.saturating_sub(1).min(last)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        let four = Summary::of(&[4.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!(four, Summary { median: 3.0, min: 1.0, max: 10.0, runs: 4 });
        let three = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(three, Summary { median: 2.0, min: 1.0, max: 3.0, runs: 3 });
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_percentile_is_a_sample_that_so_many_do_not_exceed() {
        let mut samples: Vec<u32> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut samples, 0.5), Some(50));
        assert_eq!(percentile(&mut samples, 0.99), Some(99));
        assert_eq!(percentile(&mut samples, 1.0), Some(100));
        assert_eq!(percentile(&mut samples, 0.0), Some(1));
        assert_eq!(percentile(&mut [7], 0.99), Some(7));
        assert_eq!(percentile(&mut [], 0.5), None);
    }
}
