//! Which way to the changes in a part of a collection. Pure.
//!
//! ```text
//! log    the rows behind the cursor, in version order; most may be out of scope
//! index  the rows of the keys in scope, whatever their version; the newer ones, sorted afterwards
//! ```
//!
//! A stretch of the list order has an index only for what was there when a load began: whatever
//! changed since concerns the reader, in the stretch or not, and is in the log.
//!
//! The log is cheap when little happened, the index when the part is small, and neither is known
//! beforehand. So every look tries the log for a few rows: often the head is reached, or the page
//! is full. If not, what the trial met says how many rows the log would still cost, and the index
//! may cost as much; if the part has more keys than that, the log was the better way after all.
//! Whatever happens, a look costs about twice the better way at most.

use sync_proto::types::{Head, Scope};

/// How much one look into the store passes at most: it bounds how long a batch may have to wait
/// for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookLimits {
    /// Rows. Above the mutations of one commit, so that every look gets on.
    pub rows_max: usize,
    /// Bytes of rows. Above the largest version.
    pub bytes_max: usize,
    /// Rows of the log that are tried before a way is chosen.
    pub trial_rows: usize,
}

/// What a trial of the log met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Rows passed.
    pub rows: usize,
    /// How many of them were wanted.
    pub found: usize,
}

/// Which way to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// All rows behind the cursor.
    Log,
    /// The rows of the index, unless there are more than this.
    Index {
        /// Most rows.
        rows_max: usize,
    },
}

// === impl LookLimits ===

impl LookLimits {
    /// What the server allows.
    pub const FULL: Self = Self { rows_max: 10_000, bytes_max: 8 * 1024 * 1024, trial_rows: 512 };
}

/// Chooses the way to the next `wanted` changes in `scope`, of a reader whose trial has ended
/// before it found as many and before the head.
#[must_use]
pub fn route(scope: &Scope, trial: Trial, wanted: usize, head: &Head, look: &LookLimits) -> Route {
    let rows_max = log_cost(trial, wanted, head).min(look.rows_max);
    match scope {
        Scope::All => Route::Log,
        Scope::KeyPrefix(_) => Route::Index { rows_max },
        Scope::Keys(keys) if keys.len() > rows_max => Route::Log,
        Scope::Keys(keys) => Route::Index { rows_max: keys.len() },
        // A row of the list order leads to a row of the keys, which leads to the log.
        Scope::Order(_) => Route::Index { rows_max: rows_max / 2 },
    }
}

/// About how many rows of the log lie before the last of the wanted: as dense as they were in the
/// trial, and none behind the head.
fn log_cost(trial: Trial, wanted: usize, head: &Head) -> usize {
    let all = usize::try_from(head.items.saturating_add(head.tombstones)).unwrap_or(usize::MAX);
    let left = all.saturating_sub(trial.rows);
    let missing = wanted.saturating_sub(trial.found);
    match trial.rows.saturating_mul(missing).checked_div(trial.found) {
        Some(expected) => expected.min(left),
        None => left,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sync_proto::digest::Digest;
    use sync_proto::types::{Epoch, Key, OrderRange, Timestamp, Version};

    use super::*;

    fn head(items: u64) -> Head {
        Head {
            epoch: Epoch::new(7).unwrap(),
            version: Version::new(90_000).unwrap(),
            floor: Version::ZERO,
            items,
            tombstones: 12,
            bytes: 0,
            digest: Digest::EMPTY,
            commit_time: Timestamp::default(),
        }
    }

    /// G8: a part may cost as many rows of the index as the log would still cost, and no look
    /// costs more than it may.
    #[test]
    fn the_index_may_cost_what_the_log_would() {
        let prefix = Scope::KeyPrefix(Bytes::from_static(b"a"));
        let keys = |count: u32| {
            Scope::Keys((0..count).map(|n| Key::new(n.to_be_bytes().to_vec()).unwrap()).collect())
        };
        let stretch = Scope::Order(OrderRange::default());
        let index = |rows_max| Route::Index { rows_max };
        for (scope, rows, found, wanted, items, best) in [
            // Nothing found: all the rest might have to be passed.
            (prefix.clone(), 512, 0, 1_000, 50_000, index(10_000)),
            (prefix.clone(), 512, 0, 1_000, 3_000, index(2_500)),
            // One in four: 900 more are about 3,600 rows away.
            (prefix.clone(), 400, 100, 1_000, 50_000, index(3_600)),
            (prefix.clone(), 400, 100, 1_000, 800, index(412)),
            (keys(1_000), 512, 0, 1_000, 50_000, index(1_000)),
            (keys(1_000), 512, 0, 1_000, 1_000, Route::Log),
            (stretch, 400, 100, 1_000, 50_000, index(1_800)),
            (Scope::All, 512, 0, 1_000, 50_000, Route::Log),
        ] {
            let trial = Trial { rows, found };
            assert_eq!(
                route(&scope, trial, wanted, &head(items), &LookLimits::FULL),
                best,
                "{trial:?} of {items}"
            );
        }
    }
}
