//! Who may do what (G10), over the wire: every call and every kind of caller, open streams when
//! rights end, and what may never be seen in a log. A binary of its own, because it starts servers
//! of many settings.
#![allow(clippy::unwrap_used, reason = "tests")]

mod authority;
mod certificates;
mod clients;
mod details;
mod guard;
mod issuer;
mod matrix;
mod quotas;
mod raw_calls;
mod reloads;
mod revocations;
mod secrets;
mod signed;
mod tls;
mod web;

/// The server program, built for these tests.
const SERVER: &str = env!("CARGO_BIN_EXE_server-under-test");
