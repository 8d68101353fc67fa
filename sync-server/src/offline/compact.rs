//! `sync-server compact`: a store as small as its rows.

use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::progress::Rows;
use crate::config::Config;
use crate::engine::ledger::Ledger;
use crate::program::{Ended, refused, worked};
use crate::store::disk::compact::{Compacted, Step};
use crate::verify::starting;

/// Checks the store as the server does at its start, then writes it anew.
pub(super) fn compact(config: &Config, shown: bool) -> Result<Compacted, Ended> {
    let options = config.store();
    let refused = |error| refused(&config.data_dir, error);
    let bar = Rows::new(shown, "checking", None);
    let opened = starting::open_existing(&config.data_dir, &options, &|rows| bar.set(rows));
    let (store, checked) = opened.map_err(refused)?;
    let ledger = Ledger::over(store, config.ledger(), checked).map_err(refused)?;
    drop(bar);
    let bar = Rows::new(shown, "copying", Some(0));
    let mut told = |step| match step {
        Step::Copying { done, total } => {
            bar.set_total(total);
            bar.set(done);
        }
        Step::Copied | Step::Checked | Step::Named | Step::MovedAway | Step::Exchanged => {}
    };
    let compacted = ledger.into_store().compact(&options, &mut told);
    compacted.map_err(|error| worked(&config.data_dir, error))
}

// === impl Compacted ===

impl Compacted {
    pub(super) fn json(&self, took: Duration) -> Value {
        let Self { rows, bytes_before, bytes_after } = *self;
        let took_ms = took.as_millis();
        json!({ "rows": rows, "bytes_before": bytes_before, "bytes_after": bytes_after,
                "took_ms": took_ms })
    }

    pub(super) fn text(&self, took: Duration) -> String {
        let (before, after) = (HumanBytes(self.bytes_before), HumanBytes(self.bytes_after));
        format!("compacted {} rows: {before} before, {after} after, in {took:.1?}", self.rows)
    }
}
