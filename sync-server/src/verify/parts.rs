//! Cuts all rows of a store into parts for several threads. Pure. The parts cover every possible
//! key, whatever is there; sizes only decide where to cut.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use sync_proto::types::Version;

use crate::core::check::Checker;
use crate::store::KeyRange;
use crate::store::keys::{self, CollectionId};

/// Rows of a part, about: a moment's work, so that no thread is busy long after the others.
const PART_ROWS: u64 = 32 * 1024;

/// A collection as its head tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) id: CollectionId,
    /// Rows in its log.
    pub(super) rows: u64,
    pub(super) head: Version,
}

/// Some rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) range: KeyRange,
    /// Whether the log of its collection goes on elsewhere.
    pub(super) partial: bool,
    /// Rows in it, about, if it cannot be cut any further; otherwise 0.
    rows: u64,
}

// === impl Part ===

impl Part {
    pub(super) fn with_checker(self, inboxes: &Arc<BTreeSet<CollectionId>>) -> (KeyRange, Checker) {
        (self.range, Checker::of_part(self.partial, Arc::clone(inboxes)))
    }
}

/// The parts in the order in which to begin them: what cannot be cut comes first, so that no
/// thread is left alone with it at the end.
pub(super) fn largest_first(sizes: &[Size]) -> Vec<Part> {
    let mut parts = cut(sizes);
    parts.sort_by_key(|part| Reverse(part.rows));
    parts
}

/// Cuts between collections, and within the log of a large one. `sizes` are in the order of ids.
fn cut(sizes: &[Size]) -> Vec<Part> {
    let mut cuts: Vec<(Vec<u8>, bool, u64)> = vec![(Vec::new(), false, 0)];
    let mut rows = 0;
    for size in sizes {
        if rows >= PART_ROWS || size.rows >= PART_ROWS {
            let large = if size.rows >= PART_ROWS { size.rows } else { 0 };
            cuts.extend(keys::doomed_ranges(size.id).map(|range| (range.start, false, large)));
            rows = 0;
        }
        rows += size.rows;
        if size.rows >= PART_ROWS {
            cuts.extend(within_log(size).into_iter().map(|start| (start, true, 0)));
            let next = CollectionId(size.id.0.saturating_add(1));
            cuts.extend(keys::doomed_ranges(next).map(|range| (range.start, false, 0)));
            rows = 0;
        }
    }
    cuts.sort();
    cuts.dedup_by(|later, first| later.0 == first.0);
    let ends: Vec<_> = cuts.iter().skip(1).map(|(start, ..)| Some(start.clone())).collect();
    let ranges = cuts.into_iter().zip(ends.into_iter().chain([None]));
    ranges
        .map(|((start, partial, rows), end)| Part { range: KeyRange { start, end }, partial, rows })
        .collect()
}

/// Where to cut a log: between versions, as if each had as many rows.
fn within_log(size: &Size) -> Vec<Vec<u8>> {
    let pieces = size.rows.div_ceil(PART_ROWS);
    let step = size.head.get().div_ceil(pieces).max(1);
    let after = (0..pieces).filter_map(|piece| Version::new(piece.saturating_mul(step)).ok());
    after.map(|after| keys::log_range(size.id, after, after).start).collect()
}

/// First key of the rows of heads.
pub(super) fn metas_start() -> Vec<u8> {
    keys::meta_key(CollectionId(0))
}

/// First key behind them.
pub(super) fn metas_end() -> Vec<u8> {
    keys::log_range(CollectionId(0), Version::default(), Version::default()).start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(id: u64, rows: u64, head: u64) -> Size {
        Size { id: CollectionId(id), rows, head: Version::new(head).unwrap() }
    }

    /// Every key is in exactly one part, and no log in two that do not know it.
    #[test]
    fn parts_cover_everything_once() {
        let sizes = [
            size(1, 10, 5),
            size(3, PART_ROWS * 5, 1_000),
            size(4, PART_ROWS, 1),
            size(9, PART_ROWS / 2, 7),
            size(10, PART_ROWS - 1, 9),
            size(11, 1, 9),
            size(u64::MAX, PART_ROWS * 2, (1 << 63) - 1),
        ];
        for count in 0..=sizes.len() {
            let parts = cut(&sizes[..count]);
            assert!(parts[0].range.start.is_empty());
            assert_eq!(parts.last().unwrap().range.end, None);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].range.end.as_ref(), Some(&pair[1].range.start));
                assert!(pair[0].range.start < pair[1].range.start);
                let log_of = |key: &[u8]| (key.len() > 9).then(|| key[..9].to_vec());
                if let Some(log) = log_of(&pair[1].range.start) {
                    assert!(pair[1].partial, "the log of {log:?} is cut");
                    // What lies before its first row has no version.
                    let first = log_of(&pair[0].range.start).is_none();
                    assert!(first || pair[0].partial);
                }
            }
        }
        assert!(cut(&sizes).iter().filter(|part| part.partial).count() >= 5);
        let ordered = largest_first(&sizes);
        assert_eq!(ordered.len(), cut(&sizes).len());
        assert!(ordered[0].rows == PART_ROWS * 5 && !ordered[0].partial);
    }
}
