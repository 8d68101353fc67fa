//! A backup is the store at one point of its ledger, whatever happens while it is taken.
//! `DELTASYNC_SEED` replays one run, `DELTASYNC_CASES` sets their number.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::types::{
    Commit, Diffusion, Epoch, Head, Key, Mutation, Op, Policy, SortKey, Subject, Value,
};

use super::*;
use crate::backup::restore::{contents, restore};
use crate::core::request::Request;
use crate::core::retention::Retention;
use crate::engine::administering::{AdminRefusal, Administration};
use crate::engine::ledger::Settings;
use crate::store::memory::MemoryStore;
use crate::store::rows::Audience;

const CASES: u64 = 60;

fn settings() -> Settings {
    let retention = Retention { tombstone_age_max: Duration::from_secs(1_000), tombstones_max: 5 };
    Settings { retention, ..Settings::default() }
}

fn open(store: MemoryStore) -> Ledger<MemoryStore> {
    Ledger::open(store, settings(), &mut |_| {}).unwrap()
}

/// A server's life: commits over several collections, deletes, purges.
struct World {
    ledger: Ledger<MemoryStore>,
    dice: SmallRng,
    time: u64,
    epochs: u64,
}

impl World {
    fn commit(&mut self, mutations: Vec<Mutation>) {
        self.time += 1;
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let now = Timestamp::from_millis(self.time);
        let epochs = &mut self.epochs;
        let mut mint = || {
            *epochs += 1;
            Epoch::new(*epochs).unwrap()
        };
        let group = self.ledger.commit(&[request], now, &mut mint).unwrap();
        assert!(group.answers.iter().all(Result::is_ok));
    }

    /// The same change in two collections, and perhaps another in a third.
    fn change(&mut self) {
        let dice = &mut self.dice;
        let (mut mutations, mut follow) = (Vec::new(), Vec::new());
        for _ in 0..dice.random_range(1..6) {
            let key = Key::new(vec![dice.random_range(0..60)]).unwrap();
            let op = if dice.random_bool(0.4) {
                Op::Delete { key }
            } else {
                let value = Value::new(vec![dice.random(); dice.random_range(0..40)]).unwrap();
                let sort_key = Some(SortKey::new(vec![dice.random()]).unwrap());
                Op::Put { key, value, sort_key }
            };
            let third = format!("other/{}", dice.random_range(0..3));
            for collection in ["left", "right", &third] {
                let collection = CollectionName::new(collection).unwrap();
                mutations.push(Mutation { collection, op: op.clone() });
            }
        }
        for _ in 0..dice.random_range(0..3) {
            let subject = Subject::new(&format!("s{}", dice.random_range(0..4))).unwrap();
            let follows = dice.random_bool(0.7);
            let op = if follows { Op::Follow { subject } } else { Op::Unfollow { subject } };
            let collection = format!("other/{}", dice.random_range(0..3));
            let collection = CollectionName::new(&collection).unwrap();
            follow.push(Mutation { collection, op });
        }
        // A key that is named twice in one collection is one too many.
        let mut seen = std::collections::BTreeSet::new();
        mutations.retain(|it| seen.insert((it.collection.clone(), it.op.key().cloned())));
        mutations.extend(follow);
        self.commit(mutations);
    }

    fn set_policy(&mut self) {
        let tombstones_max = Some(self.dice.random_range(2..6));
        let policy = Policy { tombstones_max, ..Policy::default() };
        let name = CollectionName::new("left").unwrap();
        let asked = Administration::SetPolicy(policy.into());
        let mut mint = || Epoch::new(5).unwrap();
        let set = self
            .ledger
            .administer(&name, &asked, Timestamp::from_millis(0), &mut mint, &mut || true)
            .unwrap();
        assert!(matches!(set, Ok(_) | Err(AdminRefusal::NotFound)));
    }

    fn live_on(&mut self) {
        for _ in 0..self.dice.random_range(0..4) {
            match self.dice.random_range(0..20) {
                0 => {
                    let name = format!("other/{}", self.dice.random_range(0..3));
                    let name = CollectionName::new(&name).unwrap();
                    drop(
                        self.ledger
                            .delete_collection(&name, None, Timestamp::from_millis(0))
                            .unwrap(),
                    );
                }
                1 => self.set_policy(),
                2..5 => {
                    let now = Timestamp::from_millis(self.time);
                    self.ledger.purge_step(now, &mut || true).unwrap();
                }
                _ => self.change(),
            }
        }
    }

    fn audiences(&self) -> Audiences {
        self.ledger.heads.read().audiences.clone()
    }

    fn heads(&self) -> Heads {
        let heads = self.ledger.heads.read();
        let told = |(_, meta): &(CollectionId, Arc<Meta>)| (meta.head, meta.policy);
        heads.by_name.iter().map(|(name, there)| (name.clone(), told(there))).collect()
    }
}

type Heads = BTreeMap<CollectionName, (Head, Policy)>;

type Audiences = BTreeMap<CollectionName, Audience>;

/// Takes a backup while the world lives on; the file, and what was there at its moment.
fn take(world: &mut World) -> (Vec<u8>, Heads, Audiences) {
    let mut backup = Backup::new(Timestamp::from_millis(1));
    let (mut file, mut there) = (Vec::new(), None);
    // With the writer held, time sometimes runs out at once.
    let mut patience = SmallRng::seed_from_u64(world.dice.random());
    while let Some(pieces) = backup.step(&world.ledger, &mut || patience.random_bool(0.9)).unwrap()
    {
        file.extend(pieces.concat());
        if matches!(backup.stage, Stage::Heads(..)) {
            there.get_or_insert_with(|| (world.heads(), world.audiences()));
        }
        world.live_on();
    }
    let rows = contents(&file[..], &mut |_| {}).unwrap().rows;
    assert_eq!((backup.rows(), backup.estimated_rows() >= rows), (rows, true));
    let (heads, audiences) = there.expect("it ends with heads");
    (file, heads, audiences)
}

fn restored(file: &[u8]) -> Ledger<MemoryStore> {
    let contents = contents(file, &mut |_| {}).unwrap();
    let store = open(MemoryStore::new()).into_store();
    let mut epochs = 1_000_000;
    let mut mint = || {
        epochs += 1;
        Epoch::new(epochs).unwrap()
    };
    restore(&store, file, &contents, &mut mint, &mut |_| {}).unwrap();
    store.sync().unwrap();
    open(store)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// G2, G4, G5: items, versions, floors and names are those of one moment, in every collection; the
/// epochs are new; tombstones above the floors are there.
#[test]
fn a_backup_is_the_store_at_one_moment() {
    let seed = number("DELTASYNC_SEED");
    let first = seed.unwrap_or_else(|| rand::random::<u32>().into());
    let cases = if seed.is_some() { 1 } else { number("DELTASYNC_CASES").unwrap_or(CASES) };
    let (mut anew, mut ended) = (0, 0);
    for seed in first..first + cases {
        eprintln!("DELTASYNC_SEED={seed}");
        let dice = SmallRng::seed_from_u64(seed);
        let mut world = World { ledger: open(MemoryStore::new()), dice, time: 1, epochs: 0 };
        for _ in 0..200 {
            world.live_on();
        }
        let (file, expected, followed) = take(&mut world);
        let ledger = restored(&file);
        let found = ledger.heads.read();
        let names = |name: &CollectionName| name.to_string();
        let (were, are): (Vec<_>, Vec<_>) =
            (expected.keys().map(names).collect(), found.by_name.keys().map(names).collect());
        assert_eq!(were, are);
        for (name, (head, policy)) in expected {
            let (_, meta) = &found.by_name[&name];
            assert_eq!(meta.policy, policy, "{name}");
            let mut there = meta.head;
            assert_ne!(there.epoch, head.epoch, "{name}");
            there.epoch = head.epoch;
            // A purge may have cut its newest version in two.
            assert!(head.tombstones - there.tombstones <= 5, "{name}: {there:?}, not {head:?}");
            there.tombstones = head.tombstones;
            assert_eq!(there, head, "{name}");
        }
        let digest = |name| found.by_name[&CollectionName::new(name).unwrap()].1.head.items;
        assert_eq!(digest("left"), digest("right"));
        drop(found);
        ended += check_followers(&ledger, followed);
        anew += world_began_anew(&file);
        // It goes on counting where it was.
        let mut world = World { ledger, dice: SmallRng::seed_from_u64(seed), time: 9, epochs: 0 };
        let before = world.heads();
        world.change();
        for (name, (head, _)) in world.heads() {
            let older = before.get(&name);
            assert!(older.is_none_or(|(older, _)| older.version <= head.version), "{name}");
        }
        open(world.ledger.into_store());
    }
    eprintln!("{anew} collections were begun anew");
    assert!(ended > 0 || cases < CASES, "nothing that was deleted was followed: too tame");
    assert!(anew > 0 || cases < CASES, "purges never overtook a backup: the test is too tame");
}

/// G4: who follows what is of the same moment. No entry is true any more, so everybody reads, until
/// the periodic work has told them; how many of the names were deleted.
fn check_followers(ledger: &Ledger<MemoryStore>, followed: Audiences) -> u64 {
    let read = |audience: Audience| {
        let (mode, since) = (Diffusion::Read, Timestamp::default());
        Audience { mode, since, ..audience }
    };
    let expected: Audiences =
        followed.into_iter().map(|(name, audience)| (name, read(audience))).collect();
    assert_eq!(ledger.heads.read().audiences, expected);
    // How often they move is known after a while.
    for now in [1_000_000, 1_030_000].map(Timestamp::from_millis) {
        while ledger.tend_audiences(now).unwrap() {}
    }
    let written = ledger.heads.read();
    assert!(written.audiences.values().all(|audience| audience.mode == Diffusion::Write));
    // What opens fits together: each entry says where its collection stands.
    open(ledger.store().fork());
    expected.values().filter(|audience| audience.last_life.is_some()).count() as u64
}

/// How many collections were copied more than once from the start.
fn world_began_anew(file: &[u8]) -> u64 {
    let contents = contents(file, &mut |_| {}).unwrap();
    contents.heads.values().filter(|head| head.generation > 0).count() as u64
}

/// G8: whoever commits faster than is copied is told so, and the backup ends.
#[test]
fn a_backup_that_never_catches_up_is_given_up() {
    let dice = SmallRng::seed_from_u64(1);
    let mut world = World { ledger: open(MemoryStore::new()), dice, time: 1, epochs: 0 };
    world.change();
    let mut backup = Backup::new(Timestamp::from_millis(1));
    let failure = loop {
        world.change();
        match backup.step(&world.ledger, &mut || false) {
            Ok(pieces) => assert!(pieces.is_some(), "it ended with something not copied"),
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, BackupFailure::TooBusy), "{failure}");
}

/// A store without collections has a backup too.
#[test]
fn nothing_is_backed_up_and_restored() {
    let dice = SmallRng::seed_from_u64(1);
    let mut world = World { ledger: open(MemoryStore::new()), dice, time: 1, epochs: 0 };
    let mut backup = Backup::new(Timestamp::from_millis(1));
    let mut file = Vec::new();
    while let Some(pieces) = backup.step(&world.ledger, &mut || true).unwrap() {
        file.extend(pieces.concat());
    }
    assert!(restored(&file).heads.read().by_name.is_empty());
    world.change();
}
