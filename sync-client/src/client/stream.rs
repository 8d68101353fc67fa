//! The stream of a subscription, in checked types.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use prost::Message as _;
use sync_proto::types::{CollectionName, Event, Malformed, Subscribe};
use sync_proto::v1;
use sync_proto::v1::subscribe_response::Message as Wire;
use tonic::Streaming;

use super::SyncClient;
use super::calls::failure;
use crate::error::ClientError;

/// Messages of a subscription, in order. Ends after `Goodbye`, or when the connection breaks.
/// A message that breaks the protocol counts as [`Event::Failed`] of the collection that it is
/// about; the others go on.
pub struct EventStream {
    messages: Streaming<v1::SubscribeResponse>,
    bytes: u64,
}

// === impl SyncClient ===

impl SyncClient {
    /// Opens a stream: catch-up, then live changes, without a seam. Attempted once; the
    /// deadline of a call covers the opening only.
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<EventStream, ClientError> {
        let request = self.request(v1::SubscribeRequest::from(subscribe)).await;
        let mut rpc = self.reader();
        match self.while_it_moves(rpc.subscribe(request)).await? {
            Ok(response) => Ok(EventStream { messages: response.into_inner(), bytes: 0 }),
            Err(status) => Err(ClientError::from_status(&status)),
        }
    }
}

// === impl EventStream ===

impl EventStream {
    /// Bytes of all messages so far, as they were encoded.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Stream for EventStream {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match Pin::new(&mut self.messages).poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(next) => next,
        };
        Poll::Ready(next.map(|message| match message {
            Ok(message) => {
                self.bytes += message.encoded_len() as u64;
                event(message)
            }
            Err(status) => Err(ClientError::from_status(&status)),
        }))
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

fn event(message: v1::SubscribeResponse) -> Result<Event, ClientError> {
    let about = message.message.as_ref().and_then(collection_of);
    Event::try_from(message).or_else(|broken: Malformed| match about {
        Some(collection) => Ok(Event::Failed(collection, failure(&broken))),
        None => Err(broken.into()),
    })
}

/// Which collection a message is about, if it is about one.
fn collection_of(message: &Wire) -> Option<CollectionName> {
    let name = match message {
        Wire::Changes(changes) => &changes.collection,
        Wire::Notice(notice) => &notice.collection,
        Wire::Reset(reset) => &reset.collection,
        Wire::Lagging(lagging) => &lagging.collection,
        Wire::CaughtUp(caught_up) => &caught_up.collection,
        Wire::Revoked(revoked) => &revoked.collection,
        Wire::Absent(absent) => &absent.collection,
        Wire::Failed(failed) => &failed.collection,
        Wire::Bookmark(_) | Wire::Accepted(_) | Wire::Goodbye(_) => return None,
    };
    CollectionName::new(name).ok()
}
