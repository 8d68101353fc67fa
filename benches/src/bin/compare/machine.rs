//! Where this runs, and what its disk takes for one write that is synced: the bound of every commit.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use sync_benches::proc::{bytes_of, file_system};
use sync_benches::report::Machine;

use crate::failure::{Outcome, io};
use crate::system::VALUE_BYTES;

/// Size of the file that is written in place.
const IN_PLACE_BYTES: usize = 1024 * 1024;

/// What the kernel says.
pub(crate) fn machine(dir: &Path) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let name =
        processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().and_then(|word| word.parse().ok());
    let mounts = read("/proc/mounts");
    let place = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let system = file_system(&mounts, &place.to_string_lossy());
    Machine {
        processor: name.map_or("unknown processor", |(_, name)| name).to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: bytes_of(&read("/proc/meminfo"), "MemTotal").unwrap_or(0) / (1024 * 1024),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        file_system: system
            .map_or_else(|| "unknown".to_owned(), |(kind, from)| format!("{kind} on {from}")),
        load: load.unwrap_or(0.0),
    }
}

/// How a file is written when nothing but the disk is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bare {
    /// At its end: the file grows, so the file system has its own things to sync.
    Append,
    /// Where it has been written before: the least that a disk can be asked for.
    InPlace,
}

/// Writes values to a file and syncs each; the latencies in microseconds.
pub(crate) fn bare_syncs(dir: &Path, how: Bare, time: Duration) -> Outcome<Vec<u32>> {
    let doing = "write and sync a file";
    let mut file = File::create(dir.join("bare")).map_err(io(doing))?;
    if matches!(how, Bare::InPlace) {
        file.write_all(&vec![1; IN_PLACE_BYTES]).map_err(io(doing))?;
        file.sync_all().map_err(io(doing))?;
    }
    let mut latencies = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let one = Instant::now();
        let place = latencies.len() % (IN_PLACE_BYTES / VALUE_BYTES) * VALUE_BYTES;
        match how {
            Bare::Append => file.write_all(&[7; VALUE_BYTES]),
            Bare::InPlace => file.write_all_at(&[7; VALUE_BYTES], place as u64),
        }
        .map_err(io(doing))?;
        file.sync_data().map_err(io(doing))?;
        latencies.push(u32::try_from(one.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}
