//! `syncctl` as users run it: the real program against a real server. Every wait has a deadline.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod backup;
mod files;
mod items;
mod live;
mod operators;
mod programs;
mod secure;
mod server;
