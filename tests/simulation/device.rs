//! A device: the real session over the real in-memory replica store. It can die between any two
//! steps and come back with what its store holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_client::session::{Action, Config, Input, Session, carry_out, work};
use sync_client::store::{MemoryStore, ReplicaStore, Row, Standing, Step, Write, check};
use sync_proto::types::{CollectionName, Cursor, Value};
use sync_tests::device::change_of;

use crate::model::{History, Items};
use crate::network::{DeviceId, Packet};

/// Rows of a collection in a simulation: fewer than this.
const ROWS_MAX: usize = 100_000;

/// A device.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    store: Arc<MemoryStore>,
    pub(crate) session: Session,
    names: Vec<CollectionName>,
    /// The newest state that its readers have seen, per collection.
    shown: BTreeMap<CollectionName, Cursor>,
    /// Copies that were damaged and are not repaired yet.
    damaged: BTreeSet<CollectionName>,
}

impl Device {
    pub(crate) fn new(number: usize, names: Vec<CollectionName>, seed: u64, now: Instant) -> Self {
        let store = Arc::new(MemoryStore::new());
        let session = session(&store, &names, seed, now);
        let (shown, damaged) = (BTreeMap::new(), BTreeSet::new());
        Self { id: (number, 0), store, session, names, shown, damaged }
    }

    /// Dies and comes back: whatever was under way is gone, the store is what it was.
    pub(crate) fn restart(&mut self, seed: u64, now: Instant) {
        self.id.1 += 1;
        self.session = session(&self.store, &self.names, seed, now);
    }

    /// Takes in something and carries out what follows; `None` from `survives` kills the device
    /// before the next step.
    pub(crate) fn handle(
        &mut self,
        input: Input,
        now: Instant,
        history: &History,
        mut survives: impl FnMut() -> bool,
    ) -> Result<Vec<Packet>, Died> {
        self.tell("hears", &input);
        self.session.handle(input, now);
        self.act(now, history, &mut survives)
    }

    /// Carries out what the session says.
    pub(crate) fn act(
        &mut self,
        now: Instant,
        history: &History,
        survives: &mut impl FnMut() -> bool,
    ) -> Result<Vec<Packet>, Died> {
        let mut packets = Vec::new();
        while let Some(action) = self.session.poll_action() {
            if !survives() {
                return Err(Died);
            }
            self.tell("does", &action);
            match action {
                Action::OpenStream(id, asked) => {
                    packets.push(Packet::Subscribe(self.id, id, asked));
                }
                Action::CloseStream(id) => packets.push(Packet::Unsubscribe(self.id, id)),
                Action::Pull(id, pull) => packets.push(Packet::Pull(self.id, id, pull)),
                Action::Write(name, write) => {
                    let (input, _) = carry_out(self.store.as_ref(), &name, &write)
                        .expect("a store in memory never fails");
                    self.check(&name, history);
                    // X16: rows and cursor are one transaction, so dying here loses nothing.
                    if !survives() {
                        return Err(Died);
                    }
                    self.session.handle(input, now);
                }
                Action::SelfCheck(name) => {
                    let snapshot = self.store.snapshot(&name);
                    let sound = snapshot.and_then(|snapshot| check(snapshot.as_ref()));
                    let sound = sound.expect("a store in memory never fails");
                    self.session.handle(Input::SelfChecked(name, sound), now);
                }
                Action::Mend(name, id, task) => {
                    let done = work(self.store.as_ref(), &name, &task);
                    match done.expect("a store in memory never fails") {
                        Some(done) => self.session.handle(Input::Mended(name, id, done), now),
                        None => packets.push(Packet::Mend(self.id, name, id, task)),
                    }
                }
                Action::Report(..) | Action::Chosen(..) => {}
            }
        }
        Ok(packets)
    }

    /// Tells what its session hears and does, if the environment asks for this device.
    fn tell(&self, what: &str, of: &impl std::fmt::Debug) {
        if crate::from_environment("DELTASYNC_DEVICE") == u64::try_from(self.id.0).ok() {
            eprintln!("           {:?} {what} {of:?}", self.id);
        }
    }

    /// Where the copy of a collection stands.
    pub(crate) fn standing(&self, name: &CollectionName) -> Standing {
        self.store.standing(name).expect("a store in memory never fails")
    }

    /// What its readers see.
    pub(crate) fn items(&self, name: &CollectionName) -> Items {
        let snapshot = self.store.snapshot(name).expect("a store in memory never fails");
        let rows = snapshot.rows(None, ROWS_MAX).expect("a store in memory never fails");
        let item = |row: Row| {
            let value = Value::new(row.value).expect("was checked");
            (row.key, (value, row.sort_key, row.version))
        };
        rows.into_iter().map(item).collect()
    }

    /// After every write: what readers see of a caught-up copy is a state that the server has
    /// announced (G1, G3, G4), and it never goes back within an epoch (G2).
    fn check(&mut self, name: &CollectionName, history: &History) {
        let Some(cursor) = self.standing(name).cursor else {
            self.shown.remove(name);
            assert!(self.items(name).is_empty(), "rows without a cursor");
            return;
        };
        if let Some(seen) = self.shown.insert(name.clone(), cursor)
            && seen.epoch == cursor.epoch
            && !history.is_ambiguous(name, cursor.epoch)
        {
            let (id, seen) = (self.id, seen.version);
            assert!(seen <= cursor.version, "{name} of {id:?} went back: {seen} to {cursor}");
        }
        if cursor.is_caught_up() && !history.is_ambiguous(name, cursor.epoch) {
            let announced = history.at(name, cursor);
            let announced = announced.unwrap_or_else(|| panic!("{cursor} was never announced"));
            let equal = self.items(name) == *announced;
            if equal {
                self.damaged.remove(name);
            }
            let excused = self.damaged.contains(name);
            assert!(equal || excused, "{name} of {:?} at {cursor} is not the server's", self.id);
        }
    }

    /// Loses a row and changes another behind the session's back. `false`: there was nothing to
    /// damage.
    pub(crate) fn damage(&mut self, name: &CollectionName, dice: &mut StdRng) -> bool {
        let standing = self.standing(name);
        let at = standing.cursor.filter(|at| at.is_caught_up() && standing.load.is_none());
        let Some(at) = at else { return false };
        let snapshot = self.store.snapshot(name).expect("a store in memory never fails");
        let mut rows = snapshot.rows(None, ROWS_MAX).expect("a store in memory never fails");
        if rows.is_empty() {
            return false;
        }
        rows.swap_remove(dice.random_range(0..rows.len()));
        if let Some(changed) = rows.first_mut() {
            changed.value = vec![7; 9].into();
        }
        let changes = rows.iter().map(change_of).collect();
        let write = Write { expected: Some(at), step: Step::BeginLoad { changes, to: at } };
        self.store.write(name, &write).expect("nobody else writes");
        self.damaged.insert(name.clone());
        true
    }
}

/// The device died on the way.
#[derive(Debug)]
pub(crate) struct Died;

fn session(store: &MemoryStore, names: &[CollectionName], seed: u64, now: Instant) -> Session {
    let standing = |name: &CollectionName| {
        (name.clone(), store.standing(name).expect("a store in memory never fails"))
    };
    Session::new(Config::default(), names.iter().map(standing).collect(), seed, now)
}
