//! Who waits for which collection. A head is a level, not an edge: a mailbox only remembers
//! *which* of its collections moved; whoever empties it reads the head that is there then. So a
//! late or slow listener misses nothing, and waking costs the same however much has happened.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use sync_proto::types::CollectionName;
use tokio::sync::Notify;

use super::tails::CROWD_MIN;

/// Announces heads to mailboxes.
#[derive(Debug, Default)]
pub struct Hub {
    state: Mutex<State>,
    crowds: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Crowded collections that moved and are left to the herald.
    due: BTreeSet<CollectionName>,
    /// Whether there is one, and whether it is to end.
    herald: Option<Herald>,
    next_listener: ListenerId,
    /// By name and listener, so that one of many goes without a search: `announce` waits for
    /// whoever holds this lock.
    listeners: HashMap<CollectionName, Registered>,
}

/// Who listens to one collection. Most have one listener, and there may be very many of them.
#[derive(Debug)]
enum Registered {
    One((ListenerId, Index), Arc<Mailbox>),
    Many(BTreeMap<(ListenerId, Index), Arc<Mailbox>>),
}

/// Who wakes crowds ([`super::herald`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Herald {
    Wakes,
    Ends,
}

/// Tells listeners apart; never reused.
type ListenerId = u64;

/// What a listener calls a collection.
type Index = usize;

/// From here on a listener names what it listens to for a while.
pub const WATCHED_FROM: usize = 1 << 32;

/// Which of a listener's collections moved since it last looked.
#[derive(Debug, Default)]
pub struct Mailbox {
    moved: Mutex<BTreeSet<Index>>,
    wake: Notify,
}

/// A mailbox with its registrations, which end when it is dropped.
#[derive(Debug)]
pub struct Listener {
    hub: Arc<Hub>,
    id: ListenerId,
    mailbox: Arc<Mailbox>,
    names: Vec<CollectionName>,
    /// Those of them that it listens to no longer.
    left: BTreeSet<Index>,
    /// Names that it listens to for a while, by what it calls them.
    watched: BTreeMap<Index, CollectionName>,
}

// === impl Hub ===

impl Hub {
    /// Listens to these collections, whether or not they exist yet. Their indices are what
    /// [`Listener::moved`] returns. The map holds a name only while somebody listens to it.
    #[must_use]
    pub fn listen(self: &Arc<Self>, names: Vec<CollectionName>) -> Listener {
        let mailbox = Arc::new(Mailbox::default());
        let mut state = self.state.lock();
        let id = state.next_listener;
        state.next_listener += 1;
        for (index, name) in names.iter().enumerate() {
            state.register(name, (id, index), &mailbox);
        }
        drop(state);
        Listener {
            hub: Arc::clone(self),
            id,
            mailbox,
            names,
            left: BTreeSet::new(),
            watched: BTreeMap::new(),
        }
    }

    /// Says that these collections have a new durable state. Crowds are left to the herald, if
    /// there is one.
    pub fn announce(&self, names: &[CollectionName]) {
        let mut state = self.state.lock();
        for name in names {
            if state.herald == Some(Herald::Wakes) && state.is_crowded(name) {
                state.due.insert(name.clone());
                self.crowds.notify_one();
            } else {
                state.wake(name);
            }
        }
    }

    /// Wakes all who listen to a collection; how many they are.
    pub fn wake(&self, name: &CollectionName) -> usize {
        self.state.lock().wake(name)
    }

    /// For the herald: waits until crowds are due, or until `until`, and takes those that are.
    /// `None`: it is to end; whoever was due has been woken.
    pub fn crowds_due(&self, until: Option<Instant>) -> Option<Vec<CollectionName>> {
        let mut state = self.state.lock();
        if state.herald.is_none() {
            state.herald = Some(Herald::Wakes);
        }
        while state.due.is_empty() && state.herald == Some(Herald::Wakes) {
            let timed_out =
                until.is_some_and(|until| self.crowds.wait_until(&mut state, until).timed_out());
            if until.is_none() {
                self.crowds.wait(&mut state);
            }
            if timed_out {
                break;
            }
        }
        (state.herald == Some(Herald::Wakes))
            .then(|| std::mem::take(&mut state.due).into_iter().collect())
    }

    /// Whether crowds are due that the herald has not taken.
    #[cfg(test)]
    pub(super) fn is_crowd_due(&self) -> bool {
        !self.state.lock().due.is_empty()
    }

    /// Ends the herald: from now on everybody is woken by whoever announces.
    pub fn close_crowds(&self) {
        let mut state = self.state.lock();
        state.herald = Some(Herald::Ends);
        for name in std::mem::take(&mut state.due) {
            state.wake(&name);
        }
        self.crowds.notify_all();
    }

    /// How many registrations there are for a collection, without those for a while.
    #[must_use]
    pub fn listeners(&self, name: &CollectionName) -> usize {
        match self.state.lock().listeners.get(name) {
            None => 0,
            Some(Registered::One((_, index), _)) => usize::from(*index < WATCHED_FROM),
            Some(Registered::Many(listeners)) => {
                listeners.keys().filter(|(_, index)| *index < WATCHED_FROM).count()
            }
        }
    }
}

// === impl State ===

impl State {
    fn is_crowded(&self, name: &CollectionName) -> bool {
        match self.listeners.get(name) {
            None | Some(Registered::One(..)) => false,
            Some(Registered::Many(listeners)) => listeners.len() >= CROWD_MIN,
        }
    }

    fn wake(&self, name: &CollectionName) -> usize {
        match self.listeners.get(name) {
            None => 0,
            Some(Registered::One((_, index), mailbox)) => {
                mailbox.announce(*index);
                1
            }
            Some(Registered::Many(listeners)) => {
                for ((_, index), mailbox) in listeners {
                    mailbox.announce(*index);
                }
                listeners.len()
            }
        }
    }

    fn register(
        &mut self,
        name: &CollectionName,
        who: (ListenerId, Index),
        mailbox: &Arc<Mailbox>,
    ) {
        let mailbox = Arc::clone(mailbox);
        match self.listeners.entry(name.clone()) {
            Entry::Vacant(place) => {
                place.insert(Registered::One(who, mailbox));
            }
            Entry::Occupied(mut place) => place.get_mut().add(who, mailbox),
        }
    }

    /// Forgets a registration that there is, and gives back the room of many when they have gone.
    fn forget(&mut self, name: &CollectionName, who: (ListenerId, Index)) {
        let empty = match self.listeners.get_mut(name) {
            None => false,
            Some(Registered::One(..)) => true,
            Some(Registered::Many(listeners)) => {
                listeners.remove(&who);
                listeners.is_empty()
            }
        };
        if empty {
            self.listeners.remove(name);
        }
        if self.listeners.is_empty() {
            self.listeners.shrink_to_fit();
        }
    }
}

// === impl Registered ===

impl Registered {
    fn add(&mut self, who: (ListenerId, Index), mailbox: Arc<Mailbox>) {
        match self {
            Self::Many(listeners) => {
                listeners.insert(who, mailbox);
            }
            Self::One(first, its) => {
                *self = Self::Many(BTreeMap::from([(*first, Arc::clone(its)), (who, mailbox)]));
            }
        }
    }
}

// === impl Mailbox ===

impl Mailbox {
    fn announce(&self, index: Index) {
        self.moved.lock().insert(index);
        self.wake.notify_one();
    }
}

// === impl Listener ===

impl Listener {
    /// Waits until a collection has moved, and takes all that have.
    pub async fn moved(&self) -> BTreeSet<usize> {
        loop {
            let moved = std::mem::take(&mut *self.mailbox.moved.lock());
            if !moved.is_empty() {
                return moved;
            }
            // A permit that was left before this line is not lost: `notify_one` keeps one.
            self.mailbox.wake.notified().await;
        }
    }

    /// Listens no more to those of the first names: nobody is woken for what may not be read, or counted
    /// as one who does. They may have moved already.
    pub fn leave(&mut self, which: impl Fn(&CollectionName) -> bool) {
        let mut state = self.hub.state.lock();
        for (index, name) in self.names.iter().enumerate().filter(|(_, name)| which(name)) {
            if self.left.insert(index) {
                state.forget(name, (self.id, index));
            }
        }
    }

    /// Listens to one more collection, under an index that is not in use.
    pub fn watch(&mut self, index: usize, name: CollectionName) {
        assert!(index >= WATCHED_FROM, "{index} is for one of the first names");
        self.hub.state.lock().register(&name, (self.id, index), &self.mailbox);
        let clash = self.watched.insert(index, name);
        assert!(clash.is_none(), "{index} is in use");
    }

    /// Listens no more to what [`Listener::watch`] began. It may have moved already.
    pub fn unwatch(&mut self, index: usize) {
        if let Some(name) = self.watched.remove(&index) {
            self.hub.state.lock().forget(&name, (self.id, index));
        }
    }

    /// The name of a collection that is listened to.
    #[must_use]
    pub fn name(&self, index: usize) -> &CollectionName {
        &self.names[index]
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        let first = self.names.iter().enumerate().filter(|(index, _)| !self.left.contains(index));
        for (index, name) in first.chain(self.watched.iter().map(|(index, name)| (*index, name))) {
            state.forget(name, (self.id, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    #[tokio::test]
    async fn a_late_listener_finds_what_moved() {
        let hub = Arc::new(Hub::default());
        let listener = hub.listen(vec![name("a"), name("b"), name("a")]);
        let other = hub.listen(vec![name("b")]);
        hub.announce(&[name("a"), name("never heard of")]);
        hub.announce(&[name("a")]);
        assert_eq!(listener.moved().await, [0, 2].into());
        hub.announce(&[name("b")]);
        assert_eq!(listener.moved().await, [1].into());
        assert_eq!(other.moved().await, [0].into());
        assert_eq!(listener.name(1), &name("b"));
    }

    /// G10: nobody is woken for what was left, or counted there; the others are, and stay.
    #[tokio::test]
    async fn what_was_left_wakes_nobody() {
        let hub = Arc::new(Hub::default());
        let stays = hub.listen(vec![name("a")]);
        let mut leaves = hub.listen(vec![name("a"), name("b"), name("a")]);
        leaves.leave(|one| *one == name("a"));
        leaves.leave(|one| *one == name("a"));
        assert_eq!((hub.listeners(&name("a")), hub.listeners(&name("b"))), (1, 1));
        hub.announce(&[name("a"), name("b")]);
        assert_eq!(leaves.moved().await, [1].into());
        assert_eq!(stays.moved().await, [0].into());
        drop(leaves);
        assert_eq!((hub.listeners(&name("a")), hub.listeners(&name("b"))), (1, 0));
    }

    /// G8: the hub remembers nobody who went away, and nobody else is forgotten with them.
    #[tokio::test]
    async fn registrations_end_with_their_listener() {
        let hub = Arc::new(Hub::default());
        let stays = hub.listen(vec![name("a")]);
        let goes = hub.listen(vec![name("a"), name("b"), name("a")]);
        assert_eq!((hub.listeners(&name("a")), hub.listeners(&name("b"))), (3, 1));
        drop(goes);
        assert_eq!((hub.listeners(&name("a")), hub.listeners(&name("b"))), (1, 0));
        assert_eq!(hub.state.lock().listeners.len(), 1);
        hub.announce(&[name("a")]);
        assert_eq!(stays.moved().await, [0].into());
    }

    /// G8: what is watched for a while is heard of for that while, and forgotten with the listener.
    #[tokio::test]
    async fn a_name_can_be_watched_for_a_while() {
        let hub = Arc::new(Hub::default());
        let mut listener = hub.listen(vec![name("a")]);
        let (seven, eight) = (WATCHED_FROM + 7, WATCHED_FROM + 8);
        listener.watch(seven, name("b"));
        listener.watch(eight, name("a"));
        assert_eq!((hub.listeners(&name("a")), hub.listeners(&name("b"))), (1, 0));
        hub.announce(&[name("a"), name("b")]);
        assert_eq!(listener.moved().await, [0, seven, eight].into());
        listener.unwatch(eight);
        listener.unwatch(eight);
        hub.announce(&[name("a")]);
        assert_eq!(listener.moved().await, [0].into());
        drop(listener);
        assert!(hub.state.lock().listeners.is_empty());
    }

    /// G8: the end of a stream takes no longer because thousands follow the same collections.
    #[test]
    fn many_listeners_end_quickly() {
        let hub = Arc::new(Hub::default());
        let names: Vec<_> = (0..10).map(|n| name(&format!("c{n}"))).collect();
        let listeners: Vec<_> = (0..30_000).map(|_| hub.listen(names.clone())).collect();
        let began = Instant::now();
        // The newest first: a search from the oldest on would pass all others.
        listeners.into_iter().rev().for_each(drop);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(hub.state.lock().listeners.is_empty());
    }
}
