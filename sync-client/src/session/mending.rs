//! Repair by difference: the rounds that find what differs, and the edits that make the copy equal
//! in those places. Pure; whoever runs the session carries out one [`Task`] after the other.
//!
//! ```text
//!  Sum ──> Round(groups) ──> Round(leaves) ──> Round(entries) ──> Compare ──> Fetch ──> Keep
//!                │ all equal       │ all equal        ^    next page, next leaves  ^      │
//!                └────────────────>┴──────────┐       └────────────────────────────┴──────┘
//!                                             v                                    │ no more
//!                                  Step::Mend <──────────────────────────── Rest <─┘
//! ```
//!
//! Each round is answered from the collection as it is then, so what was found is a mixture: each
//! item is as it was at some version between the head of the first round, V, and the newest head
//! that any answer carried, W. The copy therefore takes the cursor `(V, base V)`, and that is
//! right: every item that changed after V is in the delta behind V with its latest state, and
//! every delete after V is a tombstone there, or V is below the floor, which the next page says.
//! What did not change after V is the same in all rounds. The base says "between pages": the
//! server then leaves no value out, although the copy does not have every value as of V. And no
//! page that was read before W makes the copy complete: that is the horizon of the track.
//!
//! Until the edits are carried out, in one local transaction, readers see the copy as it was.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sync_proto::digest::{Group, Segment};
use sync_proto::limits::{GET_ITEMS_KEYS_MAX, RECONCILE_NODES_MAX};
use sync_proto::types::{
    CollectionName, Cursor, Found, Head, Item, Key, LeafEntry, Reconciled, Round, Version,
};

use super::cost::{Facts, groups_pay, segments_pay};
use super::track::{PullState, Track};
use super::{Action, Context, Fault};
use crate::store::Sums;

/// Which repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MendId(pub(super) u64);

/// One step of a repair. Local ones change what the store has put aside, and nothing that
/// readers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Add up the rows: [`ReplicaStore::sums`](crate::ReplicaStore::sums).
    Sum,
    /// Ask the server.
    Round(Round),
    /// Compare entries of the server with the rows, see [`Fate`](crate::store::Fate): stage what is
    /// known, name what must be fetched.
    Compare(Vec<LeafEntry>),
    /// Get items of the server.
    Fetch(Vec<Key>),
    /// Stage these.
    Keep(Vec<Item>),
    /// Stage that the other rows of these segments go.
    Rest(BTreeSet<Segment>),
}

/// What came of a [`Task`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Of [`Task::Sum`].
    Summed(Sums),
    /// Of [`Task::Round`].
    Answered(Reconciled),
    /// Of [`Task::Compare`]: items to fetch, with the bytes of their values.
    Compared(Vec<(Key, u32)>),
    /// Of [`Task::Fetch`]: the items that exist of the first so many keys, as of this head.
    Fetched(Vec<Item>, usize, Head),
    /// Of [`Task::Keep`] and [`Task::Rest`].
    Staged,
}

/// Why a [`Task`] was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MendFault {
    /// The call failed.
    Call(Fault),
    /// The rounds cannot go on from where they began.
    Moved,
    /// There is no such collection.
    NotFound,
    /// Not readable with these credentials.
    Denied,
    /// The server does not compare.
    Unknown,
    /// The rows cannot be repaired one by one.
    Damaged,
}

/// A repair that is planned or under way.
#[derive(Debug)]
pub(super) struct Mending {
    pub(super) facts: Facts,
    /// `None` = not begun.
    pub(super) id: Option<MendId>,
    /// The task that was given out last, to give it out again when a call failed.
    task: Option<Task>,
    pub(super) retry_at: Option<Instant>,
    sums: Sums,
    /// Head of the first round, and the newest one.
    first: Option<Head>,
    horizon: Version,
    /// Segments that differ, and those of them that were not asked for yet.
    differing: BTreeSet<Segment>,
    to_ask: VecDeque<Segment>,
    asked: Vec<Segment>,
    page_token: Bytes,
    to_fetch: VecDeque<(Key, u32)>,
    restarts: u32,
}

/// What a repair does next.
enum Next {
    Task(Task),
    /// The edits are complete.
    Write,
    /// Comparing costs more than loading.
    Load,
}

/// The collection moved on beneath the rounds so often: its purges are faster than they are.
const RESTARTS_MAX: u32 = 3;

// === impl Mending ===

impl Mending {
    pub(super) fn new(facts: Facts) -> Self {
        Self {
            facts,
            id: None,
            task: None,
            retry_at: None,
            sums: Sums::default(),
            first: None,
            horizon: Version::ZERO,
            differing: BTreeSet::new(),
            to_ask: VecDeque::new(),
            asked: Vec::new(),
            page_token: Bytes::new(),
            to_fetch: VecDeque::new(),
            restarts: 0,
        }
    }

    /// Begins, or begins again.
    fn begin(&mut self) -> Task {
        *self = Self { id: self.id, restarts: self.restarts, ..Self::new(self.facts) };
        Task::Sum
    }

    /// Where the first round stood; the rounds that follow name it.
    fn at(&self) -> Option<Cursor> {
        self.first.map(|head| head.cursor())
    }

    fn on_done(&mut self, done: Done, page_bytes: usize) -> Option<Next> {
        match (self.task.take()?, done) {
            (Task::Sum, Done::Summed(sums)) => {
                self.sums = sums;
                Some(Next::Task(Task::Round(Round::Groups)))
            }
            (Task::Round(round), Done::Answered(answer)) => self.on_answer(&round, answer),
            (Task::Compare(_), Done::Compared(keys)) => {
                self.to_fetch.extend(keys);
                Some(self.go_on(page_bytes))
            }
            (Task::Fetch(keys), Done::Fetched(items, looked_at, head)) => {
                self.horizon = self.horizon.max(head.version);
                // At least one, or a server that answers nothing would be asked for ever.
                self.to_fetch.drain(..looked_at.clamp(1, keys.len()));
                let same = self.first.is_some_and(|first| first.epoch == head.epoch);
                same.then_some(Next::Task(Task::Keep(items)))
            }
            (Task::Keep(_), Done::Staged) => Some(self.go_on(page_bytes)),
            (Task::Rest(_), Done::Staged) => Some(Next::Write),
            // An answer to something else.
            (
                _,
                Done::Summed(_)
                | Done::Answered(_)
                | Done::Compared(_)
                | Done::Fetched(..)
                | Done::Staged,
            ) => None,
        }
    }

    /// `None` = the answer is of another life of the collection, or of another question.
    fn on_answer(&mut self, round: &Round, answer: Reconciled) -> Option<Next> {
        let Reconciled { head, found } = answer;
        let first = *self.first.get_or_insert(head);
        if head.epoch != first.epoch || head.version < first.version {
            return None;
        }
        self.horizon = self.horizon.max(head.version);
        match (round, found) {
            (Round::Groups, Found::Sums(theirs)) => {
                let groups = self.sums.differing_groups(&theirs);
                if !groups_pay(&self.facts, groups.len()) {
                    return Some(Next::Load);
                }
                if groups.is_empty() {
                    return Some(Next::Write);
                }
                let groups = groups.into_iter().filter_map(Group::new).collect();
                Some(Next::Task(Task::Round(Round::Leaves { at: self.at()?, groups })))
            }
            (Round::Leaves { groups, .. }, Found::Sums(theirs)) => {
                let groups: Vec<u8> = groups.iter().map(|group| group.get()).collect();
                self.differing = self.sums.differing_segments(&groups, &theirs);
                if !segments_pay(&self.facts, self.differing.len()) {
                    return Some(Next::Load);
                }
                self.to_ask = self.differing.iter().copied().collect();
                Some(self.ask_entries())
            }
            (Round::Entries { .. }, Found::Entries(entries, next_page)) => {
                self.page_token = next_page;
                Some(Next::Task(Task::Compare(entries)))
            }
            (Round::Groups | Round::Leaves { .. }, Found::Entries(..))
            | (Round::Entries { .. }, Found::Sums(_)) => None,
        }
    }

    /// Fetches what is to be fetched, then goes on to the next page and the next segments.
    fn go_on(&mut self, page_bytes: usize) -> Next {
        if self.to_fetch.is_empty() {
            return self.ask_entries();
        }
        let mut bytes = 0;
        let few = self.to_fetch.iter().take(GET_ITEMS_KEYS_MAX).take_while(|(key, value)| {
            let fits = bytes == 0 || bytes + *value as usize <= page_bytes;
            bytes += key.as_bytes().len() + *value as usize;
            fits
        });
        Next::Task(Task::Fetch(few.map(|(key, _)| key.clone()).collect()))
    }

    fn ask_entries(&mut self) -> Next {
        if self.page_token.is_empty() {
            let few = self.to_ask.len().min(RECONCILE_NODES_MAX);
            self.asked = self.to_ask.drain(..few).collect();
        }
        let Some(at) = self.at().filter(|_| !self.asked.is_empty()) else {
            let differing = std::mem::take(&mut self.differing);
            return Next::Task(Task::Rest(differing));
        };
        let (segments, page_token) = (self.asked.clone(), self.page_token.clone());
        Next::Task(Task::Round(Round::Entries { at, segments, page_token }))
    }
}

// === impl Track ===

impl Track {
    /// Whether its repair is to compare, and has not begun.
    pub(super) fn plans_mend(&self) -> bool {
        self.mend.as_ref().is_some_and(|mend| mend.id.is_none())
    }

    pub(super) fn is_mending(&self) -> bool {
        self.mend.as_ref().is_some_and(|mend| mend.id.is_some())
    }

    pub(super) fn begin_mend(&mut self, name: &CollectionName, id: MendId, cx: &mut Context<'_>) {
        self.pull = PullState::Mending;
        if let Some(mend) = &mut self.mend {
            mend.id = Some(id);
            let task = mend.begin();
            self.give_out(name, task, cx);
        }
    }

    /// Drops a repair, whatever has become of it.
    pub(super) fn drop_mend(&mut self) {
        self.mend = None;
        if self.pull == PullState::Mending {
            self.pull = PullState::Idle;
        }
    }

    fn give_out(&mut self, name: &CollectionName, task: Task, cx: &mut Context<'_>) {
        let Some(mend) = &mut self.mend else { return };
        let Some(id) = mend.id else { return };
        mend.retry_at = None;
        mend.task = Some(task.clone());
        cx.actions.push_back(Action::Mend(name.clone(), id, task));
    }

    pub(super) fn on_mended(
        &mut self,
        name: &CollectionName,
        id: MendId,
        result: Result<Done, MendFault>,
        cx: &mut Context<'_>,
    ) {
        let Some(mend) = self.mend.as_mut().filter(|mend| mend.id == Some(id)) else { return };
        match result {
            Ok(done) => {
                self.faults.reset();
                match mend.on_done(done, cx.page_bytes) {
                    Some(Next::Task(task)) => self.give_out(name, task, cx),
                    Some(Next::Write) => self.write_mend(name, cx),
                    Some(Next::Load) => self.load_instead(name, cx),
                    None => self.mend_again(name, cx),
                }
            }
            Err(MendFault::Call(Fault::Passing | Fault::Slow)) => {
                self.retry_mend(Duration::ZERO, cx);
            }
            Err(MendFault::Call(Fault::Asked(least))) => self.retry_mend(least, cx),
            Err(MendFault::Call(Fault::Lasting | Fault::Unauthenticated)) => {
                self.retry_mend(super::LASTING_FAULT_WAIT, cx);
            }
            Err(MendFault::Moved) => self.mend_again(name, cx),
            Err(MendFault::NotFound) => {
                self.drop_mend();
                self.vanish(name, cx);
            }
            Err(MendFault::Denied) => self.deny(cx),
            Err(MendFault::Unknown) => {
                *cx.compares = false;
                self.load_instead(name, cx);
            }
            Err(MendFault::Damaged | MendFault::Call(Fault::Refused)) => {
                self.load_instead(name, cx);
            }
        }
    }

    /// A call failed: the same task is given out again after a while.
    fn retry_mend(&mut self, at_least: Duration, cx: &mut Context<'_>) {
        cx.stats.target_failures += 1;
        let wait = self.faults.next(cx.dice).max(at_least);
        if let Some(mend) = &mut self.mend {
            mend.retry_at = Some(cx.now + wait);
        }
    }

    /// Gives a task out again whose time has come.
    pub(super) fn retry_due(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        let due = self.mend.as_mut().filter(|m| m.retry_at.is_some_and(|at| at <= cx.now));
        if let Some(task) = due.and_then(|mend| mend.task.clone()) {
            self.give_out(name, task, cx);
        }
    }

    fn mend_again(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        let Some(mend) = &mut self.mend else { return };
        mend.restarts += 1;
        if mend.restarts > RESTARTS_MAX {
            self.load_instead(name, cx);
        } else {
            let task = mend.begin();
            self.give_out(name, task, cx);
        }
    }

    fn write_mend(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        let Some(mend) = &self.mend else { return };
        let Some(at) = mend.at() else { return };
        let (before, reorder, horizon) = (mend.sums.tally, mend.sums.disordered, mend.horizon);
        let to = at.between_pages(at.version);
        self.write_mended(name, to, (before, reorder), horizon, cx);
    }
}
