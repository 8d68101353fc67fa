//! W7, one stalled and one slow subscriber among 1,000: what the others notice of them. Only ours:
//! it is our own promise (G8).

use std::time::Duration;

use sync_benches::measure::Measure;
use tokio::task::JoinSet;

use crate::failure::Outcome;
use crate::system::{Feed, Line as _, Start, System as _, Taken};
use crate::systems::ours::Ours;
use crate::work::fan_out::{Crowd, gather, pace};
use crate::work::filling::fill;
use crate::work::{Bench, MEASURE_WITHIN, Samples};

const WORKLOAD: &str = "W7";
const WITHOUT: &str = "without";
const WITH: &str = "with a stalled and a slow one";

const COLLECTION: u32 = 7;
const SUBSCRIBERS: usize = 1_000;

/// The slow one takes a message this often.
const SLOW: Duration = Duration::from_millis(200);

/// Measures it, with and without in turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    crate::progress(WORKLOAD);
    let mut samples = Samples::of(WORKLOAD);
    let mut ours = bench.ours()?;
    ours.start().await?;
    fill(&ours, COLLECTION, 0..1, 0).await?;
    for _ in 0..bench.sizes.runs {
        for case in [WITHOUT, WITH] {
            if samples.is_sound(case, &ours) {
                let work = measure(&ours, case == WITH, bench.sizes.latencies_for);
                let outcome = crate::failure::within("a run of W7", MEASURE_WITHIN, work).await;
                samples.take(bench, case, &ours, outcome);
            }
        }
    }
    bench.add(samples);
    Ok(())
}

async fn measure(ours: &Ours, with: bool, time: Duration) -> Outcome<sync_benches::report::Sample> {
    let crowd = Crowd { subscribers: SUBSCRIBERS, sharing: 1 };
    let crowd = gather(ours, COLLECTION, crowd).await?;
    let mut others = JoinSet::new();
    let mut stalled: Option<Box<dyn Feed>> = None;
    if with {
        // Both have fewer bytes of room than a few changes take.
        let line = ours.narrow_line().await?;
        let mark = line.mark(COLLECTION).await?;
        stalled = Some(line.feed(COLLECTION, Start::After(mark)).await?);
        let line = ours.narrow_line().await?;
        let slow = line.feed(COLLECTION, Start::After(mark)).await?;
        others.spawn(take_slowly(slow));
    }
    let sample = pace(ours, crowd, (COLLECTION, time)).await;
    drop(stalled);
    others.shutdown().await;
    let mut sample = sample?;
    sample.remove(&Measure::PerSecond);
    Ok(sample)
}

async fn take_slowly(mut feed: Box<dyn Feed>) -> Outcome<()> {
    let mut taken = Taken::nothing();
    loop {
        feed.next(&mut taken).await?;
        tokio::time::sleep(SLOW).await;
    }
}
