//! A bit is flipped, or a file is cut short, in the data directory of a real server: the next
//! start is right by itself, or it refuses with its own exit code and a message that says what to
//! do. It never serves something else, hangs, or leaves nothing but a panic's trace.
//! `DELTASYNC_DAMAGES` sets how many, `DELTASYNC_SEED` repeats their dice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_tests::process::{Process, Program};
use sync_tests::seed::{dice, number};
use sync_tests::server::copy_dir;
use sync_tests::traffic::Traffic;
use sync_tests::traffic::plan::Values;

use crate::SERVER;
use sync_tests::report::report;

/// Damages per run when the environment does not say.
const DAMAGES: u64 = 8;

/// Commits of each writer before and after the restart that gives the store a past.
const COMMITS: u64 = 30;

/// The exit code of a store that is refused, and of one that could not be opened.
const REFUSED: i32 = 3;

/// What a person can do about it; one of these is in the message.
const ADVICE: [&str; 2] = ["restore", "newer"];

/// G3, G5: whatever happens to the files, nothing but what was written is ever served.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_right_or_refused() {
    let (mut dice, _seed) = dice();
    let whole = tempfile::tempdir().unwrap();
    let mut traffic = Traffic::new(Values::Small);
    let program = Program::new(SERVER, whole.path()).with(&["--tombstones-max=30"]);
    for _ in 0..2 {
        let mut process = program.start_serving().await;
        assert!(traffic.work(&program, COMMITS).await.unwrap(), "it works");
        process.kill();
    }
    let mut told = BTreeMap::<String, u64>::new();
    let damages = number("DELTASYNC_DAMAGES").unwrap_or(DAMAGES);
    for case in 0..=damages {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(whole.path(), dir.path());
        // The first copy is whole: it must be served.
        let what = if case == 0 { "nothing".into() } else { damage(dir.path(), &mut dice) };
        let outcome = outcome(&mut traffic, dir.path(), &what).await;
        assert!(case > 0 || outcome == "served", "a whole copy is {outcome}");
        *told.entry(outcome).or_default() += 1;
    }
    report(&format!("damaged stores: {damages}: {told:#?}"));
}

/// What a start makes of it, in a few words.
async fn outcome(traffic: &mut Traffic, dir: &Path, what: &str) -> String {
    let program = Program::new(SERVER, dir).with(&["--tombstones-max=30"]);
    let mut process = program.start();
    if process.serving_or_ended().await.is_ok() {
        let right = traffic.check(&program.wire()).await;
        right.unwrap_or_else(|wrong| panic!("{what}: it serves something else: {wrong}"));
        process.kill();
        return "served".into();
    }
    let code = process.ended().await.code();
    let last = last_words(&process);
    assert_eq!(code, Some(REFUSED), "{what}: {}", process.log());
    let advised = ADVICE.iter().any(|advice| last.contains(advice));
    assert!(last.starts_with("sync-server: ") && advised, "{what}: no advice in: {last}");
    // Without names and numbers it says what kind of refusal it was.
    let (_, reason) = last.split_once("cannot be used: ").unwrap_or(("", last.as_str()));
    let words = reason.split(' ').filter(|word| !word.contains(['/', '.']));
    let words = words.filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    format!("refused: {}", words.take(12).collect::<Vec<_>>().join(" "))
}

fn last_words(process: &Process) -> String {
    process.log().lines().last().unwrap_or_default().to_owned()
}

/// Damages one of the files; the one with the rows most often.
fn damage(dir: &Path, dice: &mut StdRng) -> String {
    let mut files = Vec::new();
    list(dir, &mut files);
    files.retain(|file| fs::metadata(file).unwrap().len() > 0);
    files.sort();
    let rows = files.iter().position(|file| file.ends_with("store/db")).expect("it is there");
    let file = if dice.random_bool(0.6) { rows } else { dice.random_range(0..files.len()) };
    let file = &files[file];
    let name = file.strip_prefix(dir).unwrap().display();
    let mut bytes = fs::read(file).unwrap();
    // Most of the last segment is zeros that nobody reads.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let at = dice.random_range(0..end);
    let what = match dice.random_range(0..10) {
        0..6 => {
            bytes[at] ^= 1 << dice.random_range(0..8);
            format!("a bit of {name} at {at} of {end}")
        }
        6..8 => {
            bytes.truncate(at);
            format!("{name} cut at {at} of {end}")
        }
        8 => {
            let hole = at..end.min(at + 4096);
            bytes[hole].fill(0);
            format!("a page of {name} zeroed at {at} of {end}")
        }
        _ => {
            fs::remove_file(file).unwrap();
            return format!("{name} removed");
        }
    };
    fs::write(file, bytes).unwrap();
    what
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}
