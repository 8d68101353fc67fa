//! Turns some rows into the one sled batch that also moves the ledger and replaces the chunks of
//! large values. Reads the rows that are about to change, changes nothing.

use super::super::StoreError;
use super::layout::{self, CHUNK_BYTES, Ledger, NewRow, STATE_KEY, Stored};
use super::{damaged, sled_error};

/// What to write, and what the ledger says afterwards.
pub(super) struct Plan {
    pub(super) writes: sled::Batch,
    pub(super) ledger: Ledger,
    /// Every key that goes away: the writer visits them when they are gone.
    pub(super) removed: Vec<Vec<u8>>,
}

// === impl Plan ===

impl Plan {
    /// Nothing yet, on top of what `ledger` describes.
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { writes: sled::Batch::default(), ledger, removed: Vec::new() }
    }

    /// Adds the row with the stored key `key`; without a value, its removal.
    pub(super) fn row(
        &mut self,
        db: &sled::Db,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let existed = self.forget_old(db, key)?;
        match value {
            Some(value) => self.write_row(key, value),
            None if existed => self.remove(key.to_vec()),
            None => {}
        }
        Ok(())
    }

    /// The last write of the batch: what the ledger says afterwards.
    pub(super) fn seal(mut self) -> Self {
        self.writes.insert(STATE_KEY.as_slice(), self.ledger.encode());
        self
    }

    /// Takes the row at `key`, if there is one, off the books, its chunks included.
    fn forget_old(&mut self, db: &sled::Db, key: &[u8]) -> Result<bool, StoreError> {
        let doing = "reading a row that is about to change";
        let Some(bytes) = db.get(key).map_err(|error| sled_error(doing, error))? else {
            return Ok(false);
        };
        let old = Stored::decode(&bytes)
            .ok_or_else(|| damaged("a row that is about to change cannot be read"))?;
        self.ledger.subtract(old.weight(key));
        if let Stored::Chunked { blob, len, .. } = old {
            for index in 0..layout::chunks(len) {
                self.remove(layout::chunk_key(blob, index).to_vec());
            }
        }
        Ok(true)
    }

    fn write_row(&mut self, key: &[u8], value: &[u8]) {
        let row = NewRow::encode(key, value, &mut self.ledger);
        self.ledger.add(row.weight);
        self.writes.insert(key, row.bytes);
        if let Some(blob) = row.blob {
            for (index, chunk) in (0..).zip(value.chunks(CHUNK_BYTES)) {
                self.writes.insert(layout::chunk_key(blob, index).as_slice(), chunk);
            }
        }
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.writes.remove(key.as_slice());
        self.removed.push(key);
    }
}
