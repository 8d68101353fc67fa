//! Whether the server serves, by the standard health service: asked of the server as a whole and
//! of each of its services.

use std::time::Instant;

use serde_json::json;
use sync_client::ClientError;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Colour, table};

/// The empty name is the server as a whole.
const SERVICES: [&str; 3] = ["", "deltasync.v1.SyncService", "deltasync.v1.WriteService"];

pub(crate) async fn health(context: &mut Context) -> Result<Exit, Failure> {
    let asked = Instant::now();
    let checks =
        tokio::time::timeout(context.connection.timeout, check(&context.connection.server));
    let found = checks.await.map_err(|_| ClientError::Deadline)??;
    let round_trip_ms = asked.elapsed().as_millis() / (SERVICES.len() as u128);

    let mut services = table(&["service", "status"]);
    for (service, status) in SERVICES.iter().zip(&found) {
        let service = if service.is_empty() { "(server)" } else { service };
        if context.output.json() {
            let object = json!({ "service": service, "status": status.as_str_name() });
            context.output.object(&object)?;
        } else {
            services.add_row([service, status.as_str_name()]);
        }
    }
    if !context.output.json() {
        context.output.table(services)?;
        let answered = format!("answered in about {round_trip_ms} ms");
        context.output.coloured_line(Colour::Dim, &answered)?;
    }
    if found.iter().all(|status| *status == ServingStatus::Serving) {
        return Ok(Exit::Done);
    }
    Err(Failure::NotServing("the server is up but does not serve".into()))
}

async fn check(server: &str) -> Result<Vec<ServingStatus>, ClientError> {
    let unavailable = |error: &dyn std::error::Error| ClientError::Unavailable(error.to_string());
    let endpoint = tonic::transport::Endpoint::from_shared(server.to_owned())
        .map_err(|error| ClientError::Setting(format!("{server:?}: {error}")))?;
    let channel = endpoint.connect().await.map_err(|error| unavailable(&error))?;
    let mut rpc = HealthClient::new(channel);
    let mut found = Vec::new();
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        let reply = rpc.check(request).await.map_err(|status| unavailable(&status))?;
        found.push(reply.into_inner().status());
    }
    Ok(found)
}
