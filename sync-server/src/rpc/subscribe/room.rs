//! Room for what a stream says next. First loads have a budget of their own, as those of calls have, so
//! that however many there are and however slowly they are taken, a resume finds room. On a stream that
//! has both, the load keeps its place among those who wait, and others go first until its turn comes.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::Stream;
use crate::budget::Claim;
use crate::engine::following::Following;
use crate::rpc::outbox::Outbox;
use crate::store::Store;

/// Room that was asked for.
#[derive(Default)]
pub(super) struct Asked {
    /// For a first load.
    load: Option<Room>,
    /// For anything else.
    other: Option<Room>,
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

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Awaited(room) = self {
            *self = Self::There(ready!(room.poll_unpin(context)));
        }
        Poll::Ready(())
    }
}

// === impl Asked ===

impl Asked {
    /// Waits until some of it is there; whether it is for a first load.
    pub(super) async fn granted(&mut self) -> (Claim, bool) {
        poll_fn(|context| {
            for (room, of_load) in [(&mut self.load, true), (&mut self.other, false)] {
                let is_there = room.as_mut().is_some_and(|room| room.poll(context).is_ready());
                if is_there && let Some(Room::There(claim)) = room.take() {
                    return Poll::Ready((claim, of_load));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until some of it comes while something else is on its way.
    pub(super) async fn comes(&mut self, outbox: &Outbox) {
        poll_fn(|context| {
            let mut awaited = self.both().filter(|room| matches!(room, Room::Awaited(_)));
            let came = awaited.any(|room| room.poll(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.held_up(outbox);
    }

    /// The peer has to take something else first: until then it keeps others from this room, and is cut
    /// if it takes too long.
    fn held_up(&mut self, outbox: &Outbox) {
        for room in self.both() {
            if let Room::There(claim) = room {
                outbox.in_the_way(claim);
            }
        }
    }

    fn both(&mut self) -> impl Iterator<Item = &mut Room> {
        self.load.iter_mut().chain(&mut self.other)
    }
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    /// Asks for room for what comes next, where that was not done. Everything before has gone. `beside`:
    /// something is to be said that is of no target.
    pub(super) fn ask_for_room(&mut self, following: &mut Following, beside: bool) {
        let asked = self.room.get_or_insert_default();
        for room in asked.both() {
            if let Room::There(claim) = room {
                claim.await_server();
            }
        }
        if following.is_load_next() && asked.load.is_none() {
            let mut room = Room::Awaited(self.outbox.room(true));
            self.parked = !room.is_there();
            asked.load = Some(room);
        }
        let wants_other = match asked.load.as_mut().map(Room::is_there) {
            None => true,
            Some(true) => false,
            Some(false) => following.put_other_first() || beside,
        };
        if wants_other && asked.other.is_none() {
            let mut room = Room::Awaited(self.outbox.room(false));
            self.parked = !room.is_there();
            asked.other = Some(room);
        }
    }

    /// There is room; what is said next is said in it.
    pub(super) fn found_room(&mut self, following: &mut Following, of_load: bool) {
        if of_load {
            following.put_load_first();
        }
        self.let_go_of_room();
    }

    /// Something small is said, without room. What else is to be said keeps its place meanwhile: it
    /// would begin to wait anew with each sign of life, and never have waited for long.
    /// Whether that is small, too, is looked at when this has gone.
    pub(super) fn keep_room(&mut self) {
        self.parked = true;
        if let Some(asked) = &mut self.room {
            asked.held_up(&self.outbox);
        }
    }

    /// Something is said. A load that waits keeps its place meanwhile.
    pub(super) fn let_go_of_room(&mut self) {
        if let Some(asked) = &mut self.room {
            asked.other = None;
            asked.held_up(&self.outbox);
        }
        self.room.take_if(|asked| asked.load.is_none());
    }
}
