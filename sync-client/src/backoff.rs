//! How long to wait before trying again. Pure: the dice are an argument.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Exponential back-off with full jitter: the n-th wait is a random part of
/// `min(longest, first * 2^n)`, so that many clients that failed together come back spread out.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

/// Doublings after which every sensible `first` has reached every sensible `longest`.
const DOUBLINGS_MAX: u32 = 20;

// === impl Backoff ===

impl Backoff {
    /// Waits between zero and `first` at first, and between zero and `longest` in the end.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// How long to wait now.
    pub fn next(&mut self, dice: &mut impl Rng) -> Duration {
        let window = self.window();
        self.attempts = self.attempts.saturating_add(1);
        part_of(window, dice)
    }

    /// The window that the next wait is drawn from.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.first.saturating_mul(1 << self.attempts.min(DOUBLINGS_MAX)).min(self.longest)
    }

    /// How often it was asked since the last progress.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Goes on after so many attempts of an earlier life.
    pub fn resume(&mut self, attempts: u32) {
        self.attempts = attempts;
    }

    /// Something moved: begin with short waits again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A random part of `window`.
pub(crate) fn part_of(window: Duration, dice: &mut impl Rng) -> Duration {
    window.mul_f64(dice.random::<f64>())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn x3_waits_spread_over_the_whole_window_and_never_wrap() {
        let mut dice = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        for _ in 0..100_000 {
            backoff.next(&mut dice);
        }
        assert_eq!(backoff.window(), Duration::from_secs(30));
        let waits: Vec<Duration> = (0..1_000).map(|_| backoff.next(&mut dice)).collect();
        assert!(waits.iter().any(|wait| *wait < Duration::from_secs(2)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(28)));
        backoff.reset();
        assert_eq!(backoff.window(), Duration::from_millis(100));
    }
}
