//! Notices: a stream of an inbox is told of the collections that the inbox does not announce. Like
//! the rest of a subscription this is a level: remembered is what the subscriber was told, and what
//! may have moved since; what is told is where it stands then. Synchronous, no clock: the shell says
//! how long the stream has lasted, and listens to what is watched.
//!
//! ```text
//!   inbox caught up, or a switch somewhere, or entries that changed
//!        │ look: which of its entries are read-diffused?
//!        ▼
//!   watched ──moved──► pending ──► stands where it was told? ──no──► Notice
//!      ▲  ▲                                                            │ not listened to
//!      │  └──────────── listened to, and looked at once more ◄── its time has come again
//!      └── unwatched when it is not followed, or announces itself again
//! ```
//! Whoever was just told need not be woken: a commit to a busy collection wakes each of its live
//! followers once in an interval, not once for each commit. First the shell listens to a collection,
//! then it is looked at: nothing falls between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::convert::decode_change;
use sync_proto::types::{
    AcceptedTarget, CollectionName, Delta, Event, InboxEntry, InboxNotice, Plan, Scope, Target,
};

use super::hub::WATCHED_FROM;
use super::ledger::Ledger;
use super::polling::{Found, HotFollow, Search, name_of};
use crate::core::inbox::in_scope;
use crate::store::{Store, StoreError};

#[cfg(test)]
mod tests;

/// Collections that are watched for one inbox of a stream. Of more, pulls tell.
pub const WATCHED_MAX: usize = 512;

/// Collections that are watched for all inboxes of a stream. Of more, pulls tell.
pub const STREAM_WATCHED_MAX: usize = 4_096;

/// Looks into an inbox in one turn.
const LOOKS: usize = 8;

/// Notices of one turn.
const NOTICES_MAX: usize = 256;

/// What a stream calls a collection that it watches, from [`WATCHED_FROM`] on.
pub type WatchId = usize;

/// Whom to listen to from now on, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watching {
    /// Listen to this collection.
    Begin(WatchId, CollectionName),
    /// Listen to it no longer.
    End(WatchId),
}

/// The inboxes of one subscription, and what is watched for them.
#[derive(Debug)]
pub struct Noticing {
    inboxes: BTreeMap<usize, Inbox>,
    interval: Duration,
    watched: BTreeMap<WatchId, Watched>,
    next_id: WatchId,
    /// What may have moved, by when it may be told.
    pending: BTreeSet<(Duration, WatchId)>,
    /// Inboxes that are to be looked through.
    due: BTreeSet<usize>,
    changes: Vec<Watching>,
}

#[derive(Debug)]
struct Inbox {
    name: CollectionName,
    scope: Scope,
    /// Its subscriber has all of its entries.
    caught_up: bool,
    by_name: BTreeMap<CollectionName, WatchId>,
    /// All of it is to be looked through.
    anew: bool,
    /// It is being looked through.
    through: Option<Through>,
    /// Entries that changed, to be looked at.
    changed: BTreeSet<CollectionName>,
    /// How many switches there had been when it was looked at.
    switches: u64,
    /// There is more to watch than may be.
    cut: bool,
}

/// How far an inbox is looked through.
#[derive(Debug, Default)]
struct Through {
    after: Option<CollectionName>,
    found: BTreeMap<CollectionName, HotFollow>,
}

#[derive(Debug)]
struct Watched {
    inbox: usize,
    name: CollectionName,
    told: InboxEntry,
    /// When the next notice may be sent.
    free: Duration,
    /// When it is pending.
    due: Option<Duration>,
    /// The shell listens to it.
    heard: bool,
}

// === impl Noticing ===

impl Noticing {
    /// What is to be watched for these targets, as they were accepted. `interval`: at least this
    /// long between two notices of one collection.
    #[must_use]
    pub fn new<'t>(
        targets: impl Iterator<Item = &'t Target>,
        accepted: &[AcceptedTarget],
        interval: Duration,
    ) -> Self {
        let mut noticing = Self {
            inboxes: BTreeMap::new(),
            interval,
            watched: BTreeMap::new(),
            next_id: WATCHED_FROM,
            pending: BTreeSet::new(),
            due: BTreeSet::new(),
            changes: Vec::new(),
        };
        for (index, (target, accepted)) in targets.zip(accepted).enumerate() {
            if !target.collection.is_inbox() {
                continue;
            }
            let (name, scope) = (target.collection.clone(), target.scope.clone());
            let exists = accepted.head.is_some();
            let caught_up = match accepted.plan {
                Plan::Live => true,
                Plan::Notify => exists,
                Plan::CatchUp | Plan::Load | Plan::Absent => false,
                Plan::Reset(_) | Plan::Denied => continue,
            };
            let inbox = Inbox {
                name,
                scope,
                caught_up,
                by_name: BTreeMap::new(),
                anew: true,
                through: None,
                changed: BTreeSet::new(),
                switches: 0,
                cut: false,
            };
            noticing.inboxes.insert(index, inbox);
            if caught_up {
                noticing.due.insert(index);
            }
        }
        noticing
    }

    /// Takes note that these moved: targets by their numbers, others by what they were called.
    pub fn mark(&mut self, moved: &BTreeSet<usize>, now: Duration) {
        for index in moved {
            if let Some(watched) = self.watched.get(index) {
                self.put_off(*index, watched.free.max(now));
            } else if self.inboxes.get(index).is_some_and(|inbox| inbox.caught_up) {
                // Perhaps nothing of the inbox changed: something is switched to be read.
                self.due.insert(*index);
            }
        }
    }

    /// Takes note of what the subscriber is told of the targets.
    pub fn heard(&mut self, events: &[Event<Bytes>]) -> Result<(), StoreError> {
        for event in events {
            match event {
                Event::CaughtUp(name, _) | Event::Notice(name, _) => self.look_through(name),
                Event::Changes(name, delta) => self.look_at(name, delta)?,
                // What it is told until it has caught up is looked through then.
                Event::Lagging(name, _) => self.set_caught_up(name, false),
                Event::Absent(name) => {
                    self.set_caught_up(name, false);
                    self.forget(name);
                }
                Event::Reset(name, _) | Event::Revoked(name) | Event::Failed(name, _) => {
                    self.forget(name);
                    self.inboxes.retain(|_, inbox| inbox.name != *name);
                }
                Event::Accepted(..)
                | Event::InboxNotice(_)
                | Event::Bookmark(..)
                | Event::Goodbye(_) => {}
            }
        }
        Ok(())
    }

    /// The caller's rights have changed, and these targets have ended: what is watched for others
    /// is looked through before anything else is told.
    pub fn revoked(&mut self, ended: &[CollectionName]) {
        for name in ended {
            self.forget(name);
            self.inboxes.retain(|_, inbox| inbox.name != *name);
        }
        for (index, inbox) in self.inboxes.iter_mut().filter(|(_, inbox)| inbox.caught_up) {
            inbox.anew = true;
            self.due.insert(*index);
        }
    }

    /// Whether there is something to look at now.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        !self.due.is_empty() || self.next_at().is_some_and(|at| at <= now)
    }

    /// When the next notice may be sent that waits for its time.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.pending.first().map(|(at, _)| *at)
    }

    /// Whom to listen to from now on, before the next step.
    pub fn take_changes(&mut self) -> Vec<Watching> {
        std::mem::take(&mut self.changes)
    }

    /// Looks at what is due, and says what moved. `may_read`: a notice shows a whole head, which the
    /// caller's rights must cover.
    pub fn step<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        now: Duration,
        may_read: impl Fn(&CollectionName) -> bool,
    ) -> Result<Vec<Event<Bytes>>, StoreError> {
        if let Some(index) = self.due.pop_first() {
            self.look(index, ledger, now, &may_read)?;
            return Ok(Vec::new());
        }
        let ready = self.pending.iter().take_while(|(at, _)| *at <= now);
        let ready: Vec<_> = ready.take(NOTICES_MAX).copied().collect();
        let mut notices = Vec::new();
        for (at, id) in ready {
            self.pending.remove(&(at, id));
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            watched.due = None;
            if !may_read(&watched.name) {
                let (index, name) = (watched.inbox, watched.name.clone());
                self.unwatch(index, &name, id);
                continue;
            }
            if !watched.heard {
                watched.heard = true;
                self.changes.push(Watching::Begin(id, watched.name.clone()));
                self.put_off(id, now);
                continue;
            }
            let Some((truth, head)) = ledger.stands_at(&watched.name) else {
                // It announces itself again: the inbox tells.
                let (index, name) = (watched.inbox, watched.name.clone());
                self.unwatch(index, &name, id);
                continue;
            };
            if truth == watched.told {
                continue;
            }
            watched.told = truth;
            watched.free = now + self.interval;
            watched.heard = false;
            let (free, collection) = (watched.free, watched.name.clone());
            let Some(inbox) = self.inboxes.get(&watched.inbox) else { continue };
            let inbox = inbox.name.clone();
            self.changes.push(Watching::End(id));
            self.put_off(id, free);
            notices.push(Event::InboxNotice(InboxNotice { inbox, collection, head }));
        }
        Ok(notices)
    }

    fn look_through(&mut self, name: &CollectionName) {
        self.set_caught_up(name, true);
        for (index, inbox) in self.inboxes.iter_mut().filter(|(_, inbox)| inbox.name == *name) {
            inbox.anew = true;
            self.due.insert(*index);
        }
    }

    fn look_at(&mut self, name: &CollectionName, delta: &Delta<Bytes>) -> Result<(), StoreError> {
        let Some((index, inbox)) = self.inboxes.iter_mut().find(|(_, it)| it.name == *name) else {
            return Ok(());
        };
        if !inbox.caught_up {
            return Ok(());
        }
        for change in &delta.changes {
            let change = decode_change(change.clone()).map_err(|error| StoreError::Damaged {
                place: "an inbox".to_owned(),
                reason: error.to_string(),
            })?;
            inbox.changed.insert(name_of(&change.key)?);
        }
        self.due.insert(*index);
        Ok(())
    }

    fn set_caught_up(&mut self, name: &CollectionName, caught_up: bool) {
        for inbox in self.inboxes.values_mut().filter(|inbox| inbox.name == *name) {
            inbox.caught_up = caught_up;
        }
    }

    fn forget(&mut self, name: &CollectionName) {
        let inboxes = self.inboxes.values_mut().filter(|inbox| inbox.name == *name);
        let ids: Vec<WatchId> =
            inboxes.flat_map(|inbox| std::mem::take(&mut inbox.by_name).into_values()).collect();
        for id in ids {
            self.end(id);
        }
    }

    fn look<S: Store>(
        &mut self,
        index: usize,
        ledger: &Ledger<S>,
        now: Duration,
        may_read: &impl Fn(&CollectionName) -> bool,
    ) -> Result<(), StoreError> {
        let Some(inbox) = self.inboxes.get_mut(&index) else { return Ok(()) };
        if !inbox.caught_up {
            return Ok(());
        }
        if std::mem::take(&mut inbox.anew) {
            // Before looking: what is switched meanwhile is looked for again.
            inbox.switches = ledger.switches();
            inbox.through = Some(Through::default());
            inbox.changed.clear();
        }
        if inbox.through.is_some() {
            return self.look_on(index, ledger, now, may_read);
        }
        let mut names = std::mem::take(&mut inbox.changed);
        let before = std::mem::replace(&mut inbox.switches, ledger.switches());
        let Some(switched) = ledger.switched_since(before) else {
            inbox.anew = true;
            self.due.insert(index);
            return Ok(());
        };
        names.extend(switched);
        for name in names {
            let Some(inbox) = self.inboxes.get(&index) else { return Ok(()) };
            let wanted = in_scope(&inbox.scope, &name) && may_read(&name);
            let found = if wanted { ledger.hot_follow(&inbox.name, &name)? } else { None };
            match (found, inbox.by_name.get(&name).copied()) {
                (Some(follow), None) => self.begin(index, follow, now),
                (None, Some(id)) => self.unwatch(index, &name, id),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        self.fill(index);
        Ok(())
    }

    /// Looks for others if there is room for some of those that there was none for.
    fn fill(&mut self, index: usize) {
        let room = self.watched.len() < STREAM_WATCHED_MAX;
        if let Some(inbox) = self.inboxes.get_mut(&index)
            && inbox.cut
            && room
            && inbox.by_name.len() < WATCHED_MAX
        {
            inbox.anew = true;
            self.due.insert(index);
        }
    }

    /// Looks on through an inbox, a piece at a time.
    fn look_on<S: Store>(
        &mut self,
        index: usize,
        ledger: &Ledger<S>,
        now: Duration,
        may_read: &impl Fn(&CollectionName) -> bool,
    ) -> Result<(), StoreError> {
        let Some(inbox) = self.inboxes.get_mut(&index) else { return Ok(()) };
        let Some(mut through) = inbox.through.take() else { return Ok(()) };
        let search = Search {
            inbox: &inbox.name,
            scope: &inbox.scope,
            after: through.after.as_ref(),
            only_moved: false,
            may_read,
            most: WATCHED_MAX + 1 - through.found.len(),
        };
        let Found { follows, rest } =
            ledger.hot_follows(&search, &mut { LOOKS }, &AtomicBool::new(false))?;
        let room = WATCHED_MAX - through.found.len();
        let cut = follows.len() > room;
        let follows = follows.into_iter().take(room);
        through.found.extend(follows.map(|follow| (follow.name.clone(), follow)));
        if !cut && let Some(rest) = rest {
            through.after = Some(rest.name);
            inbox.through = Some(through);
            self.due.insert(index);
            return Ok(());
        }
        inbox.cut = cut;
        let gone = inbox.by_name.iter().filter(|(name, _)| !through.found.contains_key(*name));
        let gone: Vec<_> = gone.map(|(name, id)| (name.clone(), *id)).collect();
        for (name, id) in gone {
            self.unwatch(index, &name, id);
        }
        for (name, follow) in through.found {
            let known = self.inboxes.get(&index).map(|it| it.by_name.contains_key(&name));
            if known == Some(false) {
                self.begin(index, follow, now);
            }
        }
        // What changed meanwhile, and what was switched.
        self.due.insert(index);
        Ok(())
    }

    fn put_off(&mut self, id: WatchId, until: Duration) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        if let Some(due) = watched.due.replace(until) {
            self.pending.remove(&(due, id));
        }
        self.pending.insert((until, id));
    }

    fn begin(&mut self, index: usize, follow: HotFollow, now: Duration) {
        let Some(inbox) = self.inboxes.get_mut(&index) else { return };
        let full = self.watched.len() == STREAM_WATCHED_MAX;
        if full || inbox.by_name.len() == WATCHED_MAX {
            inbox.cut = true;
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let HotFollow { name, entry, .. } = follow;
        inbox.by_name.insert(name.clone(), id);
        self.changes.push(Watching::Begin(id, name.clone()));
        let watched =
            Watched { inbox: index, name, told: entry, free: now, due: None, heard: true };
        self.watched.insert(id, watched);
        // Looked at once more when it is listened to.
        self.put_off(id, now);
    }

    fn unwatch(&mut self, index: usize, name: &CollectionName, id: WatchId) {
        if let Some(inbox) = self.inboxes.get_mut(&index) {
            inbox.by_name.remove(name);
        }
        self.end(id);
    }

    fn end(&mut self, id: WatchId) {
        let Some(watched) = self.watched.remove(&id) else { return };
        if let Some(due) = watched.due {
            self.pending.remove(&(due, id));
        }
        if watched.heard {
            self.changes.push(Watching::End(id));
        }
    }
}
