//! Pages for readers: decide (`core::read`), scan, cut (`core::page`). Every page is read from
//! one durable state, so its digest is the digest of exactly its last version.

use std::ops::ControlFlow;

use bytes::Bytes;
use sync_proto::types::{
    CollectionName, Cursor, Head, Key, Malformed, Outcome, ResetReason, Scope, Version,
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
enum Look {
    Answer(Outcome<Bytes>, usize),
    NothingYet(Version),
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Answers a reader, with the size of the answer's changes in bytes. `Deferred`: the first
    /// version alone exceeds the limits and may not.
    pub fn page(&self, asked: &PageRequest<'_>) -> Result<(Outcome<Bytes>, usize), StoreError> {
        let mut cursor = asked.cursor;
        // What may be missing stays missing, also when a later look begins above the floor.
        let mut unverified = false;
        loop {
            let Some((id, meta, view)) = self.view(asked.collection) else {
                return Ok((Outcome::NotFound, 0));
            };
            let head = meta.head;
            let mut start = match decide(&head, cursor, asked.verify) {
                ReadPlan::Aligned if cursor == asked.cursor => {
                    return Ok((Outcome::Aligned(head), 0));
                }
                // Nothing in scope between the reader's cursor and the head, seen in several looks.
                ReadPlan::Aligned => PageStart { from: head.cursor(), unverified: false },
                ReadPlan::Reset(reason) => {
                    return Ok((Outcome::Reset(reset(reason, head, asked.scope)), 0));
                }
                ReadPlan::Page(start) => start,
            };
            unverified |= start.unverified;
            start.unverified = unverified;
            if cursor == asked.cursor && exceeds(asked, &start, id, &head, &view)? {
                let reset = reset(ResetReason::TooLarge, head, asked.scope);
                return Ok((Outcome::Reset(reset), 0));
            }
            match self.shared_look(asked, start, id, head, &view)? {
                Look::Answer(Outcome::Delta(mut delta), size) => {
                    // The page is about the cursor that the reader showed.
                    let from = asked.cursor.unwrap_or(delta.from);
                    delta.from = if asked.cursor.is_none() && cursor.is_some() {
                        Cursor { version: Version::ZERO, ..delta.from }
                    } else {
                        from
                    };
                    delta.initial = delta.from.is_loading();
                    return Ok((Outcome::Delta(delta), size));
                }
                Look::Answer(outcome, size) => return Ok((outcome, size)),
                Look::NothingYet(covered) => cursor = Some(start.from.between_pages(covered)),
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
            return look(asked, start, id, head, view);
        }
        let key = PageKey::new(id, start.from, &head, asked.limits);
        let page = self.pages.get_or_build(&key, || match look(asked, start, id, head, view) {
            Ok(Look::Answer(Outcome::Delta(delta), size)) => Ok((delta, size)),
            other => Err(Box::new(other)),
        });
        match page {
            Ok((delta, size)) => Ok(Look::Answer(Outcome::Delta(delta), size)),
            Err(other) => *other,
        }
    }
}

fn look<S: Store>(
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
        Built::NothingYet(covered) => Look::NothingYet(covered),
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
    let mut rows = 0;
    let mut complete = true;
    let mut broken = None;
    let range = log_range(id, after, head.version);
    view.scan(&range, Direction::Forward, &mut |key, value| {
        rows += 1;
        let offered = log_row(id, key, value).and_then(|(version, key, row)| {
            builder.offer(version, &key, row).map_err(|error| damaged(version, &error))
        });
        match offered {
            Ok(Offer::More) if rows < SCAN_ROWS_MAX => ControlFlow::Continue(()),
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

/// Whether the catch-up is more than the reader wants to read. A first load never is.
fn exceeds<S: Store>(
    asked: &PageRequest<'_>,
    start: &PageStart,
    id: CollectionId,
    head: &Head,
    view: &View<'_, S>,
) -> Result<bool, StoreError> {
    let Some(most) = asked.catch_up_max else { return Ok(false) };
    if start.from.is_loading() || head.items + head.tombstones <= most {
        return Ok(false);
    }
    let mut changes = 0;
    let range = log_range(id, start.from.version, head.version);
    view.scan(&range, Direction::Forward, &mut |key, value| {
        let in_scope = match Row::decode(key, value) {
            Ok(Row::Log { key, .. }) => asked.scope.contains(&key),
            // What cannot be read is reported by the page.
            Ok(_) | Err(_) => false,
        };
        changes += u64::from(in_scope);
        if changes > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(changes > most)
}

fn damaged(version: Version, error: &Malformed) -> StoreError {
    StoreError::Damaged {
        place: format!("the log at version {version}"),
        reason: error.to_string(),
    }
}
