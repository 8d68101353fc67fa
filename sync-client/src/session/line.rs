//! The one stream of a session: when it is opened, when it counts as dead, and how long to wait
//! before the next attempt. Pure.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use sync_proto::types::{CollectionName, Subscribe};

use super::{Action, Config, Fault, Session, StreamId};
use crate::backoff::Backoff;
use crate::stream_life::{Silence, heartbeat_within};

/// The stream and what it went through.
#[derive(Debug)]
pub(super) struct Line {
    state: State,
    next_id: u64,
    backoff: Backoff,
    heartbeat: Duration,
    /// Bytes that the connection has brought, as far as the driver told.
    received: u64,
    /// The last word was that the credentials are not known.
    unauthenticated: bool,
}

#[derive(Debug)]
enum State {
    /// No stream before `open_at`.
    Closed { open_at: Instant },
    /// Asked for one.
    Opening { id: StreamId, silence: Silence },
    /// The server has accepted it.
    Open(Open),
}

#[derive(Debug)]
struct Open {
    id: StreamId,
    since: Instant,
    silence: Silence,
    reopen_at: Option<Instant>,
}

/// What the stream looks like from a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Connecting,
    BackingOff(Instant),
    Open,
}

/// First window of the back-off.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// A stream is not opened again for a target that left it more often than this.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// Least wait after a fault that does not pass by itself.
const LASTING_WAIT: Duration = Duration::from_secs(5);

// === impl Line ===

impl Line {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            state: State::Closed { open_at: now },
            next_id: 0,
            backoff: Backoff::new(BACKOFF_FIRST, config.backoff_longest),
            heartbeat: config.heartbeat,
            received: 0,
            unauthenticated: false,
        }
    }

    pub(super) fn is_current(&self, id: StreamId) -> bool {
        self.id() == Some(id)
    }

    pub(super) fn id(&self) -> Option<StreamId> {
        match &self.state {
            State::Closed { .. } => None,
            State::Opening { id, .. } | State::Open(Open { id, .. }) => Some(*id),
        }
    }

    /// Whether the server knows the credentials, as far as was heard last.
    pub(super) fn is_authenticated(&self) -> bool {
        !self.unauthenticated
    }

    /// The server has said whether it knows the credentials.
    pub(super) fn authenticate(&mut self, known: bool) {
        self.unauthenticated = !known;
    }

    pub(super) fn attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    pub(super) fn weather(&self) -> Weather {
        match &self.state {
            State::Open(_) => Weather::Open,
            State::Closed { open_at } if self.backoff.attempts() > 0 => {
                Weather::BackingOff(*open_at)
            }
            State::Closed { .. } | State::Opening { .. } => Weather::Connecting,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        match &self.state {
            State::Closed { open_at } => *open_at,
            State::Opening { silence, .. } => silence.look_at(),
            State::Open(Open { silence, reopen_at, .. }) => {
                reopen_at.map_or(silence.look_at(), |at| at.min(silence.look_at()))
            }
        }
    }

    /// A sign of life.
    pub(super) fn heard(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.silence = Silence::between(self.heartbeat, self.received, now);
        }
    }

    /// The connection has brought so many bytes.
    pub(super) fn received(&mut self, bytes: u64) {
        self.received = bytes;
    }

    /// Looks whether the present stream has been silent for too long; if not, when to look again.
    fn dead(&mut self, now: Instant) -> Option<StreamId> {
        let (id, silence) = match &mut self.state {
            State::Closed { .. } => return None,
            State::Opening { id, silence } | State::Open(Open { id, silence, .. }) => (id, silence),
        };
        silence.is_over(self.received, now).then_some(*id)
    }

    /// Changes were applied: the next failure begins with short waits again.
    pub(super) fn progressed(&mut self) {
        self.backoff.reset();
    }

    /// A word without changes came. It counts as progress on a stream that has lived for a
    /// while: a server that falls over after its first words must not be met by short waits.
    pub(super) fn lives(&mut self, now: Instant) {
        if let State::Open(open) = &self.state
            && now - open.since >= self.backoff.window()
        {
            self.backoff.reset();
        }
    }

    pub(super) fn accepted(&mut self, heartbeat: Duration, now: Instant) {
        self.unauthenticated = false;
        if let State::Opening { id, .. } = self.state {
            self.heartbeat = heartbeat_within(heartbeat);
            let silence = Silence::between(self.heartbeat, self.received, now);
            self.state = State::Open(Open { id, since: now, silence, reopen_at: None });
        }
    }

    /// A collection that left the stream could come back to it.
    pub(super) fn reopen_soon(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.reopen_at.get_or_insert(now.max(open.since + REOPEN_EVERY));
        }
    }

    /// Ends the stream; the next one is opened after a random wait, `at_least` as long as said.
    fn end(&mut self, fault: Fault, at_least: Duration, dice: &mut StdRng, now: Instant) {
        let backoff = match fault {
            Fault::Passing | Fault::Slow => self.backoff.next(dice),
            // The random part on top: not all who were sent away come back together.
            Fault::Asked(least) => self.backoff.next(dice) + least,
            Fault::Lasting | Fault::Refused | Fault::Unauthenticated => {
                self.backoff.next(dice) + LASTING_WAIT
            }
        };
        self.unauthenticated |= fault == Fault::Unauthenticated;
        self.state = State::Closed { open_at: now + backoff.max(at_least) };
    }
}

// === impl Session ===

impl Session {
    /// Opens, gives up, or opens again, whatever is due. Given up only when `idle`: a sign of
    /// life may be among what has come and was not looked at yet.
    pub(super) fn tick_line(&mut self, now: Instant, idle: bool) {
        if idle && let Some(dead) = self.line.dead(now) {
            self.give_up_stream(dead, now);
        }
        match &self.line.state {
            State::Open(Open { id, reopen_at: Some(at), .. }) if *at <= now => {
                self.actions.push_back(Action::CloseStream(*id));
                self.line.state = State::Closed { open_at: now };
                self.touch_all(now, super::track::Track::leave_stream);
            }
            State::Closed { .. } | State::Opening { .. } | State::Open(_) => {}
        }
        if let State::Closed { open_at } = self.line.state
            && open_at <= now
        {
            self.open_stream(now);
        }
    }

    fn give_up_stream(&mut self, id: StreamId, now: Instant) {
        self.actions.push_back(Action::CloseStream(id));
        self.stats.stream_failures += 1;
        self.end_stream(Fault::Passing, Duration::ZERO, now);
    }

    pub(super) fn end_stream(&mut self, fault: Fault, at_least: Duration, now: Instant) {
        self.line.end(fault, at_least, &mut self.dice, now);
        if self.line.attempts() == super::ATTEMPTS_IN_VAIN {
            self.plan_safety_pull(now);
        }
        self.touch_all(now, |track, cx| track.lose_stream(at_least, cx));
    }

    /// Opens a stream for every collection that is not kept back.
    fn open_stream(&mut self, now: Instant) {
        let id = StreamId(self.line.next_id);
        let may_join = self.tracks.iter().filter(|(_, track)| track.may_join_stream());
        let names: Vec<CollectionName> = may_join.map(|(name, _)| name.clone()).collect();
        let mut targets = Vec::with_capacity(names.len());
        for name in names {
            self.touch(&name, now, |track, _| {
                let shown = track.join_stream();
                targets.push(track.target(&name, shown));
            });
        }
        if targets.is_empty() {
            // Each is kept back until its own time; there is nothing to open a stream for.
            self.line.state = State::Closed { open_at: now + self.config.backoff_longest };
            return;
        }
        self.line.next_id += 1;
        let silence = Silence::of_opening(self.line.received, now);
        self.line.state = State::Opening { id, silence };
        self.stats.streams += 1;
        let client_id = self.config.client_id.clone();
        let subscribe = Subscribe { targets, heartbeat: self.config.heartbeat, client_id };
        self.actions.push_back(Action::OpenStream(id, subscribe));
        self.touch_all(now, |_, _| {});
    }
}
