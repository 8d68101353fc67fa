//! Holds everybody to what they may write in a second. What that is, is decided in `core::rates` and
//! the policy; here are its clock and its lock. What was used is forgotten by a restart.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::places::Holder;
use crate::auth::Caller;
use crate::core::rates::{Pace, Rates, TooFast};

/// The paces of all callers.
#[derive(Debug)]
pub struct Pacing {
    settings: Pace,
    rates: Mutex<Rates<Holder>>,
    since: Instant,
}

/// What a commit has taken; `None` = nobody counts.
#[derive(Debug)]
pub(super) struct Taken(Option<(Holder, u64)>);

// === impl Pacing ===

impl Pacing {
    /// Everybody at this pace, unless the policy says something else; so long a burst passes.
    #[must_use]
    pub fn new(settings: Pace, burst: Duration) -> Self {
        Self { settings, rates: Mutex::new(Rates::new(burst)), since: Instant::now() }
    }

    /// Takes note of a commit of so many mutations, or says how long it must wait.
    pub(super) fn take(
        &self,
        caller: &Caller,
        connection: u64,
        mutations: usize,
    ) -> Result<Taken, TooFast> {
        let Some(pace) = self.pace(caller) else { return Ok(Taken(None)) };
        let (holder, mutations) = (Holder::of(caller, connection), mutations as u64);
        self.rates.lock().take(holder.clone(), pace, mutations, self.since.elapsed())?;
        Ok(Taken(Some((holder, mutations))))
    }

    /// A commit has changed nothing: its mutations are given back. That it came still counts.
    pub(super) fn unchanged(&self, taken: Taken) {
        if let Taken(Some((holder, mutations))) = taken {
            self.rates.lock().give_back(&holder, mutations);
        }
    }

    fn pace(&self, caller: &Caller) -> Option<Pace> {
        let pace = caller.quota().over(self.settings);
        (!pace.is_unlimited()).then_some(pace)
    }
}
