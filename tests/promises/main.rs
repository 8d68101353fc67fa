//! What deltasync promises, one module per promise. G-numbers are those of the design, T- and
//! X-numbers those of its cases.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod batches;
mod decisions;
mod pages;
mod scopes;

/// The server program, built for these tests.
const SERVER: &str = env!("CARGO_BIN_EXE_server-under-test");
