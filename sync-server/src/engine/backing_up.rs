//! Taking a backup while commits go on. The store has no snapshots, but a log is a delta stream:
//! what changed since a copy lies behind the version that was copied. Every call is bounded work;
//! nothing is held between calls.
//!
//! ```text
//! pass 1      each collection: its log up to the head that it has then
//! pass 2..n   each collection that moved: its log behind what was copied, up to its new head
//! last pass   when little was left: the writer is held for a bounded moment, and what is left of
//!             all collections is copied at one point of the ledger; if that takes too long, it was
//!             a pass like the others
//! heads, end  the heads of that point
//! ```
//! So commits over several collections are all there or not at all. Where deletes behind what was
//! copied have been purged meanwhile, the collection is begun anew: what is missing cannot be known.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::types::{CollectionName, Timestamp, Version};

use super::ledger::Ledger;
use super::view::View;
use crate::backup::format::{BackupEnd, BackupHead, BackupRow, Block, Encoder};
use crate::store::keys::{self, CollectionId, Row};
use crate::store::rows::{KeyRow, Meta};
use crate::store::{Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

/// Rows of one look, which holds up the writer for as long as it takes.
const LOOK_ROWS_MAX: usize = 256;
/// Bytes after which a look ends; one row may exceed it.
const LOOK_BYTES: usize = 512 * 1024;
/// Bytes of a block of heads, about.
const HEADS_BYTES: usize = 512 * 1024;

/// When a pass found no more than this, the next one is tried with the writer held.
const LAST_PASS_ROWS: u64 = 4_096;
/// Rows and bytes that are kept in memory while the writer is held, however slow the reader is.
const HELD_ROWS_MAX: u64 = 16 * 1024;
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Passes before it is given up: commits come faster than they can be copied.
const PASSES_MAX: u32 = 64;
/// How often a collection is begun anew before it is given up.
const GENERATIONS_MAX: u32 = 16;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupFailure {
    /// Storage failed.
    #[error("storage failed")]
    Store(#[from] StoreError),
    /// There were always more commits than could be copied.
    #[error("commits come faster than they are copied; try again when there are fewer")]
    TooBusy,
}

/// A backup under way.
#[derive(Debug)]
pub struct Backup {
    encoder: Option<Encoder>,
    stage: Stage,
    copied: BTreeMap<CollectionId, Copied>,
    passes: u32,
    rows: u64,
    /// Rows of the pass under way.
    pass_rows: u64,
    estimated_rows: u64,
}

#[derive(Debug)]
enum Stage {
    Begin(Timestamp),
    /// Collections that the pass has still to look at.
    Pass {
        rest: std::vec::IntoIter<CollectionName>,
        at: Option<Position>,
    },
    LastPass,
    Heads(std::vec::IntoIter<BackupHead>, std::vec::IntoIter<BackupEnd>),
    Ends(std::vec::IntoIter<BackupEnd>),
    End,
    Ended,
}

/// How far a collection has been copied.
#[derive(Debug, Clone, Copy, Default)]
struct Copied {
    generation: u32,
    to: Version,
}

/// A place in a collection's log.
#[derive(Debug, Clone)]
struct Position {
    name: CollectionName,
    id: CollectionId,
    /// Key of the next log row.
    next: Vec<u8>,
    /// The pass ends here.
    to: Version,
}

/// What one look found.
struct Looked {
    rows: Vec<BackupRow>,
    /// Where to go on; `None` = all has been read.
    next: Option<Vec<u8>>,
}

// === impl Backup ===

impl Backup {
    /// Begins a backup.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            encoder: Some(Encoder::default()),
            stage: Stage::Begin(now),
            copied: BTreeMap::new(),
            passes: 0,
            rows: 0,
            pass_rows: 0,
            estimated_rows: 0,
        }
    }

    /// Rows copied so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// About how many rows there are in all.
    #[must_use]
    pub fn estimated_rows(&self) -> u64 {
        self.estimated_rows.max(self.rows())
    }

    /// The next pieces of the file, perhaps none yet; `None` = it is complete. While the writer is
    /// held, `go_on` says how long that may take.
    pub fn step<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Bytes>>, BackupFailure> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Begin(now) => {
                let totals = ledger.totals();
                self.estimated_rows = totals.items + totals.tombstones;
                self.begin_pass(ledger)?;
                Ok(Some(vec![self.encoder().header(now)]))
            }
            Stage::Pass { rest, at } => self.copy_some(ledger, rest, at).map(Some),
            Stage::LastPass => self.last_pass(ledger, go_on).map(Some),
            Stage::Heads(heads, ended) => Ok(Some(self.some_heads(heads, ended))),
            Stage::Ends(ended) => Ok(Some(self.some_ends(ended))),
            Stage::End => {
                let encoder = self.encoder.take().expect("it ends once");
                Ok(Some(vec![encoder.end()]))
            }
            Stage::Ended => Ok(None),
        }
    }

    fn encoder(&mut self) -> &mut Encoder {
        self.encoder.as_mut().expect("taken only at the end")
    }

    fn begin_pass<S: Store>(&mut self, ledger: &Ledger<S>) -> Result<(), BackupFailure> {
        self.passes += 1;
        self.pass_rows = 0;
        if self.passes > PASSES_MAX {
            return Err(BackupFailure::TooBusy);
        }
        let moved: Vec<_> =
            self.moved(ledger).into_iter().map(|(_, meta)| meta.name.clone()).collect();
        self.stage = Stage::Pass { rest: moved.into_iter(), at: None };
        Ok(())
    }

    /// Collections with something that was not copied.
    fn moved<S: Store>(&self, ledger: &Ledger<S>) -> Vec<(CollectionId, Arc<Meta>)> {
        let is_new = |id: &CollectionId, meta: &Meta| {
            self.copied.get(id).is_none_or(|copied| copied.to != meta.head.version)
        };
        let heads = ledger.heads.read();
        let all = heads.by_name.values();
        all.filter(|(id, meta)| is_new(id, meta))
            .map(|(id, meta)| (*id, Arc::clone(meta)))
            .collect()
    }

    /// One look at the collection whose turn it is.
    fn copy_some<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        mut rest: std::vec::IntoIter<CollectionName>,
        at: Option<Position>,
    ) -> Result<Vec<Bytes>, BackupFailure> {
        let Some(name) = at.as_ref().map(|at| at.name.clone()).or_else(|| rest.next()) else {
            if self.pass_rows <= LAST_PASS_ROWS {
                self.stage = Stage::LastPass;
            } else {
                self.begin_pass(ledger)?;
            }
            return Ok(Vec::new());
        };
        let mut pieces = Vec::new();
        let mut next = None;
        // Gone or created anew: the next pass sees what is there then.
        if let Some((id, meta, view)) = ledger.view(&name)
            && at.as_ref().is_none_or(|at| at.id == id)
        {
            let anew = self.begun_anew(id, &meta);
            let at = match at {
                Some(at) if !anew => at,
                Some(_) | None => self.position(id, &meta)?,
            };
            let looked = look(&view, id, &at.next, at.to)?;
            drop(view);
            pieces.extend(self.rows_block(id, looked.rows));
            next = looked.next.map(|next| Position { next, ..at.clone() });
            if next.is_none() {
                self.copied.entry(id).or_default().to = at.to;
            }
        }
        self.stage = Stage::Pass { rest, at: next };
        Ok(pieces)
    }

    /// Where to go on with a collection.
    fn position(&mut self, id: CollectionId, meta: &Meta) -> Result<Position, BackupFailure> {
        let copied = self.copied.entry(id).or_default();
        if copied.generation > GENERATIONS_MAX {
            return Err(BackupFailure::TooBusy);
        }
        let (after, to) = (copied.to, meta.head.version);
        let next = keys::log_range(id, after, to).start;
        Ok(Position { name: meta.name.clone(), id, next, to })
    }

    /// Whether deletes that were not copied have been purged: then all of it is copied again.
    fn begun_anew(&mut self, id: CollectionId, meta: &Meta) -> bool {
        let copied = self.copied.entry(id).or_default();
        let lost = copied.to != Version::default() && meta.head.floor > copied.to;
        if lost {
            *copied = Copied { generation: copied.generation + 1, to: Version::default() };
        }
        lost
    }

    fn rows_block(&mut self, id: CollectionId, rows: Vec<BackupRow>) -> Option<Bytes> {
        if rows.is_empty() {
            return None;
        }
        self.rows += rows.len() as u64;
        self.pass_rows += rows.len() as u64;
        let generation = self.copied.entry(id).or_default().generation;
        Some(self.encoder().block(&Block::Rows { id, generation, rows }))
    }

    /// Holds the writer and copies what is left of all collections.
    fn last_pass<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Bytes>, BackupFailure> {
        // Whoever writes holds this from the first row to the sync: nothing is under way now.
        let held = ledger.writing.lock();
        let mut pieces = Vec::new();
        let mut bytes = 0;
        self.pass_rows = 0;
        for (id, meta) in self.moved(ledger) {
            if self.begun_anew(id, &meta) {
                drop(held);
                self.begin_pass(ledger)?;
                return Ok(pieces);
            }
            let mut at = self.position(id, &meta)?;
            loop {
                if !go_on() || self.pass_rows >= HELD_ROWS_MAX || bytes >= HELD_BYTES_MAX {
                    drop(held);
                    self.begin_pass(ledger)?;
                    return Ok(pieces);
                }
                let Some((_, _, view)) = ledger.view(&at.name) else { break };
                let looked = look(&view, id, &at.next, at.to)?;
                drop(view);
                let piece = self.rows_block(id, looked.rows);
                bytes += piece.as_ref().map_or(0, Bytes::len);
                pieces.extend(piece);
                match looked.next {
                    Some(next) => at.next = next,
                    None => break,
                }
            }
            self.copied.entry(id).or_default().to = at.to;
        }
        let (heads, ended) = (self.heads(ledger), ends(ledger));
        drop(held);
        self.stage = Stage::Heads(heads.into_iter(), ended.into_iter());
        Ok(pieces)
    }

    fn heads<S: Store>(&self, ledger: &Ledger<S>) -> Vec<BackupHead> {
        let heads = ledger.heads.read();
        let head = |(id, meta): &(CollectionId, Arc<Meta>)| {
            let generation = self.copied.get(id).map_or(0, |copied| copied.generation);
            BackupHead { id: *id, generation, meta: Meta::clone(meta) }
        };
        heads.by_name.values().map(head).collect()
    }

    fn some_heads(
        &mut self,
        mut rest: std::vec::IntoIter<BackupHead>,
        ended: std::vec::IntoIter<BackupEnd>,
    ) -> Vec<Bytes> {
        let (mut heads, mut bytes) = (Vec::new(), 0);
        while bytes < HEADS_BYTES
            && let Some(head) = rest.next()
        {
            bytes += 128 + head.meta.name.as_str().len();
            heads.push(head);
        }
        if heads.is_empty() {
            self.stage = Stage::Ends(ended);
            return Vec::new();
        }
        self.stage = Stage::Heads(rest, ended);
        vec![self.encoder().block(&Block::Heads(heads))]
    }

    fn some_ends(&mut self, mut rest: std::vec::IntoIter<BackupEnd>) -> Vec<Bytes> {
        let (mut ends, mut bytes) = (Vec::new(), 0);
        while bytes < HEADS_BYTES
            && let Some(end) = rest.next()
        {
            bytes += 20 + end.name.as_str().len();
            ends.push(end);
        }
        if ends.is_empty() {
            self.stage = Stage::End;
            return Vec::new();
        }
        self.stage = Stage::Ends(rest);
        vec![self.encoder().block(&Block::Ended(ends))]
    }
}

/// Where collections ended that are still followed.
fn ends<S: Store>(ledger: &Ledger<S>) -> Vec<BackupEnd> {
    let heads = ledger.heads.read();
    let ended = heads.audiences.iter().filter_map(|(name, audience)| {
        let (epoch, version) = audience.last_life?;
        Some(BackupEnd { name: name.clone(), epoch, version })
    });
    ended.collect()
}

/// Reads log rows from `next` on, up to the version `to`, from one durable state.
fn look<S: Store>(
    view: &View<'_, S>,
    id: CollectionId,
    next: &[u8],
    to: Version,
) -> Result<Looked, StoreError> {
    let range = KeyRange { start: next.to_vec(), ..keys::log_range(id, Version::default(), to) };
    let mut found = Vec::new();
    let (mut bytes, mut next) = (0, None);
    view.scan(&range, Direction::Forward, &mut |key, value| {
        if found.len() == LOOK_ROWS_MAX || bytes >= LOOK_BYTES {
            next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        bytes += key.len() + value.len();
        found.push((key.to_vec(), value));
        ControlFlow::Continue(())
    })?;
    let rows = found.into_iter().map(|(place, value)| backup_row(view, id, &place, value));
    Ok(Looked { rows: rows.collect::<Result<_, _>>()?, next })
}

/// A log row with the time of its commit, which its key row knows.
fn backup_row<S: Store>(
    view: &View<'_, S>,
    id: CollectionId,
    place: &[u8],
    value: Bytes,
) -> Result<BackupRow, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged {
        place: format!("a log row of collection {}", id.0),
        reason: reason.to_owned(),
    };
    let Row::Log { version, key, row: log, .. } = Row::decode(place, value)? else {
        return Err(damaged("it is none"));
    };
    let key_row = view.get(&keys::key_key(id, &key))?;
    let key_row = KeyRow::decode(key_row.ok_or_else(|| damaged("its key has no row"))?)?;
    if key_row.version != version {
        return Err(damaged("its key is at another version"));
    }
    Ok(BackupRow { version, time: key_row.time, key, log })
}
