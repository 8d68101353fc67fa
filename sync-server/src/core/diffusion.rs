//! How the followers of a collection are told that it moved. Pure: time is an argument.
//!
//! ```text
//!            more followers than write_audience_max: at once
//!            more than fan_out_per_s_max entries a second: after dwell
//!   Write ------------------------------------------------------------> Read
//!         <------------------------------------------------------------
//!            fewer than 3/4 of the one and 1/4 of the other, after dwell
//! ```
//! A policy may pin a mode; an audience that is too large for `Write` is read all the same.

use std::time::Duration;

use sync_proto::types::{Diffusion, Timestamp};

/// Entries of inboxes that one batch writes because collections moved, which everybody who commits
/// meanwhile waits for: about 0.07 ms each. A collection that would exceed it is read from then on,
/// so a batch stays bounded whatever moves together.
pub const FAN_OUT_ENTRIES_MAX: u64 = 2_048;

/// After this long without moving, a rate has halved.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// When it pays to tell every follower, and when not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Followers of a collection that are told by writing to each.
    pub write_audience_max: u64,
    /// Entries that one collection may cause in a second.
    pub fan_out_per_s_max: u64,
    /// A mode that was chosen by the rate is kept at least this long.
    pub dwell: Duration,
}

/// What a decision is made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// How they are told now.
    pub mode: Diffusion,
    /// Since when.
    pub since: Timestamp,
    /// Followers.
    pub audience: u64,
    /// How often a second the collection moved lately.
    pub moves_per_s: f64,
    /// What a policy says.
    pub pinned: Option<Diffusion>,
}

/// How often something happened lately, older times weighing less.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    weight: f64,
    at: Timestamp,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { write_audience_max: 512, fan_out_per_s_max: 2_000, dwell: Duration::from_secs(30) }
    }
}

/// Decides how an audience is told from now on.
#[must_use]
pub fn decide(seen: &Seen, now: Timestamp, limits: &Limits) -> Diffusion {
    if seen.audience > limits.write_audience_max {
        return Diffusion::Read;
    }
    if let Some(pinned) = seen.pinned {
        return pinned;
    }
    // A clock that went back says nothing about how long ago something was.
    let age = now.as_millis().checked_sub(seen.since.as_millis());
    let dwelt = age.is_none_or(|age| u128::from(age) >= limits.dwell.as_millis());
    let cost = as_f64(seen.audience) * seen.moves_per_s;
    let most = as_f64(limits.fan_out_per_s_max);
    match seen.mode {
        Diffusion::Write if cost > most && dwelt => Diffusion::Read,
        Diffusion::Write => Diffusion::Write,
        Diffusion::Read => {
            let small = u128::from(seen.audience) * 4 < u128::from(limits.write_audience_max) * 3;
            if small && cost < most / 4.0 && dwelt { Diffusion::Write } else { Diffusion::Read }
        }
    }
}

// === impl Rate ===

impl Rate {
    /// Takes note that it happened so many times more. After a clock that went back, time goes on
    /// from where it is.
    pub fn tick(&mut self, times: u64, now: Timestamp) {
        self.weight = self.weight_at(now) + as_f64(times);
        self.at = now;
    }

    /// How often a second it happened lately.
    #[must_use]
    pub fn per_s(&self, now: Timestamp) -> f64 {
        self.weight_at(now) * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64()
    }

    /// Whether it is so long ago that it need not be remembered.
    #[must_use]
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        self.weight_at(now) < 0.01
    }

    fn weight_at(&self, now: Timestamp) -> f64 {
        let age = Duration::from_millis(now.as_millis().saturating_sub(self.at.as_millis()));
        self.weight * (-age.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }
}

#[allow(clippy::cast_precision_loss, reason = "an estimate; 2^53 is far away")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        write_audience_max: 512,
        fan_out_per_s_max: 2_000,
        dwell: Duration::from_secs(30),
    };

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn seen(mode: Diffusion, audience: u64, moves_per_s: f64) -> Seen {
        Seen { mode, since: at(100), audience, moves_per_s, pinned: None }
    }

    /// Every line of the table, at its borders.
    #[test]
    fn every_border_is_where_it_is_said_to_be() {
        use Diffusion::{Read, Write};
        let cases = [
            (seen(Write, 512, 3.9), 130, Write),
            (seen(Write, 512, 3.91), 130, Read),
            (seen(Write, 512, 3.91), 129, Write),
            (seen(Write, 512, 3.91), 99, Read),
            (seen(Write, 513, 0.0), 100, Read),
            (seen(Read, 384, 0.0), 1_000, Read),
            (seen(Read, 383, 0.0), 1_000, Write),
            (seen(Read, 383, 0.0), 129, Read),
            (seen(Read, 100, 5.1), 1_000, Read),
            (seen(Read, 100, 4.9), 1_000, Write),
            (Seen { pinned: Some(Write), ..seen(Read, 512, 99.0) }, 100, Write),
            (Seen { pinned: Some(Write), ..seen(Write, 513, 0.0) }, 100, Read),
            (Seen { pinned: Some(Read), ..seen(Write, 1, 0.0) }, 100, Read),
        ];
        for (seen, second, wanted) in cases {
            assert_eq!(decide(&seen, at(second), &LIMITS), wanted, "{seen:?} at {second}");
        }
        let never = Limits { write_audience_max: 0, ..LIMITS };
        assert_eq!(decide(&seen(Write, 1, 0.0), at(100), &never), Read);
    }

    #[test]
    fn a_rate_rises_and_fades() {
        let mut rate = Rate::default();
        for second in 0..600 {
            (0..5).for_each(|_| rate.tick(2, at(second)));
        }
        let steady = rate.per_s(at(599));
        assert!((9.0..11.5).contains(&steady), "{steady}");
        let half = rate.per_s(at(629));
        assert!((half * 2.0 - steady).abs() < 0.01, "{half}");
        assert!(!rate.is_forgotten(at(629)) && rate.is_forgotten(at(1_200)));
        assert!(rate.per_s(at(10)) >= steady, "a clock that went back does not make it calm");
        rate.tick(0, at(10));
        assert!((rate.per_s(at(40)) * 2.0 - steady).abs() < 0.01, "nor keeps it from fading");
    }

    proptest! {
        /// Whatever is seen: the size bound holds, a pin holds within it, nothing that was chosen
        /// by the rate changes before its time, and what was decided is not taken back at once.
        #[test]
        fn a_decision_is_bounded_and_stable(
            audience in 0u64..2_000, moves_per_s in 0.0f64..100.0, since in 0u64..200,
            second in 0u64..400, write: bool, pin in 0u8..3,
        ) {
            let mode = if write { Diffusion::Write } else { Diffusion::Read };
            let pinned = [None, Some(Diffusion::Write), Some(Diffusion::Read)][usize::from(pin)];
            let seen = Seen { mode, since: at(since), audience, moves_per_s, pinned };
            let decided = decide(&seen, at(second), &LIMITS);
            if audience > LIMITS.write_audience_max {
                prop_assert_eq!(decided, Diffusion::Read);
            } else if let Some(pinned) = pinned {
                prop_assert_eq!(decided, pinned);
            } else if (since..since + 30).contains(&second) {
                prop_assert_eq!(decided, mode);
            }
            let next = Seen { mode: decided, since: at(second), ..seen };
            prop_assert_eq!(decide(&next, at(second), &LIMITS), decided);
            // Nor after the dwell, if nothing else changed.
            if pinned.is_none() && decided != mode {
                prop_assert_eq!(decide(&next, at(second + 31), &LIMITS), decided);
            }
        }
    }
}
