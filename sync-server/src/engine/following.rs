//! The server's half of a subscription: a loop on cursors. Read what is behind a cursor; when
//! there is nothing, wait until a head moves. There is no second "live mode", so there is no seam
//! between first load, catch-up and live. Synchronous: no stream, no clock; the shell in
//! `rpc::subscribe` waits and sends, a simulation drives the same code.
//!
//! ```text
//!             page, has_more                         collection deleted
//!            +--------------+                   +-------------------------+
//!            |              v                   |                         v
//!  Accepted: Behind ----> Behind --page--> CaughtUp(head) --head moved--> due again
//!            Absent --created--> due (a first load)       --epoch, floor--> Ended (Reset)
//!            Ended (Reset, Denied, Revoked)
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::types::{
    AcceptedTarget, CollectionName, Cursor, Delta, Event, Head, Outcome, Plan, Position, Reset,
    Target, Timestamp,
};

use super::ledger::Ledger;
use super::reading::{Look, PageRequest, told_from};
use super::tails::Tail;
use crate::core::page::PageLimits;
use crate::core::read::{ReadPlan, decide, reset};
use crate::core::route::LookLimits;
use crate::store::{Store, StoreError};

#[cfg(test)]
mod tests;

/// The targets of one subscription, and how far each has come.
#[derive(Debug)]
pub struct Following {
    targets: Vec<One>,
    limits: PageLimits,
    /// Targets that have something to read, in the order of their turns.
    due: VecDeque<usize>,
}

#[derive(Debug)]
struct One {
    /// Its cursor is how far the log was read.
    target: Target,
    /// How far the subscriber was told. Behind the target's cursor when nothing in scope
    /// happened since: the next changes continue from here, so that no gap is seen where nothing
    /// is missing.
    told: Option<Cursor>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Changes behind the target's cursor are still to be sent.
    Behind,
    /// Everything up to this head has been sent.
    CaughtUp(Head),
    /// There is no such collection now.
    Absent,
    /// Nothing more is sent for it.
    Ended,
}

/// What a turn of a target has to say, in order.
type Events = Vec<Event<Bytes>>;

// === impl Following ===

impl Following {
    /// Decides how each target is served. `may_read` says what the caller's rights cover.
    pub fn accept<S: Store>(
        ledger: &Ledger<S>,
        targets: Vec<Target>,
        limits: PageLimits,
        may_read: impl Fn(&CollectionName) -> bool,
    ) -> (Self, Vec<AcceptedTarget>) {
        let mut following =
            Self { targets: Vec::with_capacity(targets.len()), limits, due: VecDeque::new() };
        let mut accepted = Vec::with_capacity(targets.len());
        for (index, mut target) in targets.into_iter().enumerate() {
            let allowed = may_read(&target.collection);
            let head = allowed.then(|| ledger.head(&target.collection)).flatten();
            let (plan, state) = plan(&mut target, allowed, head);
            if state == State::Behind {
                following.due.push_back(index);
            }
            accepted.push(AcceptedTarget { collection: target.collection.clone(), plan, head });
            following.targets.push(One { told: target.cursor, target, state });
        }
        (following, accepted)
    }

    /// The targets, as far as they have come.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().map(|one| &one.target)
    }

    /// Takes note that the heads of these targets moved. Other numbers are not its business.
    pub fn mark(&mut self, moved: BTreeSet<usize>) {
        for index in moved {
            let ended = self.targets.get(index).is_none_or(|one| one.state == State::Ended);
            if !ended && !self.due.contains(&index) {
                self.due.push_back(index);
            }
        }
    }

    /// Whether some target has something to read.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether some target without a first load has something to read.
    #[must_use]
    pub fn is_other_due(&self) -> bool {
        self.due.iter().any(|index| !self.targets[*index].loads())
    }

    /// Whether the next target has a first load to begin or to go on with.
    #[must_use]
    pub fn is_load_next(&self) -> bool {
        self.due.front().is_some_and(|index| self.targets[*index].loads())
    }

    /// Gives the next turn to a target without a first load; false = none is due.
    pub fn put_other_first(&mut self) -> bool {
        self.put_first(|one| !one.loads())
    }

    /// Gives the next turn to a target with a first load; false = none is due.
    pub fn put_load_first(&mut self) -> bool {
        self.put_first(One::loads)
    }

    fn put_first(&mut self, wanted: impl Fn(&One) -> bool) -> bool {
        let place = self.due.iter().position(|index| wanted(&self.targets[*index]));
        let Some(index) = place.and_then(|place| self.due.remove(place)) else { return false };
        self.due.push_front(index);
        true
    }

    /// Whether something that some target has not been sent is known.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.targets.iter().any(|one| one.state == State::Behind)
    }

    /// Gives the next target its turn: one page at most. `slow`: the subscriber has made the
    /// server wait, so a target that was live and moved meanwhile lags.
    pub fn step<S: Store>(&mut self, ledger: &Ledger<S>, slow: bool) -> Result<Events, StoreError> {
        let Some(index) = self.due.pop_front() else { return Ok(Vec::new()) };
        let one = &mut self.targets[index];
        if one.target.notify_only {
            return Ok(one.notify(ledger).into_iter().collect());
        }
        if one.live_at().is_some() {
            ledger.join_tail(&one.target.collection, PageLimits::FULL);
        }
        let (look, too_large) = one.look(ledger, self.limits)?;
        if let Some(reset) = too_large {
            return Ok(vec![one.end(reset)]);
        }
        match look {
            Look::NothingYet(covered) => {
                one.target.cursor = Some(covered);
                self.due.push_back(index);
                Ok(Vec::new())
            }
            // A subscriber that was told nothing yet begins anew without a word.
            Look::Answer(Outcome::Reset(_), _) if one.told.is_none() => {
                one.target.cursor = None;
                self.due.push_back(index);
                Ok(Vec::new())
            }
            Look::Answer(Outcome::Delta(delta), _) => {
                // Behind the others: a target that is far behind does not hide them.
                if delta.has_more {
                    self.due.push_back(index);
                }
                Ok(one.deliver(delta, slow))
            }
            Look::Answer(Outcome::Aligned(head), _) => Ok(one.arrive(head).into_iter().collect()),
            Look::Answer(Outcome::Reset(reset), _) => Ok(vec![one.end(reset)]),
            Look::Answer(Outcome::NotFound, _) => Ok(one.vanish().into_iter().collect()),
            Look::Answer(Outcome::Deferred(_) | Outcome::Denied | Outcome::Failed(_), _) => {
                Err(StoreError::Damaged {
                    place: "a log".to_owned(),
                    reason: "holds a version that fits into no page".to_owned(),
                })
            }
        }
    }

    /// What the next target is sent, if it is at hand: pages that all its live followers share,
    /// each a message of its own. Nothing is read. Once sent, [`Following::took`] them.
    pub fn at_hand<S: Store>(&self, ledger: &Ledger<S>) -> Option<Vec<Arc<Tail>>> {
        let one = &self.targets[*self.due.front()?];
        ledger.tails(&one.target.collection, one.live_at()?)
    }

    /// The next target's collection, and where the target stands in it, if it is live.
    #[must_use]
    pub fn next_live(&self) -> Option<(CollectionName, Cursor)> {
        let one = &self.targets[*self.due.front()?];
        Some((one.name(), one.live_at()?))
    }

    /// The next target has had its turn: it was sent these pages, which were at hand.
    pub fn took(&mut self, tails: &[Arc<Tail>]) {
        let (Some(index), Some(newest)) = (self.due.pop_front(), tails.last()) else {
            panic!("pages of nobody");
        };
        let one = &mut self.targets[index];
        debug_assert_eq!(one.told, tails.first().map(|tail| tail.delta.from));
        one.arrive(newest.delta.head);
        one.told = one.target.cursor;
    }

    /// Ends the targets that may not be read any more, and says which: nothing of them follows.
    pub fn revoke(&mut self, may_read: impl Fn(&CollectionName) -> bool) -> Vec<CollectionName> {
        let live = self.targets.iter_mut().filter(|one| one.state != State::Ended);
        let revoked = live.filter(|one| !may_read(&one.target.collection)).map(|one| {
            one.state = State::Ended;
            one.name()
        });
        let revoked = revoked.collect();
        self.due.retain(|index| self.targets[*index].state != State::Ended);
        revoked
    }

    /// Where the caught-up targets stand.
    #[must_use]
    pub fn bookmark(&self, now: Timestamp) -> Event<Bytes> {
        Event::Bookmark(self.targets.iter().filter_map(One::position).collect(), now)
    }
}

// === impl One ===

impl One {
    fn name(&self) -> CollectionName {
        self.target.collection.clone()
    }

    fn loads(&self) -> bool {
        !self.target.notify_only && self.target.cursor.is_none_or(|cursor| cursor.is_loading())
    }

    /// Where it stands, if it is one that is sent whatever happens to its collection, and has been
    /// sent all that did.
    fn live_at(&self) -> Option<Cursor> {
        let State::CaughtUp(head) = self.state else { return None };
        let Target { scope, keys_only, notify_only, collection, .. } = &self.target;
        let takes_all = scope.is_all() && !keys_only && !notify_only && !collection.is_inbox();
        let at = head.cursor();
        (takes_all && self.told == Some(at)).then_some(at)
    }

    /// Looks once. The first look also judges whether the catch-up is too large.
    fn look<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        limits: PageLimits,
    ) -> Result<(Look, Option<Reset>), StoreError> {
        let asked = PageRequest {
            collection: &self.target.collection,
            cursor: self.target.cursor,
            scope: &self.target.scope,
            keys_only: self.target.keys_only,
            verify: self.target.verify,
            catch_up_max: self.target.changes_max,
            limits,
            look: LookLimits::FULL,
        };
        let too_large = ledger.too_large(&asked, &mut 0)?;
        let look = ledger.read_on(&asked)?;
        self.target.changes_max = None;
        Ok((look, too_large))
    }

    fn deliver(&mut self, delta: Delta<Bytes>, slow: bool) -> Events {
        let (to, head, has_more) = (delta.to, delta.head, delta.has_more);
        let delta = told_from(self.told, delta);
        let was_live = matches!(self.state, State::CaughtUp(_));
        let mut events = Vec::new();
        if was_live && (has_more || slow) {
            self.state = State::Behind;
            let behind = head.version.get().saturating_sub(delta.from.version.get());
            events.push(Event::Lagging(self.name(), behind));
        }
        // What happened outside of a scope is not worth a message of its own; that deletes may be
        // missing is, because the next changes would continue from here as if none were.
        if !delta.changes.is_empty() || !was_live || delta.unverified {
            self.told = Some(to);
            events.push(Event::Changes(self.name(), delta));
        }
        self.target.cursor = Some(to);
        if !has_more {
            events.extend(self.arrive(head));
        }
        events
    }

    /// The target stands at `head`.
    fn arrive(&mut self, head: Head) -> Option<Event<Bytes>> {
        let was_live = matches!(self.state, State::CaughtUp(_));
        self.target.cursor = Some(head.cursor());
        self.state = State::CaughtUp(head);
        (!was_live).then(|| {
            self.told = Some(head.cursor());
            Event::CaughtUp(self.name(), head.cursor())
        })
    }

    fn end(&mut self, reset: Reset) -> Event<Bytes> {
        self.state = State::Ended;
        Event::Reset(self.name(), reset)
    }

    /// The collection does not exist: said once, and a first load if it is created again.
    fn vanish(&mut self) -> Option<Event<Bytes>> {
        self.target.cursor = None;
        self.told = None;
        let known = self.state == State::Absent;
        self.state = State::Absent;
        (!known).then(|| Event::Absent(self.name()))
    }

    fn notify<S: Store>(&mut self, ledger: &Ledger<S>) -> Option<Event<Bytes>> {
        let Some(head) = ledger.head(&self.target.collection) else { return self.vanish() };
        let known = self.state == State::CaughtUp(head);
        self.state = State::CaughtUp(head);
        (!known).then(|| Event::Notice(self.name(), head))
    }

    fn position(&self) -> Option<Position> {
        let State::CaughtUp(head) = self.state else { return None };
        (!self.target.notify_only).then(|| Position {
            collection: self.name(),
            cursor: head.cursor(),
            digest: self.target.scope.is_all().then_some(head.digest),
            commit_time: head.commit_time,
        })
    }
}

/// A target that is only notified may still show a cursor, which is judged like any other.
fn plan_notify(target: &Target, head: Option<Head>) -> (Plan, State) {
    let Some(head) = head else { return (Plan::Notify, State::Absent) };
    let judged = target.cursor.map(|cursor| decide(&head, Some(cursor), false));
    if let Some(ReadPlan::Reset(reason)) = judged {
        return (Plan::Reset(reset(reason, head, &target.scope)), State::Ended);
    }
    (Plan::Notify, State::CaughtUp(head))
}

/// How a target is served, and where that leaves it.
fn plan(target: &mut Target, allowed: bool, head: Option<Head>) -> (Plan, State) {
    if !allowed {
        return (Plan::Denied, State::Ended);
    }
    if target.notify_only {
        return plan_notify(target, head);
    }
    let Some(head) = head else {
        target.cursor = None;
        return (Plan::Absent, State::Absent);
    };
    match decide(&head, target.cursor, target.verify && target.scope.is_all()) {
        ReadPlan::Aligned => {
            target.cursor = Some(head.cursor());
            // There is no catch-up to be judged.
            target.changes_max = None;
            (Plan::Live, State::CaughtUp(head))
        }
        ReadPlan::Page(start) if start.from.is_loading() => (Plan::Load, State::Behind),
        ReadPlan::Page(_) => (Plan::CatchUp, State::Behind),
        ReadPlan::Reset(reason) => (Plan::Reset(reset(reason, head, &target.scope)), State::Ended),
    }
}
