//! What an account remembers of a collection from one life to the next, as the bytes of a note.
//! All numbers are big-endian.
//!
//! ```text
//! key       empty = the client id, UTF-8; 00 = the rows of the inbox were exchanged, and nobody has
//!           compared them with the notes since (no content); otherwise the collection's name, UTF-8
//! note      stage u8 (1 settled, 2 pending, 3 denied, 4 dropping),
//!           remote: u8 (0 not known, 1 exists, 2 deleted, 3 absent), epoch u64, version u64,
//!           asking version of the inbox u64, pending since u64 (ms since 1970), attempts u32,
//!           next try u64 (ms since 1970), last error (UTF-8, the rest)
//! ```

use bytes::Bytes;
use sync_proto::types::{CollectionName, Epoch, InboxEntry, Version};

/// What is remembered of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What is to be done.
    pub stage: NoteStage,
    /// What was told of the collection last. Of one that is settled or denied: what the inbox said,
    /// `None` = as its copy says.
    pub remote: Option<InboxEntry>,
    /// Version of the inbox that asked for it; zero = a head that was polled.
    pub asked: Version,
    /// Since when it is pending, in milliseconds since 1970.
    pub since_ms: u64,
    /// Attempts that failed since then.
    pub attempts: u32,
    /// No attempt before, in milliseconds since 1970.
    pub next_try_ms: u64,
    /// Why the last attempt failed.
    pub error: String,
}

/// What is to be done for a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteStage {
    /// Nothing; what was told last is done.
    Settled,
    /// It is to be caught up.
    Pending,
    /// Nothing: it is not readable.
    Denied,
    /// Its copy is to be dropped.
    Dropping,
}

/// The key of the note that the rows of the inbox were exchanged: what is settled by the word of
/// other rows may not be by these.
pub(crate) const EXCHANGED: Bytes = Bytes::from_static(&[0]);

/// Longest error that is remembered, in bytes.
const ERROR_LEN_MAX: usize = 200;
/// Length of a note without its error.
const FIXED_LEN: usize = 1 + 17 + 8 + 8 + 4 + 8;

// === impl Note ===

impl Note {
    /// A note that says no more than its stage and what was told.
    #[must_use]
    pub fn of(stage: NoteStage, remote: Option<InboxEntry>) -> Self {
        Self {
            stage,
            remote,
            asked: Version::ZERO,
            since_ms: 0,
            attempts: 0,
            next_try_ms: 0,
            error: String::new(),
        }
    }

    /// The key of a collection's note.
    #[must_use]
    pub fn key(name: &CollectionName) -> Bytes {
        Bytes::copy_from_slice(name.as_str().as_bytes())
    }

    /// The collection whose note has this key; `None`: it is another note.
    #[must_use]
    pub fn name(key: &[u8]) -> Option<CollectionName> {
        CollectionName::new(std::str::from_utf8(key).ok()?).ok()
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let tag = match self.stage {
            NoteStage::Settled => 1,
            NoteStage::Pending => 2,
            NoteStage::Denied => 3,
            NoteStage::Dropping => 4,
        };
        let (state, at) = match self.remote {
            None => (0, None),
            Some(InboxEntry::Exists(epoch, version)) => (1, Some((epoch, version))),
            Some(InboxEntry::Deleted(epoch, version)) => (2, Some((epoch, version))),
            Some(InboxEntry::Absent) => (3, None),
        };
        let (epoch, version) = at.map_or((0, 0), |(epoch, version)| (epoch.get(), version.get()));
        let mut bytes = Vec::with_capacity(FIXED_LEN + self.error.len());
        bytes.extend_from_slice(&[tag, state]);
        for number in [epoch, version, self.asked.get(), self.since_ms] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.attempts.to_be_bytes());
        bytes.extend_from_slice(&self.next_try_ms.to_be_bytes());
        bytes.extend_from_slice(shortened(&self.error).as_bytes());
        bytes.into()
    }

    /// Reads a note; `None`: it is damaged, or of a newer program. The collection is then asked for
    /// if it is followed, and its copy is dropped if it is not.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, error) = bytes.split_at_checked(FIXED_LEN)?;
        let number = |at: usize| Some(u64::from_be_bytes(*fixed.get(at..)?.first_chunk()?));
        let stage = match fixed[0] {
            1 => NoteStage::Settled,
            2 => NoteStage::Pending,
            3 => NoteStage::Denied,
            4 => NoteStage::Dropping,
            _ => return None,
        };
        let at = || Some((Epoch::new(number(2)?)?, Version::new(number(10)?).ok()?));
        let remote = match fixed[1] {
            0 => None,
            1 => at().map(|(epoch, version)| Some(InboxEntry::Exists(epoch, version)))?,
            2 => at().map(|(epoch, version)| Some(InboxEntry::Deleted(epoch, version)))?,
            3 => Some(InboxEntry::Absent),
            _ => return None,
        };
        Some(Self {
            stage,
            remote,
            asked: Version::new(number(18)?).ok()?,
            since_ms: number(26)?,
            attempts: u32::from_be_bytes(*fixed.get(34..)?.first_chunk()?),
            next_try_ms: number(38)?,
            error: std::str::from_utf8(error).ok()?.to_owned(),
        })
    }
}

/// As much of an error as is remembered.
pub(super) fn shortened(error: &str) -> &str {
    let mut end = error.len().min(ERROR_LEN_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    &error[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn notes_come_back_as_they_went(
            stage in 0..4usize, state in 0..4u8, numbers in any::<[u32; 6]>(), error in ".{0,60}"
        ) {
            let at = (
                Epoch::new(u64::from(numbers[0]) + 1).unwrap(),
                Version::new(numbers[1].into()).unwrap(),
            );
            let remote = match state {
                0 => None,
                1 => Some(InboxEntry::Exists(at.0, at.1)),
                2 => Some(InboxEntry::Deleted(at.0, at.1)),
                _ => Some(InboxEntry::Absent),
            };
            let stages =
                [NoteStage::Settled, NoteStage::Pending, NoteStage::Denied, NoteStage::Dropping];
            let note = Note {
                stage: stages[stage],
                remote,
                asked: Version::new(numbers[2].into()).unwrap(),
                since_ms: numbers[3].into(),
                attempts: numbers[4],
                next_try_ms: numbers[5].into(),
                error: shortened(&error).to_owned(),
            };
            prop_assert_eq!(Note::decode(&note.encode()), Some(note.clone()));
            prop_assert_eq!(Note::decode(&note.encode()[..FIXED_LEN - 1]), None);
        }

        /// G11: foreign bytes are a note or none.
        #[test]
        fn foreign_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _either = Note::decode(&bytes);
        }
    }
}
