//! The demonstration: a real server in this process, eight years of real history, and three
//! followers. One is always online, one is away for nine months and comes back, one is new. Ends
//! with what it cost each of them, and with the proof that all of them are right.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;

use crate::history::History;
use crate::screen::Screen;

mod download;
mod follower;
mod history;
mod link;
mod report;
mod screen;
mod server;
mod story;

/// Whatever goes wrong ends the demonstration with its text.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Replays eight years of real history through a deltasync server while three replicas follow,
/// and proves that they are right.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    /// Print the result as one JSON object, and nothing else.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to do about a closed stderr.
            let _told = writeln!(io::stderr(), "demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `true` = everything is proven.
fn run(args: &Args) -> Result<bool, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let history = History::load()?;
    let screen = Screen::new(history.transactions.len(), args.json);
    let report = runtime.block_on(story::play(&history, &screen))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        report.print(&mut out)?;
    }
    Ok(report.is_proven())
}
