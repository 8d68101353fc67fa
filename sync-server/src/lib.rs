//! The deltasync server: collections of items, a compacted change log for each, pull and push.
//!
//! ```text
//!   rpc ──► engine ──► core (rules, pure)
//!            │
//!            └──────► store (rows: memory, sled)
//! ```
//! `docs/ARCHITECTURE.md` follows a write, a pull and a push through these parts.

pub mod admission;
mod allocator;
pub mod auth;
pub mod backup;
pub mod budget;
pub mod cli;
pub mod config;
pub mod core;
pub mod engine;
pub mod flight;
pub mod metrics;
pub mod offline;
pub mod program;
mod requests;
pub mod rpc;
pub mod security;
pub mod server;
pub mod status;
pub mod store;
mod traces;
pub mod verify;
