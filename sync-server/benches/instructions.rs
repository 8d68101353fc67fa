//! Instructions that the pure core takes, counted by callgrind, against a budget that is committed:
//! unlike seconds they are the same on every machine, so a gate can fail on them.
//!
//! ```text
//!   cargo bench --workspace --bench instructions --profile dev             compare, fail above 5 %
//!   cargo bench --workspace --bench instructions --profile dev -- --write  write the budget anew
//! ```
//! The profile is `dev`, whose libraries the tests have built anyway: a budget compares like with like.
//! A compiler counts differently from the next, so the budget names its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use sync_proto::convert::{decode_change, encode_change};
use sync_proto::digest::Digest;
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX};
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Commit, Cursor, Epoch, Key, Mutation, Op, Outcome, Pull,
    SortKey, Target, Timestamp, Value, Version,
};
use sync_proto::v1;
use sync_server::core::request::Request;
use sync_server::engine::ledger::{Ledger, Settings};
use sync_server::engine::pulling::Answer;
use sync_server::store::memory::MemoryStore;

/// Above the budget by more than this share: the gate fails. Below by as much: the budget is stale.
const TOLERANCE: f64 = 0.05;

/// What a run counts in: callgrind collects while this function runs.
const COUNTED: &str = "*counted_work*";

/// Items of the store that commits and pulls work on.
const ITEMS: u32 = 2_000;
const COLLECTIONS: u32 = 100;
const VALUE_BYTES: usize = 128;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What was counted, and with what.
#[derive(Debug, Serialize, Deserialize)]
struct Budget {
    rustc: String,
    instructions: BTreeMap<String, u64>,
}

/// One thing that is counted.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// A group of 64 commits of one item each.
    GroupOf64,
    /// One commit of 100 items in many collections.
    BatchOf100,
    /// A pull of 1,000 changes that nobody has pulled before.
    Pull1000,
    /// A pull of 200 targets of which none has changed.
    Aligned200,
    /// Digests of 100 items.
    Digests100,
    /// Requests of 100 mutations, from the wire.
    Request100,
    /// 1,000 changes, decoded as a client does.
    Changes1000,
}

const CASES: [(&str, Case); 7] = [
    ("a group of 64 commits", Case::GroupOf64),
    ("a commit of 100 mutations", Case::BatchOf100),
    ("a pull of 1,000 changes", Case::Pull1000),
    ("a pull of 200 aligned targets", Case::Aligned200),
    ("digests of 100 items", Case::Digests100),
    ("a request of 100 mutations", Case::Request100),
    ("decoding 1,000 changes", Case::Changes1000),
];

/// What a case works on, made before anything is counted.
struct Material {
    ledger: Ledger<MemoryStore>,
    requests: Vec<Request>,
    pull: Pull,
    request: v1::CommitRequest,
    changes: Vec<bytes::Bytes>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            say(&format!("instructions: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Nothing is left to do about a closed stdout.
fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// `true` = within the budget, or not run.
fn run() -> Result<bool, Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [flag, name] = &words[..]
        && flag == "--case"
    {
        let case = CASES.iter().find(|(known, _)| known == name).ok_or("no such case")?.1;
        let mut material = Material::new(case)?;
        let done = counted_work(case, &mut material)?;
        return Ok(done > 0);
    }
    let write = words.iter().any(|word| word == "--write");
    let Ok(rustc) = first_line("rustc", &["--version"]) else {
        say("NOT RUN: instruction counts (rustc cannot be asked for its version)");
        return Ok(true);
    };
    if first_line("valgrind", &["--version"]).is_err() {
        say("NOT RUN: instruction counts (valgrind is not installed)");
        return Ok(true);
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    if write {
        let budget = Budget { rustc, instructions: count_all()? };
        fs::write(place, serde_json::to_string_pretty(&budget)? + "\n")?;
        return Ok(true);
    }
    let budget: Budget = serde_json::from_str(&fs::read_to_string(place)?)?;
    if budget.rustc != rustc {
        say(&format!(
            "NOT RUN: instruction counts (the budget is of {}, here is {rustc})",
            budget.rustc
        ));
        return Ok(true);
    }
    Ok(compare(&budget.instructions, &count_all()?))
}

/// Whether all are within the budget; says how each one did.
fn compare(budget: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> bool {
    let mut within = true;
    for (name, count) in counted {
        let Some(allowed) = budget.get(name) else {
            say(&format!("{name:32} {count:>12}  not in the budget: run with --write"));
            within = false;
            continue;
        };
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let change = *count as f64 / *allowed as f64 - 1.0;
        let verdict = match change {
            above if above > TOLERANCE => "TOO MANY",
            below if below < -TOLERANCE => "fewer: run with --write to keep it so",
            _within => "ok",
        };
        within &= change <= TOLERANCE;
        say(&format!("{name:32} {count:>12}  {:+6.2} %  {verdict}", change * 100.0));
    }
    within
}

fn count_all() -> Result<BTreeMap<String, u64>, Failure> {
    let mut counted = BTreeMap::new();
    for (name, _) in CASES {
        counted.insert(name.to_owned(), count(name)?);
    }
    Ok(counted)
}

/// Runs a case of this very program under callgrind.
fn count(name: &str) -> Result<u64, Failure> {
    let file: PathBuf = std::env::temp_dir().join(format!("instructions.{}", std::process::id()));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["--case", name])
        .output()?;
    let said = fs::read_to_string(&file);
    drop(fs::remove_file(&file));
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let said = said?;
    let total = said.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total.ok_or("callgrind told no total")?.trim().parse()?;
    if total == 0 { Err(format!("{name}: nothing was counted").into()) } else { Ok(total) }
}

fn first_line(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// The one function that is counted. What it returns is above zero if it worked.
#[inline(never)]
fn counted_work(case: Case, material: &mut Material) -> Result<usize, Failure> {
    match case {
        Case::GroupOf64 | Case::BatchOf100 => commit(&material.ledger, &material.requests),
        Case::Pull1000 | Case::Aligned200 => {
            let answers =
                material.ledger.pull(&material.pull, 0, |_| true, &AtomicBool::new(false));
            Ok(answers.iter().map(|answered| weight(&answered.outcome)).sum())
        }
        Case::Digests100 => {
            let value = vec![7; VALUE_BYTES];
            let sum = (0..100).fold(Digest::EMPTY, |mut sum, number| {
                let key = Key::new(format!("k{number:08}")).expect("a short key");
                let version = Version::new(number + 1).expect("a small version");
                sum += Digest::of_item(&key, version, &SortKey::default(), &value);
                sum
            });
            Ok(usize::from(sum != Digest::EMPTY))
        }
        Case::Request100 => Ok(Commit::try_from(material.request.clone())?.mutations.len()),
        Case::Changes1000 => {
            let changes = material.changes.iter().map(|bytes| decode_change(bytes.clone()));
            Ok(changes.collect::<Result<Vec<_>, _>>()?.len())
        }
    }
}

/// How much an answer brings.
fn weight(answer: &Answer) -> usize {
    match answer {
        Ok(Outcome::Delta(delta)) => delta.changes.len(),
        Ok(Outcome::Aligned(_)) => 1,
        Ok(
            Outcome::Reset(_)
            | Outcome::Denied
            | Outcome::NotFound
            | Outcome::Deferred(_)
            | Outcome::Failed(_),
        )
        | Err(_) => 0,
    }
}

fn commit(ledger: &Ledger<MemoryStore>, requests: &[Request]) -> Result<usize, Failure> {
    let mut mint = || Epoch::new(7).expect("not zero");
    let group = ledger.commit(requests, Timestamp::from_millis(1), &mut mint)?;
    Ok(group.answers.iter().filter(|answer| answer.is_ok()).count())
}

fn name(collection: u32) -> CollectionName {
    CollectionName::new(&format!("bench/{collection:05}")).expect("a name of the right form")
}

/// A put of an item with a value that tells rounds apart.
fn put(number: u32, round: u8) -> Mutation {
    let op = Op::Put {
        key: Key::new(format!("k{number:08}")).expect("a short key"),
        value: Value::new(vec![round; VALUE_BYTES]).expect("a short value"),
        sort_key: None,
    };
    Mutation { collection: name(number % COLLECTIONS), op }
}

fn request(mutations: Vec<Mutation>) -> Request {
    let commit = Commit { mutations, ..Commit::default() };
    Request::Commit { commit, fingerprint: [0; 16] }
}

// === impl Material ===

impl Material {
    fn new(case: Case) -> Result<Self, Failure> {
        let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {})?;
        let puts: Vec<Mutation> = (0..ITEMS).map(|number| put(number, 1)).collect();
        commit(&ledger, &[request(puts)])?;
        // Collection 0 holds a page more.
        let more =
            (0..1_000).map(|number| Mutation { collection: name(0), ..put(10_000 + number, 1) });
        commit(&ledger, &[request(more.collect())])?;
        let spread = |number: u32| put(number * 37 % ITEMS, 2);
        let requests = match case {
            Case::GroupOf64 => (0..64).map(|number| request(vec![spread(number)])).collect(),
            Case::BatchOf100
            | Case::Pull1000
            | Case::Aligned200
            | Case::Digests100
            | Case::Request100
            | Case::Changes1000 => vec![request((0..100).map(spread).collect())],
        };
        let targets = match case {
            Case::Aligned200 => {
                (0..200).map(|number| aligned(&ledger, number % COLLECTIONS)).collect()
            }
            Case::GroupOf64
            | Case::BatchOf100
            | Case::Pull1000
            | Case::Digests100
            | Case::Request100
            | Case::Changes1000 => vec![Target::all(name(0), None)],
        };
        let commit = Commit { mutations: (0..100).map(spread).collect(), ..Commit::default() };
        Ok(Self {
            ledger,
            requests,
            pull: Pull {
                targets: targets.into_iter().map(Ok).collect(),
                bytes_max: PAGE_BYTES_MAX,
                changes_max: PAGE_CHANGES_MAX,
                client_id: String::new(),
            },
            request: v1::CommitRequest::from(commit),
            changes: (0..1_000).map(|number| encode_change(&change(number))).collect(),
        })
    }
}

/// A target that has everything.
fn aligned(ledger: &Ledger<MemoryStore>, collection: u32) -> Target {
    let cursor: Option<Cursor> = ledger.head(&name(collection)).map(|head| head.cursor());
    Target::all(name(collection), cursor)
}

fn change(number: u64) -> Change {
    let version = Version::new(number + 1).expect("a small version");
    Change {
        key: Key::new(format!("k{number:08}")).expect("a short key"),
        version,
        created: version,
        kind: ChangeKind::Put {
            value: Some(Value::new(vec![1; VALUE_BYTES]).expect("a short value")),
            sort_key: SortKey::default(),
            value_version: version,
        },
    }
}
