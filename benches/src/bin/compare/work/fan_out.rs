//! W3, fan-out: every subscriber gets every change. How many deliveries a second when the writers
//! do not wait for them; how late a change comes when 100 are written a second.

use std::time::{Duration, Instant};

use sync_benches::measure::Measure;
use sync_benches::report::Sample;
use sync_benches::stats::percentile;
use tokio::task::JoinSet;

use crate::failure::{Failure, Outcome, within};
use crate::system::{Doing, Feed, Line, Start, System, Taken};
use crate::values::Values;
use crate::work::filling::{all, fill};
use crate::work::{Bench, MEASURE_WITHIN, Moment, Samples, counted, mib, millis};

const WORKLOAD: &str = "W3";

/// The collection that everybody follows.
pub(crate) const COLLECTION: u32 = 7;

/// Writers at saturation.
const WRITERS: usize = 16;

/// Changes that one run writes, at least and at most.
const WRITES: (usize, usize) = (200, 4_000);

/// Between two writes when latencies are measured.
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// Streams on one connection when subscribers share connections.
const SHARED: usize = 100;

/// Subscriptions are opened so many at once.
const OPENING: usize = 64;

/// Who subscribes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) subscribers: usize,
    /// Streams of one connection.
    pub(crate) sharing: usize,
}

/// A subscription, with the connection that it needs.
pub(crate) struct Subscriber {
    pub(crate) feed: Box<dyn Feed>,
    _line: std::sync::Arc<dyn Line>,
}

/// Measures it for all systems, which take turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let mut samples = Samples::of(WORKLOAD);
    for (case, crowd) in cases(bench) {
        crate::progress(&format!("{WORKLOAD} {case}"));
        // Servers of their own: what the last crowd cost is not this one's.
        let systems = bench.systems(false).await;
        let systems = bench.prepared(WORKLOAD, systems, prepare).await;
        let mut next_key = 1;
        for _ in 0..bench.sizes.runs {
            for system in &systems {
                if !takes_part(bench, (WORKLOAD, &case), system.as_ref(), crowd) {
                    continue;
                }
                for (case, kind) in [
                    (case.clone(), Kind::Saturated),
                    (format!("{case}, 100 writes/s"), Kind::Paced),
                ] {
                    if samples.is_sound(&case, system.as_ref()) {
                        let outcome = measure(bench, system.as_ref(), crowd, kind, next_key).await;
                        samples.take(bench, &case, system.as_ref(), outcome);
                    }
                }
            }
            next_key += 1_000_000;
        }
    }
    bench.add(samples);
    Ok(())
}

/// There is something to follow, and followers are told.
fn prepare(system: &dyn System) -> Doing<'_, ()> {
    Box::pin(async move {
        system.prepare_fan_out().await?;
        fill(system, COLLECTION, 0..1, 0).await
    })
}

/// How changes are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Saturated,
    Paced,
}

fn cases(bench: &Bench) -> Vec<(String, Crowd)> {
    let mut cases = Vec::new();
    for subscribers in bench.sizes.subscribers.clone() {
        let case = counted(subscribers as u64, "subscribers");
        cases.push((case.clone(), Crowd { subscribers, sharing: 1 }));
        if subscribers >= 1_000 {
            cases.push((format!("{case}, multiplexed"), Crowd { subscribers, sharing: SHARED }));
        }
    }
    cases
}

/// Whether a system can have such a crowd; if not, that is noted.
pub(crate) fn takes_part(
    bench: &mut Bench,
    (workload, case): (&str, &str),
    system: &dyn System,
    crowd: Crowd,
) -> bool {
    if crowd.sharing > 1 && !system.multiplexes() {
        return false;
    }
    match system.subscribers_max() {
        Some((most, why)) if crowd.subscribers > most => {
            bench.note(format!("{workload} {case}, {}: not run, {why}", system.name()));
            false
        }
        Some(_) | None => true,
    }
}

/// One run of one system.
pub(crate) async fn measure(
    bench: &Bench,
    system: &dyn System,
    crowd: Crowd,
    kind: Kind,
    next_key: u32,
) -> Outcome<Sample> {
    let work = async {
        let crowd = gather(system, COLLECTION, crowd).await?;
        match kind {
            Kind::Saturated => saturate(bench, system, crowd, next_key).await,
            Kind::Paced => pace(system, crowd, (COLLECTION, bench.sizes.latencies_for)).await,
        }
    };
    within("a run of fan-out", MEASURE_WITHIN, work).await
}

/// Everybody subscribes, and has everything that there is.
pub(crate) async fn gather(
    system: &dyn System,
    collection: u32,
    crowd: Crowd,
) -> Outcome<Vec<Subscriber>> {
    let mark = system.connect().await?.mark(collection).await?;
    let mut lines: Vec<std::sync::Arc<dyn Line>> = Vec::new();
    for _ in 0..crowd.subscribers.div_ceil(crowd.sharing) {
        lines.push(system.connect().await?.into());
    }
    let mut subscribers = Vec::new();
    let mut waiting: Vec<usize> = (0..crowd.subscribers).collect();
    while !waiting.is_empty() {
        let some = waiting.split_off(waiting.len().saturating_sub(OPENING));
        let opened = some.into_iter().map(|index| {
            let line = std::sync::Arc::clone(&lines[index / crowd.sharing]);
            async move {
                let feed = line.feed(collection, Start::After(mark)).await?;
                Ok::<_, Failure>(Subscriber { feed, _line: line })
            }
        });
        subscribers.extend(futures::future::try_join_all(opened).await?);
    }
    Ok(subscribers)
}

/// Writes as fast as it goes; the rate counts until the last subscriber has the last change.
async fn saturate(
    bench: &Bench,
    system: &dyn System,
    crowd: Vec<Subscriber>,
    first_key: u32,
) -> Outcome<Sample> {
    let subscribers = crowd.len();
    let count = (bench.sizes.deliveries / subscribers).clamp(WRITES.0, WRITES.1);
    let count = count - count % WRITERS;
    let line = system.connect().await?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(line.writer().await?);
    }
    let before = Moment::now(system);
    let mut readers = JoinSet::new();
    for subscriber in crowd {
        readers.spawn(read_until(subscriber, Taken::nothing(), count as u64));
    }
    let mut tasks = JoinSet::new();
    let each = u32::try_from(count / WRITERS).unwrap_or(u32::MAX);
    for (index, mut writer) in (0..).zip(writers) {
        tasks.spawn(async move {
            let mut values = Values::new(u64::from(index));
            for key in 0..each {
                writer.write(&[values.item(COLLECTION, first_key + index * each + key)]).await?;
            }
            Ok(())
        });
    }
    all(tasks).await?;
    all(readers).await?;
    let used = before.used(system);
    let mut sample = used.sample(count as u64 * subscribers as u64);
    sample.insert(Measure::MemoryMib, mib(used.memory));
    Ok(sample)
}

/// Writes 100 a second; how late each change comes to each subscriber.
pub(crate) async fn pace(
    system: &dyn System,
    crowd: Vec<Subscriber>,
    (collection, time): (u32, Duration),
) -> Outcome<Sample> {
    let subscribers = crowd.len() as u64;
    let count = u32::try_from(time.as_millis() / WRITE_EVERY.as_millis()).unwrap_or(u32::MAX);
    let origin = Instant::now();
    let mut writer = system.connect().await?.writer().await?;
    let before = Moment::now(system);
    let mut readers = JoinSet::new();
    for subscriber in crowd {
        readers.spawn(read_until(subscriber, Taken::with_latencies(origin), u64::from(count)));
    }
    let mut values = Values::stamped(origin);
    let mut tick = tokio::time::interval(WRITE_EVERY);
    for key in 0..count {
        tick.tick().await;
        writer.write(&[values.item(collection, key)]).await?;
    }
    let taken = all(readers).await?;
    let used = before.used(system);
    let latencies = taken.into_iter().filter_map(|taken| Some(taken.latencies?.1));
    let mut latencies = latencies.collect::<Vec<_>>().concat();
    let mut sample = used.sample(u64::from(count) * subscribers);
    // The rate is given, not found.
    sample.remove(&Measure::PerSecond);
    for (measure, share) in [(Measure::P50Ms, 0.5), (Measure::P99Ms, 0.99)] {
        if let Some(micros) = percentile(&mut latencies, share) {
            sample.insert(measure, millis(micros));
        }
    }
    Ok(sample)
}

/// Reads so many changes.
async fn read_until(mut subscriber: Subscriber, mut taken: Taken, changes: u64) -> Outcome<Taken> {
    while taken.changes < changes {
        subscriber.feed.next(&mut taken).await?;
    }
    if taken.changes > changes {
        return Err(Failure::Wrong(format!("{} deliveries, {changes} were due", taken.changes)));
    }
    Ok(taken)
}
