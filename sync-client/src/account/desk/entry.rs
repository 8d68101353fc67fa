//! One collection that the subject follows: what was told of it, where its copy stands, and what
//! is to be done. Pure.

use std::time::{Duration, Instant};

use sync_proto::types::{CollectionName, Cursor, InboxEntry, Timestamp, Version};

use super::{STREAM_GRACE, WAIT_MAX};
use crate::account::list::{FollowState, Followed};
use crate::account::note::{Note, NoteStage, shortened};
use crate::store::Standing;

/// A collection that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What was told last; `None` = something that cannot be read.
    pub(super) remote: Option<InboxEntry>,
    /// What the inbox says, which a head that was polled may be ahead of.
    pub(super) listed: Option<InboxEntry>,
    /// Version of the inbox that asked; zero = a head that was polled, or nothing did.
    pub(super) asked: Version,
    pub(super) standing: Standing,
    /// A write of the copy failed, and what has become of it is not known: the copy may stand
    /// elsewhere, or there may be one where none is known.
    pub(super) unsure: bool,
    pub(super) stage: Stage,
    /// Since when it is to be done, in milliseconds since 1970.
    pub(super) since_ms: u64,
    pub(super) attempts: u32,
    pub(super) next_try_ms: u64,
    pub(super) error: String,
    /// What the store remembers of it, as far as is known.
    pub(super) noted: Option<Note>,
}

/// What is done for a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is to be done.
    Idle,
    /// Nothing can be done; asked for again at this moment.
    Denied(Instant),
    /// Its moment has not come.
    Waiting(Instant),
    /// It waits for its turn.
    Ready,
    /// It is in the session. `pulled`: a pull was sent since something was told of it last, so
    /// the server's word is newer than what was told.
    Working { pulled: bool },
    /// It is in the session, which tries again then.
    Resting(Instant),
    /// It is not followed any more. Its copy is dropped: at this moment, or just now.
    Dropping(Option<Instant>),
}

/// The system's clock, as it was when the account began. Notes outlive a process, so their
/// moments are of this clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) began: Instant,
    pub(super) began_ms: u64,
}

/// Who tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    /// An entry of the inbox, of this version.
    Inbox(Version),
    /// An entry of this version that came instead of what was there, perhaps because the server is
    /// an older one now.
    Exchanged(Version),
    /// A head that was polled or noticed.
    Head,
}

/// Whether a copy has everything that was told.
pub(super) fn covers(standing: &Standing, remote: Option<InboxEntry>) -> bool {
    match remote {
        Some(InboxEntry::Exists(epoch, version)) => {
            standing.load.is_none() && standing.has(Cursor::at(epoch, version))
        }
        Some(InboxEntry::Deleted(..) | InboxEntry::Absent) => *standing == Standing::default(),
        None => false,
    }
}

/// Whether a copy has more of this life than was told. Where that is not merely late, the server
/// has gone back, and only a pull can tell.
fn is_ahead(standing: &Standing, remote: Option<InboxEntry>) -> bool {
    let at = standing.cursor.map(|cursor| (cursor.epoch, cursor.version));
    match (at, remote.and_then(InboxEntry::stands_at)) {
        (Some((life, at)), Some((epoch, version))) => life == epoch && at > version,
        (None, _) | (_, None) => false,
    }
}

// === impl Teller ===

impl Teller {
    /// The version of the inbox that asks.
    fn asks(self) -> Option<Version> {
        match self {
            Self::Inbox(version) | Self::Exchanged(version) => Some(version),
            Self::Head => None,
        }
    }

    /// Whether a copy with this standing has everything that this one tells.
    pub(super) fn is_covered(self, standing: &Standing, remote: Option<InboxEntry>) -> bool {
        // Pages of the inbox tell of every step on the way, and a pull may have been quicker.
        let in_order = matches!(self, Self::Inbox(_));
        covers(standing, remote) && (in_order || !is_ahead(standing, remote))
    }
}

// === impl Clock ===

impl Clock {
    pub(super) fn ms(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.began).as_millis();
        self.began_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The moment of a note. A clock that jumped must not keep anything waiting for long.
    fn moment(&self, ms: u64, now: Instant) -> Instant {
        let wait = Duration::from_millis(ms.saturating_sub(self.ms(now)));
        now + wait.min(WAIT_MAX)
    }
}

// === impl Entry ===

impl Entry {
    /// A collection of which nothing is known but its copy.
    pub(super) fn new(standing: Standing) -> Self {
        Self {
            remote: None,
            listed: None,
            asked: Version::ZERO,
            standing,
            unsure: false,
            stage: Stage::Idle,
            since_ms: 0,
            attempts: 0,
            next_try_ms: 0,
            error: String::new(),
            noted: None,
        }
    }

    /// As it was left by an earlier life.
    pub(super) fn restored(note: Note, standing: Standing, clock: &Clock, now: Instant) -> Self {
        let stage = match note.stage {
            NoteStage::Settled => Stage::Idle,
            NoteStage::Pending => Stage::Waiting(clock.moment(note.next_try_ms, now)),
            // Asked for once in each life.
            NoteStage::Denied => Stage::Denied(now),
            NoteStage::Dropping => Stage::Dropping(Some(now)),
        };
        Self {
            remote: note.remote,
            listed: note.remote,
            asked: note.asked,
            standing,
            unsure: false,
            stage,
            since_ms: note.since_ms,
            attempts: note.attempts,
            next_try_ms: note.next_try_ms,
            error: note.error.clone(),
            noted: Some(note),
        }
    }

    /// Takes in what somebody tells of it. `due`: when its turn can come at the earliest.
    pub(super) fn told(
        mut self,
        remote: Option<InboxEntry>,
        teller: Teller,
        (due, clock): (Instant, &Clock),
    ) -> Self {
        // Heads are told again and again; a collection that is not readable and has not moved is not
        // asked for because of that.
        let denied = matches!(self.stage, Stage::Denied(_));
        if denied && teller == Teller::Head && remote == self.remote {
            return self;
        }
        let covered = teller.is_covered(&self.standing, remote);
        if let Some(version) = teller.asks() {
            self.listed = remote;
            if !covered {
                self.asked = version;
            }
        }
        if !self.is_newer_than(remote) {
            self.remote = remote;
        }
        match self.stage {
            Stage::Idle if covered => self.asked = Version::ZERO,
            Stage::Idle | Stage::Denied(_) | Stage::Dropping(_) => {
                self.stage = Stage::Waiting(due);
                self.since_ms = clock.ms(due);
                (self.attempts, self.next_try_ms) = (0, 0);
                self.error.clear();
            }
            Stage::Working { .. } => self.stage = Stage::Working { pulled: false },
            // A poison collection is not tried more often because it moves.
            Stage::Waiting(_) | Stage::Ready | Stage::Resting(_) => {}
        }
        self
    }

    /// Whether what was told before is of the same life and newer.
    pub(super) fn is_newer_than(&self, remote: Option<InboxEntry>) -> bool {
        let before = self.remote.and_then(InboxEntry::stands_at);
        match (before, remote.and_then(InboxEntry::stands_at)) {
            (Some((life, at)), Some((epoch, version))) => life == epoch && at > version,
            (None, _) | (_, None) => false,
        }
    }

    /// Whether more of the life of the copy was told than the copy has.
    fn is_ahead_of_copy(&self) -> bool {
        let at = self.standing.cursor.map(|at| InboxEntry::Exists(at.epoch, at.version));
        self.is_newer_than(at)
    }

    /// It is not followed any more.
    pub(super) fn unfollowed(mut self, asked: Version, now: Instant) -> Self {
        (self.asked, self.stage) = (asked, Stage::Dropping(Some(now)));
        self
    }

    /// Nothing is to be done any more.
    pub(super) fn settled(mut self) -> Self {
        // The server has gone back: what it told before is no measure of what it tells now.
        if self.stage == (Stage::Working { pulled: true }) && self.is_ahead_of_copy() {
            self.remote = self.standing.cursor.map(|at| InboxEntry::Exists(at.epoch, at.version));
        }
        self.stage = Stage::Idle;
        self.asked = Version::ZERO;
        (self.since_ms, self.attempts, self.next_try_ms) = (0, 0, 0);
        self.error.clear();
        self
    }

    pub(super) fn denied(self, retry: Instant) -> Self {
        Self { stage: Stage::Denied(retry), ..self.settled() }
    }

    pub(super) fn set_error(&mut self, error: &str) {
        shortened(error).clone_into(&mut self.error);
    }

    /// Whether there is a copy, or may be.
    pub(super) fn may_have_copy(&self) -> bool {
        self.unsure || self.standing != Standing::default()
    }

    pub(super) fn is_dropping(&self) -> bool {
        matches!(self.stage, Stage::Dropping(_))
    }

    /// Whether something is to be done.
    pub(super) fn is_pending(&self) -> bool {
        match self.stage {
            Stage::Idle | Stage::Denied(_) => false,
            Stage::Waiting(_)
            | Stage::Ready
            | Stage::Working { .. }
            | Stage::Resting(_)
            | Stage::Dropping(_) => true,
        }
    }

    /// Whether the copy has everything that was told, given that it is in step with the server.
    pub(super) fn is_done(&self) -> bool {
        let pulled = self.stage == Stage::Working { pulled: true };
        self.is_pending() && (pulled || covers(&self.standing, self.remote))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.attempts > 0 && self.is_pending()
    }

    /// What the store should remember; `None` = nothing is lost if it remembers nothing.
    pub(super) fn note(&self) -> Option<Note> {
        let pending = |stage| Note {
            asked: self.asked,
            since_ms: self.since_ms,
            attempts: self.attempts,
            next_try_ms: self.next_try_ms,
            error: self.error.clone(),
            ..Note::of(stage, self.remote)
        };
        match self.stage {
            Stage::Idle if covers(&self.standing, self.listed) => {
                let copy = self.standing != Standing::default();
                copy.then(|| Note::of(NoteStage::Settled, None))
            }
            // So that the next life does not ask for what this one knows.
            Stage::Idle => Some(Note::of(NoteStage::Settled, self.listed)),
            Stage::Denied(_) => Some(Note::of(NoteStage::Denied, self.listed)),
            Stage::Dropping(_) => Some(pending(NoteStage::Dropping)),
            Stage::Waiting(_) | Stage::Ready | Stage::Working { .. } | Stage::Resting(_) => {
                Some(pending(NoteStage::Pending))
            }
        }
    }

    /// What an application sees of it.
    pub(super) fn shown(&self, name: &CollectionName, clock: &Clock) -> Followed {
        let failed = || FollowState::Failed {
            attempts: self.attempts,
            next_try: Timestamp::from_millis(self.next_try_ms),
            error: self.error.clone(),
        };
        let state = match self.stage {
            Stage::Denied(_) => FollowState::Denied,
            Stage::Idle if self.standing.cursor.is_some() => FollowState::Current,
            Stage::Idle => match self.remote {
                Some(InboxEntry::Deleted(..)) => FollowState::Deleted,
                Some(InboxEntry::Exists(..) | InboxEntry::Absent) | None => FollowState::Absent,
            },
            Stage::Working { .. } => FollowState::CatchingUp,
            Stage::Resting(until) => FollowState::Failed {
                attempts: self.attempts,
                next_try: Timestamp::from_millis(clock.ms(until)),
                error: self.error.clone(),
            },
            Stage::Waiting(_) | Stage::Ready if self.attempts > 0 => failed(),
            Stage::Waiting(_) | Stage::Ready | Stage::Dropping(_) => FollowState::Pending,
        };
        let cursor = self.standing.cursor;
        Followed {
            name: name.clone(),
            remote: self.remote,
            local: cursor.map(|cursor| (cursor.epoch, cursor.version)),
            items: self.standing.tally.items,
            state,
        }
    }

    /// When the stream has brought what was told of a collection that it carries, if it does.
    pub(super) fn grace(now: Instant) -> Instant {
        now + STREAM_GRACE
    }
}
