//! The single writer: one thread that drains what is queued, plans it in order, persists one
//! batch, syncs once, then announces the heads, then replies. While nothing is queued it forgets
//! what may be forgotten. A failure of storage stops it for good: what is unknown is not guessed.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sync_proto::types::{CollectionName, Condition, Head, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::purges::{PURGE_PAUSE, PURGE_STEP_MIN};
use super::administering::{AdminRefusal, Administered, Administration};
use super::fresh_epoch;
use super::hub::Hub;
use super::ledger::{DeleteRefusal, Group, Ledger};
use super::purging::Rest;
use super::reserving::Reserved;
use crate::core::plan::{Answer, Refusal};
use crate::core::request::Request;
use crate::metrics::{CommitResult, Metrics};
use crate::store::{Store, StoreError};

mod purges;

/// Writes waiting for the writer. Past this, callers wait: that wait is the back-pressure.
const QUEUE_LEN_MAX: usize = 1024;

/// Commits of one group.
const GROUP_COMMITS_MAX: usize = 512;

/// Mutations and preconditions of one group; a commit that alone has more goes by itself.
const GROUP_STEPS_MAX: usize = 5_000;

/// Bytes of one group; a commit that alone has more goes by itself.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of all commits that are queued or being written. Past this, callers wait.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The request was refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The collection was not deleted.
    #[error(transparent)]
    NotDeleted(#[from] DeleteRefusal),
    /// What an operator asked was not done.
    #[error(transparent)]
    NotAdministered(#[from] AdminRefusal),
    /// The disk is almost full; nothing changed.
    #[error("the disk of the server is almost full")]
    Full,
    /// The engine is stopping; nothing changed.
    #[error("the server is stopping")]
    Stopping,
    /// Storage failed: whether the write happened is unknown. The server stops.
    #[error("storage failed; whether the write happened is not known")]
    Unknown,
}

/// Hands writes to the writer thread.
#[derive(Debug, Clone)]
pub struct Writes {
    queue: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
}

/// A request that is queued.
#[derive(Debug)]
pub struct Pending {
    answer: oneshot::Receiver<Result<Answer, WriteError>>,
}

/// The writer thread, for whoever ends it.
#[derive(Debug)]
pub struct Writer {
    stop: mpsc::Sender<Job>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<StoreError>>>,
}

#[derive(Debug)]
enum Job {
    Commit(Ticket),
    Delete(CollectionName, Option<Condition>, oneshot::Sender<Result<Head, WriteError>>),
    Administer(CollectionName, Administration, oneshot::Sender<Result<Administered, WriteError>>),
    Stop,
}

/// A commit with whoever waits for it.
#[derive(Debug)]
struct Ticket {
    request: Request,
    reply: oneshot::Sender<Result<Answer, WriteError>>,
    /// Its share of the bytes that may be queued; given back when it is answered.
    room: OwnedSemaphorePermit,
    /// What it adds where there is a quota; given back before it is answered: then it shows.
    reserved: Reserved,
}

/// What the thread owns.
struct Thread<S> {
    ledger: Arc<Ledger<S>>,
    hub: Arc<Hub>,
    metrics: Metrics,
    jobs: mpsc::Receiver<Job>,
    /// Only to wait with a deadline.
    runtime: Handle,
    /// A job that did not fit into the last group.
    held: Option<Job>,
    last_purge: Instant,
    /// When nothing was left to be done for followers; `None` = something may be.
    tended: Option<Instant>,
    /// How long the next step of a purge may hold up commits.
    purge_step: Duration,
    /// The last purge left something to do.
    unfinished: bool,
}

// === impl Writes ===

impl Writes {
    /// Waits until the request is durable, or refused. An ack is a request like any other.
    pub async fn commit(&self, request: Request, reserved: Reserved) -> Result<Answer, WriteError> {
        self.submit(request, reserved).await?.answer().await
    }

    /// Queues a request, waiting for room. Requests of one caller are applied in the order in
    /// which they were queued.
    pub async fn submit(
        &self,
        request: Request,
        reserved: Reserved,
    ) -> Result<Pending, WriteError> {
        let size = u32::try_from(request.size().min(QUEUE_BYTES_MAX)).expect("below 4 GiB");
        let room = Arc::clone(&self.room).acquire_many_owned(size).await;
        let room = room.expect("the semaphore is never closed");
        let (reply, answer) = oneshot::channel();
        let job = Job::Commit(Ticket { request, reply, room, reserved });
        self.queue.send(job).await.map_err(|_| WriteError::Stopping)?;
        Ok(Pending { answer })
    }

    /// Waits until the collection is durably gone, or was not deleted.
    pub async fn delete_collection(
        &self,
        name: CollectionName,
        condition: Option<Condition>,
    ) -> Result<Head, WriteError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Delete(name, condition, reply);
        self.queue.send(job).await.map_err(|_| WriteError::Stopping)?;
        answer.await.unwrap_or(Err(WriteError::Unknown))
    }

    /// Waits until what an operator asked is durably done, or refused. A purge is a bounded step
    /// of one, so that commits get their turn.
    pub async fn administer(
        &self,
        name: CollectionName,
        asked: Administration,
    ) -> Result<Administered, WriteError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Administer(name, asked, reply);
        self.queue.send(job).await.map_err(|_| WriteError::Stopping)?;
        answer.await.unwrap_or(Err(WriteError::Unknown))
    }

    /// How many writes wait for the writer.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

// === impl Pending ===

impl Pending {
    /// Waits until the request is durable, or refused.
    pub async fn answer(self) -> Result<Answer, WriteError> {
        self.answer.await.unwrap_or(Err(WriteError::Unknown))
    }
}

// === impl Writer ===

impl Writer {
    /// Starts the thread, from within a tokio runtime. When it ends, `fatal` is cancelled and
    /// [`Writer::stop`] tells why.
    pub fn start<S: Store>(
        ledger: Arc<Ledger<S>>,
        hub: Arc<Hub>,
        metrics: Metrics,
        fatal: CancellationToken,
    ) -> std::io::Result<(Self, Writes)> {
        let (queue, jobs) = mpsc::channel(QUEUE_LEN_MAX);
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let runtime = Handle::current();
        let thread = Thread {
            ledger,
            hub,
            metrics,
            jobs,
            runtime,
            held: None,
            last_purge: Instant::now(),
            tended: None,
            purge_step: PURGE_STEP_MIN,
            unfinished: false,
        };
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
            // Also a panic, a broken invariant, ends the server: without its writer it is none.
            let _ends_the_server = fatal.drop_guard();
            if let Err(error) = thread.run() {
                tracing::error!(error = &error as &dyn std::error::Error, "storage failed");
                *told.lock() = Some(error);
            }
        })?;
        let writer = Self { stop: queue.clone(), thread: Some(thread), failure };
        Ok((writer, Writes { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)) }))
    }

    /// Finishes what is queued and ends the thread. Blocks; call it off the async workers.
    pub fn stop(mut self) -> Result<(), StoreError> {
        // Fails only when the thread has ended by itself.
        let asked = self.stop.blocking_send(Job::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(StoreError::Io {
                doing: "writing",
                source: std::io::Error::other("the writer panicked: a broken invariant"),
            });
        }
        if let Some(error) = self.failure.lock().take() {
            return Err(error);
        }
        debug_assert!(asked.is_ok(), "the writer ends early only by a failure");
        Ok(())
    }
}

// === impl Thread ===

impl<S: Store> Thread<S> {
    fn run(mut self) -> Result<(), StoreError> {
        loop {
            let Some(job) = self.next()? else { return Ok(()) };
            match job {
                Job::Commit(ticket) => self.commit(ticket)?,
                Job::Delete(name, condition, reply) => {
                    self.delete(&name, condition.as_ref(), reply)?;
                    self.tended = None;
                }
                Job::Administer(name, asked, reply) => self.administer(&name, &asked, reply)?,
                Job::Stop => return self.finish(),
            }
            if self.last_purge.elapsed() >= PURGE_PAUSE {
                self.purge_between()?;
            }
        }
    }

    /// The next job; `None` when nobody can send any more. Purges while there is none.
    fn next(&mut self) -> Result<Option<Job>, StoreError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            match self.jobs.try_recv() {
                Ok(job) => return Ok(Some(job)),
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(None),
                Err(mpsc::error::TryRecvError::Empty) => {}
            }
            if self.last_purge.elapsed() >= self.purge_round() {
                self.last_purge = Instant::now();
                while self.is_free() && self.purge_idle()? != Rest::Nothing {}
            }
            if let Some(job) = self.wait() {
                return Ok(Some(job));
            }
            if self.jobs.is_closed() && self.jobs.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Waits for a job, but not longer than to the next look for something to purge.
    fn wait(&mut self) -> Option<Job> {
        let rest = self.purge_round().saturating_sub(self.last_purge.elapsed());
        let job = async { tokio::time::timeout(rest, self.jobs.recv()).await };
        self.runtime.block_on(job).ok().flatten()
    }

    fn commit(&mut self, ticket: Ticket) -> Result<(), StoreError> {
        let mut requests = Vec::new();
        let mut replies = Vec::new();
        let mut reserves = Vec::new();
        for Ticket { request, reply, room, reserved } in self.group(ticket) {
            requests.push(request);
            replies.push((reply, room));
            reserves.push(reserved);
        }
        let entries = self.ledger.entries_written();
        let committed = self.ledger.commit(&requests, Timestamp::now(), &mut fresh_epoch);
        // Only this thread writes any.
        self.metrics.wrote_group(requests.len(), self.ledger.entries_written() - entries);
        self.count(&requests, &committed);
        // Whoever hears the answer finds it in the heads, and nowhere else.
        drop(reserves);
        match committed {
            Ok(group) => {
                // Announce before replying: a writer that reads its own write must find it
                // announced, and nobody is told of what is not durable.
                self.hub.announce(&group.moved);
                for ((reply, _room), answer) in replies.into_iter().zip(group.answers) {
                    // A caller that went away does not need the answer.
                    drop(reply.send(answer.map_err(WriteError::Refused)));
                }
                Ok(())
            }
            Err(StoreError::Full { .. }) => {
                for (reply, _room) in replies {
                    drop(reply.send(Err(WriteError::Full)));
                }
                Ok(())
            }
            Err(error) => {
                for (reply, _room) in replies {
                    drop(reply.send(Err(WriteError::Unknown)));
                }
                Err(error)
            }
        }
    }

    fn count(&self, requests: &[Request], committed: &Result<Group, StoreError>) {
        for (index, request) in requests.iter().enumerate() {
            let result = match committed {
                Ok(group) if group.answers[index].is_ok() => CommitResult::Done,
                Ok(_) => CommitResult::Refused,
                Err(StoreError::Full { .. }) => CommitResult::Full,
                Err(_) => CommitResult::Unknown,
            };
            match request {
                Request::Commit { .. } | Request::Import { .. } => {
                    self.metrics.committed(result, request.mutations().len());
                }
                // It is the commit that it repeats, or would be.
                Request::Repeat(..) => self.metrics.committed(result, 0),
                Request::Ack(_) => self.metrics.acked(result),
            }
        }
    }

    /// What is queued behind this commit and goes with it.
    fn group(&mut self, first: Ticket) -> Vec<Ticket> {
        let mut steps = first.request.steps();
        let mut bytes = first.request.size();
        let mut group = vec![first];
        while group.len() < GROUP_COMMITS_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            match job {
                Job::Commit(next)
                    if steps + next.request.steps() <= GROUP_STEPS_MAX
                        && bytes + next.request.size() <= GROUP_BYTES_MAX =>
                {
                    steps += next.request.steps();
                    bytes += next.request.size();
                    group.push(next);
                }
                Job::Commit(_) | Job::Delete(..) | Job::Administer(..) | Job::Stop => {
                    self.held = Some(job);
                    break;
                }
            }
        }
        group
    }

    fn delete(
        &mut self,
        name: &CollectionName,
        condition: Option<&Condition>,
        reply: oneshot::Sender<Result<Head, WriteError>>,
    ) -> Result<(), StoreError> {
        match self.ledger.delete_collection(name, condition, Timestamp::now()) {
            Ok(answer) => {
                if answer.is_ok() {
                    self.announce(Some(name));
                }
                drop(reply.send(answer.map_err(WriteError::NotDeleted)));
                Ok(())
            }
            Err(StoreError::Full { .. }) => {
                drop(reply.send(Err(WriteError::Full)));
                Ok(())
            }
            Err(error) => {
                drop(reply.send(Err(WriteError::Unknown)));
                Err(error)
            }
        }
    }

    fn administer(
        &mut self,
        name: &CollectionName,
        asked: &Administration,
        reply: oneshot::Sender<Result<Administered, WriteError>>,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut go_on = || began.elapsed() < PURGE_STEP_MIN && !self.ledger.is_behind();
        match self.ledger.administer(name, asked, Timestamp::now(), &mut fresh_epoch, &mut go_on) {
            Ok(answer) => {
                if answer.is_ok() {
                    self.announce(Some(name));
                }
                drop(reply.send(answer.map_err(WriteError::NotAdministered)));
                Ok(())
            }
            Err(error) => {
                drop(reply.send(Err(WriteError::Unknown)));
                Err(error)
            }
        }
    }

    /// Announces what something besides commits has moved.
    fn announce(&self, name: Option<&CollectionName>) {
        let mut concerned = self.ledger.take_concerned();
        concerned.extend(name.cloned());
        if !concerned.is_empty() {
            self.hub.announce(&concerned);
        }
    }

    /// Commits what was queued before the end, refuses what comes after.
    fn finish(mut self) -> Result<(), StoreError> {
        self.jobs.close();
        while let Some(job) = self.held.take().or_else(|| self.jobs.try_recv().ok()) {
            match job {
                Job::Commit(ticket) => self.commit(ticket)?,
                Job::Delete(name, condition, reply) => {
                    self.delete(&name, condition.as_ref(), reply)?;
                }
                Job::Administer(name, asked, reply) => self.administer(&name, &asked, reply)?,
                Job::Stop => {}
            }
        }
        Ok(())
    }
}
