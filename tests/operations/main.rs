//! What whoever runs a server does with it: its metrics, and the commands that work on its store.
//! A binary of its own, because these tests start programs and wait for them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod backups;
mod board;
mod doors;
mod draining;
mod large;
mod metrics;
mod offline;
mod older;
mod operators;
mod rolling;
mod traces;

/// The server program, built for these tests.
const SERVER: &str = env!("CARGO_BIN_EXE_server-under-test");
