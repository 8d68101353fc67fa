//! Clients as an operator sees them. Pure.

use super::{CollectionName, Cursor, Timestamp};

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// Its id.
    pub client_id: String,
    /// Whose token it shows; empty = the server has no tokens.
    pub subject: String,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// Its live streams.
    pub streams: u32,
    /// Where it stands, by name of the collection.
    pub positions: Vec<ClientPosition>,
    /// There are more of them.
    pub more_positions: bool,
}

/// Where a client stands in a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPosition {
    /// Which collection.
    pub collection: CollectionName,
    /// The newest cursor that was sent to it.
    pub sent: Option<Cursor>,
    /// The cursor that is held for it.
    pub acked: Option<Cursor>,
    /// Versions that it is behind.
    pub behind: u64,
}
