//! The harness: servers to test, clients to test them with, and copies that believe nothing. It
//! holds no tests; those are in `promises/`, one module per promise.
//!
//! Rules of the house: every wait has a deadline and says what it waited for ([`wait`]); random
//! tests print their seed and take it back ([`seed`]); an `error!` in a server's log fails the
//! test ([`alarm`]).
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

pub mod alarm;
pub mod backup;
pub mod collector;
pub mod compose;
pub mod data;
pub mod device;
pub mod history;
pub mod mutation;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod reader;
pub mod report;
pub mod seed;
pub mod server;
pub mod stream;
pub mod traffic;
pub mod wait;
pub mod web;
pub mod wire;
