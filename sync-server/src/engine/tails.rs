//! What live followers of a crowded collection are sent: read once and encoded once, before
//! anybody is woken ([`super::herald`]). A follower takes ready bytes, without a read, a thread or
//! an encoder of its own.
//!
//! ```text
//!   crowd is due ──► page from the end of the chain to the new head ─► crowd woken
//!                    chain:  [7→9] [9→10] [10→14]      its end: 14
//!   follower at 9, woken ─► takes 9→10 and 10→14 as they are
//!   follower at 8 (no joint), or far behind ─► reads a page of its own, and ends at a joint
//! ```
//! A page says what happened between two heads, so it stays true; whether a cursor may be continued
//! is judged by the head of the moment, as for any reader. The chain is a cache: without it the same
//! is read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sync_proto::types::{CollectionName, Cursor, Delta, Outcome, Scope, Version};

use super::ledger::Ledger;
use super::reading::{Look, PageRequest};
use crate::core::page::PageLimits;
use crate::core::read::{ReadPlan, decide};
use crate::core::route::LookLimits;
use crate::store::Store;

#[cfg(test)]
mod tests;

/// Listeners from which on a collection is crowded. Below, each reads for itself.
pub const CROWD_MIN: usize = 8;

/// Pages of one chain. Who is further behind is better served by one page in which what changed
/// again and again comes once.
const CHAIN_PAGES_MAX: usize = 32;

/// Bytes of one chain, and of all.
const CHAIN_BYTES_MAX: usize = 512 * 1024;
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a page costs besides its changes, and a chain besides its pages: names of crowds that have
/// gone are bounded with the rest.
const TAIL_OVERHEAD_BYTES: usize = 512;

/// The chains of all crowded collections.
#[derive(Debug, Default)]
pub(super) struct Tails {
    state: RwLock<State>,
    /// Held while a page for a chain is read.
    reading: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    chains: BTreeMap<CollectionName, Chain>,
    bytes: usize,
}

/// Pages of one collection, each beginning where the one before ends.
#[derive(Debug)]
struct Chain {
    end: Cursor,
    pages: VecDeque<Arc<Tail>>,
    bytes: usize,
}

/// What happened to a collection from one head to the next.
#[derive(Debug)]
pub struct Tail {
    /// Which collection.
    pub collection: CollectionName,
    /// All changes between the two, and the digest of the second.
    pub delta: Delta<Bytes>,
    message: OnceLock<Bytes>,
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Prepares what live followers of a collection are sent; to be called when a commit to it is
    /// durable, before they are woken. Of how many versions that tells, where it is known.
    pub fn prepare_tail(&self, name: &CollectionName, limits: PageLimits) -> u64 {
        let _alone = self.tails.reading.lock();
        let Some(head) = self.head(name) else {
            self.tails.forget(name);
            return 0;
        };
        let (end, now) = (self.tails.end(name), head.cursor());
        // What was announced may be a floor, or what has been prepared already.
        if end == Some(now) {
            return 0;
        }
        // Where a chain begins, most followers stand before the newest commit.
        let from = end.or_else(|| before(now));
        let page = from.and_then(|from| self.tail(name, from, limits));
        let versions = page.as_ref().map_or(0, Tail::versions);
        self.tails.extend(name, page, now);
        versions
    }

    /// Prepares the same before a follower reads a page of its own, if there is a chain: so what it
    /// reads ends at a joint, unless the head moves at that moment.
    pub(super) fn join_tail(&self, name: &CollectionName, limits: PageLimits) {
        if self.tails.end(name).is_some() {
            self.prepare_tail(name, limits);
        }
    }

    /// The pages from `from` to the head, if they are at hand. Reads nothing.
    pub(super) fn tails(&self, name: &CollectionName, from: Cursor) -> Option<Vec<Arc<Tail>>> {
        let head = self.head(name)?;
        let continues = matches!(decide(&head, Some(from), false), ReadPlan::Page(_));
        let tails = continues.then(|| self.tails.between(name, from, head.cursor())).flatten()?;
        self.pages.were_there(tails.len());
        Some(tails)
    }

    /// One page from `from` to the head; `None` = that is more than a page, or no matter of pages.
    pub fn tail(&self, name: &CollectionName, from: Cursor, limits: PageLimits) -> Option<Tail> {
        let asked = PageRequest {
            collection: name,
            cursor: Some(from),
            scope: &Scope::All,
            keys_only: false,
            verify: false,
            catch_up_max: None,
            limits,
            look: LookLimits::FULL,
        };
        match self.read_on(&asked) {
            // Nothing is not worth a message.
            Ok(Look::Answer(Outcome::Delta(delta), _))
                if !delta.has_more && !delta.changes.is_empty() =>
            {
                assert_eq!(delta.from, from, "a page begins where it was asked for");
                Some(Tail { collection: name.clone(), delta, message: OnceLock::new() })
            }
            Ok(_) => None,
            Err(error) => {
                // Whoever needs the page reads it, and hears of it.
                tracing::debug!(%error, "a page for live followers could not be read");
                None
            }
        }
    }
}

/// One version earlier, if there is one.
fn before(cursor: Cursor) -> Option<Cursor> {
    let version = Version::new(cursor.version.get().checked_sub(1)?).ok()?;
    (version != Version::ZERO).then_some(Cursor { version, ..cursor })
}

// === impl Tails ===

impl Tails {
    fn end(&self, name: &CollectionName) -> Option<Cursor> {
        self.state.read().chains.get(name).map(|chain| chain.end)
    }

    fn forget(&self, name: &CollectionName) {
        drop(self.state.write().forget(name));
    }

    /// Continues a chain by a page; without one, begins it anew at `end`.
    fn extend(&self, name: &CollectionName, page: Option<Tail>, end: Cursor) {
        let mut state = self.state.write();
        let before = state.forget(name).filter(|_| page.is_some());
        let mut chain = before.unwrap_or_else(|| Chain::at(end));
        if let Some(page) = page {
            chain.append(page);
        }
        if state.bytes + chain.bytes > ALL_BYTES_MAX {
            // Very many crowded collections: the others begin anew, at the cost of a read or two.
            *state = State::default();
        }
        state.bytes += chain.bytes;
        state.chains.insert(name.clone(), chain);
    }

    fn between(&self, name: &CollectionName, from: Cursor, to: Cursor) -> Option<Vec<Arc<Tail>>> {
        let state = self.state.read();
        let chain = state.chains.get(name).filter(|chain| chain.end == to)?;
        let first = chain.pages.iter().rposition(|page| page.delta.from == from)?;
        Some(chain.pages.range(first..).cloned().collect())
    }
}

// === impl State ===

impl State {
    fn forget(&mut self, name: &CollectionName) -> Option<Chain> {
        let chain = self.chains.remove(name)?;
        self.bytes -= chain.bytes;
        Some(chain)
    }
}

// === impl Chain ===

impl Chain {
    fn at(end: Cursor) -> Self {
        Self { end, pages: VecDeque::new(), bytes: TAIL_OVERHEAD_BYTES }
    }

    fn append(&mut self, page: Tail) {
        self.end = page.delta.to;
        self.bytes += page.size();
        self.pages.push_back(Arc::new(page));
        while self.is_too_long()
            && let Some(oldest) = self.pages.pop_front()
        {
            self.bytes -= oldest.size();
        }
    }

    /// The newest page stays, whatever its size.
    fn is_too_long(&self) -> bool {
        self.pages.len() > CHAIN_PAGES_MAX || (self.pages.len() > 1 && self.bytes > CHAIN_BYTES_MAX)
    }
}

// === impl Tail ===

impl Tail {
    /// The page as a message, encoded by whoever needs it first.
    pub fn message(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.message.get_or_init(|| encode(self)).clone()
    }

    /// So many versions it tells of.
    fn versions(&self) -> u64 {
        self.delta.to.version.get() - self.delta.from.version.get()
    }

    /// What it takes in memory, twice its changes: as they are and as a message.
    fn size(&self) -> usize {
        let changes: usize = self.delta.changes.iter().map(Bytes::len).sum();
        TAIL_OVERHEAD_BYTES + 2 * changes
    }
}
