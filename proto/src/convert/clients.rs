//! Clients as an operator sees them, between wire and checked types.

use super::{collection, optional_cursor, reset_reason, some_word, timestamp};
use crate::types::{ClientInfo, ClientPosition, Decision, Explanation, Malformed};
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
            streams_lagging: client.streams_lagging,
            streams_parked: client.streams_parked,
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
            streams_lagging: client.streams_lagging,
            streams_parked: client.streams_parked,
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
            acked_time: position.acked_at.map(Into::into),
            head: position.head.map(Into::into),
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
            acked_at: position.acked_time.map(|time| timestamp(Some(time))),
            head: optional_cursor(position.head)?,
            behind: position.behind,
        })
    }
}

impl From<Explanation> for v1::ExplainClientResponse {
    fn from(explained: Explanation) -> Self {
        Self {
            decisions: explained.decisions.into_iter().map(Into::into).collect(),
            clients: explained.clients.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ExplainClientResponse> for Explanation {
    type Error = Malformed;

    fn try_from(explained: v1::ExplainClientResponse) -> Result<Self, Malformed> {
        let clients = explained.clients.into_iter().map(ClientInfo::try_from);
        let decisions = explained.decisions.into_iter().map(Decision::try_from);
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            decisions: decisions.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Decision> for v1::Decision {
    fn from(decision: Decision) -> Self {
        Self {
            time: Some(decision.time.into()),
            collection: decision.collection.as_str().to_owned(),
            shown: decision.shown.map(Into::into),
            answer: decision.answer,
            reset_reason: decision
                .reset_reason
                .map_or(v1::ResetReason::Unspecified, Into::into)
                .into(),
            bytes: decision.bytes,
            subject: decision.subject,
            call: decision.call,
            reached: decision.reached.map(Into::into),
            times: decision.times,
            first_time: Some(decision.first_time.into()),
            failed_code: decision.failed_code,
            failed_reason: decision.failed_reason.unwrap_or_default(),
            first_shown: decision.first_shown.map(Into::into),
        }
    }
}

impl TryFrom<v1::Decision> for Decision {
    type Error = Malformed;

    fn try_from(decision: v1::Decision) -> Result<Self, Malformed> {
        let was_reset = decision.reset_reason() != v1::ResetReason::Unspecified;
        Ok(Self {
            time: timestamp(decision.time),
            first_time: timestamp(decision.first_time),
            times: decision.times,
            subject: decision.subject,
            collection: collection(&decision.collection)?,
            call: decision.call,
            shown: optional_cursor(decision.shown)?,
            answer: decision.answer,
            reset_reason: was_reset.then(|| reset_reason(decision.reset_reason)),
            failed_code: decision.failed_code,
            failed_reason: some_word(decision.failed_reason),
            first_shown: optional_cursor(decision.first_shown)?,
            reached: optional_cursor(decision.reached)?,
            bytes: decision.bytes,
        })
    }
}
