//! Page tokens of listings and of reconciliations. Pure. A token points between two rows, so rows
//! that come and go elsewhere neither repeat nor hide any. It belongs to one life of one
//! collection and to one question.
//!
//! ```text
//! token = format:1 epoch:8 question:4 position checksum:4      of a listing of collections:
//!                                                              epoch 0, position = a name
//!                                                              of an audience: likewise, a subject
//! ```

use bytes::Bytes;
use sync_proto::digest::Segment;
use sync_proto::types::{CollectionName, Epoch, Key, ListItems, ListOrder, OrderPlace, Subject};

/// Layout of tokens.
const TOKEN_FORMAT: u8 = 1;
const HEADER_LEN: usize = 13;
const CHECKSUM_LEN: usize = 4;
/// Stands for the epoch where no single collection is listed.
pub(super) const NO_EPOCH: u64 = 0;

/// Why a token cannot be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// It was not made by this server, or for another question.
    #[error("page_token: is not a token for this question; begin again without it")]
    Invalid,
    /// The collection was created anew since.
    #[error("page_token: the collection was created anew since; begin again without it")]
    OtherEpoch,
}

/// A number that tells questions apart.
#[must_use]
pub fn question(list: &ListItems) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(list.collection.as_str().as_bytes());
    let order = match list.order {
        ListOrder::Key => 1,
        ListOrder::SortKey => 2,
    };
    hash.update(&[order, u8::from(list.descending)]);
    hash.update(&list.key_prefix);
    for (which, end) in [(1, list.stretch.from()), (2, list.stretch.to())] {
        if let Some(OrderPlace { sort_key, key }) = end {
            hash.update(&[0, which]);
            hash.update(&u64::try_from(sort_key.as_bytes().len()).unwrap_or(0).to_be_bytes());
            hash.update(sort_key.as_bytes());
            hash.update(key.as_ref().map_or(&[], Key::as_bytes));
        }
    }
    hash.finalize()
}

/// The same of the entries of these segments.
#[must_use]
pub fn entries_question(collection: &CollectionName, segments: &[Segment]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(collection.as_str().as_bytes());
    // No listing has this order.
    hash.update(&[3]);
    for segment in segments {
        hash.update(&segment.get().to_be_bytes());
    }
    hash.finalize()
}

/// The same of the subjects who follow a collection.
#[must_use]
pub fn audience_question(collection: &CollectionName) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(collection.as_str().as_bytes());
    // Neither a listing nor a reconciliation has this order.
    hash.update(&[4]);
    hash.finalize()
}

/// The token that points behind a subject in a listing of an audience.
#[must_use]
pub fn subject_token(question: u32, last: &Subject) -> Bytes {
    seal(NO_EPOCH, question, last.as_str().as_bytes())
}

/// The subject that a token of a listing of an audience points behind; `None` = the beginning.
pub fn subject_position(token: &[u8], asked: u32) -> Result<Option<Subject>, TokenRefusal> {
    let Some(subject) = open(token, NO_EPOCH, asked)? else { return Ok(None) };
    let subject = std::str::from_utf8(subject).map_err(|_| TokenRefusal::Invalid)?;
    Subject::new(subject).map(Some).map_err(|_| TokenRefusal::Invalid)
}

/// A listing of the collections whose names begin with this.
#[must_use]
pub fn names_question(prefix: &str) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    // No collection has this name.
    hash.update(b"\0");
    hash.update(prefix.as_bytes());
    hash.finalize()
}

/// The token that points behind a name in a listing of collections.
#[must_use]
pub fn names_token(question: u32, last: &CollectionName) -> Bytes {
    seal(NO_EPOCH, question, last.as_str().as_bytes())
}

/// The name that a token of a listing of collections points behind; `None` = the beginning.
pub fn name_position(token: &[u8], asked: u32) -> Result<Option<CollectionName>, TokenRefusal> {
    let Some(name) = open(token, NO_EPOCH, asked)? else { return Ok(None) };
    let name = std::str::from_utf8(name).map_err(|_| TokenRefusal::Invalid)?;
    CollectionName::new(name).map(Some).map_err(|_| TokenRefusal::Invalid)
}

/// The token that points behind the row at `position`.
#[must_use]
pub fn token(epoch: Epoch, question: u32, position: &[u8]) -> Bytes {
    seal(epoch.get(), question, position)
}

/// The position that a token points behind; `None` = the beginning.
pub fn position(token: &[u8], epoch: Epoch, asked: u32) -> Result<Option<&[u8]>, TokenRefusal> {
    open(token, epoch.get(), asked)
}

pub(super) fn seal(epoch: u64, question: u32, position: &[u8]) -> Bytes {
    let mut token = Vec::with_capacity(HEADER_LEN + position.len() + CHECKSUM_LEN);
    token.push(TOKEN_FORMAT);
    token.extend_from_slice(&epoch.to_be_bytes());
    token.extend_from_slice(&question.to_be_bytes());
    token.extend_from_slice(position);
    token.extend_from_slice(&crc32fast::hash(&token).to_be_bytes());
    token.into()
}

pub(super) fn open(token: &[u8], epoch: u64, asked: u32) -> Result<Option<&[u8]>, TokenRefusal> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() < HEADER_LEN + CHECKSUM_LEN || token[0] != TOKEN_FORMAT {
        return Err(TokenRefusal::Invalid);
    }
    let (content, checksum) = token.split_at(token.len() - CHECKSUM_LEN);
    if crc32fast::hash(content).to_be_bytes() != checksum
        || content[9..HEADER_LEN] != asked.to_be_bytes()
    {
        return Err(TokenRefusal::Invalid);
    }
    if content[1..9] != epoch.to_be_bytes() {
        return Err(TokenRefusal::OtherEpoch);
    }
    Ok(Some(&content[HEADER_LEN..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number).unwrap()
    }

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_position(place: Vec<u8>, number in 1..u64::MAX, asked: u32) {
            let token = token(epoch(number), asked, &place);
            prop_assert_eq!(position(&token, epoch(number), asked), Ok(Some(place.as_slice())));
            let other = position(&token, epoch(number ^ (1 << 63)), asked);
            prop_assert_eq!(other, Err(TokenRefusal::OtherEpoch));
            prop_assert_eq!(position(&token, epoch(number), !asked), Err(TokenRefusal::Invalid));
        }

        #[test]
        fn a_changed_token_is_refused(place: Vec<u8>, at: prop::sample::Index, flip in 1..=255u8) {
            let mut changed = token(epoch(5), 7, &place).to_vec();
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert!(position(&changed, epoch(5), 7).is_err());
        }

        #[test]
        fn foreign_bytes_are_refused(foreign in prop::collection::vec(any::<u8>(), 1..64)) {
            prop_assert!(position(&foreign, epoch(5), 7).is_err());
        }
    }
}
