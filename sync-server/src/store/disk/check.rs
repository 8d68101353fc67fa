//! The full check at start: every row is read once, every checksum compared, every part of
//! every large row found, and the sums compared with the ledger. What a reader could ever see
//! has been seen here; it also visits every leaf of the tree, on which `layout` relies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crc32fast::Hasher;
use sled::IVec;
use tracing::info;

use super::super::StoreError;
use super::layout::{self, CHUNK_BYTES, Ledger, STATE_KEY, Stored};
use super::{damaged, sled_error};

/// How often a long check says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// A large row whose parts have not been seen yet.
struct Large {
    len: u32,
    crc: u32,
    /// Has seen the key and the parts so far.
    hasher: Hasher,
    parts: u32,
}

/// A check under way.
struct Check<'a> {
    db: &'a sled::Db,
    /// What the rows seen so far add up to.
    seen: Ledger,
    large: BTreeMap<u64, Large>,
    started: Instant,
    reported: Instant,
}

/// Reads everything in `db`; the first thing that cannot be right is the error.
pub(super) fn check(db: &sled::Db, ledger: &Ledger) -> Result<(), StoreError> {
    let started = Instant::now();
    let seen = Ledger { rows: 0, sum: 0, ..*ledger };
    let mut check = Check { db, seen, large: BTreeMap::new(), started, reported: started };
    check.nothing_else()?;
    check.rows()?;
    check.chunks()?;
    if check.seen != *ledger {
        let (seen, rows) = (check.seen.rows, ledger.rows);
        return Err(damaged(&format!("{seen} rows that do not add up to the ledger's {rows}")));
    }
    info!(rows = ledger.rows, sequence = ledger.sequence, elapsed = ?started.elapsed(), "checked");
    Ok(())
}

// === impl Check ===

impl Check<'_> {
    /// Outside of the areas there is nothing but the ledger.
    fn nothing_else(&self) -> Result<(), StoreError> {
        let below = self.db.range(..layout::row_area().0);
        let above = self.db.range(layout::chunk_area().1..);
        for row in below.chain(above) {
            let (key, _) = row.map_err(reading)?;
            if key != STATE_KEY {
                return Err(damaged("a row outside of all areas"));
            }
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<(), StoreError> {
        let (start, end) = layout::row_area();
        for row in self.db.range(start..end) {
            let (key, bytes) = row.map_err(reading)?;
            self.row(&key, &bytes)?;
            self.report();
        }
        Ok(())
    }

    fn row(&mut self, key: &IVec, bytes: &IVec) -> Result<(), StoreError> {
        let number = self.seen.rows;
        let wrong = |what: &str| damaged(&format!("row {number} in key order {what}"));
        let stored = Stored::decode(bytes).ok_or_else(|| wrong("cannot be read"))?;
        layout::user_key(key).ok_or_else(|| wrong("has an impossible key"))?;
        let mut hasher = layout::key_hasher(key);
        self.seen.add(stored.weight_after(&hasher));
        match stored {
            Stored::Whole { crc, value } => {
                hasher.update(value);
                if hasher.finalize() != crc {
                    return Err(wrong("has a wrong checksum"));
                }
            }
            Stored::Chunked { crc, blob, len } => {
                let large = Large { len, crc, hasher, parts: 0 };
                if blob >= self.seen.next_blob || self.large.insert(blob, large).is_some() {
                    return Err(wrong("shares its parts with another"));
                }
            }
        }
        Ok(())
    }

    /// Chunk rows come in the order of blobs and parts.
    fn chunks(&mut self) -> Result<(), StoreError> {
        let (start, end) = layout::chunk_area();
        for row in self.db.range(start..end) {
            let (key, part) = row.map_err(reading)?;
            let (blob, index) =
                layout::chunk_of_key(&key).ok_or_else(|| damaged("a part has no number"))?;
            self.chunk(blob, index, &part)?;
            self.report();
        }
        match self.large.first_key_value() {
            Some((blob, _)) => Err(damaged(&format!("large row {blob} misses its last part"))),
            None => Ok(()),
        }
    }

    fn chunk(&mut self, blob: u64, index: u32, part: &[u8]) -> Result<(), StoreError> {
        let wrong = |what: &str| damaged(&format!("part {index} of large row {blob} {what}"));
        let large = self.large.get_mut(&blob).ok_or_else(|| wrong("belongs to no row"))?;
        let left = large.len as usize - large.parts as usize * CHUNK_BYTES;
        if index != large.parts || part.len() != left.min(CHUNK_BYTES) {
            return Err(wrong("does not follow the part before it"));
        }
        large.parts += 1;
        large.hasher.update(part);
        if large.parts < layout::chunks(large.len) {
            return Ok(());
        }
        let sound = large.hasher.clone().finalize() == large.crc;
        self.large.remove(&blob);
        if sound { Ok(()) } else { Err(wrong("ends a value with a wrong checksum")) }
    }

    fn report(&mut self) {
        if self.reported.elapsed() >= PROGRESS_EVERY {
            self.reported = Instant::now();
            let elapsed = self.started.elapsed();
            info!(rows = self.seen.rows, large_left = self.large.len(), ?elapsed, "checking");
        }
    }
}

fn reading(error: sled::Error) -> StoreError {
    sled_error("checking all rows", error)
}
