//! Many collections in one answer. Synchronous; what a target's answer means on the wire is for
//! `rpc::sync`.

use bytes::Bytes;
use sync_proto::types::{CollectionName, Malformed, Outcome, Pull, Target};

use super::ledger::Ledger;
use super::reading::PageRequest;
use crate::core::page::PageLimits;
use crate::store::{Store, StoreError};

/// Why one target has no answer. The others do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The target is not well-formed.
    #[error(transparent)]
    Malformed(Malformed),
    /// The server holds no cursor for the client.
    #[error("from_last_ack: this server does not keep acks; keep the cursor and send it")]
    NoAcks,
    /// Storage failed.
    #[error("storage failed")]
    Store(#[source] StoreError),
}

/// The answer to one target.
pub type Answer = Result<Outcome<Bytes>, TargetError>;

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Answers the targets in order. The byte budget is shared fairly: each target may take an
    /// equal part of what is left, and what it does not need goes to those behind it.
    pub fn pull(&self, pull: &Pull, may_read: impl Fn(&CollectionName) -> bool) -> Vec<Answer> {
        let mut left = pull.bytes_max;
        let mut answers = Vec::with_capacity(pull.targets.len());
        for (index, target) in pull.targets.iter().enumerate() {
            // Before anything is sent, one version may be as large as a commit can be: so every
            // reply makes progress, and none exceeds the message limit.
            let nothing_yet = left == pull.bytes_max;
            let limits = PageLimits {
                changes_max: pull.changes_max,
                bytes_max: left / (pull.targets.len() - index),
                first_version_bytes_max: if nothing_yet { usize::MAX } else { left },
            };
            let answer = match target {
                Err(error) => Err(TargetError::Malformed(error.clone())),
                Ok(target) if !may_read(&target.collection) => Ok(Outcome::Denied),
                Ok(target) if target.from_last_ack => Err(TargetError::NoAcks),
                Ok(target) => self.answer(target, limits).map(|(outcome, size)| {
                    left = left.saturating_sub(size);
                    outcome
                }),
            };
            answers.push(answer);
        }
        answers
    }

    fn answer(
        &self,
        target: &Target,
        limits: PageLimits,
    ) -> Result<(Outcome<Bytes>, usize), TargetError> {
        let asked = PageRequest {
            collection: &target.collection,
            cursor: target.cursor,
            scope: &target.scope,
            keys_only: target.keys_only,
            verify: target.verify,
            catch_up_max: target.changes_max,
            limits,
        };
        self.page(&asked).map_err(TargetError::Store)
    }
}
