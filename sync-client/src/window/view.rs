//! What a window shows at a moment, and what differs between two moments. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use sync_proto::types::{Cursor, Key, SortKey, Value, Version};

use crate::codec::{Codec, DecodeError};

/// What a window shows at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowView {
    /// The rows, in the order of the window: at most as many as were asked for.
    pub rows: Vec<WindowRow>,
    /// What is known of their completeness.
    pub verdict: Verdict,
    /// The rank of the first row when the window was listed; exact for a window that begins where
    /// the list does. `None`: the window was moved to a place, whose rank nobody asked for.
    pub rank: Option<u64>,
    /// Items of the whole collection, as far as is known.
    pub total: Option<u64>,
    /// The list ends with the last row.
    pub ends: bool,
    /// Counts the moves of the window: rows of two moves have nothing to do with each other.
    pub(super) moves: u64,
    pub(super) departed: Arc<Departed>,
}

/// A row of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRow {
    /// The key of its item.
    pub key: Key,
    /// Its place in list order.
    pub sort_key: SortKey,
    /// Version of the commit that last touched it.
    pub version: Version,
    /// Version of the commit that created it.
    pub created: Version,
    /// Its content.
    pub detail: Detail,
}

/// The content of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// Not fetched yet, or not on screen.
    Missing,
    /// What it is.
    Known(Value),
    /// The item was gone when its content was asked for: the row goes, too, in a moment.
    Gone,
}

/// What is known of a window's completeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The rows are not all that belongs here: they are being listed, or caught up.
    Filling,
    /// The rows are exactly what the collection had here at this cursor, and they are kept so.
    Complete {
        /// Everything up to here is in them.
        at: Cursor,
    },
    /// The same, but more rows were asked for than a window may hold.
    Truncated {
        /// Everything up to here is in them.
        at: Cursor,
    },
    /// The server was lost: the rows are from before.
    Stale {
        /// Since when.
        since: Instant,
    },
    /// There is no such collection (now).
    Absent,
    /// The collection is not the caller's to read.
    Denied,
}

/// A difference between two moments of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowDifference {
    /// A row came into the window.
    Entered(usize, WindowRow),
    /// A row of the window has another place, version or content.
    Changed(usize, WindowRow),
    /// The item does not exist any more.
    Deleted(Key),
    /// The item exists, but outside of the window.
    Left(Key),
    /// The item is not in the window any more; whether it exists was not heard.
    Vanished(Key),
    /// The window was moved: what was told before does not count any more.
    Moved,
    /// What is known of the window's completeness.
    Verdict(Verdict),
}

/// Why rows have gone, of the last that have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Departed {
    /// Rows that have gone since the beginning.
    count: u64,
    /// By the number at which they went, the newest.
    last: BTreeMap<u64, (Key, Departure)>,
}

/// Why a row has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    Deleted,
    Left,
    /// It was not in a list that was made anew.
    Unknown,
}

/// Departures that are remembered. Past these, an old view cannot say why a row has gone.
const DEPARTED_MAX: usize = 1_024;

// === impl WindowView ===

impl WindowView {
    /// Before anything is known.
    pub(super) fn nothing() -> Self {
        Self {
            rows: Vec::new(),
            verdict: Verdict::Filling,
            rank: None,
            total: None,
            ends: false,
            moves: 0,
            departed: Arc::default(),
        }
    }
}

// === impl WindowRow ===

impl WindowRow {
    /// Its content, decoded; `None` = not fetched.
    pub fn decode<C: Codec>(&self) -> Option<Result<C::Item, DecodeError>> {
        match &self.detail {
            Detail::Known(value) => Some(C::decode(&value.to_bytes())),
            Detail::Missing | Detail::Gone => None,
        }
    }
}

// === impl Departed ===

impl Departed {
    pub(super) fn add(&mut self, key: Key, why: Departure) {
        self.last.insert(self.count, (key, why));
        self.count += 1;
        if self.last.len() > DEPARTED_MAX {
            self.last.pop_first();
        }
    }

    /// Why a row has gone since `before`.
    fn why(&self, key: &Key, before: &Self) -> Departure {
        let since = self.last.range(before.count..);
        let known = since.rev().find(|(_, (gone, _))| gone == key).map(|(_, (_, why))| *why);
        let forgotten = self.count - before.count > self.last.len() as u64;
        // Rows that others pushed behind the last one have left, too.
        known.unwrap_or(if forgotten { Departure::Unknown } else { Departure::Left })
    }
}

/// What differs between two views of one window; `None` = everything is new.
pub(super) fn differences(old: Option<&WindowView>, new: &WindowView) -> Vec<WindowDifference> {
    let mut differ = Vec::new();
    let moved = old.is_some_and(|old| old.moves != new.moves);
    differ.extend(moved.then_some(WindowDifference::Moved));
    let before = old.filter(|_| !moved);
    let mut rows: BTreeMap<&Key, &WindowRow> = BTreeMap::new();
    if let Some(before) = before {
        let here: BTreeSet<&Key> = new.rows.iter().map(|row| &row.key).collect();
        for row in &before.rows {
            if here.contains(&row.key) {
                rows.insert(&row.key, row);
                continue;
            }
            let key = row.key.clone();
            differ.push(match new.departed.why(&key, &before.departed) {
                Departure::Deleted => WindowDifference::Deleted(key),
                Departure::Left => WindowDifference::Left(key),
                Departure::Unknown => WindowDifference::Vanished(key),
            });
        }
    }
    for (index, row) in new.rows.iter().enumerate() {
        match rows.get(&row.key) {
            None => differ.push(WindowDifference::Entered(index, row.clone())),
            Some(old) if *old == row => {}
            Some(_) => differ.push(WindowDifference::Changed(index, row.clone())),
        }
    }
    if old.is_none_or(|old| old.verdict != new.verdict) {
        differ.push(WindowDifference::Verdict(new.verdict));
    }
    differ
}
