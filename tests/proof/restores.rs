//! `sync-server restore` is killed at an exact system call, half of the time with a power cut:
//! what it leaves is the whole store or none, a start says which, and the next restore works.
//! `DELTASYNC_RESTORE_KILLS=all` enumerates every call, a number tries so many of each kind.

use std::fs;
use std::path::Path;

use rand::RngExt as _;
use sync_tests::backup;
use sync_tests::process::Program;
use sync_tests::reader::Copy;
use sync_tests::seed::dice;
use sync_tests::traffic::Traffic;
use sync_tests::traffic::plan::{COLLECTIONS, Values};
use sync_tests::wire::Wire;

use crate::SERVER;
use crate::machine::{Cut, Disk, lacks, run};
use crate::tracer::{Fault, KILL};
use sync_tests::report::{not_run, report};

/// Kills at each kind of call when the environment does not say.
const KILLS: u64 = 1;

/// Of one kind at most so many: a restore of a small backup makes fewer.
const KILLS_MAX: u64 = 60;

const CALLS: [&str; 8] =
    ["mkdir", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate"];

/// G3, G4: a restore that dies leaves no half a store that anybody would be served from.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_is_whole_or_refused() {
    if let Some(why) = lacks(true, &["strace"]) {
        return not_run("kills of a restore", &why);
    }
    let (mut dice, _seed) = dice();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.backup");
    let wanted = back_up(&dir.path().join("data"), &file).await;
    let size = std::env::var("DELTASYNC_RESTORE_KILLS").unwrap_or_default();
    let most = match size.as_str() {
        "all" => KILLS_MAX,
        "" => KILLS,
        number => number.parse().unwrap(),
    };
    let (mut kills, mut left) = (0, [0; 3]);
    for call in CALLS {
        let first = if most == KILLS { dice.random_range(1..4) } else { 1 };
        for number in first..first + most {
            let mut disk = Disk::new();
            let data = disk.path().join("data");
            let fault = Fault { call, what: KILL, when: number.to_string(), file: None };
            if restore(&file, &data, &fault.wrapper()).is_ok() {
                disk.unmount().await;
                break;
            }
            kills += 1;
            disk.crash(dice.random_bool(0.5).then_some(Cut::NothingFlushed)).await;
            left[what_is_left(&data).await] += 1;
            if !data.join("store").exists() {
                restore(&file, &data, &[]).unwrap_or_else(|why| panic!("{fault:?}, again: {why}"));
            }
            assert_eq!(contents(&data).await, wanted, "after {fault:?}");
            disk.unmount().await;
        }
    }
    assert!(kills > 0, "nothing was killed");
    let [nothing, half, whole] = left;
    report(&format!(
        "kills of a restore: {kills}: {nothing} left nothing, {half} a refused part, {whole} all"
    ));
}

/// Makes a store and a backup of it; what it holds.
async fn back_up(data: &Path, file: &Path) -> Vec<Copy> {
    let program = Program::new(SERVER, data);
    let mut process = program.start_serving().await;
    let mut traffic = Traffic::new(Values::All);
    assert!(traffic.work(&program, 30).await.unwrap(), "it works");
    let wire = program.wire();
    fs::write(file, backup::take(&wire).await.unwrap()).unwrap();
    let contents = load(&wire).await;
    process.kill();
    contents
}

/// Restores, through the program that `wrapper` names.
fn restore(file: &Path, data: &Path, wrapper: &[String]) -> Result<String, String> {
    let paths = [file, data].map(|path| path.to_str().expect("paths of tests are text"));
    let mut words = vec!["60"];
    words.extend(wrapper.iter().map(String::as_str));
    words.extend([SERVER, "restore", "--from", paths[0], "--data-dir", paths[1]]);
    words.push("--free-disk-min-mib=1");
    run("timeout", &words)
}

/// Nothing (0), a part that a start refuses with an advice (1), a whole store (2).
async fn what_is_left(data: &Path) -> usize {
    if data.join("store").exists() {
        return 2;
    }
    if !data.join("store.restore").exists() {
        return 0;
    }
    let mut process = Program::new(SERVER, data).start();
    let started = process.serving_or_ended().await;
    process.kill_anyway();
    let log = process.log();
    assert!(started.is_err(), "a part of a store is served:\n{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("sync-server: ") && last.contains("again"), "no advice in: {log}");
    1
}

async fn contents(data: &Path) -> Vec<Copy> {
    let program = Program::new(SERVER, data);
    let mut process = program.start_serving().await;
    let contents = load(&program.wire()).await;
    process.kill();
    contents
}

/// What every collection holds, with all versions.
async fn load(wire: &Wire) -> Vec<Copy> {
    let mut copies = Vec::new();
    for collection in COLLECTIONS {
        copies.push(wire.load(collection).await.copy);
    }
    copies
}
