//! Commits between wire and checked types.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;

use super::{collection, required, version};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_MUTATIONS_MAX, COMMIT_PRECONDITIONS_MAX, ID_LEN_MAX};
use crate::types::{
    CollectionName, Commit, Committed, Condition, Epoch, Key, Malformed, Mutation, Op,
    Precondition, SortKey, Subject, Value, Version,
};
use crate::v1;

// === Commit ===

impl TryFrom<v1::CommitRequest> for Commit {
    type Error = Malformed;

    fn try_from(request: v1::CommitRequest) -> Result<Self, Malformed> {
        let mutations = mutations(request.mutations)?;
        let count = request.preconditions.len();
        if count > COMMIT_PRECONDITIONS_MAX {
            let reason = format!("{count}, the limit is {COMMIT_PRECONDITIONS_MAX}");
            return Err(Malformed::new("preconditions", reason));
        }
        let parse = |(index, wire): (usize, v1::Precondition)| {
            Precondition::try_from(wire).map_err(|e| e.within_element("preconditions", index))
        };
        let preconditions =
            request.preconditions.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        id(&request.idempotency_key, "idempotency_key")?;
        Ok(Self { mutations, preconditions, idempotency_key: request.idempotency_key })
    }
}

impl From<Commit> for v1::CommitRequest {
    fn from(commit: Commit) -> Self {
        Self {
            mutations: commit.mutations.into_iter().map(Into::into).collect(),
            preconditions: commit.preconditions.into_iter().map(Into::into).collect(),
            idempotency_key: commit.idempotency_key,
        }
    }
}

/// Checks an id of a client, an import or a retry: at most 128 bytes, perhaps empty.
pub fn id(id: &str, field: &str) -> Result<(), Malformed> {
    if id.len() > ID_LEN_MAX {
        let reason = format!("{} bytes, the limit is {ID_LEN_MAX}", id.len());
        return Err(Malformed::new(field, reason));
    }
    if id.chars().any(char::is_control) {
        return Err(Malformed::new(field, "must not contain control characters"));
    }
    Ok(())
}

/// Checks the mutations of one commit: each of them, their number, their size together, and
/// that no item occurs twice.
pub fn mutations(wire: Vec<v1::Mutation>) -> Result<Vec<Mutation>, Malformed> {
    let count = wire.len();
    if count == 0 || count > COMMIT_MUTATIONS_MAX {
        let reason = format!("{count} of them, 1 to {COMMIT_MUTATIONS_MAX} are allowed");
        return Err(Malformed::new("mutations", reason));
    }
    let parse = |(index, wire): (usize, v1::Mutation)| {
        Mutation::try_from(wire).map_err(|e| e.within_element("mutations", index))
    };
    let mutations: Vec<Mutation> =
        wire.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let size: usize = mutations.iter().map(|mutation| mutation.op.size()).sum();
    if size > COMMIT_BYTES_MAX {
        let reason = format!("{size} bytes together, the limit is {COMMIT_BYTES_MAX}");
        return Err(Malformed::new("mutations", reason));
    }
    let mut items: BTreeSet<(&CollectionName, &Key)> = BTreeSet::new();
    let mut followers: BTreeSet<(&CollectionName, &Subject)> = BTreeSet::new();
    for (index, mutation) in mutations.iter().enumerate() {
        let (field, once) = match &mutation.op {
            Op::Put { key, .. } | Op::Delete { key } | Op::Reorder { key, .. } => {
                ("key", items.insert((&mutation.collection, key)))
            }
            Op::Follow { subject } | Op::Unfollow { subject } => {
                ("subject", followers.insert((&mutation.collection, subject)))
            }
        };
        if !once {
            let reason = "occurs twice in this commit; say only the last state";
            return Err(Malformed::new(field, reason).within_element("mutations", index));
        }
    }
    Ok(mutations)
}

// === Mutation ===

impl TryFrom<v1::Mutation> for Mutation {
    type Error = Malformed;

    fn try_from(mutation: v1::Mutation) -> Result<Self, Malformed> {
        let collection = collection(&mutation.collection)?;
        if collection.is_inbox() {
            return Err(Malformed::new("collection", "names below \"inbox/\" are the server's"));
        }
        let op = match required(mutation.op, "op")? {
            v1::mutation::Op::Put(put) => Op::Put {
                key: Key::new(put.key)?,
                value: Value::new(put.value)?,
                sort_key: put.sort_key.map(SortKey::new).transpose()?,
            },
            v1::mutation::Op::Delete(delete) => Op::Delete { key: Key::new(delete.key)? },
            v1::mutation::Op::Reorder(reorder) => Op::Reorder {
                key: Key::new(reorder.key)?,
                sort_key: SortKey::new(reorder.sort_key)?,
            },
            v1::mutation::Op::Follow(follow) => {
                Op::Follow { subject: Subject::new(&follow.subject)? }
            }
            v1::mutation::Op::Unfollow(unfollow) => {
                Op::Unfollow { subject: Subject::new(&unfollow.subject)? }
            }
        };
        Ok(Self { collection, op })
    }
}

impl From<Mutation> for v1::Mutation {
    fn from(mutation: Mutation) -> Self {
        let op = match mutation.op {
            Op::Put { key, value, sort_key } => v1::mutation::Op::Put(v1::PutItem {
                key: key.to_bytes(),
                value: value.to_bytes(),
                sort_key: sort_key.map(|sort_key| sort_key.to_bytes()),
            }),
            Op::Delete { key } => v1::mutation::Op::Delete(v1::DeleteItem { key: key.to_bytes() }),
            Op::Reorder { key, sort_key } => v1::mutation::Op::Reorder(v1::ReorderItem {
                key: key.to_bytes(),
                sort_key: sort_key.to_bytes(),
            }),
            Op::Follow { subject } => {
                v1::mutation::Op::Follow(v1::Follow { subject: subject.to_string() })
            }
            Op::Unfollow { subject } => {
                v1::mutation::Op::Unfollow(v1::Unfollow { subject: subject.to_string() })
            }
        };
        Self { collection: mutation.collection.as_str().to_owned(), op: Some(op) }
    }
}

// === Precondition ===

impl TryFrom<v1::Precondition> for Precondition {
    type Error = Malformed;

    fn try_from(precondition: v1::Precondition) -> Result<Self, Malformed> {
        use v1::precondition::Condition as Wire;
        let condition = match required(precondition.condition, "condition")? {
            Wire::HeadEquals(equals) => {
                head_equals(equals).map_err(|error| error.within("head_equals"))?
            }
            Wire::ItemVersionEquals(equals) => {
                item_version_equals(equals).map_err(|error| error.within("item_version_equals"))?
            }
            Wire::ItemAbsent(key) => Condition::ItemAbsent(item_key(key, "item_absent")?),
            Wire::ItemPresent(key) => Condition::ItemPresent(item_key(key, "item_present")?),
        };
        Ok(Self { collection: collection(&precondition.collection)?, condition })
    }
}

/// Epoch 0 with version 0 = the collection does not exist; epoch 0 = any epoch. No collection
/// stands at version 0 of an epoch: it begins with its first commit.
pub fn head_equals(wire: v1::HeadEquals) -> Result<Condition, Malformed> {
    let at = version(wire.version, "version")?;
    match (Epoch::new(wire.epoch), at) {
        (None, Version::ZERO) => Ok(Condition::CollectionAbsent),
        (Some(_), Version::ZERO) => {
            let reason = "0 holds never with an epoch; without one it means that there is none";
            Err(Malformed::new("version", reason))
        }
        (epoch, at) => Ok(Condition::HeadEquals(epoch, at)),
    }
}

fn item_version_equals(wire: v1::ItemVersionEquals) -> Result<Condition, Malformed> {
    let at = version(wire.version, "version")?;
    if at == Version::ZERO {
        return Err(Malformed::new("version", "0 holds never; say item_absent"));
    }
    Ok(Condition::ItemVersionEquals(Key::new(wire.key)?, at))
}

/// A key that is a field by itself.
fn item_key(key: Bytes, field: &str) -> Result<Key, Malformed> {
    Key::new(key).map_err(|error| Malformed::new(field, error.reason))
}

impl From<Precondition> for v1::Precondition {
    fn from(precondition: Precondition) -> Self {
        use v1::precondition::Condition as Wire;
        let head = |epoch, version| Wire::HeadEquals(v1::HeadEquals { epoch, version });
        let condition = match precondition.condition {
            Condition::CollectionAbsent => head(0, 0),
            Condition::HeadEquals(epoch, version) => {
                head(epoch.map_or(0, Epoch::get), version.get())
            }
            Condition::ItemVersionEquals(key, version) => {
                let key = key.to_bytes();
                Wire::ItemVersionEquals(v1::ItemVersionEquals { key, version: version.get() })
            }
            Condition::ItemAbsent(key) => Wire::ItemAbsent(key.to_bytes()),
            Condition::ItemPresent(key) => Wire::ItemPresent(key.to_bytes()),
        };
        Self { collection: precondition.collection.as_str().to_owned(), condition: Some(condition) }
    }
}

// === Committed ===

impl From<Committed> for v1::CommittedCollection {
    fn from(committed: Committed) -> Self {
        Self {
            collection: committed.collection.as_str().to_owned(),
            epoch: committed.epoch.map_or(0, Epoch::get),
            prev_version: committed.prev_version.get(),
            version: committed.version.get(),
        }
    }
}

impl TryFrom<v1::CommittedCollection> for Committed {
    type Error = Malformed;

    fn try_from(committed: v1::CommittedCollection) -> Result<Self, Malformed> {
        Ok(Self {
            collection: collection(&committed.collection)?,
            epoch: Epoch::new(committed.epoch),
            prev_version: version(committed.prev_version, "prev_version")?,
            version: version(committed.version, "version")?,
        })
    }
}

/// Encodes the answer of a commit as a receipt keeps it.
#[must_use]
pub fn encode_committed(collections: &[Committed]) -> Bytes {
    let collections = collections.iter().cloned().map(Into::into).collect();
    v1::CommitResponse { collections, replayed: false }.encode_to_vec().into()
}

/// Decodes the answer of a commit from its receipt.
pub fn decode_committed(encoded: Bytes) -> Result<Vec<Committed>, Malformed> {
    let response = v1::CommitResponse::decode(encoded)
        .map_err(|error| Malformed::new("receipt", error.to_string()))?;
    response.collections.into_iter().map(Committed::try_from).collect()
}
