//! What operators ask of a collection: how it is kept, to forget deletes now, to begin a new epoch.
//! Like commits these are writes: they go through the writer, and are durable before they show.

use std::ops::ControlFlow;

use sync_proto::types::{
    CollectionName, Cursor, Epoch, Head, Inspection, Policy, PolicyChange, Timestamp, Version,
};

use super::ledger::{Ledger, Writing, not_failed};
use crate::core::plan::Moment;
use crate::core::workspace::Workspace;
use crate::store::keys::{self, CollectionId, Row};
use crate::store::rows::{Meta, encode_policy};
use crate::store::{Batch, Direction, Store, StoreError};

#[cfg(test)]
mod tests;

/// What to do to a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Administration {
    /// Change how it is kept.
    SetPolicy(PolicyChange),
    /// Forget some of the deletes up to a version. Asked again until it says that it is done.
    Purge {
        /// Up to this version.
        up_to: Version,
        /// Of this life only.
        epoch: Option<Epoch>,
    },
    /// Give it a new epoch.
    RotateEpoch,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Administered {
    /// The policy in force.
    Policy(Policy),
    /// So many deletes were forgotten; there may be more.
    Purged {
        /// How many.
        count: u64,
        /// The collection afterwards.
        head: Head,
        /// Nothing is left to forget up to that version.
        done: bool,
    },
    /// The collection with its new epoch.
    Rotated(Head),
}

/// Why nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminRefusal {
    /// There is no such collection.
    #[error("there is no such collection")]
    NotFound,
    /// Deletes of the future cannot be forgotten.
    #[error("up_to_version: above the head, the collection stands at {0}")]
    AboveHead(Cursor),
    /// The collection was created anew, or got a new epoch, while it was purged.
    #[error("the collection has another epoch now, at {0}; purge again")]
    OtherEpoch(Cursor),
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// A collection as an operator sees it; `None`: there is none. It knows of no subscribers.
    pub fn inspect(
        &self,
        name: &CollectionName,
        now: Timestamp,
    ) -> Result<Option<Inspection>, StoreError> {
        let Some((id, meta, view)) = self.view(name) else { return Ok(None) };
        let mut oldest = Ok(None);
        let range = keys::tombstone_range(id);
        view.scan(&range, Direction::Forward, &mut |key, value| {
            oldest = Row::decode(key, value)
                .map(|row| if let Row::Tombstone { time, .. } = row { Some(time) } else { None });
            ControlFlow::Break(())
        })?;
        drop(view);
        let audience = self.heads.read().audiences.get(name).copied();
        let moves_per_s = self.writing.lock().diffusing.moves_per_s(name, now);
        Ok(Some(Inspection {
            head: meta.head,
            policy: meta.policy,
            effective: self.settings.retention.in_force(&meta.policy),
            subscribers: 0,
            audience: audience.map_or(0, |audience| audience.count),
            diffusion: audience.map(|audience| audience.mode),
            moves_per_s,
            oldest_tombstone: oldest?,
        }))
    }

    /// Does what an operator asked. A purge goes on for as long as `go_on` says.
    pub fn administer(
        &self,
        name: &CollectionName,
        asked: &Administration,
        now: Timestamp,
        mint: &mut dyn FnMut() -> Epoch,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Result<Administered, AdminRefusal>, StoreError> {
        let mut writing = self.writing.lock();
        // Also when the disk is almost full: these are small, and may be what makes room.
        not_failed(&writing)?;
        let found = self.heads.read().by_name.get(name).cloned();
        let Some((id, meta)) = found else { return Ok(Err(AdminRefusal::NotFound)) };
        let meta = Meta::clone(&meta);
        match asked {
            Administration::SetPolicy(change) => {
                self.set_policy(&mut writing, id, meta, change, now).map(Ok)
            }
            Administration::Purge { up_to, epoch } => {
                if epoch.is_some_and(|epoch| epoch != meta.head.epoch) {
                    return Ok(Err(AdminRefusal::OtherEpoch(meta.head.cursor())));
                }
                if *up_to > meta.head.version {
                    return Ok(Err(AdminRefusal::AboveHead(meta.head.cursor())));
                }
                let purged = self.purge_up_to(&mut writing, id, meta, *up_to, go_on)?;
                let (count, head, done) = purged;
                Ok(Ok(Administered::Purged { count, head, done }))
            }
            Administration::RotateEpoch => {
                let (receipt_window, acks) = (self.settings.receipt_window, self.settings.acks);
                let mut at = Moment { now, receipt_window, acks, mint };
                self.rotate_epoch(&mut writing, id, &meta, &mut at).map(Ok)
            }
        }
    }

    fn set_policy(
        &self,
        writing: &mut Writing,
        id: CollectionId,
        meta: Meta,
        change: &PolicyChange,
        now: Timestamp,
    ) -> Result<Administered, StoreError> {
        let policy = change.applied_to(meta.policy);
        let effective = self.settings.retention.in_force(&policy);
        if policy != meta.policy {
            let before = (meta.policy != Policy::default()).then(|| encode_policy(&meta.policy));
            let undo = [(keys::policy_key(id), before)].into();
            let mut batch = Batch::default();
            if policy == Policy::default() {
                batch.remove(keys::policy_key(id));
            } else {
                batch.put(keys::policy_key(id), encode_policy(&policy));
            }
            let name = meta.name.clone();
            let after = Meta { policy, ..meta };
            self.persist(writing, &batch, undo, |heads| heads.set(id, after))?;
            self.reconsider(writing, &name, now)?;
        }
        Ok(Administered::Policy(effective))
    }

    fn rotate_epoch(
        &self,
        writing: &mut Writing,
        id: CollectionId,
        meta: &Meta,
        at: &mut Moment<'_>,
    ) -> Result<Administered, StoreError> {
        let mut after = meta.clone();
        while after.head.epoch == meta.head.epoch {
            after.head.epoch = (at.mint)();
        }
        let head = after.head;
        let mut workspace = Workspace::empty(writing.next_id);
        workspace.set_meta(id, meta.clone(), after);
        self.diffuse(writing, &mut workspace, at)?;
        let concerned = self.persist_planned(writing, workspace.finish(), |_| {})?;
        writing.diffusing.announce(concerned);
        Ok(Administered::Rotated(head))
    }
}
