//! W4, first load: a client that has nothing reads everything, from a server that has just started;
//! then a second one does the same.

use std::time::Instant;

use sync_benches::measure::Measure;
use sync_benches::report::Sample;

use crate::failure::{Outcome, within};
use crate::process::forget_peak;
use crate::system::{Start, System, Taken};
use crate::work::filling::fill;
use crate::work::{Bench, MEASURE_WITHIN, Moment, Samples, complete, counted, float, mib};

const WORKLOAD: &str = "W4";

/// Measures it for all systems, which take turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let mut samples = Samples::of(WORKLOAD);
    for items in bench.sizes.loads.clone() {
        let case = counted(u64::from(items), "items");
        crate::progress(&format!("{WORKLOAD} {case}"));
        let mut systems = bench.systems(true).await;
        for system in &systems {
            if let Err(failure) = fill(system.as_ref(), 0, 0..items, 0).await {
                samples.take(bench, &case, system.as_ref(), Err(failure));
            }
        }
        for _ in 0..bench.sizes.runs {
            for system in &mut systems {
                if samples.is_sound(&case, system.as_ref()) {
                    let outcome = measure(system.as_mut(), u64::from(items)).await;
                    samples.take(bench, &case, system.as_ref(), outcome);
                }
            }
        }
    }
    bench.add(samples);
    Ok(())
}

/// One run of one system.
pub(crate) async fn measure(system: &mut dyn System, items: u64) -> Outcome<Sample> {
    system.start().await?;
    forget_peak(system.pid());
    let memory = system.usage().memory;
    let (mut sample, bytes, seconds) = one(system, items).await?;
    let peak = system.usage().peak;
    sample.insert(Measure::Seconds, seconds);
    if peak > 0 {
        sample.insert(Measure::PeakMib, mib(peak.saturating_sub(memory)));
    }
    sample.insert(Measure::WireKib, float(bytes) / 1024.0);
    sample.insert(Measure::ServerMs, sample[&Measure::ServerUs] * float(items) / 1_000.0);
    let (second, _, seconds) = one(system, items).await?;
    sample.insert(Measure::SecondSeconds, seconds);
    sample.insert(Measure::SecondServerMs, second[&Measure::ServerUs] * float(items) / 1_000.0);
    sample.remove(&Measure::PerSecond);
    sample.remove(&Measure::ServerUs);
    Ok(sample)
}

/// One client: what was used, the bytes of all items, the seconds.
async fn one(system: &dyn System, items: u64) -> Outcome<(Sample, u64, f64)> {
    let line = system.connect().await?;
    let before = Moment::now(system);
    let begun = Instant::now();
    let load = async {
        let mut feed = line.feed(0, Start::Scratch).await?;
        let mut taken = Taken::nothing();
        while !complete(system, &taken, (items, items))? {
            feed.next(&mut taken).await?;
        }
        Ok(taken)
    };
    let taken = within("a first load", MEASURE_WITHIN, load).await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((before.used(system).sample(items), taken.bytes, seconds))
}
