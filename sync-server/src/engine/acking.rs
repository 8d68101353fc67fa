//! The cursors that are held for clients, as they are read: by a reader that asks for its own, and
//! by operators. They are written like commits, in the same groups.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sync_proto::limits::CLIENT_POSITIONS_MAX;
use sync_proto::types::{ClientInfo, ClientPosition, CollectionName, Cursor, Target};

use super::ledger::Ledger;
use crate::core::clients::Known;
use crate::store::keys::{self, AckPlace, ClientKey, Held, Row};
use crate::store::{Direction, KeyRange, Store, StoreError};

#[cfg(test)]
mod tests;

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// The cursor that is held for a client.
    pub fn held(
        &self,
        client: &ClientKey,
        collection: &CollectionName,
    ) -> Result<Option<Held>, StoreError> {
        let place = AckPlace { client: client.clone(), collection: collection.clone() };
        self.durable(&keys::ack_key(&place))?.map(Held::decode).transpose()
    }

    /// Gives a target that asks for it the cursor that is held for the client; none: it begins from
    /// scratch. From there on it is judged like one that shows its cursor.
    pub fn resume(&self, client: &ClientKey, target: &mut Target) -> Result<(), StoreError> {
        if target.from_last_ack {
            target.cursor = self.held(client, &target.collection)?.map(|held| held.cursor);
        }
        Ok(())
    }

    /// Up to `most` clients in order, behind `after`, whose ids begin with `prefix`: those of
    /// `known`, which are in that order, and those that cursors are held for.
    pub fn clients(
        &self,
        known: Vec<ClientKey>,
        prefix: &str,
        after: Option<&ClientKey>,
        most: usize,
    ) -> Result<Vec<ClientKey>, StoreError> {
        let mut all: BTreeSet<ClientKey> = known.into_iter().collect();
        all.extend(self.acking_clients(prefix, after, most)?);
        Ok(all.into_iter().take(most).collect())
    }

    /// Clients that cursors are held for.
    fn acking_clients(
        &self,
        prefix: &str,
        after: Option<&ClientKey>,
        most: usize,
    ) -> Result<Vec<ClientKey>, StoreError> {
        let mut found: Vec<ClientKey> = Vec::new();
        let mut rest = keys::acks_from_range(prefix);
        if let Some(after) = after {
            rest.start = rest.start.max(keys::acks_behind_range(after).start);
        }
        while found.len() < most {
            let Some((place, _)) = self.acks(&rest, 1)?.pop() else { break };
            rest.start = keys::acks_behind_range(&place.client).start;
            found.push(place.client);
        }
        Ok(found)
    }

    /// The first of the held cursors in a range.
    fn acks(&self, range: &KeyRange, most: usize) -> Result<Vec<(AckPlace, Held)>, StoreError> {
        let mut found = Vec::new();
        let mut broken = None;
        self.view_of_now().scan(range, Direction::Forward, &mut |key, value| {
            if found.len() == most {
                return ControlFlow::Break(());
            }
            match Row::decode(key, value) {
                Ok(Row::Ack { place, held }) => {
                    found.push((place, held));
                    ControlFlow::Continue(())
                }
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        broken.map_or(Ok(found), Err)
    }

    /// A client: what is known of it, and what is held for it.
    pub fn client(&self, key: ClientKey, known: Option<Known>) -> Result<ClientInfo, StoreError> {
        let acks = self.acks(&keys::acks_of_range(&key), CLIENT_POSITIONS_MAX + 1)?;
        let acked_last = acks.iter().map(|(_, held)| held.time).max().unwrap_or_default();
        let (seen, streams, sent) = known.map_or((acked_last, 0, Vec::new()), |known| {
            (known.last_seen, known.streams, known.sent)
        });
        let mut places: BTreeMap<CollectionName, (Option<Cursor>, Option<Held>)> =
            sent.into_iter().map(|(name, cursor)| (name, (Some(cursor), None))).collect();
        for (place, held) in acks {
            places.entry(place.collection).or_default().1 = Some(held);
        }
        let more_positions = places.len() > CLIENT_POSITIONS_MAX;
        let position = |(collection, (sent, held))| self.position(collection, sent, held);
        let positions = places.into_iter().take(CLIENT_POSITIONS_MAX).map(position).collect();
        let ClientKey { client_id, subject } = key;
        let last_seen = seen.max(acked_last);
        Ok(ClientInfo {
            client_id,
            subject,
            last_seen,
            streams,
            // How they get on is known where they are served.
            streams_lagging: 0,
            streams_parked: 0,
            positions,
            more_positions,
        })
    }

    /// Where a client stands that was sent this, and that this is held for.
    pub fn position(
        &self,
        collection: CollectionName,
        sent: Option<Cursor>,
        held: Option<Held>,
    ) -> ClientPosition {
        let acked = held.map(|held| held.cursor);
        let now = self.head(&collection).map(|head| head.cursor());
        let same_life = acked.or(sent).filter(|at| now.is_some_and(|now| at.epoch == now.epoch));
        let from = same_life.map_or(0, |cursor| cursor.version.get());
        let behind = now.map_or(0, |now| now.version.get().saturating_sub(from));
        ClientPosition {
            collection,
            sent,
            acked,
            acked_at: held.map(|held| held.time),
            head: now,
            behind,
        }
    }
}
