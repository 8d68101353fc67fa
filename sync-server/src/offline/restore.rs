//! `sync-server restore`: a store from a backup.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::progress::Rows;
use crate::backup::BackupError;
use crate::backup::restore::{Restored, contents, restore as put_back};
use crate::config::Config;
use crate::engine::fresh_epoch;
use crate::engine::ledger::Ledger;
use crate::program::{Ended, Exit, worked};
use crate::store::disk::build::build;

/// A backup that was not restored.
#[derive(Debug, thiserror::Error)]
#[error("{file} was not restored")]
struct NotRestored {
    file: String,
    #[source]
    source: BackupError,
}

/// Reads the backup to its end, builds a store from it, and checks that.
pub(super) fn restore(config: &Config, from: &Path, shown: bool) -> Result<Restored, Ended> {
    let failed = |error| ended(config, from, error);
    let open = || File::open(from).map(BufReader::new).map_err(BackupError::Unreadable);
    let bar = Rows::new(shown, "reading", None);
    let file = open().map_err(failed)?;
    let contents = contents(file, &mut |rows| bar.set(rows)).map_err(failed)?;
    drop(bar);
    let bar = Rows::new(shown, "restoring", Some(contents.rows));
    let mut restored = Restored::default();
    let build_up = |store| {
        let store = Ledger::open(store, config.ledger(), &mut |_| {})?.into_store();
        let progress = &mut |rows| bar.set(rows);
        restored = put_back(&store, open()?, &contents, &mut fresh_epoch, progress)?;
        Ok::<_, BackupError>(store)
    };
    let check = |store| Ok(Ledger::open(store, config.ledger(), &mut |_| {})?.into_store());
    build(&config.data_dir, &config.store(), build_up, check).map_err(failed)?;
    Ok(restored)
}

fn ended(config: &Config, from: &Path, error: BackupError) -> Ended {
    let exit = match error {
        BackupError::Store(error) => return worked(&config.data_dir, error),
        BackupError::Unreadable(_) => Exit::CouldNotStart,
        BackupError::NotABackup
        | BackupError::NewerFormat { .. }
        | BackupError::Truncated { .. }
        | BackupError::Damaged { .. }
        | BackupError::Unsound { .. } => Exit::StoreRefused,
    };
    (exit, NotRestored { file: from.display().to_string(), source: error }.into())
}

// === impl Restored ===

impl Restored {
    pub(super) fn json(self, took: Duration) -> Value {
        let Self { collections, items, tombstones } = self;
        json!({ "collections": collections, "items": items, "tombstones": tombstones,
                "took_ms": took.as_millis() })
    }

    pub(super) fn text(self, took: Duration) -> String {
        let Self { collections, items, tombstones } = self;
        format!(
            "restored {items} items and {tombstones} tombstones of {collections} collections in \
             {took:.1?}"
        )
    }
}
