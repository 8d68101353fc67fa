//! What a page does to rows, decided before anything is touched: a page that cannot be applied
//! changes nothing, in every store. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_proto::types::{Change, ChangeKind, Key, Version};

use super::{Changed, Row, StoreError, Tally, Visible};

/// What to do to one row.
#[derive(Debug)]
pub(super) struct Edit {
    /// The row that goes.
    pub(super) old: Option<Row>,
    /// The row that comes.
    pub(super) new: Option<Row>,
}

/// Decides the edits for `changes` behind `after`, and brings `tally` up to date.
pub(super) fn plan(
    changes: &[Change],
    after: Version,
    tally: &mut Tally,
    row: impl Fn(&Key) -> Result<Option<Row>, StoreError>,
) -> Result<Vec<Edit>, StoreError> {
    let news = changes.iter().filter(|change| change.version > after);
    // A key that occurs twice against the rules: the later state counts.
    let latest: BTreeMap<&Key, &Change> = news.map(|change| (&change.key, change)).collect();
    let mut edits = Vec::with_capacity(latest.len());
    for (key, change) in latest {
        let old = row(key)?;
        let new = row_of(change, old.as_ref())?;
        if old.is_some() || new.is_some() {
            let edit = Edit { old, new };
            edit.count(tally);
            edits.push(edit);
        }
    }
    Ok(edits)
}

/// The row that a change leaves behind.
fn row_of(change: &Change, old: Option<&Row>) -> Result<Option<Row>, StoreError> {
    let ChangeKind::Put { value, sort_key, value_version } = &change.kind else {
        return Ok(None);
    };
    let value = match (value, old) {
        (Some(value), _) => value.as_bytes(),
        (None, Some(old)) if old.value_version == *value_version => &old.value,
        (None, _) => return Err(StoreError::MissingValue),
    };
    let versions = [change.version, change.created, *value_version];
    Ok(Some(Row::of(&change.key, value, sort_key, versions)))
}

/// The key in memory of its own.
pub(crate) fn own_key(key: &Key) -> Key {
    Key::new(Bytes::copy_from_slice(key.as_bytes())).expect("a copy of a key is one")
}

/// Items that a repair names; past this it says that it was much.
pub(super) const MENDED_NAMED_MAX: usize = 10_000;

/// What readers can see of a repair, piece by piece: its old rows are not all kept at once.
#[derive(Debug, Default)]
pub(super) struct Mended {
    changed: Vec<Changed>,
    much: bool,
}

/// What readers can see of edits.
pub(super) fn visible(edits: Vec<Edit>) -> Visible {
    let differ: Vec<Changed> = edits.into_iter().filter_map(Edit::visible).collect();
    if differ.is_empty() { Visible::Nothing } else { Visible::Rows(differ) }
}

/// Walks two lists of rows, both by key, and reports up to `limit` keys whose content differs.
pub(super) fn compare(
    mut before: impl Iterator<Item = Result<Row, StoreError>>,
    mut now: impl Iterator<Item = Result<Row, StoreError>>,
    limit: usize,
) -> Result<Vec<Changed>, StoreError> {
    let mut differ = Vec::new();
    let mut old = before.next().transpose()?;
    let mut new = now.next().transpose()?;
    while differ.len() < limit {
        let edit = match (old.take(), new.take()) {
            (None, None) => break,
            (Some(gone), Some(row)) if gone.key < row.key => {
                new = Some(row);
                Edit { old: Some(gone), new: None }
            }
            (Some(kept), Some(row)) if kept.key > row.key => {
                old = Some(kept);
                Edit { old: None, new: Some(row) }
            }
            (old, new) => Edit { old, new },
        };
        if edit.old.is_some() && old.is_none() {
            old = before.next().transpose()?;
        }
        if edit.new.is_some() && new.is_none() {
            new = now.next().transpose()?;
        }
        differ.extend(edit.visible());
    }
    Ok(differ)
}

// === impl Mended ===

impl Mended {
    pub(super) fn add(&mut self, edit: Edit) {
        if self.much {
            return;
        }
        self.changed.extend(edit.visible());
        if self.changed.len() > MENDED_NAMED_MAX {
            self.much = true;
            self.changed = Vec::new();
        }
    }

    pub(super) fn visible(self) -> Visible {
        match (self.much, self.changed.is_empty()) {
            (true, _) => Visible::Much,
            (false, true) => Visible::Nothing,
            (false, false) => Visible::Rows(self.changed),
        }
    }
}

// === impl Edit ===

impl Edit {
    /// Brings the tally of the rows up to date.
    pub(super) fn count(&self, tally: &mut Tally) {
        if let Some(old) = &self.old {
            tally.remove(old);
        }
        if let Some(new) = &self.new {
            tally.add(new);
        }
    }

    /// A change that an application cannot see, like the same content under a new version, is
    /// none to its readers.
    fn visible(self) -> Option<Changed> {
        match (self.old, self.new) {
            (None, None) => None,
            (Some(old), Some(new)) if old.looks_like(&new) => None,
            (old, Some(new)) => Some(Changed { key: new.key, old, exists: true }),
            (Some(old), None) => {
                Some(Changed { key: old.key.clone(), old: Some(old), exists: false })
            }
        }
    }
}
