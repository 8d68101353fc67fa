//! Repairs of a copy on disk. Edits are put aside as rows of a generation of their own, which is
//! garbage from the first moment: while a repair is under way it is kept from being swept, and
//! what a killed process leaves behind goes by itself.

use std::collections::BTreeSet;

use redb::{ReadableTable, Table};
use sync_proto::digest::Segment;
use sync_proto::types::{CollectionName, Cursor, Key};

use super::layout::{
    ORDER, Part, ROWS, decode_row, decode_staged, encode_staged, generation_range, order_key,
    row_key,
};
use super::tables::Tables;
use super::{DiskSnapshot, DiskStore, failed};
use crate::store::plan::{Edit, Mended};
use crate::store::{Row, Staged, StoreError, Sums, Tally, Visible};

/// Edits that are handled at a time.
const EDITS: usize = 1_000;

const READING: &str = "reading the local store";
const WRITING: &str = "writing the local store";

/// Where a row is and what it says, unless it cannot be read.
type Found = (Key, Option<Row>);

// === impl DiskStore ===

impl DiskStore {
    pub(super) fn put_aside(
        &self,
        collection: &CollectionName,
        edits: &[Staged],
    ) -> Result<(), StoreError> {
        let transaction = self.begin_write()?;
        let mut tables = Tables::open(&transaction)?;
        let mut aside = self.shared.aside.lock();
        let generation = match aside.get(collection) {
            Some(generation) => *generation,
            None => tables.new_garbage()?,
        };
        tables.put_aside(generation, edits)?;
        drop(tables);
        // Kept before it can be seen to be garbage.
        aside.insert(collection.clone(), generation);
        drop(aside);
        transaction.commit().map_err(failed(WRITING))
    }

    pub(super) fn put_rest_aside(
        &self,
        collection: &CollectionName,
        segments: &BTreeSet<Segment>,
    ) -> Result<(), StoreError> {
        let aside = self.shared.aside.lock().get(collection).copied();
        let snapshot = self.read(collection)?;
        let Some(part) = snapshot.record.rows else { return Ok(()) };
        let mut rest = Vec::new();
        for found in snapshot.all(part.generation)? {
            let (key, _) = found?;
            if segments.contains(&Segment::of_key(&key)) && !snapshot.is_aside(aside, &key)? {
                rest.push(Staged::Remove(key));
            }
            if rest.len() == EDITS {
                self.put_aside(collection, &std::mem::take(&mut rest))?;
            }
        }
        if rest.is_empty() { Ok(()) } else { self.put_aside(collection, &rest) }
    }
}

// === impl DiskSnapshot ===

impl DiskSnapshot {
    pub(super) fn sums(&self) -> Result<Sums, StoreError> {
        let mut sums = Sums::default();
        let Some(part) = self.record.rows else { return Ok(sums) };
        let order = self.read.open_table(ORDER).map_err(failed(READING))?;
        for found in self.all(part.generation)? {
            let (key, row) = found?;
            let Some(row) = row else {
                sums.broken.insert(Segment::of_key(&key));
                sums.disordered = true;
                continue;
            };
            let place = order_key(part.generation, &row.sort_key, &key);
            let placed = order.get(place.as_slice()).map_err(failed(READING))?.is_some();
            sums.disordered |= !placed;
            sums.add(&row);
        }
        let range = generation_range(part.generation);
        let places = order.range::<&[u8]>(&range.start[..]..&range.end[..]);
        let places = places.map_err(failed(READING))?.count() as u64;
        sums.disordered |= places != sums.tally.items;
        Ok(sums)
    }

    /// All rows of a generation by key, also those that do not read.
    fn all(
        &self,
        generation: u64,
    ) -> Result<impl Iterator<Item = Result<Found, StoreError>>, StoreError> {
        let range = generation_range(generation);
        let rows = self.read.open_table(ROWS).map_err(failed(READING))?;
        let found = rows.range::<&[u8]>(&range.start[..]..&range.end[..]);
        Ok(found.map_err(failed(READING))?.map(|entry| {
            let (place, bytes) = entry.map_err(failed(READING))?;
            let key = key_of(place.value())?;
            let row = decode_row(key.clone(), bytes.value()).ok();
            Ok((key, row))
        }))
    }

    fn is_aside(&self, generation: Option<u64>, key: &Key) -> Result<bool, StoreError> {
        let Some(generation) = generation else { return Ok(false) };
        let rows = self.read.open_table(ROWS).map_err(failed(READING))?;
        let found = rows.get(row_key(generation, key).as_slice()).map_err(failed(READING))?;
        Ok(found.is_some())
    }
}

// === impl Tables ===

impl Tables<'_> {
    fn put_aside(&mut self, generation: u64, edits: &[Staged]) -> Result<(), StoreError> {
        for edit in edits {
            let place = row_key(generation, edit.key());
            let bytes = encode_staged(edit);
            self.rows.insert(place.as_slice(), bytes.as_slice()).map_err(failed(WRITING))?;
        }
        Ok(())
    }

    /// Carries out what is aside, in steps: the transaction makes them one.
    pub(super) fn mend(
        &mut self,
        mut part: Part,
        aside: Option<u64>,
        to: Cursor,
        before: Tally,
        reorder: bool,
    ) -> Result<(Part, Visible), StoreError> {
        part.tally = before;
        part.cursor = to;
        let mut mended = Mended::default();
        let mut after = None;
        while let Some(aside) = aside {
            let edits = self.aside(aside, after.as_ref())?;
            after = edits.last().map(|edit| edit.key().clone());
            let done = edits.len() < EDITS;
            for edit in edits {
                self.mend_row(&mut part, edit, &mut mended)?;
            }
            if done {
                break;
            }
        }
        if reorder {
            self.put_in_order(part.generation)?;
        }
        Ok((part, mended.visible()))
    }

    fn mend_row(
        &mut self,
        part: &mut Part,
        edit: Staged,
        mended: &mut Mended,
    ) -> Result<(), StoreError> {
        let place = row_key(part.generation, edit.key());
        let found = self.rows.get(place.as_slice()).map_err(failed(WRITING))?;
        // A row that does not read was none to its readers, and none to the sums.
        let old = found.and_then(|bytes| decode_row(edit.key().clone(), bytes.value()).ok());
        let new = match edit {
            Staged::Keep(_) => return Ok(()),
            Staged::Put(row) => Some(row),
            Staged::Remove(_) => None,
        };
        if old.is_none() && new.is_none() {
            self.rows.remove(place.as_slice()).map_err(failed(WRITING))?;
            return Ok(());
        }
        let edit = Edit { old, new };
        edit.count(&mut part.tally);
        self.carry_out(part.generation, &edit)?;
        mended.add(edit);
        Ok(())
    }

    fn aside(&self, generation: u64, after: Option<&Key>) -> Result<Vec<Staged>, StoreError> {
        page(&self.rows, generation, after, decode_staged)
    }

    /// Puts the list order of a generation together anew.
    fn put_in_order(&mut self, generation: u64) -> Result<(), StoreError> {
        let range = generation_range(generation);
        let range = range.start.as_slice()..range.end.as_slice();
        self.order.retain_in(range, |_, ()| false).map_err(failed(WRITING))?;
        let mut after = None;
        loop {
            let rows = page(&self.rows, generation, after.as_ref(), decode_row)?;
            for Row { key, sort_key, .. } in &rows {
                let place = order_key(generation, sort_key, key);
                self.order.insert(place.as_slice(), ()).map_err(failed(WRITING))?;
            }
            match rows.last() {
                Some(last) if rows.len() == EDITS => after = Some(last.key.clone()),
                Some(_) | None => return Ok(()),
            }
        }
    }
}

/// Up to [`EDITS`] rows of a generation by key, behind `after`.
fn page<T>(
    rows: &Table<'_, &'static [u8], &'static [u8]>,
    generation: u64,
    after: Option<&Key>,
    decode: impl Fn(Key, &[u8]) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let range = generation_range(generation);
    let start = after.map_or(range.start, |key| [&row_key(generation, key)[..], &[0]].concat());
    let found = rows.range::<&[u8]>(&start[..]..&range.end[..]).map_err(failed(WRITING))?;
    found
        .take(EDITS)
        .map(|entry| {
            let (place, bytes) = entry.map_err(failed(WRITING))?;
            decode(key_of(place.value())?, bytes.value())
        })
        .collect()
}

/// The key of the row that stands at a place.
fn key_of(place: &[u8]) -> Result<Key, StoreError> {
    let key = place.get(8..).unwrap_or_default().to_vec();
    Key::new(key).map_err(|_| StoreError::Damaged { place: "deltasync/rows" })
}
