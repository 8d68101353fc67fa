//! The typed view of one collection of a replica.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::types::{CollectionName, Cursor, Key, SortKey, Version};
use tokio::sync::watch;

use crate::blocking::blocking;
use crate::codec::{Codec, DecodeError};
use crate::differences::Differences;
use crate::error::{ReadError, WaitError};
use crate::items::Items;
use crate::reader::Reader;
use crate::session::Status;
use crate::store::{Row, Standing, StoreError};
use crate::view::View;

/// A copy of a collection, read through a [`Codec`]. Answers from the local store, whatever the
/// network does, and keeps no async worker waiting for a disk. Cheap to clone.
pub struct Collection<C: Codec> {
    view: Arc<View>,
    codec: PhantomData<fn() -> C>,
}

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its key.
    pub key: Key,
    /// Its content.
    pub value: T,
    /// Its place in list order.
    pub sort_key: SortKey,
    /// Version of the commit that last touched it.
    pub version: Version,
    /// Version of the commit that created it.
    pub created: Version,
}

/// An item whose content does not decode.
#[derive(Debug)]
pub struct Undecodable {
    /// Its key.
    pub key: Key,
    /// Its content as it came.
    pub value: Bytes,
    /// What the codec said.
    pub error: DecodeError,
}

// === impl Collection ===

impl<C: Codec> Collection<C> {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view, codec: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &CollectionName {
        self.view.name()
    }

    /// Reads without `async`.
    #[must_use]
    pub fn reader(&self) -> Reader<C> {
        Reader::new(self.view.clone())
    }

    /// The content of an item; `None` = there is no such item.
    pub async fn get(&self, key: &Key) -> Result<Option<C::Item>, ReadError> {
        Ok(self.entry(key).await?.map(|entry| entry.value))
    }

    /// An item with all that is known of it; `None` = there is no such item.
    pub async fn entry(&self, key: &Key) -> Result<Option<Entry<C::Item>>, ReadError> {
        let key = key.clone();
        self.read(move |reader| Ok(reader.entry(&key))).await?
    }

    /// All items at this moment, by key; those that do not decode are passed over.
    pub async fn items(&self) -> Result<Items<C>, StoreError> {
        let iter = self.read(Reader::iter).await?;
        Ok(Items::new(iter, self.view.store().may_block()))
    }

    /// Up to `limit` items in list order (sort key, then key), after passing over `offset`.
    /// Those that do not decode take up their place but are left out.
    pub async fn window(
        &self,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<Entry<C::Item>>, StoreError> {
        self.read(move |reader| reader.window(offset, limit)).await
    }

    /// The items whose content does not decode. Reads the whole collection.
    pub async fn undecodable(&self) -> Result<Vec<Undecodable>, StoreError> {
        self.read(Reader::undecodable).await
    }

    /// Reads here if that is quick, and elsewhere if it may wait for a disk.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader<C>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.reader();
        if self.view.store().may_block() {
            blocking("reading the local store", move || work(&reader)).await
        } else {
            work(&reader)
        }
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.standing().tally.items
    }

    /// Whether there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the copy stands: cursor, count and digest, and how far a load has come.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.view.place().borrow().standing
    }

    /// How the collection is doing, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.view.status()
    }

    /// How long ago the copy was last known to be the server's collection; `None` = not yet
    /// since the replica was built. While the collection is live this stays below about one
    /// heartbeat.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.view.place().borrow().synced_at.map(|at| at.elapsed())
    }

    /// What changes from now on: for consumers that act on changes. One that builds a copy of
    /// the items wants [`Self::subscribe_with_all`]: what it read by itself is older or newer
    /// than the first difference. After [`Reloaded`](crate::Difference::Reloaded) this feed, too,
    /// tells every item.
    #[allow(clippy::unused_async, reason = "applications await it; how feeds join is ours")]
    pub async fn subscribe(&self) -> Differences<C> {
        Differences::new(self.view.clone(), self.view.add_feed(false))
    }

    /// First every item that is there as inserted, then `Complete`, then what changes.
    #[allow(clippy::unused_async, reason = "applications await it; how feeds join is ours")]
    pub async fn subscribe_with_all(&self) -> Differences<C> {
        Differences::new(self.view.clone(), self.view.add_feed(true))
    }

    /// Waits until the copy has been the server's collection at least once since the replica
    /// was built. A collection that does not exist is an empty copy, and ready.
    pub async fn wait_until_ready(&self, within: Duration) -> Result<(), WaitError> {
        let mut place = self.view.place();
        let ready = async {
            let reached = place.wait_for(|place| place.synced_at.is_some()).await;
            reached.map(|_| ()).map_err(|_| WaitError::Stopped)
        };
        self.unless_hopeless(within, ready).await
    }

    /// Waits until the copy holds everything up to `cursor`, for example that of a commit whose
    /// effect the caller wants to read.
    pub async fn wait_for(&self, cursor: Cursor, within: Duration) -> Result<(), WaitError> {
        let mut place = self.view.place();
        let reached = async {
            let reached = place.wait_for(|place| place.standing.has(cursor)).await;
            reached.map(|_| ()).map_err(|_| WaitError::Stopped)
        };
        self.unless_hopeless(within, reached).await
    }

    /// Waits for `reached`, but not beyond its time nor the replica's life nor its rights.
    async fn unless_hopeless(
        &self,
        within: Duration,
        reached: impl Future<Output = Result<(), WaitError>>,
    ) -> Result<(), WaitError> {
        let mut status = self.view.status();
        let hopeless = |status: &Status| matches!(status, Status::Denied | Status::Stopped);
        tokio::select! {
            biased;
            reached = reached => reached,
            status = status.wait_for(hopeless) => match status.as_deref() {
                Ok(Status::Denied) => Err(WaitError::Denied),
                Ok(_) | Err(_) => Err(WaitError::Stopped),
            },
            () = tokio::time::sleep(within) => Err(WaitError::Deadline),
        }
    }
}

impl<C: Codec> Clone for Collection<C> {
    fn clone(&self) -> Self {
        Self::new(self.view.clone())
    }
}

impl<C: Codec> fmt::Debug for Collection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("name", self.name()).finish_non_exhaustive()
    }
}

// === impl Entry ===

impl<T> Entry<T> {
    pub(crate) fn decode<C: Codec<Item = T>>(row: Row) -> Result<Self, DecodeError> {
        let value = C::decode(&row.value)?;
        let Row { key, sort_key, version, created, .. } = row;
        Ok(Self { key, value, sort_key, version, created })
    }
}
