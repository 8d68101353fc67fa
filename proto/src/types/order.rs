//! Places and stretches of the list order. Pure.

use std::cmp::Ordering;

use bytes::Bytes;

use super::{Key, Malformed, SortKey};
use crate::limits::{KEY_LEN_MAX, SORT_KEY_LEN_MAX};

/// A place in list order: that of an item, or the one before every item of a sort key. Places are
/// ordered as the list is: by sort key, then by key, bytewise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderPlace {
    /// The sort key.
    pub sort_key: SortKey,
    /// The key; `None` = before every item of this sort key.
    pub key: Option<Key>,
}

/// A stretch of the list order. Never empty: there is a place that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct OrderRange {
    from: Option<OrderPlace>,
    to: Option<OrderPlace>,
}

// === impl OrderPlace ===

impl OrderPlace {
    /// Where an item of this sort key and key stands.
    #[must_use]
    pub fn of(sort_key: &SortKey, key: &Key) -> Self {
        Self { sort_key: sort_key.clone(), key: Some(key.clone()) }
    }

    /// The first place behind this one; `None` = nothing can stand behind it. Keys and sort keys
    /// have a longest length, so there is always exactly one.
    #[must_use]
    pub fn behind(&self) -> Option<Self> {
        let Self { sort_key, key } = self;
        let next = match key {
            // One byte: the shortest key there is.
            None => Some(Bytes::from_static(&[0])),
            Some(key) => successor(key.as_bytes(), KEY_LEN_MAX),
        };
        if let Some(next) = next {
            let key = Key::new(next).expect("a successor is not empty, and not too long");
            return Some(Self { sort_key: sort_key.clone(), key: Some(key) });
        }
        let next = successor(sort_key.as_bytes(), SORT_KEY_LEN_MAX)?;
        let sort_key = SortKey::new(next).expect("a successor is not too long");
        Some(Self { sort_key, key: None })
    }

    /// How it compares with the place of an item.
    #[must_use]
    pub fn cmp_item(&self, sort_key: &SortKey, key: &Key) -> Ordering {
        self.sort_key.cmp(sort_key).then_with(|| self.key.as_ref().cmp(&Some(key)))
    }
}

/// The smallest text behind this one that has at most so many bytes.
fn successor(text: &[u8], len_max: usize) -> Option<Bytes> {
    if text.len() < len_max {
        return Some([text, &[0]].concat().into());
    }
    let last = text.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = text[..=last].to_vec();
    next[last] += 1;
    Some(next.into())
}

// === impl OrderRange ===

impl OrderRange {
    /// The places from `from` (`None` = the beginning of the list) to before `to` (`None` = the
    /// end).
    pub fn new(from: Option<OrderPlace>, to: Option<OrderPlace>) -> Result<Self, Malformed> {
        if let (Some(from), Some(to)) = (&from, &to)
            && from >= to
        {
            return Err(Malformed::new("to", "must lie behind from"));
        }
        // Nothing stands before an empty sort key.
        if to.as_ref().is_some_and(|to| to.key.is_none() && to.sort_key.as_bytes().is_empty()) {
            return Err(Malformed::new("to", "must not be the beginning of the list"));
        }
        Ok(Self { from, to })
    }

    /// The first place that belongs to it; `None` = the beginning of the list.
    #[must_use]
    pub fn from(&self) -> Option<&OrderPlace> {
        self.from.as_ref()
    }

    /// The first place behind it; `None` = it reaches to the end of the list.
    #[must_use]
    pub fn to(&self) -> Option<&OrderPlace> {
        self.to.as_ref()
    }

    /// Whether an item of this sort key and key stands in it.
    #[must_use]
    pub fn contains(&self, sort_key: &SortKey, key: &Key) -> bool {
        let begins = self.from.as_ref().is_none_or(|from| from.cmp_item(sort_key, key).is_le());
        let ends = self.to.as_ref().is_none_or(|to| to.cmp_item(sort_key, key).is_gt());
        begins && ends
    }

    /// Whether every place of `other` belongs to it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let begins = match (&self.from, &other.from) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine <= theirs,
        };
        let ends = match (&self.to, &other.to) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine >= theirs,
        };
        begins && ends
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(bytes: &[u8]) -> Key {
        Key::new(bytes.to_vec()).unwrap()
    }

    fn sort_key(bytes: &[u8]) -> SortKey {
        SortKey::new(bytes.to_vec()).unwrap()
    }

    fn place(sort: &[u8], of: &[u8]) -> OrderPlace {
        let key = (!of.is_empty()).then(|| key(of));
        OrderPlace { sort_key: sort_key(sort), key }
    }

    fn few(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 0xfe, 0xff]), 0..most)
    }

    proptest! {
        /// What is in a stretch is what stands between its ends in the order of (sort key, key).
        #[test]
        fn a_stretch_is_what_stands_between_its_ends(
            ends in (few(3), few(3), few(3), few(3)), item in (few(3), few(3)),
        ) {
            let (from, to) = (place(&ends.0, &ends.1), place(&ends.2, &ends.3));
            prop_assume!(!item.1.is_empty());
            let (sort, of) = (sort_key(&item.0), key(&item.1));
            match OrderRange::new(Some(from), Some(to)) {
                Ok(range) => {
                    let here = (item.0, item.1);
                    let inside = (ends.0, ends.1) <= here && here < (ends.2, ends.3);
                    prop_assert_eq!(range.contains(&sort, &of), inside);
                }
                Err(_) => prop_assert!((ends.0, ends.1) >= (ends.2, ends.3)),
            }
        }

        /// Nothing stands between a place and the one behind it, also where keys cannot get longer.
        #[test]
        fn behind_is_the_next_place(
            sort in few(3), of in few(3), pad in prop::bool::ANY, other in (few(3), few(3)),
        ) {
            let mut of = of;
            if pad && !of.is_empty() {
                of.resize(KEY_LEN_MAX, 0xff);
            }
            let here = place(&sort, &of);
            let next = here.behind().expect("a short sort key has a next one");
            prop_assert!(here < next);
            let other = place(&other.0, &other.1);
            prop_assert!(other <= here || other >= next, "{other:?} stands between");
        }
    }

    #[test]
    fn the_last_place_of_all_has_none_behind_it() {
        let (sort, of) = (vec![0xff; SORT_KEY_LEN_MAX], vec![0xff; KEY_LEN_MAX]);
        assert_eq!(place(&sort, &of).behind(), None);
        assert_eq!(place(&sort[1..], &of).behind(), Some(place(&[&sort[1..], &[0]].concat(), b"")));
    }

    #[test]
    fn a_stretch_covers_what_lies_within() {
        let range = |from: Option<&[u8]>, to: Option<&[u8]>| {
            let end = |end: Option<&[u8]>| end.map(|sort| place(sort, b""));
            OrderRange::new(end(from), end(to)).unwrap()
        };
        let part = range(Some(b"b"), Some(b"d"));
        for (other, covered) in [
            (range(Some(b"b"), Some(b"d")), true),
            (range(Some(b"c"), Some(b"d")), true),
            (range(Some(b"a"), Some(b"d")), false),
            (range(Some(b"b"), Some(b"e")), false),
            (range(None, Some(b"d")), false),
            (range(Some(b"b"), None), false),
        ] {
            assert_eq!(part.covers(&other), covered, "{other:?}");
            assert!(OrderRange::default().covers(&other));
        }
        assert!(OrderRange::new(None, Some(place(b"", b""))).is_err(), "nothing stands there");
    }
}
