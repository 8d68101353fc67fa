//! Puts a finished copy in the place of the store. A kill or a power cut at any moment leaves one
//! whole store, and the next start removes or finishes what is left beside it.
//!
//! ```text
//! store      store.copy    the copy is being written
//! store      store.next    it is whole, checked and synced
//!            store.next  store.old    only here the next start has to go on
//! store                  store.old    the copy is the store
//! store
//! ```
//! A start that finds `store` keeps it, also beside `store.next`: a program that knows nothing of
//! copies may have written to it since.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::super::StoreError;
use super::compact::Step;
use super::files::{Files, LOCK_RETRY_EVERY, sync_dir};
use super::io_error;

/// A store that is being built; not a store, but a data directory of its own.
pub(super) const BUILDING: &str = "store.restore";

pub(super) const STORE: &str = "store";
const NEXT: &str = "store.next";
const OLD: &str = "store.old";

/// Directories that no start needs, whatever is in them, once there is a store.
const LEFTOVERS: [&str; 6] = ["store.new", "store.copy", "store.verify", BUILDING, NEXT, OLD];

/// What a start has to do about an exchange that was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recovery {
    /// There is a store, or there never was one.
    None,
    /// The store was moved away and its copy not yet put there.
    Finish,
    /// The store was moved away and there is no copy: not our doing.
    Refuse,
    /// A store was being built: an empty one in its place would be a surprise.
    BuildFirst,
}

// === impl Recovery ===

impl Recovery {
    /// Pure: decides by which of the directories exist.
    fn of(exists: impl Fn(&str) -> bool) -> Self {
        if exists(STORE) {
            Self::None
        } else if exists(NEXT) {
            Self::Finish
        } else if exists(OLD) {
            Self::Refuse
        } else if exists(BUILDING) {
            Self::BuildFirst
        } else {
            Self::None
        }
    }
}

// === impl Files ===

impl Files {
    /// Finishes an exchange that was cut short. Needs the lock.
    pub(super) fn recover(&self) -> Result<(), StoreError> {
        let doing = "finishing the exchange of the store";
        match Recovery::of(|name| self.beside(name).exists()) {
            Recovery::None => {}
            Recovery::Finish => {
                warn!(dir = %self.dir().display(), "finishing an exchange that was cut short");
                self.put(NEXT).map_err(io_error(doing))?;
            }
            Recovery::Refuse => {
                let place = self.dir().join(OLD).display().to_string();
                let reason = "there is no store, only one that was moved away";
                return Err(StoreError::Damaged { place, reason: reason.to_owned() });
            }
            Recovery::BuildFirst => {
                let place = self.beside(BUILDING).path().display().to_string();
                let reason = "restoring was not completed: do it again";
                return Err(StoreError::Damaged { place, reason: reason.to_owned() });
            }
        }
        Ok(())
    }

    /// Removes stores that were never completed, and those that were replaced. Only beside a store
    /// of a format that we know: a newer program may mean something else by these names.
    pub(super) fn remove_others(&self) -> Result<(), StoreError> {
        for other in LEFTOVERS.map(|name| self.beside(name)).iter().filter(|it| it.exists()) {
            warn!(dir = %other.path().display(), "removing what a process that was killed left");
            other.remove().map_err(io_error("removing leftovers of a killed process"))?;
        }
        Ok(())
    }

    /// Whether there is no store, nor one under way to its place.
    pub(super) fn is_missing(&self) -> bool {
        !(self.exists() || self.beside(NEXT).exists() || self.beside(OLD).exists())
    }

    /// Makes `copy`, which must be whole, synced and closed, the store. Needs the lock.
    pub(super) fn swap(&self, copy: &Self, told: &mut dyn FnMut(Step)) -> Result<(), StoreError> {
        let doing = "exchanging the store for its copy";
        self.rename(copy.path(), &self.dir().join(NEXT)).map_err(io_error(doing))?;
        told(Step::Named);
        self.rename(self.path(), &self.dir().join(OLD)).map_err(io_error(doing))?;
        told(Step::MovedAway);
        self.put(NEXT).map_err(io_error(doing))?;
        told(Step::Exchanged);
        self.beside(OLD).remove().map_err(io_error(doing))
    }

    /// Waits until sled has really closed the store: its threads may hold on to files for a moment,
    /// and write by path.
    pub(super) fn wait_until_closed(&self, wait: Duration) -> Result<(), StoreError> {
        let doing = "waiting for the store to close";
        let db = File::open(self.path().join("db")).map_err(io_error(doing))?;
        let started = Instant::now();
        loop {
            match db.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if started.elapsed() < wait => {
                    thread::sleep(LOCK_RETRY_EVERY);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io_error(doing)(io::ErrorKind::TimedOut.into()));
                }
                Err(TryLockError::Error(source)) => return Err(io_error(doing)(source)),
            }
        }
    }

    /// Removes the directory with all that is in it, if it exists.
    pub(super) fn remove(&self) -> io::Result<()> {
        if !self.exists() {
            return Ok(());
        }
        fs::remove_dir_all(self.path())?;
        sync_dir(self.dir())
    }

    /// Bytes of all files of the store.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(self.path())? {
            bytes += entry?.metadata()?.len();
        }
        Ok(bytes)
    }

    fn put(&self, name: &str) -> io::Result<()> {
        self.rename(&self.dir().join(name), self.path())
    }

    /// Each rename is on disk before the next: the picture above has no other rows.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_dir(self.dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_needs_no_more_than_the_picture_says() {
        let of = |there: &[&str]| Recovery::of(|name| there.contains(&name));
        // In the order of the picture, then what only a person can have done.
        assert_eq!(of(&[STORE]), Recovery::None);
        assert_eq!(of(&[STORE, NEXT]), Recovery::None);
        assert_eq!(of(&[NEXT, OLD]), Recovery::Finish);
        assert_eq!(of(&[STORE, OLD]), Recovery::None);
        assert_eq!(of(&[NEXT]), Recovery::Finish);
        assert_eq!(of(&[STORE, NEXT, OLD, BUILDING]), Recovery::None);
        assert_eq!(of(&[OLD]), Recovery::Refuse);
        assert_eq!(of(&[BUILDING]), Recovery::BuildFirst);
        assert_eq!(of(&[]), Recovery::None);
    }
}
