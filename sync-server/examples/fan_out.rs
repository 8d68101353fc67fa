//! What followers cost a commit: a store on disk, a ledger, no network. For each size of an audience,
//! single commits one after the other, each planned, applied and synced. Each size has its own turn,
//! those that are not written to first: what the store still does of a large batch would be charged
//! to the commits behind it. Nobody is followed in the first and the last turn: the two say how much
//! the machine itself varies.
//!
//! ```sh
//! cargo run --release -p sync-server --example fan_out -- DIR [COMMITS]
//! ```

#![allow(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sync_proto::types::{
    CollectionName, Commit, Diffusion, Epoch, Key, Mutation, Op, Subject, Timestamp, Value,
};
use sync_server::core::diffusion::Limits;
use sync_server::core::request::Request;
use sync_server::engine::ledger::{Ledger, Settings};
use sync_server::store::disk::{DiskOptions, DiskStore};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Followers of the collections that are measured; more than 512 are read.
const AUDIENCES: [usize; 7] = [0, 100_000, 1, 10, 100, 512, 0];

/// Commits of a turn that are not measured.
const WARM_UP: usize = 30;

/// Follows of one commit.
const FOLLOWS: usize = 5_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: fan_out DIR [COMMITS]")?);
    let commits: usize = arguments.next().map_or(Ok(300), |count| count.parse())?;
    let options = DiskOptions { cache_bytes: 256 << 20, ..DiskOptions::default() };
    // Only the size decides here: the rate of a measurement is not that of a service.
    let diffusion = Limits { fan_out_per_s_max: u64::MAX, ..Limits::default() };
    let settings = Settings { diffusion, ..Settings::default() };
    let open = || Ledger::open(DiskStore::open(&dir, &options)?, settings, &mut |_| {});
    let ledger = open()?;
    for audience in AUDIENCES {
        fill(&ledger, audience)?;
    }
    // Closing brings all of it into sled: nothing of it is charged to what is measured.
    ledger.into_store().close()?;
    let ledger = open()?;
    let mut took = Vec::new();
    for (turn, audience) in AUDIENCES.into_iter().enumerate() {
        let mut all = Vec::with_capacity(WARM_UP + commits);
        // No value comes twice, not even in the second turn of one collection: it would be no change.
        let rounds = turn * (WARM_UP + commits)..(turn + 1) * (WARM_UP + commits);
        for round in rounds {
            let began = Instant::now();
            commit(&ledger, vec![put(audience, round)])?;
            all.push(began.elapsed());
        }
        took.push(all.split_off(WARM_UP));
    }
    println!("{:>10} {:>6} {:>9} {:>9} {:>9}", "followers", "told", "p50 ms", "p90 ms", "p99 ms");
    for (audience, mut took) in AUDIENCES.into_iter().zip(took) {
        took.sort();
        let told = ledger.inspect(&name(audience), Timestamp::now())?;
        let told = match told.and_then(|seen| seen.diffusion) {
            None => "-",
            Some(Diffusion::Write) => "write",
            Some(Diffusion::Read) => "read",
        };
        let [half, most, worst] = [50, 90, 99].map(|part| millis(took[took.len() * part / 100]));
        println!("{audience:>10} {told:>6} {half:>9.2} {most:>9.2} {worst:>9.2}");
    }
    ledger.into_store().close()?;
    Ok(())
}

/// Lets so many subjects follow a collection of its own. The same subjects follow all of them.
fn fill(ledger: &Ledger<DiskStore>, audience: usize) -> Result<(), Box<dyn Error>> {
    commit(ledger, vec![put(audience, usize::MAX)])?;
    let subjects: Vec<usize> = (0..audience).collect();
    for some in subjects.chunks(FOLLOWS) {
        let follow = |number: &usize| {
            let subject = Subject::new(&format!("users/{number}"))?;
            Ok(Mutation { collection: name(audience), op: Op::Follow { subject } })
        };
        let follows: Result<Vec<_>, Box<dyn Error>> = some.iter().map(follow).collect();
        commit(ledger, follows?)?;
    }
    Ok(())
}

fn commit(ledger: &Ledger<DiskStore>, mutations: Vec<Mutation>) -> Result<(), Box<dyn Error>> {
    let commit = Commit { mutations, ..Commit::default() };
    let request = Request::Commit { commit, fingerprint: [0; 16] };
    let mut mint = || Epoch::new(rand::random::<u64>() | 1).expect("odd numbers are not zero");
    let mut group = ledger.commit(&[request], Timestamp::now(), &mut mint)?;
    group.answers.remove(0)?;
    Ok(())
}

fn put(audience: usize, round: usize) -> Mutation {
    let key = Key::new(format!("item {}", round % 100)).expect("short");
    let value = Value::new(format!("{round:0>100}")).expect("short");
    Mutation { collection: name(audience), op: Op::Put { key, value, sort_key: None } }
}

fn name(audience: usize) -> CollectionName {
    CollectionName::new(&format!("followed/by/{audience}")).expect("well-formed")
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}
