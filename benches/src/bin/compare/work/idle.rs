//! W5, memory of idle subscribers: what the server holds for each of them, on shared connections and
//! on one each.

use std::time::Duration;

use sync_benches::measure::Measure;
use sync_benches::report::Sample;
use tokio::task::JoinSet;

use crate::failure::{Outcome, within};
use crate::system::{Doing, System, Taken};
use crate::work::fan_out::{Crowd, Subscriber, gather, takes_part};
use crate::work::filling::fill;
use crate::work::{Bench, MEASURE_WITHIN, Samples, counted, float, mib};

const WORKLOAD: &str = "W5";

/// The collection that everybody follows.
const COLLECTION: u32 = 7;

/// Streams on one connection when subscribers share connections.
const SHARED: usize = 100;

/// Memory is taken when it has not grown for this long.
const QUIET: Duration = Duration::from_millis(500);

/// Growth that does not count as growth.
const STEADY_BYTES: u64 = 64 * 1024;

/// Measures it for all systems, which take turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let mut samples = Samples::of(WORKLOAD);
    let systems = bench.systems(false).await;
    let mut systems = bench.prepared(WORKLOAD, systems, prepare).await;
    for subscribers in bench.sizes.idle.clone() {
        for (kind, sharing) in [("multiplexed", SHARED), ("connections", 1)] {
            let case = counted(subscribers as u64, kind);
            crate::progress(&format!("{WORKLOAD} {case}"));
            let crowd = Crowd { subscribers, sharing };
            for _ in 0..bench.sizes.runs {
                for system in &mut systems {
                    let part = takes_part(bench, (WORKLOAD, &case), system.as_ref(), crowd);
                    if part && samples.is_sound(&case, system.as_ref()) {
                        let outcome = measure(system.as_mut(), crowd);
                        let outcome = within("a run of idling", MEASURE_WITHIN, outcome).await;
                        samples.take(bench, &case, system.as_ref(), outcome);
                    }
                }
            }
        }
    }
    bench.add(samples);
    Ok(())
}

/// There is something to follow.
fn prepare(system: &dyn System) -> Doing<'_, ()> {
    Box::pin(fill(system, COLLECTION, 0..1, 0))
}

async fn measure(system: &mut dyn System, crowd: Crowd) -> Outcome<Sample> {
    system.start().await?;
    // The first few pay for what the others find there.
    let few =
        gather(system, COLLECTION, Crowd { subscribers: crowd.sharing.min(10), ..crowd }).await?;
    let _few = idle(few);
    let before = steady_memory(system).await;
    let subscribers = gather(system, COLLECTION, crowd).await?;
    let _idle = idle(subscribers);
    let after = steady_memory(system).await;
    let each = float(after.saturating_sub(before)) / 1024.0 / float(crowd.subscribers as u64);
    Ok([(Measure::EachKib, each), (Measure::MemoryMib, mib(after))].into())
}

/// Everybody waits for what does not come. Ends with what is returned.
fn idle(subscribers: Vec<Subscriber>) -> JoinSet<Outcome<()>> {
    let mut tasks = JoinSet::new();
    for mut subscriber in subscribers {
        tasks.spawn(async move {
            let mut taken = Taken::nothing();
            loop {
                subscriber.feed.next(&mut taken).await?;
            }
        });
    }
    tasks
}

/// The memory of a server once it has stopped growing.
async fn steady_memory(system: &dyn System) -> u64 {
    let mut memory = system.usage().memory;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = system.usage().memory;
        if now <= memory + STEADY_BYTES {
            return now;
        }
        memory = now;
    }
}
