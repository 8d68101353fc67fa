//! Cutting the log into pages. Pure. A page is bounded by bytes and by count, cut only between
//! versions, and its cursor is the last version that it covers. A version that alone exceeds the
//! bounds is sent whole: commits are bounded so that this fits into a message.

use bytes::Bytes;
use sync_proto::convert::{decode_change, encode_change};
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX};
use sync_proto::types::{Change, ChangeKind, Delta, Head, Key, Malformed, Scope, SortKey, Version};

use super::read::PageStart;
use crate::store::rows::{LogRow, RowKind};

#[cfg(test)]
mod tests;

/// Bounds of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageLimits {
    /// Most changes.
    pub changes_max: usize,
    /// Most bytes of changes.
    pub bytes_max: usize,
    /// Most bytes of the first version, which is never split: it may exceed the other bounds up
    /// to here, so that every page gets on.
    pub first_version_bytes_max: usize,
}

/// What a reader wants to see.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Which part.
    pub scope: &'a Scope,
    /// Leave values out.
    pub keys_only: bool,
}

/// A page under construction. Rows are offered in version order.
#[derive(Debug)]
pub struct PageBuilder<'a> {
    start: PageStart,
    view: View<'a>,
    limits: PageLimits,
    changes: Vec<Bytes>,
    bytes: usize,
    /// Every version up to this one is wholly in the page.
    covered: Version,
    /// The version whose rows are being offered, with how much of the page came before it.
    open: Option<OpenVersion>,
}

#[derive(Debug, Clone, Copy)]
struct OpenVersion {
    version: Version,
    changes_before: usize,
    bytes_before: usize,
}

/// Whether a page takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Offer the next row.
    More,
    /// The page is full; it ends before the row that was offered.
    Full,
}

/// What a row is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Nothing: it cannot have been in its copy, and does not belong there.
    Foreign,
    /// What it says.
    Whole,
    /// The same, but the reader has the value already or does not want it.
    WithoutValue,
    /// An item outside of the stretch, where the reader may have it from before.
    Left,
}

/// A page that is built.
#[derive(Debug, PartialEq, Eq)]
pub enum Built {
    /// The page, with its size in bytes.
    Page(Delta<Bytes>, usize),
    /// Nothing in scope up to this version, which is not the head yet.
    NothingYet(Version),
    /// The first version alone exceeds the bounds and may not.
    TooLarge,
}

// === impl PageLimits ===

impl PageLimits {
    /// The bounds of the protocol, for a page by itself.
    pub const FULL: Self = Self {
        changes_max: PAGE_CHANGES_MAX,
        bytes_max: PAGE_BYTES_MAX,
        first_version_bytes_max: usize::MAX,
    };
}

// === impl PageBuilder ===

impl<'a> PageBuilder<'a> {
    /// An empty page.
    #[must_use]
    pub fn new(start: PageStart, view: View<'a>, limits: PageLimits) -> Self {
        Self {
            start,
            view,
            limits,
            changes: Vec::new(),
            bytes: 0,
            covered: start.from.version,
            open: None,
        }
    }

    /// Offers the row of `key` at `version`.
    pub fn offer(&mut self, version: Version, key: &Key, row: LogRow) -> Result<Offer, Malformed> {
        assert!(version > self.covered, "rows are offered in version order, behind the cursor");
        self.begin(version);
        let Some(change) = outgoing(self.part(version, key, &row)?, row)? else {
            return Ok(Offer::More);
        };
        self.bytes += change.len();
        self.changes.push(change);
        let open = self.open.expect("begin() opened the version");
        let over =
            self.changes.len() > self.limits.changes_max || self.bytes > self.limits.bytes_max;
        let first = open.changes_before == 0;
        if over && (!first || self.bytes > self.limits.first_version_bytes_max) {
            self.changes.truncate(open.changes_before);
            self.bytes = open.bytes_before;
            self.open = None;
            return Ok(Offer::Full);
        }
        Ok(Offer::More)
    }

    /// How many changes are in it so far.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// Says that every row of the versions up to `version` was offered.
    pub fn cover(&mut self, version: Version) {
        if version > self.covered {
            self.covered = version;
            self.open = None;
        }
    }

    /// Ends the page. `complete`: every row up to the head was offered. Otherwise the rows of
    /// the version offered last may be missing some, so it is left out unless it was the first
    /// and filled the page.
    #[must_use]
    pub fn finish(mut self, head: Head, complete: bool) -> Built {
        if complete {
            self.covered = head.version;
        } else if let Some(open) = self.open {
            self.changes.truncate(open.changes_before);
            self.bytes = open.bytes_before;
        }
        if self.changes.is_empty() && !complete {
            return if self.covered > self.start.from.version {
                Built::NothingYet(self.covered)
            } else {
                Built::TooLarge
            };
        }
        let from = self.start.from;
        let to = if complete { head.cursor() } else { from.between_pages(self.covered) };
        let delta = Delta {
            from,
            to,
            changes: self.changes,
            has_more: !complete,
            initial: from.is_loading(),
            digest: (complete && self.view.scope.is_all()).then_some(head.digest),
            unverified: self.start.unverified,
            head,
        };
        Built::Page(delta, self.bytes)
    }

    /// Closes the version before and opens this one.
    fn begin(&mut self, version: Version) {
        match self.open {
            Some(open) if open.version == version => {}
            Some(open) => {
                self.covered = open.version;
                self.open(version);
            }
            None => self.open(version),
        }
    }

    fn open(&mut self, version: Version) {
        self.open = Some(OpenVersion {
            version,
            changes_before: self.changes.len(),
            bytes_before: self.bytes,
        });
    }

    fn part(&self, version: Version, key: &Key, row: &LogRow) -> Result<Part, Malformed> {
        let View { scope, keys_only } = self.view;
        let from = &self.start.from;
        // A load starts from nothing: what was deleted before it began, or stood elsewhere when
        // it began and has not moved since, was never there.
        let never_there = from.is_loading() && version <= from.base;
        if !scope.may_contain(key) {
            return Ok(Part::Foreign);
        }
        if row.kind == RowKind::Tombstone {
            return Ok(if never_there { Part::Foreign } else { Part::Whole });
        }
        if let Scope::Order(range) = scope {
            // Where it stood when the cursor was handed out is not known, nor whether an earlier
            // item of this key stood inside: `created` tells of the present one only.
            return Ok(match (range.contains(&place(row)?, key), never_there) {
                (true, _) if keys_only => Part::WithoutValue,
                // An old value is new to the reader if the item was moved into the stretch.
                (true, _) => Part::Whole,
                (false, true) => Part::Foreign,
                (false, false) => Part::Left,
            });
        }
        let reader_has_value =
            from.is_caught_up() && row.created <= from.version && row.value_version <= from.version;
        Ok(if keys_only || reader_has_value { Part::WithoutValue } else { Part::Whole })
    }
}

/// Where a live row's item stands in list order.
fn place(row: &LogRow) -> Result<SortKey, Malformed> {
    match decode_change(row.change.clone())?.kind {
        ChangeKind::Put { sort_key, .. } => Ok(sort_key),
        ChangeKind::Delete | ChangeKind::LeftScope => {
            Err(Malformed::new("change", "a live row holds no put"))
        }
    }
}

/// The change as the reader gets it: as stored, or with less in it.
fn outgoing(part: Part, row: LogRow) -> Result<Option<Bytes>, Malformed> {
    match part {
        Part::Foreign => return Ok(None),
        Part::Whole => return Ok(Some(row.change)),
        Part::WithoutValue | Part::Left => {}
    }
    let change = decode_change(row.change)?;
    let kind = match change.kind {
        _ if part == Part::Left => ChangeKind::LeftScope,
        ChangeKind::Put { sort_key, value_version, .. } => {
            ChangeKind::Put { value: None, sort_key, value_version }
        }
        ChangeKind::Delete | ChangeKind::LeftScope => {
            return Err(Malformed::new("change", "a live row holds no put"));
        }
    };
    Ok(Some(encode_change(&Change { kind, ..change })))
}
