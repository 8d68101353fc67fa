//! Builds a store from a backup. The file is read twice: first only to see that it is whole and
//! which collections it ends with, then to build. Every collection gets a new epoch, so no cursor
//! of before means anything; versions, items, floors, tombstones and policies are those of the backup.
//! Receipts (idempotency keys, progress of imports) are not in a backup. Who follows what is read off
//! the inboxes (`followers`).

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use sync_proto::limits::COMMIT_MUTATIONS_MAX;
use sync_proto::types::{CollectionName, Epoch, Head, Policy, Version};

use super::BackupError;
use super::followers;
use super::format::{BackupHead, BackupRow, Block, Decoder};
use crate::core::check::Logged;
use crate::core::restore::{RestoredRow, Restoring};
use crate::core::workspace::LoadError;
use crate::store::keys::{self, CollectionId};
use crate::store::rows::encode_policy;
use crate::store::{Batch, Store};

/// Rows of one batch; fewer if they replace too much.
const BATCH_ROWS: usize = 256;
/// Collections whose last rows are written in one batch.
const BATCH_HEADS: usize = 64;

/// What a backup holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its collections.
    pub heads: BTreeMap<CollectionId, BackupHead>,
    /// Where those ended that are followed and were deleted.
    pub ended: BTreeMap<CollectionName, (Epoch, Version)>,
    /// Rows in it, those that do not count included.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What was restored.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Collections.
    pub collections: u64,
    /// Their live items.
    pub items: u64,
    /// Their tombstones.
    pub tombstones: u64,
}

/// Reads a whole backup and says what it holds; refuses it if one byte is not what was written.
pub fn contents(file: impl Read, progress: &mut dyn FnMut(u64)) -> Result<Contents, BackupError> {
    let mut decoder = Decoder::open(file)?;
    let mut contents = Contents::default();
    let mut names = BTreeMap::new();
    while let Some(block) = decoder.next_block()? {
        match block {
            Block::Rows { rows, .. } => contents.rows += rows.len() as u64,
            Block::Heads(heads) => {
                for head in heads {
                    let name = head.meta.name.clone();
                    let twice = names.insert(name, head.id).is_some();
                    let collection = head.meta.name.to_string();
                    if contents.heads.insert(head.id, head).is_some() || twice {
                        let reason = "it is there twice".to_owned();
                        return Err(BackupError::Unsound { collection, reason });
                    }
                }
            }
            Block::Ended(ends) => {
                let ends = ends.into_iter().map(|end| (end.name, (end.epoch, end.version)));
                contents.ended.extend(ends);
            }
        }
        progress(contents.rows);
    }
    contents.bytes = decoder.position();
    Ok(contents)
}

/// Puts everything that a backup holds into a store that is new. `contents` are those of the same
/// file. Nothing is synced.
pub fn restore<S: Store>(
    store: &S,
    file: impl Read,
    contents: &Contents,
    mint: &mut dyn FnMut() -> Epoch,
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, BackupError> {
    let mut start = |head: &BackupHead| {
        let meta = &head.meta;
        Restoring::new(head.id, meta.name.clone(), mint(), meta.head.floor)
    };
    let mut restoring: BTreeMap<_, _> =
        contents.heads.iter().map(|(id, head)| (*id, start(head))).collect();
    let mut decoder = Decoder::open(file)?;
    let mut done = 0;
    while let Some(block) = decoder.next_block()? {
        let Block::Rows { id, generation, rows } = block else { continue };
        done += rows.len() as u64;
        let wanted = contents.heads.get(&id).filter(|head| head.generation == generation);
        if let (Some(head), Some(restoring)) = (wanted, restoring.get_mut(&id)) {
            let rows = checked(&head.meta.name.to_string(), rows)?;
            for some in rows.chunks(BATCH_ROWS) {
                put(store, restoring, some)?;
            }
        }
        progress(done);
    }
    let restored = finish(store, contents, restoring)?;
    followers::restore(store, contents)?;
    Ok(restored)
}

/// Rows that fit themselves.
fn checked(collection: &str, rows: Vec<BackupRow>) -> Result<Vec<RestoredRow>, BackupError> {
    let check = |row: BackupRow| {
        let BackupRow { version, time, key, log } = row;
        let logged = Logged::of_log(version, &key, log.clone()).map_err(|what| {
            let reason = format!("the row of version {version}: {what}");
            BackupError::Unsound { collection: collection.to_owned(), reason }
        })?;
        Ok(RestoredRow { key, time, logged, log })
    };
    rows.into_iter().map(check).collect()
}

fn put<S: Store>(
    store: &S,
    restoring: &mut Restoring,
    rows: &[RestoredRow],
) -> Result<(), BackupError> {
    store.room()?;
    match restoring.put(rows, |keys| store.get_many(keys)) {
        Ok(planned) => Ok(store.apply(&planned.batch)?),
        Err(LoadError::Store(error)) => Err(error.into()),
        Err(LoadError::ReplacesTooMuch { .. }) => {
            assert!(rows.len() > 1, "one row replaces at most one");
            let (first, rest) = rows.split_at(rows.len() / 2);
            put(store, restoring, first)?;
            put(store, restoring, rest)
        }
    }
}

/// Compares every collection with what the backup says of it, and gives it its head and name.
fn finish<S: Store>(
    store: &S,
    contents: &Contents,
    restoring: BTreeMap<CollectionId, Restoring>,
) -> Result<Restored, BackupError> {
    let mut restored = Restored::default();
    let mut batch = Batch::default();
    let mut next_id = 1;
    for (id, Restoring { mut meta, .. }) in restoring {
        let said = &contents.heads[&id].meta.head;
        if let Some(what) = difference(&meta.head, said) {
            let reason = format!("its {what} are not what its head says");
            return Err(BackupError::Unsound { collection: meta.name.to_string(), reason });
        }
        restored.collections += 1;
        restored.items += meta.head.items;
        restored.tombstones += meta.head.tombstones;
        meta.head.version = said.version;
        meta.head.floor = said.floor;
        meta.head.commit_time = said.commit_time;
        batch.put(keys::name_key(&meta.name), Bytes::copy_from_slice(&id.0.to_be_bytes()));
        batch.put(keys::meta_key(id), meta.encode());
        let policy = &contents.heads[&id].meta.policy;
        if *policy != Policy::default() {
            batch.put(keys::policy_key(id), encode_policy(policy));
        }
        next_id = next_id.max(id.0.saturating_add(1));
        if batch.len() >= 2 * BATCH_HEADS {
            store.apply(&std::mem::take(&mut batch))?;
        }
    }
    batch.put(keys::next_id_key(), Bytes::copy_from_slice(&next_id.to_be_bytes()));
    store.apply(&batch)?;
    Ok(restored)
}

/// What two heads of a collection do not agree about. A purge may have cut the newest version that
/// it took in two: tombstones of that version were still there, and are not restored.
fn difference(found: &Head, said: &Head) -> Option<&'static str> {
    let cut = said.tombstones.checked_sub(found.tombstones);
    let cut_max = if said.floor.get() == 0 { 0 } else { COMMIT_MUTATIONS_MAX as u64 };
    let same = [
        ("items", found.items == said.items),
        ("bytes", found.bytes == said.bytes),
        ("digest", found.digest == said.digest),
        ("tombstones", cut.is_some_and(|cut| cut <= cut_max)),
        ("versions", found.version <= said.version),
    ];
    same.iter().find(|(_, same)| !same).map(|(what, _)| *what)
}

#[cfg(test)]
mod tests;
