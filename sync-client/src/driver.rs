//! The one task that runs a replica's session over the network: it carries out what the session
//! says and tells it what happens. Decides nothing itself.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use rand::RngExt as _;
use sync_proto::types::{CollectionName, Event, Outcome};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::blocking::blocking;
use crate::client::{EventStream, SyncClient};
use crate::error::ClientError;
use crate::mending::{Place, ask, work};
use crate::session::{
    Action, Choice, Config, Done, Fault, Input, MendFault, MendId, PullId, Report, Session, Stats,
    Status, StreamId, Task, WriteFault, written,
};
use crate::store::{ReplicaStore, Standing, StoreError, Visible, check};
use crate::view::View;

/// Runs a replica. Not cloneable: a replica has one.
pub struct Driver {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    views: Arc<BTreeMap<CollectionName, Arc<View>>>,
    stats: Arc<Mutex<Stats>>,
    config: Config,
    /// Comes last: its end is that of the driver.
    life: Life,
}

/// However a driver ends, also one that never ran, its collections are `Stopped` then.
struct Life(Arc<BTreeMap<CollectionName, Arc<View>>>);

/// A driver at work.
struct Work {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    views: Arc<BTreeMap<CollectionName, Arc<View>>>,
    stats: Arc<Mutex<Stats>>,
    session: Session,
    stream: Stream,
    pulls: FuturesUnordered<BoxFuture<'static, Pulled>>,
    /// Questions of repairs.
    asks: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// Work on the rows, one piece after the other.
    jobs: VecDeque<Job>,
    working: Option<BoxFuture<'static, Worked>>,
    /// Bytes of messages that were received, without those of the present stream.
    bytes: u64,
    /// Bytes of the answers that repairs took.
    reconcile_bytes: u64,
    /// When the writes since the last flush are to be made to survive a power cut.
    flush_at: Option<Instant>,
    /// The last flush failed; what the session believes to be written may be lost.
    unflushed: Option<Backoff>,
    /// The store may hold rows that nobody sees any more.
    sweeping: bool,
    /// Turns of the loop since it swept.
    since_sweep: u32,
}

type Pulled = (PullId, Result<(Vec<Outcome>, usize), ClientError>);
type Asked = (CollectionName, MendId, Result<Done, MendFault>, u64);
/// What to tell the session.
type Worked = Option<Input>;
type Opened = (StreamId, Result<EventStream, ClientError>);

/// Work on the rows of a copy.
enum Job {
    Check(CollectionName),
    Mend(CollectionName, MendId, Task),
}

enum Stream {
    Closed,
    Opening(BoxFuture<'static, Opened>),
    Open(StreamId, Box<EventStream>),
}

/// Why the driver woke up.
enum Wake {
    Stop,
    Pulled(Pulled),
    Asked(Asked),
    Worked(Worked),
    Opened(Opened),
    Message(StreamId, Option<Result<Event, ClientError>>),
    Elapsed,
    Idle,
}

/// Writes reach the disk at the latest after this.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Longest wait before a flush that failed is tried again.
const FLUSH_RETRY_MAX: Duration = Duration::from_secs(60);
/// Rows that are swept between two looks at the network.
const SWEEP_ROWS: usize = 1_000;
/// A network that never pauses is interrupted for sweeping after so many of its messages.
const SWEEP_EVERY: u32 = 64;

// === impl Driver ===

impl Driver {
    pub(crate) fn new(
        client: SyncClient,
        store: Arc<dyn ReplicaStore>,
        views: Arc<BTreeMap<CollectionName, Arc<View>>>,
        stats: Arc<Mutex<Stats>>,
        config: Config,
    ) -> Self {
        let life = Life(views.clone());
        Self { client, store, views, stats, config, life }
    }

    /// Keeps the copies right until `stop` is cancelled. Ends earlier only when the local store
    /// does not say where the copies stand; later failures of it show in [`Status::StoreFailing`],
    /// and what was not written is fetched again once it works. `Err` also if what was written last
    /// could not be brought to the disk. Every collection is `Stopped` then, and what was written is on the disk. A driver
    /// that is dropped, run or not, leaves its collections `Stopped`, too.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        let Self { client, store, views, stats, config, life } = self;
        let worked = match Work::begin(client, store.clone(), views, stats, config).await {
            Ok(mut work) => {
                work.until(&stop).await;
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        let flushed = blocking("flushing the local store", move || store.flush()).await;
        drop(life);
        worked.and(flushed)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("client", &self.client)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

// === impl Life ===

impl Drop for Life {
    fn drop(&mut self) {
        for view in self.0.values() {
            view.set_status(Status::Stopped);
        }
    }
}

// === impl Work ===

impl Work {
    async fn begin(
        client: SyncClient,
        store: Arc<dyn ReplicaStore>,
        views: Arc<BTreeMap<CollectionName, Arc<View>>>,
        stats: Arc<Mutex<Stats>>,
        config: Config,
    ) -> Result<Self, StoreError> {
        let standings = standings(&views).await?.into_iter();
        let parts = standings.map(|(name, standing)| {
            let scope = views.get(&name).map(|view| view.scope().clone()).unwrap_or_default();
            (name, (standing, scope))
        });
        let session = Session::of_parts(config, parts.collect(), rand::rng().random(), now());
        Ok(Self {
            client,
            store,
            views,
            stats,
            session,
            stream: Stream::Closed,
            pulls: FuturesUnordered::new(),
            asks: FuturesUnordered::new(),
            jobs: VecDeque::new(),
            working: None,
            bytes: 0,
            reconcile_bytes: 0,
            flush_at: None,
            unflushed: None,
            // A load may have been exchanged just before the last run ended.
            sweeping: true,
            since_sweep: 0,
        })
    }

    async fn until(&mut self, stop: &CancellationToken) {
        loop {
            while let Some(action) = self.session.poll_action() {
                self.carry_out(action).await;
            }
            self.publish_stats();
            let input = match self.wake(stop).await {
                Wake::Stop => return,
                Wake::Pulled((id, answer)) => Some(self.pulled(id, answer)),
                Wake::Asked(asked) => Some(self.asked(asked)),
                Wake::Worked(worked) => {
                    self.working = None;
                    worked
                }
                Wake::Opened((id, opened)) => self.opened(id, opened),
                Wake::Message(id, message) => Some(self.message(id, message)),
                Wake::Elapsed => {
                    self.session.handle(Input::Received(self.client.received()), now());
                    Some(Input::Elapsed)
                }
                Wake::Idle => {
                    self.sweep().await;
                    None
                }
            };
            if let Some(input) = input {
                self.session.handle(input, now());
            }
            // A stream that never pauses must keep neither from happening.
            if let Some(input) = self.flush_if_due().await {
                self.session.handle(input, now());
            }
            self.since_sweep += 1;
            if self.sweeping && self.since_sweep >= SWEEP_EVERY {
                self.sweep().await;
            }
        }
    }

    /// Waits for whatever comes first. Answers of pulls come before messages of the stream: there
    /// are few of them, and a stream that never pauses must not keep them waiting.
    async fn wake(&mut self, stop: &CancellationToken) -> Wake {
        let deadline = self.session.deadline();
        let deadline = self.flush_at.map_or(deadline, |at| at.min(deadline));
        if self.working.is_none() {
            self.working = self.jobs.pop_front().map(|job| self.work(job));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            Some(pulled) = self.pulls.next() => Wake::Pulled(pulled),
            Some(asked) = self.asks.next() => Wake::Asked(asked),
            worked = finished(&mut self.working) => Wake::Worked(worked),
            wake = self.stream.next() => wake,
            () = tokio::time::sleep_until(deadline.into()) => Wake::Elapsed,
            () = std::future::ready(()), if self.sweeping => Wake::Idle,
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::OpenStream(id, subscribe) => {
                self.close_stream();
                let client = self.client.clone();
                let opening = async move { (id, client.subscribe(subscribe).await) };
                self.stream = Stream::Opening(opening.boxed());
            }
            Action::CloseStream(_) => self.close_stream(),
            Action::Pull(id, pull) => {
                let client = self.client.clone();
                self.pulls.push(async move { (id, client.pull_once(pull).await) }.boxed());
            }
            Action::Write(name, write) => {
                let Some(view) = self.views.get(&name) else { return };
                let outcome = written(&name, view.write(write).await);
                let (input, applied) = outcome.unwrap_or_else(|failure| {
                    complain(&failure, "a write to the local store failed");
                    (Input::Written(name, Err(WriteFault::Failed)), None)
                });
                self.sweeping |= applied.is_some_and(|done| done.visible == Visible::Swapped);
                self.flush_at.get_or_insert(now() + FLUSH_AFTER);
                self.session.handle(input, now());
            }
            Action::SelfCheck(name) => self.jobs.push_back(Job::Check(name)),
            Action::Mend(name, id, task) => self.mend(name, id, task),
            Action::Chosen(name, choice) => log(&name, &choice),
            Action::Report(name, report) => self.report(&name, &report),
        }
    }

    fn report(&self, name: &CollectionName, report: &Report) {
        let Some(view) = self.views.get(name) else { return };
        view.set_status(report.status);
        if let Some(at) = report.synced_at {
            view.set_synced(at);
        }
    }

    fn close_stream(&mut self) {
        if let Stream::Open(_, stream) = &self.stream {
            self.bytes += stream.bytes();
        }
        self.stream = Stream::Closed;
    }

    fn publish_stats(&self) {
        let streamed = if let Stream::Open(_, stream) = &self.stream { stream.bytes() } else { 0 };
        let bytes_received = self.bytes + streamed;
        let reconcile_bytes = self.reconcile_bytes;
        *self.stats.lock() =
            Stats { bytes_received, reconcile_bytes, ..self.session.stats().clone() };
    }

    fn pulled(&mut self, id: PullId, answer: Result<(Vec<Outcome>, usize), ClientError>) -> Input {
        let answer = match answer {
            Ok((outcomes, bytes)) => {
                self.bytes += bytes as u64;
                Ok(outcomes)
            }
            Err(failure) => {
                tracing::warn!(%failure, "a pull failed");
                Err(Fault::from(&failure))
            }
        };
        Input::Pulled(id, answer)
    }

    fn opened(&mut self, id: StreamId, opened: Result<EventStream, ClientError>) -> Option<Input> {
        match opened {
            Ok(stream) => {
                self.stream = Stream::Open(id, Box::new(stream));
                None
            }
            Err(failure) => {
                self.stream = Stream::Closed;
                tracing::warn!(%failure, "the stream could not be opened");
                Some(Input::StreamEnded(id, Fault::from(&failure)))
            }
        }
    }

    fn message(&mut self, id: StreamId, message: Option<Result<Event, ClientError>>) -> Input {
        let fault = match message {
            Some(Ok(event)) => return Input::Event(id, event),
            Some(Err(ClientError::Malformed(broken))) => {
                tracing::warn!(%broken, "a message of the stream breaks the protocol");
                return Input::Malformed(id);
            }
            Some(Err(failure)) => {
                tracing::warn!(%failure, "the stream broke");
                Fault::from(&failure)
            }
            None => Fault::Passing,
        };
        self.close_stream();
        Input::StreamEnded(id, fault)
    }

    async fn flush_if_due(&mut self) -> Option<Input> {
        self.flush_at.filter(|at| *at <= now())?;
        self.flush_at = None;
        let store = self.store.clone();
        let flushed = blocking("flushing the local store", move || store.flush()).await;
        if flushed.is_ok() && self.unflushed.is_none() {
            return None;
        }
        // The store was, or is now, opened again, perhaps without what was written last.
        let (standings, failure) = match standings(&self.views).await {
            Ok(standings) => (standings, flushed.err()),
            Err(failure) => (BTreeMap::new(), Some(flushed.err().unwrap_or(failure))),
        };
        self.flush_at = failure.map(|failure| {
            complain(&failure, "the local store could not be flushed");
            let new = Backoff::new(FLUSH_AFTER, FLUSH_RETRY_MAX);
            let wait = self.unflushed.get_or_insert(new).next(&mut rand::rng());
            now() + FLUSH_AFTER + wait
        });
        if self.flush_at.is_none() {
            self.unflushed = None;
        }
        Some(Input::Restated { standings, failing_until: self.flush_at })
    }

    async fn sweep(&mut self) {
        self.since_sweep = 0;
        let store = self.store.clone();
        let swept = blocking("sweeping the local store", move || store.sweep(SWEEP_ROWS)).await;
        // After a failure the next load asks for it again.
        self.sweeping = swept.unwrap_or_else(|failure| {
            complain(&failure, "the local store could not be swept");
            false
        });
    }

    fn mend(&mut self, name: CollectionName, id: MendId, task: Task) {
        match Place::from(task) {
            Place::Here(task) => self.jobs.push_back(Job::Mend(name, id, task)),
            Place::Server(question) => {
                let client = self.client.clone();
                let asking = async move {
                    let (answer, bytes) = ask(&client, &name, question).await;
                    (name, id, answer, bytes)
                };
                self.asks.push(asking.boxed());
            }
        }
    }

    fn asked(&mut self, (name, id, answer, bytes): Asked) -> Input {
        self.bytes += bytes;
        self.reconcile_bytes += bytes;
        Input::Mended(name, id, answer)
    }

    fn work(&self, job: Job) -> BoxFuture<'static, Worked> {
        let store = self.store.clone();
        match job {
            Job::Check(name) => {
                let of = name.clone();
                let check = move || match store.snapshot(&of).and_then(|rows| check(&*rows)) {
                    Err(StoreError::Damaged { .. }) => Ok(false),
                    sound => sound,
                };
                let checking = blocking("checking the local store", check);
                let checking = async move {
                    let sound = checking.await;
                    let sound =
                        sound.inspect_err(|failure| complain(failure, "no check of a copy"));
                    Some(Input::SelfChecked(name, sound.ok()?))
                };
                checking.boxed()
            }
            Job::Mend(name, id, task) => {
                let of = name.clone();
                let working =
                    blocking("repairing the local store", move || work(&*store, &of, &task));
                let working = async move {
                    let done = working.await.unwrap_or_else(|failure| {
                        complain(&failure, "a repair begins again");
                        // What was staged may be gone.
                        Some(Err(MendFault::Moved))
                    });
                    Some(Input::Mended(name, id, done.unwrap_or(Err(MendFault::Damaged))))
                };
                working.boxed()
            }
        }
    }
}

// === impl Stream ===

impl Stream {
    /// What the stream brings next; waits for ever while there is none. May be cancelled.
    async fn next(&mut self) -> Wake {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(opening) => Wake::Opened(opening.await),
            Self::Open(id, stream) => Wake::Message(*id, stream.next().await),
        }
    }
}

/// Now, by the clock that tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Where the copies stand, for everybody to see.
async fn standings(
    views: &BTreeMap<CollectionName, Arc<View>>,
) -> Result<BTreeMap<CollectionName, Standing>, StoreError> {
    let mut standings = BTreeMap::new();
    for (name, view) in views {
        standings.insert(name.clone(), view.restate().await?);
    }
    Ok(standings)
}

/// Waits for work on the rows, for ever if there is none.
async fn finished(working: &mut Option<BoxFuture<'static, Worked>>) -> Worked {
    match working {
        Some(working) => working.await,
        None => std::future::pending().await,
    }
}

/// The disk of the application needs somebody's attention.
fn complain(failure: &StoreError, what: &'static str) {
    let cause = std::error::Error::source(failure).map(ToString::to_string);
    tracing::error!(%failure, cause, what);
}

fn log(collection: &CollectionName, choice: &Choice) {
    let Choice { reason, how, load_bytes, delta_bytes, reconcile_bytes } = choice;
    tracing::info!(
        %collection,
        reason = reason.as_str(),
        how = how.as_str(),
        load_bytes,
        delta_bytes,
        reconcile_bytes,
        "a copy is put right"
    );
}
