//! The durable state of a store while a newer batch is applied but not yet synced. Old rows of
//! that batch lie in an undo; a view reads the store through it, so that nobody is shown what a
//! power cut could take back.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLockReadGuard;

use crate::core::workspace::Undo;
use crate::store::{Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

/// The durable rows. While it lives, no batch is applied: read a page, then let it go.
#[derive(Debug)]
pub struct View<'a, S> {
    store: &'a S,
    undo: Arc<Undo>,
    _no_apply: RwLockReadGuard<'a, ()>,
}

// === impl View ===

impl<'a, S: Store> View<'a, S> {
    pub(super) fn new(store: &'a S, undo: Arc<Undo>, no_apply: RwLockReadGuard<'a, ()>) -> Self {
        Self { store, undo, _no_apply: no_apply }
    }

    /// Whether these are the rows that belong to heads with this undo.
    pub(super) fn belongs_to(&self, undo: &Arc<Undo>) -> bool {
        Arc::ptr_eq(&self.undo, undo)
    }

    /// The rows that belong to heads with this undo. Nothing was applied since this view began, so
    /// at most a batch has become durable.
    pub(super) fn settled(self, undo: Arc<Undo>) -> Self {
        Self { undo, ..self }
    }

    /// The durable row at `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.undo.get(key) {
            Some(before) => Ok(before.clone()),
            None => self.store.get(key),
        }
    }

    /// The durable rows at `keys`, in their order.
    pub fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let undone = |key: &Vec<u8>| self.undo.contains_key(key);
        if self.undo.is_empty() || !keys.iter().any(undone) {
            return self.store.get_many(keys);
        }
        let stored: Vec<_> = keys.iter().filter(|key| !undone(key)).cloned().collect();
        let mut stored = self.store.get_many(&stored)?.into_iter();
        let durable = |key| match self.undo.get(key) {
            Some(before) => before.clone(),
            None => stored.next().expect("a store answers for every key"),
        };
        Ok(keys.iter().map(durable).collect())
    }

    /// Visits the durable rows of `range` until `visit` breaks.
    pub fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        let bounds = (
            Bound::Included(range.start.as_slice()),
            range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
        );
        let undone = self.undo.range::<[u8], _>(bounds);
        match direction {
            Direction::Forward => self.merge(range, direction, undone, visit),
            Direction::Backward => self.merge(range, direction, undone.rev(), visit),
        }
    }

    /// Visits stored rows and undone rows in one order; of two with one key, the undone.
    fn merge<'u>(
        &self,
        range: &KeyRange,
        direction: Direction,
        undone: impl Iterator<Item = (&'u Vec<u8>, &'u Option<Bytes>)>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut undone = undone.peekable();
        let comes_first = |undone: &[u8], stored: &[u8]| match direction {
            Direction::Forward => undone < stored,
            Direction::Backward => undone > stored,
        };
        let mut broken = false;
        self.store.scan(range, direction, &mut |key, value| {
            while let Some((earlier, row)) = undone.next_if(|(next, _)| comes_first(next, key)) {
                if let Some(row) = row
                    && visit(earlier, row.clone()).is_break()
                {
                    broken = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match undone.next_if(|(next, _)| next.as_slice() == key) {
                Some((_, Some(before))) => visit(key, before.clone()),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            broken = flow.is_break();
            flow
        })?;
        if !broken {
            for (key, row) in undone {
                if let Some(row) = row
                    && visit(key, row.clone()).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}
