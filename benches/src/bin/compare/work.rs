//! The workloads, and what they share: systems that run side by side, runs that take turns, samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sync_benches::goals::OURS;
use sync_benches::measure::Measure;
use sync_benches::report::{Sample, Series};

use crate::failure::{Failure, Outcome, chain};
use crate::process::{Usage, usage};
use crate::sizes::Sizes;
use crate::system::{Doing, System, Taken};
use crate::systems::Lineup;
use crate::systems::ours::Ours;

pub(crate) mod catch_up;
pub(crate) mod commits;
pub(crate) mod fan_out;
pub(crate) mod filling;
pub(crate) mod first_load;
pub(crate) mod growth;
pub(crate) mod idle;
pub(crate) mod logins;
pub(crate) mod resync;
pub(crate) mod stalled;

/// Nothing that is measured takes longer than this.
pub(crate) const MEASURE_WITHIN: Duration = Duration::from_secs(120);

/// What all workloads are given, and where their results go.
pub(crate) struct Bench {
    pub(crate) dir: PathBuf,
    /// Line-ups started so far: each has a directory of its own.
    lineups: u32,
    pub(crate) sizes: Sizes,
    pub(crate) lineup: Lineup,
    pub(crate) series: Vec<Series>,
    pub(crate) notes: Vec<String>,
    pub(crate) versions: BTreeMap<&'static str, String>,
    /// Something of ours could not be measured.
    pub(crate) failed: bool,
}

/// Samples of one workload, by case and system, in the order in which they first came.
pub(crate) struct Samples {
    workload: &'static str,
    rows: Vec<(String, &'static str, Vec<Sample>)>,
    /// What failed is not tried again.
    broken: Vec<(String, &'static str)>,
}

/// What a server and all clients have used, and when that was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    server: Usage,
    clients: Usage,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) time: Duration,
    pub(crate) server: Duration,
    pub(crate) clients: Duration,
    /// Of the server, at the end.
    pub(crate) memory: u64,
}

/// A count as a figure. Counts here are far below 2^52.
#[allow(clippy::cast_precision_loss, reason = "counts of a benchmark")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Microseconds as milliseconds.
pub(crate) fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1_000.0
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    float(bytes) / 1024.0 / 1024.0
}

/// Whether a reader has everything of `changes` changes that left `distinct` items changed.
pub(crate) fn complete(
    system: &dyn System,
    taken: &Taken,
    (changes, distinct): (u64, u64),
) -> Outcome<bool> {
    let due = if system.coalesces() { distinct } else { changes };
    let end = taken.caught_up || taken.changes >= due;
    if end && taken.changes != due {
        return Err(Failure::Wrong(format!("{} changes came, {due} were due", taken.changes)));
    }
    Ok(end)
}

/// A count with a word, as cases are named.
pub(crate) fn counted(count: u64, word: &str) -> String {
    let mut digits = count.to_string();
    let mut at = digits.len();
    while at > 3 {
        at -= 3;
        digits.insert(at, ',');
    }
    format!("{digits} {word}")
}

// === impl Bench ===

impl Bench {
    /// Nothing is measured yet; stores go below `dir`.
    pub(crate) fn new(dir: &Path, sizes: Sizes, lineup: Lineup) -> Self {
        Self {
            dir: dir.to_owned(),
            lineups: 0,
            sizes,
            lineup,
            series: Vec::new(),
            notes: Vec::new(),
            versions: BTreeMap::new(),
            failed: false,
        }
    }

    /// All systems of the line-up, started on empty directories. Which cannot be started is noted.
    /// The stores of the line-up before are removed: its systems have ended.
    pub(crate) async fn systems(&mut self, tokens: bool) -> Vec<Box<dyn System>> {
        let mut started = Vec::new();
        let dir = self.new_dir();
        for system in self.lineup.systems(&dir, tokens) {
            let begun = async {
                let mut system = system?;
                system.start().await?;
                Ok(system)
            };
            match begun.await {
                Ok(system) => {
                    self.versions.entry(system.name()).or_insert_with(|| system.version());
                    started.push(system);
                }
                Err(failure) => self.note_failure("not started", "", &failure),
            }
        }
        self.failed |= !started.iter().any(|system| system.name() == OURS);
        started
    }

    /// Those of the systems that can be prepared; of the others that is noted.
    pub(crate) async fn prepared(
        &mut self,
        workload: &str,
        systems: Vec<Box<dyn System>>,
        prepare: impl for<'a> Fn(&'a dyn System) -> Doing<'a, ()>,
    ) -> Vec<Box<dyn System>> {
        let mut prepared = Vec::new();
        for system in systems {
            match prepare(system.as_ref()).await {
                Ok(()) => prepared.push(system),
                Err(failure) => {
                    self.note_failure(&format!("{workload}, to prepare"), system.name(), &failure);
                }
            }
        }
        prepared
    }

    /// Ours alone, on an empty directory; it does not run yet.
    pub(crate) fn ours(&mut self) -> Outcome<Ours> {
        let dir = self.new_dir();
        Ours::new(&self.lineup.server, &dir, false)
    }

    /// A directory that nobody has used. What was stored in the one before is removed: who used it
    /// has ended.
    fn new_dir(&mut self) -> PathBuf {
        let before = self.dir.join(self.lineups.to_string());
        // There is none before the first.
        drop(std::fs::remove_dir_all(before));
        self.lineups += 1;
        self.dir.join(self.lineups.to_string())
    }

    /// Puts samples into the report.
    pub(crate) fn add(&mut self, samples: Samples) {
        let Samples { workload, mut rows, broken: _ } = samples;
        // Systems of a case stand together, also where cases took turns.
        let cases: Vec<String> = rows.iter().map(|(case, ..)| case.clone()).collect();
        rows.sort_by_key(|(case, ..)| cases.iter().position(|first| first == case));
        let series =
            rows.into_iter().map(|(case, system, runs)| Series::new(workload, &case, system, runs));
        self.series.extend(series);
    }

    /// Says what a reader of the figures must know, once.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            crate::progress(&note);
            self.notes.push(note);
        }
    }

    fn note_failure(&mut self, what: &str, system: &str, failure: &Failure) {
        self.failed |= system.starts_with(OURS);
        let colon = if system.is_empty() { "" } else { ", " };
        self.note(format!("{what}{colon}{system}: {}", chain(failure)));
    }
}

// === impl Samples ===

impl Samples {
    pub(crate) fn of(workload: &'static str) -> Self {
        Self { workload, rows: Vec::new(), broken: Vec::new() }
    }

    /// Whether this case is still worth a run.
    pub(crate) fn is_sound(&self, case: &str, system: &dyn System) -> bool {
        !self.broken.iter().any(|(broken, of)| broken == case && *of == system.name())
    }

    /// Takes what a run came to; a failure is noted, and that case of that system not run again.
    pub(crate) fn take(
        &mut self,
        bench: &mut Bench,
        case: &str,
        system: &dyn System,
        outcome: Outcome<Sample>,
    ) {
        match outcome {
            Ok(sample) => self.put(case, system.name(), sample),
            Err(failure) => {
                let what = format!("{} {case}", self.workload);
                bench.note_failure(&what, system.name(), &failure);
                self.broken.push((case.to_owned(), system.name()));
            }
        }
    }

    /// Takes what a run came to.
    pub(crate) fn put(&mut self, case: &str, system: &'static str, sample: Sample) {
        let known = self.rows.iter_mut().find(|(of, by, _)| of == case && *by == system);
        match known {
            Some((_, _, runs)) => runs.push(sample),
            None => self.rows.push((case.to_owned(), system, vec![sample])),
        }
    }
}

// === impl Moment ===

impl Moment {
    pub(crate) fn now(system: &dyn System) -> Self {
        let clients = usage_of_us();
        Self { at: Instant::now(), server: system.usage(), clients }
    }

    /// What was used since.
    pub(crate) fn used(&self, system: &dyn System) -> Used {
        let now = Self::now(system);
        Used {
            time: now.at - self.at,
            server: now.server.processor.saturating_sub(self.server.processor),
            clients: now.clients.processor.saturating_sub(self.clients.processor),
            memory: now.server.memory,
        }
    }
}

/// The harness without the servers, which are its children.
fn usage_of_us() -> Usage {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let processor = sync_benches::proc::Stat::read(&text).map_or(Duration::ZERO, |stat| stat.own);
    Usage { processor, ..usage(0) }
}

// === impl Used ===

impl Used {
    /// The figures that every workload has, for so many operations.
    pub(crate) fn sample(&self, operations: u64) -> Sample {
        let seconds = self.time.as_secs_f64();
        let mut sample = Sample::new();
        sample.insert(Measure::PerSecond, float(operations) / seconds);
        sample
            .insert(Measure::ServerUs, self.server.as_secs_f64() * 1e6 / float(operations.max(1)));
        sample.insert(Measure::ServerCores, self.server.as_secs_f64() / seconds);
        sample.insert(Measure::ClientCores, self.clients.as_secs_f64() / seconds);
        sample
    }
}
