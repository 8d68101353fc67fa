//! The gRPC face of the engine: one file a service. Messages are checked at the door by
//! `sync_proto::convert`, errors get their status in [`crate::status`], everything else is the
//! engine's.

use std::sync::Arc;

use rand::RngExt as _;
use sync_proto::limits::PAGE_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

use self::clients::ClientRegistry;
use self::ending::Ending;
use self::loads::{ConnectionNumber, LoadBreaker};
use self::pacing::Pacing;
use self::places::Places;
use self::reads::{READS_MAX, Reads};
use self::storing::Storing;
use crate::admission::{BRIEF_PAGE_BYTES, Held};
use crate::auth::{AccessError, Caller};
use crate::budget::Account;
use crate::core::loads::Who;
use crate::engine::hub::Hub;
use crate::engine::ledger::Ledger;
use crate::engine::listing::ListError;
use crate::engine::writer::Writes;
use crate::metrics::Metrics;
use crate::status;
use crate::store::Store;

pub mod admin;
mod backup;
pub mod clients;
pub mod ending;
mod explaining;
pub mod loads;
mod long_calls;
pub(crate) mod outbox;
pub mod pacing;
pub mod places;
pub mod reads;
pub mod storing;
mod subscribe;
pub mod sync;
mod verifying;
mod withholding;
pub mod write;

/// Reads at once of those that are first loads or reconciliations: others always get their turn.
pub const LOAD_READS_MAX: usize = READS_MAX / 2;

/// Reads at once for brief answers: what turns out to be too large for one has no room of its own.
pub const BRIEF_READS_MAX: usize = 8;

/// Backups at once.
pub const BACKUPS_MAX: usize = 1;

/// Verifications at once.
pub const VERIFICATIONS_MAX: usize = 1;

/// What every service needs.
#[derive(Debug)]
pub struct Context<S> {
    /// Reads.
    pub ledger: Arc<Ledger<S>>,
    /// Where reads run.
    pub reads: Reads,
    /// Reads at once for first loads and reconciliations.
    pub load_reads: Arc<Semaphore>,
    /// Reads at once for brief answers.
    pub brief_reads: Arc<Semaphore>,
    /// Backups at once: each reads everything.
    pub backups: Arc<Semaphore>,
    /// Verifications at once, likewise.
    pub verifications: Arc<Semaphore>,
    /// News of heads.
    pub hub: Arc<Hub>,
    /// Writes.
    pub writes: Writes,
    /// What is counted.
    pub metrics: Metrics,
    /// Bounds of streams.
    pub streams: StreamSettings,
    /// How fast everybody may write.
    pub pacing: Pacing,
    /// How much may be stored where.
    pub storing: Storing,
    /// Who begins the same load again and again.
    pub loads: LoadBreaker,
    /// The clients that were served lately.
    pub clients: Arc<ClientRegistry>,
    /// Who wants the server to end.
    pub ending: Ending,
    /// Cancelled when the server begins to stop.
    pub drain: CancellationToken,
    /// Every task that a call leaves behind; the end of the server waits for them.
    pub tasks: TaskTracker,
}

/// Streams are ended when they are as old as they may be, give or take this part of it.
pub const AGE_SPREAD: f64 = 0.1;

/// Bounds of subscriptions.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Streams and targets at once.
    pub places: Arc<Places>,
    /// A stream older than this is ended with Goodbye, so that load can move between servers.
    pub age_max: std::time::Duration,
    /// Within this, clients spread their return after a Goodbye.
    pub goodbye_jitter: std::time::Duration,
    /// At least this long between two notices of one collection because of an inbox.
    pub notice_interval: std::time::Duration,
}

/// What a call was given by its connection.
#[derive(Debug)]
struct Asking {
    account: Arc<Account>,
    held: Held,
}

// === impl StreamSettings ===

impl StreamSettings {
    /// How old one stream gets: not all that began together end together.
    fn age(&self) -> std::time::Duration {
        self.age_max.mul_f64(rand::rng().random_range(1.0 - AGE_SPREAD..1.0 + AGE_SPREAD))
    }
}

// === impl Asking ===

impl Asking {
    /// What `server::calls` has put there; nothing if the request came another way.
    fn of<T>(request: &Request<T>) -> Option<Self> {
        let account = request.extensions().get::<Arc<Account>>().cloned()?;
        let held = request.extensions().get::<Held>().cloned()?;
        Some(Self { account, held })
    }
}

// === impl Context ===

impl<S: Store> Context<S> {
    /// Who calls, as `server::calls` found. Who came another way is nobody.
    fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        caller.ok_or_else(|| status::access(AccessError::Unauthenticated))
    }

    /// Who calls, as far as loops of loads are concerned: its name, or its connection.
    fn loader<T>(request: &Request<T>, caller: &Caller, client_id: &str) -> Who {
        let on = request.extensions().get::<ConnectionNumber>().copied().unwrap_or_default();
        LoadBreaker::who(caller, client_id, on)
    }

    /// Waits for the turn of a first load or a reconciliation to read; it ends with what is returned.
    async fn load_turn(&self) -> OwnedSemaphorePermit {
        turn(&self.load_reads).await
    }

    /// The same of a call with room for a brief answer; others need none.
    async fn brief_turn(&self, held: &Held) -> Option<OwnedSemaphorePermit> {
        if held.is_brief() { Some(turn(&self.brief_reads).await) } else { None }
    }

    /// Reads a page of at most so many bytes, or one item, for an answer: a brief one if there is no
    /// room for more, unless its first item is larger than that.
    async fn read_page<R: Send + 'static>(
        &self,
        asking: &Asking,
        read: impl Fn(&Ledger<S>, usize) -> Result<R, ListError> + Clone + Send + 'static,
        bytes: impl Fn(&R) -> usize,
    ) -> Result<R, Status> {
        if let Some(turn) = self.brief_turn(&asking.held).await {
            let reads = read.clone();
            let brief = self.read(move |ledger| reads(ledger, BRIEF_PAGE_BYTES)).await?;
            let brief = brief.map_err(|error| status::list(&error))?;
            if bytes(&brief) <= BRIEF_PAGE_BYTES {
                return Ok(brief);
            }
            drop((brief, turn));
            asking.held.become_whole().await.map_err(|error| status::exhausted(&error))?;
        }
        let page = self.read(move |ledger| read(ledger, PAGE_BYTES_MAX)).await?;
        page.map_err(|error| status::list(&error))
    }

    /// Runs a read of the store where it keeps nobody up. A call that is cancelled while it waits
    /// for its turn costs no read.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger<S>) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let ledger = Arc::clone(&self.ledger);
        self.reads.run(move || read(&ledger)).await.map_err(|error| status::lost_task(&error))
    }
}

async fn turn(of: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(of).acquire_owned().await.expect("the semaphore is never closed")
}
