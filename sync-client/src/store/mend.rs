//! What a repair by difference needs of a store: sums of the rows as they are, and edits that are
//! put aside until all of them are known. Pure.

use std::collections::BTreeSet;

use sync_proto::digest::{Digest, GROUPS, SEGMENTS, SEGMENTS_PER_GROUP, Segment, value_hash};
use sync_proto::types::{Key, LeafEntry};

use super::{Row, Tally};

/// The rows of a copy added up, as they are and not as the copy's tally says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// Count and digest of all rows that read.
    pub tally: Tally,
    /// Bytes of their keys, sort keys and values.
    pub bytes: u64,
    /// Segments with rows that do not read. They differ from the server's, whatever their sums.
    pub broken: BTreeSet<Segment>,
    /// The list order does not fit the rows.
    pub disordered: bool,
    segments: Vec<Digest>,
}

/// What becomes of a row once a repair is carried out, see
/// [`Step::Mend`](crate::store::Step::Mend).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Staged {
    /// It is as it should be.
    Keep(Key),
    /// It takes the place of what is there, if anything is.
    Put(Row),
    /// It goes.
    Remove(Key),
}

/// What an entry of the server says of the row of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nothing to do, or everything that is needed is here.
    Known(Staged),
    /// Its value has to be fetched.
    Fetch,
}

// === impl Sums ===

impl Default for Sums {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            bytes: 0,
            broken: BTreeSet::new(),
            disordered: false,
            segments: vec![Digest::EMPTY; SEGMENTS],
        }
    }
}

impl Sums {
    /// Adds a row.
    pub fn add(&mut self, row: &Row) {
        let digest = row.digest();
        self.tally.items += 1;
        self.tally.digest += digest;
        self.segments[usize::from(Segment::of_key(&row.key).get())] += digest;
        self.bytes += row.bytes();
    }

    /// The sums of all 4,096 segments.
    #[must_use]
    pub fn segments(&self) -> &[Digest] {
        &self.segments
    }

    /// The sums of all 64 groups.
    pub fn groups(&self) -> impl Iterator<Item = Digest> {
        let groups = self.segments.chunks(SEGMENTS_PER_GROUP);
        groups.map(|group| group.iter().fold(Digest::EMPTY, |sum, one| sum + *one))
    }

    /// Groups that are not the same as those of the server, whose 64 sums these are.
    #[must_use]
    pub fn differing_groups(&self, theirs: &[Digest]) -> Vec<u8> {
        let broken: BTreeSet<u8> = self.broken.iter().map(|one| one.group().get()).collect();
        let pairs = (0..).zip(self.groups().zip(theirs)).take(GROUPS);
        pairs
            .filter(|(number, (ours, theirs))| *ours != **theirs || broken.contains(number))
            .map(|(number, _)| number)
            .collect()
    }

    /// Segments of `groups` that are not the same as those of the server, which sent 64 sums for
    /// each group.
    #[must_use]
    pub fn differing_segments(&self, groups: &[u8], theirs: &[Digest]) -> BTreeSet<Segment> {
        let numbers = groups.iter().flat_map(|group| {
            let first = u16::from(*group) * 64;
            first..first + 64
        });
        let segments = numbers.filter_map(Segment::new).zip(theirs);
        segments
            .filter(|(segment, theirs)| {
                let ours = self.segments[usize::from(segment.get())];
                ours != **theirs || self.broken.contains(segment)
            })
            .map(|(segment, _)| segment)
            .collect()
    }
}

// === impl Fate ===

impl Fate {
    /// Compares an entry with the row of its key. With a value of the same hash, the entry has
    /// all of the item: nothing is transferred for an item that only moved, or was only renumbered.
    #[must_use]
    pub fn of(entry: &LeafEntry, row: Option<Row>) -> Self {
        match row {
            Some(row) if value_hash(&row.value) == entry.value_hash => {
                let same = row.version == entry.version
                    && row.sort_key == entry.sort_key
                    && row.created == entry.created
                    && row.value_version == entry.value_version;
                Self::Known(if same {
                    Staged::Keep(row.key)
                } else {
                    Staged::Put(Row {
                        sort_key: entry.sort_key.clone(),
                        version: entry.version,
                        created: entry.created,
                        value_version: entry.value_version,
                        ..row
                    })
                })
            }
            Some(_) | None => Self::Fetch,
        }
    }
}

// === impl Staged ===

impl Staged {
    /// Which row.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Keep(key) | Self::Remove(key) => key,
            Self::Put(row) => &row.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sync_proto::types::{SortKey, Version};

    use super::*;

    fn row(key: &str, version: u64) -> Row {
        let version = Version::new(version).unwrap();
        Row {
            key: Key::new(key.to_owned()).unwrap(),
            value: Bytes::from(key.to_owned()),
            sort_key: SortKey::default(),
            version,
            created: version,
            value_version: version,
        }
    }

    fn entry(row: &Row) -> LeafEntry {
        LeafEntry {
            key: row.key.clone(),
            version: row.version,
            value_hash: value_hash(&row.value),
            sort_key: row.sort_key.clone(),
            created: row.created,
            value_version: row.value_version,
            value_size: 0,
        }
    }

    /// X1: what differs is found in its segment and in no other.
    #[test]
    fn sums_lead_to_the_segments_that_differ() {
        let (mut ours, mut theirs) = (Sums::default(), Sums::default());
        for number in 0..500 {
            ours.add(&row(&number.to_string(), if number == 7 { 1 } else { 2 }));
            theirs.add(&row(&number.to_string(), 2));
        }
        let groups = ours.differing_groups(&theirs.groups().collect::<Vec<_>>());
        let segment = Segment::of_key(&row("7", 1).key);
        assert_eq!(groups, [segment.group().get()]);
        let first = usize::from(groups[0]) * 64;
        let leaves = &theirs.segments[first..first + 64];
        assert_eq!(ours.differing_segments(&groups, leaves), BTreeSet::from([segment]));
        ours.broken.insert(Segment::new(4_095).unwrap());
        assert_eq!(ours.differing_groups(&theirs.groups().collect::<Vec<_>>()).last(), Some(&63));
    }

    #[test]
    fn only_values_that_are_not_here_are_fetched() {
        let mine = row("a", 3);
        let theirs = Row { version: Version::new(4).unwrap(), ..mine.clone() };
        let same = Fate::of(&entry(&mine), Some(mine.clone()));
        assert_eq!(same, Fate::Known(Staged::Keep(mine.key.clone())));
        let moved = Fate::of(&entry(&theirs), Some(mine.clone()));
        assert_eq!(moved, Fate::Known(Staged::Put(theirs.clone())));
        let flipped = Row { value: Bytes::from_static(b"b"), ..theirs };
        assert_eq!(Fate::of(&entry(&flipped), Some(mine.clone())), Fate::Fetch);
        assert_eq!(Fate::of(&entry(&mine), None), Fate::Fetch);
    }
}
