//! The server is killed at an exact system call: the next one does not happen. While it creates
//! a store, starts on one, commits and purges, and stops; half of the time, where the machine can,
//! the power goes with it, so that of what was written only what was synced is left.
//! `DELTASYNC_KILL_POINTS=all` enumerates every call of every phase, a number tries so many.

use std::collections::BTreeMap;
use std::process::Command;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use sync_tests::backup;
use sync_tests::process::{Process, Program};
use sync_tests::seed::dice;
use sync_tests::traffic::Traffic;
use sync_tests::traffic::known::Violation;
use sync_tests::traffic::plan::Values;
use sync_tests::wait::within;
use sync_tests::wire::Wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SERVER;
use crate::machine::{Cut, Disk, lacks};
use crate::tracer::{Fault, KILL, Tracer};
use sync_tests::report::{not_run, report};

/// Points per run when the environment does not say.
const POINTS: usize = 10;

/// Of one call in one phase, at most so many; the last phase of a store has no end.
const POINTS_PER_CALL: u64 = 40;

/// Without a kill a phase ends when each writer has done so many commits.
const COMMITS: u64 = 12;

/// Calls that change something on disk.
const CALLS: [&str; 8] =
    ["mkdir", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate"];

const PHASES: [Phase; 5] = [Phase::Create, Phase::Start, Phase::Work, Phase::BackUp, Phase::Stop];

/// Where a small run looks: calls of which there are several.
const LIKELY: [(Phase, &str); 9] = [
    (Phase::Create, "fsync"),
    (Phase::Create, "write"),
    (Phase::Start, "fsync"),
    (Phase::Start, "write"),
    (Phase::Work, "write"),
    (Phase::Work, "pwrite64"),
    (Phase::Work, "fdatasync"),
    (Phase::BackUp, "fdatasync"),
    (Phase::Stop, "write"),
];

/// What the server is doing when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Create,
    Start,
    Work,
    /// Work, with one backup after the other.
    BackUp,
    Stop,
}

/// A store, and everybody who uses it.
struct World {
    disk: Disk,
    program: Program,
    traffic: Traffic,
    dice: StdRng,
}

/// G2, G3, G4: wherever a process dies, the next start needs no help, and nothing that was
/// acknowledged or shown is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_system_call_loses_nothing() {
    if let Some(why) = lacks(true, &["strace"]) {
        return not_run("kills at system calls", &why);
    }
    let (mut dice, _seed) = dice();
    let mut told = BTreeMap::<(Phase, &str), u64>::new();
    let mut world = World::new(&mut dice);
    let size = std::env::var("DELTASYNC_KILL_POINTS").unwrap_or_default();
    if size == "all" {
        for (phase, call) in PHASES.into_iter().flat_map(|phase| CALLS.map(|call| (phase, call))) {
            let mut number = 1;
            while number <= POINTS_PER_CALL && world.point(phase, call, number).await {
                *told.entry((phase, call)).or_default() += 1;
                number += 1;
            }
        }
    } else {
        let points = if size.is_empty() { POINTS } else { size.parse().unwrap() };
        for _ in 0..points {
            let (phase, call) = *LIKELY.choose(&mut dice).expect("there are some");
            if world.point(phase, call, dice.random_range(1..6)).await {
                *told.entry((phase, call)).or_default() += 1;
            }
        }
    }
    world.last_look().await;
    let points: u64 = told.values().sum();
    report(&format!("kills at system calls: {points} points on {}: {told:?}", world.disk));
    assert!(points > 0, "nothing was killed");
}

// === impl World ===

impl World {
    fn new(dice: &mut StdRng) -> Self {
        let disk = Disk::new();
        let program = Program::new(SERVER, &disk.path().join("data")).with(&["--tombstones-max=5"]);
        let dice = rand::SeedableRng::from_rng(dice);
        Self { disk, program, traffic: Traffic::new(Values::Small), dice }
    }

    /// Kills at call `number` of a phase; false if the phase ends before.
    async fn point(&mut self, phase: Phase, call: &'static str, number: u64) -> bool {
        let fault = Fault { call, what: KILL, when: number.to_string(), file: None };
        let killed = match phase {
            Phase::Create => {
                self.disk.unmount().await;
                *self = Self::new(&mut self.dice);
                self.during_start(&fault).await
            }
            Phase::Start => self.during_start(&fault).await,
            Phase::Work => self.during_work(&fault).await,
            Phase::BackUp => self.during_backups(&fault).await,
            Phase::Stop => self.during_stop(&fault).await,
        };
        let killed = killed.unwrap_or_else(|why| panic!("{phase:?}, {call} {number}: {why}"));
        let cut = self.dice.random_bool(0.5).then_some(Cut::NothingFlushed);
        self.disk.crash(cut).await;
        let looked = self.look().await;
        looked.unwrap_or_else(|why| panic!("after {phase:?}, {call} {number}, {cut:?}: {why}"));
        killed
    }

    async fn during_start(&mut self, fault: &Fault) -> Result<bool, Violation> {
        let wrapper = fault.wrapper();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let mut process = self.program.through(&wrapper).start();
        let ended = process.serving_or_ended().await.is_err();
        end(&mut process, ended)
    }

    async fn during_work(&mut self, fault: &Fault) -> Result<bool, Violation> {
        let mut process = self.program.start_serving().await;
        let tracer = Tracer::attach(process.id(), fault);
        let killed = !self.traffic.work(&self.program, COMMITS).await?;
        if killed {
            process.ended().await;
        }
        drop(tracer);
        end(&mut process, killed)
    }

    /// What is cut off in the middle is no backup; the last whole one is restored.
    async fn during_backups(&mut self, fault: &Fault) -> Result<bool, Violation> {
        let mut process = self.program.start_serving().await;
        let tracer = Tracer::attach(process.id(), fault);
        let stop = CancellationToken::new();
        let backups = TaskTracker::new().spawn(back_up_until(self.program.wire(), stop.clone()));
        let killed = !self.traffic.work(&self.program, COMMITS).await?;
        if killed {
            process.ended().await;
        }
        stop.cancel();
        let (whole, cut) = within("the backups", backups).await.expect("they do not panic");
        drop(tracer);
        for (mut bytes, code) in
            whole.map(|bytes| (bytes, 0)).into_iter().chain(cut.map(|c| (c, 3)))
        {
            let mut found = restore(&bytes);
            if code == 3 && found == Some(0) {
                // All of it was here, only the word that it is all was cut off.
                bytes.pop();
                found = restore(&bytes);
            }
            if found != Some(code) {
                return Err(Violation(format!("a backup restores with {found:?}, not {code}")));
            }
        }
        end(&mut process, killed)
    }

    async fn during_stop(&mut self, fault: &Fault) -> Result<bool, Violation> {
        let mut process = self.program.start_serving().await;
        self.traffic.work(&self.program, 1).await?;
        let tracer = Tracer::attach(process.id(), fault);
        process.terminate();
        let status = process.ended().await;
        drop(tracer);
        end(&mut process, !status.success())
    }

    /// The store as the next start finds it.
    async fn look(&mut self) -> Result<(), Violation> {
        let mut process = self.program.start();
        if let Err(status) = process.serving_or_ended().await {
            process.kill_anyway();
            return Err(Violation(format!("refused: {status}: {}", process.log())));
        }
        self.traffic.check(&self.program.wire()).await?;
        self.traffic.work(&self.program, 2).await?;
        process.kill();
        Ok(())
    }

    async fn last_look(&mut self) {
        let mut process = self.program.start_serving().await;
        let wire = self.program.wire();
        self.traffic.check(&wire).await.unwrap();
        self.traffic.converge(&wire).await.unwrap();
        process.kill();
        self.disk.unmount().await;
    }
}

/// Takes backups until it is stopped, or the server dies: the last whole one, and what was cut off.
async fn back_up_until(wire: Wire, stop: CancellationToken) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let mut whole = None;
    while !stop.is_cancelled() {
        match backup::take(&wire).await {
            Ok(bytes) => whole = Some(bytes),
            Err(cut) => return (whole, Some(cut.bytes)),
        }
    }
    (whole, None)
}

/// How restoring it ends.
fn restore(backup: &[u8]) -> Option<i32> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    std::fs::write(&file, backup).unwrap();
    let mut command = Command::new(SERVER);
    command.args(["restore", "--free-disk-min-mib=1", "--from"]).arg(file);
    let output = command.arg("--data-dir").arg(dir.path().join("data")).output().unwrap();
    output.status.code()
}

/// Whether it was killed. Dying is no reason to complain: its log must be clean.
fn end(process: &mut Process, killed: bool) -> Result<bool, Violation> {
    process.kill_anyway();
    let log = process.log();
    let clean = !log.contains(" ERROR ") && !log.contains("panicked");
    if clean { Ok(killed) } else { Err(Violation(log)) }
}
