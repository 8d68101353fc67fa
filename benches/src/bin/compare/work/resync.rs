//! W8, resync: a client whose cursor is lost (a new epoch) and of whose items 0.1 % differ; bytes
//! against those of its first load. Only ours: no peer has such a call.

use std::time::{Duration, Instant};

use sync_benches::measure::Measure;
use sync_benches::report::Sample;
use sync_client::store::MemoryStore;
use sync_client::types::{CollectionName, Cursor};
use sync_client::{Collection, Raw, Replica, SyncClient};
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Outcome, within};
use crate::system::System as _;
use crate::systems::ours::{Ours, name};
use crate::work::filling::fill;
use crate::work::{Bench, MEASURE_WITHIN, Samples, counted, float};

const WORKLOAD: &str = "W8";
const COLLECTION: u32 = 7;

/// Of so many items one differs.
const DIFFERS_ONE_IN: u32 = 1_000;

/// Measures it.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    let mut samples = Samples::of(WORKLOAD);
    for items in bench.sizes.resyncs.clone() {
        let case = format!("0.1 % of {}", counted(u64::from(items), "differ"));
        crate::progress(&format!("{WORKLOAD} {case}"));
        let mut ours = bench.ours()?;
        ours.start().await?;
        fill(&ours, COLLECTION, 0..items, 0).await?;
        for round in 1..=bench.sizes.runs {
            let round = u32::try_from(round).unwrap_or(u32::MAX);
            let work = measure(&ours, items, round);
            let outcome = within("a run of W8", MEASURE_WITHIN, work).await;
            samples.take(bench, &case, &ours, outcome);
        }
    }
    bench.add(samples);
    Ok(())
}

async fn measure(ours: &Ours, items: u32, round: u32) -> Outcome<Sample> {
    let store = MemoryStore::new();
    let name = CollectionName::new(&name(COLLECTION)).map_err(said)?;
    let client = SyncClient::connect(ours.uri()).map_err(said)?;
    let (load, _) = follow(&client, &store, &name, None).await?;
    fill(ours, COLLECTION, 0..items / DIFFERS_ONE_IN, round).await?;
    let head = client.rotate_epoch(&name).await.map_err(said)?;
    let (resync, seconds) = follow(&client, &store, &name, Some(head.cursor())).await?;
    Ok([
        (Measure::Seconds, seconds),
        (Measure::WireKib, float(resync) / 1024.0),
        (Measure::LoadPercent, 100.0 * float(resync) / float(load.max(1))),
    ]
    .into())
}

/// Runs a replica on `store` until it has everything; bytes that it received, and seconds.
async fn follow(
    client: &SyncClient,
    store: &MemoryStore,
    name: &CollectionName,
    until: Option<Cursor>,
) -> Outcome<(u64, f64)> {
    let begun = Instant::now();
    let builder = Replica::builder(client.clone(), store.clone()).collection(name.clone());
    let (replica, driver) = builder.build().map_err(said)?;
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driver.run(stop.clone()));
    let copy: Collection<Raw> = replica.collection(name).map_err(said)?;
    let patience = Duration::from_secs(60);
    match until {
        None => copy.wait_until_ready(patience).await.map_err(said)?,
        Some(cursor) => copy.wait_for(cursor, patience).await.map_err(said)?,
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.cancel();
    tasks.join_all().await;
    Ok((replica.stats().bytes_received, seconds))
}

fn said(error: impl std::fmt::Display) -> Failure {
    Failure::Client(error.to_string())
}
