//! Measures deltasync beside its peers: one run, one machine, one disk, systems taking turns, every
//! acknowledgement synced. Prints a table, writes JSON, draws charts. docs/PERFORMANCE.md tells how
//! to read them.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use sync_benches::goals;
use sync_benches::report::Report;
use sync_benches::table;

use crate::failure::{Failure, Outcome, chain, io as doing};
use crate::sizes::Sizes;
use crate::systems::{Lineup, PEERS, Peer};
use crate::work::Bench;

/// Clients are to cost as little as may be, those of all systems alike: what they take of a full machine,
/// the servers do not get.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod charts;
mod failure;
mod machine;
mod process;
mod sizes;
mod system;
mod systems;
mod values;
mod work;

/// Measures deltasync beside its peers, and prints the table.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Args {
    /// Only these workloads, e.g. `--only w1,w3`.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<Workload>,
    /// Only these peers, e.g. `--peers etcd,redis`; `--no-peers` for none.
    #[arg(long, value_delimiter = ',', default_values_t = PEERS, value_name = "NAMES")]
    peers: Vec<Peer>,
    /// Only ours.
    #[arg(long)]
    no_peers: bool,
    /// Runs of each system in each case.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
    /// All sizes: takes hours instead of minutes.
    #[arg(long)]
    full: bool,
    /// Where the stores are: the disk that is measured. Emptied of them at the end.
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    dir: PathBuf,
    /// Where report.json and the charts go.
    #[arg(long, default_value = "target/bench/report", value_name = "DIR")]
    out: PathBuf,
    /// The program to measure. Default: it is built first, as it is shipped.
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
}

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Workload {
    /// Durable commits.
    W1,
    /// Catch-up.
    W2,
    /// Fan-out.
    W3,
    /// First load.
    W4,
    /// Memory of idle subscribers.
    W5,
    /// A login storm.
    W6,
    /// One stalled and one slow subscriber.
    W7,
    /// Resync after a lost cursor.
    W8,
    /// Growth of the store.
    W9,
}

/// The profile of what is shipped.
const SHIPPED: &str = "dist";

const ALL: [Workload; 9] = [
    Workload::W1,
    Workload::W2,
    Workload::W3,
    Workload::W4,
    Workload::W5,
    Workload::W6,
    Workload::W7,
    Workload::W8,
    Workload::W9,
];

/// Says how far it is. Nothing is left to do about a closed stderr.
pub(crate) fn progress(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            progress(&format!("compare: {}", chain(&failure)));
            ExitCode::FAILURE
        }
    }
}

/// `true` = everything of ours was measured.
fn run(args: &Args) -> Outcome<bool> {
    let server = args.server.clone().map_or_else(build, Ok)?;
    fs::create_dir_all(&args.dir).map_err(doing("make a directory"))?;
    let machine = machine::machine(&args.dir);
    if machine.file_system.starts_with("tmpfs") {
        return Err(Failure::Wrong("the stores would be in memory: name another --dir".to_owned()));
    }
    let scratch = tempfile::tempdir_in(&args.dir).map_err(doing("make a directory"))?;
    let times = usize::from(args.runs);
    let sizes = if args.full { Sizes::full(times) } else { Sizes::small(times) };
    let peers = if args.no_peers { Vec::new() } else { args.peers.clone() };
    let lineup = Lineup { server, peers };
    let mut bench = Bench::new(scratch.path(), sizes, lineup);
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let only = if args.only.is_empty() { ALL.to_vec() } else { args.only.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(doing("start a runtime"))?;
    let done = runtime.block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(Failure::Wrong("interrupted".to_owned())),
            measured = measure(&mut bench, &only) => measured,
        }
    });
    done?;
    let Bench { series, notes, failed, versions, .. } = bench;
    let mut report = Report { date, machine, versions, series, notes, goals: Vec::new() };
    report.goals = goals::judge(&report);
    write(&report, &args.out)?;
    writeln!(io::stdout(), "{}", table::text(&report)).map_err(doing("print the table"))?;
    Ok(!failed)
}

async fn measure(bench: &mut Bench, only: &[Workload]) -> Outcome<()> {
    for workload in only {
        match workload {
            Workload::W1 => work::commits::run(bench).await?,
            Workload::W2 => work::catch_up::run(bench).await?,
            Workload::W3 => work::fan_out::run(bench).await?,
            Workload::W4 => work::first_load::run(bench).await?,
            Workload::W5 => work::idle::run(bench).await?,
            Workload::W6 => work::logins::run(bench).await?,
            Workload::W7 => work::stalled::run(bench).await?,
            Workload::W8 => work::resync::run(bench).await?,
            Workload::W9 => work::growth::run(bench).await?,
        }
    }
    Ok(())
}

/// Builds the server as it is shipped, whatever profile we are of; where it is.
fn build() -> Outcome<PathBuf> {
    let us = std::env::current_exe().map_err(doing("find ourselves"))?;
    let Some(cargo) = std::env::var_os("CARGO") else {
        return Ok(us.with_file_name("sync-server"));
    };
    progress("building sync-server");
    let words = [
        "build",
        "--profile",
        SHIPPED,
        "--locked",
        "-q",
        "-p",
        "sync-server",
        "--bin",
        "sync-server",
    ];
    let built = Command::new(cargo).args(words).status().map_err(doing("run cargo"))?;
    if !built.success() {
        return Err(Failure::Wrong("sync-server could not be built".to_owned()));
    }
    let target = us.ancestors().nth(2).expect("a program that cargo built is in target/PROFILE");
    Ok(target.join(SHIPPED).join("sync-server"))
}

fn write(report: &Report, out: &Path) -> Outcome<()> {
    fs::create_dir_all(out).map_err(doing("make a directory"))?;
    let text =
        serde_json::to_string_pretty(report).map_err(|error| Failure::Wrong(error.to_string()))?;
    fs::write(out.join("report.json"), text + "\n").map_err(doing("write the report"))?;
    for (name, svg) in charts::all(report) {
        fs::write(out.join(name), svg).map_err(doing("write a chart"))?;
    }
    Ok(())
}
