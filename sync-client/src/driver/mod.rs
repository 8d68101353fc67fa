//! The one task that runs a replica's session, or an account's desk, over the network: it carries
//! out what the machine says and tells it what happens. Decides nothing itself.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rand::RngExt as _;
use sync_proto::types::{CollectionName, Event, Polled};
use tokio_util::sync::CancellationToken;

use self::acks::Acks;
use self::errands::Asking;
use self::machine::Machine;
use crate::account::desk::{Desk, DeskConfig};
use crate::backoff::Backoff;
use crate::blocking::blocking;
use crate::client::{EventStream, Pulled, SyncClient};
use crate::error::ClientError;
use crate::session::{
    Config, Done, Input, MendFault, MendId, PullId, Session, Stats, StreamId, Task,
};
use crate::store::{ReplicaStore, StoreError};
use crate::view::View;
use crate::views::Views;

mod acks;
mod errands;
mod machine;
mod work;

pub(crate) use self::errands::{Errands, holdings};

/// Runs a replica or an account. Not cloneable: each has one.
pub struct Driver {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    views: Arc<Views>,
    stats: Arc<Mutex<Stats>>,
    plan: Plan,
    /// Comes last: its end is that of the driver.
    life: Life,
}

/// What a driver is for.
pub(crate) enum Plan {
    /// These collections, whose views are kept as long as it runs; and how often the server is told
    /// how far they are, at most.
    Replica(Config, Arc<BTreeMap<CollectionName, Arc<View>>>, Option<Duration>),
    /// An account.
    Account(Errands),
}

/// However a driver ends, also one that never ran, its collections are `Stopped` then.
struct Life {
    views: Arc<Views>,
    board: Option<Arc<crate::account::board::Board>>,
}

/// A driver at work.
struct Work {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    views: Arc<Views>,
    stats: Arc<Mutex<Stats>>,
    machine: Machine,
    /// Of an account.
    errands: Option<Errands>,
    /// Of a replica that tells how far it is.
    acks: Option<Acks>,
    /// As which client.
    client_id: String,
    /// Views of a replica.
    kept: Option<Arc<BTreeMap<CollectionName, Arc<View>>>>,
    stream: Stream,
    pulls: FuturesUnordered<BoxFuture<'static, PullAnswer>>,
    /// Questions of repairs.
    asks: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// Questions of an account.
    answers: FuturesUnordered<Asking>,
    /// Work on the rows, one piece after the other.
    jobs: VecDeque<Job>,
    working: Option<BoxFuture<'static, Worked>>,
    /// Bytes of messages that were received, without those of the present stream.
    bytes: u64,
    /// What pulls said besides their outcomes; told when these have been dealt with.
    polled: VecDeque<Polled>,
    /// Bytes of the answers that repairs took.
    reconcile_bytes: u64,
    /// When the writes since the last flush are to be made to survive a power cut.
    flush_at: Option<Instant>,
    /// The last flush failed; what the machine believes to be written may be lost.
    unflushed: Option<Backoff>,
    /// Since the store took something last it has failed, and that was told.
    complained: bool,
    /// [`ReplicaStore::lives`] when it was looked last.
    lives: u64,
    /// The store may hold rows that nobody sees any more.
    sweeping: bool,
    /// Turns of the loop since it swept.
    since_sweep: u32,
}

type PullAnswer = (PullId, Result<Pulled, ClientError>);
type Asked = (CollectionName, MendId, Result<Done, MendFault>, u64);
/// What to tell the machine.
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
    Pulled(PullAnswer),
    Asked(Asked),
    Answered(errands::Answer),
    Worked(Worked),
    Opened(Opened),
    Message(StreamId, Option<Result<Event, ClientError>>),
    Looked(Vec<CollectionName>),
    Elapsed,
    Idle,
}

/// Writes reach the disk at the latest after this.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

// === impl Driver ===

impl Driver {
    pub(crate) fn new(
        client: SyncClient,
        store: Arc<dyn ReplicaStore>,
        views: Arc<Views>,
        stats: Arc<Mutex<Stats>>,
        plan: Plan,
    ) -> Self {
        let board = match &plan {
            Plan::Replica(..) => None,
            Plan::Account(errands) => Some(errands.board.clone()),
        };
        let life = Life { views: views.clone(), board };
        Self { client, store, views, stats, plan, life }
    }

    /// Keeps the copies right until `stop` is cancelled. Ends earlier only when the local store
    /// does not say where the copies stand; later failures of it show in
    /// [`Status::StoreFailing`](crate::Status::StoreFailing), and what was not written is fetched
    /// again once it works. `Err` also if what was written last could not be brought to the disk.
    /// Every collection is `Stopped` then, and what was written is on the disk. A driver that is
    /// dropped, run or not, leaves its collections `Stopped`, too.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        let Self { client, store, views, stats, plan, life } = self;
        let worked = match Work::begin(client, store.clone(), views, stats, plan).await {
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
        f.debug_struct("Driver").field("client", &self.client).finish_non_exhaustive()
    }
}

// === impl Life ===

impl Drop for Life {
    fn drop(&mut self) {
        // First the list, by which views get their status.
        if let Some(board) = &self.board {
            board.stop();
        }
        self.views.stop();
    }
}

// === impl Work ===

impl Work {
    async fn begin(
        client: SyncClient,
        store: Arc<dyn ReplicaStore>,
        views: Arc<Views>,
        stats: Arc<Mutex<Stats>>,
        plan: Plan,
    ) -> Result<Self, StoreError> {
        let (client_id, acks) = match &plan {
            Plan::Replica(config, _, every) => {
                let acks = every.map(|every| Acks::new(every, now(), &mut rand::rng()));
                (config.client_id.clone(), acks)
            }
            Plan::Account(errands) => (errands.config.session.client_id.clone(), None),
        };
        let (machine, errands, kept) = match plan {
            Plan::Replica(config, kept, _) => {
                let mut parts = BTreeMap::new();
                for (name, view) in &*kept {
                    parts.insert(name.clone(), (view.restate().await?, view.scope().clone()));
                }
                let session = Session::of_parts(config, parts, rand::rng().random(), now());
                (Machine::Replica(Box::new(session)), None, Some(kept))
            }
            Plan::Account(errands) => {
                let (copies, config) = (store.clone(), errands.config.clone());
                let read = move || holdings(&*copies, &config);
                let held = blocking("reading the local store", read).await?;
                let config = DeskConfig { clock_ms: clock_ms(), ..errands.config.clone() };
                let desk = Desk::new(config, held, rand::rng().random(), now());
                (Machine::Account(Box::new(desk)), Some(errands), None)
            }
        };
        let lives = store.lives();
        // What an earlier life wrote last may not be on the disk, and is acknowledged.
        let flush_at = (errands.is_some() || acks.is_some()).then(|| now() + FLUSH_AFTER);
        Ok(Self {
            client,
            store,
            views,
            stats,
            machine,
            errands,
            acks,
            client_id,
            kept,
            stream: Stream::Closed,
            pulls: FuturesUnordered::new(),
            asks: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            jobs: VecDeque::new(),
            working: None,
            bytes: 0,
            polled: VecDeque::new(),
            reconcile_bytes: 0,
            flush_at,
            unflushed: None,
            complained: false,
            lives,
            // A load may have been exchanged just before the last run ended.
            sweeping: true,
            since_sweep: 0,
        })
    }
}

/// Now, by the clock that tests can stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Milliseconds since 1970 by the system's clock.
pub(crate) fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

// === impl Work ===

impl Work {
    /// What became of notes, comparisons and writes, which are tried again until they succeed: an
    /// outage of the store is told once.
    fn tell_outage(&mut self, failure: Option<&StoreError>, what: &'static str) {
        let told = std::mem::replace(&mut self.complained, failure.is_some());
        match failure {
            Some(failure) if told => tracing::debug!(%failure, what),
            Some(failure) => complain(failure, what),
            None => {}
        }
    }
}

/// The disk of the application needs somebody's attention.
fn complain(failure: &StoreError, what: &'static str) {
    let cause = std::error::Error::source(failure).map(ToString::to_string);
    tracing::error!(%failure, cause, what);
}
