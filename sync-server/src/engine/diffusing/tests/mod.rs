//! Followers are told the truth, whatever happens: a model of audiences against both engines.
//! `DELTASYNC_SEED` replays one run, `DELTASYNC_CASES` sets their number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::convert::decode_inbox_entry;
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{Commit, Head, InboxEntry, Key, Mutation, Op, Scope, Value, Version};

use super::*;
use crate::core::inbox::{entry_key, truth};
use crate::core::request::Request;
use crate::core::retention::Retention;
use crate::engine::administering::Administration;
use crate::engine::ledger::Settings;
use crate::engine::polling::{Found, Search};
use crate::store::disk::{DiskOptions, DiskStore};
use crate::store::memory::{Fault, Faults, MemoryStore};

mod bounds;
mod durable;

const CASES: u64 = 4;
const STEPS: usize = 250;

fn settings() -> Settings {
    let retention = Retention { tombstone_age_max: Duration::from_secs(20), tombstones_max: 6 };
    let dwell = Duration::from_secs(1);
    let diffusion = Limits { write_audience_max: 4, fan_out_per_s_max: 8, dwell };
    Settings { retention, diffusion, ..Settings::default() }
}

fn open<S: Store>(store: S) -> Ledger<S> {
    Ledger::open(store, settings(), &mut |_| {}).unwrap()
}

fn name(number: u32) -> CollectionName {
    CollectionName::new(&format!("c/{number}")).unwrap()
}

fn subject(number: u32) -> Subject {
    Subject::new(&format!("s{number}")).unwrap()
}

/// What is in force for one name: how it is told, to how many, and whether a sweep goes on.
type Told = (Audience, bool);

/// What the two engines must agree about.
#[derive(Debug, PartialEq)]
struct State {
    heads: BTreeMap<CollectionName, Head>,
    told: BTreeMap<CollectionName, Told>,
    entries: BTreeMap<(Subject, CollectionName), InboxEntry>,
}

fn state<S: Store>(ledger: &Ledger<S>) -> State {
    let heads: BTreeMap<_, _> = ledger
        .list_collections("", &[String::new()], None, usize::MAX, |_| true)
        .into_iter()
        .collect();
    let sweeps = ledger.writing.lock().diffusing.sweeps.clone();
    let audiences = ledger.heads.read().audiences.clone();
    let told = audiences.into_iter();
    let told = told.map(|(name, audience)| {
        let swept = sweeps.contains_key(&name);
        (name, (audience, swept))
    });
    let mut entries = BTreeMap::new();
    for inbox in heads.keys().filter(|name| name.is_inbox()) {
        let subject = Subject::of_inbox(inbox).unwrap();
        let all: Vec<Key> = (0..6).map(|number| entry_key(&name(number))).collect();
        let found = ledger.get_items(inbox, &all, false, PAGE_BYTES_MAX).unwrap();
        for item in found.results.into_iter().flatten() {
            let name = CollectionName::new(std::str::from_utf8(item.key.as_bytes()).unwrap());
            let entry = decode_inbox_entry(&item.value.unwrap()).unwrap();
            entries.insert((subject.clone(), name.unwrap()), entry);
        }
    }
    State { heads, told: told.collect(), entries }
}

/// The same life on two engines, and who follows by the simplest of books.
struct Twins {
    dice: SmallRng,
    memory: Ledger<MemoryStore>,
    disk: Ledger<DiskStore>,
    dir: tempfile::TempDir,
    follows: BTreeSet<(Subject, CollectionName)>,
    /// Where those ended that were deleted since they are followed.
    lives: BTreeMap<CollectionName, (Epoch, Version)>,
    time: u64,
    epochs: u64,
    /// How often each mode was met with followers, and sweeps.
    met: [u64; 3],
    /// Switches to writing and to reading, and sweeps that ended, in earlier lives.
    done: [u64; 3],
}

impl Twins {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(DiskStore::open(dir.path(), &disk_options()).unwrap());
        Self {
            dice: SmallRng::seed_from_u64(seed),
            memory: open(MemoryStore::new()),
            disk,
            dir,
            follows: BTreeSet::new(),
            lives: BTreeMap::new(),
            time: 1_000,
            epochs: 0,
            met: [0; 3],
            done: [0; 3],
        }
    }

    fn step(&mut self) {
        match self.dice.random_range(0..100) {
            0..60 => self.commit(),
            60..66 => self.delete(),
            66..69 => self.administer(),
            69..84 => self.tend(),
            84..88 => self.purge(),
            88..90 => self.reopen(),
            _ => self.time += self.dice.random_range(0..6_000),
        }
        self.check();
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.time)
    }

    fn mutations(&mut self) -> Vec<Mutation> {
        let mut mutations = Vec::new();
        let mut seen = BTreeSet::new();
        for _ in 0..self.dice.random_range(1..6) {
            let collection = name(self.dice.random_range(0..6));
            let subject = subject(self.dice.random_range(0..8));
            let key = Key::new(vec![self.dice.random_range(b'a'..b'd')]).unwrap();
            let op = match self.dice.random_range(0..10) {
                0..3 => {
                    let value = Value::new(vec![self.dice.random_range(0..3u8)]).unwrap();
                    Op::Put { key: key.clone(), value, sort_key: None }
                }
                3 => Op::Delete { key: key.clone() },
                4..8 => Op::Follow { subject: subject.clone() },
                _ => Op::Unfollow { subject: subject.clone() },
            };
            let what = op.key().map_or(subject.as_str().as_bytes(), Key::as_bytes).to_vec();
            if seen.insert((collection.clone(), op.key().is_some(), what)) {
                mutations.push(Mutation { collection, op });
            }
        }
        mutations
    }

    fn commit(&mut self) {
        let groups: Vec<_> = (0..self.dice.random_range(1..4)).map(|_| self.mutations()).collect();
        for Mutation { collection, op } in groups.iter().flatten() {
            match op {
                Op::Follow { subject } => {
                    self.follows.insert((subject.clone(), collection.clone()));
                }
                Op::Unfollow { subject } => {
                    self.follows.remove(&(subject.clone(), collection.clone()));
                }
                Op::Put { .. } | Op::Delete { .. } | Op::Reorder { .. } => {}
            }
        }
        let request = |mutations| Request::Commit {
            commit: Commit { mutations, ..Commit::default() },
            fingerprint: [0; 16],
        };
        let requests: Vec<_> = groups.into_iter().map(request).collect();
        let (now, before) = (self.now(), self.epochs);
        self.fail_first(|ledger, mint| ledger.commit(&requests, now, mint).map(drop));
        let mut epochs = before;
        let memory = self.memory.commit(&requests, now, &mut || next(&mut epochs)).unwrap();
        self.epochs = before;
        let disk = self.disk.commit(&requests, now, &mut || next(&mut self.epochs)).unwrap();
        assert!(memory.answers.iter().chain(&disk.answers).all(Result::is_ok));
        assert_eq!(memory.moved, disk.moved);
        // Each inbox moves once, however much of it does.
        let inboxes: Vec<_> = memory.moved.iter().filter(|name| name.is_inbox()).collect();
        let heads = self.memory.heads.read();
        for inbox in inboxes {
            assert!(heads.by_name.contains_key(inbox), "{inbox} is announced");
        }
    }

    /// Sometimes storage fails first: the store that is found afterwards fits together, as it was
    /// before or as it would be afterwards.
    fn fail_first(
        &mut self,
        write: impl Fn(&Ledger<MemoryStore>, &mut dyn FnMut() -> Epoch) -> Result<(), StoreError>,
    ) {
        if self.dice.random_bool(0.8) {
            return;
        }
        let ledger = open(self.memory.store().fork());
        let fault = if self.dice.random_bool(0.5) { Fault::Before } else { Fault::After };
        if self.dice.random_bool(0.5) {
            ledger.store().fail_next_apply(fault);
        } else {
            ledger.store().fail_next_sync(fault);
        }
        let mut epochs = self.epochs;
        if write(&ledger, &mut || next(&mut epochs)).is_err() {
            open(ledger.store().crash());
            open(ledger.store().crash_keeping(1));
        }
        ledger.store().set_faults(Faults::default());
    }

    fn delete(&mut self) {
        let (name, now) = (name(self.dice.random_range(0..6)), self.now());
        self.fail_first(|ledger, _| ledger.delete_collection(&name, None, now).map(drop));
        let memory = self.memory.delete_collection(&name, None, now).unwrap().ok();
        let disk = self.disk.delete_collection(&name, None, now).unwrap().ok();
        assert_eq!(memory, disk);
        assert_eq!(self.memory.take_concerned(), self.disk.take_concerned());
        if let Some(head) = memory {
            self.lives.insert(name, (head.epoch, head.version));
        }
    }

    fn administer(&mut self) {
        let (name, now) = (name(self.dice.random_range(0..6)), self.now());
        let pins = [None, Some(Diffusion::Write), Some(Diffusion::Read)];
        let diffusion = *pins.choose(&mut self.dice).unwrap();
        let asked = if self.dice.random_bool(0.4) {
            Administration::RotateEpoch
        } else {
            Administration::SetPolicy(Policy { diffusion, ..Policy::default() }.into())
        };
        let mut epochs = self.epochs;
        let mut mint = || next(&mut epochs);
        let memory = self.memory.administer(&name, &asked, now, &mut mint, &mut || true).unwrap();
        let mut mint = || next(&mut self.epochs);
        let disk = self.disk.administer(&name, &asked, now, &mut mint, &mut || true).unwrap();
        assert_eq!(memory, disk);
    }

    fn tend(&mut self) {
        let now = self.now();
        self.fail_first(|ledger, _| ledger.tend_audiences(now).map(drop));
        let memory = self.memory.tend_audiences(now).unwrap();
        assert_eq!(memory, self.disk.tend_audiences(now).unwrap());
        assert_eq!(self.memory.take_concerned(), self.disk.take_concerned());
    }

    fn purge(&mut self) {
        let now = self.now();
        self.memory.purge_step(now, &mut || true).unwrap();
        self.disk.purge_step(now, &mut || true).unwrap();
    }

    /// Rates are forgotten, everything else is as it was.
    fn reopen(&mut self) {
        let before = state(&self.memory);
        self.done = self.done();
        self.memory = open(self.memory.store().crash());
        let elsewhere = tempfile::tempdir().unwrap();
        let beside = DiskStore::open(elsewhere.path(), &disk_options()).unwrap();
        std::mem::replace(&mut self.disk, open(beside)).into_store().close().unwrap();
        self.disk = open(DiskStore::open(self.dir.path(), &disk_options()).unwrap());
        assert_eq!(state(&self.memory), before);
    }

    fn done(&self) -> [u64; 3] {
        let spread = self.memory.spread_totals();
        let [write, read, sweeps] = self.done;
        [write + spread.to_write, read + spread.to_read, sweeps + spread.sweeps]
    }

    fn check(&mut self) {
        // Opening checks every invariant between rows.
        open(self.memory.store().fork());
        let found = state(&self.memory);
        assert_eq!(found, state(&self.disk));
        let followed: BTreeSet<_> = found.entries.keys().cloned().collect();
        assert_eq!(followed, self.follows, "an entry for each that is followed, and no other");
        for ((_, name), entry) in &found.entries {
            let (audience, swept) = found.told[name];
            let wanted = truth(found.heads.get(name), &audience);
            match audience.mode {
                Diffusion::Write => assert_eq!(*entry, wanted, "{name} is written to followers"),
                Diffusion::Read => assert!(audience.count > 0),
            }
            self.met[usize::from(audience.mode == Diffusion::Read)] += 1;
            self.met[2] += u64::from(swept);
        }
        self.check_polled(&found);
        // An end is remembered until nobody follows, or it exists again.
        self.lives
            .retain(|name, _| found.told.contains_key(name) && !found.heads.contains_key(name));
        let ended = found.told.iter().filter_map(|(name, (audience, _))| {
            audience.last_life.map(|life| (name.clone(), life))
        });
        assert_eq!(ended.collect::<BTreeMap<_, _>>(), self.lives);
        for (name, (audience, _)) in &found.told {
            let count = self.follows.iter().filter(|(_, followed)| followed == name).count();
            assert_eq!(audience.count, count as u64, "{name}");
            assert!(audience.count <= 4 || audience.mode == Diffusion::Read, "{name} is too large");
        }
    }
}

impl Twins {
    /// What an inbox does not say is polled, and nothing else; page by page as well.
    fn check_polled(&self, found: &State) {
        for number in 0..8 {
            let who = subject(number);
            let inbox = who.inbox();
            let mut wanted = BTreeMap::new();
            for ((_, name), entry) in found.entries.iter().filter(|((it, _), _)| *it == who) {
                let truth = truth(found.heads.get(name), &found.told[name].0);
                if *entry != truth {
                    wanted.insert(name.clone(), truth);
                }
            }
            for most in [1, 2, 100] {
                let (mut polled, mut after) = (BTreeMap::new(), None);
                loop {
                    let search = Search {
                        inbox: &inbox,
                        scope: &Scope::All,
                        after: after.as_ref(),
                        only_moved: true,
                        may_read: &|_| true,
                        most,
                    };
                    // A search may end early: then it says where to go on.
                    let looks = &mut usize::try_from(number % 3).unwrap();
                    let some = self.memory.hot_follows(&search, looks, &AtomicBool::new(false));
                    let Found { follows, rest } = some.unwrap();
                    let page: Vec<_> = follows.iter().map(|it| it.name.clone()).collect();
                    assert!(page.is_sorted() && page.len() <= most, "{page:?}");
                    let done = follows.len() < most && rest.is_none();
                    after = rest.map(|rest| rest.name).or(page.last().cloned());
                    polled.extend(follows.into_iter().map(|it| (it.name, it.truth)));
                    if done {
                        break;
                    }
                }
                assert_eq!(polled, wanted, "{who}");
            }
        }
    }
}

fn next(epochs: &mut u64) -> Epoch {
    *epochs += 1;
    Epoch::new(*epochs + 100).unwrap()
}

fn disk_options() -> DiskOptions {
    DiskOptions { cache_bytes: 1 << 20, free_bytes_min: 0, lock_wait: Duration::from_secs(10) }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// G2, G3, G4: whatever happens in whatever order, every follower has an entry; entries of what is
/// written to followers are the truth, in the same batch as the truth; and both engines agree.
#[test]
fn every_follower_is_told_the_truth() {
    let seed = number("DELTASYNC_SEED");
    let first = seed.unwrap_or_else(|| rand::random::<u32>().into());
    let cases = if seed.is_some() { 1 } else { number("DELTASYNC_CASES").unwrap_or(CASES) };
    let mut met = [0; 3];
    let mut totals = [0; 3];
    for seed in first..first + cases {
        eprintln!("DELTASYNC_SEED={seed}");
        let mut twins = Twins::new(seed);
        (0..STEPS).for_each(|_| twins.step());
        for (sum, one) in met.iter_mut().zip(twins.met) {
            *sum += one;
        }
        for (sum, one) in totals.iter_mut().zip(twins.done()) {
            *sum += one;
        }
    }
    eprintln!("met {met:?} (written, read, swept); switched and swept {totals:?}");
    let tame = met.iter().chain(&totals).any(|count| *count == 0);
    assert!(!tame || cases < CASES, "something never happened: the test is too tame");
}
