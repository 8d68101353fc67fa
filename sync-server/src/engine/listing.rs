//! Windows and look-ups that do not move a cursor: items in key order or list order, items by
//! key, collections by name.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Head, Item, Key, ListItems, ListOrder, OrderRange, Subject, Timestamp,
};

use super::items::Items;
use super::ledger::Ledger;
use super::polling::name_of;
use super::view::View;
use crate::core::window::{self, TokenRefusal};
use crate::store::keys::{
    CollectionId, ROW_HEADER_LEN, Row, audience_range, key_range, receipt_key, stretch_range,
};
use crate::store::rows::{Receipt, ReceiptKind, RowKind};
use crate::store::{Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

/// Rows that one page passes at most, also when few of them are what was asked for.
const SCAN_ROWS_MAX: usize = 10_000;

/// Names that a listing of collections looks at before it lets others at the heads.
const LIST_LOOKS_MAX: usize = 1_000;

/// A window of items.
#[derive(Debug)]
pub struct Window {
    /// In the order asked for.
    pub items: Vec<Item>,
    /// What they take.
    pub bytes: usize,
    /// For the next page; empty = this was the last.
    pub next: Bytes,
    /// The collection at that moment.
    pub head: Head,
    /// How many items were passed over because that was asked for.
    pub skipped: u64,
}

/// Items by key.
#[derive(Debug)]
pub struct Found {
    /// In the order of the keys: the item, or the key that is gone. Perhaps fewer than asked.
    pub results: Vec<Result<Item, Key>>,
    /// What they take.
    pub bytes: usize,
    /// The collection at that moment.
    pub head: Head,
}

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// There is no such collection.
    #[error("collection: there is no such collection")]
    NotFound,
    /// The page token cannot be continued.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// Storage failed.
    #[error("storage failed")]
    Store(#[from] StoreError),
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// A window of a collection, of at most so many bytes or one item.
    pub fn list_items(&self, asked: &ListItems, bytes_max: usize) -> Result<Window, ListError> {
        let (id, meta, view) = self.view(&asked.collection).ok_or(ListError::NotFound)?;
        let head = meta.head;
        let question = window::question(asked);
        let position = window::position(&asked.page_token, head.epoch, question)?;
        let range = window_range(asked, id, position);
        let direction = if asked.descending { Direction::Backward } else { Direction::Forward };
        let Places { rows, more, skipped } = places(asked, &range, direction, &view)?;

        let keys: Vec<Key> = rows.iter().filter_map(|(key, _)| key.clone()).collect();
        let mut found = Items::new(id, keys, asked.keys_only, &view);
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        let mut cut = false;
        for (key, place) in rows {
            if key.is_some() {
                if items.len() == asked.page_size {
                    cut = true;
                    break;
                }
                let (_, item) = found.next().expect("one for each key")?;
                let Some(item) = item else { continue };
                let size = item_size(&item);
                if !items.is_empty() && bytes + size > bytes_max {
                    cut = true;
                    break;
                }
                bytes += size;
                items.push(item);
            }
            last = Some(place);
        }
        let next = match last {
            Some(place) if cut || more => {
                window::token(head.epoch, question, &place[ROW_HEADER_LEN..])
            }
            Some(_) | None => Bytes::new(),
        };
        Ok(Window { items, bytes, next, head, skipped })
    }

    /// Items by key, as many as fit into so many bytes, or one.
    pub fn get_items(
        &self,
        name: &CollectionName,
        keys: &[Key],
        keys_only: bool,
        bytes_max: usize,
    ) -> Result<Found, ListError> {
        let (id, meta, view) = self.view(name).ok_or(ListError::NotFound)?;
        let mut results = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for found in Items::new(id, keys.iter().cloned(), keys_only, &view) {
            let (key, item) = found?;
            let size = item.as_ref().map_or(key.as_bytes().len(), item_size);
            if !results.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            results.push(item.ok_or(key));
        }
        Ok(Found { results, bytes, head: meta.head })
    }

    /// How far an import has come, while its receipt is kept.
    pub fn import_progress(
        &self,
        import_id: &str,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let Some(row) = self.durable(&receipt_key(ReceiptKind::Import, import_id))? else {
            return Ok(None);
        };
        let receipt = Receipt::decode(row)?;
        let kept = !receipt.expired(now, self.settings.receipt_window);
        kept.then(|| receipt.import_sequence()).transpose()
    }

    /// Bytes of live items of the collection of this name and of those below it, if that is known
    /// without a look at each of them.
    pub fn bytes_below(&self, root: &str) -> Option<u64> {
        self.heads.read().bytes_below(root)
    }

    /// The same, counted if it is not known. From then on it is kept up.
    pub fn count_below(&self, root: &str) -> u64 {
        loop {
            // Taken anew for each piece: the writer waits for it.
            let counted = self.heads.write().count_below(root, LIST_LOOKS_MAX);
            if let Some(bytes) = counted {
                return bytes;
            }
        }
    }

    /// Collections by name that `may_read` allows: those behind `after` whose names begin with
    /// `prefix`, at most `most` of them. Looks at all names until it has as many, so that what a
    /// caller may not read neither shows nor hides anything; but only at those that begin with one
    /// of `stems`, so that the time does not tell how many others there are. Stems are sorted, and
    /// none begins with another.
    pub fn list_collections(
        &self,
        prefix: &str,
        stems: &[String],
        after: Option<&CollectionName>,
        most: usize,
        may_read: impl Fn(&CollectionName) -> bool,
    ) -> Vec<(CollectionName, Head)> {
        let mut found = Vec::new();
        for stem in stems {
            let within = if stem.starts_with(prefix) { stem } else { prefix };
            if within.starts_with(stem.as_str()) {
                self.list_within(within, after, most, &may_read, &mut found);
            }
        }
        found
    }

    fn list_within(
        &self,
        prefix: &str,
        after: Option<&CollectionName>,
        most: usize,
        may_read: impl Fn(&CollectionName) -> bool,
        found: &mut Vec<(CollectionName, Head)>,
    ) {
        let mut after = after.cloned();
        loop {
            // Taken anew for each chunk: the writer waits for it.
            let heads = self.heads.read();
            let start = match &after {
                Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
                Some(_) | None => Bound::Included(prefix),
            };
            let mut chunk = heads.by_name.range::<str, _>((start, Bound::Unbounded));
            let mut last = None;
            for (name, (_, meta)) in chunk.by_ref().take(LIST_LOOKS_MAX) {
                if found.len() == most || !name.as_str().starts_with(prefix) {
                    return;
                }
                if may_read(name) {
                    found.push((name.clone(), meta.head));
                }
                last = Some(name);
            }
            if last.is_none() {
                return;
            }
            after = last.cloned();
        }
    }
}

impl<S: Store> Ledger<S> {
    /// Those who follow a name, from behind a subject on, so many at most. A name need not exist to
    /// be followed.
    pub fn list_audience(
        &self,
        name: &CollectionName,
        after: Option<&Subject>,
        most: usize,
    ) -> Result<Vec<Subject>, StoreError> {
        let mut range = audience_range(name, after);
        if after.is_some() {
            range.start.push(0);
        }
        let mut subjects = Vec::new();
        let mut broken = None;
        self.view_of_now().scan(&range, Direction::Forward, &mut |place, value| {
            if subjects.len() == most {
                return ControlFlow::Break(());
            }
            match Row::decode(place, value) {
                Ok(Row::Audience { subject, .. }) => {
                    subjects.push(subject);
                    ControlFlow::Continue(())
                }
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        broken.map_or(Ok(subjects), Err)
    }

    /// What a subject follows: the keys of its inbox, page by page.
    pub fn list_follows(
        &self,
        subject: &Subject,
        page_size: usize,
        page_token: Bytes,
    ) -> Result<(Vec<CollectionName>, Bytes), ListError> {
        let asked = ListItems {
            collection: subject.inbox(),
            order: ListOrder::Key,
            descending: false,
            page_size,
            page_token,
            keys_only: true,
            key_prefix: Bytes::new(),
            stretch: OrderRange::default(),
            skip: 0,
        };
        match self.list_items(&asked, PAGE_BYTES_MAX) {
            Ok(window) => {
                let names = window.items.iter().map(|item| name_of(&item.key));
                Ok((names.collect::<Result<_, _>>()?, window.next))
            }
            // It never followed anything.
            Err(ListError::NotFound) => Ok((Vec::new(), Bytes::new())),
            Err(error) => Err(error),
        }
    }
}

/// The rows behind `position` in the order asked for.
fn window_range(asked: &ListItems, id: CollectionId, position: Option<&[u8]>) -> KeyRange {
    let whole = match asked.order {
        ListOrder::Key => key_range(id, &asked.key_prefix),
        ListOrder::SortKey => stretch_range(id, &asked.stretch),
    };
    let Some(position) = position else { return whole };
    let header = &whole.start[..ROW_HEADER_LEN];
    let mut place = [header, position].concat();
    // A token of these very questions points into the range; a forged one must not lead out.
    if asked.descending {
        let end = whole.end.map_or(place.clone(), |end| end.min(place)).max(whole.start.clone());
        KeyRange { start: whole.start, end: Some(end) }
    } else {
        // The smallest key behind `place`.
        place.push(0);
        let start = place.max(whole.start);
        let start = whole.end.as_ref().map_or(start.clone(), |end| start.min(end.clone()));
        KeyRange { start, end: whole.end }
    }
}

type Place = (Option<Key>, Vec<u8>);

/// The next rows of a window.
struct Places {
    /// With the keys that they stand for; `None`: not one that was asked for.
    rows: Vec<Place>,
    /// There may be more behind them.
    more: bool,
    /// Items that were asked for but passed over.
    skipped: u64,
}

/// Passes over the rows of a window.
fn places<S: Store>(
    asked: &ListItems,
    range: &KeyRange,
    direction: Direction,
    view: &View<'_, S>,
) -> Result<Places, StoreError> {
    let mut places: Vec<Place> = Vec::new();
    let mut skipped = 0;
    let mut wanted = 0;
    let mut rows = 0;
    let mut more = false;
    let mut broken = None;
    view.scan(range, direction, &mut |place, value| {
        if wanted > asked.page_size || rows >= SCAN_ROWS_MAX {
            more = true;
            return ControlFlow::Break(());
        }
        rows += 1;
        let mut key = match Row::decode(place, value) {
            Ok(Row::Key { key, row, .. }) => (row.kind == RowKind::Live).then_some(key),
            Ok(Row::Order { key, .. }) => {
                key.as_bytes().starts_with(&asked.key_prefix).then_some(key)
            }
            Ok(_) => None,
            Err(error) => {
                broken = Some(error);
                return ControlFlow::Break(());
            }
        };
        if key.is_some() && skipped < asked.skip {
            skipped += 1;
            key = None;
        }
        wanted += usize::from(key.is_some());
        // Rows that were passed over only matter as the place where the next page begins.
        match places.last_mut() {
            Some(last) if key.is_none() && last.0.is_none() => last.1 = place.to_vec(),
            Some(_) | None => places.push((key, place.to_vec())),
        }
        ControlFlow::Continue(())
    })?;
    broken.map_or(Ok(Places { rows: places, more, skipped }), Err)
}

fn item_size(item: &Item) -> usize {
    let value = item.value.as_ref().map_or(0, |value| value.as_bytes().len());
    item.key.as_bytes().len() + item.sort_key.as_bytes().len() + value
}
