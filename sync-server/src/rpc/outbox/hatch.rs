//! From the task of a stream to the body of its answer: a place where the one leaves what the other
//! takes. A channel of tokio does that, too, and more; but it has room for thirty-two things from the
//! start, and keeps its ends apart by whole cache lines. Most streams never say anything, and it was a
//! tenth of what one costs (0.8 KB).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where things are left.
#[derive(Debug)]
pub(super) struct Giver<T>(Arc<Hatch<T>>);

/// Where they are taken, in order.
#[derive(Debug)]
pub(super) struct Taker<T>(Arc<Hatch<T>>);

/// Sees whether the taker is there.
#[derive(Debug)]
pub(in crate::rpc) struct Watch<T>(Arc<Hatch<T>>);

/// Why a thing is not left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotLeft {
    /// Nobody will take it.
    Gone,
    /// As many as there may be are there.
    Full,
}

#[derive(Debug)]
struct Hatch<T> {
    state: Mutex<State<T>>,
    /// Wakes whoever waits for the taker to go.
    taker_went: Notify,
    things_max: usize,
}

#[derive(Debug)]
struct State<T> {
    /// Without room of its own until something is left.
    things: VecDeque<T>,
    waits: Option<Waker>,
    giver_gone: bool,
    taker_gone: bool,
    /// What was left before is not to be handed on.
    taken_back: bool,
}

/// Both ends of a place for so many things.
pub(super) fn open<T>(things_max: usize) -> (Giver<T>, Taker<T>) {
    let state = State {
        things: VecDeque::new(),
        waits: None,
        giver_gone: false,
        taker_gone: false,
        taken_back: false,
    };
    let hatch = Arc::new(Hatch { state: Mutex::new(state), taker_went: Notify::new(), things_max });
    (Giver(Arc::clone(&hatch)), Taker(hatch))
}

// === impl Giver ===

impl<T> Giver<T> {
    /// Leaves a thing, if it can be.
    pub(super) fn leave(&self, thing: T) -> Result<(), NotLeft> {
        let mut state = self.0.state.lock();
        if state.taker_gone {
            return Err(NotLeft::Gone);
        }
        if state.things.len() >= self.0.things_max {
            return Err(NotLeft::Full);
        }
        state.things.push_back(thing);
        let waits = state.waits.take();
        drop(state);
        waits.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Takes back what was left and not taken, and has the taker know that what it took is not to be
    /// handed on either.
    pub(super) fn take_back(&self) {
        let mut state = self.0.state.lock();
        state.taken_back = true;
        let things = std::mem::take(&mut state.things);
        drop(state);
        drop(things);
    }

    /// Whoever watches is no giver: it may outlive this one.
    pub(super) fn watch(&self) -> Watch<T> {
        Watch(Arc::clone(&self.0))
    }
}

// === impl Watch ===

impl<T> Watch<T> {
    /// Waits until the taker has gone.
    pub(in crate::rpc) async fn taker_gone(&self) {
        // Counts from here on, whenever it is polled.
        let went = self.0.taker_went.notified();
        if !self.0.state.lock().taker_gone {
            went.await;
        }
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.giver_gone = true;
        let waits = state.waits.take();
        drop(state);
        waits.into_iter().for_each(Waker::wake);
    }
}

// === impl Taker ===

impl<T> Taker<T> {
    /// The next thing; `None` = all was taken, and nothing will be left any more.
    pub(super) fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.state.lock();
        match state.things.pop_front() {
            Some(thing) => {
                state.taken_back = false;
                Poll::Ready(Some(thing))
            }
            None if state.giver_gone => Poll::Ready(None),
            None => {
                state.waits = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Taker<T> {
    /// Whether what was taken last is to be handed on no further.
    pub(super) fn is_taken_back(&self) -> bool {
        self.0.state.lock().taken_back
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.taker_gone = true;
        let (things, waits) = (std::mem::take(&mut state.things), state.waits.take());
        drop(state);
        // Not under the lock: what is dropped may wake whoever looks here.
        drop((things, waits));
        self.0.taker_went.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt as _;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn things_are_taken_in_order_up_to_the_last() {
        let (giver, mut taker) = open(2);
        let leaving = async {
            giver.leave(1).unwrap();
            giver.leave(2).unwrap();
            assert_eq!(giver.leave(3), Err(NotLeft::Full));
            tokio::task::yield_now().await;
            giver.leave(4).unwrap();
            drop(giver);
        };
        let getting = async {
            let mut got = Vec::new();
            while let Some(thing) = poll_fn(|context| taker.poll_take(context)).await {
                got.push(thing);
            }
            got
        };
        let ((), got) = tokio::join!(leaving, getting);
        assert_eq!(got, [1, 2, 4]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let (giver, mut taker) = open(1);
        let getting = TaskTracker::new()
            .spawn(async move { poll_fn(|context| taker.poll_take(context)).await });
        tokio::task::yield_now().await;
        giver.leave(7).unwrap();
        assert_eq!(getting.await.unwrap(), Some(7));

        let (giver, mut taker) = open::<u8>(1);
        let getting = TaskTracker::new()
            .spawn(async move { poll_fn(|context| taker.poll_take(context)).await });
        tokio::task::yield_now().await;
        drop(giver);
        assert_eq!(getting.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_taker_that_goes_is_missed() {
        let (giver, taker) = open(2);
        let thing = Arc::new(());
        giver.leave(Arc::clone(&thing)).unwrap();
        let watch = giver.watch();
        assert!(watch.taker_gone().now_or_never().is_none(), "it is there");
        let misses = TaskTracker::new().spawn(async move { watch.taker_gone().await });
        tokio::task::yield_now().await;
        drop(taker);
        misses.await.unwrap();
        giver.watch().taker_gone().await;
        assert_eq!(giver.leave(Arc::clone(&thing)), Err(NotLeft::Gone));
        assert_eq!(Arc::strong_count(&thing), 1, "nothing lies there for ever");
    }
}
