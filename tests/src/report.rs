//! What a test has to say although it passes: how large it was, what it could not run. The gate
//! lists what was not run.

use std::io::Write as _;

/// Says that something was not run, past the capture of passing tests.
pub fn not_run(what: &str, why: &str) {
    report(&format!("NOT RUN: {what}: {why}"));
}

/// Says how a test went, past the capture of passing tests.
pub fn report(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}
