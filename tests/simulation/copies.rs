//! The copies that a device has: the real in-memory store, and what must hold of it whenever a
//! reader can look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_client::store::{MemoryStore, ReplicaStore as _, Row, Standing, Step, Write};
use sync_proto::types::{CollectionName, Cursor, Value};
use sync_tests::device::change_of;

use crate::model::{Collection, History, Items};

/// What is said of a store that is expected to work.
pub(crate) const FAILS_NEVER: &str = "a store in memory never fails";

/// Rows of a collection in a simulation: fewer than this.
const ROWS_MAX: usize = 100_000;

/// The store of a device.
pub(crate) struct Copies {
    pub(crate) store: Arc<MemoryStore>,
    /// The newest state that its readers have seen, per collection.
    shown: BTreeMap<CollectionName, Cursor>,
    /// Copies that were damaged and are not repaired yet.
    damaged: BTreeSet<CollectionName>,
}

// === impl Copies ===

impl Copies {
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        Self { store, shown: BTreeMap::new(), damaged: BTreeSet::new() }
    }

    /// Where the copy of a collection stands.
    pub(crate) fn standing(&self, name: &CollectionName) -> Standing {
        self.store.standing(name).expect(FAILS_NEVER)
    }

    fn rows(&self, name: &CollectionName) -> Vec<Row> {
        let snapshot = self.store.snapshot(name).expect(FAILS_NEVER);
        snapshot.rows(None, ROWS_MAX).expect(FAILS_NEVER)
    }

    /// What its readers see.
    pub(crate) fn items(&self, name: &CollectionName) -> Items {
        let item = |row: Row| {
            let value = Value::new(row.value).expect("was checked");
            (row.key, (value, row.sort_key, row.version))
        };
        self.rows(name).into_iter().map(item).collect()
    }

    /// After every write: what readers see of a caught-up copy is a state that the server has
    /// announced (G1, G3, G4), and it never goes back within an epoch (G2).
    pub(crate) fn check(&mut self, name: &CollectionName, history: &History) {
        let Some(cursor) = self.standing(name).cursor else {
            self.shown.remove(name);
            assert!(self.items(name).is_empty(), "rows without a cursor");
            return;
        };
        if let Some(seen) = self.shown.insert(name.clone(), cursor)
            && seen.epoch == cursor.epoch
            && !history.is_ambiguous(name, cursor.epoch)
        {
            let seen = seen.version;
            assert!(seen <= cursor.version, "{name} went back: {seen} to {cursor}");
        }
        if cursor.is_caught_up() && !history.is_ambiguous(name, cursor.epoch) {
            let announced = history.at(name, cursor);
            let announced = announced.unwrap_or_else(|| panic!("{cursor} was never announced"));
            let equal = self.items(name) == *announced;
            if equal {
                self.damaged.remove(name);
            }
            let excused = self.damaged.contains(name);
            assert!(equal || excused, "{name} at {cursor} is not the server's");
        }
    }

    /// Whether the copy is what it must be in the end: replica = server = model, by content and by
    /// digest (G1); of what is not there, nothing is left.
    pub(crate) fn is_equal(&self, name: &CollectionName, wanted: Option<&Collection>) -> bool {
        let standing = self.standing(name);
        let Some(wanted) = wanted else {
            return standing.cursor.is_none() && self.items(name).is_empty();
        };
        let at = standing.cursor.map(|cursor| (Some(cursor.epoch), cursor.version.get()));
        at == Some((wanted.epoch, wanted.version))
            && standing.load.is_none()
            && self.items(name) == wanted.items
            && standing.tally.digest == crate::model::digest(&wanted.items)
    }

    /// Loses a row and changes another while no process looks. `false`: there was nothing to damage.
    pub(crate) fn damage(&mut self, name: &CollectionName, dice: &mut StdRng) -> bool {
        let standing = self.standing(name);
        let at = standing.cursor.filter(|at| at.is_caught_up() && standing.load.is_none());
        let Some(at) = at else { return false };
        let mut rows = self.rows(name);
        if rows.is_empty() {
            return false;
        }
        rows.swap_remove(dice.random_range(0..rows.len()));
        if let Some(changed) = rows.first_mut() {
            changed.value = vec![7; 9].into();
        }
        let changes = rows.iter().map(change_of).collect();
        let write = Write { expected: Some(at), step: Step::BeginLoad { changes, to: at } };
        self.store.write(name, &write).expect("nobody else writes");
        self.damaged.insert(name.clone());
        true
    }
}
