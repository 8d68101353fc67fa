//! The runner: plays the catalogue against a client of any language and says how it went.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sync_conformance::catalogue::Catalogue;
use sync_conformance::report::{summary, table};
use sync_conformance::run::play_all;

/// What can go wrong ends the program with its text.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Cases at once when nobody says: they mostly wait.
const JOBS: usize = 8;

/// Plays a catalogue of faults against a client, and checks what it makes of them.
#[derive(Debug, Parser)]
#[command(name = "sync-conformance")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play cases; exit code 1 if one fails.
    Run(Run),
    /// Show the cases.
    List,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The client: a program and its first arguments, separated by spaces. It is started once for
    /// each case, with these arguments behind its own: address, case, mode, name.
    #[arg(long, value_name = "COMMAND")]
    client: String,
    /// Only this case; may be repeated.
    #[arg(long = "case", value_name = "ID")]
    cases: Vec<String>,
    /// Another catalogue than the one that is built in.
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Cases at once.
    #[arg(long, default_value_t = JOBS)]
    jobs: usize,
}

fn main() -> ExitCode {
    let ended = match Args::parse().command {
        Command::Run(run) => run_cases(&run),
        Command::List => list().map(|()| true),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Where standard error is closed, there is nobody to tell.
            writeln!(io::stderr(), "error: {error}").ok();
            ExitCode::from(2)
        }
    }
}

fn run_cases(run: &Run) -> Result<bool, Error> {
    let catalogue = match &run.catalogue {
        Some(file) => Catalogue::parse(&fs::read_to_string(file)?)?,
        None => Catalogue::published()?,
    };
    let command: Vec<String> = run.client.split_whitespace().map(str::to_owned).collect();
    let cases = catalogue.only(&run.cases)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let played = runtime.block_on(play_all(cases, command, run.jobs.max(1)));
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n{}", table(&played), summary(&played))?;
    Ok(played.iter().all(|one| one.objections.is_empty()))
}

fn list() -> Result<(), Error> {
    let mut out = io::stdout().lock();
    for case in Catalogue::published()?.cases {
        writeln!(out, "{:28} {:7} {}", case.id, case.mode, case.promise)?;
    }
    Ok(())
}
