//! W2, catch-up: a client was away while items changed, and reads what it missed, up to the last
//! byte.

use std::time::{Duration, Instant};

use sync_benches::measure::Measure;
use sync_benches::report::Sample;

use crate::failure::{Outcome, within};
use crate::system::{Line, Mark, Start, System, Taken};
use crate::work::filling::fill;
use crate::work::{Bench, MEASURE_WITHIN, Moment, Samples, complete, counted, float};

const WORKLOAD: &str = "W2";

/// Items that change again and again, and how often.
const HOT: u32 = 1_000;
const ROUNDS: u32 = 100;

/// One run catches up again and again for this long, or so often: a short one alone says nothing.
const READ_FOR: Duration = Duration::from_millis(200);
const TIMES_MAX: u32 = 100;

/// What was missed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Missed {
    pub(crate) collection: u32,
    /// Items that changed.
    pub(crate) items: u32,
    /// How often each changed.
    pub(crate) times: u32,
}

/// Measures it for all systems, which take turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let systems = bench.systems(false).await;
    let mut samples = Samples::of(WORKLOAD);
    let mut cases: Vec<(String, Missed)> = Vec::new();
    for (collection, items) in (1..).zip(bench.sizes.missed.clone()) {
        let missed = Missed { collection, items, times: 1 };
        cases.push((counted(u64::from(items), "changed"), missed));
    }
    let hot = Missed { collection: 0, items: HOT, times: ROUNDS };
    cases.push((counted(u64::from(HOT), "changed 100 times"), hot));
    for (case, missed) in &cases {
        crate::progress(&format!("{WORKLOAD} {case}"));
        let mut marks = Vec::new();
        for system in &systems {
            let mark = prepare(system.as_ref(), *missed).await;
            if let Err(failure) = mark {
                samples.take(bench, case, system.as_ref(), Err(failure));
                marks.push(None);
            } else {
                marks.push(mark.ok());
            }
        }
        for _ in 0..bench.sizes.runs {
            for (system, mark) in systems.iter().zip(&marks) {
                let Some(mark) = mark.filter(|_| samples.is_sound(case, system.as_ref())) else {
                    continue;
                };
                let outcome = measure(system.as_ref(), *missed, mark).await;
                samples.take(bench, case, system.as_ref(), outcome);
            }
        }
    }
    bench.add(samples);
    Ok(())
}

/// Fills a collection and changes it; where the client was before the changes.
pub(crate) async fn prepare(system: &dyn System, missed: Missed) -> Outcome<Mark> {
    fill(system, missed.collection, 0..missed.items, 0).await?;
    let line = system.connect().await?;
    let mark = line.mark(missed.collection).await?;
    for round in 1..=missed.times {
        fill(system, missed.collection, 0..missed.items, round).await?;
    }
    Ok(mark)
}

/// One run of one system.
pub(crate) async fn measure(system: &dyn System, missed: Missed, mark: Mark) -> Outcome<Sample> {
    let line = system.connect().await?;
    let before = Moment::now(system);
    let begun = Instant::now();
    let (mut changes, mut bytes, mut times) = (0, 0, 0);
    while times == 0 || (times < TIMES_MAX && begun.elapsed() < READ_FOR) {
        let taken =
            within("a catch-up", MEASURE_WITHIN, catch_up(system, &*line, missed, mark)).await?;
        changes += taken.changes;
        bytes += taken.bytes;
        times += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut sample = before.used(system).sample(changes);
    sample.insert(Measure::PerSecond, float(changes) / seconds);
    sample.insert(Measure::Seconds, seconds / f64::from(times));
    sample.insert(Measure::WireKib, float(bytes) / 1024.0 / f64::from(times));
    Ok(sample)
}

async fn catch_up(
    system: &dyn System,
    line: &dyn Line,
    missed: Missed,
    mark: Mark,
) -> Outcome<Taken> {
    let items = u64::from(missed.items);
    let mut feed = line.feed(missed.collection, Start::After(mark)).await?;
    let mut taken = Taken::nothing();
    while !complete(system, &taken, (items * u64::from(missed.times), items))? {
        feed.next(&mut taken).await?;
    }
    Ok(taken)
}
