//! Where ranges begin whose first rows were removed. A store that takes removals in later walks over
//! each of them whenever somebody looks from the start, and purges look from the start again and
//! again: without this the work would grow with the square of what is purged. Pure.

use std::collections::BTreeMap;

use sync_proto::types::Timestamp;

use crate::store::KeyRange;

/// Ranges of which it is known. Of more nothing is lost but time.
const RANGES_MAX: usize = 1_024;

/// How long it is believed, in milliseconds: a row may come that is older than what was removed,
/// because a clock went back.
const BELIEVED_MS: u64 = 60_000;

/// The fronts of some ranges.
#[derive(Debug, Default)]
pub(super) struct Fronts {
    /// By the first key of the range: the first key behind what was removed.
    by_range: BTreeMap<Vec<u8>, Vec<u8>>,
    since: Timestamp,
}

// === impl Fronts ===

impl Fronts {
    /// Time has come to `now`.
    pub(super) fn look_at_the_clock(&mut self, now: Timestamp) {
        let (since, now_ms) = (self.since.as_millis(), now.as_millis());
        if now_ms < since || now_ms - since >= BELIEVED_MS {
            self.by_range.clear();
            self.since = now;
        }
    }

    /// What is left of a range.
    pub(super) fn left_of(&self, range: &KeyRange) -> KeyRange {
        let front = self.by_range.get(&range.start).unwrap_or(&range.start);
        KeyRange { start: front.clone(), end: range.end.clone() }
    }

    /// The rows of a range up to this key, and it, are removed.
    pub(super) fn pass(&mut self, range: &KeyRange, last: &[u8]) {
        if self.by_range.len() >= RANGES_MAX {
            self.by_range.clear();
        }
        let mut front = last.to_vec();
        front.push(0);
        self.by_range.insert(range.start.clone(), front);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(prefix: &[u8]) -> KeyRange {
        KeyRange::prefix(prefix)
    }

    /// What was removed is not looked at again for a while; what comes later is, and so is everything
    /// after a minute, or when the clock goes back.
    #[test]
    fn a_front_moves_and_is_forgotten() {
        let at = |ms| Timestamp::from_millis(ms);
        let mut fronts = Fronts::default();
        fronts.look_at_the_clock(at(100_000));
        assert_eq!(fronts.left_of(&range(b"a")), range(b"a"));
        fronts.pass(&range(b"a"), b"a5");
        let left = fronts.left_of(&range(b"a"));
        assert_eq!((left.start.as_slice(), &left.end), (&b"a5\0"[..], &range(b"a").end));
        assert!(
            left.start.as_slice() > b"a5".as_slice() && left.start.as_slice() < b"a6".as_slice()
        );
        assert_eq!(fronts.left_of(&range(b"b")), range(b"b"));
        fronts.look_at_the_clock(at(159_999));
        assert_eq!(fronts.left_of(&range(b"a")).start, b"a5\0");
        fronts.look_at_the_clock(at(160_000));
        assert_eq!(fronts.left_of(&range(b"a")), range(b"a"));
        fronts.pass(&range(b"a"), b"a5");
        fronts.look_at_the_clock(at(99_000));
        assert_eq!(fronts.left_of(&range(b"a")), range(b"a"));
        for number in 0..u16::try_from(RANGES_MAX).unwrap() * 2 {
            fronts.pass(&range(&number.to_be_bytes()), b"x");
            assert!(fronts.by_range.len() <= RANGES_MAX);
        }
    }
}
