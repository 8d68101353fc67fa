//! The notes in a replica's file.

use bytes::Bytes;
use redb::WriteTransaction;
use sync_proto::types::CollectionName;

use super::layout::{NOTES, note_place, note_range};
use super::{DiskStore, failed};
use crate::store::{Notes, StoreError};

const READING: &str = "reading the local store";
const WRITING: &str = "writing the local store";

// === impl DiskStore ===

impl DiskStore {
    pub(super) fn read_notes(
        &self,
        owner: &CollectionName,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let read = self.shared.file.begin_read(READING)?;
        let notes = read.open_table(NOTES).map_err(failed(READING))?;
        let range = note_range(owner);
        let found = notes.range::<&[u8]>(&range.start[..]..&range.end[..]);
        found
            .map_err(failed(READING))?
            .map(|entry| {
                let (place, content) = entry.map_err(failed(READING))?;
                let key = place.value().get(range.start.len()..).unwrap_or_default();
                Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(content.value())))
            })
            .collect()
    }

    pub(super) fn write_notes(&self, notes: &Notes) -> Result<(), StoreError> {
        let transaction = self.begin_write()?;
        put_notes(&transaction, notes)?;
        transaction.commit().map_err(failed(WRITING))
    }
}

/// Makes the edits within a transaction.
pub(super) fn put_notes(transaction: &WriteTransaction, notes: &Notes) -> Result<(), StoreError> {
    let mut table = transaction.open_table(NOTES).map_err(failed(WRITING))?;
    for (key, content) in &notes.edits {
        let place = note_place(&notes.owner, key);
        match content {
            Some(content) => {
                table.insert(place.as_slice(), &content[..]).map_err(failed(WRITING))?;
            }
            None => {
                table.remove(place.as_slice()).map_err(failed(WRITING))?;
            }
        }
    }
    Ok(())
}
