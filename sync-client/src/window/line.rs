//! The stream by which a window is kept up: its stretch of the list order, without values. Pure.

use std::time::{Duration, Instant};

use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, Cursor, Delta, Event, Plan, Position, Reset, ResetReason,
    Scope, Subscribe, Target,
};

use super::machine::{Action, AskId, Fault, Machine, Standing};
use super::rows::Row;
use super::view::Departure;
use crate::backoff::Backoff;
use crate::stream_life::{ASKED_WAIT_MAX, Silence, goodbye_wait, heartbeat_within};

/// The stream.
#[derive(Debug)]
pub(super) struct Line {
    state: State,
    backoff: Backoff,
    /// What the server said, or what was asked for.
    heartbeat: Duration,
    /// Bytes that the connection has brought, as far as the driver told.
    pub(super) received: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is none; one may be opened from then on.
    Closed { open_at: Option<Instant> },
    /// Asked for, until it is accepted; then open.
    Open { id: AskId, accepted: bool, silence: Silence },
}

/// More changes than this in the whole collection, and listing anew is cheaper than catching up.
const CATCH_UP_MAX: u64 = 2_000;

// === impl Line ===

impl Line {
    pub(super) fn new(backoff: Backoff, heartbeat: Duration) -> Self {
        Self { state: State::Closed { open_at: None }, backoff, heartbeat, received: 0 }
    }

    pub(super) fn is_current(&self, asked: AskId) -> bool {
        matches!(self.state, State::Open { id, .. } if id == asked)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Closed { open_at } => open_at,
            State::Open { silence, .. } => Some(silence.look_at()),
        }
    }

    /// A sign of life; before the stream is accepted there is none.
    fn heard(&mut self, now: Instant) {
        if let State::Open { accepted: true, silence, .. } = &mut self.state {
            *silence = Silence::between(self.heartbeat, self.received, now);
        }
    }

    fn accepted(&mut self, heartbeat: Duration, now: Instant) {
        self.heartbeat = heartbeat_within(heartbeat);
        if let State::Open { accepted, .. } = &mut self.state {
            *accepted = true;
        }
        self.heard(now);
    }
}

// === impl Machine ===

impl Machine {
    /// Drops the stream, to open another one.
    pub(super) fn close(&mut self) {
        if matches!(self.line.state, State::Open { .. }) {
            self.push(Action::Close);
            self.line.state = State::Closed { open_at: None };
        }
    }

    /// The stream is lost.
    fn lose(&mut self, at_least: Duration, now: Instant) {
        self.close();
        let wait = self.line.backoff.next(&mut self.dice).max(at_least);
        self.line.state = State::Closed { open_at: Some(now + wait) };
        if self.standing != Standing::Denied {
            self.lost_since.get_or_insert(now);
        }
    }

    /// Opens the stream if there is something to keep up.
    pub(super) fn open_if_due(&mut self, now: Instant) {
        let State::Closed { open_at } = self.line.state else { return };
        if open_at.is_some_and(|at| at > now) {
            return;
        }
        if self.lists_fresh() {
            self.line.state = State::Closed { open_at: None };
            return;
        }
        let target = match (self.standing, &self.held) {
            (Standing::There, Some(held)) => Target {
                scope: Scope::Order(held.span.range()),
                keys_only: true,
                changes_max: Some(CATCH_UP_MAX),
                ..Target::all(self.config.collection.clone(), Some(held.cursor))
            },
            // To hear of its creation.
            (Standing::Absent, _) => {
                Target { notify_only: true, ..Target::all(self.config.collection.clone(), None) }
            }
            (Standing::There, None) | (Standing::Denied, _) => {
                self.line.state = State::Closed { open_at: None };
                return;
            }
        };
        let id = self.ask();
        let silence = Silence::of_opening(self.line.received, now);
        self.line.state = State::Open { id, accepted: false, silence };
        let (heartbeat, client_id) = (self.config.heartbeat, self.config.client_id.clone());
        self.push(Action::Open(id, Subscribe { targets: vec![target], heartbeat, client_id }));
    }

    pub(super) fn on_line_time(&mut self, now: Instant) {
        let received = self.line.received;
        if let State::Open { silence, .. } = &mut self.line.state
            && silence.is_over(received, now)
        {
            self.lose(Duration::ZERO, now);
        }
    }

    pub(super) fn on_stream_ended(&mut self, fault: Fault, now: Instant) {
        match fault {
            Fault::Denied => self.deny(now),
            Fault::Unauthenticated => self.not_known(now),
            Fault::Passing | Fault::Absent | Fault::BeginAgain => self.lose(Duration::ZERO, now),
        }
    }

    pub(super) fn on_event(&mut self, event: Event, now: Instant) {
        self.line.heard(now);
        match event {
            Event::Accepted(targets, heartbeat) => self.on_accepted(targets, heartbeat, now),
            Event::Changes(_, delta) => self.on_delta(delta, now),
            Event::Bookmark(positions, _) => {
                for Position { cursor, .. } in positions {
                    self.on_position(cursor);
                }
            }
            Event::CaughtUp(_, cursor) => self.on_position(cursor),
            Event::Lagging(..) => {
                self.held.iter_mut().for_each(|held| held.caught_up = false);
            }
            Event::Reset(_, reset) => self.on_reset(&reset, now),
            // Of a collection that was not there: now it is.
            Event::Notice(..) => self.list_fresh_later(now),
            Event::Absent(_) => {
                if self.standing == Standing::There {
                    self.vanish();
                }
            }
            Event::Revoked(_) => self.deny(now),
            Event::Failed(_, failure) => {
                self.lose(failure.retry_after.unwrap_or_default().min(ASKED_WAIT_MAX), now);
            }
            // No inbox is a target here.
            Event::InboxNotice(_) => {}
            Event::Goodbye(goodbye) => {
                let wait = goodbye_wait(&goodbye, &mut self.dice);
                self.lose(wait, now);
            }
        }
    }

    fn on_accepted(&mut self, targets: Vec<AcceptedTarget>, heartbeat: Duration, now: Instant) {
        self.line.accepted(heartbeat, now);
        for AcceptedTarget { plan, head, .. } in targets {
            match (plan, head) {
                (Plan::Live, Some(head)) => self.on_position(head.cursor()),
                (Plan::Absent, _) if self.standing == Standing::There => self.vanish(),
                (Plan::Absent, _) | (Plan::Notify, None) => self.keeps_up(),
                (Plan::Denied, _) => self.deny(now),
                (Plan::Reset(reset), _) => self.on_reset(&reset, now),
                // It was created before the stream was open.
                (Plan::Notify, Some(_)) => self.list_fresh_later(now),
                (Plan::Live | Plan::CatchUp | Plan::Load, _) => {
                    self.held.iter_mut().for_each(|held| held.caught_up = false);
                }
            }
        }
    }

    fn on_reset(&mut self, reset: &Reset, now: Instant) {
        if reset.reason == ResetReason::AheadOfHead {
            self.distrust_details();
        }
        self.list_fresh_later(now);
    }

    pub(super) fn line_wait(&mut self) -> Duration {
        self.line.backoff.next(&mut self.dice)
    }

    /// Everything up to here has been sent, and this is the head.
    fn on_position(&mut self, at: Cursor) {
        let Some(held) = &mut self.held else { return };
        if at.epoch == held.cursor.epoch && at.version >= held.cursor.version {
            held.cursor = at;
            held.caught_up = true;
            self.keeps_up();
        }
    }

    fn keeps_up(&mut self) {
        self.lost_since = None;
        self.line.backoff.reset();
    }

    fn on_delta(&mut self, delta: Delta, now: Instant) {
        let Some(held) = &mut self.held else {
            self.list_fresh_later(now);
            return;
        };
        let (at, from, to) = (held.cursor, delta.from, delta.to);
        if to.epoch != at.epoch {
            self.list_fresh_later(now);
            return;
        }
        if to.version <= at.version {
            return;
        }
        if from.version > at.version {
            // Something before it was lost: from the cursor again.
            self.lose(Duration::ZERO, now);
            return;
        }
        held.total = delta.head.items;
        held.cursor = to;
        held.caught_up = !delta.has_more;
        for change in delta.changes {
            self.on_change(change);
        }
        if !delta.has_more {
            self.keeps_up();
        }
    }

    fn on_change(&mut self, change: Change) {
        let Some(held) = &mut self.held else { return };
        let Change { key, version, created, kind } = change;
        let why = match kind {
            ChangeKind::Put { sort_key, value_version, .. } => {
                let row = Row { key: key.clone(), sort_key, version, created, value_version };
                // The stream may bring more than is held: rows behind the end were let go.
                if held.span.contains(&row) {
                    held.rows.put(row);
                    return;
                }
                Departure::Left
            }
            ChangeKind::LeftScope => Departure::Left,
            ChangeKind::Delete => Departure::Deleted,
        };
        if held.rows.get(&key).is_some_and(|known| known.version <= version) {
            held.rows.remove(&key);
            self.depart(key, why);
        }
    }
}
