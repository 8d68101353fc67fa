//! What a client says that it has applied. Pure.

use super::{CollectionName, Cursor};

/// "I have durably applied up to these cursors."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Names the device; never empty.
    pub client_id: String,
    /// How far it has come; no collection twice.
    pub acked: Vec<Acked>,
}

/// How far a device has applied a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// Which collection.
    pub collection: CollectionName,
    /// Durably applied up to here.
    pub cursor: Cursor,
}
