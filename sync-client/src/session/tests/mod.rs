//! What a session does, transition by transition (DESIGN §5.4 and §8).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sync_proto::digest::Digest;
use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, CollectionName, Cursor, Delta, Epoch, Event, Failure,
    Goodbye, GoodbyeReason, Head, Key, Outcome, Plan, Position, Pull, Reset, ResetReason, SortKey,
    Subscribe, Timestamp, Value, Version,
};

use super::*;
use crate::store::{MemoryStore, Step};

mod failing;
mod mended;
mod pushed;
mod repaired;

/// A session with its store, and what it asked for so far.
struct Talk {
    session: Session,
    store: MemoryStore,
    now: Instant,
    stream: Option<(StreamId, Subscribe)>,
    closed: usize,
    pulls: Vec<(PullId, Pull)>,
    status: BTreeMap<CollectionName, Status>,
    checks: usize,
    /// Steps of repairs.
    tasks: Vec<(MendId, Task)>,
    chosen: Vec<Choice>,
}

fn name() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn cursor(at: u64) -> Cursor {
    Cursor::at(Epoch::new(7).unwrap(), version(at))
}

fn item(at: u64) -> Change {
    let value = Some(Value::new(vec![1]).unwrap());
    let kind = ChangeKind::Put { value, sort_key: SortKey::default(), value_version: version(at) };
    let key = Key::new(at.to_string()).unwrap();
    Change { key, version: version(at), created: version(at), kind }
}

/// The digest of a list into which every version from 1 put one item.
fn digest(at: u64) -> Digest {
    (1..=at).fold(Digest::EMPTY, |sum, at| {
        let change = item(at);
        sum + Digest::of_item(&change.key, change.version, &SortKey::default(), &[1])
    })
}

fn head(at: u64) -> Head {
    Head {
        epoch: Epoch::new(7).unwrap(),
        version: version(at),
        floor: Version::ZERO,
        items: at,
        tombstones: 0,
        bytes: 0,
        digest: digest(at),
        commit_time: Timestamp::default(),
    }
}

/// The delta (from, to], one item a version, read at head `to`.
fn delta(from: u64, to: u64) -> Delta {
    Delta {
        from: cursor(from),
        to: cursor(to),
        changes: (from + 1..=to).map(item).collect(),
        has_more: false,
        initial: false,
        digest: Some(digest(to)),
        unverified: false,
        head: head(to),
    }
}

/// The page (from, to] of a catch-up that goes on to `end`.
fn page(from: u64, to: u64, end: u64) -> Delta {
    let to_cursor = cursor(to).between_pages(version(to));
    Delta { to: to_cursor, has_more: true, digest: None, head: head(end), ..delta(from, to) }
}

fn reset(reason: ResetReason) -> Reset {
    let head = Head { epoch: Epoch::new(8).unwrap(), ..head(3) };
    Reset { reason, head, estimated_changes: 3, estimated_bytes: 0 }
}

/// A store with a copy that stands at `at`.
fn store_at(at: u64) -> MemoryStore {
    let store = MemoryStore::new();
    let step = Step::BeginLoad { changes: (1..=at).map(item).collect(), to: cursor(at) };
    store.write(&name(), &Write { expected: None, step }).unwrap();
    store
}

// === impl Talk ===

impl Talk {
    fn new(names: &[CollectionName], store: MemoryStore) -> Self {
        let now = Instant::now();
        let standings = names.iter().map(|name| (name.clone(), store.standing(name).unwrap()));
        let session = Session::new(Config::default(), standings.collect(), 1, now);
        let mut talk = Self {
            session,
            store,
            now,
            stream: None,
            closed: 0,
            pulls: Vec::new(),
            status: BTreeMap::new(),
            checks: 0,
            tasks: Vec::new(),
            chosen: Vec::new(),
        };
        talk.act();
        talk
    }

    /// A copy that stands at `at`, live on the stream.
    fn live(at: u64) -> Self {
        let mut talk = Self::new(&[name()], store_at(at));
        talk.accept(Plan::Live, Some(head(at)));
        assert_eq!(talk.status[&name()], Status::Live);
        talk
    }

    fn act(&mut self) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::OpenStream(id, subscribe) => self.stream = Some((id, subscribe)),
                Action::CloseStream(_) => self.closed += 1,
                Action::Pull(id, pull) => self.pulls.push((id, pull)),
                Action::Write(name, write) => {
                    let (input, _) = carry_out(&self.store, &name, &write).unwrap();
                    self.session.handle(input, self.now);
                }
                Action::Report(name, report) => drop(self.status.insert(name, report.status)),
                Action::SelfCheck(_) => self.checks += 1,
                Action::Mend(_, id, task) => self.tasks.push((id, task)),
                Action::Chosen(_, choice) => self.chosen.push(choice),
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.session.handle(input, self.now);
        self.act();
    }

    fn event(&mut self, event: Event) {
        let id = self.stream.as_ref().unwrap().0;
        self.input(Input::Event(id, event));
    }

    fn push(&mut self, delta: Delta) {
        self.event(Event::Changes(name(), delta));
    }

    fn accept(&mut self, plan: Plan, head: Option<Head>) {
        let target = AcceptedTarget { collection: name(), plan, head };
        self.event(Event::Accepted(vec![target], Duration::from_secs(15)));
    }

    /// Answers the oldest pull.
    fn answer(&mut self, outcomes: Vec<Outcome>) {
        let (id, _) = self.pulls.remove(0);
        self.input(Input::Pulled(id, Ok(outcomes)));
    }

    /// Lets time pass, in the steps that the session asks for.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.session.deadline().clamp(self.now, until);
            self.input(Input::Elapsed);
            self.now += Duration::from_millis(1);
        }
    }

    fn at(&self) -> Option<Cursor> {
        self.store.standing(&name()).unwrap().cursor
    }

    fn shown(&self) -> Option<Cursor> {
        let target = self.pulls[0].1.targets[0].clone().unwrap();
        target.cursor
    }

    fn stats(&self) -> &Stats {
        self.session.stats()
    }
}

const MS: Duration = Duration::from_millis(1);
