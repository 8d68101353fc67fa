//! Room for what a stream says next. First loads have a budget of their own, as those of calls have, so
//! that however many there are and however slowly they are taken, a resume finds room. On a stream that
//! has both, the load keeps its place among those who wait, and others go first until its turn comes.

use std::future::{pending, poll_fn};
use std::task::Poll;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Halves, SLOW_AFTER, Stream};
use crate::budget::Claim;
use crate::store::Store;

/// Room that was asked for.
#[derive(Default)]
pub(super) struct Asked {
    /// For a first load.
    load: Option<Room>,
    /// For anything else.
    other: Option<Room>,
    /// Something else was sent then, and has perhaps not gone.
    sent: Option<Instant>,
}

enum Room {
    Awaited(BoxFuture<'static, Claim>),
    There(Claim),
}

// === impl Room ===

impl Room {
    fn is_there(&mut self) -> bool {
        if let Self::Awaited(room) = self
            && let Some(claim) = room.now_or_never()
        {
            *self = Self::There(claim);
        }
        matches!(self, Self::There(_))
    }
}

// === impl Asked ===

impl Asked {
    /// A peer that does not take what it was sent loses the place of its load then: room that came
    /// meanwhile would be held for it, and nobody would be cut for that.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        self.sent.map(|sent| sent + SLOW_AFTER)
    }

    /// Waits until some of it is there; whether it is for a first load.
    pub(super) async fn granted(&mut self) -> (Claim, bool) {
        poll_fn(|context| {
            for (room, of_load) in [(&mut self.load, true), (&mut self.other, false)] {
                match room.take() {
                    Some(Room::There(claim)) => return Poll::Ready((claim, of_load)),
                    Some(Room::Awaited(mut awaited)) => match awaited.poll_unpin(context) {
                        Poll::Ready(claim) => return Poll::Ready((claim, of_load)),
                        Poll::Pending => *room = Some(Room::Awaited(awaited)),
                    },
                    None => {}
                }
            }
            Poll::Pending
        })
        .await
    }
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    /// Asks for room for what comes next, where that was not done. Everything before has gone. `beside`:
    /// something is to be said that is of no target.
    pub(super) fn ask_for_room(&mut self, halves: &mut Halves, beside: bool) {
        let following = &mut halves.following;
        let asked = self.room.get_or_insert_default();
        asked.sent = None;
        if following.is_load_next() && asked.load.is_none() {
            let mut room = Room::Awaited(self.outbox.room(true));
            self.parked = !room.is_there();
            asked.load = Some(room);
        }
        let wants = match asked.load.as_mut().map(Room::is_there) {
            None => true,
            Some(true) => false,
            Some(false) => following.put_other_first() || beside,
        };
        if wants && asked.other.is_none() {
            let mut room = Room::Awaited(self.outbox.room(false));
            self.parked = !room.is_there();
            if asked.load.is_some() {
                // It was not its target that has waited until now.
                self.waiting_since = Some(Instant::now());
            }
            asked.other = Some(room);
        }
    }

    /// There is room; what is said next is said in it.
    pub(super) fn found_room(&mut self, halves: &mut Halves, of_load: bool) {
        if of_load {
            halves.following.put_load_first();
        }
        self.let_go_of_room();
    }

    /// Something is said. A load that waits keeps its place meanwhile.
    pub(super) fn let_go_of_room(&mut self) {
        if let Some(asked) = self.room.take()
            && asked.load.is_some()
        {
            self.room = Some(Asked { other: None, sent: Some(Instant::now()), ..asked });
        }
    }
}

/// Waits until then, if ever.
pub(super) async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => pending().await,
    }
}
