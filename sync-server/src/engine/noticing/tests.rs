//! What a stream of an inbox says adds up to the truth, whatever happens while it is open.
//! `DELTASYNC_SEED` replays one run, `DELTASYNC_CASES` sets their number.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::convert::decode_inbox_entry;
use sync_proto::types::{
    ChangeKind, Commit, Diffusion, Epoch, Key, Mutation, Op, Subject, Timestamp, Value,
};

use super::*;
use crate::core::diffusion::Limits;
use crate::core::page::PageLimits;
use crate::core::request::Request;
use crate::engine::following::Following;
use crate::engine::ledger::Settings;
use crate::store::memory::MemoryStore;

const CASES: u64 = 60;
const INTERVAL: Duration = Duration::from_secs(1);
/// Names that are followed, or not.
const NAMES: u32 = 5;

fn name(number: u32) -> CollectionName {
    CollectionName::new(&format!("c/{number}")).unwrap()
}

fn me() -> Subject {
    Subject::new("me").unwrap()
}

/// A server with one stream, and its subscriber.
struct World {
    ledger: Ledger<MemoryStore>,
    dice: SmallRng,
    now: Duration,
    epochs: u64,
    following: Following,
    noticing: Noticing,
    /// Who is listened to, as the hub knows it.
    listening: HashMap<usize, CollectionName>,
    /// What the subscriber believes.
    believes: BTreeMap<CollectionName, InboxEntry>,
    last_notice: BTreeMap<CollectionName, Duration>,
    last_id: BTreeMap<CollectionName, usize>,
    notices: u64,
}

fn open() -> Ledger<MemoryStore> {
    let limits =
        Limits { write_audience_max: 3, fan_out_per_s_max: 1, dwell: Duration::from_secs(2) };
    let settings = Settings { diffusion: limits, ..Settings::default() };
    Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap()
}

/// A ledger whose collections are all read by their followers.
fn open_reading() -> Ledger<MemoryStore> {
    let diffusion = Limits { write_audience_max: 0, ..Limits::default() };
    let settings = Settings { diffusion, ..Settings::default() };
    Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap()
}

fn subscribe(ledger: &Ledger<MemoryStore>) -> (Following, Noticing) {
    let targets = vec![Target::all(me().inbox(), None)];
    let limits = PageLimits { changes_max: 2, ..PageLimits::FULL };
    let (following, accepted) = Following::accept(ledger, targets, limits, |_| true);
    let noticing = Noticing::new(following.targets(), &accepted, INTERVAL);
    (following, noticing)
}

impl World {
    fn new(seed: u64) -> Self {
        let ledger = open();
        let (following, noticing) = subscribe(&ledger);
        Self {
            ledger,
            dice: SmallRng::seed_from_u64(seed),
            now: Duration::from_secs(1_000),
            epochs: 0,
            following,
            noticing,
            listening: HashMap::from([(0, me().inbox())]),
            believes: BTreeMap::new(),
            last_notice: BTreeMap::new(),
            last_id: BTreeMap::new(),
            notices: 0,
        }
    }

    fn clock(&self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.now.as_millis()).unwrap())
    }

    fn deed(&mut self) {
        let (name, now) = (name(self.dice.random_range(0..NAMES)), self.clock());
        let moved = match self.dice.random_range(0..10) {
            0 => {
                self.ledger.delete_collection(&name, None, now).unwrap().ok();
                [self.ledger.take_concerned(), vec![name]].concat()
            }
            1 | 2 => {
                self.ledger.tend_audiences(now).unwrap();
                self.ledger.take_concerned()
            }
            choice => self.commit(name, choice < 6),
        };
        self.wake(&moved);
    }

    fn commit_all(&mut self, mutations: Vec<Mutation>) {
        let moved = self.commit_of(mutations);
        self.wake(&moved);
    }

    fn wake(&mut self, moved: &[CollectionName]) {
        let marks = self.listening.iter().filter(|(_, name)| moved.contains(name));
        let marks: BTreeSet<usize> = marks.map(|(index, _)| *index).collect();
        self.noticing.mark(&marks, self.now);
        self.following.mark(marks);
    }

    fn commit(&mut self, collection: CollectionName, follow: bool) -> Vec<CollectionName> {
        let op = if follow {
            let who = self.dice.random_range(0..6);
            let subject = if who < 2 { me() } else { Subject::new(&format!("s{who}")).unwrap() };
            let follows = self.dice.random_bool(0.7);
            if follows { Op::Follow { subject } } else { Op::Unfollow { subject } }
        } else {
            let value = Value::new(self.dice.random::<[u8; 4]>().to_vec()).unwrap();
            Op::Put { key: Key::new("k").unwrap(), value, sort_key: None }
        };
        self.commit_of(vec![Mutation { collection, op }])
    }

    fn commit_of(&mut self, mutations: Vec<Mutation>) -> Vec<CollectionName> {
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let epochs = &mut self.epochs;
        let mut mint = || {
            *epochs += 1;
            Epoch::new(*epochs).unwrap()
        };
        let now = Timestamp::from_millis(u64::try_from(self.now.as_millis()).unwrap());
        self.ledger.commit(&[request], now, &mut mint).unwrap().moved
    }

    /// A turn of the stream, as the shell takes it.
    fn turn(&mut self) {
        let mut events = Vec::new();
        if self.following.is_due() {
            events = self.following.step(&self.ledger, self.dice.random_bool(0.1)).unwrap();
        }
        self.noticing.heard(&events).unwrap();
        if self.noticing.is_due(self.now) {
            events.extend(self.noticing.step(&self.ledger, self.now, |_| true).unwrap());
        }
        for change in self.noticing.take_changes() {
            match change {
                Watching::Begin(id, name) => {
                    // What is watched anew begins anew; what was told just now goes on.
                    if self.last_id.insert(name.clone(), id) != Some(id) {
                        self.last_notice.remove(&name);
                    }
                    assert!(self.listening.insert(id, name).is_none(), "{id} is in use");
                }
                Watching::End(id) => drop(self.listening.remove(&id)),
            }
        }
        for event in events {
            self.hear(event);
        }
    }

    fn hear(&mut self, event: Event<Bytes>) {
        match event {
            Event::Changes(_, delta) => {
                for change in delta.changes {
                    let change = decode_change(change).unwrap();
                    let name = name_of(&change.key).unwrap();
                    match change.kind {
                        ChangeKind::Put { value: Some(value), .. } => {
                            self.believes.insert(name, decode_inbox_entry(&value).unwrap());
                        }
                        ChangeKind::Delete => drop(self.believes.remove(&name)),
                        ChangeKind::Put { value: None, .. } | ChangeKind::LeftScope => {
                            panic!("an entry without a value")
                        }
                    }
                }
            }
            Event::InboxNotice(InboxNotice { inbox, collection, head }) => {
                assert_eq!(inbox, me().inbox());
                self.notices += 1;
                let last = self.last_notice.insert(collection.clone(), self.now);
                assert!(
                    last.is_none_or(|last| last + INTERVAL <= self.now),
                    "{collection} too soon"
                );
                let entry = head.map_or(InboxEntry::Absent, |head| {
                    InboxEntry::Exists(head.epoch, head.version)
                });
                self.believes.insert(collection, entry);
            }
            Event::CaughtUp(..) | Event::Lagging(..) | Event::Bookmark(..) => {}
            Event::Accepted(..)
            | Event::Notice(..)
            | Event::Reset(..)
            | Event::Absent(_)
            | Event::Revoked(_)
            | Event::Failed(..)
            | Event::Goodbye(_) => panic!("an inbox does not end"),
        }
    }

    /// Lets the stream say everything, as time goes by.
    fn quiet(&mut self) {
        for _ in 0..200 {
            while self.following.is_due() || self.noticing.is_due(self.now) {
                self.turn();
            }
            match self.noticing.next_at() {
                Some(at) => self.now = self.now.max(at),
                None => return,
            }
        }
        panic!("the stream never has said everything");
    }

    fn check(&mut self) {
        self.quiet();
        let heads = self.ledger.heads.read();
        let mut followed = BTreeSet::new();
        for number in 0..NAMES {
            let name = name(number);
            let entry = self.ledger.store().get(&crate::store::keys::audience_key(&name, &me()));
            if entry.unwrap().is_some() {
                followed.insert(name);
            }
        }
        assert_eq!(self.believes.keys().cloned().collect::<BTreeSet<_>>(), followed);
        for (name, believed) in &self.believes {
            let truth = heads.by_name.get(name).map(|(_, meta)| &meta.head);
            let truth = truth.map(|head| (head.epoch, head.version));
            assert_eq!(believed.stands_at(), truth, "{name} in {:?}", heads.audiences.get(name));
        }
        // Nobody is woken by what it does not follow. What announces itself again, without having
        // moved, may still be watched.
        let watched: BTreeSet<_> = self.listening.values().filter(|it| !it.is_inbox()).collect();
        let mut read = heads.read_diffused.keys().filter(|name| followed.contains(*name));
        assert!(read.all(|name| watched.contains(name)), "not all of {watched:?}");
        assert!(watched.iter().all(|name| followed.contains(*name)), "{watched:?}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// G1, G7: entries and notices together leave no follower without word, through follows, switches,
/// deletions and new lives while the stream is open; and nothing is watched in vain.
#[test]
fn entries_and_notices_add_up_to_the_truth() {
    let seed = number("DELTASYNC_SEED");
    let first = seed.unwrap_or_else(|| rand::random::<u32>().into());
    let cases = if seed.is_some() { 1 } else { number("DELTASYNC_CASES").unwrap_or(CASES) };
    let (mut notices, mut switches) = (0, 0);
    for seed in first..first + cases {
        eprintln!("DELTASYNC_SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.deed();
            for _ in 0..world.dice.random_range(0..3) {
                world.turn();
            }
            world.now += Duration::from_millis(world.dice.random_range(0..900));
            if world.dice.random_bool(0.1) {
                world.check();
            }
        }
        world.check();
        notices += world.notices;
        switches += world.ledger.spread_totals().to_write;
    }
    eprintln!("{notices} notices, {switches} switches to writing");
    assert!(notices > 0 && switches > 0 || cases < CASES, "too tame");
}

/// G8: what is watched for one inbox is bounded; and a place that is given up is used.
#[test]
fn what_is_watched_is_bounded() {
    let ledger = open_reading();
    let many = u32::try_from(WATCHED_MAX).unwrap() + 20;
    let commit = |op: &dyn Fn() -> Op, numbers: std::ops::Range<u32>| {
        let mutation = |number| Mutation { collection: name(number), op: op() };
        let commit = Commit { mutations: numbers.map(mutation).collect(), ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let mut mint = || Epoch::new(7).unwrap();
        ledger.commit(&[request], Timestamp::from_millis(1), &mut mint).unwrap();
    };
    commit(&|| Op::Follow { subject: me() }, 0..many);
    assert_eq!(ledger.heads.read().audiences[&name(0)].mode, Diffusion::Read);
    let (mut following, mut noticing) = subscribe(&ledger);
    let all_said = |following: &mut Following, noticing: &mut Noticing| {
        while following.is_due() {
            noticing.heard(&following.step(&ledger, false).unwrap()).unwrap();
        }
        while noticing.is_due(Duration::ZERO) {
            assert_eq!(noticing.step(&ledger, Duration::ZERO, |_| true).unwrap(), []);
        }
    };
    all_said(&mut following, &mut noticing);
    assert_eq!(noticing.watched.len(), WATCHED_MAX);
    commit(&|| Op::Unfollow { subject: me() }, 0..5);
    following.mark([0].into());
    all_said(&mut following, &mut noticing);
    assert_eq!(noticing.watched.len(), WATCHED_MAX);
    let begun = noticing.take_changes();
    assert_eq!(
        begun.iter().filter(|it| matches!(it, Watching::Begin(..))).count(),
        WATCHED_MAX + 5
    );
}

/// G8: whoever was just told of a collection is not woken by the commits of the next moment, and
/// hears afterwards where it stands then.
#[test]
fn a_busy_collection_wakes_its_followers_once_in_an_interval() {
    let mut world = World::new(7);
    // More than are written to.
    let followers = ["s9", "s10", "s11"].map(|name| Subject::new(name).unwrap());
    let follow = |subject| Mutation { collection: name(0), op: Op::Follow { subject } };
    let follows = followers.into_iter().chain([me()]).map(follow).collect();
    world.commit_all(follows);
    let put = |world: &mut World, value: u8| {
        let (key, value) = (Key::new("k").unwrap(), Value::new(vec![value]).unwrap());
        let op = Op::Put { key, value, sort_key: None };
        world.commit_all(vec![Mutation { collection: name(0), op }]);
    };
    put(&mut world, 0);
    world.quiet();
    let listens = |world: &World| world.listening.values().any(|it| *it == name(0));
    assert!(listens(&world));
    world.now += INTERVAL;
    let before = world.notices;
    put(&mut world, 1);
    world.turn();
    assert_eq!(world.notices, before + 1);
    assert!(!listens(&world), "it was told just now");
    for value in 2..10 {
        put(&mut world, value);
        assert!(!world.noticing.is_due(world.now), "nothing wakes it");
    }
    world.check();
    assert_eq!(world.notices, before + 2);
    assert!(listens(&world));
}

/// G8: what is watched is bounded for a stream, too, however many inboxes it has.
#[test]
fn what_a_stream_watches_is_bounded() {
    let ledger = open_reading();
    let subjects: Vec<_> = (0..10).map(|n| Subject::new(&format!("t{n}")).unwrap()).collect();
    for subject in &subjects {
        let follow = |number| {
            let op = Op::Follow { subject: subject.clone() };
            Mutation { collection: name(number), op }
        };
        let commit = Commit { mutations: (0..500).map(follow).collect(), ..Commit::default() };
        let mut mint = || Epoch::new(7).unwrap();
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        ledger.commit(&[request], Timestamp::from_millis(1), &mut mint).unwrap();
    }
    let targets = subjects.iter().map(|subject| Target::all(subject.inbox(), None)).collect();
    let (mut following, accepted) = Following::accept(&ledger, targets, PageLimits::FULL, |_| true);
    let mut noticing = Noticing::new(following.targets(), &accepted, INTERVAL);
    for _ in 0..10_000 {
        if following.is_due() {
            noticing.heard(&following.step(&ledger, false).unwrap()).unwrap();
        }
        if noticing.is_due(Duration::ZERO) {
            noticing.step(&ledger, Duration::ZERO, |_| true).unwrap();
        }
    }
    assert!(!noticing.is_due(Duration::ZERO), "it comes to rest");
    assert_eq!(noticing.watched.len(), STREAM_WATCHED_MAX);
}
