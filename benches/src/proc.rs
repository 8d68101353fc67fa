//! What the kernel says of a process, read from the texts of `/proc`. Pure: no store, no clock, no
//! async.

use std::time::Duration;

/// Ticks of the processor's time in `/proc`, a second: fixed on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Bytes of the unit that `/proc` calls `kB`.
const KIB: u64 = 1024;

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Who started it.
    pub parent: u32,
    /// Time of processors, its own.
    pub own: Duration,
    /// Time of processors, of children that ended and were waited for.
    pub waited_for: Duration,
}

// === impl Stat ===

impl Stat {
    /// Reads `/proc/PID/stat`. The name in brackets may hold anything, also brackets and blanks.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND);
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: time(ticks(11)? + ticks(12)?),
            waited_for: time(ticks(13)? + ticks(14)?),
        })
    }
}

/// Bytes of a line like `VmRSS:   1234 kB` of `/proc/PID/status` or `smaps_rollup`.
#[must_use]
pub fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number = line.trim().strip_suffix("kB")?.trim();
    Some(number.parse::<u64>().ok()? * KIB)
}

/// The file system of a path, by `/proc/mounts`: the deepest mount above it; later lines hide
/// earlier ones. Its type, and where it comes from.
#[must_use]
pub fn file_system<'a>(mounts: &'a str, path: &str) -> Option<(&'a str, &'a str)> {
    let above = |mount: &str| {
        mount == "/"
            || path == mount
            || path.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'))
    };
    let lines = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (source, mount, kind) = (words.next()?, words.next()?, words.next()?);
        above(mount).then_some((mount.len(), kind, source))
    });
    lines.max_by_key(|(depth, ..)| *depth).map(|(_, kind, source)| (kind, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_behind_the_name() {
        let text = "12 (a) b) S 7 1 1 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 99";
        let stat = Stat::read(text).unwrap();
        assert_eq!(stat.parent, 7);
        assert_eq!(stat.own, Duration::from_secs(2));
        assert_eq!(stat.waited_for, Duration::from_millis(500));
        assert_eq!(Stat::read("12 (a) S 7"), None);
    }

    #[test]
    fn a_line_of_bytes_is_found_by_its_whole_name() {
        let text = "VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        assert_eq!(bytes_of(text, "VmRSS"), Some(1024 * 1024));
        assert_eq!(bytes_of(text, "Vm"), None);
        assert_eq!(bytes_of(text, "Threads"), None);
    }

    #[test]
    fn the_deepest_mount_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(file_system(mounts, "/tmp/a"), Some(("tmpfs", "tmpfs")));
        assert_eq!(file_system(mounts, "/tmpfile"), Some(("ext4", "/dev/vda")));
    }
}
