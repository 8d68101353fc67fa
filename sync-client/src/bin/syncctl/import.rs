//! Replays a file of transactions, each as one commit. The server remembers how far an import
//! came; the numbers of the commits follow from the file alone, so an import that was cut off
//! goes on where it was.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use indicatif::{HumanCount, ProgressBar};
use parking_lot::Mutex;
use serde::Serialize;
use sync_client::types::Mutation;
use sync_client::{ClientError, SyncClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::output::{Colour, Output};
use crate::progress;
use crate::record::{commits, parse};
use crate::source::Source;
use crate::text::hex;

/// Commits that are read ahead.
const QUEUE_LEN_MAX: usize = 16;
/// For so long without progress an import is taken up again after a failure that may pass.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// How often the server is asked how far it has come, for the bar.
const SHOW_EVERY: Duration = Duration::from_millis(300);
/// How often an unreachable server is asked how far the import came.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Bytes of the file's hash that an import is named by.
const ID_BYTES: usize = 16;

/// An import under way.
#[derive(Clone)]
struct Job {
    client: SyncClient,
    source: Source,
    prefix: String,
    id: String,
    bar: ProgressBar,
    begun: Instant,
    /// Sequence of the last commit that the server had when this command began.
    had: u64,
    /// What was read and may not be durable yet, a tally for each transaction. What the call
    /// keeps under way bounds it.
    unsettled: Arc<Mutex<VecDeque<Tally>>>,
}

/// What a file holds.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    transactions: u64,
    commits: u64,
    mutations: u64,
    /// Transactions that became several commits.
    split: u64,
    /// Mutations behind the commits that the server had.
    sent: u64,
}

/// What an import did, in JSON.
#[derive(Serialize)]
struct ImportFields<'a> {
    import_id: &'a str,
    transactions: u64,
    commits: u64,
    commits_skipped: u64,
    mutations: u64,
    split_transactions: u64,
    seconds: f64,
}

pub(crate) async fn import(context: &mut Context, import: args::Import) -> Result<Exit, Failure> {
    let source = Source::new(&import.file);
    let reading = Failure::io(format!("reading {}", source.name()));
    let id = match import.id {
        Some(id) => id,
        None => import_id(source.clone(), import.prefix.clone()).await?,
    };
    let had = known(&context.client, &id).await?;
    let counted = source.clone();
    let count = tokio::task::spawn_blocking(move || counted.count()).await;
    let count = count.map_err(|panic| Failure::Internal(panic.to_string()))?;
    let bar = progress::of_transactions(&context.output, count.map_err(reading)?);
    let (client, prefix) = (context.client.clone(), import.prefix);
    let unsettled = Arc::default();
    let job = Job { client, source, prefix, id, bar, begun: Instant::now(), had, unsettled };
    let patience = context.connection.retry.unwrap_or(RETRY_FOR);
    let ended = tokio::select! {
        biased;
        () = interrupted() => {
            let next_step = "what was sent so far stays; the same command goes on from there";
            Err(Failure::Interrupted { next_step: Some(next_step.into()) })
        }
        ended = job.run(patience) => ended,
    };
    job.bar.finish_and_clear();
    job.tell(&mut context.output, ended?)?;
    Ok(Exit::Done)
}

/// A name made from what is imported; by chance when that can be read only once.
async fn import_id(source: Source, prefix: String) -> Result<String, Failure> {
    let reading = Failure::io(format!("reading {}", source.name()));
    let hash = tokio::task::spawn_blocking(move || source.fingerprint(&prefix)).await;
    let hash = hash.map_err(|panic| Failure::Internal(panic.to_string()))?.map_err(reading)?;
    Ok(format!("syncctl-{}", hex(&hash.unwrap_or_else(rand::random)[..ID_BYTES])))
}

/// Sequence of the last commit that the server knows of.
async fn known(client: &SyncClient, id: &str) -> Result<u64, ClientError> {
    match client.get_import(id).await {
        Ok(sequence) => Ok(sequence),
        Err(ClientError::NotFound(_)) => Ok(0),
        Err(failure) => Err(failure),
    }
}

// === impl Job ===

impl Job {
    /// Sends everything; after a failure that may pass, what is missing.
    async fn run(&self, patience: Duration) -> Result<Tally, Failure> {
        let mut have = self.had;
        let mut give_up = Instant::now() + patience;
        loop {
            let failure = match self.send(have).await {
                Err(Failure::Client(failure)) if failure.is_retryable() => failure,
                ended => return ended,
            };
            if !self.source.is_repeatable() {
                return Err(failure.into());
            }
            self.bar.set_message("the connection was lost, waiting for the server");
            let now = loop {
                if Instant::now() >= give_up {
                    return Err(failure.into());
                }
                tokio::time::sleep(ASK_EVERY).await;
                match known(&self.client, &self.id).await {
                    Ok(now) => break now,
                    Err(failure) if failure.is_retryable() => {}
                    Err(failure) => return Err(failure.into()),
                }
            };
            if now > have {
                give_up = Instant::now() + patience;
            }
            have = now;
        }
    }

    /// Sends what is behind commit `have`.
    async fn send(&self, have: u64) -> Result<Tally, Failure> {
        let (commits, mut queue) = mpsc::channel(QUEUE_LEN_MAX);
        self.unsettled.lock().clear();
        let job = self.clone();
        let reading = tokio::task::spawn_blocking(move || job.read(have, &commits));
        // A stream without a message is an error; a file without anything new is not.
        let sent = match queue.recv().await {
            Some(first) => {
                let rest = ReceiverStream::new(queue);
                let all = futures::stream::once(std::future::ready(first)).chain(rest);
                tokio::select! {
                    sent = self.client.import(&self.id, have + 1, all) => sent.map(|_| ()),
                    never = self.show_durable() => match never {},
                }
            }
            None => Ok(()),
        };
        let read = reading.await.map_err(|panic| Failure::Internal(panic.to_string()))?;
        // When the server stopped listening, its reason says more than where reading stopped.
        sent?;
        read
    }

    /// Reads the file into commits; those up to `have` are counted only.
    fn read(&self, have: u64, queue: &mpsc::Sender<Vec<Mutation>>) -> Result<Tally, Failure> {
        let name = self.source.name();
        let reading = || Failure::io(format!("reading {name}"));
        let mut lines = self.source.lines().map_err(reading())?;
        let mut tally = Tally::default();
        while let Some((number, line)) = lines.next().map_err(reading())? {
            if line.is_empty() {
                continue;
            }
            let mutations = parse(line, &self.prefix).map_err(|reason| {
                Failure::Input(format!(
                    "{name}, line {number}: {reason} (the lines before it are imported)"
                ))
            })?;
            let commits = commits(mutations);
            tally.transactions += 1;
            tally.split += u64::from(commits.len() > 1);
            for commit in commits {
                tally.commits += 1;
                tally.mutations += commit.len() as u64;
                if tally.commits > self.had {
                    tally.sent += commit.len() as u64;
                }
                if tally.commits > have && queue.blocking_send(commit).is_err() {
                    return Ok(tally);
                }
            }
            if tally.commits > have && !self.bar.is_hidden() {
                self.unsettled.lock().push_back(tally);
            }
        }
        Ok(tally)
    }

    /// Moves the bar to what is on the server's disk: what was merely read says little.
    async fn show_durable(&self) -> Infallible {
        loop {
            tokio::time::sleep(SHOW_EVERY).await;
            // An answer that does not come is no reason to end: the import itself will say.
            let Ok(sequence) = known(&self.client, &self.id).await else { continue };
            let mut unsettled = self.unsettled.lock();
            let settled = unsettled.partition_point(|tally| tally.commits <= sequence);
            if let Some(tally) = unsettled.drain(..settled).next_back() {
                self.show(&tally);
            }
        }
    }

    fn show(&self, tally: &Tally) {
        self.bar.set_position(tally.transactions);
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rate = tally.sent.saturating_mul(1000) / millis.max(1);
        self.bar.set_message(format!(
            "{} changes, {}/s",
            HumanCount(tally.mutations),
            HumanCount(rate)
        ));
    }

    fn tell(&self, output: &mut Output, tally: Tally) -> Result<(), Failure> {
        let skipped = self.had.min(tally.commits);
        let fields = ImportFields {
            import_id: &self.id,
            transactions: tally.transactions,
            commits: tally.commits - skipped,
            commits_skipped: skipped,
            mutations: tally.sent,
            split_transactions: tally.split,
            seconds: self.begun.elapsed().as_secs_f64(),
        };
        if output.json() {
            return output.object(&fields);
        }
        let (commits, mutations) = (HumanCount(fields.commits), HumanCount(fields.mutations));
        let seconds = fields.seconds;
        output.line(&format!(
            "commits imported: {commits}, changes: {mutations}, in {seconds:.1} s"
        ))?;
        if tally.split > 0 {
            let line = format!(
                "{} transactions are larger than a commit may be and became several: readers may \
                 have seen them half done",
                tally.split
            );
            output.coloured_line(Colour::Yellow, &line)?;
        }
        if skipped > 0 {
            let line = format!(
                "{} commits had been imported before under the id {} and were skipped; \
                 --import-id with another name imports them again",
                HumanCount(skipped),
                self.id
            );
            output.coloured_line(Colour::Dim, &line)?;
        }
        Ok(())
    }
}
