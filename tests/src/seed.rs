//! Chance that can be repeated. A random test prints its seed when it fails; the same seed in
//! `DELTASYNC_SEED` repeats that case, `DELTASYNC_CASES` sets how many are tried.

use std::env;
use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The seeds to try: that of the environment, or `cases` of them (more or fewer by environment).
#[must_use]
pub fn seeds(cases: u64) -> Range<u64> {
    if let Some(seed) = number("DELTASYNC_SEED") {
        return seed..seed + 1;
    }
    let first = u64::from(rand::rng().random::<u32>());
    first..first + number("DELTASYNC_CASES").unwrap_or(cases)
}

/// A number of the environment.
#[must_use]
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs a random test once per seed and says which seed failed.
pub fn each(cases: u64, mut run: impl FnMut(StdRng)) {
    for seed in seeds(cases) {
        let failure = Announce(seed);
        run(StdRng::seed_from_u64(seed));
        std::mem::forget(failure);
    }
}

/// Dice of the environment's seed, or of a fresh one; says which when the test fails.
#[must_use]
pub fn dice() -> (StdRng, impl Drop) {
    let seed = seeds(1).start;
    (StdRng::seed_from_u64(seed), AnnounceIfPanicking(seed))
}

/// Dropped only by a panic.
struct Announce(u64);

struct AnnounceIfPanicking(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        eprintln!("repeat it with DELTASYNC_SEED={}", self.0);
    }
}

impl Drop for AnnounceIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat it with DELTASYNC_SEED={}", self.0);
        }
    }
}
