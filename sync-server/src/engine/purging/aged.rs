//! Forgetting what has an age of its own and belongs to no collection: receipts, and cursors that
//! are held for clients. The oldest go first.

use std::ops::ControlFlow;

use sync_proto::types::Timestamp;

use super::{BATCH_ROWS_MAX, Step};
use crate::core::workspace::Undo;
use crate::engine::ledger::{Ledger, Writing};
use crate::store::keys::{self, Row};
use crate::store::{Batch, Direction, KeyRange, Store, StoreError};

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    pub(super) fn purge_receipts(
        &self,
        writing: &mut Writing,
        step: &mut Step,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let surplus = writing.receipts.saturating_sub(self.settings.receipts_max);
        let window = self.settings.receipt_window.as_millis();
        let ages = keys::receipt_age_range();
        let left = writing.purging.fronts.left_of(&ages);
        let (batch, count, last) = self.oldest_aged(&left, |row, before| {
            let Row::ReceiptAge { time, kind, name } = row else { return None };
            let age = now.as_millis().saturating_sub(time.as_millis());
            let gone = before < surplus || u128::from(age) >= window;
            gone.then(|| keys::receipt_key(kind, &name))
        })?;
        self.forget(writing, step, &batch, Undo::new())?;
        if let Some(last) = last {
            writing.purging.fronts.pass(&ages, &last);
        }
        writing.receipts -= count;
        Ok(count > 0)
    }

    /// A reader that asks for a cursor that has just gone begins from scratch, whether or not that
    /// is durable yet; so these rows need no undo.
    pub(super) fn purge_acks(
        &self,
        writing: &mut Writing,
        step: &mut Step,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let retention = self.settings.acks;
        let surplus = retention.surplus(writing.acks);
        let ages = keys::ack_age_range();
        let left = writing.purging.fronts.left_of(&ages);
        let (batch, count, last) = self.oldest_aged(&left, |row, before| {
            let Row::AckAge { time, place } = row else { return None };
            let gone = before < surplus || retention.outlived(time, now);
            gone.then(|| keys::ack_key(&place))
        })?;
        self.forget(writing, step, &batch, Undo::new())?;
        if let Some(last) = last {
            writing.purging.fronts.pass(&ages, &last);
        }
        writing.acks -= count;
        Ok(count > 0)
    }

    /// Removes rows of ages from the oldest on, each with the row that `gone` names, given how many
    /// went before it; `None` = this one stays, and with it all younger ones. Also how many go, and
    /// the last of the ages.
    fn oldest_aged(
        &self,
        ages: &KeyRange,
        gone: impl Fn(Row, u64) -> Option<Vec<u8>>,
    ) -> Result<(Batch, u64, Option<Vec<u8>>), StoreError> {
        let mut batch = Batch::default();
        let (mut count, mut last) = (0, None);
        let mut broken = None;
        self.store.scan(ages, Direction::Forward, &mut |key, value| {
            if batch.len() >= BATCH_ROWS_MAX {
                return ControlFlow::Break(());
            }
            match Row::decode(key, value) {
                Ok(row) => {
                    let Some(whole) = gone(row, count) else { return ControlFlow::Break(()) };
                    batch.remove(key.to_vec());
                    batch.remove(whole);
                    last = Some(key.to_vec());
                    count += 1;
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        broken.map_or(Ok((batch, count, last)), Err)
    }
}
