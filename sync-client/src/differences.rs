//! The feed of differences: what changed in a copy since its consumer looked last, one net
//! change per item. A feed holds no copy and no queue of events: it remembers which keys moved
//! and what they held when the consumer saw them last. A consumer that stops looking costs a
//! bounded amount of memory and delays nobody.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use sync_proto::types::Key;
use tokio::sync::Notify;

use crate::blocking::Elsewhere;
use crate::codec::Codec;
use crate::collection::Entry;
use crate::store::{Changed, Row, StoreError, own_key};
use crate::view::View;

#[cfg(test)]
mod tests;

/// Keys that a feed remembers. Past this the consumer is told to look at the collection anew,
/// which is then cheaper than the list of what moved.
const KEYS_MAX: usize = 100_000;
/// Bytes of earlier contents that a feed remembers. Past this a difference comes without `old`.
const OLD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Differences made ready at a time. Those are not coalesced any more.
const READY_MAX: usize = 64;

/// A feed of differences of one collection, for one consumer. Differences of one item are
/// coalesced until the consumer asks for them; an item that came and went meanwhile is not
/// mentioned.
pub struct Differences<C: Codec> {
    view: Arc<View>,
    feed: Arc<Feed>,
    ready: VecDeque<Told>,
    looking: Option<Elsewhere<Look>>,
    codec: PhantomData<fn() -> C>,
}

/// What a feed had to tell.
#[derive(Debug)]
enum Look {
    /// Something.
    Told(VecDeque<Told>),
    Nothing,
    /// A write is under way; the feed hears of its end.
    Busy,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference<T> {
    /// A new item.
    Inserted(Entry<T>),
    /// An item has other content or another place.
    Updated {
        /// What the consumer saw last; `None` when it was not kept or does not decode.
        old: Option<Entry<T>>,
        /// What it is now.
        new: Entry<T>,
    },
    /// An item is gone.
    Deleted {
        /// Its key.
        key: Key,
        /// What the consumer saw last; `None` when it was not kept or does not decode.
        old: Option<Entry<T>>,
    },
    /// An item is new or changed, and its content does not decode.
    Undecodable {
        /// Its key.
        key: Key,
    },
    /// Everything that was there has been told: at the beginning of a feed that begins with what
    /// is there, and after `Reloaded`.
    Complete,
    /// More changed than the feed remembers: what the consumer holds is void. What follows is
    /// every item that is there as inserted, then `Complete`, then what changes.
    Reloaded,
}

/// A difference, not decoded.
#[derive(Debug)]
enum Told {
    Put { old: Old, new: Row },
    Deleted { key: Key, old: Old },
    Complete,
    Reloaded,
}

/// What the consumer saw of a key last.
#[derive(Debug)]
enum Old {
    Absent,
    Row(Row),
    Dropped,
}

/// The part of a feed that the replica writes to.
#[derive(Debug)]
pub(crate) struct Feed {
    backlog: Mutex<Backlog>,
    moved: Notify,
}

#[derive(Debug)]
struct Backlog {
    dirty: BTreeMap<Key, (u64, Old)>,
    /// Keys of `dirty` in the order in which they moved first.
    order: BTreeMap<u64, Key>,
    next: u64,
    old_bytes: usize,
    overflowed: bool,
    telling: Telling,
}

/// How far a feed has told what is there.
#[derive(Debug)]
enum Telling {
    /// Keys up to this one were told; later ones are told as they are when their turn comes, so
    /// their changes need not be remembered.
    UpTo(Option<Key>),
    Complete,
}

// === impl Differences ===

impl<C: Codec> Differences<C> {
    pub(crate) fn new(view: Arc<View>, feed: Arc<Feed>) -> Self {
        Self { view, feed, ready: VecDeque::new(), looking: None, codec: PhantomData }
    }

    /// The next difference; waits for one. `None` when the replica has stopped and everything
    /// was told. May be cancelled without losing anything.
    pub async fn next(&mut self) -> Option<Result<Difference<C::Item>, StoreError>> {
        loop {
            let feed = self.feed.clone();
            let moved = feed.moved.notified();
            let stopped = self.view.is_stopped();
            if let Some(next) = self.next_now().await {
                return Some(next);
            }
            if stopped {
                return None;
            }
            self.view.stopped_or(moved).await;
        }
    }

    /// The next difference that there is already; `None` when everything up to now was told. Waits
    /// for the local store only. May be cancelled without losing anything.
    pub async fn next_now(&mut self) -> Option<Result<Difference<C::Item>, StoreError>> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Some(Ok(told.decode::<C>()));
            }
            let feed = self.feed.clone();
            let moved = feed.moved.notified();
            let stopped = self.view.is_stopped();
            match self.look().await {
                Ok(Look::Told(told)) => self.ready = told,
                Ok(Look::Nothing) => return None,
                // The write of a driver that was dropped.
                Ok(Look::Busy) if stopped => tokio::task::yield_now().await,
                Ok(Look::Busy) => self.view.stopped_or(moved).await,
                Err(failure) => return Some(Err(failure)),
            }
        }
    }

    /// Looks whether there is something to tell: elsewhere, if that may wait for a disk.
    async fn look(&mut self) -> Result<Look, StoreError> {
        if self.looking.is_none() {
            if self.feed.has_nothing() {
                return Ok(Look::Nothing);
            }
            let (view, feed) = (self.view.clone(), self.feed.clone());
            let look = move || feed.look(&view);
            if !self.view.store().may_block() {
                return look();
            }
            self.looking = Some(Elsewhere::begin("reading the local store", look));
        }
        // It is kept here while it is waited for: who was cancelled finds it again.
        let Some(looking) = &mut self.looking else { return Ok(Look::Nothing) };
        let found = looking.done().await;
        self.looking = None;
        found
    }

    /// The feed as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Difference<C::Item>, StoreError>> + Send {
        futures::stream::unfold(self, async |mut feed| {
            feed.next().await.map(|difference| (difference, feed))
        })
    }
}

impl<C: Codec> fmt::Debug for Differences<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Differences").field("collection", self.view.name()).finish_non_exhaustive()
    }
}

// === impl Told ===

impl Told {
    fn decode<C: Codec>(self) -> Difference<C::Item> {
        match self {
            Self::Complete => Difference::Complete,
            Self::Reloaded => Difference::Reloaded,
            Self::Deleted { key, old } => Difference::Deleted { key, old: old.decode::<C>() },
            Self::Put { old, new } => {
                let key = new.key.clone();
                let Ok(new) = Entry::decode::<C>(new) else {
                    return Difference::Undecodable { key };
                };
                match old {
                    Old::Absent => Difference::Inserted(new),
                    Old::Row(_) | Old::Dropped => {
                        Difference::Updated { old: old.decode::<C>(), new }
                    }
                }
            }
        }
    }
}

// === impl Old ===

impl Old {
    fn decode<C: Codec>(self) -> Option<Entry<C::Item>> {
        match self {
            Self::Row(row) => Entry::decode::<C>(row).ok(),
            Self::Absent | Self::Dropped => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Row(row) => row.value.len() + row.sort_key.as_bytes().len(),
            Self::Absent | Self::Dropped => 0,
        }
    }
}

// === impl Feed ===

impl Feed {
    /// A feed from now on, or one that first tells what is there.
    pub(crate) fn new(begins_with_all: bool) -> Self {
        let backlog = Backlog {
            dirty: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
            old_bytes: 0,
            overflowed: false,
            telling: if begins_with_all { Telling::UpTo(None) } else { Telling::Complete },
        };
        Self { backlog: Mutex::new(backlog), moved: Notify::new() }
    }

    /// Remembers what changed. The caller holds the gate of the view.
    pub(crate) fn remember(&self, changes: &[Changed]) {
        let mut backlog = self.backlog.lock();
        for change in changes {
            backlog.remember(change);
        }
    }

    /// What changed is not known: the consumer must look anew.
    pub(crate) fn overflow(&self) {
        self.backlog.lock().overflow();
    }

    /// Makes the consumer look. The caller has left the gate of the view.
    pub(crate) fn wake(&self) {
        self.moved.notify_one();
    }

    /// Whether there is nothing to tell, as far as can be seen without reading the rows.
    fn has_nothing(&self) -> bool {
        let backlog = self.backlog.lock();
        let told = matches!(backlog.telling, Telling::Complete);
        told && backlog.order.is_empty() && !backlog.overflowed
    }

    /// Makes what there is to tell ready, unless a write is under way. May wait for a disk.
    fn look(&self, view: &View) -> Result<Look, StoreError> {
        let Some(_gate) = view.gate() else { return Ok(Look::Busy) };
        let told = self.backlog.lock().take(view, READY_MAX)?;
        Ok(if told.is_empty() { Look::Nothing } else { Look::Told(told) })
    }

    /// Whether more changes make no difference, because the consumer must look anew anyway.
    pub(crate) fn is_void(&self) -> bool {
        self.backlog.lock().overflowed
    }
}

// === impl Backlog ===

impl Backlog {
    fn remember(&mut self, change: &Changed) {
        let told = match &self.telling {
            Telling::UpTo(told) => told.as_ref() >= Some(&change.key),
            Telling::Complete => true,
        };
        if self.overflowed || !told {
            return;
        }
        if let Some((number, old)) = self.dirty.get(&change.key) {
            // Came and went while nobody looked.
            if matches!(old, Old::Absent) && !change.exists {
                self.order.remove(number);
                self.dirty.remove(&change.key);
            }
            return;
        }
        let old = match &change.old {
            None if !change.exists => return,
            None => Old::Absent,
            Some(row) if self.old_bytes < OLD_BYTES_MAX => Old::Row(row.clone()),
            Some(_) => Old::Dropped,
        };
        if self.dirty.len() == KEYS_MAX {
            self.overflow();
            return;
        }
        self.old_bytes += old.bytes();
        // A key may be a slice of something larger; a backlog is kept for long.
        let key = own_key(&change.key);
        self.order.insert(self.next, key.clone());
        self.dirty.insert(key, (self.next, old));
        self.next += 1;
    }

    fn overflow(&mut self) {
        self.dirty.clear();
        self.order.clear();
        self.old_bytes = 0;
        self.overflowed = true;
        // A consumer that read the collection itself would do so before or after some of the
        // changes that follow, and keep what is gone by then: it is told everything.
        self.telling = Telling::UpTo(None);
    }

    /// Makes up to `limit` differences ready. The caller holds the gate of the view, so that what
    /// is read now is exactly what was remembered. `Err` only if there is nothing else to tell:
    /// what was taken out is not remembered any more and must be handed out.
    fn take(&mut self, view: &View, limit: usize) -> Result<VecDeque<Told>, StoreError> {
        let mut told = VecDeque::new();
        if std::mem::take(&mut self.overflowed) {
            told.push_back(Told::Reloaded);
        }
        match self.tell_more(view, limit, &mut told) {
            Err(failure) if told.is_empty() => Err(failure),
            // The failure is told when it is the next thing to tell.
            Err(_) | Ok(()) => Ok(told),
        }
    }

    /// On `Err`, what is in `told` is right, and more was not taken.
    fn tell_more(
        &mut self,
        view: &View,
        limit: usize,
        told: &mut VecDeque<Told>,
    ) -> Result<(), StoreError> {
        while told.len() < limit {
            let Some((number, key)) = self.order.first_key_value() else { break };
            let (number, new) = (*number, view.store().get(view.name(), key)?);
            let Some(key) = self.order.remove(&number) else { break };
            let Some((_, old)) = self.dirty.remove(&key) else { continue };
            self.old_bytes -= old.bytes();
            told.extend(Told::new(key, old, new));
        }
        if told.len() < limit {
            self.tell_what_is_there(view, limit - told.len(), told)?;
        }
        Ok(())
    }

    fn tell_what_is_there(
        &mut self,
        view: &View,
        limit: usize,
        told: &mut VecDeque<Told>,
    ) -> Result<(), StoreError> {
        let Telling::UpTo(up_to) = &self.telling else { return Ok(()) };
        let rows = view.store().snapshot(view.name())?.rows(up_to.as_ref(), limit)?;
        self.telling = if let Some(last) = rows.last() {
            Telling::UpTo(Some(last.key.clone()))
        } else {
            told.push_back(Told::Complete);
            Telling::Complete
        };
        told.extend(rows.into_iter().map(|new| Told::Put { old: Old::Absent, new }));
        Ok(())
    }
}

impl Told {
    /// What a consumer is told that saw `old` last; `None` when it cannot see a difference.
    fn new(key: Key, old: Old, new: Option<Row>) -> Option<Self> {
        match (old, new) {
            (Old::Absent, None) => None,
            (Old::Row(old), Some(new)) if old.looks_like(&new) => None,
            (old, Some(new)) => Some(Self::Put { old, new }),
            (old, None) => Some(Self::Deleted { key, old }),
        }
    }
}
