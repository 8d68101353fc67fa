//! Acks of the inbox: how far it is processed, said seldom, until the server has taken it. Pure.

use std::time::{Duration, Instant};

use sync_proto::types::Cursor;

use super::{Action, Desk};
use crate::backoff::Backoff;

/// What is known of the server's knowledge.
#[derive(Debug)]
pub(super) struct Acks {
    /// Processed, and on the disk.
    durable: Option<Cursor>,
    sent: Option<Cursor>,
    accepted: Option<Cursor>,
    /// No ack before.
    not_before: Instant,
    waits: Backoff,
}

/// Why an ack was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckFault {
    /// It may pass by itself.
    Passing,
    /// The server does not accept this one: it has been restored, or has forgotten what it sent.
    Refused,
    /// The server keeps no acks, or not those of this client.
    Unknown,
}

/// Windows of the back-off of acks that fail.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5 * 60));
/// Least wait after an ack that was refused.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// A server that keeps no acks is asked again after this: it may have been replaced.
const UNKNOWN_WAIT: Duration = Duration::from_secs(60 * 60);

// === impl Acks ===

impl Acks {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            durable: None,
            sent: None,
            accepted: None,
            not_before: now,
            waits: Backoff::new(WAITS.0, WAITS.1),
        }
    }

    pub(super) fn on_flushed(&mut self, processed: Option<Cursor>) {
        if processed.is_some() {
            self.durable = processed;
        }
    }

    /// What is to be said, if it is new.
    fn news(&self) -> Option<Cursor> {
        let news = |durable: &Cursor| {
            self.accepted.is_none_or(|accepted| {
                accepted.epoch != durable.epoch || accepted.version < durable.version
            })
        };
        self.durable.filter(news).filter(|_| self.sent.is_none())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.news().map(|_| self.not_before)
    }
}

// === impl Desk ===

impl Desk {
    pub(super) fn acknowledge(&mut self, now: Instant) {
        let life = self.inbox_standing.cursor.map(|at| at.epoch);
        if self.acks.durable.is_some_and(|durable| Some(durable.epoch) != life) {
            // The inbox has begun another life meanwhile.
            self.acks.durable = None;
        }
        // What a write of the inbox leads to is not known before it is carried out.
        let knows = self.page.is_none() && !self.scanning;
        if let Some(cursor) = self.acks.news().filter(|_| knows)
            && self.acks.not_before <= now
        {
            self.acks.sent = Some(cursor);
            self.acks.not_before = now + self.ack_every;
            self.stats.acks += 1;
            self.actions.push_back(Action::Ack(cursor));
        }
    }

    pub(super) fn on_acked(&mut self, answer: Result<(), AckFault>, now: Instant) {
        let Some(sent) = self.acks.sent.take() else { return };
        let wait = match answer {
            Ok(()) => {
                self.acks.accepted = Some(sent);
                self.acks.waits.reset();
                self.stats.acks_accepted += 1;
                self.ack_every
            }
            Err(AckFault::Passing) => self.acks.waits.next(&mut self.dice),
            Err(AckFault::Refused) => self.acks.waits.next(&mut self.dice) + REFUSED_WAIT,
            Err(AckFault::Unknown) => UNKNOWN_WAIT,
        };
        self.acks.not_before = now + wait;
    }
}
