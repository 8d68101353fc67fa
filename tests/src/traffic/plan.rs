//! What the writers write. Commit `number` of a writer is always the same, so whoever knows how
//! many commits of each writer happened knows every byte that must be there. Pure.
//!
//! `left` and `right` get the same rows in the same commit, so that half a commit would show;
//! `churn` gets a new key and loses an old one, so that tombstones never end.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_proto::limits::VALUE_LEN_MAX;
use sync_proto::types::{Commit, Mutation};

use crate::compose::{delete, put, put_at};

/// Writers at work at the same time.
pub const WRITERS: usize = 4;

/// The collections that every commit changes; the first two hold the same.
pub const COLLECTIONS: [&str; 3] = ["left", "right", "churn"];

/// Each writer puts and deletes these in turn.
const SLOTS: u64 = 20;

/// Keys of `churn` that a writer keeps.
const CHURN_KEPT: u64 = 5;

/// One of the commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Whose.
    pub writer: usize,
    /// Which one of the writer's; the first is 1.
    pub number: u64,
}

/// How large values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Up to 300 bytes, some empty.
    Small,
    /// From nothing to the largest allowed.
    All,
}

/// Rows that must be there, each with the commit that wrote it.
pub type Rows = BTreeMap<Vec<u8>, (Id, Bytes)>;

// === impl Id ===

impl Id {
    /// What this commit sends.
    #[must_use]
    pub fn commit(self, values: Values) -> Commit {
        let Self { writer, number } = self;
        let mut mutations: Vec<Mutation> = Vec::with_capacity(6);
        for mirror in &COLLECTIONS[..2] {
            mutations.push(put(mirror, self.last_key(), number.to_string()));
            mutations.push(if self.deletes() {
                delete(mirror, self.slot())
            } else {
                // The place makes it a change also where the value is the same as before.
                put_at(mirror, self.slot(), self.content(values), number.to_be_bytes())
            });
        }
        mutations.push(put(COLLECTIONS[2], self.churn_key(), number.to_string()));
        if let Some(old) = number.checked_sub(CHURN_KEPT).filter(|old| *old > 0) {
            mutations.push(delete(COLLECTIONS[2], Self { writer, number: old }.churn_key()));
        }
        let idempotency_key = format!("{writer} {number}");
        Commit { mutations, idempotency_key, ..Commit::default() }
    }

    /// The commit that a row gives away, if its key is one that every commit writes.
    #[must_use]
    pub fn of_row(key: &[u8], value: &[u8]) -> Option<Self> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let (kind, rest) = text(key)?.split_once('/')?;
        match kind {
            "last" => Some(Self { writer: rest.parse().ok()?, number: text(value)?.parse().ok()? }),
            "churn" => {
                let (writer, number) = rest.split_once('/')?;
                Some(Self { writer: writer.parse().ok()?, number: number.parse().ok()? })
            }
            _ => None,
        }
    }

    fn last_key(self) -> String {
        format!("last/{}", self.writer)
    }

    fn churn_key(self) -> String {
        format!("churn/{}/{}", self.writer, self.number)
    }

    fn slot(self) -> String {
        format!("slot/{}/{}", self.writer, self.number % SLOTS)
    }

    fn deletes(self) -> bool {
        self.number % 7 == 3
    }

    fn content(self, values: Values) -> Bytes {
        let mixed = mix((self.writer as u64) << 48 | self.number);
        let spread = usize::try_from(mixed >> 40).expect("24 bits");
        let len = match (mixed % 64, values) {
            (0, Values::All) => VALUE_LEN_MAX,
            (1..=3, Values::All) => 20_000 + spread % 180_000,
            (4..=15, Values::All) => 1_000 + spread % 19_000,
            (16..=23, _) => 0,
            (_, Values::Small | Values::All) => 1 + spread % 300,
        };
        let pattern = mixed.to_be_bytes();
        let byte = |at: usize| pattern[at % 8] ^ pattern[(at >> 12) % 8].rotate_left(3);
        (0..len).map(byte).collect()
    }
}

/// What `left` and `right` hold after so many commits of each writer.
#[must_use]
pub fn mirrored(done: &[u64; WRITERS], values: Values) -> Rows {
    let mut rows = Rows::new();
    for (writer, &done) in done.iter().enumerate().filter(|(_, done)| **done > 0) {
        let last = Id { writer, number: done };
        rows.insert(last.last_key().into_bytes(), (last, done.to_string().into()));
        for number in done.saturating_sub(SLOTS - 1).max(1)..=done {
            let id = Id { writer, number };
            if !id.deletes() {
                rows.insert(id.slot().into_bytes(), (id, id.content(values)));
            }
        }
    }
    rows
}

/// What `churn` holds after so many commits of each writer.
#[must_use]
pub fn churned(done: &[u64; WRITERS]) -> Rows {
    let mut rows = Rows::new();
    for (writer, &done) in done.iter().enumerate() {
        for number in done.saturating_sub(CHURN_KEPT - 1).max(1)..=done {
            let id = Id { writer, number };
            rows.insert(id.churn_key().into_bytes(), (id, number.to_string().into()));
        }
    }
    rows
}

/// Spreads a number over 64 bits (the finaliser of `SplitMix64`).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use sync_proto::types::Op;

    use super::*;

    /// The rows of one collection after each commit, by doing what the commits say.
    fn replay(collection: &str, numbers: u64, values: Values) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        for number in 1..=numbers {
            let commit = Id { writer: 0, number }.commit(values);
            for mutation in commit.mutations {
                if mutation.collection.as_str() != collection {
                    continue;
                }
                if let Op::Put { key, value, .. } = &mutation.op {
                    rows.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
                } else if let Op::Delete { key } = &mutation.op {
                    rows.remove(key.as_bytes());
                } else {
                    panic!("not planned: {mutation:?}");
                }
            }
        }
        rows
    }

    /// The shortcut and the long way agree, or no crash test proves anything.
    #[test]
    fn what_must_be_there_is_what_the_commits_say() {
        for numbers in [0, 1, 4, 21, 60] {
            let plain = |rows: Rows| -> BTreeMap<Vec<u8>, Vec<u8>> {
                rows.into_iter().map(|(key, (_, value))| (key, value.to_vec())).collect()
            };
            let done = [numbers, 0, 0, 0];
            assert_eq!(plain(mirrored(&done, Values::All)), replay("right", numbers, Values::All));
            assert_eq!(plain(churned(&done)), replay("churn", numbers, Values::All));
        }
    }

    #[test]
    fn values_are_of_every_size() {
        let lens: Vec<usize> =
            (0..400).map(|number| Id { writer: 1, number }.content(Values::All).len()).collect();
        assert!(lens.contains(&0) && lens.contains(&VALUE_LEN_MAX));
        assert!(lens.iter().any(|len| (20_000..VALUE_LEN_MAX).contains(len)));
    }
}
