//! What one look at a collection passes: the log behind a cursor, or the rows of the index that
//! lead to what is in scope. Which of the two is decided in `core::route`. The work of a look is bounded; the engine
//! looks again from where it ended.

use std::ops::ControlFlow;

use bytes::Bytes;
use sync_proto::types::{Cursor, Head, Key, Malformed, OrderRange, Scope, Version};

use super::items::together;
use super::view::View;
use crate::core::page::{Offer, PageBuilder};
use crate::core::route::{LookLimits, Route, Trial, route};
use crate::store::keys::{
    CollectionId, Row, key_key, key_range, log_key, log_range, stretch_range,
};
use crate::store::rows::{KeyRow, LogRow};
use crate::store::{Direction, Store, StoreError};

/// A collection in one durable state, and which part of it a reader wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a, S> {
    pub(super) id: CollectionId,
    pub(super) head: &'a Head,
    pub(super) view: &'a View<'a, S>,
    pub(super) scope: &'a Scope,
    pub(super) look: LookLimits,
}

/// Counts what a catch-up would bring, over several looks.
#[derive(Debug)]
pub(super) struct Count {
    most: u64,
    /// Changes of the versions up to `after`.
    changes: u64,
    after: Version,
    /// The head of the first look. What moves behind it meanwhile is not counted, so nothing is
    /// counted twice.
    until: Option<Version>,
}

/// What a count has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// No more than allowed.
    Within,
    /// More than allowed.
    Over,
    /// Not known yet: look again.
    GoOn,
}

/// Where a change is, and how large its value is.
type Place = (Version, Key, u32);

/// How a way through the log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At the last row.
    Head,
    /// Nothing more was wanted.
    Full,
    /// The look may not cost more.
    Spent,
}

/// How much one look may still pass.
struct Budget {
    rows: usize,
    bytes: usize,
}

// === impl Scan ===

impl<S: Store> Scan<'_, S> {
    /// Offers what concerns a reader that stands at `from` to a page that `begin` makes; says
    /// whether everything up to the head was offered.
    pub(super) fn fill<'p>(
        &self,
        from: &Cursor,
        wanted: usize,
        begin: impl Fn() -> PageBuilder<'p>,
    ) -> Result<(PageBuilder<'p>, bool), StoreError> {
        let after = from.version;
        if let Some(to) = self.indexed(from) {
            let mut page = begin();
            let (end, rows) = self.offer_log(&mut page, after, self.look.trial_rows)?;
            if end != End::Spent {
                return Ok((page, end == End::Head));
            }
            let trial = Trial { rows, found: page.changes() };
            if let Some(places) = self.places(after, to, trial, wanted)? {
                let mut page = begin();
                let all = self.offer_places(&mut page, &places)?;
                if all {
                    page.cover(to);
                }
                return Ok((page, all && to == self.head.version));
            }
        }
        let mut page = begin();
        let (end, _) = self.offer_log(&mut page, after, self.look.rows_max)?;
        Ok((page, end == End::Head))
    }

    /// Up to which version an index tells everything that concerns a reader that stands at `from`;
    /// `None`: there is none.
    fn indexed(&self, from: &Cursor) -> Option<Version> {
        match self.scope {
            Scope::All => None,
            Scope::KeyPrefix(_) | Scope::Keys(_) => Some(self.head.version),
            // What has moved since the load began concerns the reader wherever it stands now.
            Scope::Order(_) => from.is_loading().then_some(from.base),
        }
    }

    /// Offers log rows until the page is full; says how many.
    fn offer_log(
        &self,
        page: &mut PageBuilder<'_>,
        after: Version,
        rows_max: usize,
    ) -> Result<(End, usize), StoreError> {
        self.log(after, self.head.version, rows_max, |version, key, row| {
            page.offer(version, &key, row).map_err(|error| damaged(version, &error))
        })
    }

    /// Shows log rows of the versions above `after` and up to `to` until `visit` has enough.
    fn log(
        &self,
        after: Version,
        to: Version,
        rows_max: usize,
        mut visit: impl FnMut(Version, Key, LogRow) -> Result<Offer, StoreError>,
    ) -> Result<(End, usize), StoreError> {
        let mut budget = Budget::new(rows_max, self.look.bytes_max);
        let mut end = Ok(End::Head);
        let range = log_range(self.id, after, to);
        self.view.scan(&range, Direction::Forward, &mut |key, value| {
            let spent = budget.spend(value.len());
            let offered = log_row(self.id, key, value)
                .and_then(|(version, key, row)| visit(version, key, row));
            end = match offered {
                Ok(Offer::More) if !spent => return ControlFlow::Continue(()),
                Ok(Offer::More) => Ok(End::Spent),
                Ok(Offer::Full) => Ok(End::Full),
                Err(error) => Err(error),
            };
            ControlFlow::Break(())
        })?;
        Ok((end?, rows_max - budget.rows))
    }

    /// Where the changes in scope of the versions above `after` and up to `to` are, in version
    /// order; `None`: the log is the better way to them.
    fn places(
        &self,
        after: Version,
        to: Version,
        trial: Trial,
        wanted: usize,
    ) -> Result<Option<Vec<Place>>, StoreError> {
        let Route::Index { rows_max } = route(self.scope, trial, wanted, self.head, &self.look)
        else {
            return Ok(None);
        };
        let mut places = Vec::new();
        let mut take = |row: &KeyRow, key| {
            if row.version > after && row.version <= to {
                places.push((row.version, key, row.value_len));
            }
        };
        match self.scope {
            Scope::All => return Ok(None),
            Scope::KeyPrefix(prefix) => {
                if !self.key_rows(prefix, rows_max, &mut take)? {
                    return Ok(None);
                }
            }
            Scope::Keys(keys) => {
                for (key, row) in keys.iter().zip(self.rows_of(keys.iter())?) {
                    if let Some(row) = row {
                        take(&KeyRow::decode(row)?, key.clone());
                    }
                }
            }
            Scope::Order(stretch) => {
                let Some(keys) = self.order_rows(stretch, rows_max)? else { return Ok(None) };
                let rows = self.rows_of(keys.iter())?;
                for (key, row) in keys.into_iter().zip(rows) {
                    let row = row.ok_or_else(|| StoreError::Damaged {
                        place: format!("the list order of collection {}", self.id.0),
                        reason: "names a key that is not there".to_owned(),
                    })?;
                    take(&KeyRow::decode(row)?, key);
                }
            }
        }
        places.sort_unstable();
        Ok(Some(places))
    }

    /// Shows the keys under a prefix; false: there are more than so many.
    fn key_rows(
        &self,
        prefix: &[u8],
        rows_max: usize,
        take: &mut impl FnMut(&KeyRow, Key),
    ) -> Result<bool, StoreError> {
        let mut budget = Budget::new(rows_max, self.look.bytes_max);
        let mut all = Ok(true);
        let range = key_range(self.id, prefix);
        self.view.scan(&range, Direction::Forward, &mut |place, value| {
            if budget.is_spent() {
                all = Ok(false);
                return ControlFlow::Break(());
            }
            budget.spend(place.len() + value.len());
            match Row::decode(place, value) {
                Ok(Row::Key { key, row, .. }) => {
                    take(&row, key);
                    return ControlFlow::Continue(());
                }
                Ok(_) => all = Err(foreign("the keys", self.id)),
                Err(error) => all = Err(error),
            }
            ControlFlow::Break(())
        })?;
        all
    }

    /// The keys that stand in a stretch; `None`: there are more than so many.
    fn order_rows(
        &self,
        stretch: &OrderRange,
        rows_max: usize,
    ) -> Result<Option<Vec<Key>>, StoreError> {
        let mut budget = Budget::new(rows_max, self.look.bytes_max);
        let mut keys = Some(Vec::new());
        let mut broken = None;
        let range = stretch_range(self.id, stretch);
        self.view.scan(&range, Direction::Forward, &mut |place, value| {
            if budget.is_spent() {
                keys = None;
                return ControlFlow::Break(());
            }
            budget.spend(place.len() + value.len());
            match Row::decode(place, value) {
                Ok(Row::Order { key, .. }) => {
                    if let Some(keys) = &mut keys {
                        keys.push(key);
                    }
                    return ControlFlow::Continue(());
                }
                Ok(_) => broken = Some(foreign("the list order", self.id)),
                Err(error) => broken = Some(error),
            }
            ControlFlow::Break(())
        })?;
        broken.map_or(Ok(keys), Err)
    }

    /// Offers the rows at these places until the page is full; says whether all were offered.
    fn offer_places(
        &self,
        page: &mut PageBuilder<'_>,
        mut places: &[Place],
    ) -> Result<bool, StoreError> {
        while !places.is_empty() {
            let (next, rest) = places.split_at(together(places.iter().map(|place| place.2)));
            places = rest;
            let log = |(version, key, _): &Place| log_key(self.id, *version, key);
            let rows = self.view.get_many(&next.iter().map(log).collect::<Vec<_>>())?;
            for ((version, key, _), row) in next.iter().zip(rows) {
                let row = row.ok_or_else(|| StoreError::Damaged {
                    place: format!("collection {}, version {version}", self.id.0),
                    reason: "a key points to a log row that is not there".to_owned(),
                })?;
                let offer = page
                    .offer(*version, key, LogRow::decode(row)?)
                    .map_err(|error| damaged(*version, &error))?;
                if offer == Offer::Full {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What lies at these keys, in their order.
    fn rows_of<'k>(
        &self,
        keys: impl Iterator<Item = &'k Key>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let places: Vec<_> = keys.map(|key| key_key(self.id, key)).collect();
        self.view.get_many(&places)
    }
}

// === impl Count ===

impl Count {
    /// Nothing is counted yet, of what lies behind `after`.
    pub(super) fn new(most: u64, after: Version) -> Self {
        Self { most, changes: 0, after, until: None }
    }

    /// Looks once.
    pub(super) fn look<S: Store>(&mut self, scan: &Scan<'_, S>) -> Result<Counted, StoreError> {
        let until = *self.until.get_or_insert(scan.head.version);
        if scan.indexed(&self.at(scan)).is_some() {
            let (counted, trial) = self.count_log(scan, until, scan.look.trial_rows)?;
            if counted != Counted::GoOn {
                return Ok(counted);
            }
            let wanted = self.most.saturating_sub(self.changes).saturating_add(1);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            if let Some(places) = scan.places(self.after, until, trial, wanted)? {
                let found = u64::try_from(places.len()).unwrap_or(u64::MAX);
                let over = self.changes.saturating_add(found) > self.most;
                return Ok(if over { Counted::Over } else { Counted::Within });
            }
        }
        self.count_log(scan, until, scan.look.rows_max).map(|(counted, _)| counted)
    }

    /// Where the reader counts as standing; not in a load, which is never judged.
    fn at<S>(&self, scan: &Scan<'_, S>) -> Cursor {
        Cursor::at(scan.head.epoch, self.after)
    }

    /// Counts in the log, and remembers how far it has come.
    fn count_log<S: Store>(
        &mut self,
        scan: &Scan<'_, S>,
        until: Version,
        rows_max: usize,
    ) -> Result<(Counted, Trial), StoreError> {
        let mut changes = self.changes;
        let mut whole = (self.after, self.changes);
        let mut open = self.after;
        let (end, rows) = scan.log(self.after, until, rows_max, |version, key, _| {
            if open != version {
                whole = (open, changes);
                open = version;
            }
            changes += u64::from(scan.scope.may_contain(&key));
            Ok(if changes > self.most { Offer::Full } else { Offer::More })
        })?;
        let found = usize::try_from(changes - self.changes).unwrap_or(usize::MAX);
        // The rest of the version in which the budget ended is counted by the next look.
        (self.after, self.changes) = whole;
        let counted = match end {
            End::Head => Counted::Within,
            End::Full => Counted::Over,
            End::Spent => Counted::GoOn,
        };
        Ok((counted, Trial { rows, found }))
    }
}

// === impl Budget ===

impl Budget {
    fn new(rows: usize, bytes: usize) -> Self {
        Self { rows, bytes }
    }

    /// Takes a row into account; says whether the look must end.
    fn spend(&mut self, bytes: usize) -> bool {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.is_spent()
    }

    fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}

fn log_row(
    id: CollectionId,
    key: &[u8],
    value: Bytes,
) -> Result<(Version, Key, LogRow), StoreError> {
    if let Row::Log { version, key, row, .. } = Row::decode(key, value)? {
        return Ok((version, key, row));
    }
    Err(foreign("the log", id))
}

fn foreign(place: &str, id: CollectionId) -> StoreError {
    StoreError::Damaged {
        place: format!("{place} of collection {}", id.0),
        reason: "holds a row of another kind".to_owned(),
    }
}

fn damaged(version: Version, error: &Malformed) -> StoreError {
    StoreError::Damaged {
        place: format!("the log at version {version}"),
        reason: error.to_string(),
    }
}
