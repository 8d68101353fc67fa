//! What a page does to rows, decided before anything is touched: a page that cannot be applied
//! changes nothing, in every store. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_proto::types::{Change, ChangeKind, Key, SortKey, Version};

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
        if let Some(old) = &old {
            tally.remove(old);
        }
        if let Some(new) = &new {
            tally.add(new);
        }
        if old.is_some() || new.is_some() {
            edits.push(Edit { old, new });
        }
    }
    Ok(edits)
}

/// The row that a change leaves behind, in memory of its own: a change is a slice of the message
/// that brought it, and a row of a few bytes must not keep a whole page alive.
fn row_of(change: &Change, old: Option<&Row>) -> Result<Option<Row>, StoreError> {
    let ChangeKind::Put { value, sort_key, value_version } = &change.kind else {
        return Ok(None);
    };
    let value = match (value, old) {
        (Some(value), _) => Bytes::copy_from_slice(value.as_bytes()),
        (None, Some(old)) if old.value_version == *value_version => old.value.clone(),
        (None, _) => return Err(StoreError::MissingValue),
    };
    Ok(Some(Row {
        key: own_key(&change.key),
        value,
        sort_key: SortKey::new(Bytes::copy_from_slice(sort_key.as_bytes()))
            .expect("a copy of a sort key is one"),
        version: change.version,
        created: change.created,
        value_version: *value_version,
    }))
}

/// The key in memory of its own.
pub(crate) fn own_key(key: &Key) -> Key {
    Key::new(Bytes::copy_from_slice(key.as_bytes())).expect("a copy of a key is one")
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

// === impl Edit ===

impl Edit {
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
