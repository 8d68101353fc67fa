//! sled's handle, whose end is not a crash. The last one of a database writes and syncs what is
//! left when it is dropped, and sled 0.34 panics if that fails: a start that ends because the
//! disk fails would then end with a panic's trace instead of the reason.

use std::ops::Deref;

use tracing::error;

use super::files::quietly;

/// An open database.
#[derive(Debug)]
pub(super) struct Handle(Option<sled::Db>);

// === impl Handle ===

impl Handle {
    pub(super) fn new(db: sled::Db) -> Self {
        Self(Some(db))
    }
}

impl Deref for Handle {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("only taken when it is dropped")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.0.take();
        // What was acknowledged was synced before; what is lost here nobody was told of.
        if let Err(place) = quietly(|| drop(db)) {
            error!(place, "the store could not be synced when it was closed");
        }
    }
}
