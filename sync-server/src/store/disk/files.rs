//! The data directory: one process at a time, a store that exists as a whole or not at all,
//! leftovers of killed starts, and sled's own `open` with its habits.
//!
//! ```text
//! DIR/lock          held as long as the store is open
//! DIR/store.new/    a store being created; renamed when it is complete and synced
//! DIR/store.*/      a store being exchanged for its copy: see `swap`
//! DIR/store/        format · high-water · journal-0, -1 · and sled's own: conf, db, snap.*, blobs/
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::super::StoreError;
use super::handle::Handle;
use super::high_water::HighWater;
use super::layout::{self, Ledger, STATE_KEY};
use super::swap::STORE;
use super::waker::Waker;
use super::{DiskOptions, io_error, sled_error};

/// How often a lock that another process holds is tried again.
pub(super) const LOCK_RETRY_EVERY: Duration = Duration::from_millis(20);

/// Threads of this name do what `catch` was asked to do: their panics are caught as well.
pub(super) const WORKER: &str = "store-verify";

/// Who replaces the panic hook puts the old one back before the next one comes.
static HOOK: Mutex<()> = Mutex::new(());

/// Names in the data directory.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
    store: PathBuf,
}

// === impl Files ===

impl Files {
    /// Makes sure that the data directory exists.
    pub(super) fn new(dir: &Path) -> Result<Self, StoreError> {
        let doing = io_error("creating the data directory");
        let new = !dir.exists();
        fs::create_dir_all(dir)
            .and_then(|()| if new { sync_parent(dir) } else { Ok(()) })
            .map_err(doing)?;
        Ok(Self::named(dir, STORE))
    }

    /// A data directory that must be there already.
    pub(super) fn existing(dir: &Path) -> Result<Self, StoreError> {
        let files = Self::named(dir, STORE);
        if files.is_missing() {
            return Err(StoreError::Missing { path: dir.display().to_string() });
        }
        Ok(files)
    }

    /// Another store in the same data directory.
    pub(super) fn beside(&self, name: &str) -> Self {
        Self::named(&self.dir, name)
    }

    /// A store of that name in a directory.
    pub(super) fn named(dir: &Path, name: &str) -> Self {
        Self { dir: dir.to_owned(), store: dir.join(name) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the store itself.
    pub(super) fn path(&self) -> &Path {
        &self.store
    }

    pub(super) fn exists(&self) -> bool {
        self.store.exists()
    }

    pub(super) fn high_water(&self) -> PathBuf {
        self.store.join("high-water")
    }

    /// Takes the directory for this process. A process that was just killed lets go of its
    /// files a moment after its parent knows, so waiting a little is part of a restart.
    pub(super) fn lock(&self, wait: Duration) -> Result<File, StoreError> {
        let open =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.dir.join("lock"));
        let lock = open.map_err(io_error("opening the lock file"))?;
        let started = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if started.elapsed() < wait => {
                    thread::sleep(LOCK_RETRY_EVERY);
                }
                Err(TryLockError::WouldBlock) => return Err(self.in_use()),
                Err(TryLockError::Error(source)) => return Err(io_error("locking")(source)),
            }
        }
    }

    /// Creates the store unless it exists. The new one appears by a rename, so a kill or a
    /// power cut leaves either nothing or a store with all its parts.
    pub(super) fn create(&self, options: &DiskOptions) -> Result<(), StoreError> {
        if self.exists() {
            return Ok(());
        }
        let doing = "creating the store";
        let new = self.beside("store.new");
        new.remove().map_err(io_error(doing))?;
        new.create_dir()?;
        let ledger = Ledger::new(rand::random());
        new.create_parts(&ledger, options, &mut |_| Ok(()))?;
        new.sync()
            .and_then(|()| fs::rename(&new.store, &self.store))
            .and_then(|()| sync_dir(&self.dir))
            .map_err(io_error(doing))
    }

    pub(super) fn create_dir(&self) -> Result<(), StoreError> {
        fs::create_dir(&self.store).map_err(io_error("creating the store"))
    }

    /// Writes a whole store: what `fill` writes, the ledger row last, and the files beside.
    pub(super) fn create_parts(
        &self,
        ledger: &Ledger,
        options: &DiskOptions,
        fill: &mut dyn FnMut(&sled::Db) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let doing = "creating the store";
        let db = self.open_sled(options)?;
        fill(&db)?;
        db.insert(STATE_KEY, ledger.encode()).map_err(|error| sled_error(doing, error))?;
        Waker::start(db.clone())?.flush(&db).map_err(|error| sled_error(doing, error))?;
        drop(db);
        self.wait_until_closed(options.lock_wait)?;
        HighWater::create(&self.high_water(), ledger.mark()).map_err(io_error(doing))?;
        let mut format = File::create_new(self.format()).map_err(io_error(doing))?;
        writeln!(format, "{}", layout::FORMAT).map_err(io_error(doing))
    }

    /// Refuses what a newer program wrote, before anything touches it.
    pub(super) fn check_format(&self) -> Result<(), StoreError> {
        let text = match fs::read(self.format()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            text => text.map_err(io_error("reading the format number"))?,
        };
        let known = layout::FORMAT;
        match String::from_utf8_lossy(&text).trim().parse::<u32>() {
            Ok(found) if found > known => Err(StoreError::NewerFormat { found, known }),
            Ok(1..) => Ok(()),
            _ => Err(self.damaged("format", "no format number: this is not a whole store")),
        }
    }

    /// Says that older programs must not open the store any more. It must be of a format that
    /// [`check_format`](Self::check_format) let through.
    pub(super) fn adopt_format(&self) -> io::Result<()> {
        let current = format!("{}\n", layout::FORMAT);
        if fs::read(self.format())? == current.as_bytes() {
            return Ok(());
        }
        let new = self.store.join("format.new");
        let mut file = File::create(&new)?;
        file.write_all(current.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.format())?;
        sync_dir(&self.store)
    }

    /// Removes what a start that was killed leaves behind. sled takes an unfinished snapshot
    /// for its newest one and refuses to open for ever; the snapshot before it is still there.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        let doing = "removing leftovers of a killed start";
        for entry in fs::read_dir(&self.store).map_err(io_error(doing))? {
            let path = entry.map_err(io_error(doing))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                warn!(file = %path.display(), "removing an unfinished snapshot");
                fs::remove_file(&path).map_err(io_error(doing))?;
            }
        }
        Ok(())
    }

    /// Opens sled.
    pub(super) fn open_sled(&self, options: &DiskOptions) -> Result<Handle, StoreError> {
        let config = sled::Config::new()
            .path(&self.store)
            .segment_size(layout::SEGMENT_BYTES)
            .cache_capacity(options.cache_bytes)
            .use_compression(false)
            // Its background thread syncs as well and drops the errors, and Linux reports a
            // failed write-back once: our sync, a moment later, would call lost pages safe.
            .flush_every_ms(None);
        let started = Instant::now();
        loop {
            match self.catch(|| config.open())? {
                Err(sled::Error::Io(error)) if is_locked(&error) => {
                    if started.elapsed() >= options.lock_wait {
                        return Err(self.in_use());
                    }
                    thread::sleep(LOCK_RETRY_EVERY);
                }
                opened => {
                    return opened.map(Handle::new).map_err(|error| sled_error("opening", error));
                }
            }
        }
    }

    /// Runs `work` on files that may be damaged; sled's panics become errors.
    pub(super) fn catch<T>(&self, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        quietly(work).map_err(|place| self.damaged("db", &format!("sled panics at {place}")))
    }

    /// Syncs every file of the store and the directories that name them.
    pub(super) fn sync(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.store)? {
            File::open(entry?.path())?.sync_all()?;
        }
        sync_dir(&self.store)
    }

    /// Files in `blobs/`, which sled never syncs.
    pub(super) fn unsynced_files(&self) -> io::Result<u64> {
        match fs::read_dir(self.store.join("blobs")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            files => Ok(files?.count() as u64),
        }
    }

    /// `StoreError::Damaged` for a file of the store.
    pub(super) fn damaged(&self, file: &str, reason: &str) -> StoreError {
        let place = self.store.join(file).display().to_string();
        StoreError::Damaged { place, reason: reason.to_owned() }
    }

    fn format(&self) -> PathBuf {
        self.store.join("format")
    }

    fn in_use(&self) -> StoreError {
        StoreError::InUse { path: self.dir.display().to_string() }
    }
}

/// Runs `work` of sled's; a panic in it becomes the place in the code. It is not printed as if
/// the program had crashed, and its message, which often has rows in it, goes nowhere: for as
/// long as `work` runs, the panic hook leaves this thread out. A thread that panics already, and lets
/// go of the store by that, may not touch the hook: it would end the process.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    if thread::panicking() {
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        return result.map_err(|_| "while the thread panics".to_owned());
    }
    let _alone = HOOK.lock();
    let before: Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> = panic::take_hook().into();
    let others = before.clone();
    let worker = thread::current().id();
    let place = Arc::new(Mutex::new(String::new()));
    let noted = place.clone();
    panic::set_hook(Box::new(move |info| {
        let current = thread::current();
        if current.id() != worker && current.name() != Some(WORKER) {
            others(info);
        } else if let Some(at) = info.location() {
            let file = Path::new(at.file()).file_name().unwrap_or_default();
            *noted.lock() = format!("{}:{}", file.display(), at.line());
        }
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    drop(panic::take_hook());
    panic::set_hook(Box::new(move |info| before(info)));
    result.map_err(|_| mem::take(&mut *place.lock()))
}

/// sled reports a lock that another process holds as an error of no kind.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}
