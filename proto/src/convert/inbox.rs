//! Entries of inboxes, between wire and checked types.

use prost::Message as _;

use super::{collection, required, required_head, version};
use crate::types::{
    CollectionName, Epoch, Event, Head, InboxEntry, InboxNotice, Malformed, Polled, PolledHead,
    Value,
};
use crate::v1;

// === InboxEntry ===

impl From<InboxEntry> for v1::InboxEntry {
    fn from(entry: InboxEntry) -> Self {
        let (state, at) = match entry {
            InboxEntry::Exists(epoch, version) => (v1::InboxState::Exists, Some((epoch, version))),
            InboxEntry::Deleted(epoch, version) => {
                (v1::InboxState::Deleted, Some((epoch, version)))
            }
            InboxEntry::Absent => (v1::InboxState::Absent, None),
        };
        Self {
            state: state.into(),
            epoch: at.map_or(0, |(epoch, _)| epoch.get()),
            version: at.map_or(0, |(_, version)| version.get()),
        }
    }
}

impl TryFrom<v1::InboxEntry> for InboxEntry {
    type Error = Malformed;

    fn try_from(entry: v1::InboxEntry) -> Result<Self, Malformed> {
        let at = || {
            let epoch =
                Epoch::new(entry.epoch).ok_or_else(|| Malformed::new("epoch", "must not be 0"))?;
            Ok((epoch, version(entry.version, "version")?))
        };
        match entry.state() {
            v1::InboxState::Exists => at().map(|(epoch, version)| Self::Exists(epoch, version)),
            v1::InboxState::Deleted => at().map(|(epoch, version)| Self::Deleted(epoch, version)),
            v1::InboxState::Absent if (entry.epoch, entry.version) == (0, 0) => Ok(Self::Absent),
            v1::InboxState::Absent => {
                Err(Malformed::new("epoch", "an absent collection has no epoch and no version"))
            }
            v1::InboxState::Unspecified => {
                Err(Malformed::new("state", "must be one of those that are defined"))
            }
        }
    }
}

/// Encodes an entry as the value of an item of an inbox.
#[must_use]
pub fn encode_inbox_entry(entry: InboxEntry) -> Value {
    let encoded = v1::InboxEntry::from(entry).encode_to_vec();
    Value::new(encoded).expect("an entry has less than 32 bytes")
}

/// Reads the value of an item of an inbox.
pub fn decode_inbox_entry(value: &Value) -> Result<InboxEntry, Malformed> {
    let wire = v1::InboxEntry::decode(value.to_bytes())
        .map_err(|error| Malformed::new("value", error.to_string()))?;
    wire.try_into()
}

// === Polled ===

impl From<PolledHead> for v1::PolledHead {
    fn from(polled: PolledHead) -> Self {
        Self { collection: polled.collection.to_string(), entry: Some(polled.entry.into()) }
    }
}

impl TryFrom<v1::PolledHead> for PolledHead {
    type Error = Malformed;

    fn try_from(polled: v1::PolledHead) -> Result<Self, Malformed> {
        let entry = InboxEntry::try_from(required(polled.entry, "entry")?);
        Ok(Self {
            collection: collection(&polled.collection)?,
            entry: entry.map_err(|error| error.within("entry"))?,
        })
    }
}

/// What an outcome says besides of collections that an inbox does not announce.
pub fn polled(outcome: &v1::Outcome) -> Result<Polled, Malformed> {
    let parse = |(index, wire): (usize, &v1::PolledHead)| {
        PolledHead::try_from(wire.clone()).map_err(|e| e.within_element("polled", index))
    };
    let heads = outcome.polled.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    Ok(Polled { heads, more: outcome.polled_more })
}

impl From<Polled> for (Vec<v1::PolledHead>, bool) {
    fn from(polled: Polled) -> Self {
        (polled.heads.into_iter().map(Into::into).collect(), polled.more)
    }
}

// === Notice ===

impl From<InboxNotice> for v1::Notice {
    fn from(notice: InboxNotice) -> Self {
        Self {
            collection: notice.collection.to_string(),
            head: notice.head.map(Into::into),
            inbox: notice.inbox.to_string(),
        }
    }
}

/// A notice of a `notify_only` target has a head, one because of an inbox perhaps not.
pub(super) fn notice(notice: v1::Notice) -> Result<Event, Malformed> {
    let collection: CollectionName = collection(&notice.collection)?;
    if notice.inbox.is_empty() {
        return Ok(Event::Notice(collection, required_head(notice.head)?));
    }
    let inbox = super::collection(&notice.inbox);
    let inbox = inbox.map_err(|error| Malformed::new("inbox", error.reason))?;
    let head = notice.head.map(Head::try_from).transpose()?;
    Ok(Event::InboxNotice(InboxNotice { inbox, collection, head }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every entry is read as it was written, and only in the form in which we write it.
        #[test]
        fn entries_are_read_as_written(epoch in 1u64.., version in 0..=crate::limits::VERSION_MAX) {
            let (epoch, version) =
                (Epoch::new(epoch).unwrap(), crate::types::Version::new(version).unwrap());
            for entry in [
                InboxEntry::Exists(epoch, version),
                InboxEntry::Deleted(epoch, version),
                InboxEntry::Absent,
            ] {
                prop_assert_eq!(decode_inbox_entry(&encode_inbox_entry(entry)), Ok(entry));
            }
        }

        /// G11: foreign bytes are an error or an entry.
        #[test]
        fn foreign_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _either = decode_inbox_entry(&Value::new(bytes).unwrap());
        }
    }

    /// An entry that contradicts itself, or that a newer server means otherwise, is refused.
    #[test]
    fn an_entry_without_sense_is_refused() {
        let exists = v1::InboxState::Exists.into();
        let absent = v1::InboxState::Absent.into();
        for (state, epoch, version, field) in [
            (0, 1, 1, "state"),
            (99, 1, 1, "state"),
            (exists, 0, 1, "epoch"),
            (exists, 1, u64::MAX, "version"),
            (absent, 1, 0, "epoch"),
        ] {
            let refused = InboxEntry::try_from(v1::InboxEntry { state, epoch, version });
            assert_eq!(refused.unwrap_err().field, field);
        }
    }
}
