//! A server in a process of its own: started on a free port with an empty directory, watched by
//! `/proc`, ended with the benchmark however that ends.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sync_benches::proc::{Stat, bytes_of};

use crate::failure::{Failure, Outcome, io, within};
use crate::system::Doing;

/// A server that does not serve by then is taken for broken.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A server that was asked to stop is killed after this.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A question to a server that has just started is asked again after this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How to start a server.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) exe: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) address: SocketAddr,
    /// Where its log goes.
    pub(crate) log: PathBuf,
    /// Whose rights it runs with, if not ours: user and group.
    pub(crate) owner: Option<(u32, u32)>,
    /// Asks it to stop at once.
    pub(crate) stop_signal: &'static str,
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stop_signal: &'static str,
}

/// What a process has used, its children included.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) processor: Duration,
    pub(crate) memory: u64,
    /// The most memory since [`forget_peak`]; 0 = not known, it has children.
    pub(crate) peak: u64,
}

/// Asks a server that has just started until it answers: it takes connections before it answers, and
/// may forget a question that came too early.
pub(crate) async fn until_it_answers<'a>(
    what: &'static str,
    ask: impl Fn() -> Doing<'a, ()>,
) -> Outcome<()> {
    let begun = Instant::now();
    loop {
        let answer = within(what, ASK_AGAIN_AFTER, ask()).await;
        if answer.is_ok() || begun.elapsed() > START_WITHIN {
            return answer;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io("find a free port"))?;
    listener.local_addr().map_err(io("find a free port"))
}

/// Where a program is, by `PATH` and the places where Debian puts servers.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(others);
    places.find_map(|place| Some(place.join(name)).filter(|file| file.is_file()))
}

/// What a program prints about itself, in one line.
pub(crate) fn version(exe: &Path, argument: &str) -> String {
    let output = Command::new(exe).arg(argument).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("unknown").trim().to_owned()
}

/// Gives a directory to another user.
pub(crate) fn give(dir: &Path, owner: (u32, u32)) -> Outcome<()> {
    chown(dir, Some(owner.0), Some(owner.1)).map_err(io("give a directory away"))
}

/// Lets a program run with the rights of another user.
pub(crate) fn run_as(command: &mut Command, owner: (u32, u32)) {
    command.uid(owner.0).gid(owner.1);
}

/// What a process and its children have used. A process that is gone has used nothing.
pub(crate) fn usage(pid: u32) -> Usage {
    let Some(stat) = stat(pid) else { return Usage::default() };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = Usage {
        processor: stat.own + stat.waited_for,
        memory: bytes_of(&status, "VmRSS").unwrap_or(0),
        peak: bytes_of(&status, "VmHWM").unwrap_or(0),
    };
    children(pid).into_iter().fold(own, |sum, child| {
        // What children share is counted once by this.
        let shares = fs::read_to_string(format!("/proc/{child}/smaps_rollup")).unwrap_or_default();
        let processor = stat_of_time(child);
        let memory = bytes_of(&shares, "Pss").unwrap_or(0);
        Usage { processor: sum.processor + processor, memory: sum.memory + memory, peak: 0 }
    })
}

/// Lets the peak of a process begin anew. Without the right to it, peaks are too high, never too low.
pub(crate) fn forget_peak(pid: u32) {
    drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
}

fn stat(pid: u32) -> Option<Stat> {
    Stat::read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn stat_of_time(pid: u32) -> Duration {
    stat(pid).map_or(Duration::ZERO, |stat| stat.own + stat.waited_for)
}

/// Children of a process: no server here has grandchildren.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

// === impl Program ===

impl Program {
    /// Starts it and waits until it takes connections.
    pub(crate) async fn start(&self) -> Outcome<Process> {
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(io("open a server's log"))?;
        let errors = log.try_clone().map_err(io("open a server's log"))?;
        let mut command = self.dying_with_us();
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        if let Some(owner) = self.owner {
            run_as(&mut command, owner);
        }
        let child = command.spawn().map_err(io("start a server"))?;
        let mut process = Process { child, stop_signal: self.stop_signal };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = process.child.try_wait().map_err(io("look at a server"))?;
            if ended.is_some() || begun.elapsed() > START_WITHIN {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                let said =
                    format!("does not serve ({ended:?}); its log ends, last first: {last:?}");
                return Err(Failure::Peer { system: "a server", said });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(process)
    }

    /// The program, so that the kernel ends it with the thread that starts it: our main thread.
    fn dying_with_us(&self) -> Command {
        let Some(setpriv) = find("setpriv") else { return Command::new(&self.exe) };
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.exe);
        command
    }
}

// === impl Process ===

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        // It may have ended by itself; then there is nothing to be done.
        drop(Command::new("kill").args([self.stop_signal, &pid]).status());
        let begun = Instant::now();
        while begun.elapsed() < STOP_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
