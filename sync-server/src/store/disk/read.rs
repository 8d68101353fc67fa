//! Reads rows back: one, or a page of a scan. Checks what it reads before anybody sees it.

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

use super::super::{Direction, KeyRange, StoreError};
use super::layout::{self, Stored};
use super::merge::Merge;
use super::overlay::Overlay;
use super::{damaged, sled_error};

/// Rows of a scan's first page: many scans want only the first few.
const FIRST_PAGE_ROWS: usize = 8;

/// Rows of a later page. Readers hold up the writer for no longer than a page takes.
pub(super) const PAGE_ROWS_MAX: usize = 128;

/// Value bytes after which a page ends.
const PAGE_BYTES: usize = 1024 * 1024;

/// Rows that a page looks at, removed ones included.
const PAGE_LOOKS_MAX: usize = 1_024;

/// What is left of a scan.
pub(super) struct Rest {
    /// Stored keys: first one that belongs to it, first one that does not.
    start: Vec<u8>,
    end: Vec<u8>,
    direction: Direction,
    page_rows: usize,
}

// === impl Rest ===

impl Rest {
    pub(super) fn new(range: &KeyRange, direction: Direction) -> Self {
        let (start, end) = stored_range(range);
        Self { start, end, direction, page_rows: FIRST_PAGE_ROWS }
    }

    /// Whether no row can be left.
    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Takes the next rows off; there may be none although some are left.
    pub(super) fn next_page(
        &mut self,
        db: &sled::Db,
        overlay: &Overlay,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let mut rows = Merge::new(db, overlay, (&self.start, &self.end), self.direction);
        let mut page = Vec::with_capacity(self.page_rows);
        let (mut bytes, mut looks, mut last) = (0, 0, Vec::new());
        while page.len() < self.page_rows && bytes < PAGE_BYTES && looks < PAGE_LOOKS_MAX {
            let Some(row) = rows.next()? else { break };
            looks += 1;
            last.clear();
            last.extend_from_slice(row.key());
            let Some(value) = row.value(db)? else { continue };
            let key = layout::user_key(&last).ok_or_else(|| damaged("a key cannot be read"))?;
            bytes += value.len();
            page.push((key, value));
        }
        drop(rows);
        self.move_on((looks > 0).then_some(last.as_slice()));
        Ok(page)
    }

    fn move_on(&mut self, last: Option<&[u8]>) {
        self.page_rows = (self.page_rows * 4).min(PAGE_ROWS_MAX);
        match (last, self.direction) {
            (None, _) => self.end.clone_from(&self.start),
            (Some(last), Direction::Forward) => {
                self.start = last.to_vec();
                self.start.push(0);
            }
            (Some(last), Direction::Backward) => self.end = last.to_vec(),
        }
    }
}

/// The row with the stored key `stored`.
pub(super) fn get(db: &sled::Db, stored: &[u8]) -> Result<Option<Bytes>, StoreError> {
    let row = db.get(stored).map_err(|error| sled_error("reading a row", error))?;
    row.map(|row| value(db, stored, &row)).transpose()
}

/// The stored form of a range of users' keys.
pub(super) fn stored_range(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let end = range.end.as_deref().map_or_else(|| layout::row_area().1, layout::row_key);
    (layout::row_key(&range.start), end)
}

/// The value of the row `row` at the stored key `key`, put together and checked.
pub(super) fn value(db: &sled::Db, key: &[u8], row: &[u8]) -> Result<Bytes, StoreError> {
    let stored = Stored::decode(row).ok_or_else(|| damaged("a row cannot be read"))?;
    whole(db, layout::key_hasher(key), stored)
}

/// Likewise, of a row whose key `hasher` has seen.
pub(super) fn whole(
    db: &sled::Db,
    mut hasher: Hasher,
    stored: Stored<'_>,
) -> Result<Bytes, StoreError> {
    let (crc, value) = match stored {
        Stored::Whole { crc, value } => (crc, Bytes::copy_from_slice(value)),
        Stored::Chunked { crc, blob, len } => (crc, gather(db, blob, len)?),
    };
    hasher.update(&value);
    if hasher.finalize() == crc { Ok(value) } else { Err(damaged("a row has a wrong checksum")) }
}

fn gather(db: &sled::Db, blob: u64, len: u32) -> Result<Bytes, StoreError> {
    let mut value = BytesMut::with_capacity(len as usize);
    let end = layout::chunk_key(blob, layout::chunks(len));
    let mut chunks = db.range(layout::chunk_key(blob, 0)..end);
    while value.len() < len as usize {
        let Some(chunk) = chunks.next() else {
            return Err(damaged("a large row misses a part"));
        };
        let (_, chunk) = chunk.map_err(|error| sled_error("reading a large row", error))?;
        value.extend_from_slice(&chunk);
    }
    Ok(value.freeze())
}
