//! Disks that are full, and disks that fail. The server refuses what it has no room for, or it
//! stops with the exit code that says so; and whatever it acknowledged is there when the disk is
//! well again. `DELTASYNC_DISK_FAULTS` sets how many system calls fail.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use sync_tests::compose::{commit, put};
use sync_tests::process::{Process, Program};
use sync_tests::seed::{dice, number};
use sync_tests::traffic::Traffic;
use sync_tests::traffic::plan::Values;
use sync_tests::wait::until_true;
use tempfile::TempDir;
use tonic::Code;

use crate::SERVER;
use crate::machine::{Mount, lacks};
use crate::tracer::{Fault, Tracer};
use sync_tests::report::{not_run, report};

/// Failing calls per run when the environment does not say.
const FAULTS: u64 = 6;

/// The calls that a store's disk fails with.
const CALLS: [&str; 4] = ["pwrite64", "fdatasync", "fsync", "write"];
const ERRORS: [&str; 3] = ["error=EIO", "error=ENOSPC", "error=EDQUOT"];

/// Sizes of a disk in MiB: one that fills within seconds, and one with room again. sled writes
/// its log in segments of 8 MiB.
const SMALL_MIB: u64 = 48;
const LARGE_MIB: u64 = 1024;

/// Exit codes of the server. Where sled panics at a failing disk, a start cannot tell it from
/// damage.
const NOT_STARTED: [i32; 2] = [1, 3];
const STORAGE_FAILED: i32 = 4;

/// A store on a disk of a size.
struct Small {
    _dir: TempDir,
    disk: Mount,
    program: Program,
    traffic: Traffic,
}

/// G3, G11: below its watermark a server refuses writes and changes nothing, serves reads, and
/// goes on by itself when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_almost_full_refuses_writes_only() {
    if let Some(why) = lacks(true, &["mount"]) {
        return not_run("a disk that is almost full", &why);
    }
    let mut small = Small::new(&["--free-disk-min-mib=24"]);
    let mut process = small.program.start_serving().await;
    let wire = small.program.wire();
    assert!(!small.traffic.work(&small.program, u64::MAX).await.unwrap(), "it is never full");
    let refused = wire.try_commit(commit(vec![put("left", "one more", "")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(process.try_ended(), None, "it serves");
    small.traffic.check(&wire).await.unwrap();
    small.disk.resize(LARGE_MIB).unwrap();
    until_true("the room to be noticed", async || {
        wire.try_commit(commit(vec![put("beside", "one more", "")])).await.is_ok()
    })
    .await;
    assert!(small.traffic.work(&small.program, 3).await.unwrap(), "it has room");
    small.last_look(&mut process).await;
}

/// G3: a disk that is full all the same ends the server, with the exit code that says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_server_and_loses_nothing() {
    if let Some(why) = lacks(true, &["mount"]) {
        return not_run("a full disk", &why);
    }
    let mut small = Small::new(&["--free-disk-min-mib=0"]);
    let mut process = small.program.start_serving().await;
    small.traffic.work(&small.program, u64::MAX).await.unwrap();
    assert_eq!(process.ended().await.code(), Some(STORAGE_FAILED), "{}", process.log());
    said_why(&process);
    small.disk.resize(LARGE_MIB).unwrap();
    let mut process = small.program.start_serving().await;
    small.last_look(&mut process).await;
}

/// G3: a system call that fails once, at any point of a start or of work, stops the server, or it
/// was one that does not matter; it is never tried again and called success.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_ends_the_server_and_loses_nothing() {
    if let Some(why) = lacks(true, &["strace"]) {
        return not_run("a failing disk", &why);
    }
    let (mut dice, _seed) = dice();
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, &dir.path().join("data")).with(&["--tombstones-max=5"]);
    let mut traffic = Traffic::new(Values::Small);
    let mut told = BTreeMap::<String, u64>::new();
    for _ in 0..number("DELTASYNC_DISK_FAULTS").unwrap_or(FAULTS) {
        let call = *CALLS.choose(&mut dice).expect("there are some");
        let what = *ERRORS.choose(&mut dice).expect("there are some");
        let at_start = dice.random_bool(0.3);
        // A whole program that can write nowhere, not even to itself, is not a failing disk.
        let of_file = call == "write";
        let lasts = if call != "write" && dice.random_bool(0.5) { "+" } else { "" };
        let fault = Fault {
            call,
            what,
            when: format!("{}{lasts}", dice.random_range(1..6)),
            file: of_file.then(|| dir.path().join("data/store/high-water")),
        };
        let (phase, code) = if at_start {
            ("start", fail_start(&program, &fault).await)
        } else {
            ("work", fail_work(&program, &mut traffic, &fault).await)
        };
        let ending = code.map_or("went on".to_owned(), |code| format!("exit code {code}"));
        *told.entry(format!("{phase}, {call}: {ending}")).or_default() += 1;
        let mut process = program.start();
        let started = process.serving_or_ended().await;
        assert!(started.is_ok(), "after {phase}, {fault:?}: {started:?}\n{}", process.log());
        let checked = traffic.check(&program.wire()).await;
        checked.unwrap_or_else(|why| panic!("after {phase}, {fault:?}, {ending}: {why}"));
        process.kill();
    }
    report(&format!("a failing disk: {told:#?}"));
}

/// A start whose syncs fail from the second on says so; it once died of the last one, in sled.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_disk_fails_to_the_end_says_why() {
    if let Some(why) = lacks(true, &["strace"]) {
        return not_run("a start whose disk fails", &why);
    }
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, &dir.path().join("data"));
    program.start_serving().await.kill();
    let fault = Fault { call: "fsync", what: "error=EIO", when: "2+".into(), file: None };
    assert_eq!(fail_start(&program, &fault).await, Some(1));
}

/// The exit code of a start that meets the fault; `None` if it serves all the same.
async fn fail_start(program: &Program, fault: &Fault) -> Option<i32> {
    let wrapper = fault.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let mut process = program.through(&wrapper).start();
    if process.serving_or_ended().await.is_ok() {
        process.kill_anyway();
        return None;
    }
    let code = process.ended().await.code();
    let refused = code.is_some_and(|code| NOT_STARTED.contains(&code));
    assert!(refused, "{fault:?}: {code:?}: {}", process.log());
    said_why(&process);
    code
}

/// The exit code of a server that meets the fault at work; `None` if it goes on.
async fn fail_work(program: &Program, traffic: &mut Traffic, fault: &Fault) -> Option<i32> {
    let mut process = program.start_serving().await;
    let tracer = Tracer::attach(process.id(), fault);
    let finished = traffic.work(program, 12).await;
    // A commit that was not acknowledged is one of a server that stops.
    let failed = !finished.unwrap_or_else(|why| panic!("{fault:?}: {why}"));
    let code = if failed { process.ended().await.code() } else { None };
    if failed {
        assert_eq!(code, Some(STORAGE_FAILED), "{fault:?}: {}", process.log());
        said_why(&process);
    }
    process.kill_anyway();
    drop(tracer);
    code
}

/// Its last words are the reason, for people, and not only a panic's trace.
fn said_why(process: &Process) {
    let log = process.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("sync-server: "), "{log}");
}

// === impl Small ===

impl Small {
    fn new(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Mount::tmpfs(dir.path(), SMALL_MIB).unwrap();
        let program = Program::new(SERVER, &dir.path().join("data")).with(settings);
        Self { _dir: dir, disk, program, traffic: Traffic::new(Values::All) }
    }

    /// Everything is there, also for the next start, which goes on.
    async fn last_look(mut self, process: &mut Process) {
        let wire = self.program.wire();
        self.traffic.check(&wire).await.unwrap();
        self.traffic.converge(&wire).await.unwrap();
        process.terminate();
        assert!(process.ended().await.success(), "{}", process.log());
        let mut process = self.program.start_serving().await;
        self.traffic.check(&wire).await.unwrap();
        assert!(self.traffic.work(&self.program, 3).await.unwrap(), "it works");
        self.traffic.check(&wire).await.unwrap();
        process.kill();
        self.disk.unmount().await.unwrap();
    }
}
