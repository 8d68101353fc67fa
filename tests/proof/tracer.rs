//! strace, which kills the server at an exact system call, or makes that call fail.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What happens at some system call. Calls are counted per thread.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) call: &'static str,
    pub(crate) what: &'static str,
    /// At which one; with a `+` also at all later ones.
    pub(crate) when: String,
    /// Only where it is about this file.
    pub(crate) file: Option<PathBuf>,
}

/// A tracer at work on a running process. Dropping it lets go of the process.
#[derive(Debug)]
pub(crate) struct Tracer(Child);

/// The process dies before it does this call.
pub(crate) const KILL: &str = "signal=KILL";

// === impl Fault ===

impl Fault {
    /// The words that run a program with this fault; the program keeps its process id.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e"];
        words.map(str::to_owned).into_iter().chain(self.words()).collect()
    }

    fn words(&self) -> Vec<String> {
        let Self { call, what, when, file } = self;
        let inject = format!("inject={call}:{what}:when={when}");
        let file = file.iter().flat_map(|file| ["-P".to_owned(), file.display().to_string()]);
        [format!("trace={call}"), "-e".to_owned(), inject].into_iter().chain(file).collect()
    }
}

// === impl Tracer ===

impl Tracer {
    /// Works on all threads of a process when this returns.
    pub(crate) fn attach(process: u32, fault: &Fault) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-p", &process.to_string(), "-e"])
            .args(fault.words())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut said = said.map_while(Result::ok);
        let attached = said.find(|line| line.contains("attached"));
        assert!(attached.is_some(), "strace does not attach to {process}");
        // What it says later must go somewhere, or it would stop at a full pipe.
        std::thread::spawn(move || said.for_each(drop));
        Self(child)
    }

    /// Ends it at once. One that holds a thread back waits for that thread for ever if its process
    /// ends meanwhile, and the process is not gone before its tracer is.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(asked.is_ok(), "there is no kill");
        self.0.wait().unwrap();
    }
}
