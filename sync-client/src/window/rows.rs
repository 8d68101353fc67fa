//! The rows that a window holds, in list order, and the stretch for which they are all there is.
//! Pure.

use std::collections::BTreeMap;

use sync_proto::types::{Item, Key, OrderPlace, OrderRange, SortKey, Version};

/// What a listing or the stream says of an item, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) sort_key: SortKey,
    pub(super) version: Version,
    pub(super) created: Version,
    pub(super) value_version: Version,
}

/// Rows in list order.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    by_place: BTreeMap<OrderPlace, Row>,
    places: BTreeMap<Key, OrderPlace>,
}

/// A stretch of the list, seen in the direction in which the window reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) descending: bool,
    /// Where the window begins; `None` = where the list does. Ascending, the first place that
    /// belongs to it; descending, the first that does not.
    near: Option<OrderPlace>,
    /// Where it ends; `None` = where the list does. Ascending, the first place that does not
    /// belong to it; descending, the last that does.
    far: Option<OrderPlace>,
}

// === impl Row ===

impl Row {
    pub(super) fn of(item: Item) -> Self {
        let Item { key, sort_key, version, created, value_version, .. } = item;
        Self { key, sort_key, version, created, value_version }
    }

    pub(super) fn place(&self) -> OrderPlace {
        OrderPlace::of(&self.sort_key, &self.key)
    }
}

// === impl Rows ===

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Row> {
        self.by_place.get(self.places.get(key)?)
    }

    /// Takes a row in, unless a newer state of its item is known.
    pub(super) fn put(&mut self, row: Row) {
        if self.get(&row.key).is_some_and(|known| known.version > row.version) {
            return;
        }
        self.remove(&row.key);
        let place = row.place();
        self.places.insert(row.key.clone(), place.clone());
        self.by_place.insert(place, row);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Row> {
        self.by_place.remove(&self.places.remove(key)?)
    }

    /// In the direction of the window.
    pub(super) fn iter(&self, descending: bool) -> impl Iterator<Item = &Row> {
        let mut rows = self.by_place.values();
        std::iter::from_fn(move || if descending { rows.next_back() } else { rows.next() })
    }

    /// The place of the last row in the direction of the window.
    pub(super) fn last(&self, descending: bool) -> Option<OrderPlace> {
        let mut places = self.by_place.keys();
        if descending { places.next() } else { places.next_back() }.cloned()
    }

    pub(super) fn into_rows(self) -> impl Iterator<Item = Row> {
        self.by_place.into_values()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.places.keys()
    }

    /// Removes what stands behind the first `kept` rows; the place of the last that is left.
    pub(super) fn truncate(&mut self, kept: usize, descending: bool) -> Option<OrderPlace> {
        let behind: Vec<Key> =
            self.iter(descending).skip(kept).map(|row| row.key.clone()).collect();
        for key in &behind {
            self.remove(key);
        }
        self.last(descending)
    }
}

// === impl Span ===

impl Span {
    /// All that stands at `first` and behind it; `None` = the whole list.
    pub(super) fn from(first: Option<&OrderPlace>, descending: bool) -> Self {
        let near = match first {
            // Nothing can stand before the last place of all.
            Some(first) if descending => first.behind(),
            first => first.cloned(),
        };
        Self { descending, near, far: None }
    }

    /// Whether it reaches to the end of the list.
    pub(super) fn ends(&self) -> bool {
        self.far.is_none()
    }

    /// It ends with an item at `last`; `None` = with the list.
    pub(super) fn end_with(&mut self, last: Option<OrderPlace>) {
        self.far = match last {
            // Nothing can stand behind the last place of all.
            Some(last) if !self.descending => last.behind(),
            last => last,
        };
    }

    pub(super) fn range(&self) -> OrderRange {
        let (near, far) = (self.near.clone(), self.far.clone());
        let (from, to) = if self.descending { (far, near) } else { (near, far) };
        OrderRange::new(from, to).expect("a window ends behind its beginning")
    }

    pub(super) fn contains(&self, row: &Row) -> bool {
        self.range().contains(&row.sort_key, &row.key)
    }

    /// What stands behind its end; `None` = nothing can.
    pub(super) fn rest(&self) -> Option<OrderRange> {
        let far = self.far.clone()?;
        // Of a descending window that ends at the beginning of the list, nothing is left.
        let (from, to) = if self.descending { (None, Some(far)) } else { (Some(far), None) };
        OrderRange::new(from, to).ok()
    }
}
