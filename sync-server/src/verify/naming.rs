//! Says of a key which row it is, for people. Pure. What cannot be read is shown as it is.

use sync_proto::types::{Key, SortKey};

use crate::store::keys::{AckPlace, ClientKey, KeyParts};

/// Bytes of a user's key that are shown.
const SHOWN_BYTES_MAX: usize = 80;

/// Which row of a store this key is of.
pub(super) fn row(key: &[u8]) -> String {
    match KeyParts::of(key) {
        Some(KeyParts::Name { name }) => format!("the name {name:?}"),
        Some(KeyParts::Meta { id }) => format!("collection {}, its head", id.0),
        Some(KeyParts::Log { id, version, key }) => {
            format!("collection {}, log row of version {version}, key {}", id.0, text(&key))
        }
        Some(KeyParts::Key { id, key }) => {
            format!("collection {}, key row of {}", id.0, text(&key))
        }
        Some(KeyParts::Order { id, sort_key, key }) => {
            let place = place(&sort_key);
            format!("collection {}, order row of {} at {place}", id.0, text(&key))
        }
        Some(KeyParts::Segment { id, segment }) => {
            format!("collection {}, sum of segment {}", id.0, segment.get())
        }
        Some(KeyParts::Tombstone { id, version, key, .. }) => {
            format!("collection {}, age row of version {version}, key {}", id.0, text(&key))
        }
        Some(KeyParts::Doomed { id }) => format!("deleted collection {}", id.0),
        Some(KeyParts::Receipt { name, .. }) => format!("the receipt of {name:?}"),
        Some(KeyParts::ReceiptAge { name, .. }) => format!("the age of the receipt of {name:?}"),
        Some(KeyParts::Member { id, segment, key }) => {
            format!(
                "collection {}, index row of segment {}, key {}",
                id.0,
                segment.get(),
                text(&key)
            )
        }
        Some(KeyParts::Ack { place }) => format!("the ack of {}", acked(&place)),
        Some(KeyParts::AckAge { place, .. }) => format!("the age of the ack of {}", acked(&place)),
        Some(KeyParts::Policy { id }) => format!("collection {}, its policy", id.0),
        Some(KeyParts::Audience { name, subject }) => {
            format!("the audience of {name:?}, subject {subject:?}")
        }
        Some(KeyParts::AudienceState { name }) => format!("the audience of {name:?}"),
        Some(KeyParts::Sweep { name }) => format!("the sweep of {name:?}"),
        Some(KeyParts::Upgrading) => "the mark of an upgrade".to_owned(),
        Some(KeyParts::NextId) => "the next collection id".to_owned(),
        Some(KeyParts::Format) => "the row format".to_owned(),
        None => format!("the row with key {}", shown(key)),
    }
}

fn acked(place: &AckPlace) -> String {
    let AckPlace { client: ClientKey { client_id, subject }, collection } = place;
    format!("client {client_id:?} of {subject:?} in {collection}")
}

/// A user's key.
pub(super) fn text(key: &Key) -> String {
    shown(key.as_bytes())
}

/// A place in list order.
pub(super) fn place(sort_key: &SortKey) -> String {
    shown(sort_key.as_bytes())
}

fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{more}\"", cut.escape_ascii())
}
