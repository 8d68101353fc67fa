//! The comparison of a history with its own order. Pure.

use std::collections::BTreeMap;

use super::{Event, Items, Source, Version, What, Wrong};

/// A history, and what follows from it.
struct Checker<'a> {
    history: &'a [Event],
    /// The items after each of them; those of version 0 are none.
    states: BTreeMap<Version, Items>,
    /// Events by when their answer was there, each with the newest version known by then.
    known: Vec<(u64, Version, usize)>,
    /// Commits by when they were sent, each with the lowest version of all sent from then on.
    sent: Vec<(u64, Version)>,
}

pub(super) fn check(history: &[Event]) -> Result<(), Wrong> {
    let order = order(history)?;
    let states = replay(history, &order)?;
    let (known, sent) = (known(history), sent(history));
    let checker = Checker { history, states, known, sent };
    for event in 0..history.len() {
        checker.event(event)?;
    }
    checker.copies()
}

/// Every commit has a version of its own, and follows the one before it.
fn order(history: &[Event]) -> Result<BTreeMap<Version, usize>, Wrong> {
    let mut order = BTreeMap::new();
    for (event, Event { what, .. }) in history.iter().enumerate() {
        if let What::Committed { version, .. } = what
            && let Some(other) = order.insert(*version, event)
        {
            return Err(Wrong::SameVersion(other, event));
        }
    }
    let mut before = 0;
    for (&at, &event) in &order {
        let What::Committed { prev, .. } = &history[event].what else { continue };
        if *prev != before {
            return Err(Wrong::BrokenChain(event));
        }
        before = at;
    }
    Ok(order)
}

/// What each commit made, and whether it was allowed to.
fn replay(
    history: &[Event],
    order: &BTreeMap<Version, usize>,
) -> Result<BTreeMap<Version, Items>, Wrong> {
    let mut states = BTreeMap::from([(0, Items::new())]);
    let mut items = Items::new();
    for (&version, &event) in order {
        let What::Committed { prev, writes, condition, .. } = &history[event].what else {
            continue;
        };
        if condition.as_ref().is_some_and(|condition| !condition.holds(*prev, &items)) {
            return Err(Wrong::HappenedAnyway(event));
        }
        for (key, write) in writes {
            match write {
                Some(value) => drop(items.insert(key.clone(), (version, *value))),
                None => drop(items.remove(key)),
            }
        }
        states.insert(version, items.clone());
    }
    Ok(states)
}

/// The version that an answer proves to be there.
fn proven(event: &Event) -> Option<Version> {
    match event.what {
        What::Committed { version, .. } | What::Saw { version, .. } => Some(version),
        What::Refused(_) => None,
    }
}

fn known(history: &[Event]) -> Vec<(u64, Version, usize)> {
    let proof = |(event, told): (usize, &Event)| Some((*told.during.end(), proven(told)?, event));
    let mut known: Vec<_> = history.iter().enumerate().filter_map(proof).collect();
    known.sort_unstable();
    let mut newest = (0, 0);
    for (_, version, event) in &mut known {
        newest = newest.max((*version, *event));
        (*version, *event) = newest;
    }
    known
}

fn sent(history: &[Event]) -> Vec<(u64, Version)> {
    let commit = |told: &Event| match told.what {
        What::Committed { version, .. } => Some((*told.during.start(), version)),
        What::Refused(_) | What::Saw { .. } => None,
    };
    let mut sent: Vec<_> = history.iter().filter_map(commit).collect();
    sent.sort_unstable();
    let mut lowest = Version::MAX;
    for (_, version) in sent.iter_mut().rev() {
        lowest = lowest.min(*version);
        *version = lowest;
    }
    sent
}

// === impl Checker ===

impl Checker<'_> {
    fn event(&self, event: usize) -> Result<(), Wrong> {
        match &self.history[event].what {
            What::Committed { version, .. } => self.not_stale(event, version.saturating_sub(1)),
            What::Refused(condition) => {
                let (known, _) = self.known_before(event);
                let mut states = self.states.range(known..self.sent_after(event));
                let failed = states.any(|(version, items)| !condition.holds(*version, items));
                if failed { Ok(()) } else { Err(Wrong::RefusedAnyway(event)) }
            }
            What::Saw { source, version, items, asked, waited_for } => {
                if *source == Source::Server {
                    self.not_stale(event, *version)?;
                }
                if version < waited_for {
                    return Err(Wrong::NotWaitedFor(event));
                }
                self.was_so(event, *version, items, asked.as_deref())
            }
        }
    }

    /// The newest version that somebody knew before it was asked, and who.
    fn known_before(&self, event: usize) -> (Version, usize) {
        let asked = *self.history[event].during.start();
        let count = self.known.partition_point(|(answered, ..)| *answered < asked);
        let last = count.checked_sub(1).map(|last| self.known[last]);
        last.map_or((0, event), |(_, version, who)| (version, who))
    }

    /// The lowest version of what was sent after its answer was there.
    fn sent_after(&self, event: usize) -> Version {
        let answered = *self.history[event].during.end();
        let first = self.sent.partition_point(|(sent, ..)| *sent <= answered);
        self.sent.get(first).map_or(Version::MAX, |(_, version)| *version)
    }

    fn not_stale(&self, event: usize, has: Version) -> Result<(), Wrong> {
        let (known, who) = self.known_before(event);
        if known > has { Err(Wrong::Stale(event, who)) } else { Ok(()) }
    }

    fn was_so(
        &self,
        event: usize,
        version: Version,
        items: &Items,
        asked: Option<&[String]>,
    ) -> Result<(), Wrong> {
        let state = self.states.get(&version).ok_or(Wrong::NeverSo(event))?;
        let same = match asked {
            None => state == items,
            Some(keys) => {
                keys.iter().all(|key| state.get(key) == items.get(key))
                    && items.keys().all(|key| keys.contains(key))
            }
        };
        if same { Ok(()) } else { Err(Wrong::NeverSo(event)) }
    }

    /// What a client sees of its own copy never goes back. Its events are in its own order.
    fn copies(&self) -> Result<(), Wrong> {
        let mut last: BTreeMap<usize, (Version, usize)> = BTreeMap::new();
        for (event, Event { client, what, .. }) in self.history.iter().enumerate() {
            if let What::Saw { source: Source::Copy, version, .. } = what {
                let before = last.insert(*client, (*version, event)).unwrap_or((0, event));
                if before.0 > *version {
                    return Err(Wrong::WentBack(event, before.1));
                }
            }
        }
        Ok(())
    }
}
