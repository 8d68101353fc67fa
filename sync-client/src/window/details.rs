//! The contents of items, kept by key and version of the value while there is room: they are used
//! again when a window moves, or an item does. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sync_proto::types::{Key, Value, Version};

use super::rows::Row;
use super::view::Detail;

/// Contents that were fetched.
#[derive(Debug)]
pub(super) struct Details {
    cached: BTreeMap<Key, Cached>,
    /// Keys by when they were last on screen.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Cached {
    value_version: Version,
    /// `None` = there was no such item when it was asked for.
    value: Option<Value>,
    used: u64,
}

/// What a kept content costs besides its bytes.
const OVERHEAD_BYTES: usize = 200;
/// Contents that are asked for at a time.
const FETCH_KEYS_MAX: usize = 64;

// === impl Details ===

impl Details {
    pub(super) fn new(bytes_max: usize) -> Self {
        let (cached, by_use) = (BTreeMap::new(), BTreeMap::new());
        Self { cached, by_use, uses: 0, bytes: 0, bytes_max }
    }

    /// Versions of another life of the collection do not compare.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// The content of a row, as far as it is known. What was fetched may be newer than the row:
    /// the stream will say so.
    pub(super) fn of(&self, row: &Row) -> Detail {
        match self.cached.get(&row.key) {
            Some(cached) if cached.value_version >= row.value_version => {
                cached.value.clone().map_or(Detail::Gone, Detail::Known)
            }
            Some(_) | None => Detail::Missing,
        }
    }

    /// The keys of the rows on screen whose contents are to be fetched next. None once those that
    /// are there fill the room: it bounds memory.
    pub(super) fn wanted<'a>(&mut self, on_screen: impl Iterator<Item = &'a Row>) -> Vec<Key> {
        let mut wanted = Vec::new();
        let mut bytes = 0;
        for row in on_screen {
            match self.cached.get(&row.key) {
                Some(cached) if cached.value_version >= row.value_version => {
                    bytes += cached.bytes(&row.key);
                    self.touch(&row.key);
                }
                Some(_) | None if wanted.len() < FETCH_KEYS_MAX => wanted.push(row.key.clone()),
                Some(_) | None => {}
            }
        }
        if bytes >= self.bytes_max { Vec::new() } else { wanted }
    }

    /// Keeps what was fetched, with the version of the value; `None` = there is no such item, and the
    /// version is that of the collection.
    pub(super) fn keep(&mut self, key: Key, value_version: Version, value: Option<Value>) {
        self.drop_one(&key);
        self.uses += 1;
        let cached = Cached { value_version, value, used: self.uses };
        self.bytes += cached.bytes(&key);
        self.by_use.insert(self.uses, key.clone());
        self.cached.insert(key, cached);
    }

    /// Drops what was not on screen for the longest time until the rest fits.
    pub(super) fn make_room<'a>(&mut self, on_screen: impl Iterator<Item = &'a Row>) {
        if self.bytes <= self.bytes_max {
            return;
        }
        let pinned: BTreeSet<&Key> = on_screen.map(|row| &row.key).collect();
        let oldest: Vec<Key> =
            self.by_use.values().filter(|key| !pinned.contains(key)).cloned().collect();
        for key in oldest {
            if self.bytes <= self.bytes_max {
                return;
            }
            self.drop_one(&key);
        }
    }

    fn touch(&mut self, key: &Key) {
        let Some(cached) = self.cached.get_mut(key) else { return };
        self.by_use.remove(&cached.used);
        self.uses += 1;
        cached.used = self.uses;
        self.by_use.insert(self.uses, key.clone());
    }

    fn drop_one(&mut self, key: &Key) {
        if let Some(cached) = self.cached.remove(key) {
            self.by_use.remove(&cached.used);
            self.bytes -= cached.bytes(key);
        }
    }
}

// === impl Cached ===

impl Cached {
    fn bytes(&self, key: &Key) -> usize {
        let value = self.value.as_ref().map_or(0, |value| value.as_bytes().len());
        OVERHEAD_BYTES + key.as_bytes().len() + value
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sync_proto::types::SortKey;

    use super::*;

    fn row(name: &str, value_version: u64) -> Row {
        let version = Version::new(value_version).unwrap();
        Row {
            key: Key::new(Bytes::copy_from_slice(name.as_bytes())).unwrap(),
            sort_key: SortKey::default(),
            version,
            created: version,
            value_version: version,
        }
    }

    fn value(bytes: usize) -> Value {
        Value::new(vec![b'v'; bytes]).unwrap()
    }

    /// A content counts for its version of the value and older ones, not for a newer one.
    #[test]
    fn a_content_is_reused_until_the_value_changes() {
        let mut details = Details::new(10_000);
        let (old, new) = (row("a", 5), row("a", 6));
        assert_eq!(details.wanted([&old].into_iter()), std::slice::from_ref(&old.key));
        details.keep(old.key.clone(), old.value_version, Some(value(3)));
        assert_eq!(details.of(&old), Detail::Known(value(3)));
        assert!(details.wanted([&old].into_iter()).is_empty());
        assert_eq!(details.of(&new), Detail::Missing);
        assert_eq!(details.wanted([&new].into_iter()), std::slice::from_ref(&new.key));
        details.keep(new.key.clone(), new.value_version, None);
        assert_eq!(details.of(&new), Detail::Gone);
        assert!(details.wanted([&new].into_iter()).is_empty(), "it is not asked for again");
    }

    /// G8: memory is bounded; what is on screen stays, and what was on screen last stays longest.
    #[test]
    fn room_is_made_among_what_is_not_on_screen() {
        let mut details = Details::new(5 * (OVERHEAD_BYTES + 101));
        let rows: Vec<Row> = (0..9).map(|n| row(&n.to_string(), 1)).collect();
        for row in &rows {
            details.keep(row.key.clone(), row.value_version, Some(value(100)));
            assert!(details.wanted(rows[..2].iter()).len() <= 2);
            details.make_room(rows[..2].iter());
            assert!(details.bytes <= details.bytes_max);
        }
        let known = rows.iter().map(|row| details.of(row) != Detail::Missing);
        let known: Vec<bool> = known.collect();
        assert_eq!(known, [true, true, false, false, false, false, true, true, true]);
        // A screen that fills the room is not fetched any further, or it would go on for ever.
        assert!(details.wanted(rows[4..].iter().chain(&rows[..2])).len() <= 2);
        let mut small = Details::new(300);
        small.keep(rows[0].key.clone(), rows[0].value_version, Some(value(100)));
        assert!(small.wanted(rows.iter()).is_empty());
        assert_eq!(details.cached.len(), details.by_use.len());
    }
}
