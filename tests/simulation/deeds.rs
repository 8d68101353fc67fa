//! What happens to the world while things happen: writes, purges, ends of collections and of
//! their lives, backups that are restored, copies that are damaged.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::types::{CollectionName, Commit, Epoch, Key, Mutation, Op, SortKey, Value};
use sync_server::core::request::Request;
use sync_server::store::StoreError;
use sync_server::store::memory::{Fault as StoreFault, Faults};

use crate::consumers::Consumer;
use crate::inboxes::{SUBJECTS, subject};
use crate::model::Model;
use crate::world::World;

/// Copies of the data directory that are kept.
const OLDER_MAX: usize = 3;

/// How often storage is to fail at one of the next few steps; most deeds have fewer of them.
const FAULTS: f64 = 0.15;

impl World {
    /// Something that somebody does.
    pub(crate) fn deed(&mut self) {
        match self.dice.random_range(0..100) {
            0..44 => self.write(),
            44..53 => self.wake_a_consumer(),
            53..57 => self.tend(),
            57..64 => self.purge(),
            64..69 => self.crash_server(usize::MAX),
            69..76 => self.start_server(),
            76..81 => self.cut_a_stream(),
            81..85 => self.kill_a_device(),
            85..88 => self.delete_a_collection(),
            88..90 => self.rotate_an_epoch(),
            90..91 => self.begin_a_backup(),
            91..92 => self.copy_the_directory(),
            92..93 => self.restore(),
            93..94 => self.roll_back(),
            94..96 => self.damage_a_copy(),
            96..97 => self.pump(),
            // The server's clock jumps, forward and back.
            _ => self.clock_skew_ms = self.dice.random_range(0..600_000),
        }
        self.go_on_backing_up();
    }

    fn write(&mut self) {
        if self.server.is_none() {
            return self.start_server();
        }
        self.plan_a_fault(FAULTS);
        let commits: Vec<Vec<Mutation>> =
            (0..self.dice.random_range(1..=3)).map(|_| self.mutations()).collect();
        self.commit(&commits);
    }

    /// Where an older store was put in place of a newer one, an account can tell by what its inbox
    /// says only when the heads have passed all that was given before: they do.
    pub(crate) fn pass_what_was_given_twice(&mut self) {
        for name in self.names.clone() {
            for round in 0..u8::MAX {
                let collection = self.model.collections.get(&name);
                if !collection.is_some_and(|found| self.history.is_given_again(&name, found)) {
                    break;
                }
                let key = Key::new(&b"a"[..]).expect("short");
                let value = Value::new(vec![round, 9]).expect("short");
                let op = Op::Put { key, value, sort_key: None };
                self.commit(&[vec![Mutation { collection: name.clone(), op }]]);
            }
        }
    }

    fn commit(&mut self, commits: &[Vec<Mutation>]) {
        let request = |mutations: &Vec<Mutation>| Request::Commit {
            commit: Commit { mutations: mutations.clone(), ..Commit::default() },
            fingerprint: [0; 16],
        };
        let requests: Vec<Request> = commits.iter().map(request).collect();
        let mut after = self.model.clone();
        let accepted: Vec<bool> = commits.iter().map(|commit| after.commit(commit)).collect();
        let now = self.clock();
        let mut epochs = StdRng::seed_from_u64(self.dice.random());
        let mut mint = || Epoch::new(epochs.random::<u64>() | 1).expect("not zero");
        let Some(server) = self.server.as_mut() else { return };
        let done = server.commit(&requests, now, &mut mint);
        let Some(group) = self.carried_out("a commit", done, Some(after.clone())) else { return };
        for (answer, accepted) in group.answers.iter().zip(accepted) {
            assert_eq!(answer.is_ok(), accepted, "{answer:?}");
            for committed in answer.iter().flat_map(|answer| &answer.collections) {
                after.agree(committed);
            }
        }
        for name in group.moved.iter().filter(|name| !name.is_inbox()) {
            self.history.announce(name, &after.collections[name]);
        }
        self.model = after;
        self.check_inboxes();
        self.note(&format!("commit {:?}", group.moved));
        self.pump();
    }

    fn check_inboxes(&self) {
        let server = self.server.as_ref().expect("it has just answered");
        server.check_inboxes(&self.model.follows);
    }

    fn mutations(&mut self) -> Vec<Mutation> {
        let mut mutations: Vec<Mutation> = Vec::new();
        for _ in 0..self.dice.random_range(1..=8) {
            let collection = self.names.choose(&mut self.dice).expect("not empty").clone();
            let key = Key::new(vec![b'a' + self.dice.random_range(0..12)]).expect("short");
            if self.dice.random_bool(0.2) {
                self.follow_or_not(collection, &mut mutations);
                continue;
            }
            let twice = |m: &Mutation| m.collection == collection && m.op.key() == Some(&key);
            if mutations.iter().any(twice) {
                continue;
            }
            let sort_key = SortKey::new(vec![self.dice.random_range(0..3)]).expect("short");
            let value = Value::new(vec![self.dice.random_range(0..4u8); 3]).expect("short");
            let op = match self.dice.random_range(0..10) {
                0..6 => {
                    let sort_key = self.dice.random_bool(0.5).then_some(sort_key);
                    Op::Put { key, value, sort_key }
                }
                6..9 => Op::Delete { key },
                _ => Op::Reorder { key, sort_key },
            };
            mutations.push(Mutation { collection, op });
        }
        mutations
    }

    fn follow_or_not(&mut self, collection: CollectionName, mutations: &mut Vec<Mutation>) {
        let subject = subject(self.dice.random_range(0..SUBJECTS));
        let twice = |m: &Mutation| {
            let (Op::Follow { subject: who } | Op::Unfollow { subject: who }) = &m.op else {
                return false;
            };
            m.collection == collection && *who == subject
        };
        if mutations.iter().any(twice) {
            return;
        }
        let follows = self.dice.random_bool(0.7);
        let op = if follows { Op::Follow { subject } } else { Op::Unfollow { subject } };
        mutations.push(Mutation { collection, op });
    }

    /// The work for followers beside commits: sweeps, and switches of those that are calm.
    fn tend(&mut self) {
        let now = self.clock();
        self.plan_a_fault(FAULTS);
        let Some(server) = &mut self.server else { return };
        let times = self.dice.random_range(1..4);
        let done = (0..times).try_for_each(|_| server.ledger.tend_audiences(now).map(drop));
        server.announce_the_rest();
        if self.carried_out("tending", done, None).is_none() {
            return;
        }
        self.check_inboxes();
        self.note("tend audiences");
        self.pump();
    }

    fn purge(&mut self) {
        let now = self.clock();
        self.plan_a_fault(FAULTS);
        let Some(server) = &self.server else { return };
        let times = self.dice.random_range(1..20);
        let mut go_on = || self.dice.random_bool(0.7);
        let done = (0..times).try_for_each(|_| server.ledger.purge_step(now, &mut go_on).map(drop));
        if self.carried_out("a purge", done, None).is_none() {
            self.forgot_perhaps = true;
            return;
        }
        let server = self.server.as_ref().expect("it has just answered");
        for consumer in &mut self.consumers {
            consumer.look_at_all(server, &self.names);
        }
        self.note("purge");
    }

    fn delete_a_collection(&mut self) {
        let name = self.names.choose(&mut self.dice).expect("not empty").clone();
        let now = self.clock();
        self.plan_a_fault(FAULTS);
        let Some(server) = &mut self.server else { return };
        let done = server.ledger.delete_collection(&name, None, now);
        let mut after = self.model.clone();
        let existed = after.collections.remove(&name).is_some();
        let Some(deleted) = self.carried_out("a deletion", done, Some(after.clone())) else {
            return;
        };
        assert_eq!(deleted.is_ok(), existed);
        self.model = after;
        let server = self.server.as_mut().expect("it has just answered");
        server.announce(std::slice::from_ref(&name));
        server.announce_the_rest();
        self.check_inboxes();
        self.note(&format!("delete {name}"));
        self.pump();
    }

    /// Every reader of the collection must find out that its versions mean nothing any more.
    fn rotate_an_epoch(&mut self) {
        let name = self.names.choose(&mut self.dice).expect("not empty").clone();
        let mut epochs = StdRng::seed_from_u64(self.dice.random());
        let now = self.clock();
        self.plan_a_fault(FAULTS);
        let Some(server) = &mut self.server else { return };
        let mut after = self.model.clone();
        let Some(collection) = after.collections.get_mut(&name) else { return };
        // Only the server knows which one comes.
        collection.epoch = None;
        let done = server.rotate_epoch(&name, now, &mut epochs);
        let Some(epoch) = self.carried_out("a rotation", done, Some(after)) else { return };
        let collection = self.model.collections.get_mut(&name).expect("looked at above");
        collection.epoch = Some(epoch);
        self.history.announce(&name, collection);
        let server = self.server.as_mut().expect("it has just answered");
        server.announce(std::slice::from_ref(&name));
        server.announce_the_rest();
        self.check_inboxes();
        self.note(&format!("rotate the epoch of {name}"));
        self.pump();
    }

    /// Somebody copies the data directory. Between two groups, what is applied is durable.
    fn copy_the_directory(&mut self) {
        let Some(server) = &self.server else { return };
        let copy = (server.ledger.store().fork(), self.model.clone());
        if self.older.len() == OLDER_MAX {
            self.older.swap_remove(self.dice.random_range(0..OLDER_MAX));
        }
        self.older.push(copy);
        self.note("copy the directory");
    }

    /// T08, X13: a write that storage does not carry out, or of which nobody knows: one of the next.
    pub(crate) fn plan_a_fault(&mut self, chance: f64) {
        let Some(server) = &self.server else { return };
        if !self.dice.random_bool(chance) {
            return;
        }
        let (store, dice) = (server.ledger.store(), &mut self.dice);
        let fault = if dice.random_bool(0.5) { StoreFault::Before } else { StoreFault::After };
        let skipped = dice.random_range(0..3);
        if dice.random_bool(0.5) {
            store.fail_apply_after(skipped, fault);
        } else {
            store.fail_sync_after(skipped, fault);
        }
    }

    /// What was done. Where storage failed the server dies, as its process does; `after` is what may
    /// be true then.
    pub(crate) fn carried_out<T>(
        &mut self,
        what: &str,
        done: Result<T, StoreError>,
        after: Option<Model>,
    ) -> Option<T> {
        match done {
            Ok(done) => {
                let server = self.server.as_ref().expect("it has just answered");
                server.ledger.store().set_faults(Faults::default());
                Some(done)
            }
            Err(error) => {
                self.note(&format!("storage fails at {what}: {error}"));
                self.maybe = after;
                let keeping = self.dice.random_range(0..=1);
                self.crash_server(keeping);
                None
            }
        }
    }

    /// Somebody puts an older copy of the data directory in place, with the epochs that it had: the
    /// server cannot know, and will give numbers again that it gave before. Copies find out by
    /// `AHEAD_OF_HEAD`, or by their digest once the head has passed them.
    fn roll_back(&mut self) {
        let Some((store, model)) = self.older.choose(&mut self.dice) else { return };
        let (store, model) = (store.fork(), model.clone());
        self.crash_server(usize::MAX);
        self.consumers.iter_mut().for_each(Consumer::server_went_back);
        self.maybe = None;
        for (name, collection) in &model.collections {
            self.history.give_again(name, collection);
        }
        self.model = model;
        self.disk = Some(store);
        self.note("roll back");
        if self.dice.random_bool(0.5) {
            self.start_server();
        }
    }

    /// X1: a row of a copy is lost and another is changed, while no process looks.
    fn damage_a_copy(&mut self) {
        let index = self.dice.random_range(0..self.devices.len());
        // Of an account that of the inbox: its other copies are checked once a day only.
        let name = match self.devices[index].machine.as_account() {
            None => self.names.choose(&mut self.dice).expect("not empty").clone(),
            Some(account) => account.subject.inbox(),
        };
        if self.devices[index].copies.damage(&name, &mut self.dice) {
            self.note(&format!("damage {name} of device {index}"));
            self.restart(index);
        }
    }
}
