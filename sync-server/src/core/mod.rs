//! The rules. Pure: no tonic, no sled, no tokio, no clock, no dice; rows, time and random
//! numbers come in as arguments, plans come out as values.

pub mod acks;
pub mod check;
pub mod clients;
pub mod decisions;
pub mod diffusion;
mod effect;
pub mod inbox;
mod loading;
pub mod loads;
mod needs;
pub mod page;
pub mod plan;
pub mod rates;
pub mod read;
pub mod reconcile;
pub mod request;
pub mod restore;
pub mod retention;
pub mod route;
pub mod stored;
pub mod window;
pub mod workspace;
