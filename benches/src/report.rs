//! Everything that one run of the benchmark found, as it is written to JSON. Pure: no store, no
//! clock, no async.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::goals::Verdict;
use crate::measure::Measure;
use crate::stats::Summary;

/// What one run of one system came to.
pub type Sample = BTreeMap<Measure, f64>;

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Of the processors, as the kernel calls them.
    pub processor: String,
    /// How many.
    pub cores: usize,
    /// Mebibytes.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Where all stores were: the kind of file system, and its device.
    pub file_system: String,
    /// What others did when it began: the mean number of runnable threads of a minute.
    pub load: f64,
}

/// All runs of one system in one case of a workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// `W1` to `W9`.
    pub workload: &'static str,
    /// What varies within the workload.
    pub case: String,
    /// Whose figures.
    pub system: &'static str,
    /// The medians.
    pub measures: BTreeMap<Measure, Summary>,
    /// Each run.
    pub runs: Vec<Sample>,
}

/// Everything that one run of the benchmark found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// When it began, in UTC.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// What the servers call themselves.
    pub versions: BTreeMap<&'static str, String>,
    /// In the order of measuring.
    pub series: Vec<Series>,
    /// What was not measured, and why; and what a reader must know of what was.
    pub notes: Vec<String>,
    /// What was to be reached.
    pub goals: Vec<Verdict>,
}

// === impl Machine ===

impl Machine {
    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { processor, cores, memory_mib, kernel, file_system, load } = self;
        let memory = memory_mib / 1024;
        format!(
            "{processor}, {cores} cores, {memory} GiB, Linux {kernel}, {file_system}, load {load:.1} at the start"
        )
    }
}

// === impl Series ===

impl Series {
    /// What these runs come to.
    #[must_use]
    pub fn new(
        workload: &'static str,
        case: &str,
        system: &'static str,
        runs: Vec<Sample>,
    ) -> Self {
        let mut values: BTreeMap<Measure, Vec<f64>> = BTreeMap::new();
        for (measure, value) in runs.iter().flatten() {
            values.entry(*measure).or_default().push(*value);
        }
        let summaries = values
            .into_iter()
            .filter_map(|(measure, values)| Some((measure, Summary::of(&values)?)));
        let measures = summaries.collect();
        Self { workload, case: case.to_owned(), system, measures, runs }
    }
}

// === impl Report ===

impl Report {
    /// The median of a measure, if it was taken.
    #[must_use]
    pub fn median(
        &self,
        workload: &str,
        case: &str,
        system: &str,
        measure: Measure,
    ) -> Option<f64> {
        let fits = |series: &&Series| {
            series.workload == workload && series.case == case && series.system == system
        };
        Some(self.series.iter().find(fits)?.measures.get(&measure)?.median)
    }

    /// The workloads that were measured, in order, each once.
    #[must_use]
    pub fn workloads(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> =
            self.series.iter().map(|series| series.workload).collect();
        names.dedup();
        names
    }
}
