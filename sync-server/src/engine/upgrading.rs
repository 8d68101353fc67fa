//! Brings the rows of an older format up to date, once, before anything is served. A step may be
//! interrupted anywhere and is done again: until it is finished a row of its own says so, and an
//! older program refuses the store from its first moment on.
//!
//! ```text
//! format 1 -> 2: live items by segment, from the key rows
//! format 2 -> 3: nothing but the number; there are no followers and no acks yet
//! ```

use std::ops::ControlFlow;

use bytes::Bytes;
use sync_proto::digest::Segment;

use crate::store::keys::{self, ROW_FORMAT, Row, member_key};
use crate::store::rows::RowKind;
use crate::store::{Batch, Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

/// Rows that one batch writes.
const BATCH_ROWS_MAX: usize = 1_000;

/// Upgrades a store whose rows fit together. `unindexed`: the items by segment are not all there.
pub(super) fn upgrade<S: Store>(store: &S, unindexed: bool) -> Result<(), StoreError> {
    store.room()?;
    tracing::info!(format = ROW_FORMAT, "upgrading the store");
    let mut begin = Batch::default();
    if unindexed {
        begin.put(keys::upgrading_key(), Bytes::new());
    }
    begin.put(keys::format_key(), Bytes::copy_from_slice(&ROW_FORMAT.to_be_bytes()));
    store.apply(&begin)?;
    store.sync()?;
    if !unindexed {
        return Ok(());
    }
    let mut rest = keys::all_keys_range();
    let mut items = 0;
    while let Some(batch) = index_next(store, &mut rest)? {
        items += batch.len();
        store.apply(&batch)?;
    }
    // The index first: it must be whole when nothing asks for it to be made again.
    store.sync()?;
    let mut end = Batch::default();
    end.remove(keys::upgrading_key());
    store.apply(&end)?;
    store.sync()?;
    tracing::info!(items, "the store is upgraded");
    Ok(())
}

/// The index rows of the next items, which are taken out of `rest`; `None`: there are none left.
fn index_next<S: Store>(store: &S, rest: &mut KeyRange) -> Result<Option<Batch>, StoreError> {
    let mut batch = Batch::default();
    let mut last = None;
    let mut broken = None;
    store.scan(rest, Direction::Forward, &mut |place, value| {
        if batch.len() == BATCH_ROWS_MAX {
            return ControlFlow::Break(());
        }
        match Row::decode(place, value) {
            Ok(Row::Key { id, key, row }) => {
                if row.kind == RowKind::Live {
                    batch.put(member_key(id, Segment::of_key(&key), &key), Bytes::new());
                }
                last = Some(place.to_vec());
                ControlFlow::Continue(())
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = broken {
        return Err(error);
    }
    let Some(mut behind) = last else { return Ok(None) };
    behind.push(0);
    rest.start = behind;
    Ok(Some(batch))
}
