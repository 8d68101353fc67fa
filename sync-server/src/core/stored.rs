//! How many bytes are stored below names that have a quota, kept up with every change of a head, so
//! that a commit costs the same however many collections there are. Pure: who holds the heads says how
//! they move, and lets them be counted when a name is first asked for, a piece at a time.
//!
//! ```text
//! asked for ─► counted up to a name ─► … ─► known
//!                 a head moves: counts, if it is among those that were counted
//! ```

use std::collections::HashMap;
use std::ops::Bound;

/// Names whose sums are remembered: about 0.1 KiB each and the name. When there are more, all are
/// forgotten and counted again when they are asked for: never is a sum less than what is there.
const NAMES_MAX: usize = 16_384;

/// What a commit would add below a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adding {
    /// The name that the quota is of.
    pub root: String,
    /// Bytes of the items that are put.
    pub bytes: u64,
    /// How many there may be.
    pub bytes_max: u64,
}

/// There would be too many bytes below a name. Says nothing of what is there: that may not be the
/// writer's to know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "stored_bytes: {root} and what is below it may hold {bytes_max} bytes, and there is no room for \
     {adds} more; delete first"
)]
pub struct TooMuch {
    /// The name.
    pub root: String,
    /// Bytes that would come.
    pub adds: u64,
    /// How many there may be.
    pub bytes_max: u64,
}

/// Sums of bytes by name: of the collection of that name and of all below it.
#[derive(Debug, Default)]
pub struct Sums {
    names: HashMap<String, Sum>,
}

#[derive(Debug)]
struct Sum {
    bytes: u64,
    /// Collections behind this name have not been counted; `None`: all have.
    counted: Option<String>,
}

// === impl Adding ===

impl Adding {
    /// Whether it fits beside what is there and what is being written, itself included.
    pub fn fits(&self, there: u64, writing: u64) -> Result<(), TooMuch> {
        if there.saturating_add(writing) <= self.bytes_max {
            return Ok(());
        }
        let Self { root, bytes, bytes_max } = self.clone();
        Err(TooMuch { root, adds: bytes, bytes_max })
    }
}

// === impl Sums ===

impl Sums {
    /// Bytes there, if they have been counted.
    #[must_use]
    pub fn of(&self, root: &str) -> Option<u64> {
        let sum = self.names.get(root)?;
        sum.counted.is_none().then_some(sum.bytes)
    }

    /// Counts at most so many collections more; the bytes, when all have been counted. `own` are those
    /// of the collection of that name itself, `behind` yields the collections from a place on, in order
    /// of their names, with their bytes.
    pub fn count<'n, I: Iterator<Item = (&'n str, u64)>>(
        &mut self,
        root: &str,
        most: usize,
        own: u64,
        behind: impl FnOnce(Bound<&str>) -> I,
    ) -> Option<u64> {
        let below = format!("{root}/");
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(root) {
            self.names.clear();
        }
        // No name ends with a slash, so what is behind this place is all that is below.
        let begin = || Sum { bytes: own, counted: Some(below.clone()) };
        let sum = self.names.entry(root.to_owned()).or_insert_with(begin);
        let Some(counted) = &mut sum.counted else { return Some(sum.bytes) };
        let mut looked = 0;
        let mut last = None;
        for (name, bytes) in behind(Bound::Excluded(counted.as_str())).take(most) {
            if !name.starts_with(&below) {
                break;
            }
            (looked, last) = (looked + 1, Some(name));
            sum.bytes = sum.bytes.saturating_add(bytes);
        }
        if looked == most
            && let Some(last) = last
        {
            last.clone_into(counted);
            return None;
        }
        sum.counted = None;
        Some(sum.bytes)
    }

    /// The collection of this name had `before` and has `after` bytes.
    pub fn moved(&mut self, name: &str, before: u64, after: u64) {
        if self.names.is_empty() || before == after {
            return;
        }
        let ends = name.match_indices('/').map(|(end, _)| end).chain([name.len()]);
        for root in ends.map(|end| &name[..end]) {
            let Some(sum) = self.names.get_mut(root) else { continue };
            let behind = sum.counted.as_ref().is_some_and(|counted| name > counted.as_str());
            if name == root || !behind {
                sum.bytes = sum.bytes.saturating_sub(before).saturating_add(after);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 8] = ["a", "a!", "a/b", "a/b/c", "a/b!", "a/c", "ab", "b/a"];

    fn count(sums: &mut Sums, there: &BTreeMap<&str, u64>, root: &str, most: usize) -> Option<u64> {
        let own = there.get(root).copied().unwrap_or_default();
        sums.count(root, most, own, |from| {
            there.range::<str, _>((from, Bound::Unbounded)).map(|(name, bytes)| (*name, *bytes))
        })
    }

    fn truth(there: &BTreeMap<&str, u64>, root: &str) -> u64 {
        let below = format!("{root}/");
        let of = there.iter().filter(|(name, _)| **name == root || name.starts_with(&below));
        of.map(|(_, bytes)| bytes).sum()
    }

    proptest! {
        /// G8: whatever comes, grows, shrinks and goes before a name is counted, while it is and
        /// after, its sum is what is there.
        #[test]
        fn sums_are_what_is_there(
            steps in prop::collection::vec((0..NAMES.len(), 0..50u64, 0..3u8, 1..4usize), 1..80),
        ) {
            let (mut sums, mut there) = (Sums::default(), BTreeMap::new());
            for (name, bytes, kind, piece) in steps {
                let name = NAMES[name];
                match kind {
                    0 => {
                        let before = there.insert(name, bytes).unwrap_or_default();
                        sums.moved(name, before, bytes);
                    }
                    1 => {
                        let before = there.remove(name).unwrap_or_default();
                        sums.moved(name, before, 0);
                    }
                    _ => {
                        let found = count(&mut sums, &there, name, piece);
                        prop_assert!(found.is_none_or(|found| found == truth(&there, name)));
                    }
                }
                for root in NAMES {
                    prop_assert!(sums.of(root).is_none_or(|sum| sum == truth(&there, root)));
                }
            }
            for root in NAMES {
                let counted = (0..=NAMES.len()).find_map(|_| count(&mut sums, &there, root, 1));
                prop_assert_eq!(counted, Some(truth(&there, root)));
            }
        }
    }

    /// G8: however many names are asked for, only so many are remembered, and what is forgotten is
    /// counted again.
    #[test]
    fn memory_is_bounded() {
        let mut sums = Sums::default();
        let there = BTreeMap::from([("a", 7), ("a/b", 8)]);
        assert_eq!(count(&mut sums, &there, "a", 9), Some(15));
        for number in 0..2 * NAMES_MAX {
            assert_eq!(count(&mut sums, &there, &number.to_string(), 9), Some(0));
            assert!(sums.names.len() <= NAMES_MAX);
        }
        assert_eq!(sums.of("a"), None);
        assert_eq!(count(&mut sums, &there, "a", 9), Some(15));
    }
}
