//! A subscription: a loop on cursors. Read what is behind a cursor; when there is nothing, wait
//! until a head moves. There is no second "live mode", so there is no seam between first load,
//! catch-up and live; a subscriber that reads slowly parks the loop in `send`, and finds larger,
//! coalesced pages when it reads again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX};
use sync_proto::types::{
    AcceptedTarget, Delta, Event, Goodbye, GoodbyeReason, Head, Outcome, Plan, Position, Subscribe,
    Target, Timestamp,
};
use sync_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::core::page::PageLimits;
use crate::core::read::{ReadPlan, decide, reset};
use crate::engine::hub::Listener;
use crate::engine::reading::PageRequest;
use crate::status;
use crate::store::Store;

/// Messages that wait for the transport. Small: what waits here is memory per subscriber, and
/// what is not read yet can still be coalesced.
const OUTBOX_LEN: usize = 2;

/// A subscriber that leaves a message waiting for this long is told that it lags.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The least that a client waits before it comes back after a Goodbye.
const GOODBYE_RETRY_AFTER: Duration = Duration::from_millis(500);

type Outbox = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// One stream.
struct Stream<S> {
    context: Arc<Context<S>>,
    outbox: Outbox,
    listener: Listener,
    targets: Vec<Following>,
    /// Targets that have something to read, in the order of their turns.
    due: VecDeque<usize>,
    heartbeat: Duration,
    end_of_age: Instant,
    /// The subscriber was slow when it was last sent something.
    slow: bool,
    _slot: OwnedSemaphorePermit,
}

/// A target and how far it has come.
struct Following {
    target: Target,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Changes behind the target's cursor are still to be sent.
    Behind,
    /// Everything up to this head has been sent.
    CaughtUp(Head),
    /// There is no such collection now.
    Absent,
    /// Nothing more is sent for it.
    Ended,
}

/// Why a stream ends.
enum End {
    /// The subscriber went away.
    Gone,
    /// The server says goodbye.
    Goodbye(GoodbyeReason),
}

/// What the loop woke up for.
enum Wake {
    Moved(BTreeSet<usize>),
    Heartbeat,
}

/// Starts the task of a stream and returns its messages.
pub(super) fn start<S: Store>(
    context: &Arc<Context<S>>,
    caller: Caller,
    asked: Subscribe,
) -> Result<mpsc::Receiver<Result<v1::SubscribeResponse, Status>>, Status> {
    if context.drain.is_cancelled() {
        return Err(Status::unavailable("the server is stopping"));
    }
    let slot = Arc::clone(&context.streams.slots).try_acquire_owned().map_err(|_| {
        Status::resource_exhausted("streams: the server has as many as it takes; retry later")
    })?;
    let (outbox, messages) = mpsc::channel(OUTBOX_LEN);
    // Listen before looking: a head that moves in between is looked at again, not missed.
    let names = asked.targets.iter().map(|target| target.collection.clone()).collect();
    let listener = context.hub.listen(names);
    // Streams that began together should not all end together.
    let age = context.streams.age_max.mul_f64(rand::rng().random_range(0.9..1.1));
    let stream = Stream {
        context: Arc::clone(context),
        outbox,
        listener,
        targets: Vec::new(),
        due: VecDeque::new(),
        heartbeat: asked.heartbeat,
        end_of_age: Instant::now() + age,
        slow: false,
        _slot: slot,
    };
    context.tasks.spawn(stream.run(caller, asked.targets));
    Ok(messages)
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    async fn run(mut self, caller: Caller, targets: Vec<Target>) {
        let end = match self.accept(&caller, targets).await {
            Ok(()) => self.follow().await,
            Err(end) => end,
        };
        match end {
            End::Gone => {}
            End::Goodbye(reason) => {
                let jitter = self.context.streams.goodbye_jitter;
                let goodbye = Goodbye { reason, retry_after: GOODBYE_RETRY_AFTER, jitter };
                let message = Ok(Event::Goodbye(goodbye).into());
                // A subscriber that does not even read this loses it: the connection ends anyway.
                if tokio::time::timeout(SLOW_AFTER, self.outbox.send(message)).await.is_err() {
                    tracing::debug!("a subscriber did not take its goodbye");
                }
            }
        }
    }

    /// Decides how each target is served and says so.
    async fn accept(&mut self, caller: &Caller, targets: Vec<Target>) -> Result<(), End> {
        let mut accepted = Vec::with_capacity(targets.len());
        for (index, mut target) in targets.into_iter().enumerate() {
            let allowed = caller.may_read(&target.collection);
            let head = allowed.then(|| self.context.ledger.head(&target.collection)).flatten();
            let (plan, state) = plan(&mut target, allowed, head);
            if state == State::Behind {
                self.due.push_back(index);
            }
            accepted.push(AcceptedTarget { collection: target.collection.clone(), plan, head });
            self.targets.push(Following { target, state });
        }
        self.send(Event::Accepted(accepted, self.heartbeat)).await
    }

    async fn follow(&mut self) -> End {
        let mut heartbeat =
            tokio::time::interval_at(Instant::now() + self.heartbeat, self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stepped = match self.wake(&mut heartbeat).await {
                Ok(Some(Wake::Moved(moved))) => {
                    self.mark(moved);
                    Ok(())
                }
                Ok(Some(Wake::Heartbeat)) => self.bookmark().await,
                Ok(None) => self.step().await,
                Err(end) => Err(end),
            };
            if let Err(end) = stepped {
                return end;
            }
        }
    }

    /// What to do next; `None` = a target is due. Takes news also while targets are due, so that
    /// a target that is far behind does not hide the others.
    async fn wake(&self, heartbeat: &mut tokio::time::Interval) -> Result<Option<Wake>, End> {
        let due = !self.due.is_empty();
        tokio::select! {
            biased;
            () = self.context.drain.cancelled() => Err(End::Goodbye(GoodbyeReason::Draining)),
            () = self.outbox.closed() => Err(End::Gone),
            () = tokio::time::sleep_until(self.end_of_age) => Err(End::Goodbye(GoodbyeReason::MaxAge)),
            _ = heartbeat.tick() => Ok(Some(Wake::Heartbeat)),
            moved = self.listener.moved() => Ok(Some(Wake::Moved(moved))),
            () = std::future::ready(()), if due => Ok(None),
        }
    }

    fn mark(&mut self, moved: BTreeSet<usize>) {
        for index in moved {
            let ended = self.targets[index].state == State::Ended;
            if !ended && !self.due.contains(&index) {
                self.due.push_back(index);
            }
        }
    }

    /// Gives the next target its turn: one page.
    async fn step(&mut self) -> Result<(), End> {
        let Some(index) = self.due.pop_front() else { return Ok(()) };
        if self.targets[index].target.notify_only {
            return self.notify(index).await;
        }
        let outcome = self.read(index).await;
        let name = self.targets[index].target.collection.clone();
        match outcome {
            Ok(Outcome::Delta(delta)) => self.deliver(index, delta).await,
            Ok(Outcome::Aligned(head)) => self.arrive(index, head).await,
            Ok(Outcome::Reset(reset)) => {
                self.targets[index].state = State::Ended;
                self.send(Event::Reset(name, reset)).await
            }
            Ok(Outcome::NotFound) => {
                let following = &mut self.targets[index];
                following.target.cursor = None;
                if following.state == State::Absent {
                    return Ok(());
                }
                following.state = State::Absent;
                self.send(Event::Absent(name)).await
            }
            // A page of its own never shares its budget, and the caller was let in.
            Ok(Outcome::Deferred(_) | Outcome::Denied) => {
                unreachable!("a page of one target is neither deferred nor denied")
            }
            Ok(Outcome::Failed(failure)) => {
                self.targets[index].state = State::Ended;
                self.send(Event::Failed(name, failure)).await
            }
            Err(status) => {
                self.targets[index].state = State::Ended;
                self.send(Event::Failed(name, status::failure(&status))).await
            }
        }
    }

    async fn read(&self, index: usize) -> Result<Outcome<Bytes>, Status> {
        let target = self.targets[index].target.clone();
        let page = self.context.read(move |ledger| {
            let limits = PageLimits {
                changes_max: PAGE_CHANGES_MAX,
                bytes_max: PAGE_BYTES_MAX,
                first_version_bytes_max: usize::MAX,
            };
            ledger.page(&PageRequest {
                collection: &target.collection,
                cursor: target.cursor,
                scope: &target.scope,
                keys_only: target.keys_only,
                verify: target.verify,
                catch_up_max: target.changes_max,
                limits,
            })
        });
        let (outcome, _) = page.await?.map_err(|error| status::storage(&error))?;
        Ok(outcome)
    }

    async fn deliver(&mut self, index: usize, delta: Delta<Bytes>) -> Result<(), End> {
        let (to, head, has_more) = (delta.to, delta.head, delta.has_more);
        let name = self.targets[index].target.collection.clone();
        let was_live = matches!(self.targets[index].state, State::CaughtUp(_));
        if was_live && (has_more || self.slow) {
            self.targets[index].state = State::Behind;
            let behind = head.version.get().saturating_sub(delta.from.version.get());
            self.send(Event::Lagging(name.clone(), behind)).await?;
        }
        // What happened outside of a scope only moves the cursor; the next bookmark tells it.
        let tells = !delta.changes.is_empty() || delta.initial || !was_live;
        if tells {
            self.send(Event::Changes(name, delta)).await?;
        }
        let following = &mut self.targets[index];
        following.target.cursor = Some(to);
        // The budget was for the catch-up; what follows is live.
        if has_more {
            self.due.push_back(index);
            return Ok(());
        }
        following.target.changes_max = None;
        self.arrive(index, head).await
    }

    /// The target stands at `head`.
    async fn arrive(&mut self, index: usize, head: Head) -> Result<(), End> {
        let following = &mut self.targets[index];
        let was_behind = !matches!(following.state, State::CaughtUp(_));
        following.target.cursor = Some(head.cursor());
        following.state = State::CaughtUp(head);
        if was_behind {
            let name = following.target.collection.clone();
            return self.send(Event::CaughtUp(name, head.cursor())).await;
        }
        Ok(())
    }

    async fn notify(&mut self, index: usize) -> Result<(), End> {
        let name = self.targets[index].target.collection.clone();
        let told = self.targets[index].state;
        match self.context.ledger.head(&name) {
            Some(head) if told == State::CaughtUp(head) => Ok(()),
            Some(head) => {
                self.targets[index].state = State::CaughtUp(head);
                self.send(Event::Notice(name, head)).await
            }
            None if told == State::Absent => Ok(()),
            None => {
                self.targets[index].state = State::Absent;
                self.send(Event::Absent(name)).await
            }
        }
    }

    async fn bookmark(&mut self) -> Result<(), End> {
        let position = |following: &Following| {
            let State::CaughtUp(head) = following.state else { return None };
            if following.target.notify_only {
                return None;
            }
            Some(Position {
                collection: following.target.collection.clone(),
                cursor: head.cursor(),
                digest: following.target.scope.is_all().then_some(head.digest),
                commit_time: head.commit_time,
            })
        };
        let positions = self.targets.iter().filter_map(position).collect();
        self.send(Event::Bookmark(positions, Timestamp::now())).await
    }

    /// Queues a message, and waits for as long as the subscriber makes it wait.
    async fn send(&mut self, event: Event<Bytes>) -> Result<(), End> {
        let began = Instant::now();
        let permit = tokio::select! {
            biased;
            () = self.context.drain.cancelled() => return Err(End::Goodbye(GoodbyeReason::Draining)),
            permit = self.outbox.reserve() => permit.map_err(|_| End::Gone)?,
        };
        self.slow = began.elapsed() >= SLOW_AFTER;
        permit.send(Ok(event.into()));
        Ok(())
    }
}

/// How a target is served, and where that leaves it.
fn plan(target: &mut Target, allowed: bool, head: Option<Head>) -> (Plan, State) {
    if !allowed {
        return (Plan::Denied, State::Ended);
    }
    if target.notify_only {
        return (Plan::Notify, head.map_or(State::Absent, State::CaughtUp));
    }
    let Some(head) = head else {
        target.cursor = None;
        return (Plan::Absent, State::Absent);
    };
    match decide(&head, target.cursor, target.verify) {
        ReadPlan::Aligned => {
            target.cursor = Some(head.cursor());
            (Plan::Live, State::CaughtUp(head))
        }
        ReadPlan::Page(start) if start.from.is_loading() => (Plan::Load, State::Behind),
        ReadPlan::Page(_) => (Plan::CatchUp, State::Behind),
        ReadPlan::Reset(reason) => (Plan::Reset(reset(reason, head, &target.scope)), State::Ended),
    }
}
