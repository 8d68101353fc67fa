//! The collections of a replica or an account, as applications and the driver find them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sync_proto::types::{CollectionName, Scope};

use crate::session::Status;
use crate::store::{ReplicaStore, StoreError};
use crate::view::View;

/// Views by name. One that nobody holds is not kept.
pub(crate) struct Views {
    store: Arc<dyn ReplicaStore>,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    views: BTreeMap<CollectionName, Weak<View>>,
    /// When names that nobody holds are thrown out: so many are here then.
    prune_at: usize,
    /// The driver has ended.
    stopped: bool,
}

/// Names that are kept before it pays to look which of them nobody holds.
const PRUNE_FROM: usize = 64;

// === impl Views ===

impl Views {
    pub(crate) fn new(store: Arc<dyn ReplicaStore>) -> Self {
        let places = Places { prune_at: PRUNE_FROM, ..Places::default() };
        Self { store, places: Mutex::new(places) }
    }

    /// The view of a part of a collection, which is the one that it has if somebody holds it. May
    /// wait for the disk.
    pub(crate) fn open(
        &self,
        name: &CollectionName,
        scope: Scope,
    ) -> Result<Arc<View>, StoreError> {
        let mut places = self.places.lock();
        if let Some(view) = places.views.get(name).and_then(Weak::upgrade) {
            return Ok(view);
        }
        // While the places are locked: a write would go by a view that is not known yet.
        let view = Arc::new(View::new(name.clone(), scope, self.store.clone())?);
        if places.stopped {
            view.set_status(Status::Stopped);
        }
        if places.views.len() >= places.prune_at {
            places.views.retain(|_, view| view.strong_count() > 0);
            places.prune_at = PRUNE_FROM.max(2 * places.views.len());
        }
        places.views.insert(name.clone(), Arc::downgrade(&view));
        Ok(view)
    }

    /// The view of a collection, if somebody holds it.
    pub(crate) fn find(&self, name: &CollectionName) -> Option<Arc<View>> {
        self.places.lock().views.get(name)?.upgrade()
    }

    /// All that somebody holds.
    pub(crate) fn held(&self) -> Vec<Arc<View>> {
        self.places.lock().views.values().filter_map(Weak::upgrade).collect()
    }

    /// The driver has ended: every view says so from now on.
    pub(crate) fn stop(&self) {
        self.places.lock().stopped = true;
        for view in self.held() {
            view.set_status(Status::Stopped);
        }
    }
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views")
            .field("places", &self.places.lock().views.len())
            .finish_non_exhaustive()
    }
}
