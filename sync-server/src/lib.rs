//! The deltasync server.
pub mod store;
