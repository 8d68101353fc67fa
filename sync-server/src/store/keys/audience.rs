//! Keys of the rows about audiences. Pure.

use sync_proto::types::{CollectionName, Subject};

use super::super::KeyRange;
use super::{AUDIENCE, AUDIENCE_STATE, SWEEP};

/// Ends a name within a key.
pub(super) const END_OF_NAME: u8 = 0x00;

/// The row that says that a subject follows a collection.
#[must_use]
pub fn audience_key(name: &CollectionName, subject: &Subject) -> Vec<u8> {
    [&[AUDIENCE], name.as_str().as_bytes(), &[END_OF_NAME], subject.as_str().as_bytes()].concat()
}

/// All who follow a collection, from one subject on.
#[must_use]
pub fn audience_range(name: &CollectionName, from: Option<&Subject>) -> KeyRange {
    let whole = KeyRange::prefix(&[&[AUDIENCE], name.as_str().as_bytes(), &[END_OF_NAME]].concat());
    match from {
        Some(subject) => KeyRange { start: audience_key(name, subject), ..whole },
        None => whole,
    }
}

/// The row of an audience as a whole.
#[must_use]
pub fn audience_state_key(name: &CollectionName) -> Vec<u8> {
    [&[AUDIENCE_STATE], name.as_str().as_bytes()].concat()
}

/// The row that remembers whose inboxes are still to be told.
#[must_use]
pub fn sweep_key(name: &CollectionName) -> Vec<u8> {
    [&[SWEEP], name.as_str().as_bytes()].concat()
}
