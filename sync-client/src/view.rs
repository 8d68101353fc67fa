//! One collection of a replica as its readers, its feeds and the driver share it.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use sync_proto::types::{CollectionName, Key};
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::differences::Feed;
use crate::session::Status;
use crate::store::{Applied, ReplicaStore, Standing, StoreError, Visible, Write};

/// Items that are compared at a time when all rows were exchanged.
const COMPARE_ITEMS: usize = 1_000;

/// A collection's place in the store, and what is known of it.
pub(crate) struct View {
    name: CollectionName,
    store: Arc<dyn ReplicaStore>,
    /// Held while rows change and the feeds are told, and while a feed reads rows: a feed that
    /// read between the two would tell a change twice, or with a wrong `old`.
    feeds: Arc<Mutex<Vec<Weak<Feed>>>>,
    status: watch::Sender<Status>,
    place: watch::Sender<Place>,
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
    pub(crate) fn new(
        name: CollectionName,
        store: Arc<dyn ReplicaStore>,
    ) -> Result<Self, StoreError> {
        let place = Place { standing: store.standing(&name)?, synced_at: None };
        Ok(Self {
            name,
            store,
            feeds: Arc::default(),
            status: watch::Sender::new(Status::Connecting),
            place: watch::Sender::new(place),
        })
    }

    pub(crate) fn name(&self) -> &CollectionName {
        &self.name
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

    /// While this is held, rows and feeds agree.
    pub(crate) async fn gate(&self) -> MutexGuard<'_, Vec<Weak<Feed>>> {
        self.feeds.lock().await
    }

    pub(crate) async fn add_feed(&self, begins_with_all: bool) -> Arc<Feed> {
        let feed = Arc::new(Feed::new(begins_with_all));
        let mut feeds = self.gate().await;
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.push(Arc::downgrade(&feed));
        drop(feeds);
        feed
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
    pub(crate) async fn write(&self, write: Write) -> Result<Applied, StoreError> {
        let mut feeds = self.feeds.clone().lock_owned().await;
        let (store, name) = (self.store.clone(), self.name.clone());
        let write = move || {
            let applied = store.write(&name, &write)?;
            feeds.retain(|feed| feed.strong_count() > 0);
            let live: Vec<Arc<Feed>> = feeds.iter().filter_map(Weak::upgrade).collect();
            match &applied.visible {
                Visible::Nothing => {}
                Visible::Rows(changes) => live.iter().for_each(|feed| feed.remember(changes)),
                Visible::Swapped => tell_swapped(&*store, &name, &live)?,
            }
            Ok(applied)
        };
        let applied = tokio::task::spawn_blocking(write).await.map_err(|panic| {
            StoreError::Io { doing: "writing to the local store", source: panic.into() }
        })??;
        self.place.send_modify(|place| place.standing = applied.standing);
        Ok(applied)
    }

    /// The copy was seen to be the server's collection.
    pub(crate) fn set_synced(&self, at: Instant) {
        self.place.send_modify(|place| place.synced_at = Some(at));
    }

    pub(crate) fn set_status(&self, status: Status) {
        self.status.send_if_modified(|present| std::mem::replace(present, status) != status);
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
