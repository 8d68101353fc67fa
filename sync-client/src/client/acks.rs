//! The calls about cursors that the server holds for clients, in checked types.

use bytes::Bytes;
use sync_proto::types::{Ack, Acked, ClientInfo};
use sync_proto::v1;

use super::{Page, SyncClient};
use crate::error::ClientError;

// === impl SyncClient ===

impl SyncClient {
    /// "I have durably applied up to these cursors": at most 1,024, no collection twice. The server
    /// keeps them for this client, which needs a name ([`ClientBuilder::client_id`]); they are
    /// durable when this returns. All are taken or none. An ack that comes late or again changes
    /// nothing, so it is repeated like any harmless call.
    ///
    /// [`ClientError::Precondition`]: a cursor is of another epoch, above the head, or claims more
    /// than was sent; the text begins with which one.
    ///
    /// [`ClientBuilder::client_id`]: super::ClientBuilder::client_id
    pub async fn ack(&self, acked: Vec<Acked>) -> Result<(), ClientError> {
        if self.client_id().is_empty() {
            return Err(ClientError::Setting("acks need a client_id".into()));
        }
        let request = v1::AckRequest::from(Ack { client_id: self.client_id().to_owned(), acked });
        let send = |request| {
            let mut rpc = self.reader();
            async move { rpc.ack(request).await }
        };
        self.repeat(request, send).await?;
        Ok(())
    }

    /// A page of the clients whose ids begin with `prefix`: where each stands. Needs the right to
    /// administer.
    pub async fn list_clients(
        &self,
        prefix: &str,
        page_token: Option<Bytes>,
    ) -> Result<Page<ClientInfo>, ClientError> {
        let request = v1::ListClientsRequest {
            prefix: prefix.to_owned(),
            page_token: page_token.unwrap_or_default(),
            ..v1::ListClientsRequest::default()
        };
        let send = |request| {
            let mut rpc = self.operator();
            async move { rpc.list_clients(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let clients = reply.clients.into_iter().map(ClientInfo::try_from);
        Ok(Page {
            entries: clients.collect::<Result<_, _>>()?,
            next: (!reply.next_page_token.is_empty()).then_some(reply.next_page_token),
            head: None,
        })
    }
}
