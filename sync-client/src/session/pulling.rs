//! Pulls: which collections go into one, and what each outcome means. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX, PULL_TARGETS_MAX};
use sync_proto::types::{CollectionName, Cursor, Head, Outcome, Pull, Reset};

use super::mending::MendId;
use super::quiet::Part;
use super::track::{PullState, Track, Verdict};
use super::writing::Source;
use super::{Action, Config, Context, Fault, PullId, Session};
use crate::backoff::Backoff;

/// Pulls that are under way, and collections that wait for one.
#[derive(Debug)]
pub(super) struct Pulls {
    /// Holds at most every collection of the session a few times: a pull that was called off
    /// leaves its name behind until its turn comes.
    queue: VecDeque<CollectionName>,
    /// Those that go after the others, and leave the last place to them.
    patient: VecDeque<CollectionName>,
    pub(super) flying: BTreeMap<PullId, Flight>,
    next_id: u64,
    /// Bytes to ask for at a time: as many as the line brings in a few seconds.
    pub(super) page_bytes: usize,
    backoff: Backoff,
    /// No pull is sent before: the last one failed for a reason that is not its own.
    resume_at: Option<Instant>,
}

/// A pull that is under way.
#[derive(Debug)]
pub(super) struct Flight {
    asked: Vec<(CollectionName, Option<Cursor>)>,
    page_bytes: usize,
    since: Instant,
}

/// Repairs by difference that are under way, and collections that wait for one.
#[derive(Debug)]
pub(super) struct Mends {
    pub(super) queue: VecDeque<CollectionName>,
    pub(super) running: usize,
    next_id: u64,
    /// The server compares, as far as is known.
    pub(super) compares: bool,
}

/// Repairs by difference at once. Each holds 64 KiB of sums, and reads its copy.
const MENDS_MAX: usize = 4;
/// Pulls under way at once. More would only wait for each other at the server.
const PULLS_MAX: usize = 8;
/// First window of the back-off of pulls that fail as a whole.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Least wait of all pulls after a fault that is not that of one collection.
const LASTING_WAIT: Duration = Duration::from_secs(5);
/// The least that a page is asked to hold, on however slow a line.
const PAGE_BYTES_MIN: usize = 16 * 1024;
/// A pull that takes this long asked for too much: on a line that breaks, what is not whole is
/// lost. One that is answered within a fifth of it may ask for more.
const LONG_PULL: Duration = Duration::from_secs(5);
/// A deferred target is asked for again after this.
const DEFERRED_WAIT: Duration = Duration::from_millis(20);

// === impl Pulls ===

impl Pulls {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            queue: VecDeque::new(),
            patient: VecDeque::new(),
            flying: BTreeMap::new(),
            next_id: 0,
            page_bytes: PAGE_BYTES_MAX,
            backoff: Backoff::new(BACKOFF_FIRST, config.backoff_longest),
            resume_at: None,
        }
    }

    pub(super) fn enqueue(&mut self, name: CollectionName, part: Part) {
        self.queue_of(part).push_back(name);
    }

    fn queue_of(&mut self, part: Part) -> &mut VecDeque<CollectionName> {
        match part {
            Part::Streamed | Part::Prompt => &mut self.queue,
            Part::Quiet => &mut self.patient,
        }
    }

    /// Learns from a pull how much the line brings: pages halve while answers take long, and
    /// grow again. Pulls that were sent together teach one lesson.
    fn learn(&mut self, page_bytes: usize, slow: bool, took: Duration) {
        if slow || took >= LONG_PULL {
            self.page_bytes = self.page_bytes.min((page_bytes / 2).max(PAGE_BYTES_MIN));
        } else if took <= LONG_PULL / 5 {
            self.page_bytes = self.page_bytes.max((page_bytes * 2).min(PAGE_BYTES_MAX));
        }
    }

    /// When what waits may be sent, if that is not at once.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.resume_at.filter(|_| !self.queue.is_empty() || !self.patient.is_empty())
    }
}

// === impl Mends ===

impl Default for Mends {
    fn default() -> Self {
        Self { queue: VecDeque::new(), running: 0, next_id: 0, compares: true }
    }
}

// === impl Session ===

impl Session {
    /// Begins as many repairs by difference as may be under way at once.
    pub(super) fn begin_mends(&mut self, now: Instant) {
        while self.mends.running < MENDS_MAX {
            let Some(name) = self.mends.queue.pop_front() else { return };
            let planned = |track: &Track| track.pull == PullState::Queued && track.plans_mend();
            if !self.tracks.get(&name).is_some_and(planned) {
                continue;
            }
            let id = MendId(self.mends.next_id);
            self.mends.next_id += 1;
            self.mends.running += 1;
            self.touch(&name, now, |track, cx| track.begin_mend(&name, id, cx));
        }
    }

    /// Sends as many pulls as may be under way at once.
    pub(super) fn send_pulls(&mut self, now: Instant) {
        if self.pulls.resume_at.is_some_and(|at| now < at) {
            return;
        }
        self.pulls.resume_at = None;
        while self.pulls.flying.len() < PULLS_MAX {
            let id = PullId(self.pulls.next_id);
            let asked = self.next_batch(id);
            if asked.is_empty() {
                return;
            }
            let targets = asked.iter().filter_map(|(name, at)| {
                self.tracks.get(name).map(|track| Ok(track.target(name, *at)))
            });
            let pull = Pull {
                targets: targets.collect(),
                bytes_max: self.pulls.page_bytes,
                changes_max: PAGE_CHANGES_MAX,
                client_id: self.config.client_id.clone(),
            };
            self.pulls.next_id += 1;
            self.stats.pulls += 1;
            self.actions.push_back(Action::Pull(id, pull));
            for (name, _) in &asked {
                self.touch(name, now, |_, _| {});
            }
            let page_bytes = self.pulls.page_bytes;
            self.pulls.flying.insert(id, Flight { asked, page_bytes, since: now });
        }
    }

    /// The collections that wait, as many as one pull takes. Those that go first share its budget
    /// with nobody else.
    fn next_batch(&mut self, id: PullId) -> Vec<(CollectionName, Option<Cursor>)> {
        let first = self.batch_of(Part::Streamed, id);
        if first.is_empty() && self.pulls.flying.len() + 1 < PULLS_MAX {
            return self.batch_of(Part::Quiet, id);
        }
        first
    }

    fn batch_of(&mut self, part: Part, id: PullId) -> Vec<(CollectionName, Option<Cursor>)> {
        let mut asked = Vec::new();
        while asked.len() < PULL_TARGETS_MAX {
            let Some(name) = self.pulls.queue_of(part).pop_front() else { break };
            let Some(track) = self.tracks.get_mut(&name) else { continue };
            if track.pull != PullState::Queued || track.plans_mend() {
                continue;
            }
            if track.solo && !asked.is_empty() {
                self.pulls.queue_of(part).push_front(name);
                break;
            }
            let shown = track.active();
            track.pull = PullState::Flying(id);
            let solo = track.solo;
            asked.push((name, shown));
            if solo {
                break;
            }
        }
        asked
    }

    pub(super) fn on_pulled(
        &mut self,
        id: PullId,
        answer: Result<Vec<Outcome>, Fault>,
        now: Instant,
    ) {
        let Some(flight) = self.pulls.flying.remove(&id) else { return };
        let Flight { mut asked, page_bytes, since } = flight;
        let slow = matches!(answer, Err(Fault::Slow));
        if slow || answer.is_ok() {
            self.pulls.learn(page_bytes, slow, now - since);
        }
        let known = !matches!(answer, Err(Fault::Unauthenticated));
        self.hear_of_credentials(known, answer.is_ok(), now);
        match answer {
            Ok(outcomes) => {
                self.pulls.backoff.reset();
                self.pulls.resume_at = None;
                for ((name, shown), outcome) in asked.into_iter().zip(outcomes) {
                    if !self.waits_for(&name, id) {
                        continue;
                    }
                    self.touch(&name, now, |track, cx| {
                        track.pull = PullState::Idle;
                        track.on_outcome(&name, shown, outcome, cx);
                    });
                }
            }
            Err(fault) => {
                let alone = asked.len() == 1;
                asked.retain(|(name, _)| self.waits_for(name, id));
                self.on_pull_failed(&asked, alone, fault, now);
            }
        }
    }

    /// Whether a collection waits for the answer to this pull. One that has left meanwhile, and
    /// come back, does not: what was read before it came back may be older than what brought it.
    fn waits_for(&self, name: &CollectionName, id: PullId) -> bool {
        self.tracks.get(name).is_some_and(|track| track.pull == PullState::Flying(id))
    }

    /// `known` or not: the server has said so by its answer, or by a refusal. Every collection
    /// shows it.
    fn hear_of_credentials(&mut self, known: bool, answered: bool, now: Instant) {
        if known == self.line.is_authenticated() || (known && !answered) {
            return;
        }
        self.line.authenticate(known);
        self.touch_all(now, |_, _| {});
    }

    fn on_pull_failed(
        &mut self,
        asked: &[(CollectionName, Option<Cursor>)],
        alone: bool,
        fault: Fault,
        now: Instant,
    ) {
        self.stats.pull_failures += 1;
        let mut wait = self.pulls.backoff.next(&mut self.dice);
        if matches!(fault, Fault::Lasting | Fault::Unauthenticated) {
            wait += LASTING_WAIT;
            self.pulls.resume_at = Some(now + wait);
        }
        if let Fault::Asked(least) = fault {
            wait += least;
        }
        for (name, _) in asked {
            self.touch(name, now, |track, cx| {
                track.pull = PullState::Idle;
                track.pulls_rest_until = Some(now + wait);
                match fault {
                    Fault::Passing
                    | Fault::Asked(_)
                    | Fault::Slow
                    | Fault::Lasting
                    | Fault::Unauthenticated => track.pull_soon(now + wait),
                    Fault::Refused if alone => track.fail(None, cx),
                    // One of them may be what the server does not stand: find out which.
                    Fault::Refused => {
                        track.solo = true;
                        track.pull = PullState::Due(now + wait);
                    }
                }
            });
        }
    }
}

// === impl Track ===

impl Track {
    fn on_outcome(
        &mut self,
        name: &CollectionName,
        shown: Option<Cursor>,
        outcome: Outcome,
        cx: &mut Context<'_>,
    ) {
        // What was asked from a place that the copy has left says nothing about where it is.
        let current = shown == self.active() && self.writing.is_none();
        match outcome {
            Outcome::Aligned(head) => self.on_aligned(name, current, &head, cx),
            // No answer to what was asked; asked again at once it would only come again.
            Outcome::Delta(delta)
                if current
                    && matches!(self.judge(&delta), Verdict::Foreign | Verdict::TooEarly) =>
            {
                self.fail(None, cx);
            }
            Outcome::Delta(delta) => self.on_delta(name, delta, Source::Pull, cx),
            Outcome::Reset(reset) => self.on_reset(name, (shown, current), &reset, cx),
            Outcome::Denied => self.deny(cx),
            Outcome::NotFound if current => self.vanish(name, cx),
            Outcome::NotFound => self.pull_soon(cx.now),
            Outcome::Deferred(_) => self.pull_soon(cx.now + DEFERRED_WAIT),
            Outcome::Failed(failure) => self.fail(failure.retry_after, cx),
        }
    }

    fn on_aligned(
        &mut self,
        name: &CollectionName,
        current: bool,
        head: &Head,
        cx: &mut Context<'_>,
    ) {
        self.sees(head);
        match self.active() {
            // It has read pages to this copy from a newer head: an older store is in its place.
            Some(at) if current && at.epoch == head.epoch && head.version < self.horizon => {
                self.is_ahead(name, cx);
            }
            Some(at) if at.epoch == head.epoch && at.version == head.version => {
                self.reach(name, head.cursor(), Some(head.digest), Source::Pull, cx);
                self.see_end_of_pull(cx);
            }
            None if current && self.is_behind(head) => self.is_ahead(name, cx),
            None if current && head.items == 0 => {
                self.load_nothing(name, head.cursor(), head.digest, cx);
            }
            Some(_) | None if current => self.fail(None, cx),
            Some(_) | None => self.pull_soon(cx.now),
        }
    }

    fn on_reset(
        &mut self,
        name: &CollectionName,
        (shown, current): (Option<Cursor>, bool),
        reset: &Reset,
        cx: &mut Context<'_>,
    ) {
        self.sees(&reset.head);
        if shown.is_none() {
            // "Start over" is no answer to somebody who does.
            self.fail(None, cx);
        } else if current || self.is_concerned(reset) {
            self.start_over(name, reset, cx);
        } else {
            self.pull_soon(cx.now);
        }
    }
}
