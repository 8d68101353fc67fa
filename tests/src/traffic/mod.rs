//! Writers, subscribers and pullers on a server that may die at any moment, and what they know
//! of it afterwards. Every crash test is this traffic and a way to crash.

use std::time::Duration;

use sync_proto::types::{ChangeKind, Delta, Event, Outcome, Subscribe, Version};
use sync_proto::v1;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::known::{Known, Violation, ensure, told};
use self::plan::{COLLECTIONS, Id, Values, WRITERS};
use crate::compose::scratch;
use crate::process::Program;
use crate::reader::PlainReader;
use crate::wait::pass;
use crate::wire::Wire;

pub mod known;
pub mod plan;

/// Subscribers: one each of a mirror and of the collection whose tombstones are purged.
const FOLLOWED: [usize; 2] = [0, 2];

/// The collection that is pulled in small pages, again and again.
const PULLED: usize = 1;

/// The collection whose readers may be reset, because its tombstones are purged.
const PURGED: usize = 2;

/// Small enough that a load has several pages.
const PULLED_CHANGES_MAX: u32 = 7;

/// A puller that has everything forgets it so often.
const FRESH_EVERY: u64 = 10;

/// Between two pulls that found nothing new.
const PULL_EVERY: Duration = Duration::from_millis(5);

const HEARTBEAT: Duration = Duration::from_millis(100);

/// Everybody who talks to the server, over all its lives.
#[derive(Debug)]
pub struct Traffic {
    /// What they know together.
    pub known: Known,
    followers: [PlainReader; 2],
    puller: PlainReader,
}

/// A reader, and what it was shown.
#[derive(Debug)]
struct Shown {
    reader: PlainReader,
    /// The newest version that it ever stood at.
    stood: Version,
    commits: Vec<(Version, Id)>,
}

/// What a writer was told.
#[derive(Debug, Default)]
struct Written {
    sent: Option<Id>,
    acknowledged: Vec<(usize, Id, Version)>,
    /// Everything that was to be sent was acknowledged.
    finished: bool,
}

// === impl Traffic ===

impl Traffic {
    /// Traffic for an empty store.
    #[must_use]
    pub fn new(values: Values) -> Self {
        let reader = |collection: usize| PlainReader::new(scratch(COLLECTIONS[collection]));
        Self { known: Known::new(values), followers: FOLLOWED.map(reader), puller: reader(PULLED) }
    }

    /// Everybody works until the connection breaks, or each writer has done `commits`. Says
    /// whether all of them were acknowledged.
    pub async fn work(&mut self, program: &Program, commits: u64) -> Result<bool, Violation> {
        let tracker = TaskTracker::new();
        let values = self.known.values();
        let done = CancellationToken::new();
        let followers = self
            .followers
            .clone()
            .map(|reader| tracker.spawn(follow(program.wire(), Shown::by(reader), done.clone())));
        let puller = Shown::by(self.puller.clone());
        let puller = tracker.spawn(pull(program.wire(), puller, done.clone()));
        let writers: Vec<JoinHandle<Written>> = (0..WRITERS)
            .map(|writer| {
                let next = self.known.next(writer);
                tracker.spawn(write(program.wire(), next, values, commits))
            })
            .collect();
        let mut finished = true;
        for writer in writers {
            let written = writer.await.map_err(|panic| Violation(told(panic)))?;
            finished &= written.finished;
            self.take_written(&written)?;
        }
        done.cancel();
        for (index, follower) in followers.into_iter().enumerate() {
            self.followers[index] = self.take_shown(FOLLOWED[index], follower).await?;
        }
        self.puller = self.take_shown(PULLED, puller).await?;
        Ok(finished)
    }

    /// Compares the store with everything that is known of it.
    pub async fn check(&mut self, wire: &Wire) -> Result<(), Violation> {
        self.known.check(wire).await
    }

    /// The readers that were there all the time have what is there.
    pub async fn converge(&mut self, wire: &Wire) -> Result<(), Violation> {
        let readers = self.followers.iter().chain([&self.puller]);
        for (mut reader, collection) in readers.cloned().zip(FOLLOWED.into_iter().chain([PULLED])) {
            let at = COLLECTIONS[collection];
            let wire = wire.clone();
            let catching_up = async move {
                reader.catch_up(&wire).await;
                (reader, wire.load(at).await)
            };
            let (reader, load) = TaskTracker::new()
                .spawn(catching_up)
                .await
                .map_err(|panic| Violation(format!("{at}: {}", told(panic))))?;
            ensure(reader.copy == load.copy, || format!("a reader of {at} has something else"))?;
            let may_reset = collection == PURGED;
            ensure(may_reset || reader.seen.resets == 0, || format!("{at}: a reader was reset"))?;
        }
        Ok(())
    }

    fn take_written(&mut self, written: &Written) -> Result<(), Violation> {
        if let Some(id) = written.sent {
            self.known.note_sent(id);
        }
        for (collection, id, version) in &written.acknowledged {
            self.known.note_acknowledged(*collection, *id, *version)?;
        }
        Ok(())
    }

    async fn take_shown(
        &mut self,
        collection: usize,
        task: JoinHandle<Shown>,
    ) -> Result<PlainReader, Violation> {
        let at = COLLECTIONS[collection];
        let shown =
            task.await.map_err(|panic| Violation(format!("a reader of {at}: {}", told(panic))))?;
        self.known.note_shown(collection, shown.stood.max(shown.reader.version()));
        for (version, id) in shown.commits {
            self.known.note_seen(collection, version, id)?;
        }
        Ok(shown.reader)
    }
}

// === impl Shown ===

impl Shown {
    fn by(reader: PlainReader) -> Self {
        let stood = reader.version();
        Self { reader, stood, commits: Vec::new() }
    }

    fn note(&mut self, delta: &Delta) {
        for change in &delta.changes {
            if let ChangeKind::Put { value: Some(value), .. } = &change.kind
                && let Some(id) = Id::of_row(change.key.as_bytes(), value.as_bytes())
            {
                self.commits.push((change.version, id));
            }
        }
    }
}

/// Commits one after the other from `next` on, until one fails or there were `commits`.
async fn write(wire: Wire, next: Id, values: Values, commits: u64) -> Written {
    let mut written = Written::default();
    for number in next.number..next.number.saturating_add(commits) {
        let id = Id { number, ..next };
        written.sent = Some(id);
        let Ok(done) = wire.try_commit(id.commit(values)).await else { return written };
        assert_eq!(done.len(), COLLECTIONS.len(), "a commit tells of every collection");
        for told in done {
            let collection = COLLECTIONS.iter().position(|name| *name == told.collection.as_str());
            let collection = collection.expect("a commit changes these three");
            assert!(told.prev_version < told.version, "{id:?} changed nothing in {told:?}");
            written.acknowledged.push((collection, id, told.version));
        }
    }
    written.finished = true;
    written
}

/// Follows on a stream until it breaks, or what is there after `done` has been heard.
async fn follow(wire: Wire, mut shown: Shown, done: CancellationToken) -> Shown {
    let subscribe = Subscribe {
        targets: vec![shown.reader.target.clone()],
        heartbeat: HEARTBEAT,
        client_id: String::new(),
    };
    let Ok(mut events) = wire.try_subscribe(subscribe).await else { return shown };
    loop {
        let event = tokio::select! {
            biased;
            event = events.try_next() => event,
            () = done.cancelled() => return shown,
        };
        let Ok(Some(event)) = event else { return shown };
        match &event {
            // A server whose disk fails says so, once, and stops.
            Event::Goodbye(_) | Event::Failed(..) => return shown,
            Event::Changes(_, delta) => shown.note(delta),
            Event::Accepted(..)
            | Event::Notice(..)
            | Event::InboxNotice(_)
            | Event::Bookmark(..)
            | Event::Reset(..)
            | Event::Lagging(..)
            | Event::CaughtUp(..)
            | Event::Absent(_)
            | Event::Revoked(_) => {}
        }
        let ended = matches!(&event, Event::Reset(..));
        shown.reader.hear(&event);
        if ended {
            return shown;
        }
    }
}

/// Pulls small pages, from time to time from scratch, until a call fails or `done`.
async fn pull(wire: Wire, mut shown: Shown, done: CancellationToken) -> Shown {
    let mut rounds = 0_u64;
    while !done.is_cancelled() {
        let request = v1::PullRequest {
            targets: vec![shown.reader.target.clone().into()],
            max_changes_per_target: PULLED_CHANGES_MAX,
            ..Default::default()
        };
        let Ok(mut outcomes) = wire.pull_raw(request).await else { break };
        let outcome = outcomes.remove(0);
        match &outcome {
            Outcome::Delta(delta) => shown.note(delta),
            // As above.
            Outcome::Failed(_) => break,
            Outcome::Aligned(_)
            | Outcome::Reset(_)
            | Outcome::Denied
            | Outcome::NotFound
            | Outcome::Deferred(_) => {}
        }
        if matches!(outcome, Outcome::NotFound) && shown.reader.target.cursor.is_none() {
            pass(PULL_EVERY).await;
        } else if shown.reader.take(outcome) {
            shown.stood = shown.stood.max(shown.reader.version());
            rounds += 1;
            if rounds.is_multiple_of(FRESH_EVERY) {
                shown.reader = PlainReader::new(scratch(COLLECTIONS[PULLED]));
            }
            pass(PULL_EVERY).await;
        }
    }
    shown
}
