//! Cutting the log into pages. Pure. A page is bounded by bytes and by count, cut only between
//! versions, and its cursor is the last version that it covers. A version that alone exceeds the
//! bounds is sent whole: commits are bounded so that this fits into a message.

use bytes::Bytes;
use sync_proto::convert::{decode_change, encode_change};
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX};
use sync_proto::types::{Change, ChangeKind, Cursor, Delta, Head, Key, Malformed, Scope, Version};

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
    /// Which keys.
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
        if self.skips(version, key, &row) {
            return Ok(Offer::More);
        }
        let change = outgoing(row, &self.start.from, self.view.keys_only)?;
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

    fn skips(&self, version: Version, key: &Key, row: &LogRow) -> bool {
        // A load starts from nothing: what was deleted before it began was never there.
        let loading_tombstone = row.kind == RowKind::Tombstone
            && version <= self.start.from.base
            && self.start.from.is_loading();
        loading_tombstone || !self.view.scope.contains(key)
    }
}

/// The change as this reader gets it: as stored, or without its value.
fn outgoing(row: LogRow, from: &Cursor, keys_only: bool) -> Result<Bytes, Malformed> {
    let reader_has_value =
        from.is_caught_up() && row.created <= from.version && row.value_version <= from.version;
    if row.kind == RowKind::Tombstone || !(keys_only || reader_has_value) {
        return Ok(row.change);
    }
    let change = decode_change(row.change)?;
    let ChangeKind::Put { sort_key, value_version, .. } = change.kind else {
        return Err(Malformed::new("change", "a live row holds no put"));
    };
    let kind = ChangeKind::Put { value: None, sort_key, value_version };
    Ok(encode_change(&Change { kind, ..change }))
}
