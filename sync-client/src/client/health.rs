//! Whether a server serves, by the standard health service.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::SyncClient;
use crate::error::ClientError;

// === impl SyncClient ===

impl SyncClient {
    /// What the server says of a service, e.g. `SERVING`; of the empty name: of itself. Attempted
    /// once, and needs no credentials.
    pub async fn health(&self, service: &str) -> Result<&'static str, ClientError> {
        let mut rpc = HealthClient::new(self.shared.channel.clone());
        let request = HealthCheckRequest { service: service.to_owned() };
        let reply = self.attempt(request, async |request| rpc.check(request).await).await?;
        Ok(reply.status().as_str_name())
    }
}
