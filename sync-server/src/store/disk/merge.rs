//! Rows of a range, of the overlay and of sled, in one order. Of a key that several have, the
//! newest counts.

use std::collections::btree_map;

use bytes::Bytes;
use sled::IVec;

use super::super::{Direction, StoreError};
use super::overlay::Overlay;
use super::{read, sled_error};

type Layer<'a> = btree_map::Range<'a, Vec<u8>, Option<Bytes>>;

/// The rows that are left.
pub(super) struct Merge<'a> {
    layers: [Source<Layer<'a>>; 2],
    sled: Source<sled::Iter>,
    direction: Direction,
}

/// A row as it lies.
pub(super) enum Found<'a> {
    /// In the overlay: its key, and the value unless it is removed.
    Above(&'a [u8], Option<&'a Bytes>),
    /// In sled: its key, and its bytes.
    Below(IVec, IVec),
}

/// Rows of one place, the next one at hand.
struct Source<I: Iterator> {
    rows: Option<I>,
    next: Option<I::Item>,
}

// === impl Merge ===

impl<'a> Merge<'a> {
    /// The rows from `start` (included) to `end` (excluded), both stored keys.
    pub(super) fn new(
        db: &sled::Db,
        overlay: &'a Overlay,
        (start, end): (&[u8], &[u8]),
        direction: Direction,
    ) -> Self {
        let layers = overlay.range(start, end).map(|layer| Source::new(layer, direction));
        Self { layers, sled: Source::new(Some(db.range(start..end)), direction), direction }
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Found<'a>>, StoreError> {
        let [active, frozen] = &self.layers;
        let above = [active, frozen].map(|layer| layer.next.map(|(key, _)| key.as_slice()));
        let below = match &self.sled.next {
            None => None,
            Some(Ok((key, _))) => Some(key.as_ref()),
            Some(Err(error)) => return Err(sled_error("scanning rows", error.clone())),
        };
        let keys = [above[0], above[1], below];
        let first = match self.direction {
            Direction::Forward => keys.iter().flatten().min(),
            Direction::Backward => keys.iter().flatten().max(),
        };
        let Some(first) = first else { return Ok(None) };
        let has = keys.map(|key| key == Some(*first));
        let [active, frozen] = &mut self.layers;
        let of = |(key, value): (&'a Vec<u8>, &'a Option<Bytes>)| {
            Found::Above(key.as_slice(), value.as_ref())
        };
        let active = if has[0] { active.take(self.direction).map(of) } else { None };
        let frozen = if has[1] { frozen.take(self.direction).map(of) } else { None };
        let below = if has[2] { self.sled.take(self.direction) } else { None };
        let below = below.transpose().map_err(|error| sled_error("scanning rows", error))?;
        Ok(active.or(frozen).or(below.map(|(key, row)| Found::Below(key, row))))
    }
}

// === impl Found ===

impl Found<'_> {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Above(key, _) => key,
            Self::Below(key, _) => key,
        }
    }

    /// The row's value, checked; `None` = it is removed.
    pub(super) fn value(&self, db: &sled::Db) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Above(_, value) => Ok(value.cloned()),
            Self::Below(key, row) => read::value(db, key, row).map(Some),
        }
    }
}

// === impl Source ===

impl<I: DoubleEndedIterator> Source<I> {
    fn new(rows: Option<I>, direction: Direction) -> Self {
        let mut source = Self { rows, next: None };
        source.take(direction);
        source
    }

    fn take(&mut self, direction: Direction) -> Option<I::Item> {
        let next = self.rows.as_mut().and_then(|rows| match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        });
        std::mem::replace(&mut self.next, next)
    }
}
