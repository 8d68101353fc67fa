//! What only accounts ask for and are told: heads that an inbox does not announce, and acks.

use prost::Message as _;
use sync_proto::convert::polled;
use sync_proto::types::{Ack, Acked, Outcome, Polled, Pull};
use sync_proto::v1;

use super::SyncClient;
use super::calls::outcomes;
use crate::error::ClientError;

/// The answer to one attempt of a pull.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// One per target, in order.
    pub(crate) outcomes: Vec<Outcome>,
    /// What was said besides, of which target.
    pub(crate) polled: Vec<(usize, Polled)>,
    /// Size of the reply.
    pub(crate) bytes: usize,
}

// === impl SyncClient ===

impl SyncClient {
    /// One attempt of a pull.
    pub(crate) async fn pull_once(&self, pull: Pull) -> Result<Pulled, ClientError> {
        let request = v1::PullRequest::try_from(pull)?;
        let asked = request.targets.len();
        let mut rpc = self.reader();
        let reply = self.attempt(request, async |request| rpc.pull(request).await).await?;
        let bytes = reply.encoded_len();
        let said = reply.outcomes.iter().enumerate();
        let said = said.filter(|(_, one)| !one.polled.is_empty() || one.polled_more);
        let read = |(index, outcome)| match polled(outcome) {
            Ok(polled) => Some((index, polled)),
            Err(broken) => {
                tracing::warn!(%broken, "heads that were polled break the protocol");
                None
            }
        };
        let polled = said.filter_map(read).collect();
        Ok(Pulled { outcomes: outcomes(reply, asked)?, polled, bytes })
    }

    /// Says that collections are durably processed up to here by a device whose name somebody else
    /// keeps. Attempted once: whoever asks tries again when it is time.
    pub(crate) async fn ack_as(
        &self,
        client_id: &str,
        acked: Vec<Acked>,
    ) -> Result<(), ClientError> {
        let request = v1::AckRequest::from(Ack { client_id: client_id.to_owned(), acked });
        let mut rpc = self.reader();
        self.attempt(request, async |request| rpc.ack(request).await).await.map(drop)
    }
}
