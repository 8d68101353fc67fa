//! Who begins the same first load again and again. Pure: moments come in as time since some start.
//! A load that is begun costs the server the whole collection; a client that never gets on from it
//! (its store fails, its digest differs, its process dies) would cost it for ever.
//!
//! ```text
//! begun 1..FREE times     served
//! begun more often        served once a wait: 1 s, 2 s, 4 s .. 60 s since it was last served
//! shows a cursor behind a finished load, or is quiet for five minutes: forgotten
//! ```

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sync_proto::types::{Key, Scope, Target};

/// Loads that are remembered; beyond, those begun longest ago are forgotten.
pub const LOADS_MAX: usize = 16_384;

/// Times that a client may begin a load without a word.
const FREE_OF_CLIENT: u32 = 8;

/// Likewise for a connection of anonymous clients: it may carry as many of them as it has streams.
const FREE_OF_CONNECTION: u32 = 1_024;

/// The first wait; each is twice the one before.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A load that was not begun for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5 * 60);

/// Who loads: a client by its name, or whoever is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A client that names itself, of this subject.
    Client {
        /// Whose token it shows.
        subject: String,
        /// Its name.
        client_id: String,
    },
    /// Clients without a name, by a number of their connection.
    Connection(u64),
}

/// Loads that were begun and not got on from.
#[derive(Debug, Default)]
pub struct Loads {
    by_key: HashMap<LoadKey, Begun>,
    /// Their keys by when they were begun last; no two at the same turn.
    by_turn: BTreeMap<u64, LoadKey>,
    turn: u64,
}

/// A load of somebody: a hash, so that long names take no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoadKey([u8; 16]);

#[derive(Debug, Clone, Copy)]
struct Begun {
    times: u32,
    last: Duration,
    turn: u64,
}

// === impl Who ===

impl Who {
    fn free(&self) -> u32 {
        match self {
            Self::Client { .. } => FREE_OF_CLIENT,
            Self::Connection(_) => FREE_OF_CONNECTION,
        }
    }

    /// This one's load of what a target is about.
    #[must_use]
    pub fn load(&self, target: &Target) -> LoadKey {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update(bytes.len().to_be_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Client { subject, client_id } => {
                field(subject.as_bytes());
                field(client_id.as_bytes());
            }
            Self::Connection(number) => field(&number.to_be_bytes()),
        }
        field(target.collection.as_str().as_bytes());
        field(&[u8::from(target.keys_only)]);
        match &target.scope {
            Scope::All => {}
            Scope::KeyPrefix(prefix) => field(prefix),
            Scope::Keys(keys) => keys.iter().for_each(|key| field(key.as_bytes())),
            Scope::Order(range) => {
                for end in [range.from(), range.to()] {
                    field(&[u8::from(end.is_some())]);
                    field(end.map_or(&[], |end| end.sort_key.as_bytes()));
                    field(end.and_then(|end| end.key.as_ref()).map_or(&[], Key::as_bytes));
                }
            }
        }
        LoadKey(hash.finalize()[..16].try_into().expect("a SHA-256 has 32 bytes"))
    }
}

// === impl Loads ===

impl Loads {
    /// Whether a load may begin now; if not, how long it must wait.
    pub fn may_begin(&self, who: &Who, load: LoadKey, now: Duration) -> Result<(), Duration> {
        let Some(begun) = self.by_key.get(&load) else { return Ok(()) };
        let Some(over) = begun.times.checked_sub(who.free()) else { return Ok(()) };
        let wait = WAIT_MIN.saturating_mul(2u32.saturating_pow(over)).min(WAIT_MAX);
        let passed = now.saturating_sub(begun.last);
        let left = wait.saturating_sub(passed);
        if left.is_zero() { Ok(()) } else { Err(left) }
    }

    /// Takes note that a load has begun.
    pub fn began(&mut self, load: LoadKey, now: Duration) {
        let times =
            self.forget(load).filter(|begun| now.saturating_sub(begun.last) < FORGOTTEN_AFTER);
        let times = times.map_or(0, |begun| begun.times).saturating_add(1);
        self.turn += 1;
        self.by_key.insert(load, Begun { times, last: now, turn: self.turn });
        self.by_turn.insert(self.turn, load);
        while self.by_key.len() > LOADS_MAX {
            let oldest = self.by_turn.pop_first();
            oldest.and_then(|(_, load)| self.by_key.remove(&load));
        }
    }

    /// Takes note that somebody got on from a load.
    pub fn got_on(&mut self, load: LoadKey) {
        self.forget(load);
    }

    /// Whether nothing is remembered, so that nobody needs to be looked up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn forget(&mut self, load: LoadKey) -> Option<Begun> {
        let begun = self.by_key.remove(&load)?;
        self.by_turn.remove(&begun.turn);
        Some(begun)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sync_proto::types::{CollectionName, OrderPlace, OrderRange, SortKey};

    use super::*;

    fn target(name: &str) -> Target {
        Target::all(CollectionName::new(name).unwrap(), None)
    }

    fn client(name: &str) -> Who {
        Who::Client { subject: "me".to_owned(), client_id: name.to_owned() }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Begins a load as soon as it may, again and again: the moments at which it was served.
    fn hammer(loads: &mut Loads, who: &Who, times: usize) -> Vec<u64> {
        let load = who.load(&target("list"));
        let mut now = Duration::ZERO;
        let mut served = Vec::new();
        while served.len() < times {
            match loads.may_begin(who, load, now) {
                Ok(()) => {
                    loads.began(load, now);
                    served.push(now.as_secs());
                }
                Err(wait) => now += wait,
            }
        }
        served
    }

    /// The same load again and again is served ever more rarely, but never not at all.
    #[test]
    fn waits_grow_up_to_a_minute() {
        let served = hammer(&mut Loads::default(), &client("a"), 17);
        let first = [0; 8];
        let then = [1, 3, 7, 15, 31, 63, 123, 183, 243];
        assert_eq!(served, [&first[..], &then[..]].concat());
        let served = hammer(&mut Loads::default(), &Who::Connection(1), 1_026);
        assert_eq!(served[1_023..], [0, 1, 3]);
    }

    /// Whoever gets on, or comes rarely, is never made to wait.
    #[test]
    fn whoever_gets_on_never_waits() {
        let who = client("a");
        let load = who.load(&target("list"));
        let mut loads = Loads::default();
        for moment in 0..1_000 {
            assert_eq!(loads.may_begin(&who, load, at(moment)), Ok(()));
            loads.began(load, at(moment));
            if moment % 8 == 7 {
                loads.got_on(load);
                assert!(loads.is_empty());
            }
        }
        for minute in 0..1_000 {
            let now = at(2_000 + 60 * minute);
            assert_eq!(loads.may_begin(&who, load, now), Ok(()), "once a minute is no loop");
            loads.began(load, now);
        }
        let quiet = at(2_000 + 60 * 1_000 + 300);
        loads.began(load, quiet);
        assert_eq!(loads.may_begin(&who, load, quiet), Ok(()), "it was forgotten");
    }

    /// Another client, collection, part or form is another load.
    #[test]
    fn other_loads_are_not_held_up() {
        let mut loads = Loads::default();
        hammer(&mut loads, &client("a"), 20);
        let prefix = Target { scope: Scope::KeyPrefix(Bytes::from_static(b"p")), ..target("list") };
        let keys = Target { scope: Scope::Keys(vec![Key::new("p").unwrap()]), ..target("list") };
        let place = OrderPlace { sort_key: SortKey::new("p").unwrap(), key: None };
        let order = |from, to| Scope::Order(OrderRange::new(from, to).unwrap());
        let stretch = Target { scope: order(None, Some(place.clone())), ..target("list") };
        let rest = Target { scope: order(Some(place), None), ..target("list") };
        let names = Target { keys_only: true, ..target("list") };
        let same = client("a").load(&target("list"));
        assert!(loads.may_begin(&client("a"), same, Duration::ZERO).is_err());
        for (who, target) in [
            (client("b"), target("list")),
            (Who::Connection(1), target("list")),
            (client("a"), target("other")),
            (client("a"), prefix),
            (client("a"), keys),
            (client("a"), names),
            (client("a"), stretch),
            (client("a"), rest),
        ] {
            assert_eq!(loads.may_begin(&who, who.load(&target), Duration::ZERO), Ok(()));
        }
    }

    /// G8: however many loads are begun, only so many are remembered, the newest of them.
    #[test]
    fn memory_is_bounded() {
        let mut loads = Loads::default();
        let load = |number: u64| Who::Connection(number).load(&target("list"));
        for number in 0..LOADS_MAX as u64 * 2 {
            loads.began(load(number), Duration::ZERO);
        }
        assert_eq!((loads.by_key.len(), loads.by_turn.len()), (LOADS_MAX, LOADS_MAX));
        assert!(loads.by_key.contains_key(&load(LOADS_MAX as u64 * 2 - 1)));
        assert!(!loads.by_key.contains_key(&load(0)));
    }
}
