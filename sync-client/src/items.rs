//! The items of a collection at one moment, for async code.

use std::collections::VecDeque;
use std::fmt;

use futures::Stream;

use crate::blocking::Elsewhere;
use crate::codec::Codec;
use crate::collection::Entry;
use crate::reader::Iter;
use crate::store::StoreError;

/// The items of a collection at one moment, by key; those that do not decode are passed over.
/// Do not keep it for long: a store on disk cannot reuse space while it lives.
pub struct Items<C: Codec> {
    place: Place<C>,
    ready: VecDeque<Entry<C::Item>>,
    may_block: bool,
}

/// Where the next items are.
enum Place<C: Codec> {
    Here(Box<Iter<C>>),
    /// Another thread reads a page and hands the iterator back.
    Elsewhere(Elsewhere<Page<C>>),
    /// Everything was read, or could not be.
    End,
}

type Page<C> = (Box<Iter<C>>, Option<Vec<Entry<<C as Codec>::Item>>>);

// === impl Items ===

impl<C: Codec> Items<C> {
    pub(crate) fn new(iter: Iter<C>, may_block: bool) -> Self {
        Self { place: Place::Here(Box::new(iter)), ready: VecDeque::new(), may_block }
    }

    /// The next item; `None` = that was the last. May be cancelled without losing anything.
    pub async fn next(&mut self) -> Option<Result<Entry<C::Item>, StoreError>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            match self.page().await {
                Ok(Some(page)) => self.ready.extend(page),
                Ok(None) => return None,
                Err(failure) => {
                    self.place = Place::End;
                    return Some(Err(failure));
                }
            }
        }
    }

    /// The items as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry<C::Item>, StoreError>> + Send {
        futures::stream::unfold(self, async |mut items| {
            items.next().await.map(|item| (item, items))
        })
    }

    async fn page(&mut self) -> Result<Option<Vec<Entry<C::Item>>>, StoreError> {
        let reading = match std::mem::replace(&mut self.place, Place::End) {
            Place::End => return Ok(None),
            Place::Here(mut iter) if !self.may_block => {
                let page = iter.page()?;
                self.place = Place::Here(iter);
                return Ok(page);
            }
            Place::Here(mut iter) => {
                let read = move || iter.page().map(|page| (iter, page));
                Elsewhere::begin("reading the local store", read)
            }
            Place::Elsewhere(reading) => reading,
        };
        // It is kept here while it is waited for: who was cancelled finds it again.
        self.place = Place::Elsewhere(reading);
        let Place::Elsewhere(reading) = &mut self.place else { return Ok(None) };
        let (iter, page) = reading.done().await?;
        self.place = Place::Here(iter);
        Ok(page)
    }
}

impl<C: Codec> fmt::Debug for Items<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}
