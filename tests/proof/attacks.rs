//! What strangers can do to a server as it comes, while honest clients use it: floods of connections
//! and of frames, calls that never end, answers that nobody takes, requests that are not what they
//! seem. One attack after the other on the same process; each is over with its own process, and what
//! clients saw before, during and after it is told in a table. `DELTASYNC_ATTACK_SECS` sets how long
//! each lasts: from `FULL_SECS` on, times are judged as well. `DELTASYNC_ATTACKS` names some of them, and
//! `DELTASYNC_ATTACK_FLAGS` starts the server with other settings, to see that they matter.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use sync_server::config::Config;
use sync_tests::compose::put;
use sync_tests::process::{Process, Program};
use sync_tests::report::report;
use sync_tests::seed::number;
use sync_tests::wait::{pass, until_true};

use self::catalogue::{ALL, Attack};
use self::figures::{Figures, What};
use self::honest::Honest;
use crate::SERVER;

mod catalogue;
mod figures;
mod honest;

/// The program that attacks.
const ATTACKER: &str = env!("CARGO_BIN_EXE_attacker");

/// Seconds of an attack when the environment does not say.
const SECS: u64 = 1;

/// From so many on the machine is taken to be ours, and times are judged.
const FULL_SECS: u64 = 10;

/// The bounds: what the process may take, what an honest client may wait, and how soon all is well.
const RSS_MIB_MAX: u64 = 256;
const P99_MAX: Duration = Duration::from_millis(100);
const RECOVERY_MAX: Duration = Duration::from_secs(10);

/// What an honest client may wait on a machine that does other things at the same time.
const BUSY_P99_MAX: Duration = Duration::from_secs(5);
const BUSY_RECOVERY_MAX: Duration = Duration::from_secs(20);

/// Bytes of the item that attackers ask for.
const LARGE: usize = 1_000_000;

/// Items of the collection that they ask for, bytes of each, and how many are written at once.
const FILLED: u32 = 120_000;
const VALUE: usize = 200;
const FILLED_AT_ONCE: usize = 1_000;

/// What must be seen in a second to say of it that all is well; there are some 120 and 60.
const CALLS_MIN: u32 = 30;
const DELIVERIES_MIN: u32 = 15;

/// How an attack is judged.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    seconds: u64,
    /// How long what counts as well must last.
    well: Duration,
    p99: Duration,
    recovery: Duration,
    is_full: bool,
}

/// What an attack did to the server.
#[derive(Debug)]
struct Outcome {
    peak_mib: u64,
    after_mib: u64,
    /// What the server took of a core, in percent.
    processor: u32,
    calls: Figures,
    deliveries: Figures,
    newcomers: Figures,
    recovery: Duration,
    counts: BTreeMap<String, u64>,
}

// === impl Bounds ===

impl Bounds {
    fn of(seconds: u64) -> Self {
        let is_full = seconds >= FULL_SECS;
        let (p99, recovery, well) = if is_full {
            (P99_MAX, RECOVERY_MAX, Duration::from_secs(1))
        } else {
            (BUSY_P99_MAX, BUSY_RECOVERY_MAX, Duration::from_millis(300))
        };
        Self { seconds, well, p99, recovery, is_full }
    }
}

// === impl Outcome ===

impl Outcome {
    /// What is wrong with it.
    fn faults(&self, attack: &Attack, bounds: &Bounds) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: String| {
            if !holds {
                faults.push(format!("{}: {fault}", attack.name));
            }
        };
        check(self.peak_mib <= RSS_MIB_MAX, format!("the process took {} MiB", self.peak_mib));
        for (what, figures) in [("calls", &self.calls), ("deliveries", &self.deliveries)] {
            let Figures { failed, p99, reasons, .. } = figures;
            check(*failed == 0, format!("{failed} honest {what} were in vain: {reasons:?}"));
            check(*p99 < bounds.p99, format!("the 99th of 100 honest {what} took {p99:?}"));
        }
        let Figures { failed, count, p99, .. } = &self.newcomers;
        if attack.newcomers {
            check(*failed == 0, format!("{failed} of {count} newcomers were not served"));
            check(*p99 < bounds.p99, format!("the 99th of 100 newcomers waited {p99:?}"));
        }
        let recovery = self.recovery;
        check(recovery <= bounds.recovery, format!("all was well only after {recovery:?}"));
        let came = if bounds.seconds >= attack.seconds { attack.came } else { &[] };
        for (what, least) in attack.did.iter().chain(came) {
            let count = self.counts.get(*what).copied().unwrap_or_default();
            check(count >= *least, format!("no attack: {count} times {what:?}, not {least}"));
        }
        faults
    }

    fn tell(&self, name: &str) {
        let counts: Vec<_> = self.counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
        report(&format!(
            "{name:15} {:4} {:4} {:3}% | {} | {} | {} | {:4.1} | {}",
            self.peak_mib,
            self.after_mib,
            self.processor,
            self.calls,
            self.deliveries,
            self.newcomers,
            self.recovery.as_secs_f64(),
            counts.join(", "),
        ));
    }
}

/// A part of a core, in percent.
fn percent(taken: Duration, of: Duration) -> u32 {
    let percent = taken.as_millis() * 100 / of.as_millis().max(1);
    u32::try_from(percent).unwrap()
}

/// A line of the status of a process, which is in KiB, in MiB.
fn mib(process: &Process, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let kib = status.lines().find_map(|said| said.strip_prefix(line)).unwrap();
    kib.trim_start_matches(':').trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Lets the peak of the memory begin anew.
fn forget_peak(process: &Process) {
    fs::write(format!("/proc/{}/clear_refs", process.id()), "5").unwrap();
}

/// Runs the attack in a process of its own, behind all others on the processor; what it achieved.
async fn run(attack: &Attack, program: &Program, seconds: u64) -> BTreeMap<String, u64> {
    let mut child = Command::new("nice")
        .args(["-n", "19", "sh", "-c", "ulimit -n $(ulimit -Hn) && exec \"$@\"", "sh", ATTACKER])
        .args([&program.address().to_string(), attack.name, &seconds.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    pass(Duration::from_secs(seconds)).await;
    until_true("the attacker to end", async || child.try_wait().unwrap().is_some()).await;
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the attacker {} ended with {}", attack.name, output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    let count = |line: &str| {
        let (what, count) = line.rsplit_once(": ").unwrap();
        (what.to_owned(), count.parse().unwrap())
    };
    lines.lines().map(count).collect()
}

/// Waits for a stretch of time in which all was well; how long after the attack it began.
async fn recover(honest: &Honest, ended: Instant, bounds: &Bounds) -> Duration {
    let mut began = Instant::now();
    while began - ended <= bounds.recovery {
        pass(bounds.well).await;
        if is_well(honest, began, bounds) {
            break;
        }
        began = Instant::now();
    }
    began - ended
}

/// Whether honest clients were served as ever since `began`.
fn is_well(honest: &Honest, began: Instant, bounds: &Bounds) -> bool {
    let seen = honest.seen(began, Instant::now());
    let well = |what, least: u32| {
        let figures = Figures::of(what, &seen);
        let least = (bounds.well * least).as_secs();
        figures.count as u64 >= least && figures.failed == 0 && figures.p99 < bounds.p99
    };
    well(What::Call, CALLS_MIN) && well(What::Delivery, DELIVERIES_MIN) && well(What::Newcomer, 1)
}

/// One attack, and how all was well again.
async fn suffer(
    attack: &Attack,
    (program, process, honest): (&Program, &mut Process, &Honest),
    bounds: &Bounds,
) -> Outcome {
    forget_peak(process);
    let began = Instant::now();
    // Some of them come to something only after a while.
    let seconds = if bounds.is_full { bounds.seconds.max(attack.seconds) } else { bounds.seconds };
    let before = process.processor();
    let counts = run(attack, program, seconds).await;
    let ended = Instant::now();
    let processor = percent(process.processor().saturating_sub(before), ended - began);
    let peak_mib = mib(process, "VmHWM");
    let recovery = recover(honest, ended, bounds).await;
    assert!(process.try_ended().is_none(), "the server ended:\n{}", process.log());
    let seen = honest.seen(began, ended);
    Outcome {
        peak_mib,
        after_mib: mib(process, "VmRSS"),
        processor,
        calls: Figures::of(What::Call, &seen),
        deliveries: Figures::of(What::Delivery, &seen),
        newcomers: Figures::of(What::Newcomer, &seen),
        recovery,
        counts,
    }
}

/// What attackers ask for: a small item, a large one after it, and many behind them.
async fn fill(program: &Program, items: u32) {
    let wire = program.wire();
    wire.commit(vec![put("attacked", "small", "s")]).await;
    wire.commit(vec![put("attacked", "large", vec![b'l'; LARGE])]).await;
    for first in (0..items).step_by(FILLED_AT_ONCE) {
        // Not in the order of their keys, as it is where others write.
        let item = |n: u32| format!("{:08x}", n.wrapping_mul(0x9E37_79B1));
        let puts = (first..).take(FILLED_AT_ONCE).map(|n| put("attacked", item(n), [b'v'; VALUE]));
        wire.commit(puts.collect()).await;
    }
}

/// G8, G11: whatever strangers do, the process stays small, honest clients are served in time, and
/// all is well soon after.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_harm_nobody() {
    let bounds = Bounds::of(number("DELTASYNC_ATTACK_SECS").unwrap_or(SECS));
    let only = env::var("DELTASYNC_ATTACKS").unwrap_or_default();
    let flags = env::var("DELTASYNC_ATTACK_FLAGS").unwrap_or_default();
    let dir = tempfile::tempdir().unwrap();
    // As it comes, but for where it listens.
    let cache = format!("--cache-mib={}", Config::default().cache_mib);
    let mut settings = vec![cache.as_str(), "--free-disk-min-mib=256"];
    settings.extend(flags.split_whitespace());
    let program = Program::new(SERVER, dir.path()).with(&settings);
    let files = "ulimit -n $(ulimit -Hn) && exec \"$@\"";
    let mut process = program.through(&["sh", "-c", files, "sh"]).start_serving().await;
    fill(&program, if bounds.is_full { FILLED } else { FILLED / 10 }).await;
    let honest = Honest::come(&program);
    let (began, before) = (Instant::now(), process.processor());
    pass(bounds.well * 2).await;
    let seen = honest.seen(began + bounds.well, Instant::now());
    report(&format!(
        "{:15} {:>4} {:>4}  cpu | {:>5} {:>6} {:>6} {:>7} {:>4} | deliveries                    | newcomers                     | well after",
        "attack", "peak", "MiB", "calls", "p50 ms", "p99", "max", "vain",
    ));
    let none = Outcome {
        peak_mib: mib(&process, "VmHWM"),
        after_mib: mib(&process, "VmRSS"),
        processor: percent(process.processor().saturating_sub(before), began.elapsed()),
        calls: Figures::of(What::Call, &seen),
        deliveries: Figures::of(What::Delivery, &seen),
        newcomers: Figures::of(What::Newcomer, &seen),
        recovery: Duration::ZERO,
        counts: BTreeMap::new(),
    };
    none.tell("(none)");
    let mut faults = Vec::new();
    for attack in ALL {
        if only.is_empty() || only.split(',').any(|name| name == attack.name) {
            let outcome = suffer(attack, (&program, &mut process, &honest), &bounds).await;
            outcome.tell(attack.name);
            faults.extend(outcome.faults(attack, &bounds));
        }
    }
    honest.go().await;
    process.terminate();
    assert!(process.ended().await.success());
    process.check_log();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
