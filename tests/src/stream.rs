//! The messages of a subscription, one by one, each within a deadline.

use std::time::Duration;

use sync_proto::types::{AcceptedTarget, Event};
use sync_proto::v1;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::wait::{PATIENCE, within};

/// A stream of messages.
#[derive(Debug)]
pub struct Events {
    inner: Streaming<v1::SubscribeResponse>,
    /// How long the reader has waited since the last message that was not a bookmark.
    waited: Duration,
}

// === impl Events ===

impl Events {
    /// The messages of this stream.
    #[must_use]
    pub fn new(inner: Streaming<v1::SubscribeResponse>) -> Self {
        Self { inner, waited: Duration::ZERO }
    }

    /// The next message; `None` = the stream has ended well.
    pub async fn try_next(&mut self) -> Result<Option<Event>, Status> {
        let began = Instant::now();
        let message = within("a message of a subscription", self.inner.message()).await?;
        let event = message.map(|message| Event::try_from(message).unwrap());
        // Bookmarks come for ever: whoever waits for more than them must not wait for ever.
        self.waited += began.elapsed();
        if !matches!(event, Some(Event::Bookmark(..))) {
            self.waited = Duration::ZERO;
        }
        assert!(self.waited < PATIENCE, "nothing but bookmarks for {PATIENCE:?}: {event:?}");
        Ok(event)
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
