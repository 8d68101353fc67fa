//! A store that fails now and then: what fails may be done, or not.

use std::time::Duration;

use rand::RngExt as _;
use sync_client::account::desk::Holdings;
use sync_client::session;
use sync_client::store::{Notes, ReplicaStore as _, StoreError, Write, check};
use sync_client::types::CollectionName;

use super::Device;

// === impl Device ===

impl Device {
    /// Whether the store fails this time.
    fn fails(&mut self, often: f64) -> bool {
        let fails = self.rough && self.dice.random_bool(often);
        self.seen.store_failures += u64::from(fails);
        self.failures += u32::from(fails);
        fails
    }

    pub(super) fn write(
        &mut self,
        name: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> session::Input {
        let fails = self.fails(0.02);
        if *name == self.inbox {
            self.doubtful = fails;
        }
        if fails && self.dice.random_bool(0.5) {
            return session::Input::Written(name.clone(), Err(session::WriteFault::Failed));
        }
        let result = match self.store.write_with(name, write, notes) {
            Ok(applied) => Ok(applied.standing),
            Err(StoreError::Conflict { standing }) => Err(session::WriteFault::Conflict(*standing)),
            Err(StoreError::MissingValue) => Err(session::WriteFault::MissingValue),
            Err(other) => panic!("{other:?}"),
        };
        assert!(check(&*self.store.snapshot(name).unwrap()).unwrap(), "the digest is kept");
        let result = if fails { Err(session::WriteFault::Failed) } else { result };
        session::Input::Written(name.clone(), result)
    }

    /// Whether the notes are made.
    pub(super) fn note(&mut self, notes: &Notes) -> bool {
        let fails = self.fails(0.1);
        if !fails || self.dice.random_bool(0.5) {
            self.store.note(notes).unwrap();
        }
        if fails {
            // The desk's least wait, and the longest that it waits besides.
            let besides = Duration::from_millis(500) * (1 << (self.failures - 1).min(7));
            let wait = Duration::from_millis(1_100) + besides;
            self.unnoted_until = self.unnoted_until.max(self.now + wait);
        } else {
            self.failures = 0;
        }
        !fails
    }

    /// What the store holds, if it reads.
    pub(super) fn read(&mut self) -> Option<Holdings> {
        let fails = self.fails(0.3);
        self.doubtful &= fails;
        (!fails).then(|| Holdings::read(&self.store, &self.inbox).unwrap())
    }
}
