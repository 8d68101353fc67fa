//! The conversation of one replica with its server, as a state machine. Pure: no network, no
//! store, no clock, no async; time and dice are arguments. [`Session::handle`] takes what
//! happened, [`Session::poll_action`] says what to do, [`Session::deadline`] when to call again
//! with [`Input::Elapsed`] if nothing happens before.
//!
//! ```text
//!  one stream for all collections                 each collection
//!
//!  Closed --open_at--> Opening --Accepted--> Open    on the stream --Reset, Failed--> off it
//!    ^                    |                    |        |     ^                        |
//!    +--------------------+--------------------+        hole  | joined             pull, page
//!       back-off with full jitter, which begins         |     |                    by page
//!       anew only when something has moved              v     |                        |
//!                                                      pull --+      caught up: the stream is
//!                                                                    opened again with all
//! ```
//!
//! Whoever runs a session carries out every action before the next input, in order; a
//! [`Action::Write`] is answered by [`Input::Written`] at once, see [`carry_out`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sync_proto::types::{CollectionName, Event, Outcome, Pull, Scope, Subscribe};

use crate::error::ClientError;
use crate::store::{Applied, ReplicaStore, Standing, StoreError, Write};

mod config;
mod cost;
mod held;
mod line;
mod mending;
mod pulling;
mod pushed;
mod quiet;
mod repairing;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod track;
mod writing;

use self::line::Line;
use self::pulling::{Mends, Pulls};
use self::track::Track;

pub use crate::mending::work;
pub use config::Config;
pub use cost::Choice;
pub use mending::{Done, MendFault, MendId, Task};
pub(crate) use quiet::{Because, Completes, Fortune, Joining, Part};
pub use stats::Stats;
pub use status::{RepairHow, RepairReason, Status};

/// The state of a replica's conversation.
#[derive(Debug)]
pub struct Session {
    config: Config,
    dice: StdRng,
    tracks: BTreeMap<CollectionName, Track>,
    line: Line,
    pulls: Pulls,
    mends: Mends,
    /// When to look at a collection again; each occurs at most once.
    agenda: BTreeSet<(Instant, CollectionName)>,
    safety_at: Instant,
    self_check_at: Instant,
    actions: VecDeque<Action>,
    stats: Stats,
    /// Bytes of all pushes that came early and are kept.
    held_bytes: usize,
    /// What was written last is not on the disk; it is tried again then.
    unflushed_until: Option<Instant>,
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

/// Which pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullId(u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A message came by a stream.
    Event(StreamId, Event),
    /// A message came that breaks the protocol and names no collection.
    Malformed(StreamId),
    /// A stream could not be opened, broke, or ended.
    StreamEnded(StreamId, Fault),
    /// A pull was answered, one outcome per target, or failed as a whole.
    Pulled(PullId, Result<Vec<Outcome>, Fault>),
    /// A write was carried out, or was not.
    Written(CollectionName, Result<Standing, WriteFault>),
    /// What was written last could not be brought to the disk, or now could again: some of it may
    /// be lost.
    Restated {
        /// Where copies stand, as far as the store says.
        standings: BTreeMap<CollectionName, Standing>,
        /// The disk takes nothing; it is tried again then.
        failing_until: Option<Instant>,
    },
    /// A copy was checked: whether count and digest are those of its rows.
    SelfChecked(CollectionName, bool),
    /// A step of a repair was done, or was not.
    Mended(CollectionName, MendId, Result<Done, MendFault>),
    /// So many bytes have come by the connection since the client was made, also of messages
    /// that are not whole yet. Told before [`Self::Elapsed`]: a page takes long on a slow line.
    Received(u64),
    /// Time has passed.
    Elapsed,
}

/// What trying again is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It may pass by itself.
    Passing,
    /// The server asks not to come again before this has passed. Then it may have passed.
    Asked(Duration),
    /// No answer came in time. It may pass by itself; a shorter answer may come.
    Slow,
    /// It will stay until somebody changes something, for whatever is asked.
    Lasting,
    /// This very request is not accepted; another one may be.
    Refused,
    /// The server does not know the credentials, whatever is asked with them.
    Unauthenticated,
}

/// Why a write was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// Somebody else moved the copy; this is where it stands.
    Conflict(Standing),
    /// A change leaves out a value that the copy does not have.
    MissingValue,
    /// What the store found cannot be right.
    Damaged,
    /// The store failed; what has become of the write is not known.
    Failed,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a stream.
    OpenStream(StreamId, Subscribe),
    /// Drop the stream; nothing that it still brings matters.
    CloseStream(StreamId),
    /// Send a pull.
    Pull(PullId, Pull),
    /// Change a copy, and answer with [`Input::Written`] before any other input.
    Write(CollectionName, Write),
    /// Check a copy against its own digest, when there is time.
    SelfCheck(CollectionName),
    /// Carry out a step of a repair, and answer with [`Input::Mended`]. Local steps happen in the
    /// order in which they are asked for, whatever has become of their repair meanwhile.
    Mend(CollectionName, MendId, Task),
    /// Log in which way a collection is put right, and why.
    Chosen(CollectionName, Choice),
    /// Show how a collection is doing.
    Report(CollectionName, Report),
}

/// How a collection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// In one word.
    pub status: Status,
    /// When the copy was last known to be the server's collection.
    pub synced_at: Option<Instant>,
}

/// What a collection's state may use while it handles an input.
struct Context<'a> {
    now: Instant,
    dice: &'a mut StdRng,
    actions: &'a mut VecDeque<Action>,
    stats: &'a mut Stats,
    held_bytes: &'a mut usize,
    /// Bytes to ask for at a time.
    page_bytes: usize,
    /// The server compares, as far as is known.
    compares: &'a mut bool,
}

/// A self-check reads a whole copy: seldom, and not everybody at once.
const SELF_CHECK_HOURS: std::ops::Range<f64> = 12.0..36.0;
/// Least wait after a fault that does not pass by itself.
const LASTING_FAULT_WAIT: Duration = Duration::from_secs(5);
/// While the stream cannot be opened, copies are pulled this often instead.
const POLL_WITHOUT_STREAM: Duration = Duration::from_secs(30);
/// After so many attempts in vain the stream counts as one that cannot be opened.
const ATTEMPTS_IN_VAIN: u32 = 3;

/// Carries out a write and says how to answer the session. `Err`: the store has failed for
/// good, and the conversation ends.
pub fn carry_out(
    store: &dyn ReplicaStore,
    collection: &CollectionName,
    write: &Write,
) -> Result<(Input, Option<Applied>), StoreError> {
    written(collection, store.write(collection, write))
}

/// How to answer the session after a write.
pub(crate) fn written(
    collection: &CollectionName,
    outcome: Result<Applied, StoreError>,
) -> Result<(Input, Option<Applied>), StoreError> {
    let fault = match outcome {
        Ok(applied) => {
            return Ok((Input::Written(collection.clone(), Ok(applied.standing)), Some(applied)));
        }
        Err(StoreError::Conflict { standing }) => WriteFault::Conflict(*standing),
        Err(StoreError::MissingValue) => WriteFault::MissingValue,
        Err(StoreError::Damaged { .. }) => WriteFault::Damaged,
        Err(fatal) => return Err(fatal),
    };
    Ok((Input::Written(collection.clone(), Err(fault)), None))
}

// === impl Session ===

impl Session {
    /// A conversation about `collections`, which stand where the store says. `seed` throws the
    /// dice.
    #[must_use]
    pub fn new(
        config: Config,
        collections: BTreeMap<CollectionName, Standing>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let whole = |(name, standing)| (name, (standing, Scope::All));
        Self::of_parts(config, collections.into_iter().map(whole).collect(), seed, now)
    }

    /// A conversation about parts of collections, of which the copies are, see
    /// [`ReplicaStore::rescope`].
    #[must_use]
    pub fn of_parts(
        config: Config,
        parts: BTreeMap<CollectionName, (Standing, Scope)>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let config = config.within_reason();
        let mut dice = StdRng::seed_from_u64(seed);
        let track = |(name, (standing, scope))| (name, Track::new(standing, scope));
        let tracks = parts.into_iter().map(track).collect();
        let mut session = Self {
            line: Line::new(&config, now),
            pulls: Pulls::new(&config),
            mends: Mends::default(),
            safety_at: now,
            self_check_at: now + crate::backoff::part_of(config.first_check, &mut dice),
            dice,
            tracks,
            config,
            agenda: BTreeSet::new(),
            actions: VecDeque::new(),
            stats: Stats::default(),
            held_bytes: 0,
            unflushed_until: None,
        };
        session.plan_safety_pull(now);
        session.tick(now, false);
        session
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        let elapsed = input == Input::Elapsed;
        match input {
            Input::Event(id, event) if self.line.is_current(id) => self.on_event(event, now),
            Input::Malformed(id) if self.line.is_current(id) => {
                self.stats.malformed += 1;
                self.line.heard(now);
            }
            Input::StreamEnded(id, fault) if self.line.is_current(id) => {
                self.stats.stream_failures += 1;
                self.end_stream(fault, Duration::ZERO, now);
            }
            Input::Pulled(id, answer) => self.on_pulled(id, answer, now),
            Input::Written(name, result) => {
                let applied = self.stats.pushes_applied;
                self.touch(&name, now, |track, cx| track.on_written(&name, result, cx));
                if self.stats.pushes_applied > applied {
                    self.line.progressed();
                }
            }
            Input::Restated { standings, failing_until } => {
                self.unflushed_until = failing_until;
                self.on_restated(standings, now);
            }
            Input::SelfChecked(name, sound) => self.touch(&name, now, |track, cx| {
                if !sound && track.mend.is_none() {
                    track.repair(&name, RepairReason::LocalDamage, cx);
                }
            }),
            Input::Mended(name, id, result) => {
                self.touch(&name, now, |track, cx| track.on_mended(&name, id, result, cx));
            }
            Input::Received(bytes) => self.line.received(bytes),
            // Of a stream that was given up; and time passes below.
            Input::Event(..) | Input::Malformed(_) | Input::StreamEnded(..) | Input::Elapsed => {}
        }
        self.tick(now, elapsed);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Input::Elapsed`] is due if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let at = self.safety_at.min(self.self_check_at).min(self.line.deadline());
        let at = self.pulls.deadline().map_or(at, |pulls| at.min(pulls));
        self.agenda.first().map_or(at, |(next, _)| at.min(*next))
    }

    /// What has been counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether every collection is caught up or does not exist.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.tracks.values().all(Track::is_in_step)
    }

    /// Everything that is due by now. `idle`: nothing else has happened, so what has not been
    /// heard has not come. After a long sleep messages may wait behind this input.
    fn tick(&mut self, now: Instant, idle: bool) {
        let due = self.agenda.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<CollectionName> = due.map(|(_, name)| name.clone()).collect();
        for name in due {
            self.touch(&name, now, |track, cx| track.on_time(&name, cx));
        }
        if self.safety_at <= now {
            self.plan_safety_pull(now);
            self.touch_all(now, |track, cx| track.pull_for_safety(cx.now));
        }
        if self.self_check_at <= now {
            self.self_check_at = now + self_check_wait(&mut self.dice);
            let checks = self.tracks.keys().cloned().map(Action::SelfCheck);
            self.actions.extend(checks);
        }
        self.tick_line(now, idle);
        self.send_pulls(now);
        self.begin_mends(now);
    }

    fn plan_safety_pull(&mut self, now: Instant) {
        let every = if self.line.attempts() >= ATTEMPTS_IN_VAIN {
            self.config.safety_pull.min(POLL_WITHOUT_STREAM)
        } else {
            self.config.safety_pull
        };
        let half = every / 2;
        self.safety_at = now + half + crate::backoff::part_of(every, &mut self.dice);
    }

    /// Lets one collection handle something, then sees what follows from its new state.
    fn touch(
        &mut self,
        name: &CollectionName,
        now: Instant,
        handle: impl FnOnce(&mut Track, &mut Context<'_>),
    ) {
        let Some(track) = self.tracks.get_mut(name) else { return };
        let (before, mending) = (track.wake(), track.is_mending());
        let mut cx = Context {
            now,
            dice: &mut self.dice,
            actions: &mut self.actions,
            stats: &mut self.stats,
            held_bytes: &mut self.held_bytes,
            page_bytes: self.pulls.page_bytes,
            compares: &mut self.mends.compares,
        };
        handle(track, &mut cx);
        if track.take_ready_to_pull(now) {
            if track.plans_mend() {
                self.mends.queue.push_back(name.clone());
            } else {
                self.pulls.enqueue(name.clone(), track.part);
            }
        }
        self.mends.running -= usize::from(mending && !track.is_mending());
        if track.wants_stream() {
            self.line.reopen_soon(now);
        }
        if let Some(report) = track.report(&self.line, self.unflushed_until, now) {
            self.actions.push_back(Action::Report(name.clone(), report));
        }
        let after = track.wake();
        if before != after {
            before.map(|at| self.agenda.remove(&(at, name.clone())));
            after.map(|at| self.agenda.insert((at, name.clone())));
        }
    }

    fn touch_all(&mut self, now: Instant, handle: impl Fn(&mut Track, &mut Context<'_>)) {
        let names: Vec<CollectionName> = self.tracks.keys().cloned().collect();
        for name in names {
            self.touch(&name, now, &handle);
        }
    }
}

fn self_check_wait(dice: &mut StdRng) -> Duration {
    let spread = SELF_CHECK_HOURS.end - SELF_CHECK_HOURS.start;
    let hour = Duration::from_secs(60 * 60);
    hour.mul_f64(SELF_CHECK_HOURS.start) + crate::backoff::part_of(hour.mul_f64(spread), dice)
}

// === impl Fault ===

impl From<&ClientError> for Fault {
    fn from(error: &ClientError) -> Self {
        if matches!(error, ClientError::Invalid(_) | ClientError::Malformed(_)) {
            Self::Refused
        } else if *error == ClientError::Deadline {
            Self::Slow
        } else if matches!(error, ClientError::Unauthenticated(_)) {
            Self::Unauthenticated
        } else if error.is_retryable() {
            error.retry_after().map_or(Self::Passing, Self::Asked)
        } else {
            Self::Lasting
        }
    }
}
