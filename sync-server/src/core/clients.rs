//! The clients that were served lately: what each was sent, and how many streams it has. Pure: the
//! moment comes in. In memory only: it bounds what a client may claim, and operators see it. What
//! is not known bounds nothing, so it may be forgotten at any time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::types::{CollectionName, Cursor, Timestamp};

use super::acks::further;
use super::window::{self, TokenRefusal};
use crate::store::keys::ClientKey;

#[cfg(test)]
mod tests;

/// What all clients together take. Beyond it, those that were heard of longest ago are forgotten;
/// of those with streams, what they were sent.
pub const CLIENTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Collections of one client that are remembered, those served last.
pub const POSITIONS_MAX: usize = 4_096;

/// What a client takes besides its names, and a position besides the name of its collection: the
/// nodes of two maps each, and what the allocator adds.
const CLIENT_BYTES: usize = 384;
const POSITION_BYTES: usize = 256;

/// Clients by their names, and by when they were heard of.
#[derive(Debug, Default)]
pub struct Clients {
    by_key: BTreeMap<Arc<ClientKey>, Client>,
    /// Those of which something may be forgotten.
    by_turn: BTreeMap<u64, Arc<ClientKey>>,
    turn: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Client {
    turn: u64,
    first_seen: Timestamp,
    last_seen: Timestamp,
    streams: u32,
    sent: BTreeMap<CollectionName, Sent>,
    sent_by_turn: BTreeMap<u64, CollectionName>,
    /// What its positions take.
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    cursor: Cursor,
    turn: u64,
    /// The newest cursor that it has acknowledged since.
    acked: Option<Cursor>,
}

/// A client as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// When it was heard of.
    pub last_seen: Timestamp,
    /// Its live streams.
    pub streams: u32,
    /// The newest cursor that it was sent, by collection.
    pub sent: Vec<(CollectionName, Cursor)>,
}

// === impl Clients ===

impl Clients {
    /// A client was heard of, and these cursors are sent to it.
    pub fn sent(
        &mut self,
        key: &ClientKey,
        sent: impl IntoIterator<Item = (CollectionName, Cursor)>,
        now: Timestamp,
    ) {
        self.touch(key, now);
        let client = self.by_key.get_mut(key).expect("touched above");
        let before = client.bytes;
        for (name, cursor) in sent {
            self.turn += 1;
            client.send(name, cursor, self.turn);
        }
        self.bytes = self.bytes - before + client.bytes;
        self.forget_surplus();
    }

    /// The newest cursor that was sent to a client; `None` = not known.
    #[must_use]
    pub fn newest_sent(&self, key: &ClientKey, collection: &CollectionName) -> Option<Cursor> {
        self.by_key.get(key)?.sent.get(collection).map(|sent| sent.cursor)
    }

    /// A client acknowledges a cursor: since when it is known, if that is news.
    pub fn acked(
        &mut self,
        key: &ClientKey,
        collection: &CollectionName,
        cursor: Cursor,
    ) -> Option<Timestamp> {
        let client = self.by_key.get_mut(key)?;
        let sent = client.sent.get_mut(collection)?;
        let is_news = sent.acked != Some(cursor);
        sent.acked = Some(cursor);
        is_news.then_some(client.first_seen)
    }

    /// A stream of a client begins.
    pub fn stream_opened(&mut self, key: &ClientKey, now: Timestamp) {
        self.touch(key, now).streams += 1;
        self.forget_surplus();
    }

    /// A stream of a client has ended.
    pub fn stream_closed(&mut self, key: &ClientKey, now: Timestamp) {
        let client = self.touch(key, now);
        client.streams = client.streams.saturating_sub(1);
    }

    /// Up to `most` clients in order, behind `after`, whose ids begin with `prefix`.
    #[must_use]
    pub fn list(&self, prefix: &str, after: Option<&ClientKey>, most: usize) -> Vec<ClientKey> {
        let first = ClientKey { client_id: prefix.to_owned(), subject: String::new() };
        let from = match after.filter(|after| **after >= first) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(&first),
        };
        let found = self.by_key.range::<ClientKey, _>((from, Bound::Unbounded)).map(|(key, _)| key);
        let found = found.take_while(|key| key.client_id.starts_with(prefix)).take(most);
        found.map(|key| ClientKey::clone(key)).collect()
    }

    /// What is known of a client, with up to `positions_max` collections.
    #[must_use]
    pub fn known(&self, key: &ClientKey, positions_max: usize) -> Option<Known> {
        let client = self.by_key.get(key)?;
        let sent = client.sent.iter().take(positions_max);
        Some(Known {
            last_seen: client.last_seen,
            streams: client.streams,
            sent: sent.map(|(name, sent)| (name.clone(), sent.cursor)).collect(),
        })
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// About how many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn touch(&mut self, key: &ClientKey, now: Timestamp) -> &mut Client {
        self.turn += 1;
        let key = if let Some((known, client)) = self.by_key.get_key_value(key) {
            self.by_turn.remove(&client.turn);
            Arc::clone(known)
        } else {
            self.bytes += client_bytes(key);
            Arc::new(key.clone())
        };
        self.by_turn.insert(self.turn, Arc::clone(&key));
        let client = self.by_key.entry(key).or_default();
        if client.turn == 0 {
            client.first_seen = now;
        }
        client.turn = self.turn;
        client.last_seen = client.last_seen.max(now);
        client
    }

    /// Those heard of longest ago go first. One that has streams stays, without what it was sent,
    /// and has its turn again when it is heard of: there are as many as there may be streams.
    fn forget_surplus(&mut self) {
        while self.bytes > CLIENTS_BYTES_MAX {
            let Some((_, key)) = self.by_turn.pop_first() else { return };
            let client = self.by_key.get_mut(&key).expect("every turn is of a client");
            self.bytes -= client.bytes;
            if client.streams > 0 {
                client.forget_all();
            } else {
                self.by_key.remove(&key);
                self.bytes -= client_bytes(&key);
            }
        }
    }
}

// === impl Client ===

impl Client {
    fn send(&mut self, name: CollectionName, cursor: Cursor, turn: u64) {
        let before = self.sent.get(&name).copied();
        let known = before.and_then(|before| self.sent_by_turn.remove(&before.turn));
        if known.is_none() {
            self.bytes += position_bytes(&name);
        }
        // One copy of the name is enough.
        let name = known.unwrap_or(name);
        let cursor = before.map_or(cursor, |before| further(before.cursor, cursor));
        let acked = before.and_then(|before| before.acked);
        self.sent_by_turn.insert(turn, name.clone());
        self.sent.insert(name, Sent { cursor, turn, acked });
        if self.sent.len() > POSITIONS_MAX
            && let Some((_, oldest)) = self.sent_by_turn.pop_first()
        {
            self.sent.remove(&oldest);
            self.bytes -= position_bytes(&oldest);
        }
    }

    fn forget_all(&mut self) {
        (self.sent, self.sent_by_turn, self.bytes) = Default::default();
    }
}

fn position_bytes(name: &CollectionName) -> usize {
    POSITION_BYTES + name.as_str().len()
}

fn client_bytes(key: &ClientKey) -> usize {
    CLIENT_BYTES + key.client_id.len() + key.subject.len()
}

/// The token that points behind a client in a listing of those whose ids begin with `prefix`.
#[must_use]
pub fn token(prefix: &str, last: &ClientKey) -> Bytes {
    window::seal(window::NO_EPOCH, question(prefix), &last.to_bytes())
}

/// The client that a token points behind; `None` = the beginning.
pub fn position(token: &[u8], prefix: &str) -> Result<Option<ClientKey>, TokenRefusal> {
    let Some(place) = window::open(token, window::NO_EPOCH, question(prefix))? else {
        return Ok(None);
    };
    ClientKey::from_bytes(place).map(Some).ok_or(TokenRefusal::Invalid)
}

fn question(prefix: &str) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    // No collection has this name, and no listing of collections begins like this.
    hash.update(b"\0clients\0");
    hash.update(prefix.as_bytes());
    hash.finalize()
}
