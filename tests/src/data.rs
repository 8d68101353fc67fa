//! Real histories: `changes.jsonl.zst` and `MANIFEST.json` of `examples/data` and, where they
//! are present, of `DELTASYNC_DATA` (by default `../shared/data` beside the checkout).

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};

use ruzstd::decoding::StreamingDecoder;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use sync_proto::types::Mutation;

use crate::compose::{delete, put};

/// A window of 64 MiB is the most that the sets use.
type Reader = BufReader<StreamingDecoder<File, ruzstd::decoding::FrameDecoder>>;

/// A history.
#[derive(Debug, Clone)]
pub struct History {
    dir: PathBuf,
}

/// What a history says of itself.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// How many transactions it has.
    pub transactions: u64,
    /// Hash of the state after all of them.
    pub final_state_sha256: String,
    /// Hashes on the way, by transaction.
    pub checkpoints: BTreeMap<u64, String>,
}

/// The transactions of a history, in order.
#[allow(missing_debug_implementations, reason = "holds a decoder")]
pub struct Transactions {
    lines: Lines<Reader>,
}

/// One transaction.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Its number, from 1.
    pub number: u64,
    /// What it changes; more than a commit may hold in a few.
    pub mutations: Vec<Mutation>,
}

/// All items of all collections, as the hash of a state takes them.
pub type State = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

// === impl History ===

impl History {
    /// The history that is shipped.
    #[must_use]
    pub fn shipped() -> Self {
        Self { dir: workspace().join("examples/data/membership-k8s-org") }
    }

    /// A history that is not shipped, if it is present.
    #[must_use]
    pub fn beside(name: &str) -> Option<Self> {
        let data = env::var_os("DELTASYNC_DATA").map(PathBuf::from);
        let dir = data.unwrap_or_else(|| workspace().join("../shared/data")).join(name);
        dir.join("changes.jsonl.zst").exists().then_some(Self { dir })
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let text = std::fs::read_to_string(self.dir.join("MANIFEST.json")).unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        let text = |json: &Json| json.as_str().unwrap().to_owned();
        let checkpoint = |json: &Json| (json["tx"].as_u64().unwrap(), text(&json["state_sha256"]));
        Manifest {
            transactions: json["transactions"].as_u64().unwrap(),
            final_state_sha256: text(&json["final_state_sha256"]),
            checkpoints: json["checkpoints"].as_array().unwrap().iter().map(checkpoint).collect(),
        }
    }

    /// Its transactions.
    #[must_use]
    pub fn transactions(&self) -> Transactions {
        let file = File::open(self.dir.join("changes.jsonl.zst")).unwrap();
        let decoder = StreamingDecoder::new(file).unwrap();
        Transactions { lines: BufReader::with_capacity(1 << 16, decoder).lines() }
    }
}

// === impl Transactions ===

impl Iterator for Transactions {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        let line = self.lines.next()?.unwrap();
        let json: Json = serde_json::from_str(&line).unwrap();
        let ops = json["ops"].as_array().unwrap();
        let mutations = ops.iter().map(mutation).collect();
        Some(Transaction { number: json["tx"].as_u64().unwrap(), mutations })
    }
}

fn mutation(op: &Json) -> Mutation {
    let (collection, key) = (op["collection"].as_str().unwrap(), op["key"].as_str().unwrap());
    match op["op"].as_str().unwrap() {
        "put" => put(collection, key, canonical(&op["value"])),
        "delete" => delete(collection, key),
        other => panic!("an op {other:?} is not in the format"),
    }
}

/// A value as text that is equal for equal values: sorted keys, no spaces, nothing escaped that
/// need not be.
#[must_use]
pub fn canonical(value: &Json) -> String {
    match value {
        Json::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            let field = |(key, value): (&String, &Json)| {
                format!("{}:{}", Json::String(key.clone()), canonical(value))
            };
            format!("{{{}}}", sorted.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        Json::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => value.to_string(),
    }
}

/// The hash of a state as `MANIFEST.json` has it.
#[must_use]
pub fn state_sha256(state: &State) -> String {
    let mut hash = Sha256::new();
    for (collection, items) in state {
        for (key, value) in items {
            hash.update(collection);
            hash.update([0]);
            hash.update(key);
            hash.update([0]);
            hash.update(value);
            hash.update("\n");
        }
    }
    hex(&hash.finalize())
}

/// Bytes as people write them.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The directory of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}
