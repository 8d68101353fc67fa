//! The figures that were to be reached, as ratios within one run or as bounds. Pure: no store, no
//! clock, no async.

use serde::Serialize;

use crate::measure::{Measure, figure};
use crate::report::Report;

/// Our own system, with everything that it does by default.
pub const OURS: &str = "deltasync";

/// One figure to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    workload: &'static str,
    case: &'static str,
    measure: Measure,
    bound: Bound,
    against: Against,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What the figure is divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Against {
    /// Nothing: it is a bound on this kind of machine.
    One,
    /// The same figure of another system.
    System(&'static str),
    /// Another figure of ours in the same case.
    Measure(Measure),
    /// The same figure of ours in another case.
    Case(&'static str),
}

/// What became of a goal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What was to be reached, for people.
    pub goal: String,
    /// What was reached; `None` = not measured in this run.
    pub reached: Option<f64>,
    /// Whether that is enough; `None` = not measured in this run.
    pub holds: Option<bool>,
}

/// All of them.
pub const GOALS: [Goal; 26] = [
    ratio("W1", "16 writers", "etcd", 1.3),
    ratio("W1", "64 writers", "etcd", 1.3),
    ratio("W1", "256 writers", "etcd", 1.3),
    ratio("W1", "64 writers", "Redis", 0.9),
    at_least("W1", "batches of 100", 100_000.0),
    Goal {
        workload: "W1",
        case: "1 writer",
        measure: Measure::P50Ms,
        bound: Bound::AtMost(1.5),
        against: Against::System("fdatasync in place"),
    },
    at_least("W2", "100,000 changed", 1_200_000.0),
    Goal {
        workload: "W2",
        case: "1,000 changed 100 times",
        measure: Measure::Seconds,
        bound: Bound::AtMost(1.5),
        against: Against::Case("1,000 changed"),
    },
    at_least("W3", "1,000 subscribers", 1_500_000.0),
    at_most("W3", "1,000 subscribers", Measure::ServerUs, 0.4),
    at_most("W3", "1,000 subscribers, 100 writes/s", Measure::P99Ms, 10.0),
    at_most("W4", "50,000 items", Measure::Seconds, 0.2),
    at_most("W4", "50,000 items", Measure::PeakMib, 4.0),
    Goal {
        workload: "W4",
        case: "50,000 items",
        measure: Measure::SecondServerMs,
        bound: Bound::AtMost(0.3),
        against: Against::Measure(Measure::ServerMs),
    },
    at_most("W5", "1,000 multiplexed", Measure::EachKib, 6.0),
    at_most("W5", "10,000 multiplexed", Measure::EachKib, 6.0),
    at_most("W5", "1,000 connections", Measure::EachKib, 40.0),
    at_most("W5", "10,000 connections", Measure::EachKib, 40.0),
    at_least("W6", "200 held, 3 changed", 20_000.0),
    at_most("W6", "200 held, 3 changed", Measure::ServerUs, 40.0),
    at_most("W6", "200 held, 3 changed", Measure::EachBytes, 1_536.0),
    Goal {
        workload: "W7",
        case: "with a stalled and a slow one",
        measure: Measure::P99Ms,
        bound: Bound::AtMost(1.05),
        against: Against::Case("without"),
    },
    at_most("W8", "0.1 % of 50,000 differ", Measure::LoadPercent, 2.0),
    growth("64 writers", "64 writers at 10,000 items", "64 writers at 1,000,000 items"),
    growth("1,000 changed", "1,000 changed at 10,000 items", "1,000 changed at 1,000,000 items"),
    growth("64 writers", "64 writers at 10,000 items", "64 writers at 100,000 items"),
];

const fn at_least(workload: &'static str, case: &'static str, least: f64) -> Goal {
    let (measure, against) = (Measure::PerSecond, Against::One);
    Goal { workload, case, measure, bound: Bound::AtLeast(least), against }
}

const fn at_most(workload: &'static str, case: &'static str, measure: Measure, most: f64) -> Goal {
    Goal { workload, case, measure, bound: Bound::AtMost(most), against: Against::One }
}

const fn ratio(workload: &'static str, case: &'static str, peer: &'static str, least: f64) -> Goal {
    let (measure, against) = (Measure::PerSecond, Against::System(peer));
    Goal { workload, case, measure, bound: Bound::AtLeast(least), against }
}

/// What was measured in a large store is at least 0.8 times what was measured in a small one.
const fn growth(_what: &'static str, small: &'static str, large: &'static str) -> Goal {
    let (measure, against) = (Measure::PerSecond, Against::Case(small));
    Goal { workload: "W9", case: large, measure, bound: Bound::AtLeast(0.8), against }
}

/// What became of each goal of the workloads that this run measured.
#[must_use]
pub fn judge(report: &Report) -> Vec<Verdict> {
    let workloads = report.workloads();
    let asked = GOALS.iter().filter(|goal| workloads.contains(&goal.workload));
    asked.map(|goal| goal.judge(report)).collect()
}

// === impl Goal ===

impl Goal {
    fn judge(&self, report: &Report) -> Verdict {
        let of = |case, system, measure| report.median(self.workload, case, system, measure);
        let ours = of(self.case, OURS, self.measure);
        let other = match self.against {
            Against::One => Some(1.0),
            Against::System(peer) => of(self.case, peer, self.measure),
            Against::Measure(measure) => of(self.case, OURS, measure),
            Against::Case(case) => of(case, OURS, self.measure),
        };
        let reached = ours.zip(other).map(|(ours, other)| ours / other);
        let holds = reached.map(|reached| match self.bound {
            Bound::AtLeast(least) => reached >= least,
            Bound::AtMost(most) => reached <= most,
        });
        Verdict { goal: self.text(), reached, holds }
    }

    fn text(&self) -> String {
        let Self { workload, case, measure, .. } = self;
        let bound = match self.bound {
            Bound::AtLeast(least) => format!("at least {}", figure(least)),
            Bound::AtMost(most) => format!("at most {}", figure(most)),
        };
        let against = match self.against {
            Against::One => String::new(),
            Against::System(peer) => format!(" × {peer}"),
            Against::Measure(measure) => format!(" × {}", measure.title()),
            Against::Case(case) => format!(" × {case}"),
        };
        format!("{workload} {case}, {}: {bound}{against}", measure.title())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::{Machine, Series};

    fn report(figures: &[(&'static str, &str, &'static str, Measure, f64)]) -> Report {
        let series = figures.iter().map(|(workload, case, system, measure, value)| {
            Series::new(workload, case, system, vec![[(*measure, *value)].into()])
        });
        let machine = Machine {
            processor: String::new(),
            cores: 2,
            memory_mib: 1,
            kernel: String::new(),
            file_system: String::new(),
            load: 0.0,
        };
        Report {
            date: String::new(),
            machine,
            versions: BTreeMap::default(),
            series: series.collect(),
            notes: Vec::new(),
            goals: Vec::new(),
        }
    }

    fn verdict(report: &Report, begins: &str) -> Verdict {
        let verdicts = judge(report);
        verdicts.into_iter().find(|verdict| verdict.goal.starts_with(begins)).unwrap()
    }

    #[test]
    fn a_ratio_is_taken_within_one_run() {
        let rate = Measure::PerSecond;
        let both =
            [("W1", "64 writers", OURS, rate, 130.0), ("W1", "64 writers", "etcd", rate, 100.0)];
        let reached = verdict(&report(&both), "W1 64 writers, per s: at least 1.30 × etcd");
        assert_eq!((reached.reached, reached.holds), (Some(1.3), Some(true)));
        let slow =
            [("W1", "64 writers", OURS, rate, 129.0), ("W1", "64 writers", "etcd", rate, 100.0)];
        assert_eq!(verdict(&report(&slow), "W1 64 writers").holds, Some(false));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let one = [("W1", "64 writers", OURS, Measure::PerSecond, 1.0)];
        let missing = verdict(&report(&one), "W1 64 writers");
        assert_eq!((missing.reached, missing.holds), (None, None));
        assert!(judge(&report(&one)).iter().all(|verdict| verdict.goal.starts_with("W1")));
    }

    #[test]
    fn less_is_better_where_the_goal_is_a_bound_from_above() {
        let load = |ms| [("W4", "50,000 items", OURS, Measure::Seconds, ms)];
        assert_eq!(verdict(&report(&load(0.2)), "W4 50,000 items, s").holds, Some(true));
        assert_eq!(verdict(&report(&load(0.21)), "W4 50,000 items, s").holds, Some(false));
    }
}
