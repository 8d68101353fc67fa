//! Collections end: at once whatever their size, with a word to all who follow.

use bytes::Bytes;
use sync_proto::types::{CollectionName, Condition, Head, Timestamp};

use super::ledger::{DeleteRefusal, Ledger, not_failed};
use crate::core::workspace::Workspace;
use crate::store::{Store, StoreError, keys};

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Removes a collection; its rows are purged behind. `condition` is a [`Condition`] on its
    /// head.
    pub fn delete_collection(
        &self,
        name: &CollectionName,
        condition: Option<&Condition>,
        now: Timestamp,
    ) -> Result<Result<Head, DeleteRefusal>, StoreError> {
        let mut writing = self.writing.lock();
        // Also when the disk is almost full: a deletion is a small batch, and makes room.
        not_failed(&writing)?;
        let found = self.heads.read().by_name.get(name).cloned();
        let Some((id, meta)) = found else { return Ok(Err(DeleteRefusal::NotFound)) };
        let head = meta.head;
        if !condition.is_none_or(|condition| stands_at(&head, condition)) {
            return Ok(Err(DeleteRefusal::HeadDiffers(head.cursor())));
        }
        let mut workspace = Workspace::empty(writing.next_id);
        self.telling(&mut writing, now, |rules, at, known| {
            workspace.bury(name, &meta, rules, at, known)
        })?;
        let mut planned = workspace.finish();
        planned.batch.remove(keys::name_key(name));
        planned.batch.remove(keys::meta_key(id));
        planned.batch.remove(keys::policy_key(id));
        planned.batch.put(keys::doomed_key(id), Bytes::new());
        // Readers find a collection through the heads, so its own rows need no undo.
        let concerned = self.persist_planned(&mut writing, planned, |heads| {
            heads.remove(name);
        })?;
        writing.doomed.push(id);
        writing.diffusing.announce(concerned);
        Ok(Ok(head))
    }
}

/// Whether an existing collection stands where a condition on its head says.
fn stands_at(head: &Head, condition: &Condition) -> bool {
    match condition {
        Condition::HeadEquals(epoch, version) => {
            head.version == *version && epoch.is_none_or(|epoch| epoch == head.epoch)
        }
        Condition::CollectionAbsent
        | Condition::ItemVersionEquals(..)
        | Condition::ItemAbsent(_)
        | Condition::ItemPresent(_) => false,
    }
}
