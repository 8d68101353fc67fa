//! The journal: what was applied and is not in sled yet, on disk (write-ahead logging, Mohan et
//! al., ARIES, 1992). A commit costs one write at the end of a file and one sync; sled gets the
//! rows later, many commits at a time, beside the next commits.
//!
//! Its two files, `store/journal-0` and `store/journal-1`, hold records (see `record`), and old bytes
//! behind the last one. They are written in turn: one takes records while those of the other are
//! folded, and is written from its beginning again once they are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;

use super::super::StoreError;
use super::files::{Files, sync_dir};
use super::overlay::Rows;
use super::{io_error, real_sync};

use self::record::{Record, encode, records};

mod record;
#[cfg(test)]
mod tests;

const NAMES: [&str; 2] = ["journal-0", "journal-1"];

/// A file grows by what it has, but by no less and no more than this. Growing costs the file system
/// a commit of its own; writing where zeros lie already does not.
const GROW_BYTES_MIN: u64 = 256 * 1024;
const GROW_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The open files, ready for the next record.
#[derive(Debug)]
pub(super) struct Journal {
    store: u128,
    life: u64,
    slots: [Slot; 2],
    current: usize,
    /// Where the next record goes.
    end: u64,
    unsynced: bool,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    file: File,
    /// Bytes that the file has.
    len: u64,
}

/// What a journal holds that sled does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// The rows, the newest word about each.
    pub(super) rows: Rows,
    /// Sequence of the last record, or what sled holds.
    pub(super) through: u64,
}

// === impl Journal ===

impl Journal {
    /// Opens the journal of `store`, or creates it, and reads what is behind `folded`, the last
    /// sequence that sled has. The first record overwrites what was read: it must be in sled, synced,
    /// by then.
    pub(super) fn open(
        files: &Files,
        store: u128,
        folded: u64,
    ) -> Result<(Self, Replay), StoreError> {
        let doing = "opening the journal";
        let open = |name: &str| -> io::Result<(Slot, Vec<Record>)> {
            let path = files.path().join(name);
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let len = bytes.len() as u64;
            Ok((Slot { file, len }, records(store, &Bytes::from(bytes))))
        };
        let (first, mut all) = open(NAMES[0]).map_err(io_error(doing))?;
        let (second, others) = open(NAMES[1]).map_err(io_error(doing))?;
        sync_dir(files.path()).map_err(io_error(doing))?;
        all.extend(others);
        let replay = Replay::of(all, folded).map_err(|reason| files.damaged("journal", &reason))?;
        let (slots, life) = ([first, second], rand::random());
        let journal =
            Self { store, life, slots, current: 0, end: 0, unsynced: false, buffer: Vec::new() };
        Ok((journal, replay))
    }

    /// Writes the changes of a batch behind the last one, not synced.
    pub(super) fn append(
        &mut self,
        sequence: u64,
        rows: &[(Vec<u8>, Option<Bytes>)],
    ) -> io::Result<()> {
        self.buffer.clear();
        encode(&mut self.buffer, self.store, self.life, sequence, rows);
        let end = self.end + self.buffer.len() as u64;
        self.unsynced = true;
        let slot = &mut self.slots[self.current];
        slot.reach(end)?;
        slot.file.write_all_at(&self.buffer, self.end)?;
        self.end = end;
        Ok(())
    }

    /// Makes every record survive a power cut.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            real_sync::data(&self.slots[self.current].file)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Goes on in the other file, whose records must all be in sled. Those of this one are synced:
    /// nothing reaches sled that the journal could lose.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        self.sync()?;
        self.current = 1 - self.current;
        self.end = 0;
        Ok(())
    }
}

// === impl Slot ===

impl Slot {
    /// Makes the file at least so long.
    fn reach(&mut self, end: u64) -> io::Result<()> {
        if end > self.len {
            let grown = self.len + self.len.clamp(GROW_BYTES_MIN, GROW_BYTES_MAX);
            let grown = grown.max(end);
            let zeros = vec![0; usize::try_from(grown - self.len).expect("a batch is in memory")];
            self.file.write_all_at(&zeros, self.len)?;
            self.len = grown;
        }
        Ok(())
    }
}

// === impl Replay ===

impl Replay {
    /// Puts records together, which must follow each other without a gap from `folded` on.
    fn of(mut records: Vec<Record>, folded: u64) -> Result<Self, String> {
        records.sort_by_key(|record| record.sequence);
        let mut replay = Self { rows: Rows::new(), through: folded };
        for Record { sequence, rows, .. } in records {
            if sequence <= replay.through {
                continue;
            }
            if sequence != replay.through + 1 {
                let through = replay.through;
                return Err(format!("batch {sequence} is there, but none behind {through}"));
            }
            replay.through = sequence;
            replay.rows.extend(rows);
        }
        Ok(replay)
    }
}

// === impl Files ===

impl Files {
    /// Bytes of the journal's files.
    pub(super) fn journal_bytes(&self) -> u64 {
        let paths: [PathBuf; 2] = NAMES.map(|name| self.path().join(name));
        paths.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
    }
}

const _: () = assert!(super::super::KEY_BYTES_MAX * 2 < u16::MAX as usize);
