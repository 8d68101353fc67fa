//! What a session knows of one collection: where the copy stands, where the stream stands, what
//! is under way and what went wrong. Pure.

use std::time::{Duration, Instant};

use sync_proto::digest::Digest;
use sync_proto::types::{
    CollectionName, Cursor, Delta, Epoch, Head, ResetReason, Scope, Target, Version,
};

use super::held::Held;
use super::line::{Line, Weather};
use super::mending::Mending;
use super::quiet::Part;
use super::repairing::Repair;
use super::status::{RepairReason, Status};
use super::writing::Pending;
use super::{Context, PullId, Report};
use crate::backoff::{Backoff, part_of};
use crate::store::Standing;
use crate::stream_life::ASKED_WAIT_MAX;

/// One collection.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Track {
    pub(super) part: Part,
    pub(super) standing: Standing,
    /// The copy must be fetched anew: what it holds is shown, but not continued.
    pub(super) fresh: bool,
    /// Where the stream is known to be; `None` = it does not carry this collection.
    pub(super) stream: Option<StreamAt>,
    /// Newest head at which a page was read since the copy was complete. A row that changed
    /// between two pages moves ahead of both, so only what was read no earlier than this makes
    /// the copy complete again.
    pub(super) horizon: Version,
    /// Pushes that came too early.
    pub(super) held: Held,
    /// Since when the stream is known to be ahead of the copy.
    pub(super) hole_since: Option<Instant>,
    pub(super) pull: PullState,
    /// The last pull failed with others: none follows it before, however often a stream ends.
    pub(super) pulls_rest_until: Option<Instant>,
    /// The last pull's answer was not the end.
    pub(super) paging: bool,
    /// A pull for safety found the copy behind a stream that seemed to have taken over: on with it
    /// to the end, whatever the stream seems to be.
    insists: bool,
    /// Its pulls go alone, because one with others was refused as a whole.
    pub(super) solo: bool,
    /// A write that has not been answered yet.
    pub(super) writing: Option<Pending>,
    /// The copy is the server's collection as far as is known.
    pub(super) caught_up: bool,
    pub(super) absent: bool,
    pub(super) denied: bool,
    /// Nothing is tried before.
    pub(super) kept_back_until: Option<Instant>,
    pub(super) repair: Option<Repair>,
    /// The comparison by which the copy is repaired.
    pub(super) mend: Option<Mending>,
    /// The cursor is below the floor: serve it all the same, the digest tells what that is worth.
    pub(super) verify: bool,
    /// The store did not take the last write.
    pub(super) store_fails: bool,
    /// Deletes may be missing in what was applied.
    pub(super) unverified: bool,
    /// Since when the copy is as it should be; repairs that follow each other closely wait
    /// longer and longer.
    pub(super) good_since: Option<Instant>,
    pub(super) repairs: Backoff,
    /// What was repaired last, and where the copy stood.
    pub(super) repaired: Option<(RepairReason, Option<Cursor>)>,
    pub(super) faults: Backoff,
    /// Items of the collection, and their bytes, as far as is known.
    pub(super) total: u64,
    pub(super) total_bytes: u64,
    /// Versions that the copy was behind when the server refused to continue it.
    pub(super) behind: u64,
    pub(super) synced_at: Option<Instant>,
    reported: Option<Report>,
    /// Which part of the collection the copy is of.
    pub(super) scope: Scope,
}

/// A place that a stream is known to have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamAt {
    epoch: Option<Epoch>,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullState {
    Idle,
    Due(Instant),
    /// Ready, waits for a free slot.
    Queued,
    /// Sent with this pull. An answer to another one says nothing.
    Flying(PullId),
    /// The copy is compared instead.
    Mending,
}

/// What a delta is to the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It continues the copy.
    Fits,
    /// It begins a load.
    Begins,
    /// The copy has it already.
    Repeat,
    /// Something is missing before it.
    TooEarly,
    /// It is of another life of the collection.
    Foreign,
    /// It begins a load of an older state than the one that readers have seen.
    Outdated,
}

/// A collection that is not readable is asked for again this often, give or take a half.
const DENIED_RETRY: Duration = Duration::from_secs(5 * 60);
/// Windows of the back-off of repairs that follow each other closely.
const REPAIR_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));
/// Windows of the back-off of a collection that fails alone.
const FAULT_WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5 * 60));
/// Least wait after a failure that is "not worth repeating unchanged".
const LASTING_WAIT: Duration = Duration::from_secs(10);
/// A hole that one late push would fill.
const SINGLE_HOLE_WAIT: Duration = Duration::from_millis(50);
/// Holes in several places.
const HOLES_WAIT: Duration = Duration::from_millis(500);

// === impl StreamAt ===

impl StreamAt {
    pub(super) fn is_in(self, epoch: Option<Epoch>) -> bool {
        self.epoch == epoch
    }
}

// === impl Track ===

impl Track {
    pub(super) fn new(standing: Standing, scope: Scope) -> Self {
        Self {
            part: Part::Streamed,
            standing,
            fresh: false,
            stream: None,
            horizon: Version::ZERO,
            held: Held::default(),
            hole_since: None,
            pull: PullState::Idle,
            pulls_rest_until: None,
            paging: false,
            insists: false,
            solo: false,
            writing: None,
            caught_up: false,
            absent: false,
            denied: false,
            kept_back_until: None,
            repair: None,
            mend: None,
            verify: false,
            store_fails: false,
            // Whether the last process was told that they may be missing, nobody knows.
            // Of a part there is no digest that would tell.
            unverified: scope.is_all()
                && standing.load.is_none()
                && standing.cursor.is_some_and(|at| !at.is_caught_up()),
            good_since: None,
            repairs: Backoff::new(REPAIR_WAITS.0, REPAIR_WAITS.1),
            repaired: None,
            faults: Backoff::new(FAULT_WAITS.0, FAULT_WAITS.1),
            total: 0,
            total_bytes: 0,
            behind: 0,
            synced_at: None,
            reported: None,
            scope,
        }
    }

    /// What to ask for this collection, from where the copy stands.
    pub(super) fn target(&self, name: &CollectionName, at: Option<Cursor>) -> Target {
        let verify = self.verify && self.scope.is_all();
        Target { verify, scope: self.scope.clone(), ..Target::all(name.clone(), at) }
    }

    /// Where the next change must continue; `None` = from scratch.
    pub(super) fn active(&self) -> Option<Cursor> {
        if self.fresh { None } else { self.standing.active() }
    }

    /// What a delta is to the copy.
    pub(super) fn judge(&self, delta: &Delta) -> Verdict {
        let Some(at) = self.active() else {
            return match delta.from.version {
                Version::ZERO if self.is_behind(&delta.head) => Verdict::Outdated,
                Version::ZERO => Verdict::Begins,
                _ => Verdict::TooEarly,
            };
        };
        if delta.from.epoch != at.epoch {
            return Verdict::Foreign;
        }
        if delta.to.version <= at.version {
            return Verdict::Repeat;
        }
        // A page of a load leaves out deletes up to its base. The copy must not need them: it
        // is past them, or it began its own load behind them.
        let left_out = if delta.from.is_loading() { delta.from.base } else { Version::ZERO };
        let fits = delta.from.version <= at.version && left_out <= at.version.max(at.base);
        if fits { Verdict::Fits } else { Verdict::TooEarly }
    }

    /// Whether a head lies behind what readers have seen, although the server is not known to have
    /// gone back.
    pub(super) fn is_behind(&self, head: &Head) -> bool {
        let went_back = RepairReason::Reset(ResetReason::AheadOfHead);
        let known = self.repair.is_some_and(|repair| repair.reason == went_back);
        let seen = self.standing.cursor.filter(|at| at.epoch == head.epoch);
        !known && seen.is_some_and(|at| head.version < at.version)
    }

    /// Whether the rest of a catch-up will come by the stream.
    pub(super) fn stream_takes_over(&self) -> bool {
        self.is_joined() && !self.insists
    }

    /// Whether what comes by the stream will continue the copy.
    pub(super) fn is_joined(&self) -> bool {
        let Some(stream) = self.stream else { return false };
        match self.active() {
            _ if stream.version == Version::ZERO => true,
            None => false,
            Some(at) => stream.epoch == Some(at.epoch) && stream.version <= at.version,
        }
    }

    /// The stream is known to have reached this.
    pub(super) fn stream_is_at(&mut self, at: Cursor) {
        if let Some(stream) = &mut self.stream {
            let same = stream.epoch == Some(at.epoch);
            let version = if same { stream.version.max(at.version) } else { at.version };
            *stream = StreamAt { epoch: Some(at.epoch), version };
        }
    }

    /// The stream has said that there is no such collection: it begins anew if there is one.
    pub(super) fn stream_is_before_everything(&mut self) {
        if let Some(stream) = &mut self.stream {
            *stream = StreamAt { epoch: None, version: Version::ZERO };
        }
    }

    /// Whether a stream that is opened now is to carry this collection.
    pub(super) fn may_join_stream(&self) -> bool {
        self.part == Part::Streamed
            && !self.denied
            && self.kept_back_until.is_none()
            && self.mend.is_none()
    }

    /// Goes onto a stream that is about to be opened, with the cursor to show.
    pub(super) fn join_stream(&mut self) -> Option<Cursor> {
        let shown = self.active();
        self.stream = Some(StreamAt {
            epoch: shown.map(|at| at.epoch),
            version: shown.map_or(Version::ZERO, |at| at.version),
        });
        // What a pull would fetch now comes by the stream.
        if matches!(self.pull, PullState::Due(_) | PullState::Queued) {
            self.pull = PullState::Idle;
        }
        shown
    }

    /// The stream does not carry this collection any more.
    pub(super) fn leave_stream(&mut self, cx: &mut Context<'_>) {
        self.stream = None;
        self.held.clear(cx.held_bytes);
        self.hole_since = None;
        self.caught_up = false;
    }

    /// The stream has ended. What it was to bring, and what was not pulled because it was to
    /// bring it, is pulled meanwhile; but not before the server wants to be asked again, and not
    /// sooner after a pull in vain because streams are tried in vain, too.
    pub(super) fn lose_stream(&mut self, at_least: Duration, cx: &mut Context<'_>) {
        let is_left_behind = self.stream.is_some() && !self.is_in_step();
        self.leave_stream(cx);
        if is_left_behind && self.pull == PullState::Idle {
            let asked = cx.now + at_least;
            self.pull_soon(self.pulls_rest_until.map_or(asked, |rested| rested.max(asked)));
        }
    }

    /// Whether the stream should be opened again for this collection.
    pub(super) fn wants_stream(&self) -> bool {
        self.part == Part::Streamed
            && self.stream.is_none()
            && self.kept_back_until.is_none()
            && self.is_in_step()
    }

    /// Caught up, or known not to exist.
    pub(super) fn is_in_step(&self) -> bool {
        self.writing.is_none() && (self.caught_up || self.absent) && !self.denied
    }

    /// When to look at this collection again.
    pub(super) fn wake(&self) -> Option<Instant> {
        // While a write is under way it may be what fills the hole.
        let hole_since = self.hole_since.filter(|_| self.writing.is_none());
        let due = match (self.pull, hole_since) {
            (PullState::Due(at), _) => Some(at),
            (PullState::Idle, Some(since)) if self.held.is_contiguous() => {
                Some(since + SINGLE_HOLE_WAIT)
            }
            (PullState::Idle, Some(since)) => Some(since + HOLES_WAIT),
            (PullState::Idle, None)
            | (PullState::Queued | PullState::Flying(_) | PullState::Mending, _) => None,
        };
        let retry_at = self.mend.as_ref().and_then(|mend| mend.retry_at);
        due.into_iter().chain(self.kept_back_until).chain(retry_at).min()
    }

    pub(super) fn on_time(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        self.retry_due(name, cx);
        if self.kept_back_until.is_some_and(|until| until <= cx.now) {
            self.kept_back_until = None;
        }
        let hole_is_due = self.hole_since.is_some() && self.wake().is_some_and(|at| at <= cx.now);
        if self.pull == PullState::Idle && hole_is_due {
            cx.stats.gaps += 1;
            self.caught_up = false;
            self.pull_soon(cx.now);
        }
    }

    /// Moves a pull that is due into the queue; the caller puts it there.
    pub(super) fn take_ready_to_pull(&mut self, now: Instant) -> bool {
        let ready = matches!(self.pull, PullState::Due(at) if at <= now);
        if ready {
            self.pull = PullState::Queued;
        }
        ready
    }

    /// Pulls as soon as that is allowed.
    pub(super) fn pull_soon(&mut self, now: Instant) {
        let under_way =
            matches!(self.pull, PullState::Queued | PullState::Flying(_) | PullState::Mending);
        if !under_way {
            self.pull = PullState::Due(self.kept_back_until.map_or(now, |until| until.max(now)));
        }
    }

    pub(super) fn pull_for_safety(&mut self, now: Instant) {
        if self.pull == PullState::Idle && !self.denied && self.writing.is_none() {
            self.insists = !self.caught_up;
            self.pull_soon(now);
        }
    }

    /// Something about this collection failed; the others go on.
    pub(super) fn fail(&mut self, retry_after: Option<Duration>, cx: &mut Context<'_>) {
        cx.stats.target_failures += 1;
        let wait = self.faults.next(cx.dice);
        let least = retry_after.unwrap_or(LASTING_WAIT).min(ASKED_WAIT_MAX);
        self.keep_back(wait.max(least), cx.now);
    }

    /// Not readable with these credentials.
    pub(super) fn deny(&mut self, cx: &mut Context<'_>) {
        self.leave_stream(cx);
        self.drop_mend();
        self.denied = true;
        self.absent = false;
        let wait = DENIED_RETRY / 2 + part_of(DENIED_RETRY, cx.dice);
        self.pull = PullState::Due(cx.now + wait);
    }

    /// What the server says of its collection.
    pub(super) fn sees(&mut self, head: &Head) {
        self.total = head.items;
        self.total_bytes = head.bytes;
    }

    pub(super) fn keep_back(&mut self, wait: Duration, now: Instant) {
        self.kept_back_until = (!wait.is_zero()).then(|| now + wait);
        if !matches!(self.pull, PullState::Flying(_) | PullState::Mending) {
            self.pull = PullState::Due(now + wait);
        }
    }

    /// The server answers for this collection.
    pub(super) fn is_served(&mut self) {
        self.faults.reset();
        self.pulls_rest_until = None;
        self.denied = false;
        self.solo = false;
    }

    /// The copy is where the server said that it is at the head.
    pub(super) fn confirm(
        &mut self,
        name: &CollectionName,
        digest: Option<Digest>,
        cx: &mut Context<'_>,
    ) {
        self.is_served();
        if let Some(digest) = digest {
            cx.stats.digest_checks += 1;
            if digest != self.standing.tally.digest {
                cx.stats.digest_mismatches += 1;
                self.repair(name, RepairReason::DigestMismatch, cx);
                return;
            }
            self.good_since.get_or_insert(cx.now);
        }
        self.absent = false;
        self.repair = None;
        self.insists = false;
        self.caught_up = true;
        self.synced_at = Some(cx.now);
    }

    /// The report to show, if it is not the one that was shown last.
    pub(super) fn report(
        &mut self,
        line: &Line,
        unflushed_until: Option<Instant>,
        now: Instant,
    ) -> Option<Report> {
        let failing = unflushed_until.map(|until| Status::StoreFailing { until });
        let status = failing.unwrap_or_else(|| self.status(line, now));
        let report = Report { status, synced_at: self.synced_at };
        (self.reported.replace(report) != Some(report)).then_some(report)
    }

    fn status(&self, line: &Line, now: Instant) -> Status {
        if self.denied || !line.is_authenticated() {
            return Status::Denied;
        }
        let retry_at = self.mend.as_ref().and_then(|mend| mend.retry_at);
        if let Some(until) = self.kept_back_until.or(retry_at)
            && until > now
        {
            if self.store_fails {
                return Status::StoreFailing { until };
            }
            let stuck = self.repair.filter(|repair| repair.stuck);
            return stuck.map_or(Status::BackingOff { until }, |Repair { reason, .. }| {
                Status::Stuck { reason, until }
            });
        }
        let incomplete = self.repair.is_some() || self.standing.active() != self.standing.cursor;
        let loading_by_pull =
            incomplete && matches!(self.pull, PullState::Flying(_) | PullState::Mending);
        match line.weather() {
            Weather::Connecting if !loading_by_pull => return Status::Connecting,
            Weather::BackingOff(until) if !loading_by_pull => return Status::BackingOff { until },
            Weather::Connecting | Weather::BackingOff(_) | Weather::Open => {}
        }
        match (self.repair, self.standing.load) {
            _ if self.absent => Status::Absent,
            (Some(Repair { reason, how, .. }), _) => Status::Repairing { reason, how },
            (None, Some(load)) => Status::Loading { done: load.tally.items, total: self.total },
            (None, None) if self.standing.cursor.is_none() => {
                Status::Loading { done: 0, total: self.total }
            }
            (None, None) if self.caught_up => Status::Live,
            (None, None) => Status::Lagging,
        }
    }
}
