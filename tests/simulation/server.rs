//! The server: the real ledger over the real in-memory store, and the real subscriptions. It can
//! die inside of any storage step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_client::session::{Done, Input, MendFault, StreamId, Task};
use sync_proto::convert::polled;
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Cursor, Epoch, Event, Head, Outcome, Plan, Polled, Pull, Reconcile, Reconciled,
    Subscribe, Timestamp,
};
use sync_proto::v1;
use sync_server::core::acks::AckRetention;
use sync_server::core::clients::Clients;
use sync_server::core::diffusion::Limits;
use sync_server::core::page::PageLimits;
use sync_server::core::request::Request;
use sync_server::core::retention::Retention;
use sync_server::engine::administering::{Administered, Administration};
use sync_server::engine::following::Following;
use sync_server::engine::ledger::{Group, Ledger, Settings};
use sync_server::engine::noticing::{Noticing, WatchId, Watching};
use sync_server::engine::pulling::Answered;
use sync_server::engine::reconciling::ReconcileError;
use sync_server::store::StoreError;
use sync_server::store::keys::ClientKey;
use sync_server::store::memory::MemoryStore;

use crate::network::DeviceId;

/// Least time between two notices of one collection.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// A server that is up.
pub(crate) struct Server {
    pub(crate) ledger: Ledger<MemoryStore>,
    pub(crate) streams: BTreeMap<(DeviceId, StreamId), Stream>,
    pub(crate) limits: PageLimits,
    crowded: bool,
    /// What was sent in this life.
    pub(crate) clients: Clients,
    /// How long the history has lasted.
    pub(crate) now: Duration,
}

/// How a server keeps what it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) tombstones_max: u64,
    pub(crate) page_changes_max: usize,
    pub(crate) diffusion: Limits,
    /// Live followers share pages, as if they were many.
    pub(crate) crowded: bool,
}

/// A subscription.
pub(crate) struct Stream {
    following: Following,
    noticing: Noticing,
    names: Vec<CollectionName>,
    /// What it listens to besides.
    watched: BTreeMap<WatchId, CollectionName>,
    /// Whose acks are judged by what is sent here.
    client: Option<ClientKey>,
    began: Duration,
    heartbeat: Duration,
    next_bookmark: Duration,
}

/// The answer to one target, and what is said besides.
pub(crate) type Said = (Outcome, Polled);

impl Server {
    /// Opens a ledger over what a store holds.
    pub(crate) fn open(store: MemoryStore, kept: Kept) -> Self {
        let Kept { tombstones_max, page_changes_max, diffusion, crowded } = kept;
        let retention = Retention { tombstone_age_max: Duration::from_secs(40), tombstones_max };
        // Short and few: held cursors go, too.
        let acks = AckRetention { age_max: Duration::from_secs(60), count_max: 3 };
        let settings = Settings { retention, diffusion, acks, ..Settings::default() };
        let ledger = Ledger::open(store, settings, &mut |_| {}).expect("the rows fit together");
        let limits = PageLimits { changes_max: page_changes_max, ..PageLimits::FULL };
        let (streams, clients) = (BTreeMap::new(), Clients::default());
        Self { ledger, streams, limits, crowded, clients, now: Duration::ZERO }
    }

    /// Heads of what authorities write.
    pub(crate) fn heads(&self) -> BTreeMap<CollectionName, Head> {
        let all = self
            .ledger
            .list_collections("", &[String::new()], None, usize::MAX, |name| !name.is_inbox());
        all.into_iter().collect()
    }

    pub(crate) fn commit(
        &mut self,
        requests: &[Request],
        now: Timestamp,
        mint: &mut dyn FnMut() -> Epoch,
    ) -> Result<Group, StoreError> {
        let group = self.ledger.commit(requests, now, mint)?;
        for name in group.moved.iter().filter(|_| self.crowded) {
            self.ledger.prepare_tail(name, PageLimits::FULL);
        }
        self.announce(&group.moved);
        Ok(group)
    }

    /// Tells the streams that heads moved.
    pub(crate) fn announce(&mut self, moved: &[CollectionName]) {
        for stream in self.streams.values_mut() {
            let watched = stream.watched.iter().map(|(id, name)| (*id, name));
            let marks = stream.names.iter().enumerate().chain(watched);
            let marks = marks.filter(|(_, name)| moved.contains(name)).map(|(index, _)| index);
            let marks: BTreeSet<usize> = marks.collect();
            stream.noticing.mark(&marks, stream.lasted(self.now));
            stream.following.mark(marks);
        }
    }

    /// The same of what was moved besides.
    pub(crate) fn announce_the_rest(&mut self) {
        let concerned = self.ledger.take_concerned();
        self.announce(&concerned);
    }

    /// Opens a stream; the message that comes first.
    pub(crate) fn subscribe(
        &mut self,
        device: DeviceId,
        client: Option<ClientKey>,
        id: StreamId,
        asked: Subscribe,
    ) -> Input {
        let names = asked.targets.iter().map(|target| target.collection.clone()).collect();
        let heartbeat = asked.heartbeat;
        let (following, accepted) =
            Following::accept(&self.ledger, asked.targets, self.limits, |_| true);
        let noticing = Noticing::new(following.targets(), &accepted, NOTICE_INTERVAL);
        let first = Event::Accepted(accepted, heartbeat);
        self.remember(client.as_ref(), reached(&first));
        let (began, next_bookmark) = (self.now, self.now + heartbeat);
        let watched = BTreeMap::new();
        let stream =
            Stream { following, noticing, names, watched, client, began, heartbeat, next_bookmark };
        self.streams.insert((device, id), stream);
        message(id, first)
    }

    /// One turn of one target of a stream: what it says.
    pub(crate) fn step(&mut self, of: (DeviceId, StreamId), slow: bool) -> Vec<Input> {
        let Some(stream) = self.streams.get_mut(&of) else { return Vec::new() };
        let said = stream.step(&self.ledger, slow, self.now).expect("reads never fail");
        let client = stream.client.clone();
        for event in &said {
            self.remember(client.as_ref(), reached(event));
        }
        said.into_iter().map(|event| message(of.1, event)).collect()
    }

    pub(crate) fn is_due(&self, of: (DeviceId, StreamId)) -> bool {
        self.streams.get(&of).is_some_and(|stream| {
            stream.following.is_due() || stream.noticing.is_due(stream.lasted(self.now))
        })
    }

    /// When a stream has something to say by itself, and which.
    pub(crate) fn next_turn(&self) -> Option<(Duration, (DeviceId, StreamId))> {
        self.streams.iter().map(|(of, stream)| (stream.next_turn(), *of)).min()
    }

    /// The bookmark of a stream, if it is due.
    pub(crate) fn bookmark(&mut self, of: (DeviceId, StreamId), now: Timestamp) -> Option<Input> {
        let stream = self.streams.get_mut(&of).filter(|it| it.next_bookmark <= self.now)?;
        stream.next_bookmark += stream.heartbeat;
        let (event, client) = (stream.following.bookmark(now), stream.client.clone());
        self.remember(client.as_ref(), reached(&event));
        Some(message(of.1, event))
    }

    /// Remembers what was sent to a client, as the service does before it sends it.
    fn remember(&mut self, client: Option<&ClientKey>, sent: Vec<(CollectionName, Cursor)>) {
        if let Some(client) = client {
            self.clients.sent(client, sent, Timestamp::default());
        }
    }

    /// Gives a collection that exists a new epoch.
    pub(crate) fn rotate_epoch(
        &mut self,
        name: &CollectionName,
        now: Timestamp,
        dice: &mut StdRng,
    ) -> Result<Epoch, StoreError> {
        let mut mint = || Epoch::new(dice.random::<u64>() | 1).expect("not zero");
        let asked = Administration::RotateEpoch;
        match self.ledger.administer(name, &asked, now, &mut mint, &mut || true)? {
            Ok(Administered::Rotated(head)) => Ok(head.epoch),
            other => panic!("{name} was not rotated: {other:?}"),
        }
    }

    /// Answers a step of a repair, over the wire and back.
    pub(crate) fn mend(&self, name: &CollectionName, task: &Task) -> Result<Done, MendFault> {
        match task {
            Task::Round(round) => {
                let (collection, round) = (name.clone(), round.clone());
                let asked = Reconcile { collection, round, client_id: String::new() };
                let wire = v1::ReconcileRequest::from(asked);
                let asked = Reconcile::try_from(wire).expect("what clients ask is well-formed");
                let answer = self.ledger.reconcile(&asked).map_err(|error| match error {
                    ReconcileError::NotFound => MendFault::NotFound,
                    ReconcileError::BeginAgain(_) => MendFault::Moved,
                    other @ (ReconcileError::Token(_) | ReconcileError::Store(_) | _) => {
                        panic!("a token of another question, or a read failed: {other}")
                    }
                })?;
                let answer = Reconciled::from_wire(answer.into(), &asked.round);
                Ok(Done::Answered(answer.expect("what the server says is well-formed")))
            }
            Task::Fetch(keys) => {
                let found = self.ledger.get_items(name, keys, false, PAGE_BYTES_MAX);
                let found = found.map_err(|_| MendFault::NotFound)?;
                let looked_at = found.results.len();
                let items = found.results.into_iter().filter_map(Result::ok);
                Ok(Done::Fetched(items.collect(), looked_at, found.head))
            }
            Task::Sum | Task::Compare(_) | Task::Keep(_) | Task::Rest(_) => {
                unreachable!("a device does this by itself")
            }
        }
    }

    /// Answers a pull, over the wire and back.
    pub(crate) fn pull(&mut self, client: Option<&ClientKey>, mut pull: Pull) -> Vec<Said> {
        pull.changes_max = pull.changes_max.min(self.limits.changes_max);
        let first = pull.targets.len() / 2;
        let answers = self.ledger.pull(&pull, first, |_| true, &AtomicBool::new(false));
        let said: Vec<Said> = answers.into_iter().map(over_the_wire).collect();
        let names = pull.targets.into_iter().map(|target| target.expect("well-formed").collection);
        let sent = names.zip(&said).filter_map(|(name, (outcome, _))| Some((name, at(outcome)?)));
        self.remember(client, sent.collect());
        said
    }
}

impl Stream {
    /// What the service does in one turn of a stream.
    fn step(
        &mut self,
        ledger: &Ledger<MemoryStore>,
        slow: bool,
        now: Duration,
    ) -> Result<Vec<Event<Bytes>>, StoreError> {
        let lasted = self.lasted(now);
        let due = self.following.is_due();
        if !slow
            && due
            && !self.noticing.is_due(lasted)
            && let Some(tails) = self.following.at_hand(ledger)
        {
            self.following.took(&tails);
            let said =
                tails.iter().map(|one| Event::Changes(one.collection.clone(), one.delta.clone()));
            return Ok(said.collect());
        }
        let mut events = if due { self.following.step(ledger, slow)? } else { Vec::new() };
        self.noticing.heard(&events)?;
        if self.noticing.is_due(lasted) {
            events.extend(self.noticing.step(ledger, lasted, |_| true)?);
        }
        for change in self.noticing.take_changes() {
            match change {
                Watching::Begin(id, name) => drop(self.watched.insert(id, name)),
                Watching::End(id) => drop(self.watched.remove(&id)),
            }
        }
        Ok(events)
    }

    fn lasted(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }

    fn next_turn(&self) -> Duration {
        let notice = self.noticing.next_at().map(|at| self.began + at);
        notice.map_or(self.next_bookmark, |at| at.min(self.next_bookmark))
    }
}

/// How far a message brings a client that has it.
fn reached(event: &Event<Bytes>) -> Vec<(CollectionName, Cursor)> {
    match event {
        Event::Accepted(targets, _) => {
            let live = targets.iter().filter(|target| target.plan == Plan::Live);
            let at = live.filter_map(|one| Some((one.collection.clone(), one.head?.cursor())));
            at.collect()
        }
        Event::Changes(name, delta) => vec![(name.clone(), delta.to)],
        Event::CaughtUp(name, cursor) => vec![(name.clone(), *cursor)],
        Event::Bookmark(positions, _) => {
            positions.iter().map(|one| (one.collection.clone(), one.cursor)).collect()
        }
        Event::Notice(..)
        | Event::InboxNotice(_)
        | Event::Lagging(..)
        | Event::Reset(..)
        | Event::Absent(_)
        | Event::Revoked(_)
        | Event::Failed(..)
        | Event::Goodbye(_) => Vec::new(),
    }
}

/// How far an answer brings a client that has it.
fn at(outcome: &Outcome) -> Option<Cursor> {
    match outcome {
        Outcome::Delta(delta) => Some(delta.to),
        Outcome::Aligned(head) => Some(head.cursor()),
        Outcome::Reset(_)
        | Outcome::Denied
        | Outcome::NotFound
        | Outcome::Deferred(_)
        | Outcome::Failed(_) => None,
    }
}

fn over_the_wire(answer: Answered) -> Said {
    let mut wire = v1::Outcome::from(answer.outcome.expect("reads never fail"));
    (wire.polled, wire.polled_more) = answer.polled.into();
    let heads = polled(&wire).expect("what the server says is well-formed");
    (Outcome::try_from(wire).expect("what the server says is well-formed"), heads)
}

/// A message as it arrives: over the wire and back.
fn message(stream: StreamId, event: Event<Bytes>) -> Input {
    let wire = v1::SubscribeResponse::from(event);
    Input::Event(stream, Event::try_from(wire).expect("what the server says is well-formed"))
}
