//! Verifying collections while commits go on. The store has no snapshots, so a collection is read in
//! looks, and only if it is the same at the first and at the last of them have all its rows been of
//! one version; otherwise it is read anew. One that does not come to rest is read with the writer
//! held, if that takes but a moment; if not, it is said that it was not checked. Every call is bounded
//! work; nothing is held between calls.
//!
//! ```text
//!  next ─► Reading ─ end, the same as at first ─► judged
//!             │ moved: anew, a few times
//!             └─ moved too often ─► held: all of it at once ─► judged, or unsettled
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;

use sync_proto::types::CollectionName;

use super::ledger::Ledger;
use super::view::View;
use crate::core::check::Checker;
use crate::store::keys::{self, CollectionId};
use crate::store::rows::Meta;
use crate::store::{Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

/// Rows of one look, which holds up the writer for as long as it takes.
const LOOK_ROWS_MAX: usize = 256;
/// Bytes after which a look ends; one row may exceed it.
const LOOK_BYTES: usize = 512 * 1024;

/// How often a collection is read before it is taken for one that does not come to rest.
const ATTEMPTS_MAX: u32 = 4;
/// Items and tombstones of a collection that may be read with the writer held.
const HELD_ENTRIES_MAX: u64 = 8 * 1024;

/// Rows that an item has, and that a tombstone has.
const ITEM_ROWS: u64 = 4;
const TOMBSTONE_ROWS: u64 = 3;

/// A verification under way.
#[derive(Debug)]
pub struct Verification {
    rest: std::vec::IntoIter<CollectionName>,
    reading: Option<Reading>,
    rows: u64,
    estimated_rows: u64,
    collections: u64,
}

/// What a step has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is wrong: where and what.
    pub findings: Vec<String>,
    /// Collections that did not come to rest.
    pub unsettled: Vec<CollectionName>,
}

/// A collection that is being read.
#[derive(Debug)]
struct Reading {
    name: CollectionName,
    attempt: u32,
    pass: Option<Pass>,
}

/// One attempt: the state that all its rows must be of, and how far it has come.
#[derive(Debug)]
struct Pass {
    id: CollectionId,
    meta: Arc<Meta>,
    checker: Checker,
    rest: std::vec::IntoIter<KeyRange>,
}

/// How a look ended.
enum Looked {
    /// There is more to read.
    More,
    /// All has been read, and this is wrong.
    Judged(Vec<String>),
    /// The collection is another than when the reading began.
    Moved,
    /// There is no such collection any more.
    Gone,
}

// === impl Verification ===

impl Verification {
    /// Begins a verification of the collections whose names begin with `prefix`.
    #[must_use]
    pub fn new<S: Store>(ledger: &Ledger<S>, prefix: &str) -> Self {
        let heads = ledger.heads.read();
        let all = heads.by_name.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
        let (mut names, mut estimated_rows) = (Vec::new(), 0);
        for (name, (_, meta)) in all {
            names.push(name.clone());
            estimated_rows += meta.head.items * ITEM_ROWS + meta.head.tombstones * TOMBSTONE_ROWS;
        }
        let rest = names.into_iter();
        Self { rest, reading: None, rows: 0, estimated_rows, collections: 0 }
    }

    /// Rows read so far, those that were read again included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// About how many rows there are in all.
    #[must_use]
    pub fn estimated_rows(&self) -> u64 {
        self.estimated_rows.max(self.rows)
    }

    /// Collections that have been checked.
    #[must_use]
    pub fn collections(&self) -> u64 {
        self.collections
    }

    /// Looks once; `None` = all is done. While the writer is held, `go_on` says how long that may
    /// take.
    pub fn step<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Found>, StoreError> {
        let begin = |name| Reading { name, attempt: 0, pass: None };
        let Some(mut reading) = self.reading.take().or_else(|| self.rest.next().map(begin)) else {
            return Ok(None);
        };
        let looked = if reading.attempt < ATTEMPTS_MAX {
            self.look(ledger, &mut reading)?
        } else {
            self.look_held(ledger, &mut reading, go_on)?
        };
        let mut found = Found::default();
        match looked {
            Looked::More => self.reading = Some(reading),
            Looked::Judged(findings) => {
                self.collections += 1;
                let named = |what| format!("collection {:?}: {what}", reading.name.as_str());
                found.findings.extend(findings.into_iter().map(named));
            }
            Looked::Moved if reading.attempt < ATTEMPTS_MAX => {
                self.reading = Some(Reading { attempt: reading.attempt + 1, ..reading });
            }
            Looked::Moved => found.unsettled.push(reading.name),
            Looked::Gone => {}
        }
        Ok(Some(found))
    }

    /// Reads all of a collection with the writer held, if that takes but a moment.
    fn look_held<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        reading: &mut Reading,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Looked, StoreError> {
        // Whoever writes holds this from the first row to the sync: nothing is under way now.
        let _held = ledger.writing.lock();
        let Some(head) = ledger.head(&reading.name) else { return Ok(Looked::Gone) };
        if head.items + head.tombstones > HELD_ENTRIES_MAX {
            return Ok(Looked::Moved);
        }
        loop {
            match self.look(ledger, reading)? {
                Looked::More if go_on() => {}
                Looked::More => return Ok(Looked::Moved),
                ended @ (Looked::Judged(_) | Looked::Moved | Looked::Gone) => return Ok(ended),
            }
        }
    }

    fn look<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        reading: &mut Reading,
    ) -> Result<Looked, StoreError> {
        let Some((id, meta, view)) = ledger.view(&reading.name) else { return Ok(Looked::Gone) };
        let mut pass = match reading.pass.take() {
            Some(pass) if pass.id == id && pass.meta == meta => pass,
            Some(_) => return Ok(Looked::Moved),
            None => Pass::begin(id, meta),
        };
        let before = pass.checker.rows();
        let read = pass.read(&view);
        drop(view);
        self.rows += pass.checker.rows() - before;
        match read {
            Ok(true) => {
                reading.pass = Some(pass);
                Ok(Looked::More)
            }
            Ok(false) => Ok(Looked::Judged(pass.checker.judge_alone(id))),
            // It is what is looked for; there is no way around it.
            Err(StoreError::Damaged { place, reason }) => {
                Ok(Looked::Judged(vec![format!("{place}: {reason}")]))
            }
            Err(error) => Err(error),
        }
    }
}

// === impl Pass ===

impl Pass {
    fn begin(id: CollectionId, meta: Arc<Meta>) -> Self {
        let row = |key: Vec<u8>| KeyRange { end: Some([&key[..], &[0]].concat()), start: key };
        let single = [keys::name_key(&meta.name), keys::meta_key(id)].map(row);
        let ranges: Vec<_> = single.into_iter().chain(keys::doomed_ranges(id)).collect();
        Self { id, meta, checker: Checker::default(), rest: ranges.into_iter() }
    }

    /// Reads as many rows as a look may; whether there are more.
    fn read<S: Store>(&mut self, view: &View<'_, S>) -> Result<bool, StoreError> {
        let (mut rows, mut bytes) = (0, 0);
        while let Some(range) = self.rest.as_slice().first() {
            let mut next = None;
            view.scan(range, Direction::Forward, &mut |key, value| {
                if rows == LOOK_ROWS_MAX || bytes >= LOOK_BYTES {
                    next = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                rows += 1;
                bytes += key.len() + value.len();
                self.checker.row(key, value);
                ControlFlow::Continue(())
            })?;
            match next {
                Some(next) => {
                    let rest = self.rest.as_mut_slice();
                    rest[0].start = next;
                    return Ok(true);
                }
                None => drop(self.rest.next()),
            }
        }
        Ok(false)
    }
}
