//! How a window lists its rows: anew from where it begins, or more of them behind its end. Pure.

use std::time::Instant;

use bytes::Bytes;
use sync_proto::limits::LIST_PAGE_MAX;
use sync_proto::types::{Head, ListItems, ListOrder, OrderRange, Version};

use super::machine::{Action, AskId, Fault, Held, Listed, Machine, Standing, WindowStart};
use super::rows::{Row, Rows, Span};

/// A listing under way.
#[derive(Debug)]
pub(super) struct Listing {
    /// The question that waits for its answer; `None` = it failed, and is asked again.
    ask: Option<AskId>,
    purpose: Purpose,
    within: OrderRange,
    wanted: usize,
    token: Bytes,
    /// Items still to be passed over.
    skip: u64,
    rows: Vec<Row>,
    /// Of the first page: whatever changed since comes by the stream.
    first: Option<Head>,
    newest: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// The rows of this move, in place of those that are there.
    Fresh { anchor: WindowStart, moves: u64 },
    /// Rows behind the last.
    More,
}

// === impl Machine ===

impl Machine {
    /// Lists from where the window begins; what is there stays until the answer is complete.
    pub(super) fn list_fresh(&mut self) {
        let anchor = self.wish.start.clone();
        self.list_from(anchor);
    }

    /// The rows cannot be continued. Never at once: a server that resets what it has just listed
    /// would be asked without end.
    pub(super) fn list_fresh_later(&mut self, now: Instant) {
        self.lost_since.get_or_insert(now);
        self.begin_fresh(self.wish.start.clone());
        self.list_at = Some(now + self.line_wait());
    }

    /// Whether the rows are being listed anew: until then nothing is kept up.
    pub(super) fn lists_fresh(&self) -> bool {
        self.listing.as_ref().is_some_and(|listing| listing.purpose != Purpose::More)
    }

    fn list_from(&mut self, anchor: WindowStart) {
        self.begin_fresh(anchor);
        self.ask_again();
    }

    fn begin_fresh(&mut self, anchor: WindowStart) {
        self.close();
        self.standing = Standing::There;
        self.list_at = None;
        let (first, skip) = match &anchor {
            WindowStart::Rank(rank) => (None, *rank),
            WindowStart::Place(place) => (Some(place), 0),
        };
        let within = Span::from(first, self.config.descending).range();
        let wanted = self.rows_wanted() + self.reserve();
        let purpose = Purpose::Fresh { anchor, moves: self.wish.moves };
        self.listing = Some(Listing::new(purpose, within, wanted, skip));
    }

    /// Lists what stands behind the last row.
    pub(super) fn list_more(&mut self) {
        let Some(held) = &mut self.held else { return };
        let Some(within) = held.span.rest() else {
            held.span.end_with(None);
            return;
        };
        let missing = self.rows_wanted() + self.reserve();
        let missing = missing.saturating_sub(self.held.as_ref().map_or(0, |held| held.rows.len()));
        self.listing = Some(Listing::new(Purpose::More, within, missing.max(1), 0));
        self.ask_again();
    }

    /// Asks for the next page of what is being listed.
    pub(super) fn ask_again(&mut self) {
        if self.standing == Standing::Denied && self.listing.is_none() {
            self.list_fresh();
            return;
        }
        let id = self.ask();
        let (collection, descending) = (self.config.collection.clone(), self.config.descending);
        let Some(listing) = &mut self.listing else { return };
        listing.ask = Some(id);
        let left = listing.wanted.saturating_sub(listing.rows.len());
        let list = ListItems {
            collection,
            order: ListOrder::SortKey,
            descending,
            page_size: left.clamp(1, LIST_PAGE_MAX),
            page_token: listing.token.clone(),
            keys_only: true,
            key_prefix: Bytes::new(),
            stretch: listing.within.clone(),
            skip: listing.skip,
        };
        self.push(Action::List(id, list));
    }

    pub(super) fn on_listed(&mut self, id: AskId, answer: Result<Listed, Fault>, now: Instant) {
        // An answer to a question of a listing that was given up says nothing.
        let waits = |listing: &mut Listing| listing.ask == Some(id);
        let Some(mut listing) = self.listing.take_if(waits) else { return };
        listing.ask = None;
        match answer {
            Ok(page) => self.on_page(listing, page, now),
            Err(Fault::Absent) => self.vanish(),
            Err(Fault::Denied) => self.deny(now),
            Err(Fault::Unauthenticated) => self.not_known(now),
            Err(Fault::BeginAgain) => self.list_fresh_later(now),
            Err(Fault::Passing) => {
                // The rows that are there may be kept up all the same.
                if listing.purpose != Purpose::More {
                    self.lost_since.get_or_insert(now);
                }
                self.listing = Some(listing);
                self.list_at = Some(now + self.list_backoff.next(&mut self.dice));
            }
        }
    }

    fn on_page(&mut self, mut listing: Listing, page: Listed, now: Instant) {
        let first = *listing.first.get_or_insert(page.head);
        let known = match listing.purpose {
            Purpose::Fresh { .. } => first.epoch,
            Purpose::More => self.held.as_ref().map_or(first.epoch, |held| held.cursor.epoch),
        };
        if page.head.epoch != known {
            self.list_fresh_later(now);
            return;
        }
        listing.newest = listing.newest.max(page.head.version);
        listing.skip = listing.skip.saturating_sub(page.skipped);
        // What was not asked for is not taken.
        let rows = page.items.into_iter().map(Row::of);
        let within = &listing.within;
        listing.rows.extend(rows.filter(|row| within.contains(&row.sort_key, &row.key)));
        match page.next {
            Some(next) if listing.skip > 0 || listing.rows.len() < listing.wanted => {
                listing.token = next;
                self.listing = Some(listing);
                self.ask_again();
            }
            next => {
                self.list_backoff.reset();
                self.finish(listing, first, next.is_none());
            }
        }
    }

    fn finish(&mut self, listing: Listing, first: Head, ends: bool) {
        let mut rows = Rows::default();
        let Listing { purpose, newest, .. } = listing;
        listing.rows.into_iter().for_each(|row| rows.put(row));
        match purpose {
            Purpose::Fresh { anchor, moves } => {
                self.finish_fresh(rows, (first, newest), (anchor, moves), ends);
            }
            Purpose::More => {
                let Some(held) = &mut self.held else { return };
                // From the older of the two states; the stream that is opened next goes on to a
                // head that neither of them is ahead of.
                if first.version < held.cursor.version {
                    held.cursor = first.cursor();
                }
                held.caught_up = false;
                let last = rows.last(self.config.descending).filter(|_| !ends);
                held.span.end_with(last);
                rows.into_rows().for_each(|row| held.rows.put(row));
                self.close();
            }
        }
    }

    fn finish_fresh(
        &mut self,
        rows: Rows,
        (first, newest): (Head, Version),
        (anchor, moves): (WindowStart, u64),
        ends: bool,
    ) {
        let descending = self.config.descending;
        let begins = match &anchor {
            WindowStart::Rank(0) => None,
            WindowStart::Rank(rank) => {
                let Some(row) = rows.iter(descending).next() else {
                    // The list has become shorter than that: its last rows.
                    let wanted = u64::try_from(self.rows_wanted()).unwrap_or(u64::MAX);
                    let last = first.items.saturating_sub(wanted).min(rank / 2);
                    self.list_from(WindowStart::Rank(last));
                    return;
                };
                Some(row.place())
            }
            WindowStart::Place(place) => Some(place.clone()),
        };
        let mut span = Span::from(begins.as_ref(), descending);
        span.end_with(rows.last(descending).filter(|_| !ends));
        self.lost_since = None;
        self.replace(Held {
            moves,
            rows,
            span,
            cursor: first.cursor(),
            // Pages of one head are what was there, although nothing was heard of what came later.
            caught_up: first.version == newest,
            rank: match anchor {
                WindowStart::Rank(rank) => Some(rank),
                WindowStart::Place(_) => None,
            },
            total: first.items,
        });
    }
}

// === impl Listing ===

impl Listing {
    fn new(purpose: Purpose, within: OrderRange, wanted: usize, skip: u64) -> Self {
        Self {
            ask: None,
            purpose,
            within,
            wanted,
            token: Bytes::new(),
            skip,
            rows: Vec::new(),
            first: None,
            newest: Version::ZERO,
        }
    }
}
