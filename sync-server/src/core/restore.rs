//! Puts rows of a backup into a collection that is being restored. Pure. Counters, sums and indices
//! come from the code that commits use, so a restored collection is what commits would have made.

use std::collections::BTreeMap;

use sync_proto::types::{CollectionName, Epoch, Head, Key, Policy, Timestamp, Version};

use super::check::Logged;
use super::workspace::{LoadError, Needs, Planned, Stored, Workspace};
use crate::store::StoreError;
use crate::store::keys::CollectionId;
use crate::store::rows::{KeyRow, LogRow, Meta, RowKind};

/// A row of a backup.
#[derive(Debug, Clone)]
pub struct RestoredRow {
    /// Its key.
    pub key: Key,
    /// When it was committed.
    pub time: Timestamp,
    /// What its log row says.
    pub logged: Logged,
    /// Its log row.
    pub log: LogRow,
}

/// A collection that is being restored: what is known of it so far.
#[derive(Debug, Clone)]
pub struct Restoring {
    /// Its number in the new store.
    pub id: CollectionId,
    /// Its head, of the rows put in so far.
    pub meta: Meta,
    /// Tombstones up to here are not kept.
    pub floor: Version,
}

// === impl Restoring ===

impl Restoring {
    /// A collection without rows.
    #[must_use]
    pub fn new(id: CollectionId, name: CollectionName, epoch: Epoch, floor: Version) -> Self {
        let head = Head {
            epoch,
            version: Version::default(),
            floor: Version::default(),
            items: 0,
            tombstones: 0,
            bytes: 0,
            digest: sync_proto::digest::Digest::EMPTY,
            commit_time: Timestamp::from_millis(0),
        };
        Self { id, meta: Meta { name, head, policy: Policy::default() }, floor }
    }

    /// Plans to put these rows in. Of several rows of a key the newest counts, in whatever order
    /// they come. `get_many` gives rows of the new store.
    pub fn put(
        &mut self,
        rows: &[RestoredRow],
        get_many: impl FnMut(&[Vec<u8>]) -> Result<Vec<Option<bytes::Bytes>>, StoreError>,
    ) -> Result<Planned, LoadError> {
        let mut newest = BTreeMap::new();
        for row in rows {
            let known = newest.entry(&row.key).or_insert(row);
            if known.logged.version < row.logged.version {
                *known = row;
            }
        }
        let mut needs = Needs::default();
        for key in newest.keys() {
            needs.changed(&self.meta.name, key);
        }
        let found = Some((self.id, self.meta.clone()));
        let mut workspace = Workspace::load(needs, 0, |_| found.clone(), get_many)?;
        let working = workspace.collections.get_mut(&self.meta.name).expect("it was needed");
        for row in newest.into_values() {
            let version = row.logged.version;
            if working.stored(&row.key).is_some_and(|stored| stored.key.version >= version) {
                continue;
            }
            let kept = row.logged.live || version > self.floor;
            working.set(&row.key, kept.then(|| row.stored()));
            let head = &mut working.meta.now.as_mut().expect("it was found").head;
            head.version = head.version.max(version);
        }
        let planned = workspace.finish();
        if let Some((_, meta)) = planned.moved.first() {
            self.meta = meta.clone();
        }
        Ok(planned)
    }
}

// === impl RestoredRow ===

impl RestoredRow {
    fn stored(&self) -> Stored {
        let Logged { live, version, created, value_version, value_len, digest, sort_key } =
            self.logged.clone();
        let kind = if live { RowKind::Live } else { RowKind::Tombstone };
        let time = self.time;
        let key =
            KeyRow { kind, version, created, value_version, time, value_len, digest, sort_key };
        Stored { key, log: self.log.clone() }
    }
}
