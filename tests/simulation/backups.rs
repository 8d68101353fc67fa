//! Backups: the real ones, taken step by step while things happen, and restored by the code of
//! `sync-server restore`. Each must be the state of one moment.

use std::mem::take;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::types::Epoch;
use sync_server::backup::restore::{contents, restore};
use sync_server::engine::backing_up::Backup;
use sync_server::store::Store as _;
use sync_server::store::memory::MemoryStore;

use crate::consumers::Consumer;
use crate::model::Model;
use crate::server::Server;
use crate::world::World;

/// Backups that are kept.
const BACKUPS_MAX: usize = 3;

/// Those that are complete, and the one under way.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    complete: Vec<File>,
    under_way: Option<(Backup, File)>,
}

/// A file, and all that was true while it was written.
#[derive(Debug, Default, Clone)]
struct File {
    bytes: Vec<u8>,
    /// The state before each step: one of them is what it holds.
    states: Vec<Model>,
}

// === impl Backups ===

impl Backups {
    /// The server that took it is gone.
    pub(crate) fn break_off(&mut self) {
        self.under_way = None;
    }

    fn keep(&mut self, file: File, dice: &mut StdRng) {
        if self.complete.len() == BACKUPS_MAX {
            self.complete.swap_remove(dice.random_range(0..BACKUPS_MAX));
        }
        self.complete.push(file);
    }
}

// === impl World ===

impl World {
    pub(crate) fn begin_a_backup(&mut self) {
        if self.server.is_some() && self.backups.under_way.is_none() {
            self.backups.under_way = Some((Backup::new(self.clock()), File::default()));
            self.note("a backup begins");
        }
    }

    /// A few steps of the backup under way. Its last pass may find that the writer was held for too
    /// long.
    pub(crate) fn go_on_backing_up(&mut self) {
        let Some(server) = &self.server else { return };
        let Some((mut backup, mut file)) = self.backups.under_way.take() else { return };
        for _ in 0..self.dice.random_range(0..8) {
            file.states.push(self.model.clone());
            let mut go_on = || self.dice.random_bool(0.9);
            let pieces = backup.step(&server.ledger, &mut go_on).expect("reads never fail");
            let Some(pieces) = pieces else {
                let size = file.bytes.len();
                self.backups.keep(take(&mut file), &mut self.dice);
                return self.note(&format!("a backup of {size} bytes is complete"));
            };
            for piece in pieces {
                file.bytes.extend_from_slice(&piece);
            }
        }
        self.backups.under_way = Some((backup, file));
    }

    /// The server comes back as it was at some backup: everything since is lost, and no number
    /// that was given since may be taken for one that is given from now on.
    pub(crate) fn restore(&mut self) {
        let Some(file) = self.backups.complete.choose(&mut self.dice).cloned() else { return };
        self.crash_server(usize::MAX);
        self.consumers.iter_mut().for_each(Consumer::server_went_back);
        let mut epochs = StdRng::seed_from_u64(self.dice.random());
        let mut mint = || Epoch::new(epochs.random::<u64>() | 1).expect("not zero");
        // A store that is new has its own rows already.
        let store = Server::open(MemoryStore::new(), self.kept).ledger.into_store();
        let mut bytes = file.bytes.as_slice();
        let contents = contents(&mut bytes, &mut |_| {}).expect("the server's own file");
        restore(&store, file.bytes.as_slice(), &contents, &mut mint, &mut |_| {})
            .expect("the server's own file");
        store.sync().expect("no fault is planned");
        let server = Server::open(store, self.kept);
        let (heads, follows) = (server.heads(), server.follows());
        let moments = file.states.into_iter().map(Model::in_another_life);
        let state = moments.rev().find(|state| state.is_at(&heads, &follows));
        // G3, G4: all of a commit is in it or nothing, and nothing that was acknowledged before.
        self.model = state.expect("a backup is the state of one moment while it was taken");
        self.maybe = None;
        self.disk = Some(server.ledger.into_store());
        self.note("restore a backup");
        if self.dice.random_bool(0.5) {
            self.start_server();
        }
    }
}
