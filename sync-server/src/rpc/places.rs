//! How many streams there may be, and how many targets on them: in total, and of one caller. A
//! place is given back when it is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::Caller;

/// The places of a server.
#[derive(Debug)]
pub struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
}

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams.
    pub streams_max: usize,
    /// Streams of one caller.
    pub streams_per_subject_max: usize,
    /// Targets on all streams.
    pub targets_max: usize,
    /// Targets on all streams of one caller.
    pub targets_per_subject_max: usize,
}

/// Whose streams are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Those of a token's subject.
    Subject(String),
    /// Those of a connection: without tokens, nothing else tells callers apart.
    Connection(u64),
}

/// A stream and its targets.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    holder: Holder,
    targets: usize,
}

/// The limit that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {limit}, and they are taken; retry later")]
pub struct NoPlace {
    setting: &'static str,
    limit: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: Count,
    of: HashMap<Holder, Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    streams: usize,
    targets: usize,
}

// === impl Holder ===

impl Holder {
    /// Whose a call on this connection is.
    #[must_use]
    pub fn of(caller: &Caller, connection: u64) -> Self {
        match caller.subject() {
            "" => Self::Connection(connection),
            subject => Self::Subject(subject.to_owned()),
        }
    }
}

// === impl Places ===

impl Places {
    /// So many places, all of them free.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// Streams that live, and targets on them.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        let all = self.taken.lock().all;
        (all.streams, all.targets)
    }

    /// Takes a place for a stream with so many targets.
    pub fn take(self: &Arc<Self>, holder: Holder, targets: usize) -> Result<Place, NoPlace> {
        let mut taken = self.taken.lock();
        let own = taken.of.get(&holder).copied().unwrap_or_default();
        let Limits { streams_max, streams_per_subject_max, targets_max, targets_per_subject_max } =
            self.limits;
        for (setting, wanted, limit) in [
            ("streams_max", taken.all.streams + 1, streams_max),
            ("targets_max", taken.all.targets + targets, targets_max),
            ("streams_per_subject_max", own.streams + 1, streams_per_subject_max),
            ("targets_per_subject_max", own.targets + targets, targets_per_subject_max),
        ] {
            if wanted > limit {
                return Err(NoPlace { setting, limit });
            }
        }
        taken.all.add(targets);
        taken.of.entry(holder.clone()).or_default().add(targets);
        drop(taken);
        Ok(Place { places: Arc::clone(self), holder, targets })
    }
}

// === impl Count ===

impl Count {
    fn add(&mut self, targets: usize) {
        self.streams += 1;
        self.targets += targets;
    }

    fn remove(&mut self, targets: usize) {
        self.streams -= 1;
        self.targets -= targets;
    }
}

// === impl NoPlace ===

impl NoPlace {
    /// The setting whose limit is in the way.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all.remove(self.targets);
        if let Some(own) = taken.of.get_mut(&self.holder) {
            own.remove(self.targets);
            if own.streams == 0 {
                taken.of.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G8: every limit refuses by name, and what is given back can be taken again.
    #[test]
    fn places_are_counted_in_total_and_by_caller() {
        let places = Places::new(Limits {
            streams_max: 4,
            streams_per_subject_max: 2,
            targets_max: 100,
            targets_per_subject_max: 60,
        });
        let (one, two) = (Holder::Subject("1".to_owned()), Holder::Connection(1));
        let refused = |holder: &Holder, targets| {
            places.take(holder.clone(), targets).map(|_| ()).unwrap_err().to_string()
        };
        let first = places.take(one.clone(), 50).unwrap();
        assert!(refused(&one, 11).starts_with("targets_per_subject_max: 60,"));
        let second = places.take(one.clone(), 10).unwrap();
        assert!(refused(&one, 0).starts_with("streams_per_subject_max: 2,"));
        assert!(refused(&two, 41).starts_with("targets_max: 100,"));
        let others = [0, 0].map(|targets| places.take(two.clone(), targets).unwrap());
        assert!(refused(&Holder::Connection(2), 0).starts_with("streams_max: 4,"));
        drop((first, second, others));
        assert!(places.taken.lock().of.is_empty());
        places.take(two, 60).unwrap();
    }
}
