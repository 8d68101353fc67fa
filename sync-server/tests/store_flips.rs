//! One flipped bit anywhere in the files of a store: it opens with every row as it was, or it
//! refuses to open, but it never serves something else (G3, G5). sled alone opened 46 of 200
//! such stores silently at an older state. `DELTASYNC_SEED` replays the flips,
//! `DELTASYNC_CASES` sets their number.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use sync_server::store::disk::{DiskOptions, DiskStore};
use sync_server::store::{Batch, Direction, KeyRange, Store};
use tempfile::TempDir;

const CASES: u64 = 8;

/// Names the data directory that the other process opens: damage can break sled's threads for
/// a whole process, so each flip gets its own.
const CHILD_DIR: &str = "DELTASYNC_FLIP_DIR";

/// No start of such a small store takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVED: &str = "served ";
const REFUSED: &str = "refused ";

fn options() -> DiskOptions {
    let lock_wait = Duration::from_secs(5);
    DiskOptions { cache_bytes: 4 << 20, free_bytes_min: 0, lock_wait }
}

/// A store with a past: rows that were replaced, removed, merged and moved, and a restart, after
/// which sled has both a snapshot and a log.
fn fill(dir: &Path, dice: &mut SmallRng) {
    for _ in 0..2 {
        write(&DiskStore::open(dir, &options()).unwrap(), dice);
    }
}

fn write(store: &DiskStore, dice: &mut SmallRng) {
    for _ in 0..100 {
        let mut batch = Batch::default();
        for _ in 0..dice.random_range(1..60) {
            let key = dice.random_range(0..3_000_u32).to_be_bytes().to_vec();
            if dice.random_bool(0.3) {
                batch.remove(key);
            } else {
                let len = if dice.random_bool(0.01) { 40_000 } else { dice.random_range(0..300) };
                let mut value = vec![0; len];
                dice.fill_bytes(&mut value);
                batch.put(key, value.into());
            }
        }
        store.apply(&batch).unwrap();
        store.sync().unwrap();
    }
}

/// A checksum over all rows.
fn digest(store: &DiskStore) -> u32 {
    let mut digest = crc32fast::Hasher::new();
    let visit = &mut |key: &[u8], value: Bytes| {
        digest.update(&u32::try_from(key.len()).unwrap().to_be_bytes());
        digest.update(key);
        digest.update(&u32::try_from(value.len()).unwrap().to_be_bytes());
        digest.update(&value);
        ControlFlow::Continue(())
    };
    store.scan(&KeyRange::prefix(&[]), Direction::Forward, visit).unwrap();
    digest.finalize()
}

/// The other process; without its variable, as in a plain test run, there is nothing to do.
#[test]
fn opens_and_reports() {
    let Some(dir) = env::var_os(CHILD_DIR) else { return };
    let report = match DiskStore::open(Path::new(&dir), &options()) {
        Ok(store) => format!("{SERVED}{}", digest(&store)),
        Err(error) => format!("{REFUSED}{error}"),
    };
    fs::write(Path::new(&dir).join("report"), report).unwrap();
}

fn report(dir: &Path) -> String {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "opens_and_reports"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return "hung".into();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::read_to_string(dir.join("report")).unwrap_or("ended without a word".into())
}

fn copy(from: &Path, to: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            files.extend(copy(&entry.path(), &to));
        } else {
            fs::copy(entry.path(), &to).unwrap();
            files.push(to);
        }
    }
    files.sort();
    files
}

/// Flips a bit in a file of `files`; bits of the file with the rows are the most.
fn flip(files: &[PathBuf], dice: &mut SmallRng) -> String {
    let db = files.iter().position(|file| file.ends_with("db")).unwrap();
    let file = if dice.random_bool(0.8) { db } else { dice.random_range(0..files.len()) };
    let mut bytes = fs::read(&files[file]).unwrap();
    let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { return "nothing".into() };
    let at = dice.random_range(0..=last);
    bytes[at] ^= 1 << dice.random_range(0..8);
    fs::write(&files[file], bytes).unwrap();
    format!("{} at {at} of {last}", files[file].file_name().unwrap().display())
}

#[test]
fn a_flipped_bit_is_never_served() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("DELTASYNC_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    eprintln!("DELTASYNC_SEED={seed}");
    let mut dice = SmallRng::seed_from_u64(seed);
    let whole = TempDir::new().unwrap();
    fill(whole.path(), &mut dice);
    let control = TempDir::new().unwrap();
    copy(whole.path(), control.path());
    let expected = report(control.path());
    assert!(expected.starts_with(SERVED), "{expected}");

    let mut outcomes = BTreeMap::new();
    for _ in 0..number("DELTASYNC_CASES").unwrap_or(CASES) {
        let dir = TempDir::new().unwrap();
        let files = copy(whole.path(), dir.path());
        let what = flip(&files, &mut dice);
        let outcome = report(dir.path());
        assert!(outcome == expected || !outcome.starts_with(SERVED), "{what}: {outcome}");
        let kind = outcome.split(&[' ', ':'][..]).take(4).collect::<Vec<_>>().join(" ");
        *outcomes.entry(kind).or_insert(0) += 1;
        eprintln!("{what}: {outcome}");
    }
    eprintln!("{outcomes:#?}");
}
