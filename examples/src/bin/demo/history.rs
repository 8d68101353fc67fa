//! The history that is replayed: who was in which organisation and team of the Kubernetes project,
//! from 2018 to 2026. It ships with the program; `examples/data` says where it comes from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;

use ruzstd::decoding::StreamingDecoder;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use sync_client::types::{CollectionName, Key, Mutation, Op, Value};

use crate::Error;

static CHANGES: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/data/membership-k8s-org/changes.jsonl.zst"
));
static MANIFEST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/membership-k8s-org/MANIFEST.json"));

/// The history, oldest first.
pub(crate) struct History {
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) manifest: Manifest,
}

/// One merged change of the source: atomic, often over several collections.
pub(crate) struct Transaction {
    pub(crate) tx: usize,
    /// RFC 3339.
    pub(crate) time: String,
    pub(crate) mutations: Vec<Mutation>,
}

/// What the makers of the data set proved about it.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    pub(crate) collections_ever: usize,
    pub(crate) final_state_sha256: String,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

/// The state after a transaction.
#[derive(Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) tx: usize,
    pub(crate) state_sha256: String,
}

/// Collections and their items.
pub(crate) type State = BTreeMap<CollectionName, BTreeMap<Key, Vec<u8>>>;

#[derive(Deserialize)]
struct Line<'a> {
    tx: usize,
    time: String,
    #[serde(borrow)]
    ops: Vec<OpLine<'a>>,
}

#[derive(Deserialize)]
struct OpLine<'a> {
    collection: String,
    op: OpName,
    key: String,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpName {
    Put,
    Delete,
}

// === impl History ===

impl History {
    pub(crate) fn load() -> Result<Self, Error> {
        let mut text = Vec::new();
        StreamingDecoder::new(CHANGES)?.read_to_end(&mut text)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let transactions = lines.map(Transaction::parse).collect::<Result<_, _>>()?;
        Ok(Self { transactions, manifest: serde_json::from_str(MANIFEST)? })
    }

    /// The day of a transaction.
    pub(crate) fn day(&self, tx: usize) -> &str {
        let time = &self.transactions[tx - 1].time;
        time.split('T').next().unwrap_or(time)
    }
}

// === impl Transaction ===

impl Transaction {
    fn parse(line: &[u8]) -> Result<Self, Error> {
        let line: Line<'_> = serde_json::from_slice(line)?;
        let mutations = line.ops.into_iter().map(OpLine::mutation).collect::<Result<_, _>>()?;
        Ok(Self { tx: line.tx, time: line.time, mutations })
    }
}

// === impl OpLine ===

impl OpLine<'_> {
    fn mutation(self) -> Result<Mutation, Error> {
        let key = Key::new(self.key)?;
        let op = match self.op {
            OpName::Put => {
                let value = self.value.ok_or("a put without a value")?.get().to_owned();
                Op::Put { key, value: Value::new(value)?, sort_key: None }
            }
            OpName::Delete => Op::Delete { key },
        };
        Ok(Mutation { collection: CollectionName::new(&self.collection)?, op })
    }
}

/// The digest by which the data set proves a state: over `collection NUL key NUL value LF` of all
/// items, values as JSON with sorted keys and without spaces.
pub(crate) fn state_sha256(state: &State) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for (collection, items) in state {
        for (key, value) in items {
            let value = canonical(serde_json::from_slice(value)?);
            hash.update(collection.as_str());
            hash.update([0]);
            hash.update(key.as_bytes());
            hash.update([0]);
            hash.update(serde_json::to_vec(&value)?);
            hash.update(b"\n");
        }
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

fn canonical(value: Json) -> Json {
    match value {
        Json::Object(fields) => {
            let sorted: BTreeMap<_, _> =
                fields.into_iter().map(|(name, value)| (name, canonical(value))).collect();
            Json::Object(sorted.into_iter().collect())
        }
        Json::Array(values) => Json::Array(values.into_iter().map(canonical).collect()),
        plain @ (Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_)) => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_what_its_makers_proved() {
        let history = History::load().unwrap();
        let mut state = State::new();
        let mut checkpoints = history.manifest.checkpoints.iter().peekable();
        for transaction in &history.transactions {
            for Mutation { collection, op } in transaction.mutations.clone() {
                let items = state.entry(collection).or_default();
                match op {
                    Op::Put { key, value, .. } => {
                        items.insert(key, value.as_bytes().to_vec());
                    }
                    Op::Delete { key } => assert!(items.remove(&key).is_some()),
                    Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. } => unreachable!(),
                }
            }
            if let Some(checkpoint) = checkpoints.next_if(|next| next.tx == transaction.tx) {
                assert_eq!(state_sha256(&state).unwrap(), checkpoint.state_sha256);
            }
        }
        assert!(checkpoints.next().is_none());
        assert_eq!(state.len(), history.manifest.collections_ever);
        assert_eq!(state_sha256(&state).unwrap(), history.manifest.final_state_sha256);
    }
}
