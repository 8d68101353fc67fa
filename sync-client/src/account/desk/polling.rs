//! Heads of collections that the inbox does not announce: too many for one answer come in several.
//! Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sync_proto::types::{CollectionName, Polled, PolledHead};

use super::entry::{Stage, Teller};
use super::{Action, Desk};
use crate::backoff::Backoff;
use crate::session::{Fault, Status};

/// Which question for more heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollId(u64);

/// How far the polled heads have been read.
#[derive(Debug)]
pub(super) struct Polling {
    /// Behind which name to go on, and when.
    next: Option<(Option<CollectionName>, Instant)>,
    asked: Option<(PollId, Option<CollectionName>)>,
    /// Heads may have moved of which nobody told: nobody was asked since a stream was opened.
    due: bool,
    /// Who was told of since the first name.
    told: BTreeSet<CollectionName>,
    next_id: u64,
    waits: Backoff,
}

/// Windows of the back-off of questions that fail.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// An answer had no room for any head.
const NOTHING_TOLD_WAIT: Duration = Duration::from_millis(100);
/// After so many failures in a row the next pull of the inbox begins anew.
const ATTEMPTS_MAX: u32 = 8;

// === impl Polling ===

impl Polling {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next.as_ref().map(|(_, at)| *at)
    }

    /// Whether everything was told since the last stream was opened; a question that failed again
    /// and again counts as answered.
    pub(super) fn is_over(&self) -> bool {
        !self.due && self.next.is_none() && self.asked.is_none()
    }

    /// A stream was opened: it tells what moves from now on, not what has moved.
    pub(super) fn begin_anew(&mut self) {
        self.due = true;
    }

    /// Goes on behind the last name, if there is more; where none was told, from the same place.
    fn go_on(&mut self, polled: &Polled, after: Option<CollectionName>, now: Instant) {
        self.asked = None;
        self.next = polled.more.then(|| match polled.heads.last() {
            Some(last) => (Some(last.collection.clone()), now),
            None => (after, now + NOTHING_TOLD_WAIT),
        });
    }
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            next: None,
            asked: None,
            due: true,
            told: BTreeSet::new(),
            next_id: 0,
            waits: Backoff::new(WAITS.0, WAITS.1),
        }
    }
}

// === impl Desk ===

impl Desk {
    /// A pull of the inbox begins with the first names.
    pub(super) fn on_polled(&mut self, polled: Polled, now: Instant) {
        self.polling.due = false;
        self.take_polled(polled, None, now);
    }

    fn take_polled(&mut self, polled: Polled, after: Option<CollectionName>, now: Instant) {
        if after.is_none() {
            self.polling.told.clear();
        }
        self.polling.told.extend(polled.heads.iter().map(|head| head.collection.clone()));
        let over = !polled.more;
        self.polling.go_on(&polled, after, now);
        for head in polled.heads {
            self.hear(head, now);
        }
        if over {
            self.hear_of_the_rest(now);
        }
    }

    /// Whoever was not told of stands where the inbox says. A copy that stands elsewhere is late to
    /// be told, or of a server that has gone back: that takes a pull to tell.
    fn hear_of_the_rest(&mut self, now: Instant) {
        let told = std::mem::take(&mut self.polling.told);
        let rest = self.entries.iter().filter(|(name, _)| !told.contains(*name));
        let elsewhere = rest.filter_map(|(collection, entry)| {
            let listed = entry.listed.filter(|_| entry.stage == Stage::Idle)?;
            let there = Teller::Head.is_covered(&entry.standing, Some(listed));
            (!there).then(|| PolledHead { collection: collection.clone(), entry: listed })
        });
        for head in elsewhere.collect::<Vec<_>>() {
            self.hear(head, now);
        }
    }

    pub(super) fn on_polled_on(&mut self, id: PollId, answer: Result<Polled, Fault>, now: Instant) {
        if self.polling.asked.as_ref().is_none_or(|(asked, _)| *asked != id) {
            return;
        }
        let Some((_, after)) = self.polling.asked.take() else { return };
        match answer {
            Ok(polled) => {
                self.polling.waits.reset();
                self.take_polled(polled, after, now);
            }
            Err(_) if self.polling.waits.attempts() >= ATTEMPTS_MAX => self.polling.waits.reset(),
            Err(_) => {
                let wait = self.polling.waits.next(&mut self.dice);
                self.polling.next = Some((after, now + wait));
            }
        }
    }

    pub(super) fn poll_on(&mut self, now: Instant) {
        let idle = self.polling.next.is_none() && self.polling.asked.is_none();
        if self.polling.due && idle && self.has_the_list() && self.inbox_status == Status::Live {
            self.polling.due = false;
            self.polling.next = Some((None, now));
        }
        if self.polling.next.as_ref().is_none_or(|(_, at)| now < *at) {
            return;
        }
        if let Some((after, _)) = self.polling.next.take() {
            let id = PollId(self.polling.next_id);
            self.polling.next_id += 1;
            self.polling.asked = Some((id, after.clone()));
            self.actions.push_back(Action::Poll(id, self.inbox_standing.cursor, after));
        }
    }
}
