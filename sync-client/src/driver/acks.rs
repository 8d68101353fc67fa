//! What a replica tells the server of how far its copies are written, and on the disk: seldom, all
//! copies at once, and until it is taken. The server serves a replica the same whether or not it knows;
//! operators do not: `syncctl explain` tells a copy that is behind from one that was only sent all, and
//! what a change takes until it is applied is measured by acks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::Rng;
use sync_proto::types::{Acked, CollectionName, Cursor};

use crate::account::desk::AckFault;
use crate::backoff::Backoff;

/// Copies of one ack: a thousand of the longest names fit into a message.
const COPIES_MAX: usize = 1_000;

/// Windows of the back-off of acks that fail.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));

/// A server that keeps no acks is asked again after this: it may have been replaced.
const UNKNOWN_WAIT: Duration = Duration::from_secs(60 * 60);

/// What the server knows, and what it is to know.
#[derive(Debug)]
pub(super) struct Acks {
    every: Duration,
    durable: BTreeMap<CollectionName, Cursor>,
    /// What the server has taken, or will not take.
    settled: BTreeMap<CollectionName, Cursor>,
    sent: Option<Vec<Acked>>,
    /// An ack is taken as a whole or not at all. After one that was not, each copy is told alone.
    alone: BTreeSet<CollectionName>,
    not_before: Instant,
    waits: Backoff,
}

// === impl Acks ===

impl Acks {
    /// At least `every` between two acks. The first waits as long: not all replicas that were started
    /// together tell together, and most of what they load is told once.
    pub(super) fn new(every: Duration, now: Instant, dice: &mut impl Rng) -> Self {
        Self {
            every,
            durable: BTreeMap::new(),
            settled: BTreeMap::new(),
            sent: None,
            alone: BTreeSet::new(),
            not_before: now + crate::backoff::part_of(every, dice),
            waits: Backoff::new(WAITS.0, WAITS.1),
        }
    }

    /// All copies that there are stand there, and that is on the disk.
    pub(super) fn flushed(&mut self, at: impl IntoIterator<Item = (CollectionName, Cursor)>) {
        self.durable = at.into_iter().collect();
    }

    /// The store may have lost what it had taken: nothing is told before it is known again.
    pub(super) fn lost(&mut self) {
        self.durable.clear();
        self.alone.clear();
    }

    /// What is to be told now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Vec<Acked>> {
        if self.sent.is_some() || now < self.not_before {
            return None;
        }
        let alone = self.news().find(|(name, _)| self.alone.contains(*name));
        let news: Vec<_> = match alone {
            Some(one) => [one].into_iter().map(acked).collect(),
            None => self.news().take(COPIES_MAX).map(acked).collect(),
        };
        if news.is_empty() {
            return None;
        }
        self.sent = Some(news.clone());
        Some(news)
    }

    /// What became of it.
    pub(super) fn answered(
        &mut self,
        answer: Result<(), AckFault>,
        now: Instant,
        dice: &mut impl Rng,
    ) {
        let Some(sent) = self.sent.take() else { return };
        let wait = match answer {
            Ok(()) => {
                self.waits.reset();
                self.settle(sent);
                if self.alone.is_empty() { self.every } else { WAITS.0 }
            }
            // Of one alone the server has forgotten what it sent, or may not be told.
            Err(AckFault::Refused) if sent.len() == 1 => {
                self.settle(sent);
                self.waits.reset();
                WAITS.0
            }
            Err(AckFault::Refused) => {
                self.alone.extend(sent.into_iter().map(|one| one.collection));
                self.waits.next(dice)
            }
            Err(AckFault::Passing) => self.waits.next(dice),
            Err(AckFault::Unknown) => UNKNOWN_WAIT,
        };
        self.not_before = now + wait;
    }

    /// When there is something to tell; `None` = not before something is flushed, or answered.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.sent.is_none() && self.news().next().is_some();
        waits.then_some(self.not_before)
    }

    fn news(&self) -> impl Iterator<Item = (&CollectionName, &Cursor)> {
        self.durable.iter().filter(|(name, durable)| {
            self.settled.get(*name).is_none_or(|settled| {
                settled.epoch != durable.epoch || settled.version < durable.version
            })
        })
    }

    fn settle(&mut self, sent: Vec<Acked>) {
        for Acked { collection, cursor } in sent {
            self.alone.remove(&collection);
            self.settled.insert(collection, cursor);
        }
    }
}

fn acked((collection, cursor): (&CollectionName, &Cursor)) -> Acked {
    Acked { collection: collection.clone(), cursor: *cursor }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;
    use sync_proto::types::{Epoch, Version};

    use super::*;

    const EVERY: Duration = Duration::from_secs(30);

    fn at(name: &str, version: u64) -> (CollectionName, Cursor) {
        let cursor = Cursor::at(Epoch::new(7).unwrap(), Version::new(version).unwrap());
        (CollectionName::new(name).unwrap(), cursor)
    }

    fn names(acked: Option<Vec<Acked>>) -> Vec<String> {
        acked.unwrap_or_default().into_iter().map(|one| one.collection.to_string()).collect()
    }

    fn new(now: Instant) -> (Acks, SmallRng) {
        let mut dice = SmallRng::seed_from_u64(1);
        (Acks::new(EVERY, now, &mut dice), dice)
    }

    /// G8: all that moved is told at once, seldom, and once.
    #[test]
    fn what_moved_is_told_once_and_seldom() {
        let mut now = Instant::now();
        let (mut acks, mut dice) = new(now);
        assert_eq!(acks.deadline(), None, "nothing to tell");
        acks.flushed([at("a", 3), at("b", 4)]);
        assert!(acks.deadline().is_some_and(|at| at <= now + EVERY));
        now += EVERY;
        assert_eq!(names(acks.next(now)), ["a", "b"]);
        acks.flushed([at("a", 5), at("b", 4)]);
        assert_eq!((acks.next(now), acks.deadline()), (None, None), "one at a time");
        acks.answered(Ok(()), now, &mut dice);
        assert_eq!(acks.deadline(), Some(now + EVERY));
        assert_eq!(acks.next(now), None);
        now += EVERY;
        assert_eq!(names(acks.next(now)), ["a"], "b has not moved");
        acks.answered(Err(AckFault::Passing), now, &mut dice);
        let again = acks.deadline().unwrap();
        assert_eq!(names(acks.next(again)), ["a"], "until it is taken");
        acks.answered(Ok(()), again, &mut dice);
        assert_eq!(acks.deadline(), None);
        acks.answered(Err(AckFault::Unknown), again, &mut dice);
        assert_eq!(acks.deadline(), None, "an answer to nothing means nothing");
    }

    /// One that the server does not take keeps none of the others, and is told again when it has moved.
    #[test]
    fn one_that_is_refused_keeps_no_other() {
        let now = Instant::now();
        let (mut acks, mut dice) = new(now);
        acks.flushed([at("a", 3), at("b", 4), at("c", 5)]);
        let mut taken = Vec::new();
        let mut clock = now + EVERY;
        assert_eq!(names(acks.next(clock)).len(), 3);
        acks.answered(Err(AckFault::Refused), clock, &mut dice);
        while let Some(at) = acks.deadline() {
            assert!(at <= clock + WAITS.0, "one that is refused makes none wait for long");
            clock = at;
            let told = names(acks.next(clock));
            assert_eq!(told.len(), 1, "{told:?}");
            let answer = if told[0] == "b" { Err(AckFault::Refused) } else { Ok(()) };
            taken.extend(answer.is_ok().then(|| told[0].clone()));
            acks.answered(answer, clock, &mut dice);
        }
        assert_eq!(taken, ["a", "c"]);
        acks.flushed([at("b", 6)]);
        clock = acks.deadline().unwrap();
        assert_eq!(names(acks.next(clock)), ["b"]);
    }

    /// G9: what a store may have lost is not told; another life of a collection is news.
    #[test]
    fn what_may_be_lost_is_not_told() {
        let now = Instant::now();
        let (mut acks, mut dice) = new(now);
        acks.flushed([at("a", 3)]);
        acks.lost();
        assert_eq!((acks.deadline(), acks.next(now + EVERY)), (None, None));
        acks.flushed([at("a", 3)]);
        acks.flushed([]);
        assert_eq!(acks.next(now + EVERY), None, "a copy that is gone is not told");
        acks.flushed([at("a", 2)]);
        assert_eq!(acks.next(now + EVERY).unwrap()[0].cursor, at("a", 2).1);
        acks.answered(Ok(()), now + EVERY, &mut dice);
        let (name, cursor) = at("a", 1);
        acks.flushed([(name, Cursor { epoch: Epoch::new(8).unwrap(), ..cursor })]);
        assert!(acks.deadline().is_some());
    }
}
