//! What a commit does. Pure: no store, no clock, no dice. A commit is judged against everything
//! planned before it in its group; it either changes the workspace as a whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use sync_proto::convert::{decode_committed, encode_committed};
use sync_proto::digest::Digest;
use sync_proto::limits::COMMIT_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Commit, Committed, Condition, Epoch, Head, Key, Mutation, Op, Policy,
    Precondition, Timestamp, Version,
};

use super::acks::{AckRefusal, AckRetention};
use super::effect::{Effect, item_bytes, put_over, value_of};
use super::request::{Repeated, Request};
use super::stored::TooMuch;
use super::workspace::{REPLACED_BYTES_MAX, Workspace};
use crate::store::StoreError;
use crate::store::keys::CollectionId;
use crate::store::rows::{Meta, Receipt, ReceiptKind};

#[cfg(test)]
mod tests;

/// What a planned commit answers once its group is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// One per collection named, by name.
    pub collections: Vec<Committed>,
    /// The answer of an earlier call; nothing was changed.
    pub replayed: bool,
}

/// Why a commit was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A precondition does not hold.
    #[error("preconditions[{index}]: {reason}")]
    Precondition {
        /// Which one.
        index: usize,
        /// What was found instead.
        reason: String,
    },
    /// A reorder names an item that does not exist.
    #[error("mutations[{index}].reorder.key: there is no such item")]
    ReorderOfMissing {
        /// Which mutation.
        index: usize,
    },
    /// The items would make a version that no message can carry.
    #[error(
        "mutations: {collection} would get {bytes} bytes at once (with values and sort keys that \
         stay), the limit is {COMMIT_BYTES_MAX}; split the commit"
    )]
    VersionTooLarge {
        /// Which collection.
        collection: CollectionName,
        /// Bytes of all items that change.
        bytes: usize,
    },
    /// The commit would replace or delete more than the server takes in hand at once.
    #[error(
        "mutations: the values that are replaced or deleted have {bytes} bytes together, the \
         limit is {REPLACED_BYTES_MAX}; split the commit"
    )]
    ReplacesTooMuch {
        /// Bytes of the values.
        bytes: u64,
    },
    /// The collection would hold more than its policy allows.
    #[error(
        "mutations: {collection} would hold {bytes} bytes, the quota of the collection \
         (policy.bytes_max) is {quota}"
    )]
    OverQuota {
        /// Which collection.
        collection: CollectionName,
        /// Bytes of its live items afterwards.
        bytes: u64,
        /// How many it may hold.
        quota: u64,
    },
    /// There would be more bytes below a name than the policy of the server allows.
    #[error(transparent)]
    TooMuchStored(TooMuch),
    /// The idempotency key belongs to another request.
    #[error("idempotency_key: was used within the window with another request")]
    KeyReused,
    /// An import skipped a number.
    #[error("sequence: {found}, the next one of this import is {wanted}")]
    ImportGap {
        /// The number sent.
        found: u64,
        /// The number that must come next.
        wanted: u64,
    },
    /// A client claims what it cannot have.
    #[error("acked[{index}].{reason}")]
    Ack {
        /// Which position.
        index: usize,
        /// What is wrong with it.
        reason: AckRefusal,
    },
    /// What was loaded makes no sense.
    #[error("the store is damaged")]
    Damaged(#[source] StoreError),
}

/// The moment and the chance of a group.
#[allow(missing_debug_implementations, reason = "holds a closure")]
pub struct Moment<'a> {
    /// The server's clock.
    pub now: Timestamp,
    /// How long a receipt protects.
    pub receipt_window: Duration,
    /// How long cursors are held for clients.
    pub acks: AckRetention,
    /// A fresh random epoch.
    pub mint: &'a mut dyn FnMut() -> Epoch,
}

// === impl Workspace ===

impl Workspace {
    /// Plans one request on top of what is planned so far.
    pub fn plan(&mut self, request: &Request, at: &mut Moment<'_>) -> Result<Answer, Refusal> {
        match request {
            Request::Commit { commit, fingerprint } => self.plan_commit(commit, fingerprint, at),
            Request::Import { import_id, sequence, mutations } => {
                self.plan_import(import_id, *sequence, mutations, at)
            }
            Request::Repeat(repeated, too_much) => self.plan_repeat(repeated, too_much, at),
            Request::Ack(claims) => self.plan_ack(claims, at),
        }
    }

    fn plan_repeat(
        &self,
        repeated: &Repeated,
        too_much: &TooMuch,
        at: &Moment<'_>,
    ) -> Result<Answer, Refusal> {
        let earlier = match repeated {
            Repeated::Commit { idempotency_key, fingerprint } => {
                self.committed_before(idempotency_key, fingerprint, at)?
            }
            Repeated::Import { import_id, sequence } => {
                self.imported_before(import_id, *sequence, at)?
            }
        };
        earlier.ok_or_else(|| Refusal::TooMuchStored(too_much.clone()))
    }

    /// The answer to the commit that was done under this key, if one was.
    fn committed_before(
        &self,
        idempotency_key: &str,
        fingerprint: &[u8; 16],
        at: &Moment<'_>,
    ) -> Result<Option<Answer>, Refusal> {
        let receipt = (ReceiptKind::Commit, idempotency_key.to_owned());
        let earlier = self.receipts.get(&receipt).and_then(|slot| slot.now.as_ref());
        let earlier = earlier.filter(|earlier| !earlier.expired(at.now, at.receipt_window));
        earlier.map(|earlier| replay(earlier, fingerprint)).transpose()
    }

    /// The answer to a commit of an import that was done already; refused if one is left out.
    fn imported_before(
        &self,
        import_id: &str,
        sequence: u64,
        at: &Moment<'_>,
    ) -> Result<Option<Answer>, Refusal> {
        let receipt = (ReceiptKind::Import, import_id.to_owned());
        let slot = self.receipts.get(&receipt).expect("needs() asked for the receipt");
        let known = slot.now.as_ref().filter(|receipt| !receipt.expired(at.now, at.receipt_window));
        let done = known.map_or(Ok(0), Receipt::import_sequence);
        let done = done.map_err(Refusal::Damaged)?;
        if sequence <= done {
            return Ok(Some(Answer { collections: Vec::new(), replayed: true }));
        }
        if sequence != done + 1 {
            return Err(Refusal::ImportGap { found: sequence, wanted: done + 1 });
        }
        Ok(None)
    }

    fn plan_commit(
        &mut self,
        commit: &Commit,
        fingerprint: &[u8; 16],
        at: &mut Moment<'_>,
    ) -> Result<Answer, Refusal> {
        if let Some(earlier) = self.committed_before(&commit.idempotency_key, fingerprint, at)? {
            return Ok(earlier);
        }
        for (index, precondition) in commit.preconditions.iter().enumerate() {
            self.check(precondition).map_err(|reason| Refusal::Precondition { index, reason })?;
        }
        let answer = self.plan_mutations(&commit.mutations, at)?;
        let receipt = (ReceiptKind::Commit, commit.idempotency_key.clone());
        if let Some(slot) = self.receipts.get_mut(&receipt) {
            slot.now = Some(Receipt {
                time: at.now,
                fingerprint: *fingerprint,
                payload: encode_committed(&answer.collections),
            });
        }
        Ok(answer)
    }

    fn plan_import(
        &mut self,
        import_id: &str,
        sequence: u64,
        mutations: &[Mutation],
        at: &mut Moment<'_>,
    ) -> Result<Answer, Refusal> {
        if let Some(earlier) = self.imported_before(import_id, sequence, at)? {
            return Ok(earlier);
        }
        let answer = self.plan_mutations(mutations, at)?;
        let payload = Bytes::copy_from_slice(&sequence.to_be_bytes());
        let now = Receipt { time: at.now, fingerprint: [0; 16], payload };
        let receipt = (ReceiptKind::Import, import_id.to_owned());
        self.receipts.get_mut(&receipt).expect("needs() asked for the receipt").now = Some(now);
        Ok(answer)
    }

    /// What is wrong with a precondition, if anything.
    fn check(&self, precondition: &Precondition) -> Result<(), String> {
        let name = &precondition.collection;
        let meta = self.meta(name);
        match &precondition.condition {
            Condition::CollectionAbsent => match meta {
                None => Ok(()),
                Some(meta) => Err(format!("the collection exists at {}", meta.head.version)),
            },
            Condition::HeadEquals(epoch, version) => match meta.map(|meta| meta.head) {
                Some(head)
                    if head.version == *version
                        && epoch.is_none_or(|epoch| epoch == head.epoch) =>
                {
                    Ok(())
                }
                Some(head) => Err(format!("the collection stands at {}", head.cursor())),
                None => Err("the collection does not exist".to_owned()),
            },
            Condition::ItemVersionEquals(key, version) => match self.live_row(name, key) {
                Some(item) if item.version == *version => Ok(()),
                Some(item) => Err(format!("the item has version {}", item.version)),
                None => Err("there is no such item".to_owned()),
            },
            Condition::ItemAbsent(key) => match self.live_row(name, key) {
                None => Ok(()),
                Some(item) => Err(format!("the item exists at version {}", item.version)),
            },
            Condition::ItemPresent(key) => match self.live_row(name, key) {
                Some(_) => Ok(()),
                None => Err("there is no such item".to_owned()),
            },
        }
    }

    fn plan_mutations(
        &mut self,
        mutations: &[Mutation],
        at: &mut Moment<'_>,
    ) -> Result<Answer, Refusal> {
        let mut effects: BTreeMap<&CollectionName, Vec<(&Key, Effect)>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for (index, mutation) in mutations.iter().enumerate() {
            names.insert(&mutation.collection);
            if let Some((key, effect)) = self.effect(index, mutation)? {
                effects.entry(&mutation.collection).or_default().push((key, effect));
            }
        }
        for (name, effects) in &effects {
            self.check_size(name, effects)?;
        }
        // Everything is judged; from here on nothing can refuse, so nothing is half done.
        let before: BTreeMap<_, _> = names.iter().map(|name| (*name, self.version(name))).collect();
        for (name, effects) in effects {
            self.apply(name, effects, at);
        }
        self.plan_members(mutations);
        let committed = |name: &&CollectionName| Committed {
            collection: (*name).clone(),
            epoch: self.meta(name).map(|meta| meta.head.epoch),
            prev_version: before[*name],
            version: self.version(name),
        };
        Ok(Answer { collections: names.iter().map(committed).collect(), replayed: false })
    }

    /// Whether a version of these effects fits into a message, and the collection into its quota.
    /// What makes a collection smaller fits, however large it is.
    fn check_size(&self, name: &CollectionName, effects: &[(&Key, Effect)]) -> Result<(), Refusal> {
        let bytes = effects.iter().map(|(key, effect)| effect.size(key)).sum();
        if bytes > COMMIT_BYTES_MAX {
            return Err(Refusal::VersionTooLarge { collection: name.clone(), bytes });
        }
        let Some(meta) = self.meta(name) else { return Ok(()) };
        let Some(quota) = meta.policy.quota() else { return Ok(()) };
        let old = |key| self.live(name, key).map_or(0, |old| item_bytes(key, &old.key));
        let before: u64 = effects.iter().map(|(key, _)| old(key)).sum();
        let after: u64 = effects.iter().map(|(key, effect)| effect.live_bytes(key)).sum();
        let bytes = (meta.head.bytes + after).saturating_sub(before);
        if after > before && bytes > quota {
            return Err(Refusal::OverQuota { collection: name.clone(), bytes, quota });
        }
        Ok(())
    }

    fn version(&self, name: &CollectionName) -> Version {
        self.meta(name).map_or(Version::ZERO, |meta| meta.head.version)
    }

    /// What a mutation changes; `None` = nothing.
    fn effect<'m>(
        &self,
        index: usize,
        mutation: &'m Mutation,
    ) -> Result<Option<(&'m Key, Effect)>, Refusal> {
        let live = |key| self.live(&mutation.collection, key);
        match &mutation.op {
            Op::Put { key, value, sort_key } => {
                let effect = match live(key) {
                    None => Some(Effect::Put {
                        value: value.clone(),
                        sort_key: sort_key.clone().unwrap_or_default(),
                        same_value: false,
                    }),
                    Some(old) => {
                        put_over(old, value, sort_key.as_ref()).map_err(Refusal::Damaged)?
                    }
                };
                Ok(effect.map(|effect| (key, effect)))
            }
            Op::Delete { key } => Ok(live(key).map(|_| (key, Effect::Delete))),
            Op::Reorder { key, sort_key } => {
                let old = live(key).ok_or(Refusal::ReorderOfMissing { index })?;
                if old.key.sort_key == *sort_key {
                    return Ok(None);
                }
                let value = value_of(old).map_err(Refusal::Damaged)?;
                let sort_key = sort_key.clone();
                Ok(Some((key, Effect::Put { value, sort_key, same_value: true })))
            }
            // Who follows is no item; it is planned when nothing can refuse any more.
            Op::Follow { .. } | Op::Unfollow { .. } => Ok(None),
        }
    }

    pub(super) fn apply(
        &mut self,
        name: &CollectionName,
        effects: Vec<(&Key, Effect)>,
        at: &mut Moment<'_>,
    ) {
        let working = self.collections.get_mut(name).expect("the collection was asked for");
        if working.meta.now.is_none() {
            working.id = Some(CollectionId(self.next_id));
            self.next_id += 1;
            let head = newborn((at.mint)());
            let policy = Policy::default();
            working.meta.now = Some(Meta { name: name.clone(), head, policy });
        }
        let head = &mut working.meta.now.as_mut().expect("set above").head;
        head.version = head.version.next();
        // A clock that went back must not let a younger tombstone look older.
        head.commit_time = head.commit_time.max(at.now);
        let (version, time) = (head.version, head.commit_time);
        for (key, effect) in effects {
            working.put(key, effect, version, time);
        }
    }
}

fn newborn(epoch: Epoch) -> Head {
    Head {
        epoch,
        version: Version::ZERO,
        floor: Version::ZERO,
        items: 0,
        tombstones: 0,
        bytes: 0,
        digest: Digest::EMPTY,
        commit_time: Timestamp::default(),
    }
}

fn replay(earlier: &Receipt, fingerprint: &[u8; 16]) -> Result<Answer, Refusal> {
    if earlier.fingerprint != *fingerprint {
        return Err(Refusal::KeyReused);
    }
    let collections = decode_committed(earlier.payload.clone()).map_err(|error| {
        let place = "the receipt of an idempotency key".to_owned();
        Refusal::Damaged(StoreError::Damaged { place, reason: error.to_string() })
    })?;
    Ok(Answer { collections, replayed: true })
}
