//! How rows lie in sled: the only file that knows the bytes. Pure.
//!
//! ```text
//! area    key                              value
//! state   00                               crc32 ‖ store id 16 ‖ sequence 8 ‖ next blob 8
//!                                          ‖ rows 8 ‖ sum 8
//! row     01 ‖ stuffed key                 00 ‖ crc32 ‖ value
//!                                          01 ‖ crc32 ‖ blob 8 ‖ length 4
//! chunk   02 ‖ blob 8 ‖ index 4            CHUNK_BYTES of the value, the last one shorter
//! ```
//! Numbers are big-endian. A row's crc32 covers `01 ‖ stuffed key ‖ value`, so a value under
//! the wrong key is noticed. A blob number is never used twice.
//!
//! **Why nothing reaches `blobs/`.** sled moves a message out of its log, into a file of
//! `blobs/` that is never synced, when the message exceeds a quarter of a segment. Messages are
//! single rows or whole nodes. A leaf is split on the next visit after it exceeds 16 rows, an
//! index after 256 children, and a node below 4 rows (64 children) is merged into its left
//! neighbour by the next visitor, who then visits, and so splits, that neighbour. Merges
//! between two visits of one neighbour can pile up in three ways only: the visitor's own, one
//! that a crash left half done, and one of a node that was the first of its parent until the
//! parent was merged. [`DiskStore`](super::DiskStore) keeps readers out while it writes and
//! visits every removed row itself before readers come back, and the check at start visits
//! every leaf. Hence [`LEAF_ROWS_MAX`] and [`INDEX_CHILDREN_MAX`], from which the assertions
//! below follow.

use crc32fast::Hasher;

use super::super::KEY_BYTES_MAX;
use super::high_water::Mark;

/// Layout that this program writes and the newest that it reads. Format 1 had no journal; who
/// knows only that would not miss the rows that are nowhere else yet.
pub(super) const FORMAT: u32 = 2;

/// Bytes of a sled segment. The index with the longest keys needs a quarter of it (proof
/// below). Not 16 MiB, although sled accepts that: a segment that is filled to its last byte
/// would overflow the 24-bit offset in sled's buffer header.
pub(super) const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of a stored row, key included. Larger rows are cut into chunks. A leaf of 16 rows is
/// read and rewritten as a whole, so this also bounds what a small change can cost.
const ROW_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a value in one chunk row.
pub(super) const CHUNK_BYTES: usize = ROW_BYTES_MAX - CHUNK_KEY_BYTES;

const CHUNK_KEY_BYTES: usize = 1 + 8 + 4;

/// Area byte and stuffing included.
const STORED_KEY_BYTES_MAX: usize = 1 + KEY_BYTES_MAX + KEY_BYTES_MAX / RUN_MAX;

/// Merges that can pile up on one node before it is visited and split.
const MERGES_MAX: usize = 3;
const LEAF_ROWS_MAX: usize = 16 + 1 + MERGES_MAX * 3;
const INDEX_CHILDREN_MAX: usize = 256 + 1 + MERGES_MAX * 63;

/// sled's limit for a message that stays in the log: a quarter of a segment less its headers.
const MESSAGE_BYTES_MAX: usize = SEGMENT_BYTES / 4 - 20 - 32;

/// Two lengths of at most 9 bytes each that sled writes per row or child.
const ENTRY_OVERHEAD_BYTES: usize = 18;

/// A node's fixed fields and its two bounds, each as long as the longest key.
const NODE_OVERHEAD_BYTES: usize = 64 + 2 * (STORED_KEY_BYTES_MAX + 9);

const _: () = assert!(
    NODE_OVERHEAD_BYTES + LEAF_ROWS_MAX * (ROW_BYTES_MAX + ENTRY_OVERHEAD_BYTES)
        <= MESSAGE_BYTES_MAX
);
const _: () = assert!(
    NODE_OVERHEAD_BYTES + INDEX_CHILDREN_MAX * (STORED_KEY_BYTES_MAX + ENTRY_OVERHEAD_BYTES)
        <= MESSAGE_BYTES_MAX
);

/// 0xFF bytes in a row that a stored key can have. With four, sled's backward iterator can
/// overlook the neighbour of a node, spin a million times and panic.
const RUN_MAX: usize = 3;
const RUN_END: u8 = 0;

pub(super) const STATE_KEY: [u8; 1] = [0];
const ROW_AREA: u8 = 1;
const CHUNK_AREA: u8 = 2;
const AREA_END: u8 = 3;

const WHOLE: u8 = 0;
const CHUNKED: u8 = 1;
const WHOLE_HEADER_BYTES: usize = 1 + 4;
const CHUNKED_BYTES: usize = WHOLE_HEADER_BYTES + 8 + 4;

/// What the engine knows of all its rows, written with every batch and so atomic with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Random number of this store.
    pub(super) store: u128,
    /// Batches whose rows are all here, ever: later ones are in the journal.
    pub(super) sequence: u64,
    /// Number of the next blob.
    pub(super) next_blob: u64,
    /// Rows in the row area.
    pub(super) rows: u64,
    /// Sum of the weights of all rows: a leaf that went back to an older state changes it.
    pub(super) sum: u64,
}

/// A stored row, as far as its own bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    /// The value is here.
    Whole { crc: u32, value: &'a [u8] },
    /// The value is in the chunk rows of `blob`.
    Chunked { crc: u32, blob: u64, len: u32 },
}

/// A row ready to be written: its own bytes, and where to cut its chunks.
pub(super) struct NewRow {
    pub(super) bytes: Vec<u8>,
    /// The value must be written in chunks under this number.
    pub(super) blob: Option<u64>,
    pub(super) weight: u64,
}

// === impl Ledger ===

impl Ledger {
    pub(super) const BYTES: usize = 4 + 16 + 4 * 8;

    pub(super) fn new(store: u128) -> Self {
        Self { store, sequence: 0, next_blob: 1, rows: 0, sum: 0 }
    }

    /// How far the store is, for the file beside it.
    pub(super) fn mark(&self) -> Mark {
        Mark { store: self.store, sequence: self.sequence }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(self.store.to_be_bytes());
        for number in [self.sequence, self.next_blob, self.rows, self.sum] {
            bytes.extend(number.to_be_bytes());
        }
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES || crc32fast::hash(&bytes[4..]) != be_u32(bytes)? {
            return None;
        }
        let store = u128::from_be_bytes(bytes[4..20].try_into().ok()?);
        Some(Self {
            store,
            sequence: be_u64(&bytes[20..])?,
            next_blob: be_u64(&bytes[28..])?,
            rows: be_u64(&bytes[36..])?,
            sum: be_u64(&bytes[44..])?,
        })
    }

    pub(super) fn add(&mut self, weight: u64) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(weight);
    }

    /// Wraps instead of failing: a count that does not fit is found by the check at start.
    pub(super) fn subtract(&mut self, weight: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(weight);
    }
}

// === impl Stored ===

impl<'a> Stored<'a> {
    /// Reads a row's own bytes; `None` if they cannot be a row.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let crc = be_u32(rest)?;
        let rest = &rest[4..];
        match kind {
            WHOLE => Some(Self::Whole { crc, value: rest }),
            CHUNKED if bytes.len() == CHUNKED_BYTES => {
                Some(Self::Chunked { crc, blob: be_u64(rest)?, len: be_u32(&rest[8..])? })
            }
            _ => None,
        }
    }

    /// What the row of `key` adds to the ledger's sum.
    pub(super) fn weight(&self, key: &[u8]) -> u64 {
        self.weight_after(&key_hasher(key))
    }

    /// Likewise, where the key's hasher is at hand.
    pub(super) fn weight_after(&self, key: &Hasher) -> u64 {
        let (Self::Whole { crc, .. } | Self::Chunked { crc, .. }) = *self;
        weight(key.clone().finalize(), crc)
    }
}

// === impl NewRow ===

impl NewRow {
    /// Encodes `value` under the stored key `key`; takes the next blob number if it needs one.
    pub(super) fn encode(key: &[u8], value: &[u8], ledger: &mut Ledger) -> Self {
        let mut hasher = key_hasher(key);
        let key_crc = hasher.clone().finalize();
        hasher.update(value);
        let crc = hasher.finalize();
        let weight = weight(key_crc, crc);

        let whole = key.len() + WHOLE_HEADER_BYTES + value.len() <= ROW_BYTES_MAX;
        let mut bytes = Vec::with_capacity(if whole {
            WHOLE_HEADER_BYTES + value.len()
        } else {
            CHUNKED_BYTES
        });
        bytes.push(if whole { WHOLE } else { CHUNKED });
        bytes.extend(crc.to_be_bytes());
        if whole {
            bytes.extend(value);
            return Self { bytes, blob: None, weight };
        }
        let blob = ledger.next_blob;
        ledger.next_blob += 1;
        bytes.extend(blob.to_be_bytes());
        let len = u32::try_from(value.len()).expect("values are bounded by VALUE_BYTES_MAX");
        bytes.extend(len.to_be_bytes());
        Self { bytes, blob: Some(blob), weight }
    }
}

/// The stored form of a user's key. Keeps the order of keys, and is the same function of every
/// common beginning, which is why it keeps the order.
pub(super) fn row_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(key.len() + 2);
    stored.push(ROW_AREA);
    let mut run = 0;
    for &byte in key {
        stored.push(byte);
        run = if byte == u8::MAX { run + 1 } else { 0 };
        if run == RUN_MAX {
            stored.push(RUN_END);
            run = 0;
        }
    }
    stored
}

/// The user's key in a stored key; `None` if it is none.
pub(super) fn user_key(stored: &[u8]) -> Option<Vec<u8>> {
    let (&ROW_AREA, stored) = stored.split_first()? else { return None };
    if !stored.contains(&u8::MAX) {
        return Some(stored.to_vec());
    }
    let mut key = Vec::with_capacity(stored.len());
    let mut bytes = stored.iter();
    let mut run = 0;
    while let Some(&byte) = bytes.next() {
        key.push(byte);
        run = if byte == u8::MAX { run + 1 } else { 0 };
        if run == RUN_MAX {
            if bytes.next() != Some(&RUN_END) {
                return None;
            }
            run = 0;
        }
    }
    Some(key)
}

/// First key of the row area, and first key behind it.
pub(super) fn row_area() -> (Vec<u8>, Vec<u8>) {
    (vec![ROW_AREA], vec![CHUNK_AREA])
}

/// First key of the chunk area, and first key behind it.
pub(super) fn chunk_area() -> (Vec<u8>, Vec<u8>) {
    (vec![CHUNK_AREA], vec![AREA_END])
}

pub(super) fn chunk_key(blob: u64, index: u32) -> [u8; CHUNK_KEY_BYTES] {
    let mut key = [CHUNK_AREA; CHUNK_KEY_BYTES];
    key[1..9].copy_from_slice(&blob.to_be_bytes());
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Blob and index of a chunk row's key; `None` if it is none.
pub(super) fn chunk_of_key(key: &[u8]) -> Option<(u64, u32)> {
    if key.len() != CHUNK_KEY_BYTES || key[0] != CHUNK_AREA {
        return None;
    }
    Some((be_u64(&key[1..])?, be_u32(&key[9..])?))
}

/// How many chunk rows a value of `len` bytes has.
pub(super) fn chunks(len: u32) -> u32 {
    let chunk = u32::try_from(CHUNK_BYTES).expect("a chunk is small");
    len.div_ceil(chunk)
}

/// A hasher that has seen the key: the value's bytes, in order, complete the row's crc.
pub(super) fn key_hasher(key: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher
}

/// Spreads two 32-bit checksums over 64 bits, so that sums of many rows do not cancel out
/// (the finaliser of `SplitMix64`).
fn weight(key_crc: u32, row_crc: u32) -> u64 {
    let mut mixed = (u64::from(key_crc) << 32 | u64::from(row_crc)) ^ 0x9E37_79B9_7F4A_7C15;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
