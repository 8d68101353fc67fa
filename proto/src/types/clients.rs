//! Clients as an operator sees them. Pure.

use super::{CollectionName, Cursor, ResetReason, Timestamp};

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
    /// Those of them that are being caught up.
    pub streams_lagging: u32,
    /// Those of them that have something to say and no room for it.
    pub streams_parked: u32,
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
    /// When that one was acknowledged.
    pub acked_at: Option<Timestamp>,
    /// Where the collection stands.
    pub head: Option<Cursor>,
    /// Versions that it is behind.
    pub behind: u64,
}

/// What was decided for a client lately, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The client, once for each subject that uses its id.
    pub clients: Vec<ClientInfo>,
    /// By time, newest last.
    pub decisions: Vec<Decision>,
}

/// What was decided when a client showed a cursor, once or several times in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// When it was decided last, or something was sent for it.
    pub time: Timestamp,
    /// When it was decided first.
    pub first_time: Timestamp,
    /// How often in a row.
    pub times: u64,
    /// Whose credentials the client showed.
    pub subject: String,
    /// For which collection.
    pub collection: CollectionName,
    /// The call, as in metrics.
    pub call: String,
    /// The cursor that it showed last; `None` = from scratch.
    pub shown: Option<Cursor>,
    /// The one that it showed the first time in the row.
    pub first_shown: Option<Cursor>,
    /// The answer, as in metrics.
    pub answer: String,
    /// With a reset: why.
    pub reset_reason: Option<ResetReason>,
    /// With a failure, or when the call was refused: a `google.rpc.Code`.
    pub failed_code: i32,
    /// Likewise: the word of a [`Reason`](super::Reason).
    pub failed_reason: Option<String>,
    /// How far what was sent reaches.
    pub reached: Option<Cursor>,
    /// Bytes that were sent for it.
    pub bytes: u64,
}
