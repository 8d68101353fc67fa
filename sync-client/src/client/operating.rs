//! The calls of operators about the server as a whole: explain, verify, drain. They need the right to
//! administer everything.

use std::fmt;
use std::time::Duration;

use sync_proto::convert::drain_request;
use sync_proto::types::{CollectionName, Explanation};
use sync_proto::v1;
use tonic::Streaming;

use super::SyncClient;
use crate::error::ClientError;

/// A server that tells nothing for so long is taken for gone: it looks at some rows at a time.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);

/// A verification that is under way.
pub struct Verification {
    told: Streaming<v1::VerifyResponse>,
}

/// How far a verification is, and what it has found since it was last told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Rows read so far.
    pub rows: u64,
    /// About how many there will be.
    pub estimated_rows: u64,
    /// Collections checked so far.
    pub collections: u64,
    /// What is wrong, newly found: where and what. The first 1,000.
    pub findings: Vec<String>,
    /// How much is wrong so far.
    pub findings_count: u64,
    /// Collections, newly found, that were not checked because they changed all the time.
    pub unsettled: Vec<String>,
}

// === impl SyncClient ===

impl SyncClient {
    /// What a client showed lately, what was decided and why, and where it stands; only about
    /// `collection`, if one is named. [`ClientError::NotFound`]: the server knows no such client.
    pub async fn explain_client(
        &self,
        client_id: &str,
        collection: Option<&CollectionName>,
    ) -> Result<Explanation, ClientError> {
        let request = v1::ExplainClientRequest {
            client_id: client_id.to_owned(),
            collection: collection.map(ToString::to_string).unwrap_or_default(),
        };
        let send = |request| {
            let mut rpc = self.operator();
            async move { rpc.explain_client(request).await }
        };
        Ok(self.repeat(request, send).await?.try_into()?)
    }

    /// Begins to check the collections whose names begin with `prefix` while the server serves.
    /// Attempted once; the deadline of a call covers the beginning only.
    pub async fn verify(&self, prefix: &str) -> Result<Verification, ClientError> {
        let request = self.request(v1::VerifyRequest { prefix: prefix.to_owned() }).await;
        let mut rpc = self.operator();
        match tokio::time::timeout(self.call_timeout(), rpc.verify(request)).await {
            Ok(Ok(response)) => Ok(Verification { told: response.into_inner() }),
            Ok(Err(status)) => Err(ClientError::from_status(&status)),
            Err(_) => Err(ClientError::Deadline),
        }
    }

    /// Asks the server to end as it does on SIGTERM; open calls get `grace`, or what it is
    /// configured to give. Once per call.
    pub async fn drain(&self, grace: Option<Duration>) -> Result<(), ClientError> {
        let mut rpc = self.operator();
        self.attempt(drain_request(grace), async |request| rpc.drain(request).await).await?;
        Ok(())
    }
}

// === impl Verification ===

impl Verification {
    /// What is told next; `None` = all is done.
    pub async fn next(&mut self) -> Result<Option<Verified>, ClientError> {
        let next = tokio::time::timeout(PROGRESS_WITHIN, self.told.message()).await;
        let told = next.map_err(|_| ClientError::Deadline)?;
        let told = told.map_err(|status| ClientError::from_status(&status))?;
        Ok(told.map(|told| Verified {
            rows: told.rows,
            estimated_rows: told.estimated_rows,
            collections: told.collections,
            findings: told.findings,
            findings_count: told.findings_count,
            unsettled: told.unsettled,
        }))
    }
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification").finish_non_exhaustive()
    }
}
