//! Pages for readers: decide (`core::read`), scan, cut (`core::page`). Every page is read from
//! one durable state, so its digest is the digest of exactly its last version.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sync_proto::types::{
    CollectionName, Cursor, Delta, Head, Key, Malformed, Outcome, Reset, ResetReason, Scope,
    Version,
};

use super::ledger::Ledger;
use super::pages::PageKey;
use super::view::View;
use crate::core::page::{Built, Offer, PageBuilder, PageLimits, View as Wanted};
use crate::core::read::{PageStart, ReadPlan, decide, reset};
use crate::store::keys::{CollectionId, Row, key_key, log_key, log_range};
use crate::store::rows::{KeyRow, LogRow};
use crate::store::{Direction, Store, StoreError};

/// Rows that one look into the store passes at most: it bounds how long a batch may have to
/// wait for a reader. Above the mutations of one commit, so that every look gets on.
const SCAN_ROWS_MAX: usize = 10_000;

/// Likewise, in bytes. Above the largest version.
const SCAN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a reader asks of one collection.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// Which collection.
    pub collection: &'a CollectionName,
    /// Where the reader stands; `None` = from scratch.
    pub cursor: Option<Cursor>,
    /// Which part.
    pub scope: &'a Scope,
    /// Leave values out.
    pub keys_only: bool,
    /// Serve a cursor below the floor as an unverified delta.
    pub verify: bool,
    /// Most changes of the whole catch-up.
    pub catch_up_max: Option<u64>,
    /// Bounds of this page.
    pub limits: PageLimits,
}

/// What one look at the log found.
#[derive(Debug)]
pub enum Look {
    /// The answer, with the size of its changes in bytes. `Deferred`: the first version alone
    /// exceeds the limits and may not.
    Answer(Outcome<Bytes>, usize),
    /// Nothing in scope up to this cursor: look again from there. The reader is not told of it.
    NothingYet(Cursor),
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Answers a reader, with the size of the answer's changes in bytes, and takes its looks out
    /// of `looks`. Gives up with `Deferred` when nobody waits for the answer any more.
    pub fn page(
        &self,
        asked: &PageRequest<'_>,
        looks: &mut usize,
        cancelled: &AtomicBool,
    ) -> Result<(Outcome<Bytes>, usize), StoreError> {
        if let Some(reset) = self.too_large(asked)? {
            return Ok((Outcome::Reset(reset), 0));
        }
        let mut at = asked.clone();
        loop {
            *looks = looks.saturating_sub(1);
            match self.read_on(&at)? {
                // Created anew between two looks; this reader had nothing of it.
                Look::Answer(Outcome::Reset(_), _) if asked.cursor.is_none() => at.cursor = None,
                Look::Answer(Outcome::Delta(delta), size) => {
                    return Ok((Outcome::Delta(told_from(asked.cursor, delta)), size));
                }
                Look::Answer(outcome, size) => return Ok((outcome, size)),
                Look::NothingYet(_) if cancelled.load(Ordering::Relaxed) => {
                    return Ok((Outcome::Deferred(None), 0));
                }
                Look::NothingYet(covered) => at.cursor = Some(covered),
            }
        }
    }

    /// Looks once: bounded work, from one durable state.
    pub fn read_on(&self, asked: &PageRequest<'_>) -> Result<Look, StoreError> {
        let Some((id, meta, view)) = self.view(asked.collection) else {
            return Ok(Look::Answer(Outcome::NotFound, 0));
        };
        let head = meta.head;
        // A part of a collection has no digest to verify by.
        let verify = asked.verify && asked.scope.is_all();
        match decide(&head, asked.cursor, verify) {
            ReadPlan::Aligned => Ok(Look::Answer(Outcome::Aligned(head), 0)),
            ReadPlan::Reset(reason) => {
                Ok(Look::Answer(Outcome::Reset(reset(reason, head, asked.scope)), 0))
            }
            ReadPlan::Page(start) => self.shared_look(asked, start, id, head, &view),
        }
    }

    /// Judges a catch-up, once, where it begins: the reset, if it is more than the reader wants
    /// to read. A first load never is.
    pub fn too_large(&self, asked: &PageRequest<'_>) -> Result<Option<Reset>, StoreError> {
        let (Some(most), Some(cursor)) = (asked.catch_up_max, asked.cursor) else {
            return Ok(None);
        };
        let few_keys = match asked.scope {
            Scope::Keys(keys) => u64::try_from(keys.len()).is_ok_and(|count| count <= most),
            Scope::All | Scope::KeyPrefix(_) => false,
        };
        if few_keys || !cursor.is_caught_up() {
            return Ok(None);
        }
        let mut count = Count { most, changes: 0, after: cursor.version };
        loop {
            let Some((id, meta, view)) = self.view(asked.collection) else { return Ok(None) };
            let head = meta.head;
            // Whatever else is to be said of the cursor comes first.
            let verify = asked.verify && asked.scope.is_all();
            let continues = matches!(decide(&head, Some(cursor), verify), ReadPlan::Page(_));
            if !continues || head.items + head.tombstones <= most {
                return Ok(None);
            }
            let complete = count.look(asked.scope, id, &head, &view)?;
            if count.changes > most {
                return Ok(Some(reset(ResetReason::TooLarge, head, asked.scope)));
            }
            if complete {
                return Ok(None);
            }
        }
    }

    /// Looks, or takes the page that another reader at the same place has built.
    fn shared_look(
        &self,
        asked: &PageRequest<'_>,
        start: PageStart,
        id: CollectionId,
        head: Head,
        view: &View<'_, S>,
    ) -> Result<Look, StoreError> {
        let common = asked.scope.is_all() && !asked.keys_only && !start.unverified;
        if !common {
            return read_page(asked, start, id, head, view);
        }
        let key = PageKey::new(id, start.from, &head, asked.limits);
        let page =
            self.pages.get_or_build(&key, || match read_page(asked, start, id, head, view) {
                Ok(Look::Answer(Outcome::Delta(delta), size)) => Ok((delta, size)),
                other => Err(Box::new(other)),
            });
        match page {
            Ok((delta, size)) => Ok(Look::Answer(Outcome::Delta(delta), size)),
            Err(other) => *other,
        }
    }
}

fn read_page<S: Store>(
    asked: &PageRequest<'_>,
    start: PageStart,
    id: CollectionId,
    head: Head,
    view: &View<'_, S>,
) -> Result<Look, StoreError> {
    let wanted = Wanted { scope: asked.scope, keys_only: asked.keys_only };
    let mut builder = PageBuilder::new(start, wanted, asked.limits);
    let complete = match asked.scope {
        Scope::All | Scope::KeyPrefix(_) => {
            offer_log(&mut builder, start.from.version, id, &head, view)?
        }
        Scope::Keys(keys) => offer_keys(&mut builder, keys, start.from.version, id, view)?,
    };
    Ok(match builder.finish(head, complete) {
        Built::Page(delta, size) => Look::Answer(Outcome::Delta(delta), size),
        Built::NothingYet(covered) => Look::NothingYet(start.from.between_pages(covered)),
        Built::TooLarge => Look::Answer(Outcome::Deferred(Some(head)), 0),
    })
}

/// Offers log rows until the page is full; says whether the head was reached.
fn offer_log<S: Store>(
    builder: &mut PageBuilder<'_>,
    after: Version,
    id: CollectionId,
    head: &Head,
    view: &View<'_, S>,
) -> Result<bool, StoreError> {
    let mut budget = ScanBudget::default();
    let mut complete = true;
    let mut broken = None;
    let range = log_range(id, after, head.version);
    view.scan(&range, Direction::Forward, &mut |key, value| {
        let spent = budget.spend(value.len());
        let offered = log_row(id, key, value).and_then(|(version, key, row)| {
            builder.offer(version, &key, row).map_err(|error| damaged(version, &error))
        });
        match offered {
            Ok(Offer::More) if !spent => ControlFlow::Continue(()),
            Ok(Offer::More | Offer::Full) => {
                complete = false;
                ControlFlow::Break(())
            }
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    broken.map_or(Ok(complete), Err)
}

fn log_row(
    id: CollectionId,
    key: &[u8],
    value: Bytes,
) -> Result<(Version, Key, LogRow), StoreError> {
    if let Row::Log { version, key, row, .. } = Row::decode(key, value)? {
        return Ok((version, key, row));
    }
    Err(StoreError::Damaged {
        place: format!("the log of collection {}", id.0),
        reason: "holds a row that is not a log row".to_owned(),
    })
}

/// Offers the rows of single keys: cheaper than the log when the reader wants a few.
fn offer_keys<S: Store>(
    builder: &mut PageBuilder<'_>,
    keys: &[Key],
    after: Version,
    id: CollectionId,
    view: &View<'_, S>,
) -> Result<bool, StoreError> {
    let mut places = Vec::new();
    for key in keys {
        if let Some(row) = view.get(&key_key(id, key))? {
            let row = KeyRow::decode(row)?;
            if row.version > after {
                places.push((row.version, key));
            }
        }
    }
    places.sort_unstable();
    for (version, key) in places {
        let row = view.get(&log_key(id, version, key))?.ok_or_else(|| StoreError::Damaged {
            place: format!("collection {}, version {version}", id.0),
            reason: "a key points to a log row that is not there".to_owned(),
        })?;
        let offer = builder
            .offer(version, key, LogRow::decode(row)?)
            .map_err(|error| damaged(version, &error))?;
        if offer == Offer::Full {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The delta as the reader is told of it: from where it stands, not from where the last look
/// began.
#[must_use]
pub fn told_from(told: Option<Cursor>, mut delta: Delta<Bytes>) -> Delta<Bytes> {
    let began = delta.from;
    delta.from = told.unwrap_or(Cursor {
        version: Version::ZERO,
        base: began.base.max(began.version),
        ..began
    });
    delta.initial = delta.from.is_loading();
    delta
}

/// Counts what a catch-up would bring.
struct Count {
    most: u64,
    changes: u64,
    after: Version,
}

impl Count {
    /// Counts on; says whether the head was reached.
    fn look<S: Store>(
        &mut self,
        scope: &Scope,
        id: CollectionId,
        head: &Head,
        view: &View<'_, S>,
    ) -> Result<bool, StoreError> {
        let mut budget = ScanBudget::default();
        let mut complete = true;
        let range = log_range(id, self.after, head.version);
        view.scan(&range, Direction::Forward, &mut |key, value| {
            let size = value.len();
            // What cannot be read is reported by the page.
            if let Ok((version, key, _)) = log_row(id, key, value) {
                // A look that ends inside of a version passes over the rest of it: it is small,
                // and the reader asked for about so many.
                self.after = version;
                self.changes += u64::from(scope.contains(&key));
            }
            if self.changes > self.most || budget.spend(size) {
                complete = false;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(complete)
    }
}

/// How much one look may still pass.
#[derive(Default)]
struct ScanBudget {
    rows: usize,
    bytes: usize,
}

impl ScanBudget {
    /// Takes a row into account; says whether the look must end.
    fn spend(&mut self, bytes: usize) -> bool {
        self.rows += 1;
        self.bytes += bytes;
        self.rows >= SCAN_ROWS_MAX || self.bytes >= SCAN_BYTES_MAX
    }
}

fn damaged(version: Version, error: &Malformed) -> StoreError {
    StoreError::Damaged {
        place: format!("the log at version {version}"),
        reason: error.to_string(),
    }
}
