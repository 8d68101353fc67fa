//! Clients as an operator sees them, between wire and checked types.

use super::{collection, optional_cursor, timestamp};
use crate::types::{ClientInfo, ClientPosition, Malformed};
use crate::v1;

impl From<ClientInfo> for v1::ClientInfo {
    fn from(client: ClientInfo) -> Self {
        Self {
            client_id: client.client_id,
            last_seen: Some(client.last_seen.into()),
            streams: client.streams,
            positions: client.positions.into_iter().map(Into::into).collect(),
            subject: client.subject,
            more_positions: client.more_positions,
        }
    }
}

impl TryFrom<v1::ClientInfo> for ClientInfo {
    type Error = Malformed;

    fn try_from(client: v1::ClientInfo) -> Result<Self, Malformed> {
        let positions = client.positions.into_iter().map(ClientPosition::try_from);
        Ok(Self {
            client_id: client.client_id,
            subject: client.subject,
            last_seen: timestamp(client.last_seen),
            streams: client.streams,
            positions: positions.collect::<Result<_, _>>()?,
            more_positions: client.more_positions,
        })
    }
}

impl From<ClientPosition> for v1::AdminPosition {
    fn from(position: ClientPosition) -> Self {
        Self {
            collection: position.collection.as_str().to_owned(),
            sent: position.sent.map(Into::into),
            acked: position.acked.map(Into::into),
            behind: position.behind,
        }
    }
}

impl TryFrom<v1::AdminPosition> for ClientPosition {
    type Error = Malformed;

    fn try_from(position: v1::AdminPosition) -> Result<Self, Malformed> {
        Ok(Self {
            collection: collection(&position.collection)?,
            sent: optional_cursor(position.sent)?,
            acked: optional_cursor(position.acked)?,
            behind: position.behind,
        })
    }
}
