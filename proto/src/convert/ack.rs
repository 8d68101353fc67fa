//! Acks between wire and checked types.

use std::collections::BTreeSet;

use super::write::id;
use super::{collection, optional_cursor};
use crate::limits::ACK_POSITIONS_MAX;
use crate::types::{Ack, Acked, Malformed};
use crate::v1;

impl TryFrom<v1::AckRequest> for Ack {
    type Error = Malformed;

    fn try_from(request: v1::AckRequest) -> Result<Self, Malformed> {
        id(&request.client_id, "client_id")?;
        if request.client_id.is_empty() {
            return Err(Malformed::new("client_id", "must be set: cursors are held by it"));
        }
        let count = request.acked.len();
        if count == 0 || count > ACK_POSITIONS_MAX {
            let reason = format!("{count} of them, 1 to {ACK_POSITIONS_MAX} are allowed");
            return Err(Malformed::new("acked", reason));
        }
        let parse = |(index, wire): (usize, v1::AckedCursor)| {
            Acked::try_from(wire).map_err(|e| e.within_element("acked", index))
        };
        let acked = request.acked.into_iter().enumerate().map(parse);
        let acked: Vec<Acked> = acked.collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        if let Some(index) = acked.iter().position(|one| !names.insert(&one.collection)) {
            let twice = Malformed::new("collection", "occurs twice in one ack");
            return Err(twice.within_element("acked", index));
        }
        Ok(Self { client_id: request.client_id, acked })
    }
}

impl TryFrom<v1::AckedCursor> for Acked {
    type Error = Malformed;

    fn try_from(acked: v1::AckedCursor) -> Result<Self, Malformed> {
        let cursor = optional_cursor(acked.cursor)?;
        let cursor = cursor.ok_or_else(|| Malformed::new("cursor", "must be set"))?;
        Ok(Self { collection: collection(&acked.collection)?, cursor })
    }
}

impl From<Ack> for v1::AckRequest {
    fn from(ack: Ack) -> Self {
        let acked = |one: Acked| v1::AckedCursor {
            collection: one.collection.as_str().to_owned(),
            cursor: Some(one.cursor.into()),
        };
        Self { client_id: ack.client_id, acked: ack.acked.into_iter().map(acked).collect() }
    }
}
