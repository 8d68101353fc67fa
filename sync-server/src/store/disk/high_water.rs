//! The high-water mark: how far the store was when it last said "synced". sled can open at an
//! older state without a word (a flipped bit, a file put back); what it opens is compared with
//! this file, and less than the mark is refused.
//!
//! ```text
//! slot 0 at 0, slot 1 at 4096:   "dshw" ‖ crc32 ‖ store id 16 ‖ sequence 8
//! ```
//! The slots are written in turn, so a torn write leaves the other one. A write per sync, but
//! a sync of its own only once per [`SYNC_EVERY`]: after a power cut the mark may be a second
//! old, which makes the comparison weaker for that second and never wrong. It is written after
//! the store's sync, so it cannot run ahead of the rows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A sync costs as much as a commit, so not with every commit.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Apart by more than a disk writes at once.
const SLOT_DISTANCE: usize = 4096;

const MAGIC: [u8; 4] = *b"dshw";
const SLOT_BYTES: usize = 4 + 4 + 16 + 8;

/// The open file, ready to be moved on.
#[derive(Debug)]
pub(super) struct HighWater {
    file: File,
    mark: Mark,
    /// The slot that the next write goes to.
    slot: usize,
    synced_at: Instant,
}

/// A store and how far it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) store: u128,
    pub(super) sequence: u64,
}

// === impl HighWater ===

impl HighWater {
    /// Creates the file of a new store.
    pub(super) fn create(path: &Path, mark: Mark) -> io::Result<()> {
        let mut bytes = vec![0; SLOT_DISTANCE + SLOT_BYTES];
        bytes[..SLOT_BYTES].copy_from_slice(&mark.encode());
        let mut file = File::create_new(path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    }

    /// Opens the file; `None` if no slot of it is whole.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let marks = [0, SLOT_DISTANCE].map(|at| bytes.get(at..).and_then(Mark::decode));
        let (slot, mark) = match marks {
            [Some(first), Some(second)] if first.sequence < second.sequence => (0, second),
            [Some(first), _] => (1, first),
            [None, Some(second)] => (0, second),
            [None, None] => return Ok(None),
        };
        Ok(Some(Self { file, mark, slot, synced_at: Instant::now() }))
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Moves the mark to `sequence`, which must be synced.
    pub(super) fn write(&mut self, sequence: u64) -> io::Result<()> {
        self.mark.sequence = sequence;
        self.file.seek(SeekFrom::Start((self.slot * SLOT_DISTANCE) as u64))?;
        self.file.write_all(&self.mark.encode())?;
        self.slot = 1 - self.slot;
        if self.synced_at.elapsed() >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced_at = Instant::now();
        Ok(())
    }
}

// === impl Mark ===

impl Mark {
    pub(super) fn encode(self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..4].copy_from_slice(&MAGIC);
        slot[8..24].copy_from_slice(&self.store.to_be_bytes());
        slot[24..].copy_from_slice(&self.sequence.to_be_bytes());
        let crc = crc32fast::hash(&slot[8..]);
        slot[4..8].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mark = Self {
            store: u128::from_be_bytes(bytes.get(8..24)?.try_into().ok()?),
            sequence: u64::from_be_bytes(bytes.get(24..SLOT_BYTES)?.try_into().ok()?),
        };
        (bytes[..SLOT_BYTES] == mark.encode()).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORE: u128 = 7;

    fn mark(sequence: u64) -> Mark {
        Mark { store: STORE, sequence }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        HighWater::create(&path, mark(0)).unwrap();
        for sequence in 1..=5 {
            let mut file = HighWater::open(&path).unwrap().unwrap();
            assert_eq!(file.mark(), mark(sequence - 1));
            file.write(sequence).unwrap();
        }
    }

    #[test]
    fn a_torn_write_leaves_the_other_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        HighWater::create(&path, mark(0)).unwrap();
        let mut file = HighWater::open(&path).unwrap().unwrap();
        file.write(8).unwrap();
        file.write(9).unwrap();

        let whole = std::fs::read(&path).unwrap();
        for (slot, left) in [(0, 8), (SLOT_DISTANCE, 9)] {
            let mut torn = whole.clone();
            torn[slot + SLOT_BYTES - 1] ^= 1;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(HighWater::open(&path).unwrap().unwrap().mark(), mark(left));
        }
    }

    #[test]
    fn a_file_without_a_whole_slot_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        std::fs::write(&path, [0; 5000]).unwrap();
        assert!(HighWater::open(&path).unwrap().is_none());
        std::fs::write(&path, []).unwrap();
        assert!(HighWater::open(&path).unwrap().is_none());
    }

    proptest! {
        /// A slot is what was written; wherever it is cut or a bit is another one, it is none.
        #[test]
        fn a_mark_comes_back_or_is_none(store in any::<u128>(), sequence in any::<u64>()) {
            let mark = Mark { store, sequence };
            let slot = mark.encode();
            // The slot ends where it ends, whatever lies behind it in the file.
            prop_assert_eq!(Mark::decode(&[&slot[..], b"behind"].concat()), Some(mark));
            for end in 0..SLOT_BYTES {
                prop_assert_eq!(Mark::decode(&slot[..end]), None);
            }
            for bit in 0..SLOT_BYTES * 8 {
                let mut flipped = slot;
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(Mark::decode(&flipped), None);
            }
        }

        /// Foreign bytes are a mark in its one form, or none.
        #[test]
        fn foreign_bytes_are_no_mark(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(mark) = Mark::decode(&bytes) {
                prop_assert_eq!(&mark.encode()[..], &bytes[..SLOT_BYTES]);
            }
        }
    }
}
