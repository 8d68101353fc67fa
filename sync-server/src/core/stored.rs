//! How many bytes are stored below names that have a quota, without adding them up for every commit.
//! Pure: what a look at the store finds comes in, and the clock.
//!
//! ```text
//! used = what the last look found + what was written since + what is being written
//! ```
//! Every commit counts with all that it puts, as if nothing of it replaced anything, until the next
//! look: so what is used is never more than is thought, and a commit that seems too much is judged by a
//! fresh look.

use std::collections::HashMap;
use std::time::Duration;

/// What was looked at longer ago is looked at again.
const FRESH: Duration = Duration::from_secs(1);

/// Names that are remembered, besides those that are being written below: the rest is looked at
/// again when it is written below.
const NAMES_MAX: usize = 1_024;

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

/// There would be too many bytes below a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "stored_bytes: {root} and what is below it hold {used} bytes, this would add {adds}, and \
     {bytes_max} is the limit; delete first"
)]
pub struct TooMuch {
    /// The name.
    pub root: String,
    /// Bytes there.
    pub used: u64,
    /// Bytes that would come.
    pub adds: u64,
    /// How many there may be.
    pub bytes_max: u64,
}

/// What is known of the names that have a quota.
#[derive(Debug, Default)]
pub struct Stored {
    names: HashMap<String, Tally>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    found: u64,
    /// When the look began.
    looked: Option<Duration>,
    /// Written since the look began.
    since: u64,
    writing: u64,
}

/// A look that has begun.
#[derive(Debug)]
pub struct Look {
    began: Duration,
    /// What was written before it began: it will find that.
    before: u64,
}

// === impl Stored ===

impl Stored {
    /// Begins to write, if there is room by what is known; `None`: look first.
    #[must_use]
    pub fn begin(&mut self, adding: &Adding, now: Duration) -> Option<()> {
        let tally = self.names.get_mut(&adding.root)?;
        let fresh = tally.looked.is_some_and(|looked| now.saturating_sub(looked) < FRESH);
        (fresh && tally.used() + adding.bytes <= adding.bytes_max)
            .then(|| tally.writing += adding.bytes)
    }

    /// Begins to look at a name.
    pub fn look(&mut self, root: &str, now: Duration) -> Look {
        if self.names.len() >= NAMES_MAX {
            let stale = |tally: &Tally| {
                tally.looked.is_none_or(|looked| now.saturating_sub(looked) >= FRESH)
            };
            self.names.retain(|_, tally| tally.writing > 0 || !stale(tally));
        }
        let before = self.names.get(root).map_or(0, |tally| tally.since);
        Look { began: now, before }
    }

    /// Begins to write, if there is room by what a look has found.
    pub fn begin_after(&mut self, adding: &Adding, look: &Look, found: u64) -> Result<(), TooMuch> {
        let tally = self.names.entry(adding.root.clone()).or_default();
        if tally.looked.is_none_or(|looked| looked <= look.began) {
            let since = tally.since.saturating_sub(look.before);
            *tally = Tally { found, looked: Some(look.began), since, ..*tally };
        }
        let used = tally.used();
        if used + adding.bytes > adding.bytes_max {
            let Adding { root, bytes, bytes_max } = adding.clone();
            return Err(TooMuch { root, used, adds: bytes, bytes_max });
        }
        tally.writing += adding.bytes;
        Ok(())
    }

    /// It is written, or was not.
    pub fn end(&mut self, adding: &Adding) {
        if let Some(tally) = self.names.get_mut(&adding.root) {
            tally.writing = tally.writing.saturating_sub(adding.bytes);
            tally.since += adding.bytes;
        }
    }
}

// === impl Tally ===

impl Tally {
    fn used(&self) -> u64 {
        self.found + self.since + self.writing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adding(bytes: u64) -> Adding {
        Adding { root: "users/alice".to_owned(), bytes, bytes_max: 100 }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// G8: what is being written counts, what a look finds takes the place of what was thought, and
    /// what is written while it looks is not forgotten.
    #[test]
    fn what_is_used_is_never_thought_less() {
        let mut stored = Stored::default();
        assert_eq!(stored.begin(&adding(1), at(0)), None, "nothing is known");
        let look = stored.look("users/alice", at(0));
        stored.begin_after(&adding(40), &look, 50).unwrap();
        assert_eq!(stored.begin(&adding(11), at(1)), None, "it would be 101");
        stored.begin(&adding(10), at(1)).unwrap();
        stored.end(&adding(10));
        let look = stored.look("users/alice", at(2));
        // Ends while it is looked: the look may have found it or not.
        stored.end(&adding(40));
        let refused = stored.begin_after(&adding(1), &look, 60).unwrap_err();
        assert_eq!((refused.used, refused.bytes_max), (100, 100));
        assert!(refused.to_string().starts_with("stored_bytes: users/alice and"), "{refused}");
        let look = stored.look("users/alice", at(3));
        stored.begin_after(&adding(1), &look, 60).unwrap();
        assert_eq!(stored.begin(&adding(1), at(1_003)), None, "that was long ago");
    }

    /// G8: names that nobody writes below are forgotten.
    #[test]
    fn memory_is_bounded() {
        let mut stored = Stored::default();
        for number in 0..4 * NAMES_MAX as u64 {
            let adding = Adding { root: number.to_string(), ..adding(1) };
            let look = stored.look(&adding.root, at(number * 10));
            stored.begin_after(&adding, &look, 0).unwrap();
            stored.end(&adding);
        }
        assert!(stored.names.len() <= NAMES_MAX, "{}", stored.names.len());
    }
}
