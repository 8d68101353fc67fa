//! Pages for readers: decide (`core::read`), scan, cut (`core::page`). Every page is read from
//! one durable state, so its digest is the digest of exactly its last version.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sync_proto::types::{
    CollectionName, Cursor, Delta, Head, Outcome, Reset, ResetReason, Scope, Version,
};

use super::ledger::Ledger;
use super::pages::PageKey;
use super::scanning::{Count, Counted, Scan};
use super::view::View;
use crate::core::page::{Built, PageBuilder, PageLimits, View as Wanted};
use crate::core::read::{PageStart, ReadPlan, decide, reset};
use crate::core::route::LookLimits;
use crate::store::keys::CollectionId;
use crate::store::{Store, StoreError};

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
    /// Bounds of the work of one look.
    pub look: LookLimits,
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
        if let Some(reset) = self.too_large(asked, looks)? {
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
    /// to read. A first load never is. Takes its looks out of `looks`.
    pub fn too_large(
        &self,
        asked: &PageRequest<'_>,
        looks: &mut usize,
    ) -> Result<Option<Reset>, StoreError> {
        let (Some(most), Some(cursor)) = (asked.catch_up_max, asked.cursor) else {
            return Ok(None);
        };
        let few_keys = match asked.scope {
            Scope::Keys(keys) => u64::try_from(keys.len()).is_ok_and(|count| count <= most),
            Scope::All | Scope::KeyPrefix(_) | Scope::Order(_) => false,
        };
        if few_keys || !cursor.is_caught_up() {
            return Ok(None);
        }
        let mut count = Count::new(most, cursor.version);
        loop {
            let Some((id, meta, view)) = self.view(asked.collection) else { return Ok(None) };
            let head = meta.head;
            // Whatever else is to be said of the cursor comes first.
            let verify = asked.verify && asked.scope.is_all();
            let continues = matches!(decide(&head, Some(cursor), verify), ReadPlan::Page(_));
            if !continues || head.items + head.tombstones <= most {
                return Ok(None);
            }
            let scan = Scan { id, head: &head, view: &view, scope: asked.scope, look: asked.look };
            *looks = looks.saturating_sub(1);
            match count.look(&scan)? {
                Counted::Within => return Ok(None),
                Counted::Over => {
                    return Ok(Some(reset(ResetReason::TooLarge, head, asked.scope)));
                }
                Counted::GoOn => {}
            }
        }
    }

    /// What can be said without a look into the store.
    pub fn judge(&self, asked: &PageRequest<'_>) -> Outcome<Bytes> {
        let Some(head) = self.head(asked.collection) else { return Outcome::NotFound };
        match decide(&head, asked.cursor, asked.verify && asked.scope.is_all()) {
            ReadPlan::Aligned => Outcome::Aligned(head),
            ReadPlan::Reset(reason) => Outcome::Reset(reset(reason, head, asked.scope)),
            ReadPlan::Page(_) => Outcome::Deferred(Some(head)),
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
    let begin = || PageBuilder::new(start, wanted, asked.limits);
    let scan = Scan { id, head: &head, view, scope: asked.scope, look: asked.look };
    let (page, complete) = scan.fill(&start.from, asked.limits.changes_max, begin)?;
    Ok(match page.finish(head, complete) {
        Built::Page(delta, size) => Look::Answer(Outcome::Delta(delta), size),
        Built::NothingYet(covered) => Look::NothingYet(start.from.between_pages(covered)),
        Built::TooLarge => Look::Answer(Outcome::Deferred(Some(head)), 0),
    })
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
