//! The shell of a subscription: waits, reads off the async workers, sends. What is read and said
//! is decided in `engine::following`. A subscriber that reads slowly parks the loop in `send`,
//! and finds larger, coalesced pages when it reads again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use sync_proto::types::{
    AcceptedTarget, CollectionName, Event, Failure, Goodbye, GoodbyeReason, Plan, Subscribe,
    Target, Timestamp,
};
use sync_proto::v1;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::core::loads::Who;
use crate::core::page::PageLimits;
use crate::engine::following::Following;
use crate::engine::hub::Listener;
use crate::status;
use crate::store::Store;

/// Messages that wait for the transport. One: what waits here is memory per subscriber, and what
/// is not read yet can still be coalesced.
const OUTBOX_LEN: usize = 1;

/// A subscriber that makes a due target wait for this long is told that it lags.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The least that a client waits before it comes back after a Goodbye.
const GOODBYE_RETRY_AFTER: Duration = Duration::from_millis(500);

type Message = Result<v1::SubscribeResponse, Status>;

/// One stream.
struct Stream<S> {
    context: Arc<Context<S>>,
    outbox: mpsc::Sender<Message>,
    listener: Listener,
    heartbeat: Duration,
    end_of_age: Instant,
    /// Since when a target has been due and the subscriber has not made room.
    waiting_since: Option<Instant>,
    _slot: OwnedSemaphorePermit,
}

/// Why a stream ends.
enum End {
    /// The subscriber went away.
    Gone,
    /// The server says goodbye.
    Goodbye(GoodbyeReason),
    /// The server could not read.
    Failed(Status),
}

/// What the loop woke up for.
enum Wake {
    Moved(BTreeSet<usize>),
    Heartbeat,
    /// A target is due, and there is room for what it says.
    Due(OwnedPermit<Message>),
}

/// Starts the task of a stream and returns its messages.
pub(super) fn start<S: Store>(
    context: &Arc<Context<S>>,
    caller: &Caller,
    who: &Who,
    asked: Subscribe,
) -> Result<mpsc::Receiver<Message>, Status> {
    if context.drain.is_cancelled() {
        return Err(Status::unavailable("the server is stopping"));
    }
    let slot = Arc::clone(&context.streams.slots).try_acquire_owned().map_err(|_| {
        Status::resource_exhausted("streams: the server has as many as it takes; retry later")
    })?;
    let (outbox, messages) = mpsc::channel(OUTBOX_LEN);
    let may_read = |name: &_| caller.may_read(name);
    let (targets, held_up) = hold_up(context, who, asked.targets, may_read);
    // Listen before looking: a head that moves in between is looked at again, not missed.
    let names = targets.iter().map(|target| target.collection.clone()).collect();
    let listener = context.hub.listen(names);
    let loads: Vec<Target> =
        targets.iter().filter(|target| target.cursor.is_none()).cloned().collect();
    let (following, mut accepted) =
        Following::accept(&context.ledger, targets, PageLimits::FULL, may_read);
    for target in &loads {
        let load =
            |one: &AcceptedTarget| one.collection == target.collection && one.plan == Plan::Load;
        if accepted.iter().any(load) {
            context.loads.began(who, target);
        }
    }
    let mut first = Vec::new();
    for (index, target, failure) in held_up {
        accepted.insert(index, target);
        first.push(Event::Failed(accepted[index].collection.clone(), failure));
    }
    first.insert(0, Event::Accepted(accepted, asked.heartbeat));
    // Streams that began together should not all end together.
    let age = context.streams.age_max.mul_f64(rand::rng().random_range(0.9..1.1));
    let stream = Stream {
        context: Arc::clone(context),
        outbox,
        listener,
        heartbeat: asked.heartbeat,
        end_of_age: Instant::now() + age,
        waiting_since: None,
        _slot: slot,
    };
    context.tasks.spawn(stream.run(following, first));
    Ok(messages)
}

/// A target whose load may not begin now: its place among the targets, what it is told, and why.
type HeldUp = (usize, AcceptedTarget, Failure);

/// Takes those targets out whose loads may not begin now.
fn hold_up<S: Store>(
    context: &Context<S>,
    who: &Who,
    targets: Vec<Target>,
    may_read: impl Fn(&CollectionName) -> bool,
) -> (Vec<Target>, Vec<HeldUp>) {
    let (mut served, mut held_up) = (Vec::new(), Vec::new());
    for (index, target) in targets.into_iter().enumerate() {
        let name = target.collection.clone();
        // Whoever may not read, or finds nothing, is told that instead.
        let head = may_read(&name).then(|| context.ledger.head(&name)).flatten();
        let judged = head.is_some() && !target.notify_only;
        match judged.then(|| context.loads.held_up(who, &target)).flatten() {
            Some(failure) => {
                let told = AcceptedTarget { collection: name, plan: Plan::Load, head };
                held_up.push((index, told, failure));
            }
            None => served.push(target),
        }
    }
    (served, held_up)
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    async fn run(mut self, following: Following, first: Vec<Event<Bytes>>) {
        let end = match self.send_all(first).await {
            Ok(()) => self.follow(following).await,
            Err(end) => end,
        };
        let last = match end {
            End::Gone => return,
            End::Failed(status) => Err(status),
            End::Goodbye(reason) => {
                // Half of the spread is ours: also clients that throw no dice come back apart.
                let jitter = self.context.streams.goodbye_jitter / 2;
                let own = jitter.mul_f64(rand::rng().random_range(0.0..1.0));
                let retry_after = GOODBYE_RETRY_AFTER + own;
                Ok(Event::Goodbye(Goodbye { reason, retry_after, jitter }).into())
            }
        };
        // A subscriber that does not even read this loses it: the connection ends anyway.
        if tokio::time::timeout(SLOW_AFTER, self.outbox.send(last)).await.is_err() {
            tracing::debug!("a subscriber did not take its last message");
        }
    }

    async fn follow(&mut self, mut following: Following) -> End {
        let first = Instant::now() + self.heartbeat;
        let mut heartbeat = tokio::time::interval_at(first, self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.wake(&mut heartbeat, following.is_due()).await {
                Ok(Wake::Moved(moved)) => following.mark(moved),
                Ok(Wake::Heartbeat) => {
                    if let Err(end) = self.send(following.bookmark(Timestamp::now())).await {
                        return end;
                    }
                }
                Ok(Wake::Due(room)) => match self.step(following, room).await {
                    Ok(stepped) => following = stepped,
                    Err(end) => return end,
                },
                Err(end) => return end,
            }
        }
    }

    /// What to do next. A page is read only when there is room for it, so what a slow subscriber
    /// has not taken is still coalesced; and news are taken also while targets are due, so that a
    /// target that is far behind does not hide the others.
    async fn wake(&mut self, heartbeat: &mut Interval, due: bool) -> Result<Wake, End> {
        if due {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        tokio::select! {
            biased;
            () = self.context.drain.cancelled() => Err(End::Goodbye(GoodbyeReason::Draining)),
            () = self.outbox.closed() => Err(End::Gone),
            () = tokio::time::sleep_until(self.end_of_age) => {
                Err(End::Goodbye(GoodbyeReason::MaxAge))
            }
            _ = heartbeat.tick() => Ok(Wake::Heartbeat),
            moved = self.listener.moved() => Ok(Wake::Moved(moved)),
            room = self.outbox.clone().reserve_owned(), if due => {
                room.map(Wake::Due).map_err(|_| End::Gone)
            }
        }
    }

    /// Gives the next target its turn and sends what it has to say.
    async fn step(
        &mut self,
        mut following: Following,
        room: OwnedPermit<Message>,
    ) -> Result<Following, End> {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        let slow = waited >= SLOW_AFTER;
        let read = self.context.read(move |ledger| {
            let events = following.step(ledger, slow);
            (following, events)
        });
        let (following, events) = read.await.map_err(End::Failed)?;
        let events = events.map_err(|error| End::Failed(status::storage(&error)))?;
        let metrics = self.context.metrics.clone();
        let mut events = events.into_iter().inspect(|event| {
            if let Event::Reset(_, reset) = event {
                metrics.stream_reset(reset.reason);
            }
        });
        if let Some(first) = events.next() {
            room.send(Ok(first.into()));
        }
        self.send_all(events).await?;
        Ok(following)
    }

    async fn send_all(
        &mut self,
        events: impl IntoIterator<Item = Event<Bytes>>,
    ) -> Result<(), End> {
        for event in events {
            self.send(event).await?;
        }
        Ok(())
    }

    /// Queues a message, and waits for as long as the subscriber makes it wait.
    async fn send(&mut self, event: Event<Bytes>) -> Result<(), End> {
        let permit = tokio::select! {
            biased;
            () = self.context.drain.cancelled() => {
                return Err(End::Goodbye(GoodbyeReason::Draining));
            }
            () = tokio::time::sleep_until(self.end_of_age) => {
                return Err(End::Goodbye(GoodbyeReason::MaxAge));
            }
            permit = self.outbox.reserve() => permit.map_err(|_| End::Gone)?,
        };
        permit.send(Ok(event.into()));
        Ok(())
    }
}
