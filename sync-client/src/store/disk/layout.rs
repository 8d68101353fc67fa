//! The bytes of a replica's file. All numbers are big-endian; a generation is one set of rows
//! (what readers see, or a load that is being staged) and its number is never used again.
//!
//! ```text
//! table               key                                        value
//! deltasync/numbers   "format" | "next generation"               u64
//! deltasync/copies    collection name                            part(rows) part(load), then, unless
//!                                                                it is of the whole collection: scope
//! deltasync/rows      generation u64, key                        row
//! deltasync/order     generation u64, escaped(sort key), key     (nothing)
//! deltasync/garbage   generation u64                             (nothing)
//! deltasync/notes     owner (a collection name), 00, key         content, see account/note.rs
//!
//! part                generation u64 (0 = none), epoch u64, version u64, base u64, items u64,
//!                     digest 16 bytes
//! scope               foreign u8 (1 = the rows are of another scope, and stand nowhere), then a
//!                     deltasync.v1.Scope; absent = all, and the rows are of it
//! row                 version u64, created u64, value version u64, length of sort key u16,
//!                     sort key, value
//! staged row          (nothing) = stays | 00 = goes | a row; of a generation that is garbage already
//! escaped(bytes)      each 00 as 00 FF, then 00 01: sorts like the bytes
//! ```

use bytes::Bytes;
use redb::{
    Database, ReadOnlyDatabase, ReadableDatabase as _, ReadableTable, TableDefinition,
    WriteTransaction,
};
use sync_proto::convert::{decode_scope, encode_scope};
use sync_proto::digest::Digest;
use sync_proto::limits::KEY_LEN_MAX;
use sync_proto::types::{CollectionName, Cursor, Epoch, Key, Scope, SortKey, Version};

use super::failed;
use crate::store::{Load, Row, Staged, Standing, StoreError, Tally};

/// Format that this program writes.
pub(super) const FORMAT: u32 = 1;

pub(super) const NUMBERS: TableDefinition<'_, &str, u64> =
    TableDefinition::new("deltasync/numbers");
pub(super) const COPIES: TableDefinition<'_, &str, &[u8]> =
    TableDefinition::new("deltasync/copies");
pub(super) const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/rows");
pub(super) const ORDER: TableDefinition<'_, &[u8], ()> = TableDefinition::new("deltasync/order");
pub(super) const GARBAGE: TableDefinition<'_, u64, ()> = TableDefinition::new("deltasync/garbage");
pub(super) const NOTES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/notes");

/// Entry of [`NUMBERS`].
pub(super) const FORMAT_NUMBER: &str = "format";
/// Entry of [`NUMBERS`].
pub(super) const NEXT_GENERATION: &str = "next generation";

const PART_LEN: usize = 8 * 5 + 16;
const GENERATION_LEN: usize = 8;

/// One set of rows of a collection and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) generation: u64,
    pub(super) cursor: Cursor,
    pub(super) tally: Tally,
}

/// No generation as high as this is ever given: ten a second would last for ages.
pub(super) const GENERATION_MAX: u64 = 1 << 62;

/// Behind every place of a row.
const PLACE_MAX: [u8; 8 + 4 * KEY_LEN_MAX] = [u8::MAX; 8 + 4 * KEY_LEN_MAX];

/// What is known of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CopyRecord {
    pub(super) rows: Option<Part>,
    pub(super) load: Option<Part>,
    /// The rows are of another part of the collection than the copy.
    pub(super) foreign: bool,
}

/// Makes sure that the tables are there, in a format that this program knows.
pub(super) fn prepare(database: &Database) -> Result<(), StoreError> {
    let doing = "opening the local store";
    let write = database.begin_write().map_err(failed(doing))?;
    let free = {
        // Readers expect every table to exist.
        write.open_table(COPIES).map_err(failed(doing))?;
        write.open_table(ORDER).map_err(failed(doing))?;
        write.open_table(NOTES).map_err(failed(doing))?;
        free_generation(&write)?
    };
    {
        let mut numbers = write.open_table(NUMBERS).map_err(failed(doing))?;
        let found = numbers.get(FORMAT_NUMBER).map_err(failed(doing))?.map(|n| n.value());
        match found.map(|found| u32::try_from(found).unwrap_or(u32::MAX)) {
            None => {
                numbers.insert(FORMAT_NUMBER, u64::from(FORMAT)).map_err(failed(doing))?;
            }
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::NewerFormat { found, known: FORMAT }),
        }
        // Lost, or too low for what is there: rows of two copies would mix.
        let next = numbers.get(NEXT_GENERATION).map_err(failed(doing))?.map(|n| n.value());
        if next.is_none_or(|next| next < free || next > GENERATION_MAX) {
            numbers.insert(NEXT_GENERATION, free).map_err(failed(doing))?;
        }
    }
    write.commit().map_err(failed(doing))
}

/// Makes sure of the same where nothing can be written.
pub(super) fn see_format(database: &ReadOnlyDatabase) -> Result<(), StoreError> {
    let doing = "opening the local store";
    let read = database.begin_read().map_err(failed(doing))?;
    read.open_table(COPIES).map_err(failed(doing))?;
    read.open_table(ROWS).map_err(failed(doing))?;
    read.open_table(ORDER).map_err(failed(doing))?;
    read.open_table(NOTES).map_err(failed(doing))?;
    let numbers = read.open_table(NUMBERS).map_err(failed(doing))?;
    let found = numbers.get(FORMAT_NUMBER).map_err(failed(doing))?.map(|n| n.value());
    match found.map(|found| u32::try_from(found).unwrap_or(u32::MAX)) {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(StoreError::NewerFormat { found, known: FORMAT }),
        None => Err(StoreError::Damaged { place: "the format number" }),
    }
}

/// The first generation that no row is of. Those that are never given are damage, which is swept.
fn free_generation(write: &WriteTransaction) -> Result<u64, StoreError> {
    let doing = "opening the local store";
    let rows = write.open_table(ROWS).map_err(failed(doing))?;
    let garbage = write.open_table(GARBAGE).map_err(failed(doing))?;
    let end = GENERATION_MAX.to_be_bytes();
    let last = rows.range(..&end[..]).map_err(failed(doing))?.next_back().transpose();
    let of_rows = last.map_err(failed(doing))?;
    let of_rows = of_rows.and_then(|(place, _)| place.value().first_chunk().copied());
    let last = garbage.range(..GENERATION_MAX).map_err(failed(doing))?.next_back().transpose();
    let of_garbage = last.map_err(failed(doing))?.map(|(generation, _)| generation.value());
    let newest = of_rows.map_or(0, u64::from_be_bytes).max(of_garbage.unwrap_or(0));
    Ok(newest + 1)
}

/// The place of a row.
pub(super) fn row_key(generation: u64, key: &Key) -> Vec<u8> {
    [&generation.to_be_bytes(), key.as_bytes()].concat()
}

/// The place of a row in list order.
pub(super) fn order_key(generation: u64, sort_key: &SortKey, key: &Key) -> Vec<u8> {
    let mut place = generation.to_be_bytes().to_vec();
    for byte in sort_key.as_bytes() {
        place.push(*byte);
        if *byte == 0 {
            place.push(0xFF);
        }
    }
    place.extend_from_slice(&[0, 1]);
    place.extend_from_slice(key.as_bytes());
    place
}

/// The key of the row that stands at a place in list order.
pub(super) fn key_in_order(place: &[u8]) -> Result<Key, StoreError> {
    let damaged = StoreError::Damaged { place: "deltasync/order" };
    let Some(rest) = place.get(GENERATION_LEN..) else { return Err(damaged) };
    let Some(end) = rest.windows(2).position(|pair| pair == [0, 1]) else { return Err(damaged) };
    Key::new(Bytes::copy_from_slice(&rest[end + 2..])).map_err(|_| damaged)
}

/// Everything of a generation, in either table.
pub(super) fn generation_range(generation: u64) -> std::ops::Range<Vec<u8>> {
    let end =
        generation.checked_add(1).map_or(PLACE_MAX.to_vec(), |next| next.to_be_bytes().into());
    generation.to_be_bytes().to_vec()..end
}

/// The place of a note. A name has no control characters, so 00 ends it.
pub(super) fn note_place(owner: &CollectionName, key: &[u8]) -> Vec<u8> {
    [owner.as_str().as_bytes(), &[0], key].concat()
}

/// The notes of one owner.
pub(super) fn note_range(owner: &CollectionName) -> std::ops::Range<Vec<u8>> {
    note_place(owner, &[])..[owner.as_str().as_bytes(), &[1]].concat()
}

pub(super) fn encode_row(row: &Row) -> Vec<u8> {
    let sort_key = row.sort_key.as_bytes();
    let sort_key_len = u16::try_from(sort_key.len()).expect("a sort key has at most 1 KiB");
    let mut bytes = Vec::with_capacity(26 + sort_key.len() + row.value.len());
    for version in [row.version, row.created, row.value_version] {
        bytes.extend_from_slice(&version.get().to_be_bytes());
    }
    bytes.extend_from_slice(&sort_key_len.to_be_bytes());
    bytes.extend_from_slice(sort_key);
    bytes.extend_from_slice(&row.value);
    bytes
}

pub(super) fn decode_row(key: Key, bytes: &[u8]) -> Result<Row, StoreError> {
    let mut reader = Reader { rest: bytes, place: "deltasync/rows" };
    let (version, created) = (reader.version()?, reader.version()?);
    let value_version = reader.version()?;
    let sort_key_len = usize::from(u16::from_be_bytes(reader.take()?));
    let sort_key = reader.bytes(sort_key_len)?;
    let sort_key = SortKey::new(Bytes::copy_from_slice(sort_key)).map_err(|_| reader.damaged())?;
    let value = Bytes::copy_from_slice(reader.rest);
    Ok(Row { key, value, sort_key, version, created, value_version })
}

pub(super) fn encode_staged(edit: &Staged) -> Vec<u8> {
    match edit {
        Staged::Keep(_) => Vec::new(),
        Staged::Remove(_) => vec![0],
        Staged::Put(row) => encode_row(row),
    }
}

pub(super) fn decode_staged(key: Key, bytes: &[u8]) -> Result<Staged, StoreError> {
    match bytes {
        [] => Ok(Staged::Keep(key)),
        [0] => Ok(Staged::Remove(key)),
        row => decode_row(key, row).map(Staged::Put),
    }
}

// === impl CopyRecord ===

impl CopyRecord {
    pub(super) fn encode(&self, scope: &Scope) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * PART_LEN);
        for part in [self.rows, self.load] {
            let Some(part) = part else {
                bytes.extend_from_slice(&[0; PART_LEN]);
                continue;
            };
            let Cursor { epoch, version, base } = part.cursor;
            let numbers =
                [part.generation, epoch.get(), version.get(), base.get(), part.tally.items];
            bytes.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
            bytes.extend_from_slice(&part.tally.digest.to_be_bytes());
        }
        // A program that knows no scopes takes a longer record for none, and loads all.
        if !scope.is_all() || self.foreign {
            bytes.push(u8::from(self.foreign));
            bytes.extend_from_slice(&encode_scope(scope));
        }
        bytes
    }

    /// A record that does not decode is no copy: it is loaded anew, and its rows are orphans that
    /// the next write finds. Refusing to read it would refuse that write, too.
    pub(super) fn decode_or_none(bytes: &[u8]) -> Option<(Self, Scope)> {
        Self::decode(bytes)
            .inspect_err(|failure| tracing::warn!(%failure, "a copy is given up"))
            .ok()
    }

    fn decode(bytes: &[u8]) -> Result<(Self, Scope), StoreError> {
        let mut reader = Reader { rest: bytes, place: "deltasync/copies" };
        let record = Self { rows: reader.part()?, load: reader.part()?, foreign: false };
        if reader.rest.is_empty() {
            return Ok((record, Scope::All));
        }
        let [foreign] = reader.take()?;
        let scope = decode_scope(Bytes::copy_from_slice(reader.rest)).ok();
        match (foreign, scope) {
            (0 | 1, Some(scope)) => Ok((Self { foreign: foreign == 1, ..record }, scope)),
            (_, _) => Err(reader.damaged()),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            cursor: self.rows.filter(|_| !self.foreign).map(|part| part.cursor),
            tally: self.rows.map(|part| part.tally).unwrap_or_default(),
            load: self.load.map(|Part { cursor, tally, .. }| Load { cursor, tally }),
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    place: &'static str,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn damaged(&self) -> StoreError {
        StoreError::Damaged { place: self.place }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.damaged());
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| self.damaged())
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        self.take().map(u64::from_be_bytes)
    }

    fn version(&mut self) -> Result<Version, StoreError> {
        Version::new(self.number()?).map_err(|_| self.damaged())
    }

    fn part(&mut self) -> Result<Option<Part>, StoreError> {
        let (generation, epoch) = (self.number()?, self.number()?);
        let (version, base) = (self.version()?, self.version()?);
        let items = self.number()?;
        let digest = Digest::from_be_bytes(self.take()?);
        match (generation, Epoch::new(epoch)) {
            (0, _) => Ok(None),
            (_, None) => Err(self.damaged()),
            (generation, Some(epoch)) => {
                let cursor = Cursor { epoch, version, base };
                Ok(Some(Part { generation, cursor, tally: Tally { items, digest } }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255), any::<u8>()], len)
    }

    proptest! {
        #[test]
        fn places_sort_like_what_they_stand_for(
            (a, b) in ((bytes(0..5), bytes(1..5)), (bytes(0..5), bytes(1..5)))
        ) {
            let place = |(sort_key, key): &(Vec<u8>, Vec<u8>)| {
                let sort_key = SortKey::new(sort_key.clone()).unwrap();
                order_key(7, &sort_key, &Key::new(key.clone()).unwrap())
            };
            prop_assert_eq!(place(&a).cmp(&place(&b)), a.cmp(&b));
            let key = key_in_order(&place(&a)).unwrap();
            prop_assert_eq!(key.as_bytes(), &a.1[..]);
        }

        #[test]
        fn rows_come_back_as_they_went(
            key in bytes(1..9), value in bytes(0..50), sort_key in bytes(0..9), version in 1..99u64
        ) {
            let row = Row {
                key: Key::new(key).unwrap(),
                value: value.into(),
                sort_key: SortKey::new(sort_key).unwrap(),
                version: Version::new(version).unwrap(),
                created: Version::new(version / 2).unwrap(),
                value_version: Version::new(version / 3).unwrap(),
            };
            let encoded = encode_row(&row);
            prop_assert_eq!(decode_row(row.key.clone(), &encoded).unwrap(), row.clone());
            prop_assert!(decode_row(Key::new("k").unwrap(), &encoded[..10]).is_err());
            let key = row.key.clone();
            for edit in [Staged::Put(row), Staged::Keep(key.clone()), Staged::Remove(key.clone())] {
                prop_assert_eq!(decode_staged(key.clone(), &encode_staged(&edit)).unwrap(), edit);
            }
        }

        #[test]
        fn copies_come_back_as_they_went(
            numbers in any::<[u32; 5]>(), digest in any::<[u8; 16]>(), load in any::<bool>()
        ) {
            let version = |at: usize| Version::new(numbers[at].into()).unwrap();
            let epoch = Epoch::new(u64::from(numbers[0]) + 1).unwrap();
            let part = Part {
                generation: u64::from(numbers[1]) + 1,
                cursor: Cursor { epoch, version: version(2), base: version(3) },
                tally: Tally { items: numbers[4].into(), digest: Digest::from_be_bytes(digest) },
            };
            let (rows, load) = if load { (None, Some(part)) } else { (Some(part), None) };
            let record = CopyRecord { rows, load, foreign: false };
            let all = record.encode(&Scope::All);
            prop_assert_eq!(CopyRecord::decode(&all).unwrap(), (record, Scope::All));
            prop_assert!(CopyRecord::decode(&all[1..]).is_err());
            for foreign in [false, true] {
                let record = CopyRecord { foreign, ..record };
                let prefix = Scope::KeyPrefix(Bytes::from_static(b"p"));
                let bytes = record.encode(&prefix);
                prop_assert_eq!(CopyRecord::decode(&bytes).unwrap(), (record, prefix));
                prop_assert!(CopyRecord::decode(&bytes[..bytes.len() - 1]).is_err());
            }
        }
    }
}
