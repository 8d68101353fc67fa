//! The session over a link that loses, repeats, delays and reorders messages, against a small
//! reference server that commits, purges, deletes, rotates epochs and restarts, while the client
//! is killed now and then (G1, G4, G5, G7, G9; T09, T10, T12, T14, T15, X2).
//!
//! `DELTASYNC_SEEDS=5000` runs that many seeds, `DELTASYNC_SEED=17` only the 17th.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::session::{
    Action, Config, Done, Fault, Input, MendFault, MendId, PullId, Session, StreamId, Task,
    carry_out, work,
};
use sync_client::session::{RepairHow, RepairReason, Stats};
use sync_client::store::{MemoryStore, ReplicaStore, Row, Step, Write, check};
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Event, Goodbye, GoodbyeReason, Outcome, Pull, ResetReason,
    Subscribe, Value,
};

use self::reference::{Log, NoRound, Server, Serving, failure};

#[allow(dead_code, reason = "shared by tests of which each needs a part")]
#[path = "../reference/mod.rs"]
mod reference;

/// Seeds that run when the environment does not say.
const SEEDS_DEFAULT: u64 = 100;
/// Virtual time of trouble, and of the calm after it.
const TROUBLE: Duration = Duration::from_secs(120);
const CALM_MAX: Duration = Duration::from_secs(4 * 60 * 60);
/// How often the world does something.
const STEP: Duration = Duration::from_millis(20);

struct World {
    seed: u64,
    dice: StdRng,
    now: Instant,
    calm: bool,
    server: Server,
    streams: BTreeMap<StreamId, Serving>,
    store: MemoryStore,
    session: Session,
    names: Vec<CollectionName>,
    /// What is under way, by arrival.
    link: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    mismatches: u64,
    /// Rows of copies are damaged while nobody runs, and servers come back from copies of their
    /// directory: then a digest may differ, and what is seen may be wrong until that is found.
    faulty: bool,
    doubtful: BTreeSet<CollectionName>,
    backups: BTreeMap<CollectionName, Log>,
}

#[derive(Debug)]
enum Flight {
    ToClient(Input),
    Subscribe(StreamId, Subscribe),
    Pull(PullId, Pull),
    Mend(CollectionName, MendId, Task),
}

#[test]
fn every_copy_converges_whatever_happens_on_the_way() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("DELTASYNC_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DELTASYNC_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    let enough = seeds.end - seeds.start >= SEEDS_DEFAULT;
    let mut seen = Seen::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| World::new(seed).run()) {
            Ok(stats) => seen.add(&stats),
            Err(panic) => {
                eprintln!("failed: repeat with DELTASYNC_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(!enough || seen.is_bad_enough(), "the world was too kind: {seen:?}");
}

/// What the last lives of all clients went through together.
#[derive(Debug, Default)]
struct Seen {
    gaps: u64,
    held: u64,
    repeats: u64,
    stream_failures: u64,
    pull_failures: u64,
    repairs: BTreeMap<RepairReason, u64>,
    ways: BTreeMap<RepairHow, u64>,
    reconciled: u64,
    unverified_proven: u64,
}

// === impl Seen ===

impl Seen {
    fn add(&mut self, stats: &Stats) {
        self.gaps += stats.gaps;
        self.held += stats.held;
        self.repeats += stats.repeats;
        self.stream_failures += stats.stream_failures;
        self.pull_failures += stats.pull_failures;
        for (reason, count) in &stats.repairs {
            *self.repairs.entry(*reason).or_default() += count;
        }
        for (how, count) in &stats.repair_ways {
            *self.ways.entry(*how).or_default() += count;
        }
        self.reconciled += stats.reconciled;
        self.unverified_proven += stats.unverified_proven;
    }

    fn is_bad_enough(&self) -> bool {
        let Self { gaps, held, repeats, stream_failures, pull_failures, reconciled, .. } = self;
        let counts = [gaps, held, repeats, stream_failures, pull_failures, reconciled];
        let resets = [ResetReason::EpochChanged, ResetReason::BelowFloor, ResetReason::AheadOfHead];
        let reasons = [RepairReason::DigestMismatch, RepairReason::MissedDeletes];
        let ways = [RepairHow::Delta, RepairHow::Reconcile, RepairHow::Load];
        counts.iter().all(|count| **count >= 20)
            && resets.iter().all(|reason| self.repairs.contains_key(&RepairReason::Reset(*reason)))
            && reasons.iter().all(|reason| self.repairs.contains_key(reason))
            && ways.iter().all(|how| self.ways.contains_key(how))
            && self.unverified_proven > 0
    }
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let names: Vec<CollectionName> =
            (0..3).map(|n| CollectionName::new(&format!("c/{n}")).unwrap()).collect();
        let now = Instant::now();
        let store = MemoryStore::new();
        let session = session(&store, &names, seed, now);
        let mut world = Self {
            seed,
            dice: StdRng::seed_from_u64(seed),
            now,
            calm: false,
            server: Server::default(),
            streams: BTreeMap::new(),
            store,
            session,
            names,
            link: BTreeMap::new(),
            sent: 0,
            mismatches: 0,
            faulty: seed % 2 == 1,
            doubtful: BTreeSet::new(),
            backups: BTreeMap::new(),
        };
        for name in world.names.clone().iter().skip(1) {
            for _ in 0..world.dice.random_range(0..60) {
                world.server.commit(name, &mut world.dice);
            }
        }
        world
    }

    fn run(mut self) -> Stats {
        let trouble_ends = self.now + TROUBLE;
        while self.now < trouble_ends {
            self.mischief();
            self.step(STEP);
        }
        self.calm = true;
        let calm_ends = self.now + CALM_MAX;
        while self.now < calm_ends && !self.converged() {
            // Nothing moves in a calm world but what is under way: time may jump.
            let next = self.link.keys().next().map(|(at, _)| *at);
            let until = next.map_or(self.session.deadline(), |at| at.min(self.session.deadline()));
            self.step(until.saturating_duration_since(self.now).max(STEP));
        }
        self.assert_converged();
        self.session.stats().clone()
    }

    fn step(&mut self, time: Duration) {
        self.now += time;
        for (id, serving) in &mut self.streams {
            let limit = self.dice.random_range(1..8);
            let mut events = self.server.push(serving, limit);
            if self.dice.random_bool(0.02) {
                events.push(self.server.bookmark(serving));
            }
            let inputs = events.into_iter().map(|event| Input::Event(*id, event));
            for input in inputs.collect::<Vec<_>>() {
                send(&mut self.link, &mut self.sent, &mut self.dice, self.now, self.calm, &input);
            }
        }
        while let Some((at, _)) = self.link.keys().next().copied()
            && at <= self.now
        {
            let (_, flight) = self.link.pop_first().unwrap();
            self.arrive(flight);
        }
        if self.session.deadline() <= self.now {
            self.session.handle(Input::Elapsed, self.now);
        }
        self.act();
    }

    fn arrive(&mut self, flight: Flight) {
        match flight {
            Flight::ToClient(input) => {
                self.session.handle(input, self.now);
                self.act();
            }
            Flight::Subscribe(id, subscribe) => {
                // One client, one stream: a new one is opened when the old one is dead.
                self.streams.clear();
                let (serving, accepted) = self.server.serve(&subscribe);
                self.streams.insert(id, serving);
                self.deliver(&Input::Event(id, accepted));
            }
            Flight::Pull(id, pull) => {
                let limit = self.dice.random_range(1..8);
                let outcomes: Vec<Outcome> = pull
                    .targets
                    .into_iter()
                    .map(|target| {
                        let target = target.unwrap();
                        match self.dice.random_range(0..40) {
                            0 if !self.calm => Outcome::Deferred(None),
                            1 if !self.calm => Outcome::Failed(failure()),
                            _ => self.server.outcome(&target, limit),
                        }
                    })
                    .collect();
                let lost = !self.calm && self.dice.random_bool(0.05);
                let answer = if lost { Err(Fault::Passing) } else { Ok(outcomes) };
                let wait = if lost { 5_000 } else { self.dice.random_range(1..200) };
                let flight = Flight::ToClient(Input::Pulled(id, answer));
                self.fly(Duration::from_millis(wait), flight);
            }
            Flight::Mend(name, id, task) => {
                let lost = !self.calm && self.dice.random_bool(0.05);
                let answer = if lost {
                    Err(MendFault::Call(Fault::Passing))
                } else {
                    self.answer(&name, &task)
                };
                let wait = self.dice.random_range(1..400);
                let flight = Flight::ToClient(Input::Mended(name, id, answer));
                self.fly(Duration::from_millis(wait), flight);
            }
        }
    }

    fn answer(&self, name: &CollectionName, task: &Task) -> Result<Done, MendFault> {
        match task {
            Task::Round(round) => match self.server.round(name, round) {
                Ok(answer) => Ok(Done::Answered(answer)),
                Err(NoRound::Moved) => Err(MendFault::Moved),
                Err(NoRound::NotFound) => Err(MendFault::NotFound),
            },
            Task::Fetch(keys) => {
                let keys = &keys[..keys.len().min(2)];
                let (items, head) = self.server.items(name, keys).ok_or(MendFault::NotFound)?;
                Ok(Done::Fetched(items, keys.len(), head))
            }
            local => panic!("not a question: {local:?}"),
        }
    }

    /// Carries out what the session says, and looks over its shoulder at every write.
    fn act(&mut self) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::OpenStream(id, subscribe) => {
                    let wait = Duration::from_millis(self.dice.random_range(1..100));
                    self.fly(wait, Flight::Subscribe(id, subscribe));
                }
                Action::CloseStream(id) => drop(self.streams.remove(&id)),
                Action::Pull(id, pull) => {
                    let wait = Duration::from_millis(self.dice.random_range(1..100));
                    self.fly(wait, Flight::Pull(id, pull));
                }
                Action::Write(name, write) => {
                    let (input, _) = carry_out(&self.store, &name, &write).unwrap();
                    self.session.handle(input, self.now);
                    self.assert_sound(&name);
                }
                Action::Mend(name, id, task) => {
                    if let Some(done) = work(&self.store, &name, &task).unwrap() {
                        self.session.handle(Input::Mended(name, id, done), self.now);
                    } else {
                        let wait = Duration::from_millis(self.dice.random_range(1..100));
                        self.fly(wait, Flight::Mend(name, id, task));
                    }
                }
                Action::SelfCheck(_) | Action::Report(..) | Action::Chosen(..) => {}
            }
        }
    }

    /// What readers see and calls itself caught up is exactly what was once at the head (G4, G5).
    fn assert_sound(&mut self, name: &CollectionName) {
        let standing = self.store.standing(name).unwrap();
        if self.same(name) {
            self.doubtful.remove(name);
        }
        assert!(check(&*self.store.snapshot(name).unwrap()).unwrap(), "the digest is kept");
        if let Some(cursor) = standing.cursor
            && cursor.is_caught_up()
            && !self.doubtful.contains(name)
        {
            let at = (name.clone(), cursor.epoch.get(), cursor.version);
            let wanted = self.server.history.get(&at);
            assert_eq!(wanted, Some(&standing.tally.digest), "seed {}: {cursor}", self.seed);
        }
    }

    /// Something happens at the server, or to the client.
    fn mischief(&mut self) {
        let name = self.names[self.dice.random_range(0..self.names.len())].clone();
        match self.dice.random_range(0..3_000) {
            0..700 => self.server.commit(&name, &mut self.dice),
            700..705 => self.server.purge(&name),
            705..708 => self.server.rotate(&name),
            708..710 => drop(self.server.collections.remove(&name)),
            710..715 => self.end_streams(false),
            715..717 => self.end_streams(true),
            717..720 => self.restart_client(),
            722..725 => drop(self.back_up(&name)),
            725..728 => self.restore(&name),
            720..722 => {
                // The stream goes on at the server, but nothing of it arrives (X15).
                self.streams.clear();
            }
            _ => {}
        }
    }

    fn end_streams(&mut self, politely: bool) {
        for id in std::mem::take(&mut self.streams).into_keys() {
            let (retry_after, jitter) = (Duration::from_millis(50), Duration::from_millis(500));
            let goodbye = Goodbye { reason: GoodbyeReason::Draining, retry_after, jitter };
            let input = if politely {
                Input::Event(id, Event::Goodbye(goodbye))
            } else {
                Input::StreamEnded(id, Fault::Passing)
            };
            self.fly(Duration::from_millis(1), Flight::ToClient(input));
        }
    }

    /// The process is killed; what is in the store stays (T10, X16).
    fn restart_client(&mut self) {
        self.mismatches += mismatches(self.session.stats());
        self.streams.clear();
        self.link.clear();
        if self.faulty && self.dice.random_bool(0.5) {
            self.damage();
        }
        let seed = self.dice.random();
        self.session = session(&self.store, &self.names, seed, self.now);
    }

    fn back_up(&mut self, name: &CollectionName) -> Option<Log> {
        let log = self.server.collections.get(name)?.clone();
        self.backups.insert(name.clone(), log)
    }

    /// The server loses what came after the backup. Its epochs are new, unless its directory was
    /// exchanged behind its back; who follows it learns of that when its stream breaks.
    fn restore(&mut self, name: &CollectionName) {
        let Some(backup) = self.backups.get(name).cloned() else { return };
        let anew = !self.faulty || self.dice.random_bool(0.3);
        self.server.restore(name, backup, anew);
        if !anew {
            self.doubtful.insert(name.clone());
        }
        self.end_streams(false);
    }

    /// A row of a copy is lost, one is another, while no process looks.
    fn damage(&mut self) {
        let name = self.names[self.dice.random_range(0..self.names.len())].clone();
        let standing = self.store.standing(&name).unwrap();
        let Some(at) = standing.cursor.filter(|_| standing.load.is_none()) else { return };
        let mut rows = self.store.snapshot(&name).unwrap().rows(None, 100).unwrap();
        if rows.is_empty() || !at.is_caught_up() {
            return;
        }
        let lost = self.dice.random_range(0..rows.len());
        rows.swap_remove(lost);
        if let Some(flipped) = rows.first_mut() {
            flipped.value = vec![7; 9].into();
        }
        let changes = rows.iter().map(change).collect();
        let write = Write { expected: Some(at), step: Step::BeginLoad { changes, to: at } };
        self.store.write(&name, &write).unwrap();
        self.doubtful.insert(name);
    }

    fn deliver(&mut self, input: &Input) {
        send(&mut self.link, &mut self.sent, &mut self.dice, self.now, self.calm, input);
    }

    fn fly(&mut self, wait: Duration, flight: Flight) {
        self.sent += 1;
        self.link.insert((self.now + wait, self.sent), flight);
    }

    fn converged(&self) -> bool {
        self.link.is_empty()
            && self.session.is_settled()
            && self.names.iter().all(|name| self.same(name))
    }

    fn same(&self, name: &CollectionName) -> bool {
        let standing = self.store.standing(name).unwrap();
        match self.server.collections.get(name) {
            None => standing.cursor.is_none(),
            Some(log) => {
                standing.cursor == Some(log.head().cursor())
                    && standing.tally.digest == log.head().digest
            }
        }
    }

    fn assert_converged(&self) {
        for name in &self.names {
            assert!(self.same(name), "seed {}: {name} differs", self.seed);
        }
        assert!(self.converged(), "seed {}: {:?}", self.seed, self.session);
        let pulls = self.session.stats().pulls;
        assert!(pulls < 3_000, "seed {}: {pulls} pulls", self.seed);
        let mismatches = self.mismatches + mismatches(self.session.stats());
        assert!(self.faulty || mismatches == 0, "seed {}: something wrong was applied", self.seed);
    }
}

/// Digests that differed although no delete can have been missed.
fn mismatches(stats: &Stats) -> u64 {
    let missed = stats.repairs.get(&RepairReason::MissedDeletes).copied();
    stats.digest_mismatches - missed.unwrap_or_default()
}

fn change(row: &Row) -> Change {
    let kind = ChangeKind::Put {
        value: Some(Value::new(row.value.clone()).unwrap()),
        sort_key: row.sort_key.clone(),
        value_version: row.value_version,
    };
    Change { key: row.key.clone(), version: row.version, created: row.created, kind }
}

fn session(store: &MemoryStore, names: &[CollectionName], seed: u64, now: Instant) -> Session {
    let standings = names.iter().map(|name| (name.clone(), store.standing(name).unwrap()));
    Session::new(Config::default(), standings.collect(), seed, now)
}

/// Sends a message of the stream over the link: in calm weather it arrives, in order.
fn send(
    link: &mut BTreeMap<(Instant, u64), Flight>,
    sent: &mut u64,
    dice: &mut StdRng,
    now: Instant,
    calm: bool,
    input: &Input,
) {
    let copies = match dice.random_range(0..100) {
        _ if calm => 1,
        0..5 => 0,
        5..10 => 2,
        _ => 1,
    };
    for _ in 0..copies {
        *sent += 1;
        let delay = match dice.random_range(0..10) {
            _ if calm => 5,
            0 => dice.random_range(0..400),
            _ => dice.random_range(0..20),
        };
        link.insert((now + Duration::from_millis(delay), *sent), Flight::ToClient(input.clone()));
    }
}
