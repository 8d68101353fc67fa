//! Notices: a stream of an inbox is told of the collections that the inbox does not announce. Like
//! the rest of a subscription this is a level: remembered is what the subscriber was told, and what
//! may have moved since; what is told is where it stands then. Synchronous, no clock: the shell says
//! how long the stream has lasted, and listens to what is watched.
//!
//! ```text
//!   inbox caught up, or a switch somewhere, or entries that changed
//!        │ look: which of its entries are read-diffused?
//!        ▼
//!   watched ──moved──► pending ──its time has come──► stands where it was told? ──no──► Notice
//!      ▲  (first the shell listens to it, then it is pending: nothing falls between)
//!      └── unwatched when it is not followed, or announces itself again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::convert::decode_change;
use sync_proto::types::{
    AcceptedTarget, CollectionName, Delta, Event, InboxEntry, InboxNotice, Plan, Scope, Target,
};

use super::ledger::Ledger;
use super::polling::{HotFollow, Search, name_of};
use crate::core::inbox::in_scope;
use crate::store::{Store, StoreError};

#[cfg(test)]
mod tests;

/// Collections that are watched for one inbox of a stream. Of more, pulls tell.
pub const WATCHED_MAX: usize = 512;

/// Notices of one turn.
const NOTICES_MAX: usize = 256;

/// What a stream calls a collection that it watches: behind the numbers of its targets.
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
    /// What may have moved, and when it may be told.
    pending: BTreeMap<WatchId, Duration>,
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
    look: Look,
    /// How many switches there had been when it was looked through.
    switches: u64,
    /// There is more to watch than may be.
    cut: bool,
}

/// What of an inbox is to be looked at.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// All of it, if anything has been switched.
    Switches,
    /// Entries that changed.
    Some(BTreeSet<CollectionName>),
    /// All of it.
    All,
}

#[derive(Debug)]
struct Watched {
    inbox: usize,
    name: CollectionName,
    told: InboxEntry,
    /// When the next notice may be sent.
    free: Duration,
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
            next_id: accepted.len(),
            pending: BTreeMap::new(),
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
            let (by_name, look) = (BTreeMap::new(), Look::All);
            let (switches, cut) = (0, false);
            let inbox = Inbox { name, scope, caught_up, by_name, look, switches, cut };
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
                self.pending.insert(*index, watched.free.max(now));
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

    /// Whether there is something to look at now.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        !self.due.is_empty() || self.next_at().is_some_and(|at| at <= now)
    }

    /// When the next notice may be sent that waits for its time.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.pending.values().min().copied()
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
        let ready = self.pending.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id);
        let ready: Vec<WatchId> = ready.take(NOTICES_MAX).collect();
        let mut notices = Vec::new();
        for id in ready {
            self.pending.remove(&id);
            let Some(watched) = self.watched.get_mut(&id) else { continue };
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
            let Some(inbox) = self.inboxes.get(&watched.inbox) else { continue };
            let (inbox, collection) = (inbox.name.clone(), watched.name.clone());
            notices.push(Event::InboxNotice(InboxNotice { inbox, collection, head }));
        }
        Ok(notices)
    }

    fn look_through(&mut self, name: &CollectionName) {
        self.set_caught_up(name, true);
        for (index, inbox) in self.inboxes.iter_mut().filter(|(_, inbox)| inbox.name == *name) {
            inbox.look = Look::All;
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
        let mut names = BTreeSet::new();
        for change in &delta.changes {
            let change = decode_change(change.clone()).map_err(|error| StoreError::Damaged {
                place: "an inbox".to_owned(),
                reason: error.to_string(),
            })?;
            names.insert(name_of(&change.key)?);
        }
        match &mut inbox.look {
            Look::All => {}
            Look::Some(earlier) => earlier.extend(names),
            Look::Switches => inbox.look = Look::Some(names),
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
        // Before looking: what is switched meanwhile is looked for again.
        let switches = ledger.switches();
        let look = std::mem::replace(&mut inbox.look, Look::Switches);
        let changed = switches != std::mem::replace(&mut inbox.switches, switches);
        let names = match look {
            Look::Some(names) if !changed && !inbox.cut => names,
            Look::Switches if !changed => return Ok(()),
            Look::Some(_) | Look::Switches | Look::All => {
                return self.look_at_all(index, ledger, now, may_read);
            }
        };
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
        Ok(())
    }

    fn look_at_all<S: Store>(
        &mut self,
        index: usize,
        ledger: &Ledger<S>,
        now: Duration,
        may_read: &impl Fn(&CollectionName) -> bool,
    ) -> Result<(), StoreError> {
        let Some(inbox) = self.inboxes.get_mut(&index) else { return Ok(()) };
        let search = Search {
            inbox: &inbox.name,
            scope: &inbox.scope,
            after: None,
            only_moved: false,
            most: WATCHED_MAX + 1,
        };
        let mut found = ledger.hot_follows(&search, &mut 0, &AtomicBool::new(false))?;
        inbox.cut = found.len() > WATCHED_MAX;
        found.retain(|follow| may_read(&follow.name));
        found.truncate(WATCHED_MAX);
        let names: BTreeSet<&CollectionName> = found.iter().map(|follow| &follow.name).collect();
        let gone: Vec<_> = inbox
            .by_name
            .iter()
            .filter(|(name, _)| !names.contains(name))
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        for (name, id) in gone {
            self.unwatch(index, &name, id);
        }
        for follow in found {
            let known = self.inboxes.get(&index).map(|it| it.by_name.contains_key(&follow.name));
            if known == Some(false) {
                self.begin(index, follow, now);
            }
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, follow: HotFollow, now: Duration) {
        let Some(inbox) = self.inboxes.get_mut(&index) else { return };
        if inbox.by_name.len() == WATCHED_MAX {
            inbox.cut = true;
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let HotFollow { name, entry, .. } = follow;
        inbox.by_name.insert(name.clone(), id);
        self.changes.push(Watching::Begin(id, name.clone()));
        self.watched.insert(id, Watched { inbox: index, name, told: entry, free: now });
        // Looked at once more when it is listened to.
        self.pending.insert(id, now);
    }

    fn unwatch(&mut self, index: usize, name: &CollectionName, id: WatchId) {
        if let Some(inbox) = self.inboxes.get_mut(&index) {
            inbox.by_name.remove(name);
        }
        self.end(id);
    }

    fn end(&mut self, id: WatchId) {
        self.watched.remove(&id);
        self.pending.remove(&id);
        self.changes.push(Watching::End(id));
    }
}
