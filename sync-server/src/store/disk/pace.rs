//! How many rows sled takes at once while readers wait. Where they lie close together, in nodes that
//! are in memory, a row costs a few microseconds, and many of them make the batch cheap; where each
//! has a node of its own it costs fifty times as much. Pure.

use std::time::Duration;

/// Rows of one sled batch. More would make none cheaper.
const ROWS_MAX: usize = 128;
const ROWS_MIN: usize = 8;

/// Readers should wait about so long. A commit reads some rows one after the other, and may have to
/// wait before each.
const HOLD: Duration = Duration::from_millis(2);

/// The rows of the next batch.
#[derive(Debug)]
pub(super) struct Pace {
    rows: usize,
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self { rows: ROWS_MAX }
    }
}

impl Pace {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A batch of so many rows kept readers out for this long.
    pub(super) fn took(&mut self, rows: usize, held: Duration) {
        if held > HOLD {
            self.rows = (self.rows / 2).max(ROWS_MIN);
        } else if held < HOLD / 2 && rows >= self.rows {
            self.rows = (self.rows * 2).min(ROWS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that cost much come a few at a time, also the most expensive ones; rows that cost little
    /// many at a time again. A short batch says nothing of a long one.
    #[test]
    fn a_pace_follows_what_rows_cost() {
        let cost = |pace: &mut Pace, rows: usize, each_us: u64| {
            let held = Duration::from_micros(each_us * u64::try_from(rows).unwrap());
            pace.took(rows, held);
            pace.rows()
        };
        let mut pace = Pace::default();
        assert_eq!(cost(&mut pace, 128, 5), 128);
        for each_us in [100, 100, 100, 100] {
            let rows = pace.rows();
            cost(&mut pace, rows, each_us);
        }
        let rows = pace.rows();
        assert!((9..=20).contains(&rows), "{rows} rows of 100 us");
        let expensive: Vec<_> = (0..4).map(|_| cost(&mut pace, rows, 10_000)).collect();
        assert_eq!(expensive.last(), Some(&ROWS_MIN));
        assert_eq!(cost(&mut pace, 1, 5), ROWS_MIN, "one row is not eight");
        for _ in 0..4 {
            let rows = pace.rows();
            cost(&mut pace, rows, 5);
        }
        assert_eq!(pace.rows(), ROWS_MAX);
    }
}
