//! Synchronous reads of a collection, for code that is not on an async worker.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use sync_proto::types::{CollectionName, Key};

use crate::codec::Codec;
use crate::collection::{Entry, Undecodable};
use crate::error::ReadError;
use crate::store::{Row, Snapshot, StoreError};
use crate::view::View;

/// Rows that an iterator reads at a time.
const ITER_ROWS: usize = 256;

/// Reads a collection without `async`: each call answers on the spot. With a store on disk it
/// may wait for the disk, so use it on a thread of its own, or on an async worker only with a
/// store in memory. Cheap to clone.
pub struct Reader<C: Codec> {
    view: Arc<View>,
    codec: PhantomData<fn() -> C>,
}

/// The items of a collection at one moment, by key; those that do not decode are passed over.
/// Do not keep it for long: a store on disk cannot reuse space while it lives.
pub struct Iter<C: Codec> {
    snapshot: Box<dyn Snapshot>,
    rows: std::vec::IntoIter<Row>,
    after: Option<Key>,
    done: bool,
    codec: PhantomData<fn() -> C>,
}

// === impl Reader ===

impl<C: Codec> Reader<C> {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view, codec: PhantomData }
    }

    /// The collection's name.
    #[must_use]
    pub fn name(&self) -> &CollectionName {
        self.view.name()
    }

    /// The content of an item; `None` = there is no such item.
    pub fn get(&self, key: &Key) -> Result<Option<C::Item>, ReadError> {
        Ok(self.entry(key)?.map(|entry| entry.value))
    }

    /// An item with all that is known of it; `None` = there is no such item.
    pub fn entry(&self, key: &Key) -> Result<Option<Entry<C::Item>>, ReadError> {
        let row = self.view.store().get(self.name(), key)?;
        Ok(row.map(Entry::decode::<C>).transpose()?)
    }

    /// All items at this moment, by key.
    #[allow(clippy::iter_not_returning_iterator, reason = "opening a snapshot may fail")]
    pub fn iter(&self) -> Result<Iter<C>, StoreError> {
        Ok(Iter {
            snapshot: self.view.store().snapshot(self.name())?,
            rows: Vec::new().into_iter(),
            after: None,
            done: false,
            codec: PhantomData,
        })
    }

    /// Up to `limit` items in list order (sort key, then key), after passing over `offset`.
    /// Those that do not decode take up their place but are left out.
    pub fn window(&self, offset: usize, limit: usize) -> Result<Vec<Entry<C::Item>>, StoreError> {
        let rows = self.view.store().snapshot(self.name())?.window(offset, limit)?;
        Ok(rows.into_iter().filter_map(|row| Entry::decode::<C>(row).ok()).collect())
    }

    /// The items whose content does not decode. Reads the whole collection.
    pub fn undecodable(&self) -> Result<Vec<Undecodable>, StoreError> {
        let mut found = Vec::new();
        let mut iter = self.iter()?;
        while let Some(row) = iter.next_row()? {
            if let Err(error) = C::decode(&row.value) {
                found.push(Undecodable { key: row.key, value: row.value, error });
            }
        }
        Ok(found)
    }
}

impl<C: Codec> Clone for Reader<C> {
    fn clone(&self) -> Self {
        Self::new(self.view.clone())
    }
}

impl<C: Codec> fmt::Debug for Reader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("name", self.name()).finish_non_exhaustive()
    }
}

// === impl Iter ===

impl<C: Codec> Iter<C> {
    /// The next page, decoded; `None` = there are no more.
    pub(crate) fn page(&mut self) -> Result<Option<Vec<Entry<C::Item>>>, StoreError> {
        let Some(first) = self.next_row()? else { return Ok(None) };
        let rows = std::iter::once(first).chain(std::mem::take(&mut self.rows));
        Ok(Some(rows.filter_map(|row| Entry::decode::<C>(row).ok()).collect()))
    }

    fn next_row(&mut self) -> Result<Option<Row>, StoreError> {
        if self.rows.as_slice().is_empty() && !self.done {
            let rows = self.snapshot.rows(self.after.as_ref(), ITER_ROWS)?;
            self.done = rows.len() < ITER_ROWS;
            self.after = rows.last().map(|row| row.key.clone());
            self.rows = rows.into_iter();
        }
        Ok(self.rows.next())
    }
}

impl<C: Codec> Iterator for Iter<C> {
    type Item = Result<Entry<C::Item>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let row = match self.next_row() {
                Ok(row) => row?,
                Err(failure) => {
                    self.done = true;
                    return Some(Err(failure));
                }
            };
            if let Ok(entry) = Entry::decode::<C>(row) {
                return Some(Ok(entry));
            }
        }
    }
}

impl<C: Codec> fmt::Debug for Iter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("after", &self.after).finish_non_exhaustive()
    }
}
