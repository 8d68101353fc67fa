//! A device: the real state machines of the client over the real in-memory replica store. It can
//! die between any two steps and come back with what its store holds.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sync_client::account::desk::{Action, Holdings, Input};
use sync_client::session::{self, WriteFault, work};
use sync_client::store::{Notes, ReplicaStore as _, StoreError, Write, check};
use sync_proto::types::{CollectionName, Cursor, Epoch, Subject, Version};
use sync_server::store::keys::ClientKey;

use crate::copies::{Copies, FAILS_NEVER};
use crate::machine::{Account, Machine};
use crate::model::{History, Model};
use crate::network::{DeviceId, Packet};

/// When a history begins, by the clocks of devices.
const CLOCK_MS: u64 = 1_700_000_000_000;

/// A device.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) copies: Copies,
    pub(crate) machine: Machine,
    /// The newest ack of each life of its inbox that the server took.
    acked: HashMap<Epoch, Version>,
    names: Vec<CollectionName>,
    began: Instant,
}

// === impl Device ===

impl Device {
    /// A device with replicas of all these collections; of a subject, with its account.
    pub(crate) fn new(
        number: usize,
        subject: Option<Subject>,
        names: Vec<CollectionName>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let copies = Copies::new();
        let machine = match subject {
            None => Machine::replica(&copies.store, &names, seed, now),
            Some(subject) => Machine::account(&copies.store, subject, CLOCK_MS, seed, now),
        };
        Self { id: (number, 0), copies, machine, acked: HashMap::new(), names, began: now }
    }

    /// Dies and comes back: whatever was under way is gone, the store is what it was.
    pub(crate) fn restart(&mut self, seed: u64, now: Instant) {
        self.id.1 += 1;
        let store = &self.copies.store;
        let since = u64::try_from(now.duration_since(self.began).as_millis()).expect("short");
        self.machine = match &self.machine {
            Machine::Replica(_) => Machine::replica(store, &self.names, seed, now),
            Machine::Account(account) => {
                let subject = account.subject.clone();
                Machine::account(store, subject, CLOCK_MS + since, seed, now)
            }
        };
    }

    /// By what name the server knows it, if it acknowledges anything.
    pub(crate) fn client(&self) -> Option<ClientKey> {
        let account = self.machine.as_account()?;
        let subject = account.subject.to_string();
        Some(ClientKey { client_id: format!("device {}", self.id.0), subject })
    }

    /// The server has taken an ack of the inbox. One that came late takes nothing back.
    pub(crate) fn was_acked(&mut self, cursor: Cursor) {
        let newest = self.acked.entry(cursor.epoch).or_default();
        *newest = cursor.version.max(*newest);
    }

    /// Whether all of an inbox that stands there is acknowledged: more than that only if an older
    /// store was put in place.
    pub(crate) fn has_acked(&self, head: Cursor) -> bool {
        self.acked.get(&head.epoch).is_some_and(|acked| *acked >= head.version)
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.machine.deadline().saturating_duration_since(self.began)
    }

    /// Takes in something and carries out what follows; `false` from `survives` kills the device
    /// before the next step.
    pub(crate) fn handle(
        &mut self,
        inputs: Vec<Input>,
        now: Instant,
        history: &History,
        mut survives: impl FnMut() -> bool,
    ) -> Result<Vec<Packet>, Died> {
        let mut packets = Vec::new();
        for input in inputs {
            self.tell("hears", &input);
            self.machine.handle(input, now);
            packets.extend(self.act(now, history, &mut survives)?);
        }
        Ok(packets)
    }

    /// Carries out what the machine says.
    pub(crate) fn act(
        &mut self,
        now: Instant,
        history: &History,
        survives: &mut impl FnMut() -> bool,
    ) -> Result<Vec<Packet>, Died> {
        let mut packets = Vec::new();
        while let Some(action) = self.machine.poll_action() {
            if !survives() {
                return Err(Died);
            }
            self.tell("does", &action);
            match action {
                Action::Session(action) => packets.extend(self.converse(action, now)),
                Action::Write(name, write, notes) => {
                    let input = self.write(&name, &write, &notes);
                    if self.names.contains(&name) {
                        self.copies.check(&name, history);
                    }
                    // X16: rows, cursor and notes are one transaction, so dying here loses nothing.
                    if !survives() {
                        return Err(Died);
                    }
                    self.machine.flush_soon(now);
                    self.machine.handle(Input::Session(input), now);
                }
                Action::Note(notes) => {
                    self.copies.store.note(&notes).expect(FAILS_NEVER);
                    self.machine.flush_soon(now);
                    self.machine.handle(Input::Noted(true), now);
                }
                Action::Scan => {
                    let inbox = self.account().subject.inbox();
                    let held = Holdings::read(&*self.copies.store, &inbox).expect(FAILS_NEVER);
                    self.machine.flush_soon(now);
                    self.machine.handle(Input::Scanned(Some(held)), now);
                }
                Action::Poll(id, cursor, after) => {
                    packets.push(Packet::Poll(self.id, id, cursor, after));
                }
                Action::Ack(cursor) => packets.push(Packet::AckInbox(self.id, cursor, false)),
                Action::Show(shown, summary) => self.machine.show(shown, summary),
            }
        }
        Ok(packets)
    }

    fn account(&self) -> &Account {
        self.machine.as_account().expect("a replica asks for nothing of the kind")
    }

    fn converse(&mut self, action: session::Action, now: Instant) -> Option<Packet> {
        match action {
            session::Action::OpenStream(id, asked) => {
                return Some(Packet::Subscribe(self.id, id, asked));
            }
            session::Action::CloseStream(id) => return Some(Packet::Unsubscribe(self.id, id)),
            session::Action::Pull(id, pull) => return Some(Packet::Pull(self.id, id, pull)),
            session::Action::SelfCheck(name) => {
                let snapshot = self.copies.store.snapshot(&name);
                let sound = snapshot.and_then(|snapshot| check(snapshot.as_ref()));
                let input = session::Input::SelfChecked(name, sound.expect(FAILS_NEVER));
                self.machine.handle(Input::Session(input), now);
            }
            session::Action::Mend(name, id, task) => {
                let done = work(self.copies.store.as_ref(), &name, &task);
                let Some(done) = done.expect(FAILS_NEVER) else {
                    return Some(Packet::Mend(self.id, name, id, task));
                };
                let input = session::Input::Mended(name, id, done);
                self.machine.handle(Input::Session(input), now);
            }
            session::Action::Report(..) | session::Action::Chosen(..) => {}
            session::Action::Write(..) => unreachable!("writes come with their notes"),
        }
        None
    }

    fn write(&self, name: &CollectionName, write: &Write, notes: &Notes) -> session::Input {
        let written = match self.copies.store.write_with(name, write, notes) {
            Ok(applied) => Ok(applied.standing),
            Err(StoreError::Conflict { standing }) => Err(WriteFault::Conflict(*standing)),
            Err(StoreError::MissingValue) => Err(WriteFault::MissingValue),
            Err(other) => panic!("{other}"),
        };
        session::Input::Written(name.clone(), written)
    }

    /// Tells what its machine hears and does, if the environment asks for this device.
    fn tell(&self, what: &str, of: &impl std::fmt::Debug) {
        static TOLD: OnceLock<Option<u64>> = OnceLock::new();
        let told = TOLD.get_or_init(|| crate::from_environment("DELTASYNC_DEVICE"));
        if told.is_some_and(|told| u64::try_from(self.id.0) == Ok(told)) {
            eprintln!("           {:?} {what} {of:?}", self.id);
        }
    }

    /// Whether it has a collection as it should: of an account only if it is followed.
    pub(crate) fn is_right(&self, name: &CollectionName, model: &Model) -> bool {
        let wanted = model.collections.get(name).filter(|_| match self.machine.as_account() {
            None => true,
            Some(account) => model.follows.contains(&(account.subject.clone(), name.clone())),
        });
        self.copies.is_equal(name, wanted)
    }
}

/// The device died on the way.
#[derive(Debug)]
pub(crate) struct Died;
