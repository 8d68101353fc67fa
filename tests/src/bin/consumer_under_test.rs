//! A client that stores nothing: what comes is written to standard output, line by line, and then
//! acknowledged. Whoever reads the lines is the store.
//!
//! ```text
//! consumer-under-test URI CLIENT_ID COLLECTION...
//! ```
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::io::{self, Write as _};

use serde_json::{Value as Json, json};
use sync_client::types::{Change, ChangeKind, CollectionName};
use sync_client::{Arrival, SyncClient};

fn main() {
    let mut args = std::env::args().skip(1);
    let (uri, client_id) = (args.next().unwrap(), args.next().unwrap());
    let names: Vec<_> = args.map(|name| CollectionName::new(&name).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = SyncClient::builder(uri).client_id(client_id).build().unwrap();
        let mut resumed = client.resume(names).unwrap();
        loop {
            let line = line(&resumed.next().await.unwrap());
            // A line is whole or not there: one write.
            io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
            io::stdout().flush().unwrap();
            // An ack that fails is sent again with the next one.
            if let Err(refused) = resumed.ack().await {
                eprintln!("{refused}");
            }
        }
    });
}

fn line(arrival: &Arrival) -> Json {
    match arrival {
        Arrival::Begins(name, why) => json!({ "begins": name.as_str(), "why": format!("{why:?}") }),
        Arrival::Changes(name, delta) => {
            let changes: Vec<Json> = delta.changes.iter().map(change).collect();
            let from = delta.from.version.get();
            json!({ "changes": name.as_str(), "of": changes, "from": from, "more": delta.has_more })
        }
        Arrival::CaughtUp(name, cursor) => {
            json!({ "caught_up": name.as_str(), "version": cursor.version.get() })
        }
        Arrival::Absent(name) => json!({ "absent": name.as_str() }),
        unexpected @ (Arrival::Ended(..) | _) => panic!("{unexpected:?}"),
    }
}

fn change(change: &Change) -> Json {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = text(change.key.as_bytes());
    match &change.kind {
        ChangeKind::Put { value, .. } => {
            json!([key, value.as_ref().map(|value| text(value.as_bytes()))])
        }
        ChangeKind::Delete | ChangeKind::LeftScope => json!([key]),
    }
}
