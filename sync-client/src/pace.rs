//! When a slow line counts as one that moves. Pure.

use std::time::Duration;

/// Bytes a second below which a line counts as one that brings nothing: 8 kbit/s. Signs of life
/// of the transport, and bookmarks, are far below it, so they keep no dead call waiting.
const BYTES_PER_SECOND_MIN: u64 = 1_024;

/// Longest wait for one answer or one message, however much the line brings meanwhile: the
/// largest message on a line of 64 kbit/s takes nine minutes. Every wait has an end.
pub(crate) const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Whether a line that brought so many bytes in this time moves.
pub(crate) fn moves(bytes: u64, time: Duration) -> bool {
    u128::from(bytes) * 1_000 >= u128::from(BYTES_PER_SECOND_MIN) * time.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_moves_and_signs_of_life_do_not_count() {
        let quiet = Duration::from_secs(10);
        assert!(moves(64_000 / 8 * 10, quiet) && moves(10_240, quiet));
        assert!(!moves(0, quiet) && !moves(1_000, quiet));
        assert!(moves(u64::MAX, Duration::MAX.min(Duration::from_secs(1 << 40))));
    }
}
