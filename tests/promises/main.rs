//! What deltasync promises, one module per promise. G-numbers are those of the design, T- and
//! X-numbers those of its cases.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod accounts;
mod acks;
mod administration;
mod batches;
mod commits;
mod crashes;
mod decisions;
mod draining;
mod imports;
mod inboxes;
mod limits;
mod listings;
mod loops;
mod mends;
mod model;
mod pages;
mod parts;
mod program;
mod reconciles;
mod replays;
mod replicas;
mod resumes;
mod retries;
mod scopes;
mod slow_lines;
mod slow_readers;
mod subscriptions;
mod tidy;
mod windows;

/// The server program, built for these tests.
const SERVER: &str = env!("CARGO_BIN_EXE_server-under-test");

/// A client that stores nothing, likewise.
const CONSUMER: &str = env!("CARGO_BIN_EXE_consumer-under-test");
