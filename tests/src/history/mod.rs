//! What clients saw of one collection, in the order of one clock, and whether a right server could
//! have answered so. Pure.
//!
//! Every answer carries a version, which says where in the total order of commits it belongs. So
//! nothing has to be searched: the order is given, and is compared with the clock (an answer that
//! came before a question was asked lies before it) and with a replay (what was seen at a version
//! is what its commits made). Only a refused commit carries no version: it must fit somewhere
//! between what was known before it was sent and what was sent after it was answered.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

mod check;
#[cfg(test)]
mod tests;

/// A moment: a number that grows with everything that is sent or received.
pub type Moment = u64;

/// The versions of a collection.
pub type Version = u64;

/// Items by key: the version that wrote each, and the number that is its value.
pub type Items = BTreeMap<String, (Version, u64)>;

/// What a client asked and was answered.
#[derive(Debug, Clone)]
pub struct Event {
    /// Who.
    pub client: usize,
    /// When it was sent, and when the answer was there.
    pub during: RangeInclusive<Moment>,
    /// What it was.
    pub what: What,
}

/// A question with its answer.
#[derive(Debug, Clone)]
pub enum What {
    /// A commit that happened.
    Committed {
        /// The collection's version before.
        prev: Version,
        /// Its version now.
        version: Version,
        /// What it wrote; `None` = a delete.
        writes: BTreeMap<String, Option<u64>>,
        /// What had to hold.
        condition: Option<Condition>,
    },
    /// A commit that did not happen, because this did not hold.
    Refused(Condition),
    /// A read.
    Saw {
        /// Of whom.
        source: Source,
        /// The state that it is said to be of.
        version: Version,
        /// The items.
        items: Items,
        /// The keys that were asked for; `None` = all.
        asked: Option<Vec<String>>,
        /// The client had waited until its copy had this.
        waited_for: Version,
    },
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The server: nothing that anybody knew before may be missing.
    Server,
    /// The client's own copy: it may be late, and never goes back.
    Copy,
}

/// What must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The collection stands at this version.
    Head(Version),
    /// The item was last touched by this version.
    Item(String, Version),
    /// There is no such item.
    Absent(String),
    /// There is one.
    Present(String),
}

/// Why no right server could have answered so. Events are told by their place in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Two commits have one version.
    SameVersion(usize, usize),
    /// A commit was told of another version before it than its predecessor's.
    BrokenChain(usize),
    /// What somebody had been told before it was sent is missing in the answer; for a commit: it
    /// was seen, or passed over, before it was sent.
    Stale(usize, usize),
    /// Nothing ever looked like that: also half a commit.
    NeverSo(usize),
    /// A copy went back.
    WentBack(usize, usize),
    /// A copy lacks what was waited for.
    NotWaitedFor(usize),
    /// A commit happened although its condition did not hold.
    HappenedAnyway(usize),
    /// A commit was refused although its condition held all the time.
    RefusedAnyway(usize),
}

/// What is wrong with this history, which began with an empty collection at version 0; nothing if
/// a right server can answer so.
pub fn check(history: &[Event]) -> Result<(), Wrong> {
    check::check(history)
}

// === impl Condition ===

impl Condition {
    fn holds(&self, version: Version, items: &Items) -> bool {
        match self {
            Self::Head(wanted) => *wanted == version,
            Self::Item(key, wanted) => items.get(key).is_some_and(|(at, _)| at == wanted),
            Self::Absent(key) => !items.contains_key(key),
            Self::Present(key) => items.contains_key(key),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameVersion(one, two) => write!(f, "{one} and {two} have one version"),
            Self::BrokenChain(event) => write!(f, "{event} does not follow the commit before it"),
            Self::Stale(event, known) => write!(f, "{event} misses {known}, known before"),
            Self::NeverSo(event) => write!(f, "{event} saw what never was"),
            Self::WentBack(event, before) => write!(f, "{event} is behind {before}"),
            Self::NotWaitedFor(event) => write!(f, "{event} lacks what was waited for"),
            Self::HappenedAnyway(event) => write!(f, "{event} happened against its condition"),
            Self::RefusedAnyway(event) => write!(f, "{event} was refused, its condition held"),
        }
    }
}
