//! What all streams of a client have in common, whatever they carry: when one counts as dead, and
//! how long a server may ask to stay away. Pure.

use std::time::{Duration, Instant};

use rand::Rng;
use sync_proto::limits::{HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN};
use sync_proto::types::Goodbye;

use crate::backoff::part_of;
use crate::pace;

/// No whole message since some moment. On a slow line a page takes its time: while the
/// connection brings what may be a part of one, the stream is not dead (R41).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silence {
    since: Instant,
    /// For how long nothing may come at a time.
    patience: Duration,
    /// When to look what has come.
    look_at: Instant,
    /// What had come when it was looked last.
    received: u64,
}

/// How long the server may take to accept a stream.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Silent heartbeats after which a stream is dead.
const HEARTBEATS_MAX: u32 = 3;
/// Longest wait that a server can ask for. Longer ones are mistakes, and overflow clocks.
pub(crate) const ASKED_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// A heartbeat that a server may really have said.
pub(crate) fn heartbeat_within(said: Duration) -> Duration {
    let millis = |millis: u32| Duration::from_millis(millis.into());
    said.clamp(millis(HEARTBEAT_MS_MIN), millis(HEARTBEAT_MS_MAX))
}

/// What the server's goodbye asks for: wait at least so long, then a random part more (R44).
pub(crate) fn goodbye_wait(goodbye: &Goodbye, dice: &mut impl Rng) -> Duration {
    let jitter = goodbye.jitter.min(ASKED_WAIT_MAX);
    goodbye.retry_after.min(ASKED_WAIT_MAX) + part_of(jitter, dice)
}

// === impl Silence ===

impl Silence {
    /// Of a stream that is being opened, while the connection had brought `received` bytes.
    pub(crate) fn of_opening(received: u64, now: Instant) -> Self {
        Self::new(OPEN_TIMEOUT, received, now)
    }

    /// Of a stream that was heard just now.
    pub(crate) fn between(heartbeat: Duration, received: u64, now: Instant) -> Self {
        Self::new(heartbeat * HEARTBEATS_MAX, received, now)
    }

    fn new(patience: Duration, received: u64, now: Instant) -> Self {
        Self { since: now, patience, look_at: now + patience, received }
    }

    /// When to look.
    pub(crate) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Whether it has lasted for too long, given what the connection has brought by now.
    pub(crate) fn is_over(&mut self, received: u64, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        let begun = self.look_at.checked_sub(self.patience).unwrap_or(now);
        let came = received.saturating_sub(self.received);
        if !pace::moves(came, now - begun) || now - self.since >= pace::LONGEST {
            return true;
        }
        self.look_at = now + self.patience;
        self.received = received;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R41: a line that brings something is waited for, one that brings nothing is not, and every
    /// wait has an end.
    #[test]
    fn a_stream_is_dead_when_its_line_brings_nothing() {
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let mut silence = Silence::between(second, 0, began);
        assert!(!silence.is_over(0, began + second * 2), "not yet");
        assert!(!silence.is_over(4_000, began + second * 3), "it moves");
        assert_eq!(silence.look_at(), began + second * 6);
        assert!(silence.is_over(4_000, began + second * 6), "nothing came since");
        let mut endless = Silence::between(second, 0, began);
        let mut is_over = |n: &u32| {
            let at = began + second * 3 * *n;
            endless.is_over(u64::from(*n) * 1_000_000, at)
        };
        let dead = (1..=400).find(|n| is_over(n));
        assert_eq!(dead, Some(300), "a quarter of an hour");
    }
}
