//! The low-disk watermark: writes are refused while the store is still whole, because a disk
//! that is really full ends the process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::StoreError;

/// An answer is good for so long. A disk that takes 1 GB/s fills by 100 MB meanwhile, well
/// below the default watermark.
const ANSWER_AGE_MAX: Duration = Duration::from_millis(100);

/// Knows whether the disk has room.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    free_bytes_min: u64,
    /// Last answer, and when it was given.
    last: Mutex<Option<(Instant, u64)>>,
}

// === impl Space ===

impl Space {
    pub(super) fn new(dir: &Path, free_bytes_min: u64) -> Self {
        Self { dir: dir.to_owned(), free_bytes_min, last: Mutex::new(None) }
    }

    pub(super) fn room(&self) -> Result<(), StoreError> {
        let free = self.free_bytes()?;
        if free < self.free_bytes_min {
            return Err(StoreError::Full { free, wanted: self.free_bytes_min });
        }
        Ok(())
    }

    /// Whether `bytes` more can be written without going below the watermark.
    pub(super) fn room_for(&self, bytes: u64) -> Result<(), StoreError> {
        let free = self.free_bytes()?;
        if free.saturating_sub(self.free_bytes_min) < bytes {
            return Err(StoreError::NoRoom { free, needed: bytes, kept: self.free_bytes_min });
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        let mut last = self.last.lock();
        if let Some((at, free)) = *last
            && at.elapsed() < ANSWER_AGE_MAX
        {
            return Ok(free);
        }
        let free = fs2::available_space(&self.dir)
            .map_err(|source| StoreError::Io { doing: "asking for free space", source })?;
        *last = Some((Instant::now(), free));
        Ok(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_below_the_watermark_is_full() {
        let dir = tempfile::tempdir().unwrap();
        Space::new(dir.path(), 0).room().unwrap();
        let full = Space::new(dir.path(), u64::MAX).room();
        assert!(matches!(full, Err(StoreError::Full { wanted: u64::MAX, .. })));
    }

    #[test]
    fn the_system_is_not_asked_at_every_call() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), 0);
        space.room().unwrap();
        dir.close().unwrap();
        space.room().unwrap();
        *space.last.lock() = None;
        assert!(matches!(space.room(), Err(StoreError::Io { .. })));
    }
}
