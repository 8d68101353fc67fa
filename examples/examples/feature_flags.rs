//! Feature flags: a service asks its local copy, at the cost of a look into memory, and knows of a
//! change a moment after the operator has made it. Brings its own server; just
//! `cargo run -p sync-examples --example feature_flags`.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sync_client::types::{CollectionName, Commit, Cursor, Key, Mutation, Op, Value};
use sync_client::{Collection, Json, MemoryStore, Replica, SyncClient};
use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Far more than anything takes here.
const WITHIN: Duration = Duration::from_secs(10);

type Error = Box<dyn std::error::Error>;

#[derive(Debug, Serialize, Deserialize)]
struct Flag {
    enabled: bool,
    /// Whom it is enabled for, in percent.
    percent: u8,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let server = start_server(&stop, &tasks).await?;
    let name = CollectionName::new("flags/checkout")?;
    let operator = SyncClient::connect(&server)?;
    set(&operator, &name, "new-cart", Flag { enabled: false, percent: 0 }).await?;

    // The service: it starts, and is ready once its copy is the server's.
    let service = SyncClient::connect(&server)?;
    let store = MemoryStore::new();
    let (replica, driver) = Replica::builder(service, store).collection(name.clone()).build()?;
    tasks.spawn(driver.run(stop.clone()));
    let flags: Collection<Json<Flag>> = replica.collection(&name)?;
    flags.wait_until_ready(WITHIN).await?;
    println!("the service starts with {:?}", flags.get(&Key::new("new-cart")?).await?);

    // The operator changes a flag. The cursor of the commit is what the service can wait for.
    let begun = Instant::now();
    let cursor = set(&operator, &name, "new-cart", Flag { enabled: true, percent: 25 }).await?;
    flags.wait_for(cursor, WITHIN).await?;
    println!("{:?} later it sees {:?}", begun.elapsed(), flags.get(&Key::new("new-cart")?).await?);

    // A hot path need not be async: a store in memory answers on the spot.
    let flags = flags.reader();
    let (begun, key) = (Instant::now(), Key::new("new-cart")?);
    let asked = 100_000;
    let enabled = (0..asked).filter(|_| matches!(flags.get(&key), Ok(Some(flag)) if flag.enabled));
    println!("asked {asked} times, enabled {} times, in {:?}", enabled.count(), begun.elapsed());

    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Writes a flag; returns where the collection stands with it.
async fn set(
    operator: &SyncClient,
    name: &CollectionName,
    key: &str,
    flag: Flag,
) -> Result<Cursor, Error> {
    let value = Value::new(serde_json::to_vec(&flag)?)?;
    let put = Op::Put { key: Key::new(key.to_owned())?, value, sort_key: None };
    let mutations = vec![Mutation { collection: name.clone(), op: put }];
    let done = operator.commit(Commit { mutations, ..Commit::default() }).await?;
    let done = done.collections.first().ok_or("the reply names no collection")?;
    Ok(Cursor::at(done.epoch.ok_or("a put creates its collection")?, done.version))
}

/// A server that keeps everything in memory: for examples and tests.
async fn start_server(stop: &CancellationToken, tasks: &TaskTracker) -> Result<String, Error> {
    let config = Config::default();
    let store = sync_server::store::memory::MemoryStore::default();
    let ledger = Ledger::open(store, config.ledger(), &mut |_rows| {})?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let stop = stop.clone();
    tasks.spawn(async move { serve(listener, ledger, &config, stop).await });
    Ok(format!("http://{address}"))
}
