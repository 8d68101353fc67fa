//! The file of a store: opened, set aside when it is damaged, opened again after a failure. A copy
//! can be fetched again, so a file that cannot be trusted costs a load and nothing else; it is
//! kept beside the new one, for whoever wants to look. One that may not be written shows what is in it.

use std::fs::OpenOptions;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _,
    StorageError, WriteTransaction,
};

use super::failed;
use super::layout::{prepare, see_format};
use crate::store::StoreError;

/// An open file, or one that could not be opened again yet.
pub(super) struct File {
    /// `None` = a database of the application, which alone can open it.
    path: Option<PathBuf>,
    database: RwLock<Option<Opened>>,
    trouble: Mutex<Option<Trouble>>,
    /// How often rows were lost.
    lives: AtomicU64,
}

/// What may be done with the file.
#[derive(Clone)]
enum Opened {
    Everything(Arc<Database>),
    /// Its disk takes no writes, or this process may not write it.
    Reading(Arc<ReadOnlyDatabase>),
}

/// Why the file has to be opened again.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    damaged: bool,
    /// No attempt before.
    not_before: Instant,
}

/// Between two attempts to open the file again: each may read all of it.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
const OPENING: &str = "opening the local store";
/// What a damaged file is called then. One is kept: damage that repeats must not fill the disk.
const DAMAGED: &str = "damaged";
/// What the engine found in the file, as opposed to in a row.
pub(super) const THE_FILE: &str = "the file";

// === impl File ===

impl File {
    pub(super) fn of(database: Arc<Database>) -> Result<Self, StoreError> {
        prepare(&database)?;
        Ok(Self::new(None, Opened::Everything(database)))
    }

    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let (database, lost) = open_or_begin(path)?;
        let file = Self::new(Some(path.to_owned()), database);
        file.lives.store(u64::from(lost), Ordering::Relaxed);
        Ok(file)
    }

    fn new(path: Option<PathBuf>, database: Opened) -> Self {
        let (trouble, lives) = (Mutex::new(None), AtomicU64::new(0));
        Self { path, database: RwLock::new(Some(database)), trouble, lives }
    }

    /// How often rows in it were lost: those that did not wait for the disk, or all of them.
    pub(super) fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    pub(super) fn begin_read(&self, doing: &'static str) -> Result<ReadTransaction, StoreError> {
        let begun = match self.database()? {
            Opened::Everything(database) => database.begin_read(),
            Opened::Reading(database) => database.begin_read(),
        };
        begun.map_err(failed(doing))
    }

    /// Of a file that may only be read, tries whether that is still so.
    pub(super) fn begin_write(&self, doing: &'static str) -> Result<WriteTransaction, StoreError> {
        let mut database = self.database()?;
        if matches!(database, Opened::Reading(_)) && self.may_be_written() {
            let not_before = Instant::now();
            *self.trouble.lock() = Some(Trouble { damaged: false, not_before });
            database = self.database()?;
        }
        match database {
            Opened::Everything(database) => database.begin_write().map_err(failed(doing)),
            Opened::Reading(_) => Err(StoreError::ReadOnly),
        }
    }

    fn may_be_written(&self) -> bool {
        self.path.as_ref().is_some_and(|path| OpenOptions::new().write(true).open(path).is_ok())
    }

    /// The database; opened again first, if that is needed. The engine refuses everything after
    /// a failure, so that is the only way on.
    fn database(&self) -> Result<Opened, StoreError> {
        if self.trouble.lock().is_some() {
            self.reopen()?;
        }
        self.database.read().clone().ok_or_else(closed)
    }

    /// Carries out an operation, and learns from what it came to. The engine was seen to panic on
    /// damage; what it holds then is given up with the file.
    pub(super) fn watch<T>(
        &self,
        operation: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let outcome = catch_unwind(AssertUnwindSafe(operation));
        let outcome = outcome.unwrap_or(Err(StoreError::Damaged { place: THE_FILE }));
        let damaged = match &outcome {
            Err(StoreError::Io { .. }) => false,
            Err(StoreError::Damaged { place: THE_FILE }) => true,
            Ok(_) | Err(_) => return outcome,
        };
        let mut trouble = self.trouble.lock();
        let damaged = damaged || trouble.is_some_and(|before| before.damaged);
        let not_before = trouble.map_or_else(Instant::now, |before| before.not_before);
        *trouble = Some(Trouble { damaged, not_before });
        outcome
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut trouble = self.trouble.lock();
        let (Some(found), Some(path)) = (*trouble, &self.path) else { return Ok(()) };
        if Instant::now() < found.not_before {
            return Err(closed());
        }
        *trouble = Some(Trouble { not_before: Instant::now() + REOPEN_EVERY, ..found });
        // Its lock is free when the last reader has gone, too.
        *self.database.write() = None;
        if found.damaged {
            set_aside(path)?;
        }
        let (database, _) = open_or_begin(path)?;
        // At the least, what did not wait for the disk is lost.
        self.lives.fetch_add(1, Ordering::Relaxed);
        *self.database.write() = Some(database);
        *trouble = None;
        tracing::info!("the local store was opened again");
        Ok(())
    }
}

/// Opens the file, or creates it; a damaged one is set aside first, and `true` returned.
fn open_or_begin(path: &Path) -> Result<(Opened, bool), StoreError> {
    match open(path) {
        Err(StoreError::Damaged { place }) => {
            tracing::error!(place, "the local store is damaged: it is set aside, and begun anew");
            set_aside(path)?;
            Ok((open(path)?, true))
        }
        opened => Ok((opened?, false)),
    }
}

fn open(path: &Path) -> Result<Opened, StoreError> {
    // The engine was seen to panic on damage.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = match Database::create(path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse),
            Err(DatabaseError::Storage(StorageError::Io(error))) if is_refusal(&error) => {
                let refused = DatabaseError::Storage(StorageError::Io(error));
                return open_to_read(path)?.ok_or_else(|| failed(OPENING)(refused));
            }
            Err(DatabaseError::Storage(StorageError::Io(error))) if is_damage(&error) => {
                return Err(StoreError::Damaged { place: THE_FILE });
            }
            Err(DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted) => {
                return Err(StoreError::Damaged { place: THE_FILE });
            }
            Err(other) => return Err(failed(OPENING)(other)),
        };
        prepare(&database)?;
        Ok(Opened::Everything(Arc::new(database)))
    }));
    opened.unwrap_or(Err(StoreError::Damaged { place: THE_FILE }))
}

/// `None` = there is no file, or one that was not closed, or is damaged: to put that right is to write,
/// and nobody sets a file aside that he may not write.
fn open_to_read(path: &Path) -> Result<Option<Opened>, StoreError> {
    let opened = catch_unwind(|| {
        let database = ReadOnlyDatabase::open(path).ok()?;
        Some(see_format(&database).map(|()| database))
    });
    let database = match opened {
        Ok(Some(Ok(database))) => database,
        Ok(Some(Err(newer @ StoreError::NewerFormat { .. }))) => return Err(newer),
        Ok(Some(Err(_)) | None) | Err(_) => return Ok(None),
    };
    tracing::warn!("the local store may only be read: what is in it is shown, and stays as it is");
    Ok(Some(Opened::Reading(Arc::new(database))))
}

/// Somebody does not want this file to be written.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// What the disk brought is not what was written.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn set_aside(path: &Path) -> Result<(), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(DAMAGED);
    let moved = std::fs::rename(path, PathBuf::from(name));
    moved.map_err(|error| StoreError::Io {
        doing: "setting a damaged local store aside",
        source: error.into(),
    })
}

fn closed() -> StoreError {
    StoreError::Io {
        doing: "opening the local store again",
        source: "the last attempt failed".into(),
    }
}
