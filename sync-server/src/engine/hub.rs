//! Who waits for which collection. A head is a level, not an edge: a mailbox only remembers
//! *which* of its collections moved; whoever empties it reads the head that is there then. So a
//! late or slow listener misses nothing, and waking costs the same however much has happened.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use sync_proto::types::CollectionName;
use tokio::sync::Notify;

/// Announces heads to mailboxes.
#[derive(Debug, Default)]
pub struct Hub {
    listeners: Mutex<HashMap<CollectionName, Vec<Registration>>>,
}

/// A mailbox, and what its listener calls the collection.
type Registration = (Arc<Mailbox>, usize);

/// Which of a listener's collections moved since it last looked.
#[derive(Debug, Default)]
pub struct Mailbox {
    moved: Mutex<BTreeSet<usize>>,
    wake: Notify,
}

/// A mailbox with its registrations, which end when it is dropped.
#[derive(Debug)]
pub struct Listener {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    names: Vec<CollectionName>,
}

// === impl Hub ===

impl Hub {
    /// Listens to these collections, whether or not they exist yet. Their indices are what
    /// [`Listener::moved`] returns. The map holds a name only while somebody listens to it.
    #[must_use]
    pub fn listen(self: &Arc<Self>, names: Vec<CollectionName>) -> Listener {
        let mailbox = Arc::new(Mailbox::default());
        let mut listeners = self.listeners.lock();
        for (index, name) in names.iter().enumerate() {
            listeners.entry(name.clone()).or_default().push((Arc::clone(&mailbox), index));
        }
        drop(listeners);
        Listener { hub: Arc::clone(self), mailbox, names }
    }

    /// Says that these collections have a new durable state.
    pub fn announce(&self, names: &[CollectionName]) {
        let listeners = self.listeners.lock();
        for name in names {
            for (mailbox, index) in listeners.get(name).into_iter().flatten() {
                mailbox.moved.lock().insert(*index);
                mailbox.wake.notify_one();
            }
        }
    }

    /// How many registrations there are for a collection.
    #[must_use]
    pub fn listeners(&self, name: &CollectionName) -> usize {
        self.listeners.lock().get(name).map_or(0, Vec::len)
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

    /// The name of a collection that is listened to.
    #[must_use]
    pub fn name(&self, index: usize) -> &CollectionName {
        &self.names[index]
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.hub.listeners.lock();
        for name in &self.names {
            let Some(registered) = listeners.get_mut(name) else { continue };
            registered.retain(|(mailbox, _)| !Arc::ptr_eq(mailbox, &self.mailbox));
            if registered.is_empty() {
                listeners.remove(name);
            }
        }
    }
}
