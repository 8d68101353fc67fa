//! A store in memory that counts what it is asked for.

use std::ops::ControlFlow;

use bytes::Bytes;
use parking_lot::Mutex;

use super::memory::MemoryStore;
use super::{Batch, Direction, KeyRange, Store, StoreError, Usage};

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Bytes with which each question for rows by key was answered.
    pub(crate) answers: Vec<usize>,
    /// Rows that were given, by key or in a scan.
    pub(crate) rows: usize,
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    inner: MemoryStore,
    read: Mutex<Read>,
}

// === impl Counted ===

impl Counted {
    /// What was read since the last time.
    pub(crate) fn take(&self) -> Read {
        std::mem::take(&mut self.read.lock())
    }

    fn answered<'a>(&self, rows: impl Iterator<Item = &'a Bytes>) {
        let mut read = self.read.lock();
        let sizes: Vec<_> = rows.map(Bytes::len).collect();
        read.rows += sizes.len();
        read.answers.push(sizes.iter().sum());
    }
}

impl Store for Counted {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let row = self.inner.get(key)?;
        self.answered(row.iter());
        Ok(row)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let rows = self.inner.get_many(keys)?;
        self.answered(rows.iter().flatten());
        Ok(rows)
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.scan(range, direction, &mut |key, value| {
            self.read.lock().rows += 1;
            visit(key, value)
        })
    }

    fn room(&self) -> Result<(), StoreError> {
        self.inner.room()
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.inner.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
