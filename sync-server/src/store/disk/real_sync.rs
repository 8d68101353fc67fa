//! Makes sled's sync a sync. On Linux sled 0.34 calls `sync_file_range`, which starts writing
//! and promises nothing. This file defines that C symbol for the whole program, so the linker
//! never looks into libc for it, and does what sled believes the call does.
//!
//! Syncing a second descriptor after sled's `flush` would protect acknowledged writes as well,
//! but not sled itself: it reuses the segments of replaced pages as soon as it believes the
//! newer pages to be stable, so a power cut between that and our sync could leave neither.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Real syncs of this process. [`DiskStore`](super::DiskStore) checks that it grows with every
/// sync, so a build in which the symbol is not used stops at the first write.
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// How many real syncs there were; `None` where sled calls a real sync by itself.
pub(super) fn count() -> Option<u64> {
    cfg!(target_os = "linux").then(|| SYNCS.load(Ordering::Acquire))
}

/// Syncs what was written to `file`, for us: of sled's syncs alone [`count`] tells.
pub(super) fn data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    tests::fail_if_told(file)?;
    file.sync_data()
}

#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "sled 0.34 offers no other way to put a real sync where it believes there is one"
)]
mod symbol {
    use std::ffi::{c_int, c_uint};
    use std::sync::atomic::Ordering;

    unsafe extern "C" {
        fn fdatasync(fd: c_int) -> c_int;
    }

    /// Same signature and same way to fail (-1 and `errno`) as the function that it replaces.
    #[unsafe(no_mangle)]
    extern "C" fn sync_file_range(fd: c_int, _: i64, _: i64, _: c_uint) -> c_int {
        #[cfg(test)]
        let fd = super::tests::fd_or_failure(fd);
        // SAFETY: fdatasync takes any number and touches no memory of ours; the caller's
        // descriptor is open for the whole call because sled holds the file.
        let result = unsafe { fdatasync(fd) };
        if result == 0 {
            super::SYNCS.fetch_add(1, Ordering::Release);
        }
        result
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::io::{self, ErrorKind};
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    /// The next sync of a file under one of these fails.
    static FAILING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    pub(in super::super) fn fail_one_sync_under(dir: &Path) {
        FAILING.lock().push(dir.canonicalize().unwrap());
    }

    pub(super) fn fail_if_told(file: &File) -> io::Result<()> {
        if fd_or_failure(file.as_raw_fd()) == -1 { Err(ErrorKind::Other.into()) } else { Ok(()) }
    }

    /// A disk takes its time to fail: long enough for sled to wait for it.
    pub(super) fn fd_or_failure(fd: i32) -> i32 {
        let file = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        let failing = |failing: &mut Vec<PathBuf>| {
            let found = failing.iter().position(|dir| file.starts_with(dir))?;
            Some(failing.swap_remove(found))
        };
        if failing(&mut FAILING.lock()).is_none() {
            return fd;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        -1
    }
}
