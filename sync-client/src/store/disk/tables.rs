//! The tables of a replica's file within one write transaction.

use std::collections::BTreeSet;
use std::ops::Range;

use redb::{ReadableTable, Table, WriteTransaction};
use sync_proto::types::{Change, CollectionName, Cursor, Key, Scope, Version};

use super::failed;
use super::layout::{
    COPIES, CopyRecord, GARBAGE, GENERATION_MAX, NEXT_GENERATION, NUMBERS, ORDER, Part, ROWS,
    decode_row, encode_row, generation_range, order_key, row_key,
};
use crate::store::plan::{Edit, plan, visible};
use crate::store::{Row, StoreError, Tally, Visible};

/// What the failures of this file were doing.
const DOING: &str = "writing the local store";
/// Rows that are looked at in one go when a copy is narrowed.
const NARROW_ROWS: usize = 1_000;

pub(super) struct Tables<'t> {
    numbers: Table<'t, &'static str, u64>,
    copies: Table<'t, &'static str, &'static [u8]>,
    pub(super) rows: Table<'t, &'static [u8], &'static [u8]>,
    pub(super) order: Table<'t, &'static [u8], ()>,
    garbage: Table<'t, u64, ()>,
}

// === impl Tables ===

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            numbers: transaction.open_table(NUMBERS).map_err(failed(DOING))?,
            copies: transaction.open_table(COPIES).map_err(failed(DOING))?,
            rows: transaction.open_table(ROWS).map_err(failed(DOING))?,
            order: transaction.open_table(ORDER).map_err(failed(DOING))?,
            garbage: transaction.open_table(GARBAGE).map_err(failed(DOING))?,
        })
    }

    pub(super) fn copy(
        &mut self,
        collection: &CollectionName,
    ) -> Result<(CopyRecord, Scope), StoreError> {
        let found = self.copies.get(collection.as_str()).map_err(failed(DOING))?;
        let record = found.map(|bytes| CopyRecord::decode_or_none(bytes.value()));
        match record {
            Some(None) => {
                self.discard_orphans()?;
                Ok((CopyRecord::default(), Scope::All))
            }
            Some(Some(record)) => Ok(record),
            None => Ok((CopyRecord::default(), Scope::All)),
        }
    }

    /// The rows of a part that belong to `scope`, as a part of their own at the same cursor.
    pub(super) fn narrow(&mut self, part: Part, scope: &Scope) -> Result<Part, StoreError> {
        let mut kept = Part { cursor: part.cursor, ..self.new_part(part.cursor)? };
        let mut next = generation_range(part.generation);
        loop {
            let rows = self.some_rows(&next)?;
            let Some(last) = rows.last() else { break };
            // The smallest place behind the last.
            next.start = [&row_key(part.generation, &last.key)[..], &[0]].concat();
            for row in rows.into_iter().filter(|row| scope.contains(&row.key, &row.sort_key)) {
                let edit = Edit { old: None, new: Some(row) };
                edit.count(&mut kept.tally);
                self.carry_out(kept.generation, &edit)?;
            }
        }
        self.discard(Some(part))?;
        Ok(kept)
    }

    /// The first rows of a range.
    fn some_rows(&self, range: &Range<Vec<u8>>) -> Result<Vec<Row>, StoreError> {
        let found = self.rows.range::<&[u8]>(&range.start[..]..&range.end[..]);
        let mut rows = Vec::new();
        for entry in found.map_err(failed(DOING))?.take(NARROW_ROWS) {
            let (place, bytes) = entry.map_err(failed(DOING))?;
            let key = place.value().get(8..).unwrap_or_default().to_vec();
            let key = Key::new(key).map_err(|_| StoreError::Damaged { place: "deltasync/rows" })?;
            rows.push(decode_row(key, bytes.value())?);
        }
        Ok(rows)
    }

    /// Discards the rows that no record speaks of: those of a record that was damaged.
    fn discard_orphans(&mut self) -> Result<(), StoreError> {
        let mut owned = BTreeSet::new();
        for entry in self.copies.iter().map_err(failed(DOING))? {
            let (_, bytes) = entry.map_err(failed(DOING))?;
            let record = CopyRecord::decode_or_none(bytes.value());
            let record = record.map(|(record, _)| record).unwrap_or_default();
            owned.extend([record.rows, record.load].into_iter().flatten().map(|p| p.generation));
        }
        let mut next = Vec::new();
        loop {
            let first = self.rows.range(next.as_slice()..).map_err(failed(DOING))?.next();
            let Some(entry) = first else { return Ok(()) };
            let place = entry.map_err(failed(DOING))?.0.value().first_chunk().copied();
            let Some(generation) = place.map(u64::from_be_bytes) else {
                return Err(StoreError::Damaged { place: "deltasync/rows" });
            };
            if !owned.contains(&generation) {
                self.garbage.insert(generation, ()).map_err(failed(DOING))?;
            }
            // Rows of the last generation that there can be may go on behind any end.
            match generation.checked_add(1) {
                Some(behind) => next = behind.to_be_bytes().to_vec(),
                None => return Ok(()),
            }
        }
    }

    pub(super) fn put_copy(
        &mut self,
        collection: &CollectionName,
        record: &CopyRecord,
        scope: &Scope,
    ) -> Result<(), StoreError> {
        let name = collection.as_str();
        if *record == CopyRecord::default() {
            self.copies.remove(name).map_err(failed(DOING))?;
        } else {
            self.copies.insert(name, record.encode(scope).as_slice()).map_err(failed(DOING))?;
        }
        Ok(())
    }

    /// A set of rows that belongs to no copy.
    pub(super) fn new_garbage(&mut self) -> Result<u64, StoreError> {
        let generation = self.new_generation()?;
        self.garbage.insert(generation, ()).map_err(failed(DOING))?;
        Ok(generation)
    }

    fn new_generation(&mut self) -> Result<u64, StoreError> {
        let next = self.numbers.get(NEXT_GENERATION).map_err(failed(DOING))?;
        let generation = next.map(|number| number.value());
        let sane = generation.filter(|generation| *generation < GENERATION_MAX);
        let generation = sane.ok_or(StoreError::Damaged { place: "deltasync/numbers" })?;
        self.numbers.insert(NEXT_GENERATION, generation + 1).map_err(failed(DOING))?;
        Ok(generation)
    }

    /// An empty set of rows that stands before everything.
    pub(super) fn new_part(&mut self, of: Cursor) -> Result<Part, StoreError> {
        let generation = self.new_generation()?;
        let cursor = Cursor { version: Version::ZERO, ..of };
        Ok(Part { generation, cursor, tally: Tally::default() })
    }

    /// Applies a page to the load, or to the rows if there is none.
    pub(super) fn page(
        &mut self,
        record: CopyRecord,
        changes: &[Change],
        to: Cursor,
    ) -> Result<(CopyRecord, Visible), StoreError> {
        if let Some(load) = record.load {
            let (load, _) = self.apply(load, changes, to)?;
            if !to.is_caught_up() {
                return Ok((CopyRecord { load: Some(load), ..record }, Visible::Nothing));
            }
            self.discard(record.rows)?;
            let now = CopyRecord { rows: Some(load), load: None, foreign: false };
            return Ok((now, Visible::Swapped));
        }
        let part = match record.rows {
            Some(part) => part,
            None => self.new_part(to)?,
        };
        let (part, edits) = self.apply(part, changes, to)?;
        Ok((CopyRecord { rows: Some(part), load: None, ..record }, visible(edits)))
    }

    fn apply(
        &mut self,
        mut part: Part,
        changes: &[Change],
        to: Cursor,
    ) -> Result<(Part, Vec<Edit>), StoreError> {
        let (rows, generation) = (&self.rows, part.generation);
        let edits =
            plan(changes, part.cursor.version, &mut part.tally, |key| row(rows, generation, key))?;
        for edit in &edits {
            self.carry_out(generation, edit)?;
        }
        part.cursor = to;
        Ok((part, edits))
    }

    pub(super) fn carry_out(&mut self, generation: u64, edit: &Edit) -> Result<(), StoreError> {
        if let Some(Row { key, sort_key, .. }) = &edit.old {
            let place = order_key(generation, sort_key, key);
            self.order.remove(place.as_slice()).map_err(failed(DOING))?;
            if edit.new.is_none() {
                let place = row_key(generation, key);
                self.rows.remove(place.as_slice()).map_err(failed(DOING))?;
            }
        }
        if let Some(new) = &edit.new {
            let place = row_key(generation, &new.key);
            let bytes = encode_row(new);
            self.rows.insert(place.as_slice(), bytes.as_slice()).map_err(failed(DOING))?;
            let place = order_key(generation, &new.sort_key, &new.key);
            self.order.insert(place.as_slice(), ()).map_err(failed(DOING))?;
        }
        Ok(())
    }

    /// Nobody sees these rows any more.
    pub(super) fn discard(&mut self, part: Option<Part>) -> Result<(), StoreError> {
        if let Some(part) = part {
            self.garbage.insert(part.generation, ()).map_err(failed(DOING))?;
        }
        Ok(())
    }

    /// Frees up to `rows_max` rows of the oldest garbage that is not `kept`; `true` = there is
    /// more of it.
    pub(super) fn sweep(
        &mut self,
        rows_max: usize,
        kept: &BTreeSet<u64>,
    ) -> Result<bool, StoreError> {
        let Some(generation) = self.oldest_garbage(kept)? else { return Ok(false) };
        let range = generation_range(generation);
        let range = || range.start.as_slice()..range.end.as_slice();
        let rows = self.rows.extract_from_if(range(), |_, _| true).map_err(failed(DOING))?;
        let swept = take_all(rows, rows_max)?;
        let order = self.order.extract_from_if(range(), |_, ()| true).map_err(failed(DOING))?;
        let swept = swept.max(take_all(order, rows_max)?);
        if swept == rows_max {
            return Ok(true);
        }
        self.garbage.remove(generation).map_err(failed(DOING))?;
        Ok(self.oldest_garbage(kept)?.is_some())
    }

    fn oldest_garbage(&self, kept: &BTreeSet<u64>) -> Result<Option<u64>, StoreError> {
        for entry in self.garbage.iter().map_err(failed(DOING))? {
            let generation = entry.map_err(failed(DOING))?.0.value();
            if !kept.contains(&generation) {
                return Ok(Some(generation));
            }
        }
        Ok(None)
    }
}

/// Extraction happens as the iterator moves.
fn take_all<T>(
    extracted: impl Iterator<Item = Result<T, redb::StorageError>>,
    rows_max: usize,
) -> Result<usize, StoreError> {
    let mut count = 0;
    for entry in extracted.take(rows_max) {
        entry.map_err(failed(DOING))?;
        count += 1;
    }
    Ok(count)
}

fn row(
    rows: &Table<'_, &'static [u8], &'static [u8]>,
    generation: u64,
    key: &Key,
) -> Result<Option<Row>, StoreError> {
    let found = rows.get(row_key(generation, key).as_slice()).map_err(failed(DOING))?;
    found.map(|bytes| decode_row(key.clone(), bytes.value())).transpose()
}
