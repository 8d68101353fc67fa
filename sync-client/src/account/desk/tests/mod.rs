//! What a desk does, transition by transition.

use std::collections::BTreeMap;

use sync_proto::convert::encode_inbox_entry;
use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, Delta, Epoch, Failure, Head, InboxNotice, Key, Plan,
    SortKey, Subscribe, Timestamp,
};

use super::*;
use crate::account::list::FollowState;
use crate::session::StreamId;
use crate::store::{MemoryStore, ReplicaStore as _};

mod acked;
mod races;
mod taken;

/// A desk with its store, and what it asked for so far.
struct Talk {
    desk: Desk,
    store: MemoryStore,
    now: Instant,
    stream: Option<(StreamId, Subscribe)>,
    pulls: Vec<(PullId, Vec<CollectionName>)>,
    /// From where each was asked for last.
    shown: BTreeMap<CollectionName, Option<Cursor>>,
    /// So many notes are not taken by the store.
    failing_notes: usize,
    polls: Vec<(PollId, Option<CollectionName>)>,
    acks: Vec<Cursor>,
    checks: Vec<CollectionName>,
    list: BTreeMap<CollectionName, Followed>,
    /// Where the inbox stands at the server.
    head: u64,
    digest: Digest,
    items: BTreeMap<Key, Digest>,
}

const MS: Duration = Duration::from_millis(1);

fn name(number: usize) -> CollectionName {
    CollectionName::new(&format!("c/{number:04}")).unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn epoch() -> Epoch {
    Epoch::new(7).unwrap()
}

fn exists(at: u64) -> InboxEntry {
    InboxEntry::Exists(epoch(), version(at))
}

fn head(at: u64, digest: Digest) -> Head {
    Head {
        epoch: epoch(),
        version: version(at),
        floor: Version::ZERO,
        items: 0,
        tombstones: 0,
        bytes: 0,
        digest,
        commit_time: Timestamp::default(),
    }
}

/// An empty list that was committed to until it stood at `at`.
fn empty(from: u64, at: u64) -> Outcome {
    let cursor = |version| Cursor::at(epoch(), super::tests::version(version));
    Outcome::Delta(Delta {
        from: cursor(from),
        to: cursor(at),
        changes: Vec::new(),
        has_more: false,
        initial: false,
        digest: Some(Digest::EMPTY),
        unverified: false,
        head: head(at, Digest::EMPTY),
    })
}

// === impl Talk ===

impl Talk {
    fn new() -> Self {
        Self::on(MemoryStore::new(), Instant::now(), 0)
    }

    fn on(store: MemoryStore, now: Instant, clock_ms: u64) -> Self {
        let config =
            DeskConfig { subject: Subject::new("ada").unwrap(), clock_ms, ..DeskConfig::default() };
        let held = Holdings::read(&store, &config.subject.inbox()).unwrap();
        let desk = Desk::new(config, held, 1, now);
        let mut talk = Self {
            desk,
            store,
            now,
            stream: None,
            pulls: Vec::new(),
            shown: BTreeMap::new(),
            failing_notes: 0,
            polls: Vec::new(),
            acks: Vec::new(),
            checks: Vec::new(),
            list: BTreeMap::new(),
            head: 0,
            digest: Digest::EMPTY,
            items: BTreeMap::new(),
        };
        talk.act();
        let target = AcceptedTarget { collection: talk.inbox(), plan: Plan::Load, head: None };
        talk.event(Event::Accepted(vec![target], Duration::from_secs(15)));
        talk
    }

    fn inbox(&self) -> CollectionName {
        self.desk.inbox.clone()
    }

    fn act(&mut self) {
        while let Some(action) = self.desk.poll_action() {
            match action {
                Action::Session(session::Action::OpenStream(id, subscribe)) => {
                    self.stream = Some((id, subscribe));
                }
                Action::Session(session::Action::Pull(id, pull)) => {
                    let targets = || pull.targets.iter().flatten();
                    let shown = targets().map(|t| (t.collection.clone(), t.cursor));
                    self.shown.extend(shown);
                    self.pulls.push((id, targets().map(|t| t.collection.clone()).collect()));
                }
                Action::Session(session::Action::SelfCheck(name)) => self.checks.push(name),
                Action::Session(_) => {}
                Action::Write(name, write, notes) => {
                    let applied = self.store.write_with(&name, &write, &notes).unwrap();
                    self.desk.handle(
                        Input::Session(session::Input::Written(name, Ok(applied.standing))),
                        self.now,
                    );
                }
                Action::Note(notes) => {
                    let fails = self.failing_notes > 0;
                    self.failing_notes = self.failing_notes.saturating_sub(1);
                    if !fails {
                        self.store.note(&notes).unwrap();
                    }
                    self.desk.handle(Input::Noted(!fails), self.now);
                }
                Action::Scan => {
                    let held = Holdings::read(&self.store, &self.inbox()).unwrap();
                    self.desk.handle(Input::Scanned(Some(held)), self.now);
                }
                Action::Poll(id, _, after) => self.polls.push((id, after)),
                Action::Ack(cursor) => self.acks.push(cursor),
                Action::Show(shown, _) => {
                    for (name, one) in shown {
                        match one {
                            Some(one) => drop(self.list.insert(name, one)),
                            None => drop(self.list.remove(&name)),
                        }
                    }
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.desk.handle(input, self.now);
        self.act();
    }

    fn event(&mut self, event: Event) {
        let id = self.stream.as_ref().unwrap().0;
        self.input(Input::Session(session::Input::Event(id, event)));
    }

    /// Lets time pass, in the steps that the desk asks for.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.desk.deadline().clamp(self.now, until);
            self.input(Input::Session(session::Input::Elapsed));
            self.now += MS;
        }
    }

    /// The stream brings one page of the inbox that says this; `None` = not followed any more.
    fn told(&mut self, entries: &[(usize, Option<InboxEntry>)]) {
        let page = self.page(entries);
        self.event(page);
    }

    /// The next page of the inbox.
    fn page(&mut self, entries: &[(usize, Option<InboxEntry>)]) -> Event {
        let at = version(self.head + 1);
        let from = Cursor::at(epoch(), version(self.head));
        let mut changes = Vec::new();
        for (number, entry) in entries {
            let key = Key::new(name(*number).as_str().to_owned()).unwrap();
            self.digest -= self.items.remove(&key).unwrap_or(Digest::EMPTY);
            let kind = match entry {
                None => ChangeKind::Delete,
                Some(entry) => {
                    let value = encode_inbox_entry(*entry);
                    let sort_key = SortKey::default();
                    let digest = Digest::of_item(&key, at, &sort_key, value.as_bytes());
                    self.digest += digest;
                    self.items.insert(key.clone(), digest);
                    ChangeKind::Put { value: Some(value), sort_key, value_version: at }
                }
            };
            changes.push(Change { key, version: at, created: at, kind });
        }
        self.head += 1;
        let delta = Delta {
            from,
            to: Cursor::at(epoch(), at),
            changes,
            has_more: false,
            initial: false,
            digest: Some(self.digest),
            unverified: false,
            head: head(self.head, self.digest),
        };
        Event::Changes(self.inbox(), delta)
    }

    /// The stream tells of a collection that the inbox does not announce.
    fn noticed(&mut self, number: usize, at: u64) {
        let head = Some(head(at, Digest::EMPTY));
        let (inbox, collection) = (self.inbox(), name(number));
        self.event(Event::InboxNotice(InboxNotice { inbox, collection, head }));
    }

    /// Answers the oldest pull: each collection is empty and stands there.
    fn answer(&mut self, outcome: impl Fn(&CollectionName) -> Outcome) -> Vec<CollectionName> {
        let (id, names) = self.pulls.remove(0);
        let outcomes = names.iter().map(outcome).collect();
        self.input(Input::Session(session::Input::Pulled(id, Ok(outcomes))));
        names
    }

    fn state(&self, number: usize) -> FollowState {
        self.list[&name(number)].state.clone()
    }
}
