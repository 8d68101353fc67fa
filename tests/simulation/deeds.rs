//! What happens to the world while things happen: writes, purges, ends of collections and of
//! their lives, backups that are restored, copies that are damaged.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::types::{CollectionName, Commit, Epoch, Key, Mutation, Op, SortKey, Value};
use sync_server::core::request::Request;
use sync_server::store::memory::{Fault as StoreFault, Faults};

use crate::consumers::Consumer;
use crate::inboxes::{SUBJECTS, subject};
use crate::server::Server;
use crate::world::World;

/// Backups that are kept.
const BACKUPS_MAX: usize = 3;

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
            90..92 => self.back_up(),
            92..93 => self.restore(),
            93..94 => self.roll_back(),
            94..96 => self.damage_a_copy(),
            96..97 => self.pump(),
            // The server's clock jumps, forward and back.
            _ => self.clock_skew_ms = self.dice.random_range(0..600_000),
        }
    }

    fn write(&mut self) {
        let Some(server) = &self.server else { return self.start_server() };
        // T08, X13: a write that storage does not carry out, or of which nobody knows.
        if self.dice.random_bool(0.06) {
            let fault =
                if self.dice.random_bool(0.5) { StoreFault::Before } else { StoreFault::After };
            if self.dice.random_bool(0.5) {
                server.ledger.store().fail_next_apply(fault);
            } else {
                server.ledger.store().fail_next_sync(fault);
            }
        }
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
        match server.commit(&requests, now, &mut mint) {
            Ok(group) => {
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
                server.ledger.store().set_faults(Faults::default());
                server.check_inboxes(&self.model.follows);
                self.note(&format!("commit {:?}", group.moved));
                self.pump();
            }
            Err(error) => {
                self.note(&format!("commit fails: {error}"));
                self.maybe = Some(after);
                let keeping = self.dice.random_range(0..=1);
                self.crash_server(keeping);
            }
        }
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
        let Some(server) = &mut self.server else { return };
        for _ in 0..self.dice.random_range(1..4) {
            server.ledger.tend_audiences(now).expect("the store does not fail here");
        }
        server.announce_the_rest();
        server.check_inboxes(&self.model.follows);
        self.note("tend audiences");
        self.pump();
    }

    fn purge(&mut self) {
        let now = self.clock();
        let Some(server) = &self.server else { return };
        for _ in 0..self.dice.random_range(1..20) {
            let mut go_on = || self.dice.random_bool(0.7);
            server.ledger.purge_step(now, &mut go_on).expect("the store does not fail here");
        }
        for consumer in &mut self.consumers {
            consumer.look_at_all(server, &self.names);
        }
        self.note("purge");
    }

    fn delete_a_collection(&mut self) {
        let name = self.names.choose(&mut self.dice).expect("not empty").clone();
        let now = self.clock();
        let Some(server) = &mut self.server else { return };
        let deleted =
            server.ledger.delete_collection(&name, None, now).expect("no fault is planned");
        assert_eq!(deleted.is_ok(), self.model.collections.remove(&name).is_some());
        server.announce(std::slice::from_ref(&name));
        server.announce_the_rest();
        server.check_inboxes(&self.model.follows);
        self.note(&format!("delete {name}"));
        self.pump();
    }

    /// Every reader of the collection must find out that its versions mean nothing any more.
    fn rotate_an_epoch(&mut self) {
        let name = self.names.choose(&mut self.dice).expect("not empty").clone();
        let mut epochs = StdRng::seed_from_u64(self.dice.random());
        let now = self.clock();
        let Some(server) = &mut self.server else { return };
        let Some(collection) = self.model.collections.get_mut(&name) else { return };
        collection.epoch = Some(server.rotate_epoch(&name, now, &mut epochs));
        self.history.announce(&name, collection);
        server.announce(std::slice::from_ref(&name));
        server.announce_the_rest();
        server.check_inboxes(&self.model.follows);
        self.note(&format!("rotate the epoch of {name}"));
        self.pump();
    }

    /// Between two groups, what is applied is durable.
    fn back_up(&mut self) {
        let Some(server) = &self.server else { return };
        let backup = (server.ledger.store().fork(), self.model.clone());
        if self.backups.len() == BACKUPS_MAX {
            let oldest = self.dice.random_range(0..BACKUPS_MAX);
            self.backups.swap_remove(oldest);
        }
        self.backups.push(backup);
        self.note("back up");
    }

    /// The server comes back as it was at some backup: everything since is lost, and no number
    /// that was given since may be taken for one that is given from now on.
    fn restore(&mut self) {
        let Some((store, model)) = self.backups.choose(&mut self.dice) else { return };
        let (store, mut model) = (store.fork(), model.clone());
        self.crash_server(usize::MAX);
        self.consumers.iter_mut().for_each(Consumer::server_went_back);
        self.maybe = None;
        for collection in model.collections.values_mut() {
            collection.epoch = None;
        }
        self.model = model;
        let mut epochs = StdRng::seed_from_u64(self.dice.random());
        let now = self.clock();
        let mut server = Server::open(store, self.kept);
        let all = server.ledger.list_collections("", &[String::new()], None, usize::MAX, |_| true);
        for (name, _) in all {
            server.rotate_epoch(&name, now, &mut epochs);
        }
        self.disk = Some(server.ledger.store().fork());
        self.note("restore a backup");
        if self.dice.random_bool(0.5) {
            self.start_server();
        }
    }

    /// Somebody puts an older copy of the data directory in place, with the epochs that it had: the
    /// server cannot know, and will give numbers again that it gave before. Copies find out by
    /// `AHEAD_OF_HEAD`, or by their digest once the head has passed them.
    fn roll_back(&mut self) {
        let Some((store, model)) = self.backups.choose(&mut self.dice) else { return };
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
