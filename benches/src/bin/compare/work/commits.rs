//! W1, durable commits: values of 128 bytes, 1,000 keys over 100 collections; each writer waits for
//! its acknowledgement, which is synced.

use std::time::{Duration, Instant};

use sync_benches::measure::Measure;
use sync_benches::report::Sample;
use sync_benches::stats::percentile;
use tokio::task::JoinSet;

use crate::failure::{Outcome, within};
use crate::machine::{Bare, bare_syncs};
use crate::system::{Item, System, Writer};
use crate::values::Values;
use crate::work::filling::all;
use crate::work::{Bench, MEASURE_WITHIN, Moment, Samples, float, mib, millis};

const WORKLOAD: &str = "W1";

/// Collections, and keys in all of them.
pub(crate) const COLLECTIONS: u32 = 100;
const KEYS: u32 = 1_000;

/// Connections that gRPC writers share, at most.
const LINES: usize = 8;

/// Before anything counts.
const WARM_UP: Duration = Duration::from_millis(200);

/// What the disk takes alone, and what that is called in the table.
const BARE: [(&str, Bare); 2] =
    [("fdatasync in place", Bare::InPlace), ("fdatasync of an append", Bare::Append)];

/// How many write, and how much at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writers {
    pub(crate) count: usize,
    pub(crate) batch: usize,
}

const CASES: [(&str, Writers); 5] = [
    ("1 writer", Writers { count: 1, batch: 1 }),
    ("16 writers", Writers { count: 16, batch: 1 }),
    ("64 writers", Writers { count: 64, batch: 1 }),
    ("256 writers", Writers { count: 256, batch: 1 }),
    ("batches of 100", Writers { count: 16, batch: 100 }),
];

/// Measures it for all systems, which take turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let systems = bench.systems(true).await;
    let mut samples = Samples::of(WORKLOAD);
    let time = bench.sizes.commits_for;
    for (case, writers) in CASES {
        crate::progress(&format!("{WORKLOAD} {case}"));
        for _ in 0..bench.sizes.runs {
            if writers.count == 1 {
                for (name, how) in BARE {
                    samples.put(case, name, bare(bench, how, time)?);
                }
            }
            for system in &systems {
                if samples.is_sound(case, system.as_ref()) {
                    let outcome = measure(system.as_ref(), writers, time).await;
                    samples.take(bench, case, system.as_ref(), outcome);
                }
            }
        }
    }
    bench.add(samples);
    Ok(())
}

fn bare(bench: &Bench, how: Bare, time: Duration) -> Outcome<Sample> {
    let latencies = bare_syncs(&bench.dir, how, time)?;
    let rate = float(latencies.len() as u64) / time.as_secs_f64();
    Ok(with_latencies([(Measure::PerSecond, rate)].into(), latencies))
}

/// One run of one system.
pub(crate) async fn measure(
    system: &dyn System,
    writers: Writers,
    time: Duration,
) -> Outcome<Sample> {
    let count = if system.multiplexes() { writers.count.min(LINES) } else { 1 };
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(system.connect().await?);
    }
    let mut opened = Vec::new();
    for index in 0..writers.count {
        opened.push(lines[index % lines.len()].writer().await?);
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + time;
    let mut tasks = JoinSet::new();
    for (seed, writer) in (0..).zip(opened) {
        tasks.spawn(write_until(writer, Values::new(seed), writers.batch, (begin, end)));
    }
    tokio::time::sleep_until(begin.into()).await;
    let before = Moment::now(system);
    tokio::time::sleep_until(end.into()).await;
    let used = before.used(system);
    let latencies = within("a run of commits", MEASURE_WITHIN, all(tasks)).await?.concat();
    let mutations = latencies.len() as u64 * writers.batch as u64;
    let mut sample = used.sample(mutations);
    sample.insert(Measure::MemoryMib, mib(used.memory));
    Ok(with_latencies(sample, latencies))
}

/// Writes until the end; latencies in microseconds of what began and ended in time.
async fn write_until(
    mut writer: Box<dyn Writer>,
    mut values: Values,
    batch: usize,
    (begin, end): (Instant, Instant),
) -> Outcome<Vec<u32>> {
    let mut latencies = Vec::new();
    loop {
        let items = some_items(&mut values, batch);
        let one = Instant::now();
        if one >= end {
            return Ok(latencies);
        }
        writer.write(&items).await?;
        let done = Instant::now();
        if one >= begin && done <= end {
            latencies.push(u32::try_from((done - one).as_micros()).unwrap_or(u32::MAX));
        }
    }
}

/// Different items, anywhere in the collections; in order, or transactions of `PostgreSQL` would wait
/// for each other in circles.
fn some_items(values: &mut Values, count: usize) -> Vec<Item> {
    let mut numbers = values.different(count, KEYS);
    numbers.sort_unstable();
    let item = |number: u32| values.item(number % COLLECTIONS, number / COLLECTIONS);
    numbers.into_iter().map(item).collect()
}

fn with_latencies(mut sample: Sample, mut latencies: Vec<u32>) -> Sample {
    for (measure, share) in [(Measure::P50Ms, 0.5), (Measure::P99Ms, 0.99)] {
        if let Some(micros) = percentile(&mut latencies, share) {
            sample.insert(measure, millis(micros));
        }
    }
    sample
}
