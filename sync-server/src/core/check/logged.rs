//! What a log row says of its item, once it fits itself; and what a key row says otherwise. Pure.

use sync_proto::convert::decode_change;
use sync_proto::digest::Digest;
use sync_proto::types::{ChangeKind, Key, SortKey, Version};

use crate::store::rows::{KeyRow, LogRow, RowKind};

/// What the log row and the key row of a key both say. Planning trusts the key row alone with all
/// of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Logged {
    /// Whether it is an item; otherwise a tombstone.
    pub live: bool,
    /// Version of the row.
    pub version: Version,
    /// Version of the commit that created the item.
    pub created: Version,
    /// Version of the commit that last changed the value.
    pub value_version: Version,
    /// Bytes of the value.
    pub value_len: u32,
    /// Digest of the item; the empty one for a tombstone.
    pub digest: Digest,
    /// Place in list order.
    pub sort_key: SortKey,
}

// === impl Logged ===

impl Logged {
    /// Reads the log row of `key` at `version`, or says what about it cannot be.
    pub fn of_log(version: Version, key: &Key, row: LogRow) -> Result<Self, String> {
        let LogRow { kind, created, value_version, change } = row;
        let change = decode_change(change).map_err(|error| error.to_string())?;
        if change.key != *key || change.version != version || change.created != created {
            return Err("the change is not the one that its row says".to_owned());
        }
        if created > value_version || value_version > version {
            return Err("it was changed before it was created, or after its version".to_owned());
        }
        let mut logged = Self {
            live: kind == RowKind::Live,
            version,
            created,
            value_version,
            value_len: 0,
            digest: Digest::EMPTY,
            sort_key: SortKey::default(),
        };
        match (kind, change.kind) {
            (
                RowKind::Live,
                ChangeKind::Put { value: Some(value), sort_key, value_version: said },
            ) if said == value_version => {
                let too_large = |_| "too large".to_owned();
                logged.value_len = u32::try_from(value.as_bytes().len()).map_err(too_large)?;
                logged.digest = Digest::of_item(key, version, &sort_key, value.as_bytes());
                logged.sort_key = sort_key;
                Ok(logged)
            }
            (RowKind::Tombstone, ChangeKind::Delete) => Ok(logged),
            (RowKind::Live | RowKind::Tombstone, _) => {
                Err("the change is not of the kind that its row says".to_owned())
            }
        }
    }

    /// What a key row says.
    #[must_use]
    pub fn of_key(row: &KeyRow) -> Self {
        Self {
            live: row.kind == RowKind::Live,
            version: row.version,
            created: row.created,
            value_version: row.value_version,
            value_len: row.value_len,
            digest: row.digest,
            sort_key: row.sort_key.clone(),
        }
    }

    /// Bytes that the item counts for: its key, sort key and value.
    #[must_use]
    pub fn bytes(&self, key: &Key) -> u64 {
        let names = key.as_bytes().len() + self.sort_key.as_bytes().len();
        names as u64 + u64::from(self.value_len)
    }

    /// The first thing that the two say differently.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let same = [
            ("version", self.version == other.version),
            ("kind", self.live == other.live),
            ("created version", self.created == other.created),
            ("value version", self.value_version == other.value_version),
            ("value length", self.value_len == other.value_len),
            ("sort key", self.sort_key == other.sort_key),
            ("item digest", self.digest == other.digest),
        ];
        same.iter().find(|(_, same)| !same).map(|(what, _)| *what)
    }
}
