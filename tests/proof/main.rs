//! The proof on the real program: power cuts, kills at exact system calls, disks that are full or
//! fail, damaged files, hostile peers, and histories of what clients saw. Each module is one command, its size
//! comes from the environment; what the machine cannot do is said as `NOT RUN: …`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod attacks;
mod away;
mod copies;
mod damage;
mod disks;
mod endings;
mod histories;
mod kills;
mod logins;
mod machine;
mod power_cuts;
mod restores;
mod tracer;

/// The server program, built for these tests.
const SERVER: &str = env!("CARGO_BIN_EXE_server-under-test");
