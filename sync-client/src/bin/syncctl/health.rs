//! Whether the server serves, by the standard health service: asked of the server as a whole and
//! of each of its services.

use std::time::Instant;

use serde_json::json;
use sync_client::{ClientError, SyncClient};

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Colour, table};

/// The empty name is the server as a whole.
const SERVICES: [&str; 3] = ["", "deltasync.v1.SyncService", "deltasync.v1.WriteService"];

/// What a service says that serves.
const SERVING: &str = "SERVING";

pub(crate) async fn health(context: &mut Context) -> Result<Exit, Failure> {
    let asked = Instant::now();
    let checks = tokio::time::timeout(context.connection.timeout, check(&context.client));
    let found = checks.await.map_err(|_| ClientError::Deadline)??;
    let round_trip_ms = asked.elapsed().as_millis() / (SERVICES.len() as u128);

    let mut services = table(&["service", "status"]);
    for (service, status) in SERVICES.iter().zip(&found) {
        let service = if service.is_empty() { "(server)" } else { service };
        if context.output.json() {
            let object = json!({ "service": service, "status": status });
            context.output.object(&object)?;
        } else {
            services.add_row([service, status]);
        }
    }
    if !context.output.json() {
        context.output.table(services)?;
        let answered = format!("answered in about {round_trip_ms} ms");
        context.output.coloured_line(Colour::Dim, &answered)?;
    }
    if found.iter().all(|status| *status == SERVING) {
        return Ok(Exit::Done);
    }
    Err(Failure::NotServing("the server is up but does not serve".into()))
}

async fn check(client: &SyncClient) -> Result<Vec<&'static str>, ClientError> {
    let mut found = Vec::new();
    for service in SERVICES {
        found.push(client.health(service).await?);
    }
    Ok(found)
}
