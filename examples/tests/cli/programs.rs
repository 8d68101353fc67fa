//! Runs the programs that are tested.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::server::Server;

/// Far more than anything takes here.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

/// A program that goes on.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

/// `syncctl` with these arguments, for this server.
pub(crate) fn syncctl(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env("SYNCCTL_SERVER", server.uri());
    command.env_remove("SYNCCTL_TOKEN").env_remove("SYNCCTL_CLIENT_ID").stdin(Stdio::null());
    command
}

/// Runs `syncctl` to its end.
pub(crate) fn run(server: &Server, args: &[&str]) -> Ended {
    ended(syncctl(server, args), &[])
}

/// Runs `syncctl`, expects success, and reads what it says as JSON lines.
pub(crate) fn json(server: &Server, args: &[&str]) -> Vec<Json> {
    let ended = run(server, &[args, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended.objects()
}

/// Runs a program to its end, with something to read.
pub(crate) fn ended(mut command: Command, input: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that does not read its input ends all the same.
    let writing = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    Ended {
        code: output.status.code(),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A program of this workspace, next to the test's own.
pub(crate) fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join(name)
}

/// `syncctl`, built from what is there now: cargo builds no programs of other packages for a
/// test, and an old one would prove nothing. Of the whole workspace, so that the dependencies get
/// the features that they have already: of one package alone, most would be compiled again.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--bin", "syncctl"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "syncctl does not build");
        built("syncctl")
    })
}

// === impl Ended ===

impl Ended {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn objects(&self) -> Vec<Json> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                if line.is_ok_and(|line| told.send(line).is_ok()) {
                    continue;
                }
                return;
            }
        });
        Self { child, lines }
    }

    /// The next object that it prints and that is `wanted`.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let deadline = Instant::now() + WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let object: Json = serde_json::from_str(&line).unwrap();
                    if wanted(&object) {
                        return object;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain for {what}"),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before {what}"),
            }
        }
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal("-INT");
    }

    /// Stops it, as whoever runs containers does.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Ends it without a word.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Waits for its end.
    pub(crate) fn code(mut self) -> Option<i32> {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Running {
    /// A test that fails leaves nothing behind.
    fn drop(&mut self) {
        // An error here is a program that has ended by itself.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}
