//! One collection of a replica as its readers, its feeds and the driver share it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use sync_proto::types::{CollectionName, Key, Scope};
use tokio::sync::futures::Notified;
use tokio::sync::watch;

use crate::blocking::blocking;
use crate::differences::Feed;
use crate::session::Status;
use crate::store::{Applied, Notes, ReplicaStore, Standing, StoreError, Visible, Write};

/// Items that are compared at a time when all rows were exchanged.
const COMPARE_ITEMS: usize = 1_000;

/// A collection's place in the store, and what is known of it.
pub(crate) struct View {
    name: CollectionName,
    scope: Scope,
    store: Arc<dyn ReplicaStore>,
    audience: Arc<Audience>,
    status: watch::Sender<Status>,
    place: watch::Sender<Place>,
}

/// Who wants to know what changes.
#[derive(Debug, Default)]
struct Audience {
    /// Held by the write while rows change and the feeds are told, shared by feeds that read: a
    /// feed that read between the two would tell a change twice, or with a wrong `old`. No
    /// consumer ever waits for it, nor holds it while it waits: one that is not polled any more
    /// must not stop the driver.
    gate: RwLock<()>,
    feeds: Mutex<Vec<Weak<Feed>>>,
    /// [`ReplicaStore::lives`] as far as feeds were told.
    lives: AtomicU64,
}

/// Where a copy stands, and how that compares with the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) standing: Standing,
    /// When the copy was last known to be the server's collection.
    pub(crate) synced_at: Option<Instant>,
}

// === impl View ===

impl View {
    /// The copy is of this part of the collection from now on.
    pub(crate) fn new(
        name: CollectionName,
        scope: Scope,
        store: Arc<dyn ReplicaStore>,
    ) -> Result<Self, StoreError> {
        store.rescope(&name, &scope)?;
        let place = Place { standing: store.standing(&name)?, synced_at: None };
        let lives = AtomicU64::new(store.lives());
        Ok(Self {
            name,
            scope,
            store,
            audience: Arc::new(Audience { lives, ..Audience::default() }),
            status: watch::Sender::new(Status::Connecting),
            place: watch::Sender::new(place),
        })
    }

    pub(crate) fn name(&self) -> &CollectionName {
        &self.name
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn store(&self) -> &dyn ReplicaStore {
        &*self.store
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn place(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    /// While this is held, rows and feeds agree. `None` = a write is under way; every feed hears
    /// of its end.
    pub(crate) fn gate(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.audience.gate.try_read()
    }

    /// Adds a feed. A write that is under way may or may not be told to it.
    pub(crate) fn add_feed(&self, begins_with_all: bool) -> Arc<Feed> {
        let feed = Arc::new(Feed::new(begins_with_all));
        let mut feeds = self.audience.feeds.lock();
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.push(Arc::downgrade(&feed));
        drop(feeds);
        feed
    }

    #[cfg(test)]
    pub(crate) fn feeds(&self) -> usize {
        self.audience.feeds.lock().len()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.status.borrow() == Status::Stopped
    }

    /// Waits until the feed moved or the replica has stopped.
    pub(crate) async fn stopped_or(&self, moved: Notified<'_>) {
        let mut status = self.status();
        tokio::select! {
            biased;
            () = moved => {}
            _ = status.wait_for(|status| *status == Status::Stopped) => {}
        }
    }

    /// Carries out a write and tells the feeds. Only the driver calls this.
    #[cfg(test)]
    pub(crate) async fn write(&self, write: Write) -> Result<Applied, StoreError> {
        let none = Notes::none(self.name.clone());
        let applied = self.write_with(write, none).await?;
        self.set_standing(applied.standing);
        Ok(applied)
    }

    /// The same, and notes beside it. Where the copy stands now is not shown yet: who waits for
    /// that is to find counted and decided what follows, see [`Self::set_standing`].
    pub(crate) async fn write_with(
        &self,
        write: Write,
        notes: Notes,
    ) -> Result<Applied, StoreError> {
        let (store, name) = (self.store.clone(), self.name.clone());
        let audience = self.audience.clone();
        let write = move || {
            let applied = {
                let _closed = audience.gate.write();
                audience.write(&*store, &name, (&write, &notes))
            };
            // All of them, also those that came while the gate was closed.
            for feed in audience.live() {
                feed.wake();
            }
            applied
        };
        blocking("writing to the local store", write).await
    }

    /// The copy stands here, since it was written.
    pub(crate) fn set_standing(&self, standing: Standing) {
        self.place.send_modify(|place| place.standing = standing);
    }

    /// Looks where the copy stands: after a failure of the store it may be further back. While the
    /// store does not say, the copy counts as standing nowhere.
    pub(crate) async fn restate(&self) -> Result<Standing, StoreError> {
        let (store, name) = (self.store.clone(), self.name.clone());
        let audience = self.audience.clone();
        let look = move || {
            let standing = {
                let _closed = audience.gate.write();
                audience.hear_of_losses(&*store);
                store.standing(&name)
            };
            for feed in audience.live() {
                feed.wake();
            }
            standing
        };
        let standing = blocking("reading the local store", look).await;
        let seen = standing.as_ref().ok().copied().unwrap_or_default();
        self.place.send_modify(|place| place.standing = seen);
        standing
    }

    /// The copy was seen to be the server's collection.
    pub(crate) fn set_synced(&self, at: Instant) {
        self.place.send_modify(|place| place.synced_at = Some(at));
    }

    pub(crate) fn set_status(&self, status: Status) {
        self.status.send_if_modified(|present| std::mem::replace(present, status) != status);
    }
}

// === impl Audience ===

impl Audience {
    /// The caller has closed the gate.
    fn write(
        &self,
        store: &dyn ReplicaStore,
        name: &CollectionName,
        (write, notes): (&Write, &Notes),
    ) -> Result<Applied, StoreError> {
        let applied = store.write_with(name, write, notes)?;
        // Who came before this moment may have read the rows as they were before the write.
        let live = self.live();
        self.hear_of_losses(store);
        match &applied.visible {
            Visible::Nothing => {}
            Visible::Rows(changes) => live.iter().for_each(|feed| feed.remember(changes)),
            Visible::Much => {
                for feed in &live {
                    feed.overflow();
                }
            }
            Visible::Swapped => {
                if let Err(failure) = tell_swapped(store, name, &live) {
                    // The write is done: only what it changed is not known in full.
                    tracing::warn!(%failure, collection = %name, "the rows before do not read");
                    for feed in &live {
                        feed.overflow();
                    }
                }
                store.forget_swapped(name);
            }
        }
        Ok(applied)
    }

    /// When rows that feeds have told of are gone, nobody can say which they were.
    fn hear_of_losses(&self, store: &dyn ReplicaStore) {
        let lives = store.lives();
        if self.lives.swap(lives, Ordering::Relaxed) != lives {
            for feed in self.live() {
                feed.overflow();
            }
        }
    }

    fn live(&self) -> Vec<Arc<Feed>> {
        self.feeds.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Compares the rows before with the rows now, in bounded steps, as long as a feed can make
/// use of it.
fn tell_swapped(
    store: &dyn ReplicaStore,
    name: &CollectionName,
    feeds: &[Arc<Feed>],
) -> Result<(), StoreError> {
    let mut after: Option<Key> = None;
    while feeds.iter().any(|feed| !feed.is_void()) {
        let differ = store.swapped(name, after.as_ref(), COMPARE_ITEMS)?;
        for feed in feeds {
            feed.remember(&differ);
        }
        match differ.last() {
            Some(last) if differ.len() == COMPARE_ITEMS => after = Some(last.key.clone()),
            Some(_) | None => break,
        }
    }
    Ok(())
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("name", &self.name).finish_non_exhaustive()
    }
}
