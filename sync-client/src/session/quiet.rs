//! Collections that come into a session and leave it while it runs: an account brings in what is
//! to be caught up, and what somebody looks at. Pure.

use std::time::Instant;

use sync_proto::digest::Digest;
use sync_proto::types::{CollectionName, Scope};

use super::status::RepairReason;
use super::track::{PullState, Track};
use super::{Action, Session};
use crate::store::Standing;

/// How a collection takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The stream carries it, and its pulls go first.
    Streamed,
    /// It is pulled until it is caught up, and its pulls go first.
    Prompt,
    /// It is pulled until it is caught up, after those that go first.
    Quiet,
}

/// A collection that comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joining {
    /// Where the copy stands.
    pub(crate) standing: Standing,
    /// A write of it failed, so it may stand elsewhere.
    pub(crate) unsure: bool,
    /// How it takes part.
    pub(crate) part: Part,
    /// How often it has failed already.
    pub(crate) attempts: u32,
}

/// How a collection is doing, for whoever brought it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fortune {
    /// Something is under way, or waits for its turn.
    Working,
    /// The copy is the server's collection, or there is no such collection.
    InStep,
    /// Not readable with these credentials.
    Denied,
    /// Something failed; nothing is tried before this.
    KeptBack(Instant, Because),
}

/// Whether a write leaves a complete copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completes {
    /// Something is missing then, or may be.
    No,
    /// If it has this digest.
    IfItIs(Digest),
    /// The server said so, and no digest.
    Yes,
}

/// Why a collection is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Because {
    /// The server did not answer for it.
    Server,
    /// The local store did not take it.
    Store,
    /// It had to be put right again and again.
    Repair(RepairReason),
}

// === impl Session ===

impl Session {
    /// Brings collections in, all of them before anything is sent, and pulls them. One that is in
    /// already is pulled.
    pub(crate) fn bring_in(
        &mut self,
        joining: impl IntoIterator<Item = (CollectionName, Joining)>,
        now: Instant,
    ) {
        for (name, Joining { standing, unsure, part, attempts }) in joining {
            let track = self.tracks.entry(name.clone()).or_insert_with(|| {
                let mut track = Track::new(standing, Scope::All);
                track.faults.resume(attempts);
                track.store_fails = unsure;
                track
            });
            track.part = part;
            self.touch(&name, now, |track, cx| track.pull_soon(cx.now));
            self.move_up(&name);
        }
        self.tick(now, false);
    }

    /// Brings a collection in whose copy is damaged, and puts it right.
    pub(crate) fn bring_in_damaged(
        &mut self,
        name: &CollectionName,
        joining: Joining,
        now: Instant,
    ) {
        let Joining { standing, part, .. } = joining;
        let track =
            self.tracks.entry(name.clone()).or_insert_with(|| Track::new(standing, Scope::All));
        track.part = part;
        self.touch(name, now, |track, cx| track.repair(name, RepairReason::LocalDamage, cx));
        self.tick(now, false);
    }

    /// Changes how a collection takes part.
    pub(crate) fn set_part(&mut self, name: &CollectionName, part: Part, now: Instant) {
        self.touch(name, now, |track, _| track.part = part);
        self.move_up(name);
        self.drop_from_stream(name, now);
        self.tick(now, false);
    }

    /// Lets a collection go. What is still under way for it comes to nothing.
    pub(crate) fn let_go(&mut self, name: &CollectionName, now: Instant) {
        self.touch(name, now, |track, cx| {
            track.part = Part::Quiet;
            track.drop_mend();
            track.held.clear(cx.held_bytes);
        });
        self.drop_from_stream(name, now);
        if self.is_writing(name) {
            self.actions.retain(|action| !matches!(action, Action::Write(of, _) if of == name));
        }
        if let Some(track) = self.tracks.remove(name) {
            track.wake().map(|at| self.agenda.remove(&(at, name.clone())));
        }
    }

    /// Asks for a collection, unless that is under way.
    pub(crate) fn pull_now(&mut self, name: &CollectionName, now: Instant) {
        self.touch(name, now, |track, cx| {
            if track.writing.is_none() {
                track.pull_soon(cx.now);
            }
        });
        self.tick(now, false);
    }

    /// Asks for a collection that is kept back, whatever it waits for.
    pub(crate) fn try_now(&mut self, name: &CollectionName, now: Instant) {
        self.touch(name, now, |track, cx| {
            track.kept_back_until = None;
            track.mend.iter_mut().for_each(|mend| mend.retry_at = mend.retry_at.map(|_| cx.now));
            track.pull_soon(cx.now);
            track.retry_due(name, cx);
        });
        self.tick(now, false);
    }

    /// The collections that are in.
    pub(crate) fn names(&self) -> impl Iterator<Item = &CollectionName> {
        self.tracks.keys()
    }

    pub(crate) fn fortune(&self, name: &CollectionName, now: Instant) -> Option<Fortune> {
        self.tracks.get(name).map(|track| track.fortune(now))
    }

    /// Whether a write of a copy was given out, and not answered.
    pub(crate) fn is_writing(&self, name: &CollectionName) -> bool {
        self.tracks.get(name).is_some_and(|track| track.writing.is_some())
    }

    /// Where a copy stands, if the collection is in.
    pub(crate) fn standing(&self, name: &CollectionName) -> Option<Standing> {
        self.tracks.get(name).map(|track| track.standing)
    }

    /// Whether the write of a copy that was just given out leaves it complete.
    pub(crate) fn completes(&self, name: &CollectionName) -> Completes {
        let writing = self.tracks.get(name).and_then(|track| track.writing);
        writing.map_or(Completes::No, super::writing::Pending::completes)
    }

    /// Puts a collection that waits for a pull among those that go first. Where it waited before,
    /// it is passed over.
    fn move_up(&mut self, name: &CollectionName) {
        let track = self.tracks.get(name);
        if track.is_some_and(|track| {
            track.part != Part::Quiet && track.pull == PullState::Queued && !track.plans_mend()
        }) {
            self.pulls.enqueue(name.clone(), Part::Streamed);
        }
    }

    /// The stream is opened again without what it need not carry any more: it may be much.
    fn drop_from_stream(&mut self, name: &CollectionName, now: Instant) {
        let Some(track) = self.tracks.get(name) else { return };
        if track.part != Part::Streamed && track.stream.is_some() {
            self.touch(name, now, |track, cx| {
                let caught_up = track.caught_up;
                track.leave_stream(cx);
                track.caught_up = caught_up;
            });
            self.line.reopen_soon(now);
        }
    }
}

// === impl Track ===

impl Track {
    fn fortune(&self, now: Instant) -> Fortune {
        let retry_at = self.mend.as_ref().and_then(|mend| mend.retry_at);
        let until = self.kept_back_until.or(retry_at).filter(|until| *until > now);
        match until {
            _ if self.denied => Fortune::Denied,
            Some(until) if self.store_fails => Fortune::KeptBack(until, Because::Store),
            Some(until) => {
                let repair = self.repair.filter(|_| retry_at.is_none());
                let because = repair.map_or(Because::Server, |one| Because::Repair(one.reason));
                Fortune::KeptBack(until, because)
            }
            // What is about to be pulled is not known to be in step.
            None if self.is_in_step() && matches!(self.pull, PullState::Idle) => Fortune::InStep,
            None => Fortune::Working,
        }
    }
}
