//! The client under test: a program, started with what it needs to know, that says where it stands
//! in JSON lines.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use crate::truth::At;

/// A client must end this soon after it was told to.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How often its end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Lines that a client may say: more are a loop.
const LINES_MAX: usize = 100_000;

/// One line of a client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// It believes that a copy is caught up.
    At(At),
    /// It has taken changes, and hands them on.
    Took(Took),
    /// It ends.
    Done(Done),
}

/// Changes that a client took which keeps nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Took {
    /// It was told that what comes is all that there is.
    pub anew: bool,
    /// Keys of items, as text.
    pub put: Vec<String>,
    /// Keys of items that are gone, as text.
    pub gone: Vec<String>,
}

/// What a client reads in a refusal that it gives up at (R128).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refused {
    /// The name of the status code.
    pub code: String,
    /// `ErrorInfo.reason`.
    pub reason: String,
    /// The fields of `BadRequest`.
    pub fields: Vec<String>,
    /// The subjects of `QuotaFailure`.
    pub quotas: Vec<String>,
}

/// What a client has met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Done {
    /// The reasons of the resets that it was told, each once.
    #[serde(default)]
    pub resets: Vec<String>,
    /// How many digests it found to differ.
    #[serde(default)]
    pub mismatches: u64,
    /// Commits that were acknowledged.
    #[serde(default)]
    pub acknowledged: u64,
    /// What it gave up at.
    #[serde(default)]
    pub refused: Option<Refused>,
}

/// What a client has said that was not looked at yet.
#[derive(Debug, Default)]
pub struct Said {
    /// Its lines.
    pub lines: Vec<Line>,
    /// What is not as agreed.
    pub objections: Vec<String>,
    count: usize,
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

// === impl Client ===

impl Client {
    /// Starts `command` with these arguments and variables; `heard` is called after each line.
    pub fn start(
        command: &[String],
        arguments: &[&str],
        variables: &[(&str, String)],
        heard: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (program, rest) =
            command.split_first().ok_or_else(|| io::Error::other("the client has no name"))?;
        let mut process = Command::new(program)
            .args(rest)
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let said = Arc::new(Mutex::new(Said::default()));
        let noting = Arc::clone(&said);
        let reader =
            std::thread::Builder::new().name("client-output".to_owned()).spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    note(&line, &mut noting.lock());
                    heard();
                }
                heard();
            })?;
        Ok(Self { process, stdin, said, reader: Some(reader) })
    }

    /// What it has said since this was asked last.
    #[must_use]
    pub fn take(&self) -> Said {
        let mut said = self.said.lock();
        let count = said.count;
        std::mem::replace(&mut *said, Said { count, ..Said::default() })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<String>> {
        Ok(self.process.try_wait()?.map(|status| status.to_string()))
    }

    /// Tells it to finish: its input ends.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(mut stdin) = self.stdin.take() {
            stdin.flush()?;
        }
        Ok(())
    }

    /// Waits for its end, and says what was wrong with it. May block for seconds.
    pub fn wait(&mut self) -> io::Result<Option<String>> {
        let give_up = Instant::now() + END_WITHIN;
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            if Instant::now() > give_up {
                return Ok(Some("did not end when its input ended".to_owned()));
            }
            std::thread::sleep(LOOK_EVERY);
        };
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| io::Error::other("the reader of its output failed"))?;
        }
        Ok((!status.success()).then(|| format!("ended with {status}")))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended long ago; and if it cannot be killed, nobody waits for it.
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
    }
}

fn note(line: &str, said: &mut Said) {
    said.count += 1;
    if said.count > LINES_MAX {
        return;
    }
    if said.count == LINES_MAX {
        said.objections.push(format!("said {LINES_MAX} lines"));
    }
    match serde_json::from_str(line) {
        Ok(line) => said.lines.push(line),
        Err(error) => said
            .objections
            .push(format!("said {line:?}, which is no line of the contract: {error}")),
    }
}
