//! What differs between a copy and its collection, in rounds: sums of groups, sums of segments,
//! entries of segments. Pure. A round is answered from whatever the collection holds then; that
//! the rounds of one reader may see different heads is made good by its pull from the head of the
//! first round, so that head must still be a place to pull from.

use sync_proto::digest::{Digest, GROUPS, Group, Segment};
use sync_proto::limits::{RECONCILE_BYTES_MAX, RECONCILE_ENTRIES_MAX};
use sync_proto::types::{Cursor, Head, LeafEntry};

/// Bytes of values that are read for the hashes of one page: a page of large values is short.
const VALUES_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What an entry takes on the wire besides its key and sort key: numbers, hash, tags, lengths.
const ENTRY_OVERHEAD_BYTES: usize = 80;

/// Why the rounds cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BeginAgain {
    /// The collection has another life now.
    #[error("at: the collection has another epoch now, {0}; begin again at depth 0")]
    OtherEpoch(Cursor),
    /// The server lost what the first round was answered from.
    #[error("at: the collection stands behind it, at {0}; begin again at depth 0")]
    AheadOfHead(Cursor),
    /// Deletes after the first round have been forgotten.
    #[error(
        "at: deletes since then have been purged, the floor is {floor}; begin again at depth 0"
    )]
    BelowFloor {
        /// The floor now.
        floor: sync_proto::types::Version,
    },
}

/// How much one page of entries may still take.
#[derive(Debug)]
pub struct PageRoom {
    entries: usize,
    bytes: usize,
    values: u64,
    begun: bool,
}

/// Whether the head of the first round is still a place to pull from.
pub fn continues(head: &Head, at: Cursor) -> Result<(), BeginAgain> {
    if at.epoch != head.epoch {
        return Err(BeginAgain::OtherEpoch(head.cursor()));
    }
    if at.version > head.version {
        return Err(BeginAgain::AheadOfHead(head.cursor()));
    }
    if at.version < head.floor {
        return Err(BeginAgain::BelowFloor { floor: head.floor });
    }
    Ok(())
}

/// The sums of all groups, from those of the segments that hold something.
#[must_use]
pub fn group_sums(segments: impl IntoIterator<Item = (Segment, Digest)>) -> Vec<Digest> {
    let mut sums = vec![Digest::EMPTY; GROUPS];
    for (segment, sum) in segments {
        sums[usize::from(segment.group().get())] += sum;
    }
    sums
}

/// The sums of all segments of a group, from those that hold something.
#[must_use]
pub fn leaf_sums(group: Group, held: impl IntoIterator<Item = (Segment, Digest)>) -> Vec<Digest> {
    let segments: Vec<Segment> = group.segments().collect();
    let mut sums = vec![Digest::EMPTY; segments.len()];
    for (segment, sum) in held {
        let place = segments.binary_search(&segment).expect("a segment of this group");
        sums[place] += sum;
    }
    sums
}

// === impl PageRoom ===

impl Default for PageRoom {
    fn default() -> Self {
        Self {
            entries: RECONCILE_ENTRIES_MAX,
            bytes: RECONCILE_BYTES_MAX,
            values: VALUES_BYTES_MAX,
            begun: false,
        }
    }
}

impl PageRoom {
    /// Most rows that are worth looking at.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Takes an entry into account; false: it is for the next page. The first one always fits, so
    /// that every page gets on.
    pub fn take(&mut self, entry: &LeafEntry) -> bool {
        let names = entry.key.as_bytes().len() + entry.sort_key.as_bytes().len();
        let bytes = self.bytes.checked_sub(names + ENTRY_OVERHEAD_BYTES);
        let values = self.values.checked_sub(u64::from(entry.value_size));
        let fits = self.entries > 0 && bytes.is_some() && values.is_some();
        if self.begun && !fits {
            return false;
        }
        self.begun = true;
        self.entries = self.entries.saturating_sub(1);
        self.bytes = bytes.unwrap_or(0);
        self.values = values.unwrap_or(0);
        true
    }
}

#[cfg(test)]
mod tests {
    use sync_proto::types::{Epoch, Key, SortKey, Timestamp, Version};

    use super::*;

    fn v(version: u64) -> Version {
        Version::new(version).unwrap()
    }

    fn at(epoch: u64, version: u64) -> Cursor {
        Cursor::at(Epoch::new(epoch).unwrap(), v(version))
    }

    fn head() -> Head {
        Head {
            epoch: Epoch::new(7).unwrap(),
            version: v(50),
            floor: v(40),
            items: 3,
            tombstones: 0,
            bytes: 30,
            digest: Digest::EMPTY,
            commit_time: Timestamp::default(),
        }
    }

    /// G5, G6: rounds go on exactly as long as their first head is a place to pull from.
    #[test]
    fn rounds_go_on_while_their_first_head_can_be_continued() {
        for (cursor, wanted) in [
            (at(7, 50), Ok(())),
            (at(7, 40), Ok(())),
            (at(7, 39), Err(BeginAgain::BelowFloor { floor: v(40) })),
            (at(7, 51), Err(BeginAgain::AheadOfHead(at(7, 50)))),
            (at(8, 50), Err(BeginAgain::OtherEpoch(at(7, 50)))),
            (at(8, 39), Err(BeginAgain::OtherEpoch(at(7, 50)))),
        ] {
            assert_eq!(continues(&head(), cursor), wanted, "{cursor}");
        }
    }

    fn entry(key_len: usize, value_size: u32) -> LeafEntry {
        LeafEntry {
            key: Key::new(vec![b'k'; key_len]).unwrap(),
            version: v(1),
            value_hash: [0; 16],
            sort_key: SortKey::default(),
            created: v(1),
            value_version: v(1),
            value_size,
        }
    }

    /// G8: a page is bounded by entries, by bytes, and by the values read for it; and is never
    /// without its first entry.
    #[test]
    fn a_page_is_bounded_and_gets_on() {
        let fitting = |entry: &LeafEntry| {
            let mut room = PageRoom::default();
            (0..100_000).take_while(|_| room.take(entry)).count()
        };
        assert_eq!(fitting(&entry(1, 0)), RECONCILE_ENTRIES_MAX);
        assert_eq!(fitting(&entry(944, 0)), 1024);
        assert_eq!(fitting(&entry(1, 1024 * 1024)), 8);
        assert_eq!(fitting(&entry(1, u32::MAX)), 1);
    }

    #[test]
    fn sums_add_up() {
        let sum = |n: u8| Digest::from_be_bytes([n; 16]);
        let segment = |n| Segment::new(n).unwrap();
        let held = [(segment(0), sum(1)), (segment(63), sum(2)), (segment(64), sum(4))];
        let groups = group_sums(held);
        assert_eq!((groups.len(), groups[0], groups[1], groups[2]), (64, sum(3), sum(4), sum(0)));
        let leaves = leaf_sums(Group::new(1).unwrap(), [(segment(64), sum(4))]);
        assert_eq!((leaves.len(), leaves[0], leaves[1]), (64, sum(4), sum(0)));
    }
}
