//! The engine: a ledger that keeps the rules over a store ([`ledger`]), one writer thread that
//! groups commits ([`writer`]), and heads that readers wait on ([`hub`]).

pub mod acking;
pub mod administering;
pub mod backing_up;
mod deleting;
pub mod diffusing;
pub mod following;
pub mod herald;
pub mod hub;
mod items;
pub mod ledger;
pub mod listing;
pub mod noticing;
pub mod pages;
pub mod polling;
pub mod pulling;
pub mod purging;
pub mod reading;
pub mod reconciling;
pub mod reserving;
mod scanning;
pub mod tails;
mod upgrading;
pub mod verifying;
pub mod view;
pub mod writer;

use sync_proto::types::Epoch;

/// An epoch that nobody has had.
pub(crate) fn fresh_epoch() -> Epoch {
    loop {
        if let Some(epoch) = Epoch::new(rand::random()) {
            return epoch;
        }
    }
}
