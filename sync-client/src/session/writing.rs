//! From a delta to a write, and from a write to what follows. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sync_proto::digest::Digest;
use sync_proto::types::{CollectionName, Cursor, Delta, Version};

use super::quiet::Completes;
use super::status::RepairReason;
use super::track::{PullState, Track, Verdict};
use super::{Action, Context, Session, WriteFault};
use crate::store::{Standing, Step, Tally, Write};

/// A write that has not been answered yet, and what to do once it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    kind: Kind,
    by: Source,
    changes: usize,
    /// What follows is not the end.
    has_more: bool,
    /// [`Track::horizon`] once it is carried out.
    horizon: Version,
    /// The server's digest at the end.
    digest: Option<Digest>,
    /// Deletes may be missing in it.
    unverified: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Page,
    Begins,
    Mends,
    Clears,
}

/// How something came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// By the stream.
    Push,
    /// By a pull.
    Pull,
}

// === impl Session ===

impl Session {
    /// The store was opened again: what it lost is fetched again.
    pub(super) fn on_restated(
        &mut self,
        standings: BTreeMap<CollectionName, Standing>,
        now: Instant,
    ) {
        for (name, standing) in standings {
            self.touch(&name, now, |track, cx| {
                if track.standing != standing {
                    track.standing = standing;
                    track.caught_up = false;
                    track.pull_soon(cx.now);
                }
            });
        }
        // Everybody's status hangs on the disk.
        self.touch_all(now, |_, _| {});
    }
}

// === impl Track ===

impl Track {
    /// Takes in a delta.
    pub(super) fn on_delta(
        &mut self,
        name: &CollectionName,
        delta: Delta,
        by: Source,
        cx: &mut Context<'_>,
    ) {
        self.sees(&delta.head);
        if self.writing.is_some() {
            self.keep(delta, by, cx);
            return;
        }
        match self.judge(&delta) {
            Verdict::Fits => self.write_page(name, delta, Kind::Page, by, cx),
            Verdict::Begins => self.write_page(name, delta, Kind::Begins, by, cx),
            Verdict::Repeat => {
                cx.stats.repeats += 1;
                if !delta.has_more {
                    self.reach(name, delta.to, delta.digest, by, cx);
                }
            }
            Verdict::TooEarly => self.keep(delta, by, cx),
            Verdict::Outdated if by == Source::Pull => self.is_ahead(name, cx),
            Verdict::Foreign | Verdict::Outdated => self.pull_soon(cx.now),
        }
        self.see_hole(cx);
    }

    /// Keeps a push for later; what a pull brought too early is asked for again.
    fn keep(&mut self, delta: Delta, by: Source, cx: &mut Context<'_>) {
        match by {
            Source::Pull => self.pull_soon(cx.now),
            Source::Push if self.held.keep(delta, cx.held_bytes) => cx.stats.held += 1,
            Source::Push => {}
        }
    }

    /// The server's head is here: the copy is complete if it stands here too.
    pub(super) fn reach(
        &mut self,
        name: &CollectionName,
        head: Cursor,
        digest: Option<Digest>,
        by: Source,
        cx: &mut Context<'_>,
    ) {
        let Some(at) = self.active() else { return };
        // A part has no digest; the head's is that of the whole collection.
        let digest = digest.filter(|_| self.scope.is_all());
        if self.writing.is_some() || at.epoch != head.epoch || at.version != head.version {
            return;
        }
        if head.version < self.horizon {
            // A stream that is behind a pull; or the server went back, and a pull finds that out.
            if by == Source::Push && self.pull == PullState::Idle {
                self.pull_soon(cx.now);
            }
            return;
        }
        if self.unverified {
            self.prove(name, digest, by, cx);
            return;
        }
        if at.is_caught_up() && self.standing.load.is_none() {
            self.confirm(name, digest, cx);
            return;
        }
        // Nothing is missing but the word that nothing is missing.
        let pending = Pending::complete(Kind::Page, by, digest);
        let to = Cursor::at(head.epoch, head.version);
        self.write(name, Step::Page { changes: Vec::new(), to }, pending, cx);
    }

    /// The copy has everything up to the head, but deletes may be missing. Until its digest has
    /// shown that none is, it does not call itself complete (G5).
    fn prove(
        &mut self,
        name: &CollectionName,
        digest: Option<Digest>,
        by: Source,
        cx: &mut Context<'_>,
    ) {
        let (Some(at), Some(digest)) = (self.active(), digest) else {
            self.pull_soon(cx.now);
            return;
        };
        self.unverified = false;
        cx.stats.digest_checks += 1;
        if digest == self.standing.tally.digest {
            cx.stats.unverified_proven += 1;
            self.verify = false;
            let pending = Pending::complete(Kind::Page, by, Some(digest));
            let to = Cursor::at(at.epoch, at.version);
            self.write(name, Step::Page { changes: Vec::new(), to }, pending, cx);
        } else {
            cx.stats.digest_mismatches += 1;
            self.repair(name, RepairReason::MissedDeletes, cx);
        }
    }

    /// There is no such collection.
    pub(super) fn vanish(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        self.held.clear(cx.held_bytes);
        // After a write that failed there may be a copy all the same: this write finds out.
        if self.standing == Standing::default() && !self.store_fails {
            self.is_gone(cx);
            return;
        }
        let pending = Pending::complete(Kind::Clears, Source::Push, None);
        self.write(name, Step::Clear, pending, cx);
    }

    fn is_gone(&mut self, cx: &mut Context<'_>) {
        self.is_served();
        self.stream_is_before_everything();
        self.drop_mend();
        self.fresh = false;
        self.paging = false;
        self.caught_up = false;
        self.absent = true;
        self.repair = None;
        self.synced_at = Some(cx.now);
        if matches!(self.pull, PullState::Due(_) | PullState::Queued) {
            self.pull = PullState::Idle;
        }
        self.see_hole(cx);
    }

    fn write_page(
        &mut self,
        name: &CollectionName,
        delta: Delta,
        kind: Kind,
        by: Source,
        cx: &mut Context<'_>,
    ) {
        let Delta { mut to, changes, mut has_more, mut digest, head, unverified, .. } = delta;
        let before = if kind == Kind::Begins { Version::ZERO } else { self.horizon };
        if to.is_caught_up() && to.version < before {
            // Read before a page that is in the copy already: what that page did not show
            // because it had moved ahead is not in here either.
            to = to.between_pages(to.version);
            (has_more, digest) = (true, None);
        }
        let horizon = if has_more { before.max(head.version) } else { Version::ZERO };
        let unverified = unverified || self.unverified && kind == Kind::Page;
        if unverified {
            to = to.between_pages(to.version);
        }
        let count = changes.len();
        let pending = Pending { kind, by, changes: count, has_more, digest, horizon, unverified };
        let step = match kind {
            Kind::Begins => Step::BeginLoad { changes, to },
            Kind::Page | Kind::Mends | Kind::Clears => Step::Page { changes, to },
        };
        self.write(name, step, pending, cx);
    }

    /// Nothing of the part changed up to this head.
    pub(super) fn pass_to(&mut self, name: &CollectionName, head: Cursor, cx: &mut Context<'_>) {
        let pending = Pending::complete(Kind::Page, Source::Push, None);
        let to = Cursor::at(head.epoch, head.version);
        self.write(name, Step::Page { changes: Vec::new(), to }, pending, cx);
    }

    /// Begins a load of a collection without items.
    pub(super) fn load_nothing(
        &mut self,
        name: &CollectionName,
        to: Cursor,
        digest: Digest,
        cx: &mut Context<'_>,
    ) {
        let pending = Pending::complete(Kind::Begins, Source::Pull, Some(digest));
        self.write(name, Step::BeginLoad { changes: Vec::new(), to }, pending, cx);
    }

    /// Carries out a repair by difference. What is read from now on must be no older than what
    /// the repair has seen.
    pub(super) fn write_mended(
        &mut self,
        name: &CollectionName,
        to: Cursor,
        (before, reorder): (Tally, bool),
        horizon: Version,
        cx: &mut Context<'_>,
    ) {
        let complete = Pending::complete(Kind::Mends, Source::Pull, None);
        let pending = Pending { has_more: true, horizon, ..complete };
        self.write(name, Step::Mend { to, before, reorder }, pending, cx);
    }

    fn write(&mut self, name: &CollectionName, step: Step, pending: Pending, cx: &mut Context<'_>) {
        self.writing = Some(pending);
        let write = Write { expected: self.standing.active(), step };
        cx.actions.push_back(Action::Write(name.clone(), write));
    }

    /// Goes on after a write.
    pub(super) fn on_written(
        &mut self,
        name: &CollectionName,
        result: Result<Standing, WriteFault>,
        cx: &mut Context<'_>,
    ) {
        let Some(pending) = self.writing.take() else { return };
        match result {
            Ok(standing) => {
                self.standing = standing;
                self.store_fails = false;
                self.on_applied(name, &pending, cx);
            }
            Err(WriteFault::Conflict(standing)) => {
                cx.stats.conflicts += 1;
                self.standing = standing;
                self.store_fails = false;
                self.caught_up = false;
                if pending.kind == Kind::Mends {
                    // What the copy is worth now, its digest tells.
                    self.fresh = false;
                    self.drop_mend();
                }
                self.pull_soon(cx.now);
            }
            // Where the copy stands now, the next write finds out.
            Err(WriteFault::Failed) => {
                self.caught_up = false;
                self.store_fails = true;
                self.drop_mend();
                self.fail(Some(Duration::ZERO), cx);
                return;
            }
            // A push may leave out what a push before it brought, which was lost. A pull is
            // about this very copy: what it leaves out, the copy must have.
            Err(WriteFault::MissingValue) if pending.by == Source::Push => {
                self.caught_up = false;
                self.pull_soon(cx.now);
            }
            Err(WriteFault::MissingValue | WriteFault::Damaged) => {
                self.repair(name, RepairReason::LocalDamage, cx);
            }
        }
        if self.writing.is_none() {
            self.go_on(name, pending.by, cx);
        }
    }

    fn on_applied(&mut self, name: &CollectionName, pending: &Pending, cx: &mut Context<'_>) {
        if pending.kind != Kind::Page {
            // A repair is carried out, or has lost what it was to repair.
            self.drop_mend();
        }
        match (pending.kind, pending.by) {
            (Kind::Clears, _) => {
                self.is_gone(cx);
                return;
            }
            (Kind::Mends, _) => {
                cx.stats.reconciled += 1;
                // Also if the stream is to bring the rest: nobody knows when it has something.
                self.pull_soon(cx.now);
            }
            (Kind::Begins | Kind::Page, Source::Push) => cx.stats.pushes_applied += 1,
            (Kind::Begins | Kind::Page, Source::Pull) => cx.stats.pages_applied += 1,
        }
        cx.stats.changes_applied += pending.changes as u64;
        if pending.kind == Kind::Begins {
            cx.stats.loads += 1;
        }
        if pending.kind != Kind::Page {
            self.fresh = false;
            self.unverified = false;
        }
        self.unverified |= pending.unverified;
        self.horizon = pending.horizon;
        self.is_served();
        self.absent = false;
        if pending.by == Source::Pull {
            self.paging = pending.has_more;
        }
        if pending.has_more || self.standing.load.is_some() {
            self.caught_up = false;
        } else if self.unverified {
            self.caught_up = false;
            self.prove(name, pending.digest, pending.by, cx);
        } else {
            self.confirm(name, pending.digest, cx);
        }
    }

    /// Applies what was kept and fits now; then pulls on, unless the stream has taken over.
    fn go_on(&mut self, name: &CollectionName, by: Source, cx: &mut Context<'_>) {
        while let Some(delta) = self.held.first(cx.held_bytes, self.active()) {
            match self.judge(&delta) {
                Verdict::Fits => {
                    self.write_page(name, delta, Kind::Page, Source::Push, cx);
                    return;
                }
                Verdict::Begins => {
                    self.write_page(name, delta, Kind::Begins, Source::Push, cx);
                    return;
                }
                Verdict::Repeat => cx.stats.repeats += 1,
                // A page of another load, or of another life: a pull finds out.
                Verdict::TooEarly | Verdict::Foreign | Verdict::Outdated => {}
            }
        }
        let paging = std::mem::take(&mut self.paging);
        if paging && !self.stream_takes_over() {
            self.pull_soon(cx.now);
        }
        if by == Source::Pull {
            self.see_end_of_pull(cx);
        }
        self.see_hole(cx);
    }

    /// After a pull that brought everything, a stream that claims to be elsewhere is of no use:
    /// it is of another life of the collection, or what it said last was lost.
    pub(super) fn see_end_of_pull(&mut self, cx: &mut Context<'_>) {
        // What is still missing after a pull is another hole.
        self.hole_since = None;
        if self.caught_up && self.stream.is_some() && !self.is_joined() {
            self.leave_stream(cx);
            self.caught_up = true;
        }
    }

    /// Notes since when the stream is ahead of the copy.
    pub(super) fn see_hole(&mut self, cx: &mut Context<'_>) {
        if self.stream.is_none() || self.is_joined() {
            self.hole_since = None;
        } else if self.writing.is_none() {
            self.caught_up = false;
            self.hole_since.get_or_insert(cx.now);
        }
    }
}

// === impl Pending ===

impl Pending {
    /// Whether it leaves a complete copy.
    pub(super) fn completes(self) -> Completes {
        match self.digest {
            _ if self.has_more || self.unverified => Completes::No,
            Some(digest) => Completes::IfItIs(digest),
            None => Completes::Yes,
        }
    }

    /// A write without changes that leaves nothing to come.
    fn complete(kind: Kind, by: Source, digest: Option<Digest>) -> Self {
        let (horizon, unverified) = (Version::ZERO, false);
        Self { kind, by, changes: 0, has_more: false, horizon, digest, unverified }
    }
}
