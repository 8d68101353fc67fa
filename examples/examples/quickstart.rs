//! The first steps: keep a copy of a collection, write an item, see what changes.
//!
//! Needs a server: `cargo run -p sync-server -- --data-dir /tmp/deltasync`. Then, as often as you
//! like: `cargo run -p sync-examples --example quickstart`.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use serde::{Deserialize, Serialize};
use sync_client::types::{CollectionName, Commit, Key, Mutation, Op, Value};
use sync_client::{Collection, Difference, Json, MemoryStore, Replica, SyncClient};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Debug, Serialize, Deserialize)]
struct Member {
    role: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7411".to_owned());
    let client = SyncClient::connect(server)?;
    let name = CollectionName::new("groups/42/members")?;

    // A replica keeps copies, and a driver keeps them right until it is stopped.
    let store = MemoryStore::new();
    let (replica, driver) =
        Replica::builder(client.clone(), store).collection(name.clone()).build()?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(driver.run(stop.clone()));

    // What is there, and from then on what changes.
    let members: Collection<Json<Member>> = replica.collection(&name)?;
    let mut changes = members.subscribe_with_all().await;

    // Backends write like this; every follower hears of it.
    let key = Key::new("ann")?;
    let role = format!("role number {}", std::process::id());
    let value = Value::new(serde_json::to_vec(&Member { role: role.clone() })?)?;
    let put = Op::Put { key: key.clone(), value, sort_key: None };
    let mutations = vec![Mutation { collection: name, op: put }];
    client.commit(Commit { mutations, ..Commit::default() }).await?;

    while let Some(change) = changes.next().await {
        let change = change?;
        println!("{change:?}");
        if let Difference::Inserted(new) | Difference::Updated { new, .. } = change
            && new.value.role == role
        {
            break;
        }
    }
    println!("ann is {:?} in the local copy", members.get(&key).await?);

    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}
