//! Puts each deliberate fault of `tests/simulation/mutations.json` into a copy of the workspace
//! and runs the test that must catch it. Exit code 1: a fault survived, or could not be tried.
//!
//! ```text
//! cargo run -p sync-tests --bin mutate              all of them (1 to 2 minutes each)
//! cargo run -p sync-tests --bin mutate -- floor     those whose name contains "floor"
//! DELTASYNC_SEEDS=n                                 seeds for each; 4,000 by default
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program of the test house")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Instant;

use sync_tests::data::workspace;
use sync_tests::mutation::{self, Mutation};
use sync_tests::seed;

/// Seeds for each fault when the environment does not say.
const SEEDS_DEFAULT: u64 = 4_000;

/// A copy of the workspace, with a build folder of its own: a faulty program must never lie where
/// another test could find it.
struct Copy {
    root: PathBuf,
    seeds: u64,
}

/// What became of a fault.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The test failed, and said this.
    Caught(String),
    Survived,
    /// It does not fit the code, or the code does not build with it.
    Untried(String),
}

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let copy = Copy::new(seed::number("DELTASYNC_SEEDS").unwrap_or(SEEDS_DEFAULT));
    let list: Vec<Mutation> =
        mutation::all().into_iter().filter(|mutation| mutation.name.contains(&wanted)).collect();
    let mut tests: Vec<_> = list.iter().map(|mutation| &mutation.test).collect();
    tests.sort_unstable();
    tests.dedup();
    for test in tests {
        let fate = copy.judge(test);
        assert_eq!(fate, Fate::Survived, "{test:?} fails although nothing is wrong");
    }
    let mut missed = 0;
    for mutation in &list {
        let began = Instant::now();
        let fate = copy.try_out(mutation);
        let (word, text) = match fate {
            Fate::Caught(said) => ("caught", said),
            Fate::Survived => ("SURVIVED", format!("{} seeds", copy.seeds)),
            Fate::Untried(why) => ("NOT TRIED", why),
        };
        missed += usize::from(word != "caught");
        let seconds = began.elapsed().as_secs();
        println!("{word:<9} {:<4} {:<52} {seconds:>4} s  {text}", mutation.breaks, mutation.name);
    }
    println!("{} of {} faults are caught", list.len() - missed, list.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// === impl Copy ===

impl Copy {
    fn new(seeds: u64) -> Self {
        let copy = Self { root: workspace().join("target/mutants/tree"), seeds };
        copy.refresh();
        copy
    }

    /// Makes the copy equal to the workspace. What is equal already is not touched, so that only
    /// what differs is compiled.
    fn refresh(&self) {
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(workspace())
            .output()
            .unwrap();
        for file in String::from_utf8(listed.stdout).unwrap().lines() {
            let (from, to) = (workspace().join(file), self.root.join(file));
            let Ok(content) = fs::read(from) else { continue };
            self.write(&to, &content);
        }
    }

    fn write(&self, file: &Path, content: &[u8]) {
        assert!(file.starts_with(&self.root), "only the copy is changed");
        if fs::read(file).is_ok_and(|old| old == content) {
            return;
        }
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    fn try_out(&self, mutation: &Mutation) -> Fate {
        let faulty = match mutation.apply(workspace()) {
            Ok(faulty) => faulty,
            Err(why) => return Fate::Untried(why),
        };
        self.write(&self.root.join(&mutation.file), faulty.as_bytes());
        let fate = self.judge(&mutation.test);
        self.refresh();
        fate
    }

    fn judge(&self, catcher: &(String, String)) -> Fate {
        let built = self.cargo(catcher, &["--no-run"]);
        if !built.status.success() {
            let text = String::from_utf8_lossy(&built.stderr).into_owned();
            let error = text.lines().find(|line| line.starts_with("error"));
            return Fate::Untried(error.unwrap_or("does not build").to_owned());
        }
        let ran = self.cargo(catcher, &[]);
        if ran.status.success() {
            return Fate::Survived;
        }
        let text = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
        let said = text.lines().find(|line| line.contains("replay it with"));
        let said = said.or_else(|| text.lines().find(|line| line.contains("panicked")));
        Fate::Caught(said.unwrap_or("failed").trim().to_owned())
    }

    fn cargo(&self, (package, test): &(String, String), more: &[&str]) -> Output {
        Command::new(env!("CARGO"))
            .args(["test", "--quiet", "--package", package, "--test", test])
            .args(more)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", workspace().join("target/mutants/build"))
            .env("DELTASYNC_SEEDS", self.seeds.to_string())
            .output()
            .unwrap()
    }
}
