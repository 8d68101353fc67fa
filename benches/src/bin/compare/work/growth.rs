//! W9, growth: W1 to W4 again in stores of more and more items that nobody touches, and how long the
//! server takes to start on them. Only ours: it is about our own cost.

use std::time::Instant;

use sync_benches::measure::Measure;

use crate::failure::Outcome;
use crate::system::System as _;
use crate::work::catch_up::{self, Missed};
use crate::work::commits::{self, Writers};
use crate::work::fan_out::{self, Crowd, Kind};
use crate::work::filling::fill;
use crate::work::{Bench, Samples, counted, first_load};

const WORKLOAD: &str = "W9";

/// Items that nobody touches are in so many collections, from this one on.
const OTHERS: u32 = 100;
const OTHERS_FROM: u32 = 1_000;

/// What is loaded, and what is missed.
const LOADED: u32 = 10_000;
const MISSED: Missed = Missed { collection: 500, items: 1_000, times: 1 };

/// Measures it, larger and larger.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let mut samples = Samples::of(WORKLOAD);
    for items in bench.sizes.growth.clone() {
        let size = format!("at {}", counted(u64::from(items), "items"));
        crate::progress(&format!("{WORKLOAD} {size}"));
        let mut ours = bench.ours()?;
        ours.start().await?;
        for other in OTHERS_FROM..OTHERS_FROM + OTHERS {
            fill(&ours, other, 0..items / OTHERS, 0).await?;
        }
        fill(&ours, 0, 0..LOADED, 0).await?;
        let mark = catch_up::prepare(&ours, MISSED).await?;
        fill(&ours, fan_out::COLLECTION, 0..1, 0).await?;
        let mut next_key = 1;
        for _ in 0..bench.sizes.runs {
            let begun = Instant::now();
            let started = ours.start().await;
            let seconds = begun.elapsed().as_secs_f64();
            let started = started.map(|()| [(Measure::Seconds, seconds)].into());
            samples.take(bench, &format!("start {size}"), &ours, started);

            let writers = Writers { count: 64, batch: 1 };
            let outcome = commits::measure(&ours, writers, bench.sizes.commits_for).await;
            samples.take(bench, &format!("64 writers {size}"), &ours, outcome);

            let outcome = catch_up::measure(&ours, MISSED, mark).await;
            samples.take(bench, &format!("1,000 changed {size}"), &ours, outcome);

            let crowd = Crowd { subscribers: 100, sharing: 1 };
            let outcome = fan_out::measure(bench, &ours, crowd, Kind::Saturated, next_key).await;
            samples.take(bench, &format!("100 subscribers {size}"), &ours, outcome);
            next_key += 1_000_000;
        }
        // Commits touched items of it, and added none.
        let loaded = first_load::measure(&mut ours, u64::from(LOADED)).await;
        samples.take(bench, &format!("load of 10,000 {size}"), &ours, loaded);
    }
    bench.add(samples);
    Ok(())
}
