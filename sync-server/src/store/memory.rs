//! The in-memory engine: the oracle that the disk engine is compared with, and the disk of the
//! simulations. It keeps apart what is synced and what is only applied, can be made to fail at
//! a chosen call, and can be "crashed" into the store that a restart would find.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Batch, Direction, KeyRange, Store, StoreError, Usage, check_row};

/// Rows in memory, with the crash behaviour of a disk.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

/// Which calls fail, and how. Calls are counted from 1 over the life of a store.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The n-th [`Store::apply`] fails.
    pub apply: BTreeMap<u64, Fault>,
    /// The n-th [`Store::sync`] fails.
    pub sync: BTreeMap<u64, Fault>,
}

/// When a planned failure strikes. The caller sees the same error either way: that is the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before the call takes effect.
    Before,
    /// After the call took effect.
    After,
}

type Rows = BTreeMap<Vec<u8>, Bytes>;

/// What a batch replaced: enough to take it back.
type Undo = Vec<(Vec<u8>, Option<Bytes>)>;

#[derive(Debug, Default)]
struct State {
    rows: Rows,
    /// One entry per applied batch that is not synced, oldest first.
    unsynced: Vec<Undo>,
    faults: Faults,
    applies: u64,
    syncs: u64,
    full: bool,
    behind: bool,
    broken: bool,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store that never fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that fails as planned.
    #[must_use]
    pub fn with_faults(faults: Faults) -> Self {
        Self { state: RwLock::new(State { faults, ..State::default() }) }
    }

    /// Replaces the plan of failures; the counters go on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.write().faults = faults;
    }

    /// Plans a failure of the next [`Store::apply`].
    pub fn fail_next_apply(&self, fault: Fault) {
        self.fail_apply_after(0, fault);
    }

    /// Plans a failure of an [`Store::apply`], after `skipped` that do not fail.
    pub fn fail_apply_after(&self, skipped: u64, fault: Fault) {
        let mut state = self.state.write();
        let next = state.applies + 1 + skipped;
        state.faults.apply.insert(next, fault);
    }

    /// Plans a failure of the next [`Store::sync`].
    pub fn fail_next_sync(&self, fault: Fault) {
        self.fail_sync_after(0, fault);
    }

    /// Plans a failure of a [`Store::sync`], after `skipped` that do not fail.
    pub fn fail_sync_after(&self, skipped: u64, fault: Fault) {
        let mut state = self.state.write();
        let next = state.syncs + 1 + skipped;
        state.faults.sync.insert(next, fault);
    }

    /// Makes [`Store::is_behind`] say so, or not any more.
    pub fn set_behind(&self, behind: bool) {
        self.state.write().behind = behind;
    }

    /// Makes [`Store::room`] say that the disk is full, or not any more.
    pub fn set_full(&self, full: bool) {
        self.state.write().full = full;
    }

    /// The store that a restart finds after a power cut: every batch that was not synced is
    /// gone. The plan of failures is not inherited.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// Like [`crash`](Self::crash), but the oldest `batches` of the unsynced batches happened
    /// to reach the disk. `usize::MAX` is a killed process on a machine that lives on.
    #[must_use]
    pub fn crash_keeping(&self, batches: usize) -> Self {
        let state = self.state.read();
        let mut rows = state.rows.clone();
        for undo in state.unsynced.iter().skip(batches).rev() {
            take_back(&mut rows, undo);
        }
        Self::from_rows(rows)
    }

    /// A copy of what is applied now, as if a backup of it were restored elsewhere.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::from_rows(self.state.read().rows.clone())
    }

    fn from_rows(rows: Rows) -> Self {
        Self { state: RwLock::new(State { rows, ..State::default() }) }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let state = self.state.read();
        state.healthy()?;
        Ok(state.rows.get(key).cloned())
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let state = self.state.read();
        state.healthy()?;
        Ok(keys.iter().map(|key| state.rows.get(key).cloned()).collect())
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut at = range.clone();
        while let Some((key, value)) = self.state.read().next_row(&at, direction)? {
            if visit(&key, value).is_break() {
                break;
            }
            // The lock is not held while visiting: a visitor may read the store itself.
            match direction {
                Direction::Forward => at.start = after(key),
                Direction::Backward => at.end = Some(key),
            }
        }
        Ok(())
    }

    fn room(&self) -> Result<(), StoreError> {
        if self.state.read().full { Err(StoreError::Full { free: 0, wanted: 1 }) } else { Ok(()) }
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut state = self.state.write();
        state.healthy()?;
        state.applies += 1;
        let fault = state.faults.apply.get(&state.applies).copied();
        if fault != Some(Fault::Before) {
            state.apply(batch);
        }
        state.outcome(fault, "applying a batch")
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        state.healthy()?;
        state.syncs += 1;
        let fault = state.faults.sync.get(&state.syncs).copied();
        if fault != Some(Fault::Before) {
            state.unsynced.clear();
        }
        state.outcome(fault, "syncing")
    }

    fn is_behind(&self) -> bool {
        self.state.read().behind
    }

    fn usage(&self) -> Usage {
        let state = self.state.read();
        let bytes = state.rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        Usage { bytes, unsynced_files: 0, free_bytes: None }
    }
}

// === impl State ===

impl State {
    /// A store that failed once serves nothing until it is opened again, as on disk.
    fn healthy(&self) -> Result<(), StoreError> {
        if self.broken { Err(failure("going on after a failure")) } else { Ok(()) }
    }

    fn outcome(&mut self, fault: Option<Fault>, doing: &'static str) -> Result<(), StoreError> {
        if fault.is_none() {
            return Ok(());
        }
        self.broken = true;
        Err(failure(doing))
    }

    fn apply(&mut self, batch: &Batch) {
        let mut undo = Undo::with_capacity(batch.len());
        for (key, value) in batch.rows() {
            check_row(key, value);
            let before = match value {
                Some(value) => self.rows.insert(key.to_vec(), value.clone()),
                None => self.rows.remove(key),
            };
            undo.push((key.to_vec(), before));
        }
        self.unsynced.push(undo);
    }

    fn next_row(
        &self,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        self.healthy()?;
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.rows.range::<Vec<u8>, _>((Bound::Included(&range.start), end));
        let row = match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        };
        Ok(row.map(|(key, value)| (key.clone(), value.clone())))
    }
}

fn take_back(rows: &mut Rows, undo: &Undo) {
    for (key, before) in undo {
        match before {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
}

/// The lowest key above `key`.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn failure(doing: &'static str) -> StoreError {
    StoreError::Io { doing, source: io::Error::other("planned failure") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.into(), Bytes::from_static(value.as_bytes()));
        batch
    }

    fn value(store: &MemoryStore, key: &str) -> Option<Bytes> {
        store.get(key.as_bytes()).unwrap()
    }

    #[test]
    fn a_crash_drops_exactly_what_was_not_synced() {
        let store = MemoryStore::new();
        store.apply(&put("a", "1")).unwrap();
        store.sync().unwrap();
        store.apply(&put("a", "2")).unwrap();
        let mut third = put("b", "3");
        third.remove(b"a".to_vec());
        store.apply(&third).unwrap();

        assert_eq!(value(&store, "a"), None);
        assert_eq!(value(&store.crash(), "a").unwrap(), "1");
        assert_eq!(value(&store.crash(), "b"), None);
        assert_eq!(value(&store.crash_keeping(1), "a").unwrap(), "2");
        assert_eq!(value(&store.crash_keeping(usize::MAX), "b").unwrap(), "3");
    }

    #[test]
    fn a_planned_failure_strikes_once_and_sticks() {
        for (fault, survives) in [(Fault::Before, None), (Fault::After, Some(Bytes::from("2")))] {
            let faults = Faults { sync: [(2, fault)].into(), ..Faults::default() };
            let store = MemoryStore::with_faults(faults);
            store.apply(&put("a", "1")).unwrap();
            store.sync().unwrap();
            store.apply(&put("b", "2")).unwrap();
            store.sync().unwrap_err();
            store.get(b"a").unwrap_err();
            store.apply(&put("c", "3")).unwrap_err();
            assert_eq!(value(&store.crash(), "b"), survives);
        }
    }

    #[test]
    fn a_failed_apply_may_or_may_not_have_happened() {
        for (fault, survives) in [(Fault::Before, None), (Fault::After, Some(Bytes::from("1")))] {
            let store = MemoryStore::new();
            store.set_faults(Faults { apply: [(1, fault)].into(), ..Faults::default() });
            store.apply(&put("a", "1")).unwrap_err();
            assert_eq!(value(&store.crash_keeping(usize::MAX), "a"), survives);
            assert_eq!(value(&store.crash(), "a"), None);
        }
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let store = MemoryStore::new();
        store.apply(&put("a", "1")).unwrap();
        let backup = store.fork();
        store.apply(&put("a", "2")).unwrap();
        assert_eq!(value(&backup, "a").unwrap(), "1");
        assert_eq!(value(&store, "a").unwrap(), "2");
    }

    #[test]
    fn a_full_store_says_so_and_recovers() {
        let store = MemoryStore::new();
        store.set_full(true);
        assert!(matches!(store.room(), Err(StoreError::Full { .. })));
        store.set_full(false);
        store.room().unwrap();
    }
}
