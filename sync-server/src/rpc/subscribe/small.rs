//! What a stream says although there is no room for a page: others, who do not read, may hold all of
//! it for seconds. What is small the stream's own place pays for, so that a change of an item or two,
//! and the word that a stream lives, reach those who read.

use std::sync::Arc;

use bytes::Bytes;
use sync_proto::types::{Event, Timestamp};
use sync_proto::v1;

use super::beat::Beat;
use super::end::End;
use super::{Halves, SLOW_AFTER, Stream};
use crate::core::page::PageLimits;
use crate::rpc::outbox;
use crate::store::Store;

/// Bytes of what is small. Streams times this is what those who do not read can add.
const SMALL_BYTES_MAX: usize = 4 * 1024;

/// Targets of a bookmark that may be small. One of more is not even made.
const SMALL_TARGETS_MAX: usize = 64;

/// What is read to see whether it is small.
const SMALL: PageLimits = PageLimits {
    changes_max: 64,
    bytes_max: SMALL_BYTES_MAX,
    first_version_bytes_max: SMALL_BYTES_MAX,
};

// === impl Stream ===

impl<S: Store> Stream<S> {
    /// Sends a bookmark, or what happened to the next target, if nothing else is to be said before and
    /// it is small.
    pub(super) async fn pass_small(
        &mut self,
        mut halves: Box<Halves>,
        beat: &mut Beat,
    ) -> Result<Box<Halves>, End> {
        if !self.outbox.is_free() {
            return Ok(halves);
        }
        let waits = self.waiting_since.is_some_and(|since| since.elapsed() >= SLOW_AFTER);
        let notices = halves.noticing.is_due(self.began.elapsed());
        let has_turn = self.first.is_empty() && !beat.is_due() && !waits && !notices;
        let tail = match halves.following.next_live() {
            Some((name, from)) if has_turn => {
                let read = self.context.read(move |ledger| ledger.tail(&name, from, SMALL));
                read.await.map_err(End::Failed)?.map(Arc::new)
            }
            Some(_) | None => None,
        };
        // The last moment: what was read under other rules is not said under these.
        if self.rules.take_exchanged() || self.caller.rights().is_err() {
            self.judge(&mut halves)?;
            return Ok(halves);
        }
        if let Some(tail) = tail {
            let tails = [tail];
            let messages = outbox::joined(&tails);
            if messages.len() <= SMALL_BYTES_MAX {
                self.hand_over(&tails, messages, None, &mut halves)?;
            }
        } else if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            self.first = self.say_small(first, &halves)?;
        } else if beat.is_due() && halves.following.targets().count() <= SMALL_TARGETS_MAX {
            let bookmark = halves.following.bookmark(Timestamp::now());
            if self.say_small(vec![bookmark], &halves)?.is_empty() {
                beat.take();
            }
        }
        Ok(halves)
    }

    /// Says these if they are small; otherwise they are returned.
    fn say_small(
        &mut self,
        events: Vec<Event<Bytes>>,
        halves: &Halves,
    ) -> Result<Vec<Event<Bytes>>, End> {
        if events.iter().map(targets_of).sum::<usize>() > SMALL_TARGETS_MAX {
            return Ok(events);
        }
        let messages: Vec<_> = events.iter().cloned().map(v1::SubscribeResponse::from).collect();
        let messages = outbox::framed(&messages);
        if messages.len() > SMALL_BYTES_MAX {
            return Ok(events);
        }
        self.say(&events);
        self.outbox.send(messages, None).map_err(|()| End::Gone)?;
        if halves.following.is_due() || halves.noticing.is_due(self.began.elapsed()) {
            self.keep_room();
        } else {
            self.let_go_of_room();
        }
        Ok(Vec::new())
    }
}

/// How many targets an event tells of: those of which it may be many cost as much to encode.
fn targets_of(event: &Event<Bytes>) -> usize {
    match event {
        Event::Accepted(targets, _) => targets.len(),
        Event::Bookmark(positions, _) => positions.len(),
        Event::Changes(..)
        | Event::Notice(..)
        | Event::InboxNotice(_)
        | Event::Reset(..)
        | Event::Lagging(..)
        | Event::CaughtUp(..)
        | Event::Absent(_)
        | Event::Revoked(_)
        | Event::Failed(..)
        | Event::Goodbye(_) => 1,
    }
}
