//! How much is measured: small by default, as in the issue that asked for it with `--full`.

use std::time::Duration;

/// Sizes of all workloads.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// Runs of each system in each case.
    pub(crate) runs: usize,
    /// Of one run of commits.
    pub(crate) commits_for: Duration,
    /// Items that a client missed.
    pub(crate) missed: Vec<u32>,
    /// Subscribers at once.
    pub(crate) subscribers: Vec<usize>,
    /// Deliveries of one run of fan-out, about.
    pub(crate) deliveries: usize,
    /// Of one run of latencies.
    pub(crate) latencies_for: Duration,
    /// Items of a first load.
    pub(crate) loads: Vec<u32>,
    /// Subscribers that wait.
    pub(crate) idle: Vec<usize>,
    /// Users who come back.
    pub(crate) users: u32,
    /// Items of a copy that lost its cursor.
    pub(crate) resyncs: Vec<u32>,
    /// Items that nobody touches.
    pub(crate) growth: Vec<u32>,
}

// === impl Sizes ===

impl Sizes {
    /// Bounded: all systems together take some minutes.
    pub(crate) fn small(runs: usize) -> Self {
        Self {
            runs,
            commits_for: Duration::from_millis(700),
            missed: vec![1_000, 10_000, 100_000],
            subscribers: vec![10, 100, 1_000],
            deliveries: 1_000_000,
            latencies_for: Duration::from_secs(1),
            loads: vec![50_000],
            idle: vec![1_000],
            users: 200,
            resyncs: vec![50_000],
            growth: vec![10_000, 100_000],
        }
    }

    /// Everything.
    pub(crate) fn full(runs: usize) -> Self {
        Self {
            runs,
            commits_for: Duration::from_secs(3),
            missed: vec![1_000, 10_000, 100_000],
            subscribers: vec![10, 100, 1_000, 5_000],
            deliveries: 5_000_000,
            latencies_for: Duration::from_secs(5),
            loads: vec![50_000, 1_000_000],
            idle: vec![1_000, 10_000],
            users: 2_000,
            resyncs: vec![50_000, 1_000_000],
            growth: vec![10_000, 100_000, 1_000_000, 5_000_000],
        }
    }
}
