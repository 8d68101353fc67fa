//! The protocol `deltasync.v1`: wire types (`v1`), checked types ([`types`], [`digest`],
//! [`limits`]) and the one file that knows both ([`convert`]).

pub mod codec;
pub mod convert;
pub mod digest;
pub mod limits;
mod lists;
pub mod types;

pub mod v1 {
    //! Wire types and service traits, generated from `deltasync/v1/*.proto`.
    #![allow(
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        missing_docs,
        unreachable_pub,
        rust_2018_idioms,
        reason = "generated code"
    )]
    tonic::include_proto!("deltasync.v1");
    tonic::include_proto!("servers/deltasync.v1");
}

/// The encoded `FileDescriptorSet` of the protocol, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
