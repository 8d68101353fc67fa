//! Items by key, looked up some at a time: a store may have its readers wait for a turn, and rows
//! that are asked for one by one cost a wait each.

use std::collections::VecDeque;

use bytes::Bytes;
use sync_proto::convert::decode_change;
use sync_proto::types::{ChangeKind, Item, Key, Value};

use super::view::View;
use crate::store::keys::{CollectionId, key_key, log_key};
use crate::store::rows::{KeyRow, LogRow, RowKind};
use crate::store::{Store, StoreError};

#[cfg(test)]
mod tests;

/// Rows that are looked up together.
const TOGETHER_MAX: usize = 64;

/// Bytes of values that are read together, or one value: whoever wants a page may want no more of
/// them.
const TOGETHER_BYTES: usize = 256 * 1024;

/// The items of some keys, in their order: an item, or `None` = there is none of this key.
pub(super) struct Items<'v, S, I> {
    id: CollectionId,
    keys: I,
    keys_only: bool,
    view: &'v View<'v, S>,
    /// What is found at the next keys; of live ones the values are not read yet.
    rows: VecDeque<(Key, Option<KeyRow>)>,
    ready: VecDeque<(Key, Option<Item>)>,
}

// === impl Items ===

impl<'v, S: Store, I: Iterator<Item = Key>> Items<'v, S, I> {
    /// The items of `keys` in the collection of this id, with values or without.
    pub(super) fn new(
        id: CollectionId,
        keys: impl IntoIterator<IntoIter = I>,
        keys_only: bool,
        view: &'v View<'v, S>,
    ) -> Self {
        let (rows, ready) = (VecDeque::new(), VecDeque::new());
        Self { id, keys: keys.into_iter(), keys_only, view, rows, ready }
    }

    fn look_up(&mut self) -> Result<(), StoreError> {
        if self.rows.is_empty() {
            let keys: Vec<Key> = self.keys.by_ref().take(TOGETHER_MAX).collect();
            if keys.is_empty() {
                return Ok(());
            }
            let places: Vec<_> = keys.iter().map(|key| key_key(self.id, key)).collect();
            for (key, row) in keys.into_iter().zip(self.view.get_many(&places)?) {
                let row = row.map(KeyRow::decode).transpose()?;
                self.rows.push_back((key, row.filter(|row| row.kind == RowKind::Live)));
            }
        }
        if self.keys_only {
            let item = |(key, row): (Key, Option<KeyRow>)| {
                let item = row.map(|row| item(key.clone(), row, None));
                (key, item)
            };
            self.ready.extend(self.rows.drain(..).map(item));
            return Ok(());
        }
        let sizes = self.rows.iter().map(|(_, row)| row.as_ref().map_or(0, |row| row.value_len));
        let rows: Vec<_> = self.rows.drain(..together(sizes)).collect();
        let log = |(key, row): &(Key, Option<KeyRow>)| {
            row.as_ref().map(|row| log_key(self.id, row.version, key))
        };
        let logs: Vec<_> = rows.iter().filter_map(log).collect();
        let mut logs = self.view.get_many(&logs)?.into_iter();
        for (key, row) in rows {
            let item = match row {
                Some(row) => {
                    let log = logs.next().expect("one for each row");
                    Some(
                        value(self.id, &row, log)
                            .map(|value| item(key.clone(), row, Some(value)))?,
                    )
                }
                None => None,
            };
            self.ready.push_back((key, item));
        }
        Ok(())
    }
}

impl<S: Store, I: Iterator<Item = Key>> Iterator for Items<'_, S, I> {
    type Item = Result<(Key, Option<Item>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty()
            && let Err(error) = self.look_up()
        {
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}

/// How many of the next rows, whose values have these sizes, are read together.
pub(super) fn together(sizes: impl IntoIterator<Item = u32>) -> usize {
    let mut bytes = 0_usize;
    let fits = |size: &u32| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(*size as usize);
        first || bytes <= TOGETHER_BYTES
    };
    sizes.into_iter().take(TOGETHER_MAX).take_while(fits).count()
}

fn item(key: Key, row: KeyRow, value: Option<Value>) -> Item {
    Item {
        key,
        value,
        value_size: row.value_len,
        sort_key: row.sort_key,
        version: row.version,
        created: row.created,
        value_version: row.value_version,
    }
}

fn value(id: CollectionId, row: &KeyRow, log: Option<Bytes>) -> Result<Value, StoreError> {
    let damaged = |reason: String| StoreError::Damaged {
        place: format!("collection {}, version {}", id.0, row.version),
        reason,
    };
    let log =
        log.ok_or_else(|| damaged("a key points to a log row that is not there".to_owned()))?;
    let change = decode_change(LogRow::decode(log)?.change).map_err(|e| damaged(e.to_string()))?;
    match change.kind {
        ChangeKind::Put { value: Some(value), .. } => Ok(value),
        ChangeKind::Put { value: None, .. } | ChangeKind::Delete | ChangeKind::LeftScope => {
            Err(damaged("a live item holds no value".to_owned()))
        }
    }
}
