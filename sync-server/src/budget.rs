//! How much memory all peers together may tie up, and one connection of it. Whoever wants to hold
//! bytes for a peer claims them first, and waits while there is no room: that wait is the
//! back-pressure. A claim ends with what it was made for.
//!
//! ```text
//! claim ─► room in the connection's quarter ─► room in the whole ─► held ─► dropped
//!              waits, it is its own doing        waits, but not for ever
//! ```
//! While others wait for the whole, a peer that has taken nothing for a while loses its
//! connection: otherwise a few that never read could keep everybody else out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::Either;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod account;
#[cfg(test)]
mod tests;

pub use account::{Account, BRIEF_BYTES, Budgets, LOADS_SETTING, WAITING_UPLOADS_MAX};

/// One connection may hold this part of a budget.
const CONNECTION_SHARE: usize = 4;

/// So often a waiting claim looks for somebody who keeps it waiting for no good reason.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// While others wait, whoever holds bytes must take or send some of them within this.
const STALL_MAX: Duration = Duration::from_secs(2);

/// A budget of bytes, shared by all connections.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The setting that the budget comes from, for those who are refused.
    setting: &'static str,
    total: usize,
    free: Arc<Semaphore>,
    /// Claims that wait for room, that of their connection included.
    waiting: AtomicUsize,
    /// Holders that depend on their peer, by number.
    holders: Mutex<BTreeMap<u64, Arc<Holder>>>,
    next: AtomicU64,
    began: Instant,
}

/// What bytes cost, when they are held in another form as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    times: usize,
    of: usize,
}

/// The part of a budget that one connection may use.
#[derive(Debug, Clone)]
pub struct Lane {
    shared: Arc<Shared>,
    total: usize,
    weight: Weight,
    free: Arc<Semaphore>,
    line: Arc<Line>,
}

/// The peer of a lane.
#[derive(Debug, Default)]
struct Line {
    /// When it last took or sent something of the lane, in milliseconds since the budget began.
    progress: AtomicU64,
    /// Ends its connection.
    cut: CancellationToken,
}

/// Bytes that may be held until this is dropped.
#[derive(Debug)]
pub struct Claim {
    own: OwnedSemaphorePermit,
    whole: OwnedSemaphorePermit,
    holder: Option<(u64, Arc<Holder>)>,
    weight: Weight,
    shared: Arc<Shared>,
    line: Arc<Line>,
}

/// Somebody whose peer must do something before the bytes are free.
#[derive(Debug)]
struct Holder {
    /// When the peer last did, in milliseconds since the budget began.
    progress: AtomicU64,
    /// Whether it is the peer's turn, not the server's.
    awaited: AtomicBool,
    /// The lane that it waits behind: what the peer does there is progress for this one, too.
    behind: Mutex<Option<Arc<Line>>>,
    line: Arc<Line>,
}

/// One of those that wait, counted until this is dropped.
pub(crate) struct Waits<'a>(&'a AtomicUsize);

/// There is no room, and there was none within the time that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: the server holds as much for its peers as it may ({total} bytes); retry later")]
pub struct Exhausted {
    setting: &'static str,
    total: usize,
}

// === impl Exhausted ===

impl Exhausted {
    /// The setting whose limit is in the way.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

// === impl Budget ===

impl Budget {
    /// A budget of so many bytes, named after the setting that it comes from.
    #[must_use]
    pub fn new(setting: &'static str, total: usize) -> Self {
        let shared = Shared {
            setting,
            total,
            free: Arc::new(Semaphore::new(total)),
            waiting: AtomicUsize::default(),
            holders: Mutex::default(),
            next: AtomicU64::default(),
            began: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The part of one connection, which is cut when it keeps others waiting.
    #[must_use]
    pub fn lane(&self, cut: CancellationToken) -> Lane {
        self.part(self.shared.total / CONNECTION_SHARE, cut)
    }

    /// A part of so many bytes.
    fn part(&self, total: usize, cut: CancellationToken) -> Lane {
        let free = Arc::new(Semaphore::new(total));
        let (shared, weight) = (Arc::clone(&self.shared), Weight::PLAIN);
        Lane { shared, total, weight, free, line: Arc::new(Line { cut, ..Line::default() }) }
    }

    /// Bytes that may be held.
    fn total(&self) -> usize {
        self.shared.total
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.total - self.shared.free.available_permits()
    }

    /// Claims that wait for room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

// === impl Shared ===

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn exhausted(&self) -> Exhausted {
        Exhausted { setting: self.setting, total: self.total }
    }

    /// Cuts the peer that has kept others waiting for longest, if it was too long.
    fn cut_stalled(&self) {
        let stalled = self
            .holders
            .lock()
            .values()
            .filter(|holder| {
                holder.awaited.load(Ordering::Relaxed) && !holder.line.cut.is_cancelled()
            })
            .map(|holder| (holder.progress(), Arc::clone(holder)))
            .min_by_key(|(progress, _)| *progress);
        let Some((progress, holder)) = stalled else { return };
        let stalled_ms = self.now().saturating_sub(progress);
        if Duration::from_millis(stalled_ms) >= STALL_MAX {
            tracing::debug!(budget = self.setting, stalled_ms, "a peer keeps others waiting");
            holder.line.cut.cancel();
        }
    }
}

// === impl Holder ===

impl Holder {
    fn progress(&self) -> u64 {
        let own = self.progress.load(Ordering::Relaxed);
        let behind = self.behind.lock();
        behind.as_ref().map_or(own, |behind| own.max(behind.progress.load(Ordering::Relaxed)))
    }
}

// === impl Weight ===

impl Weight {
    /// They are held as they are.
    pub const PLAIN: Self = Self { times: 1, of: 1 };
    /// In base64 as well, which is a third longer.
    pub const AND_BASE64: Self = Self { times: 7, of: 3 };

    fn of(self, bytes: usize) -> usize {
        bytes.saturating_mul(self.times).div_ceil(self.of)
    }
}

// === impl Lane ===

impl Lane {
    /// The same lane, for bytes that cost so much.
    #[must_use]
    pub fn weighing(&self, weight: Weight) -> Self {
        Self { weight, ..self.clone() }
    }

    /// Both lanes, for one stream: what the peer takes of others of its streams does not count.
    #[must_use]
    pub fn for_stream(&self, other: &Self) -> (Self, Self) {
        let line = Arc::new(Line { cut: self.line.cut.clone(), ..Line::default() });
        let on_it = |lane: &Self| Self { line: Arc::clone(&line), ..lane.clone() };
        (on_it(self), on_it(other))
    }

    /// Waits for room, as long as it takes. First come, first served.
    pub async fn claim(&self, bytes: usize) -> Claim {
        let permits = self.permits(bytes);
        let _waits = Waits::begin(&self.shared.waiting);
        let own = acquire(&self.free, permits).await;
        let mut whole = std::pin::pin!(acquire(&self.shared.free, permits));
        loop {
            // The place in the queue is kept from one look to the next.
            match tokio::time::timeout(LOOK_EVERY, &mut whole).await {
                Ok(whole) => return self.held(own, whole),
                Err(_) => self.shared.cut_stalled(),
            }
        }
    }

    /// Room, if there is some and nobody waits for it.
    #[must_use]
    pub fn try_claim(&self, bytes: usize) -> Option<Claim> {
        let permits = self.permits(bytes);
        let own = Arc::clone(&self.free).try_acquire_many_owned(permits).ok()?;
        let whole = Arc::clone(&self.shared.free).try_acquire_many_owned(permits).ok()?;
        Some(self.held(own, whole))
    }

    /// Waits for room: for that of the connection as long as it takes, which is its own doing,
    /// for that of the whole at most `within`.
    pub async fn claim_within(&self, bytes: usize, within: Duration) -> Result<Claim, Exhausted> {
        let _waits = Waits::begin(&self.shared.waiting);
        let own = acquire(&self.free, self.permits(bytes)).await;
        self.claim_rest(own, within).await
    }

    /// Waits for room as [`Self::claim_within`] does, or, while others hold that of the whole, for
    /// something else: for what comes first.
    pub async fn claim_within_or<T>(
        &self,
        bytes: usize,
        other: impl Future<Output = T>,
        within: Duration,
    ) -> Result<Either<Claim, T>, Exhausted> {
        let _waits = Waits::begin(&self.shared.waiting);
        let own = acquire(&self.free, self.permits(bytes)).await;
        tokio::select! {
            biased;
            claim = self.claim_rest(own, within) => claim.map(Either::Left),
            other = other => Ok(Either::Right(other)),
        }
    }

    /// There is room in the connection's part: waits for that of the whole.
    async fn claim_rest(
        &self,
        own: OwnedSemaphorePermit,
        within: Duration,
    ) -> Result<Claim, Exhausted> {
        let permits = u32::try_from(own.num_permits()).expect("as many were asked for");
        let mut whole = std::pin::pin!(acquire(&self.shared.free, permits));
        let deadline = Instant::now() + within;
        loop {
            match tokio::time::timeout(LOOK_EVERY.min(within), &mut whole).await {
                Ok(whole) => return Ok(self.held(own, whole)),
                Err(_) if Instant::now() >= deadline => return Err(self.shared.exhausted()),
                Err(_) => self.shared.cut_stalled(),
            }
        }
    }

    fn exhausted(&self) -> Exhausted {
        self.shared.exhausted()
    }

    /// No claim is larger than the lane: it would wait for ever.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(self.weight.of(bytes).min(self.total)).unwrap_or(u32::MAX)
    }

    fn held(&self, own: OwnedSemaphorePermit, whole: OwnedSemaphorePermit) -> Claim {
        let (shared, line) = (Arc::clone(&self.shared), Arc::clone(&self.line));
        Claim { own, whole, holder: None, weight: self.weight, shared, line }
    }
}

// === impl Claim ===

impl Claim {
    /// Bytes that are claimed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.whole.num_permits()
    }

    /// Both claims, which are of the same lane, as one.
    #[must_use]
    pub fn with(mut self, mut other: Self) -> Self {
        if let Some((number, _)) = other.holder.take() {
            self.shared.holders.lock().remove(&number);
        }
        self.own.merge(other.own.split(other.own.num_permits()).expect("it has as many"));
        self.whole.merge(other.whole.split(other.whole.num_permits()).expect("it has as many"));
        self
    }

    /// Gives back all but what so many bytes cost.
    pub fn shrink_to(&mut self, bytes: usize) {
        let more = self.bytes().saturating_sub(self.weight.of(bytes));
        drop(self.own.split(more));
        drop(self.whole.split(more));
    }

    /// From now on the peer must do something before the bytes are free: take them, or send the
    /// rest. Says so again each time when it did.
    pub fn await_peer(&mut self) {
        let now = self.shared.now();
        self.line.progress.store(now, Ordering::Relaxed);
        if let Some((_, holder)) = &self.holder {
            holder.progress.store(now, Ordering::Relaxed);
            holder.awaited.store(true, Ordering::Relaxed);
            return;
        }
        let holder = Arc::new(Holder {
            progress: now.into(),
            awaited: true.into(),
            behind: Mutex::default(),
            line: Arc::clone(&self.line),
        });
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.holders.lock().insert(number, Arc::clone(&holder));
        self.holder = Some((number, holder));
    }

    /// From now on the peer must do something in another lane, where there is no room for what
    /// comes next.
    pub fn await_lane(&mut self, lane: &Lane) {
        if let Some((_, holder)) = &self.holder {
            *holder.behind.lock() = Some(Arc::clone(&lane.line));
            // Not to blame for what the server took until now.
            holder.progress.store(self.shared.now(), Ordering::Relaxed);
            holder.awaited.store(true, Ordering::Relaxed);
        }
    }

    /// From now on it is the server's turn.
    pub fn await_server(&mut self) {
        if let Some((_, holder)) = &self.holder {
            *holder.behind.lock() = None;
            holder.awaited.store(false, Ordering::Relaxed);
        }
    }
}

// === impl Waits ===

impl<'a> Waits<'a> {
    /// From now on until it is dropped one more waits.
    pub(crate) fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn acquire(free: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    let permit = Arc::clone(free).acquire_many_owned(permits).await;
    permit.expect("the semaphore is never closed")
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((number, _)) = self.holder.take() {
            self.shared.holders.lock().remove(&number);
        }
    }
}
