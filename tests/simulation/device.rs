//! A device: the real session over the real in-memory replica store. It can die between any two
//! steps and come back with what its store holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sync_client::session::{Action, Config, Input, MendFault, Session, carry_out, work};
use sync_client::store::{MemoryStore, ReplicaStore, Standing};
use sync_proto::types::{CollectionName, Cursor};

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
    seen: BTreeMap<CollectionName, Cursor>,
}

impl Device {
    pub(crate) fn new(number: usize, names: Vec<CollectionName>, seed: u64, now: Instant) -> Self {
        let store = Arc::new(MemoryStore::new());
        let session = session(&store, &names, seed, now);
        Self { id: (number, 0), store, session, names, seen: BTreeMap::new() }
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
                    self.session.handle(Input::SelfChecked(name, true), now);
                }
                Action::Mend(name, id, task) => {
                    let done = work(self.store.as_ref(), &name, &task)
                        .expect("a store in memory never fails");
                    // This server does not compare: copies are loaded anew.
                    let done = done.unwrap_or(Err(MendFault::Unknown));
                    self.session.handle(Input::Mended(name, id, done), now);
                }
                Action::Report(..) | Action::Chosen(..) => {}
            }
        }
        Ok(packets)
    }

    /// Where the copy of a collection stands.
    pub(crate) fn standing(&self, name: &CollectionName) -> Standing {
        self.store.standing(name).expect("a store in memory never fails")
    }

    /// What its readers see.
    pub(crate) fn items(&self, name: &CollectionName) -> Items {
        let snapshot = self.store.snapshot(name).expect("a store in memory never fails");
        let rows = snapshot.rows(None, ROWS_MAX).expect("a store in memory never fails");
        let item = |row: sync_client::store::Row| {
            let value = sync_proto::types::Value::new(row.value).expect("was checked");
            (row.key, (value, row.sort_key, row.version))
        };
        rows.into_iter().map(item).collect()
    }

    /// After every write: what readers see of a caught-up copy is a state that the server has
    /// announced (G1, G3, G4), and it never goes back within an epoch (G2).
    fn check(&mut self, name: &CollectionName, history: &History) {
        let Some(cursor) = self.standing(name).cursor else {
            self.seen.remove(name);
            assert!(self.items(name).is_empty(), "rows without a cursor");
            return;
        };
        if let Some(seen) = self.seen.insert(name.clone(), cursor)
            && seen.epoch == cursor.epoch
        {
            assert!(seen.version <= cursor.version, "{name} went back: {seen} to {cursor}");
        }
        if cursor.is_caught_up() {
            let announced = history.at(name, cursor);
            let announced = announced.unwrap_or_else(|| panic!("{cursor} was never announced"));
            assert_eq!(self.items(name), *announced, "{name} at {cursor} is not the server's");
        }
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
