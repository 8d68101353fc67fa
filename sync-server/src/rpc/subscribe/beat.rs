//! When a stream is to say that it lives. Pure: instants in, answers out.

use std::time::Duration;

use tokio::time::Instant;

/// How far the next sign of life is.
#[derive(Debug)]
pub(super) struct Beat {
    every: Duration,
    next: Instant,
    due: bool,
}

// === impl Beat ===

impl Beat {
    pub(super) fn new(now: Instant, every: Duration) -> Self {
        Self { every, next: now + every, due: false }
    }

    /// Takes note of the time.
    pub(super) fn look(&mut self, now: Instant) {
        if !self.due && now >= self.next {
            self.due = true;
            self.next = now + self.every;
        }
    }

    /// Whether one is to be given.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// When to look next; `None` = not before it was given.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.due).then_some(self.next)
    }

    /// Whether it is to be given; if so, it is.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(&mut self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn one_is_due_after_each_time_and_once() {
        let start = Instant::now();
        let mut beat = Beat::new(start, EVERY);
        beat.look(start + EVERY - Duration::from_nanos(1));
        assert_eq!((beat.is_due(), beat.next_look()), (false, Some(start + EVERY)));
        // Nobody looked for long: still one.
        let late = start + 5 * EVERY;
        beat.look(late);
        assert_eq!((beat.is_due(), beat.next_look()), (true, None));
        assert!(beat.take());
        assert!(!beat.take());
        beat.look(late);
        assert_eq!((beat.is_due(), beat.next_look()), (false, Some(late + EVERY)));
    }

    #[test]
    fn one_that_cannot_be_given_is_not_added_up() {
        let start = Instant::now();
        let mut beat = Beat::new(start, EVERY);
        beat.look(start + EVERY);
        beat.look(start + 9 * EVERY);
        assert!(beat.take());
        beat.look(start + 9 * EVERY);
        assert!(beat.take(), "the next one is due by now");
        beat.look(start + 9 * EVERY);
        assert!(!beat.take());
    }
}
