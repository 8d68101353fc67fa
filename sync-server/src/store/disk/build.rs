//! Builds a store from something else than commits: it is there as a whole, opened again and
//! checked, or it is not there at all.

use std::fs;
use std::path::Path;

use super::super::StoreError;
use super::files::{Files, sync_dir};
use super::swap::{BUILDING, STORE};
use super::{DiskOptions, DiskStore, io_error};

/// Builds a store in `dir`, which must be empty or missing. `fill` writes it; `check` gets it once it
/// was closed and opened again, and gives it back if it is right. Whatever fails, nothing of it
/// stays; after a kill the next attempt, and nobody else, removes what is left.
pub fn build<E: From<StoreError>>(
    dir: &Path,
    options: &DiskOptions,
    fill: impl FnOnce(DiskStore) -> Result<DiskStore, E>,
    check: impl FnOnce(DiskStore) -> Result<DiskStore, E>,
) -> Result<(), E> {
    let files = Files::new(dir)?;
    let _lock = files.lock(options.lock_wait)?;
    files.must_be_empty()?;
    let doing = "building a store";
    let building = files.beside(BUILDING);
    building.remove().map_err(io_error(doing))?;
    let built = build_aside(building.path(), options, fill, check);
    if let Err(error) = built {
        building.remove().map_err(io_error("removing a store that was not completed"))?;
        return Err(error);
    }
    let inner = Files::named(building.path(), STORE);
    inner
        .sync()
        .and_then(|()| fs::rename(inner.path(), files.path()))
        .and_then(|()| sync_dir(files.dir()))
        .and_then(|()| building.remove())
        .map_err(io_error(doing))?;
    Ok(())
}

fn build_aside<E: From<StoreError>>(
    aside: &Path,
    options: &DiskOptions,
    fill: impl FnOnce(DiskStore) -> Result<DiskStore, E>,
    check: impl FnOnce(DiskStore) -> Result<DiskStore, E>,
) -> Result<(), E> {
    let closed = Files::named(aside, STORE);
    fill(DiskStore::open(aside, options)?)?.close()?;
    closed.wait_until_closed(options.lock_wait)?;
    check(DiskStore::open_existing(aside, options)?)?.close()?;
    closed.wait_until_closed(options.lock_wait)?;
    Ok(())
}

// === impl Files ===

impl Files {
    /// Nothing may be there but our own lock, and what an earlier attempt left.
    fn must_be_empty(&self) -> Result<(), StoreError> {
        let doing = "looking into the data directory";
        for entry in fs::read_dir(self.dir()).map_err(io_error(doing))? {
            let name = entry.map_err(io_error(doing))?.file_name();
            if name != "lock" && name != BUILDING {
                return Err(StoreError::NotEmpty { path: self.dir().display().to_string() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
