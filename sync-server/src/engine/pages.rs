//! Pages that many readers want: built once, shared by everybody who stands at the same cursor
//! of the same head. Bounded by bytes. While one reader builds a page, the others wait for it
//! instead of scanning too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, GuardResult};
use sync_proto::types::{Cursor, Delta, Head, Version};

use crate::core::page::PageLimits;
use crate::store::keys::CollectionId;

/// Bytes of pages that are kept.
const CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Pages of middling size that fit, for sizing the cache's tables.
const CACHE_PAGES: usize = 1_024;

/// What a page costs besides its changes.
const PAGE_OVERHEAD_BYTES: u64 = 512;

/// Pages that were read lately.
#[derive(Debug)]
pub struct PageCache {
    pages: Cache<PageKey, Arc<Page>, PageWeight>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What makes two readers want the same page. The id changes with every life of a collection,
/// and a page between two versions of one life never changes, but for the floor in its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageKey {
    id: CollectionId,
    from: Cursor,
    head: Version,
    floor: Version,
    limits: PageLimits,
}

/// A page and the bytes of its changes.
pub type Page = (Delta<Bytes>, usize);

#[derive(Debug, Clone)]
struct PageWeight;

// === impl PageCache ===

impl Default for PageCache {
    fn default() -> Self {
        let pages = Cache::with_weighter(CACHE_PAGES, CACHE_BYTES_MAX, PageWeight);
        Self { pages, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }
}

impl PageCache {
    /// The page of this key, built by `build` unless somebody has built it. What is not a page
    /// (`Err`) is not kept.
    pub fn get_or_build<E>(
        &self,
        key: &PageKey,
        build: impl FnOnce() -> Result<Page, E>,
    ) -> Result<Page, E> {
        match self.pages.get_value_or_guard(key, None) {
            GuardResult::Value(page) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Ok(Page::clone(&page))
            }
            GuardResult::Guard(place) => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                let page = build()?;
                // Refused only when the entry was removed meanwhile; then it is just not shared.
                let _kept = place.insert(Arc::new(page.clone()));
                Ok(page)
            }
            GuardResult::Timeout => build(),
        }
    }

    /// Counts pages that were there without being asked for here.
    pub(super) fn were_there(&self, pages: usize) {
        self.hits.fetch_add(pages as u64, Ordering::Relaxed);
    }

    /// How often a page was there, and how often it had to be built.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

// === impl PageKey ===

impl PageKey {
    /// The page behind `from` while the collection stands at `head`.
    #[must_use]
    pub fn new(id: CollectionId, from: Cursor, head: &Head, limits: PageLimits) -> Self {
        Self { id, from, head: head.version, floor: head.floor, limits }
    }
}

// === impl PageWeight ===

impl Weighter<PageKey, Arc<Page>> for PageWeight {
    fn weight(&self, _: &PageKey, page: &Arc<Page>) -> u64 {
        let (delta, bytes) = page.as_ref();
        let rows = u64::try_from(delta.changes.len()).unwrap_or(u64::MAX);
        PAGE_OVERHEAD_BYTES + rows * 64 + u64::try_from(*bytes).unwrap_or(u64::MAX)
    }
}
