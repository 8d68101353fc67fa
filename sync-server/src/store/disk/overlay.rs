//! What was applied and is not in sled yet: rows in memory, above those of sled. On disk only the
//! journal has them. Rows lie here in two layers: the active one takes what is applied, the frozen
//! one is being folded into sled and does not change until it is there.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

/// Rows by stored key; `None` = removed.
pub(super) type Rows = BTreeMap<Vec<u8>, Option<Bytes>>;

/// What a row takes beside its bytes, about.
const ROW_OVERHEAD_BYTES: usize = 64;

/// Two layers above sled.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    active: Rows,
    /// Bytes that were put into the active layer, what was replaced since included: about what the
    /// journal took.
    bytes: usize,
    frozen: Option<Arc<Rows>>,
}

// === impl Overlay ===

impl Overlay {
    /// What the newest layer that knows the key says of it; `None` = sled knows.
    pub(super) fn get(&self, stored: &[u8]) -> Option<&Option<Bytes>> {
        self.active.get(stored).or_else(|| self.frozen.as_ref()?.get(stored))
    }

    /// Puts the rows of a batch into the active layer.
    pub(super) fn put(&mut self, rows: Vec<(Vec<u8>, Option<Bytes>)>) {
        for (key, value) in rows {
            self.bytes += ROW_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
            self.active.insert(key, value);
        }
    }

    /// Bytes put into the active layer.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the active layer the frozen one.
    pub(super) fn freeze(&mut self) -> Arc<Rows> {
        assert!(self.frozen.is_none(), "one layer is folded at a time");
        self.bytes = 0;
        let rows = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&rows));
        rows
    }

    /// Forgets the frozen layer, which is in sled now.
    pub(super) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// The rows of both layers from `start` (included) to `end` (excluded), the active one first.
    pub(super) fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> [Option<Range<'_, Vec<u8>, Option<Bytes>>>; 2] {
        // `BTreeMap` panics at a range that ends before it starts.
        let bounds = (start <= end).then_some((Bound::Included(start), Bound::Excluded(end)));
        [Some(&self.active), self.frozen.as_deref()]
            .map(|layer| Some(layer?.range::<[u8], _>(bounds?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &[u8], value: &'static str) -> (Vec<u8>, Option<Bytes>) {
        (key.to_vec(), Some(Bytes::from_static(value.as_bytes())))
    }

    /// G2: the newest word about a key counts, a removal as much as a value.
    #[test]
    fn the_newest_layer_counts() {
        let mut overlay = Overlay::default();
        overlay.put(vec![row(b"a", "1"), row(b"b", "1")]);
        let frozen = overlay.freeze();
        assert_eq!(overlay.bytes(), 0);
        overlay.put(vec![(b"a".to_vec(), None), row(b"c", "2")]);
        let one = Some(Bytes::from_static(b"1"));
        assert_eq!(overlay.get(b"a"), Some(&None));
        assert_eq!(overlay.get(b"b"), Some(&one));
        assert_eq!(overlay.get(b"d"), None);
        assert_eq!(frozen.len(), 2, "what is folded does not change");
        overlay.thaw();
        assert_eq!(overlay.get(b"b"), None);
        assert_eq!(overlay.get(b"a"), Some(&None), "what came later stays");
        let of_layer = |layer: Option<Range<'_, Vec<u8>, _>>| layer.map_or(0, Iterator::count);
        assert_eq!(overlay.range(b"b", b"z").map(of_layer), [1, 0]);
        assert_eq!(overlay.range(b"z", b"b").map(of_layer), [0, 0]);
    }
}
