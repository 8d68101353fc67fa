//! The messages of a subscription, one by one, each within a deadline.

use sync_proto::types::{AcceptedTarget, Event};
use sync_proto::v1;
use tonic::{Status, Streaming};

use crate::wait::within;

/// A stream of messages.
#[derive(Debug)]
pub struct Events {
    inner: Streaming<v1::SubscribeResponse>,
}

// === impl Events ===

impl Events {
    /// The messages of this stream.
    #[must_use]
    pub fn new(inner: Streaming<v1::SubscribeResponse>) -> Self {
        Self { inner }
    }

    /// The next message; `None` = the stream has ended well.
    pub async fn try_next(&mut self) -> Result<Option<Event>, Status> {
        let message = within("a message of a subscription", self.inner.message()).await?;
        Ok(message.map(|message| Event::try_from(message).unwrap()))
    }

    /// The next message, which must come.
    pub async fn next(&mut self) -> Event {
        self.try_next().await.unwrap().expect("the stream goes on")
    }

    /// The next message that is not a bookmark.
    pub async fn next_news(&mut self) -> Event {
        loop {
            let event = self.next().await;
            if !matches!(event, Event::Bookmark(..)) {
                return event;
            }
        }
    }

    /// The first message, which must be `Accepted`.
    pub async fn accepted(&mut self) -> Vec<AcceptedTarget> {
        let first = self.next().await;
        let Event::Accepted(targets, _) = first else {
            panic!("the first message is Accepted, not {first:?}")
        };
        targets
    }
}
