//! The rows of cursors that are held for clients. Pure; the picture is in [`super`].

use bytes::{BufMut, Bytes, BytesMut};
use sync_proto::types::{CollectionName, Cursor, Epoch, Timestamp, Version};

use super::super::rows::{Fields, damaged};
use super::super::{KeyRange, StoreError};
use super::{ACK, ACK_AGE, END_OF_SORT_KEY, ESCAPE, ESCAPED_ZERO};

/// Which client: its id, and whose token it shows. Two subjects with the same client id are two
/// clients, and neither sees or moves what is the other's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    /// Its id; never empty.
    pub client_id: String,
    /// Whose token it shows; empty = the server has no tokens.
    pub subject: String,
}

/// The place of a cursor that is held: whose, and of which collection. By name, so that a client
/// of a collection that was deleted and created again is told that it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AckPlace {
    /// Which client.
    pub client: ClientKey,
    /// Which collection.
    pub collection: CollectionName,
}

/// A cursor that is held for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// When the client acknowledged it, or said so again.
    pub time: Timestamp,
    /// How far it has come.
    pub cursor: Cursor,
}

/// The row of a cursor that is held.
#[must_use]
pub fn ack_key(place: &AckPlace) -> Vec<u8> {
    let mut row = client_prefix(&place.client);
    row.extend_from_slice(place.collection.as_str().as_bytes());
    row
}

/// All cursors that are held for a client, by collection.
#[must_use]
pub fn acks_of_range(client: &ClientKey) -> KeyRange {
    KeyRange::prefix(&client_prefix(client))
}

/// The cursors of all clients behind this one, by client.
#[must_use]
pub fn acks_behind_range(client: &ClientKey) -> KeyRange {
    KeyRange { start: acks_of_range(client).end.unwrap_or_default(), end: ack_range().end }
}

/// The cursors of all clients.
#[must_use]
pub fn ack_range() -> KeyRange {
    KeyRange::prefix(&[ACK])
}

/// The cursors of all clients whose ids begin with this.
#[must_use]
pub fn acks_from_range(client_id_prefix: &str) -> KeyRange {
    let mut start = vec![ACK];
    escape(client_id_prefix, &mut start);
    KeyRange::prefix(&start)
}

/// The row that says how old a held cursor is.
#[must_use]
pub fn ack_age_key(time: Timestamp, place: &AckPlace) -> Vec<u8> {
    let mut row = vec![ACK_AGE];
    row.extend_from_slice(&time.as_millis().to_be_bytes());
    row.extend_from_slice(&ack_key(place)[1..]);
    row
}

/// All held cursors, oldest first.
#[must_use]
pub fn ack_age_range() -> KeyRange {
    KeyRange::prefix(&[ACK_AGE])
}

fn client_prefix(client: &ClientKey) -> Vec<u8> {
    let mut row = vec![ACK];
    row.extend_from_slice(&client.to_bytes());
    row
}

fn escape(text: &str, bytes: &mut Vec<u8>) {
    for byte in text.bytes() {
        bytes.push(byte);
        if byte == ESCAPE {
            bytes.push(ESCAPED_ZERO);
        }
    }
}

// === impl ClientKey ===

impl ClientKey {
    /// Its bytes, in the order of clients.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.client_id.len() + self.subject.len() + 4);
        for part in [&self.client_id, &self.subject] {
            escape(part, &mut bytes);
            bytes.extend_from_slice(&[ESCAPE, END_OF_SORT_KEY]);
        }
        bytes
    }

    /// Reads them back.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(Bytes::copy_from_slice(bytes));
        let key = fields.client_key()?;
        fields.0.is_empty().then_some(key)
    }
}

// === impl Held ===

impl Held {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(32);
        row.put_u64(self.time.as_millis());
        row.put_u64(self.cursor.epoch.get());
        row.put_u64(self.cursor.version.get());
        row.put_u64(self.cursor.base.get());
        row.freeze()
    }

    /// Reads a row's value.
    pub fn decode(value: Bytes) -> Result<Self, StoreError> {
        Self::parse(&mut Fields(value)).ok_or_else(|| damaged("a cursor that is held for a client"))
    }

    pub(super) fn parse(fields: &mut Fields) -> Option<Self> {
        let time = Timestamp::from_millis(fields.u64()?);
        let cursor = Cursor {
            epoch: Epoch::new(fields.u64()?)?,
            version: fields.version()?,
            base: fields.version()?,
        };
        // What is read from a client has no base between 0 and its version either.
        let base_fits = cursor.base == Version::ZERO || cursor.base >= cursor.version;
        base_fits.then_some(Self { time, cursor })
    }
}

// === impl Fields ===

impl Fields {
    pub(super) fn ack_place(&mut self) -> Option<AckPlace> {
        let client = self.client_key()?;
        let collection = CollectionName::new(&self.text()?).ok()?;
        Some(AckPlace { client, collection })
    }

    fn client_key(&mut self) -> Option<ClientKey> {
        let client_id = String::from_utf8(self.escaped()?).ok()?;
        let subject = String::from_utf8(self.escaped()?).ok()?;
        (!client_id.is_empty()).then_some(ClientKey { client_id, subject })
    }
}
