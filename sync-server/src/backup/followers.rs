//! Who followed what, read off the inboxes of a store that is being restored: the live entries of an
//! inbox are what its subject follows. Every collection has a new epoch, so no entry is true any
//! more: all followers read until they are written to again, which tells them the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use sync_proto::types::{CollectionName, Diffusion, Subject, Timestamp};

use super::BackupError;
use super::restore::Contents;
use crate::store::keys::{self, CollectionId, Row};
use crate::store::rows::{Audience, RowKind};
use crate::store::{Batch, Direction, Store, StoreError};

/// Rows of one batch.
const BATCH_ROWS: usize = 512;

/// Gives every name that is followed its audience. The collections are all there.
pub(super) fn restore<S: Store>(store: &S, contents: &Contents) -> Result<(), BackupError> {
    let mut counts: BTreeMap<CollectionName, u64> = BTreeMap::new();
    for head in contents.heads.values() {
        if let Some(subject) = Subject::of_inbox(&head.meta.name) {
            entries(store, head.id, &subject, &mut counts)?;
        }
    }
    let exist: BTreeSet<_> = contents.heads.values().map(|head| &head.meta.name).collect();
    let mut batch = Batch::default();
    for (name, count) in counts {
        let (mode, since) = (Diffusion::Read, Timestamp::default());
        let last_life = contents.ended.get(&name).filter(|_| !exist.contains(&name)).copied();
        if last_life.is_some() {
            // A sweep may have been under way; if not, this one finds nothing to do.
            batch.put(keys::sweep_key(&name), Bytes::new());
        }
        let audience = Audience { count, mode, since, last_life };
        batch.put(keys::audience_state_key(&name), audience.encode());
        if batch.len() >= BATCH_ROWS {
            store.apply(&std::mem::take(&mut batch))?;
        }
    }
    Ok(store.apply(&batch)?)
}

/// What the owner of one inbox follows.
fn entries<S: Store>(
    store: &S,
    id: CollectionId,
    subject: &Subject,
    counts: &mut BTreeMap<CollectionName, u64>,
) -> Result<(), BackupError> {
    let mut rest = keys::key_range(id, &[]);
    loop {
        let mut names = Vec::new();
        let mut last = None;
        let mut broken: Option<StoreError> = None;
        store.scan(&rest, Direction::Forward, &mut |place, value| {
            if names.len() == BATCH_ROWS {
                return ControlFlow::Break(());
            }
            match Row::decode(place, value) {
                Ok(Row::Key { key, row, .. }) if row.kind == RowKind::Live => names.push(key),
                Ok(_) => {}
                Err(error) => {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
            }
            last = Some(place.to_vec());
            ControlFlow::Continue(())
        })?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        let Some(mut behind) = last else { return Ok(()) };
        behind.push(0);
        rest.start = behind;
        let mut batch = Batch::default();
        for key in names {
            let name = std::str::from_utf8(key.as_bytes()).ok();
            let name = name.and_then(|name| CollectionName::new(name).ok());
            let name = name.ok_or_else(|| BackupError::Unsound {
                collection: subject.inbox().to_string(),
                reason: "an entry of what is no name".to_owned(),
            })?;
            batch.put(keys::audience_key(&name, subject), Bytes::new());
            *counts.entry(name).or_default() += 1;
        }
        store.apply(&batch)?;
    }
}
