//! The real program in a process of its own, for tests that kill it.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;

use crate::wait::{until, until_true};
use crate::wire::Wire;

/// Ports that systems do not give to clients: Linux begins at 32,768.
const PORTS: Range<u16> = 10_000..32_000;

/// Ticks of the processor's time in `/proc`, a second: fixed on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// How to start the program: always on the same store and address.
#[derive(Debug, Clone)]
pub struct Program {
    exe: PathBuf,
    dir: PathBuf,
    address: SocketAddr,
    settings: Vec<String>,
    /// A program that runs it, and that program's arguments.
    through: Vec<OsString>,
}

/// A running process. Dropping it kills it.
pub struct Process {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    log_reader: Option<JoinHandle<()>>,
}

// === impl Program ===

impl Program {
    /// The program `exe` over the store in `dir`.
    #[must_use]
    pub fn new(exe: &str, dir: &Path) -> Self {
        Self {
            exe: exe.into(),
            dir: dir.into(),
            address: free_address(),
            settings: vec!["--cache-mib=16".into(), "--free-disk-min-mib=1".into()],
            through: Vec::new(),
        }
    }

    /// The same on another address.
    #[must_use]
    pub fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// The same with other flags; one that is named twice counts as given last.
    #[must_use]
    pub fn with(mut self, settings: &[&str]) -> Self {
        for setting in settings {
            let flag = setting.split_inclusive('=').next().unwrap_or(setting);
            self.settings.retain(|known| !known.starts_with(flag));
            self.settings.push((*setting).to_owned());
        }
        self
    }

    /// The same, run by another program, e.g. `strace -D`, which must leave the process id to it.
    #[must_use]
    pub fn through(&self, wrapper: &[&str]) -> Self {
        Self { through: wrapper.iter().map(Into::into).collect(), ..self.clone() }
    }

    /// Where it will listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection to it, whether or not it runs.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire::to(self.address)
    }

    /// Starts it and does not wait.
    #[must_use]
    pub fn start(&self) -> Process {
        let mut words = self.through.iter().cloned().chain([self.exe.clone().into()]);
        let mut child = Command::new(words.next().expect("at least the program"))
            .args(words)
            .arg("--data-dir")
            .arg(&self.dir)
            .args(["--listen", &self.address.to_string()])
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::default();
        let stderr = child.stderr.take().expect("it is piped");
        let log_reader = Some(read_log(stderr, Arc::clone(&log)));
        Process { child, address: self.address, log, log_reader }
    }

    /// Starts it and waits until it serves.
    pub async fn start_serving(&self) -> Process {
        let mut process = self.start();
        process.until_serving().await;
        process
    }
}

// === impl Process ===

impl Process {
    /// Waits until it serves.
    pub async fn until_serving(&mut self) {
        let address = self.address;
        until_true("the process to serve", async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.log());
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
    }

    /// Waits until it serves, or has ended by itself: then the status says how.
    pub async fn serving_or_ended(&mut self) -> Result<(), ExitStatus> {
        let address = self.address;
        until("the process to serve or to end", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(Err(status));
            }
            tokio::net::TcpStream::connect(address).await.is_ok().then_some(Ok(()))
        })
        .await
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Time of a processor that it has taken.
    #[must_use]
    pub fn processor(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let (_, fields) = text.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
    }

    /// How it ended, if it has.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().join("\n")
    }

    /// Kills it at once, as a power cut would end it for its clients; its log must be clean.
    pub fn kill(&mut self) {
        self.kill_anyway();
        self.check_log();
    }

    /// Kills it at once, unless it has ended, whatever it has logged: its disk failed.
    pub fn kill_anyway(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
    }

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(asked.success(), "kill -TERM {pid}: {asked}");
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = until("the process to end", async || self.child.try_wait().unwrap()).await;
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// Fails if it logged an error.
    pub fn check_log(&mut self) {
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
        let log = self.log();
        assert!(!log.contains(" ERROR "), "the server logged an error:\n{log}");
        assert!(!log.contains("panicked"), "the server panicked:\n{log}");
    }

    /// Waits for its end, at most this long; kills it otherwise. For kills at a random moment.
    pub async fn kill_after(&mut self, time: Duration) {
        crate::wait::pass(time).await;
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("address", &self.address).finish_non_exhaustive()
    }
}

fn read_log(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            log.lock().push(line);
        }
    })
}

/// A loopback address that nobody listens on. The program comes to it again and again, or on all
/// interfaces, so it is none of those that a client of another test is given meanwhile.
fn free_address() -> SocketAddr {
    let mut dice = rand::rng();
    let any = |_| SocketAddr::from(([127, 0, 0, 1], dice.random_range(PORTS)));
    let free = (0..1_000).map(any).find(|address| TcpListener::bind(address).is_ok());
    free.expect("a port is free")
}
