//! Clients that do what clients do, at a gentle and fixed rate, and note how long each thing took: a
//! commit and a pull in turn, a live subscriber of what is written, and now and then a newcomer with
//! a connection of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sync_proto::types::{ChangeKind, Cursor, Event, Outcome, Subscribe};
use sync_proto::v1;
use sync_tests::compose::{after, commit, put, scratch};
use sync_tests::process::Program;
use sync_tests::wire::Wire;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::figures::{Sample, What};

/// Clients that write and pull, and how often each does both.
const WRITERS: usize = 3;
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// How often a newcomer comes.
const NEWCOMER_EVERY: Duration = Duration::from_millis(200);

/// What takes longer is given up, and has failed.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// Pause before a subscriber whose stream ended comes again.
const BACK_AFTER: Duration = Duration::from_millis(100);

/// The clients, and what they saw so far.
#[derive(Debug)]
pub(crate) struct Honest {
    samples: Samples,
    stop: CancellationToken,
    tasks: TaskTracker,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

/// What was written and has not been delivered, the oldest first: its number, and when it was due.
type Underway = Arc<Mutex<VecDeque<(u64, Instant)>>>;

// === impl Honest ===

impl Honest {
    /// They come to a server that serves.
    pub(crate) fn come(program: &Program) -> Self {
        let (samples, stop, tasks) =
            (Samples::default(), CancellationToken::new(), TaskTracker::new());
        for number in 0..WRITERS {
            let collection = format!("honest/{number}");
            let underway = Underway::default();
            let (wire, seen) = (program.wire(), (Arc::clone(&samples), Arc::clone(&underway)));
            let writes = write(wire, collection.clone(), seen);
            tasks.spawn(until_stopped(stop.clone(), writes));
            let follows = follow(program.wire(), collection, Arc::clone(&samples), underway);
            tasks.spawn(until_stopped(stop.clone(), follows));
        }
        let newcomers = newcomers(program.clone(), Arc::clone(&samples));
        tasks.spawn(until_stopped(stop.clone(), newcomers));
        Self { samples, stop, tasks }
    }

    /// What was due in this time and has come, or was given up.
    pub(crate) fn seen(&self, from: Instant, to: Instant) -> Vec<Sample> {
        let samples = self.samples.lock();
        samples.iter().filter(|sample| (from..to).contains(&sample.due)).cloned().collect()
    }

    /// They go.
    pub(crate) async fn go(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn until_stopped(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => unreachable!("it goes on for ever"),
    }
}

/// Notes how long it took since it was due.
fn note(samples: &Samples, what: What, due: Instant, failed: Option<String>) {
    samples.lock().push(Sample { what, due, took: due.elapsed(), failed });
}

/// Waits, but not for ever.
async fn patiently<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, String> {
    match timeout(GIVEN_UP_AFTER, work).await {
        Ok(done) => done.map_err(|status| format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err("given up".to_owned()),
    }
}

/// Commits and pulls in turn, for ever. Each is due at its time, however long the last one took.
async fn write(wire: Wire, collection: String, (samples, underway): (Samples, Underway)) {
    let mut ticks = interval(WRITE_EVERY);
    let mut cursor = None;
    for number in 0.. {
        let due = ticks.tick().await.into_std();
        underway.lock().push_back((number, due));
        let beat = commit(vec![put(&collection, "beat", number.to_string())]);
        let done = patiently(wire.try_commit(beat)).await;
        if done.is_err() {
            // It may have happened all the same; it is the call that has failed, not the delivery.
            underway.lock().retain(|(underway, _)| *underway != number);
        }
        note(&samples, What::Call, due, done.err());
        let due = Instant::now();
        let pulled = patiently(pull(&wire, &collection, cursor)).await;
        cursor = pulled.as_ref().ok().copied().or(cursor);
        note(&samples, What::Call, due, pulled.err());
    }
}

/// Pulls once; where it stands then.
async fn pull(wire: &Wire, collection: &str, cursor: Option<Cursor>) -> Result<Cursor, Status> {
    let target = cursor.map_or_else(|| scratch(collection), |cursor| after(collection, cursor));
    let request = v1::PullRequest { targets: vec![target.into()], ..Default::default() };
    match wire.pull_raw(request).await?.remove(0) {
        Outcome::Delta(delta) => Ok(delta.to),
        Outcome::Failed(failure) => Err(Status::unavailable(format!("{failure:?}"))),
        other @ (Outcome::Aligned(_)
        | Outcome::Reset(_)
        | Outcome::Denied
        | Outcome::NotFound
        | Outcome::Deferred(_)) => panic!("{collection}: {other:?}"),
    }
}

/// Follows what is written, for ever.
async fn follow(wire: Wire, collection: String, samples: Samples, underway: Underway) {
    loop {
        let due = Instant::now();
        let failed = match watch(&wire, &collection, &samples, &underway).await {
            Ok(()) => "the stream ended".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        note(&samples, What::Delivery, due, Some(failed));
        tokio::time::sleep(BACK_AFTER).await;
    }
}

/// Follows until the stream ends.
async fn watch(
    wire: &Wire,
    collection: &str,
    samples: &Samples,
    underway: &Underway,
) -> Result<(), Status> {
    let heartbeat = Duration::from_secs(1);
    let targets = vec![scratch(collection)];
    let subscribe = Subscribe { targets, heartbeat, client_id: String::new() };
    let mut events = wire.try_subscribe(subscribe).await?;
    while let Some(event) = events.try_next().await? {
        let Event::Changes(_, delta) = event else { continue };
        for change in &delta.changes {
            let ChangeKind::Put { value: Some(value), .. } = &change.kind else { continue };
            let number: u64 = std::str::from_utf8(value.as_bytes()).unwrap().parse().unwrap();
            arrive(number, samples, underway);
        }
    }
    Ok(())
}

/// What was written up to `number` has been delivered: a state replaces those before it.
fn arrive(number: u64, samples: &Samples, underway: &Underway) {
    let mut underway = underway.lock();
    while let Some((_, due)) = underway.front().copied().filter(|(written, _)| *written <= number) {
        underway.pop_front();
        note(samples, What::Delivery, due, None);
    }
}

/// Again and again somebody comes for the first time.
async fn newcomers(program: Program, samples: Samples) {
    let mut ticks = interval(NEWCOMER_EVERY);
    loop {
        let due = ticks.tick().await.into_std();
        let request = v1::GetCollectionRequest { collection: "honest/0".to_owned() };
        let mut client = program.wire().sync();
        let asked = patiently(client.get_collection(request)).await;
        // Each of them is told in other words that it was closed.
        let failed = asked.err().map(|_| "not served".to_owned());
        note(&samples, What::Newcomer, due, failed);
    }
}
