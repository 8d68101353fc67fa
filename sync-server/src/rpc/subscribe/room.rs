//! Room for what a stream says next. First loads have a budget of their own, as those of calls have, so
//! that however many there are and however slowly they are taken, a resume finds room. On a stream that
//! has both, the load lets others go first while there is no room for it, but not for ever.

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

use super::{Halves, Stream};
use crate::budget::Claim;
use crate::store::Store;

/// So often a load that finds no room lets others of its stream go first. Each time it loses its place
/// among those who wait.
const PASSED_OVER_MAX: u32 = 16;

/// Room that was asked for.
pub(super) struct Asked {
    /// In the budget of first loads.
    pub(super) of_load: bool,
    room: BoxFuture<'static, Claim>,
}

// === impl Asked ===

impl Asked {
    /// Waits until it is there.
    pub(super) async fn granted(&mut self) -> Claim {
        (&mut self.room).await
    }
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    /// Asks for room for what comes next. `beside`: something is to be said that is of no target.
    pub(super) fn ask_for_room(&mut self, halves: &mut Halves, beside: bool) {
        let following = &mut halves.following;
        let asked = self.room.as_ref().map(|asked| asked.of_load);
        if !following.is_load_next() {
            if asked != Some(false) {
                self.ask(false);
            }
            return;
        }
        let waits = match asked {
            Some(true) => true,
            // What is beside is said first.
            Some(false) if beside => return,
            Some(false) | None => !self.ask(true),
        };
        let lets_go = waits && self.passed_over < PASSED_OVER_MAX;
        if lets_go && (beside || following.put_loads_last()) {
            self.passed_over += 1;
            self.ask(false);
        }
    }

    /// Whether it is there at once.
    fn ask(&mut self, of_load: bool) -> bool {
        let mut room = self.outbox.room(of_load);
        let at_once = (&mut room).now_or_never();
        self.parked = at_once.is_none();
        let room = at_once.map_or(room, |claim| ready(claim).boxed());
        self.room = Some(Asked { of_load, room });
        !self.parked
    }

    /// The room that was asked for is there. Whether a first load may be said in it.
    pub(super) fn found_room(&mut self) -> bool {
        let of_load = self.room.take().is_some_and(|asked| asked.of_load);
        if of_load {
            self.passed_over = 0;
        }
        of_load
    }
}
