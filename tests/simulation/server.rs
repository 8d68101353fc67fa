//! The server: the real ledger over the real in-memory store, and the real subscriptions. It can
//! die inside of any storage step.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_client::session::{Done, Input, MendFault, PullId, StreamId, Task};
use sync_proto::types::{
    CollectionName, Epoch, Event, Head, Outcome, Pull, Reconcile, Reconciled, Subscribe, Timestamp,
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
use sync_server::engine::pulling::Answered;
use sync_server::engine::reconciling::ReconcileError;
use sync_server::store::StoreError;
use sync_server::store::memory::MemoryStore;

use crate::network::DeviceId;

/// A server that is up.
pub(crate) struct Server {
    pub(crate) ledger: Ledger<MemoryStore>,
    pub(crate) streams: BTreeMap<(DeviceId, StreamId), Stream>,
    pub(crate) limits: PageLimits,
    /// What was sent in this life.
    pub(crate) clients: Clients,
}

/// How a server keeps what it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) tombstones_max: u64,
    pub(crate) page_changes_max: usize,
    pub(crate) diffusion: Limits,
}

/// A subscription.
pub(crate) struct Stream {
    following: Following,
    names: Vec<CollectionName>,
    heartbeat: Duration,
    pub(crate) next_bookmark: Duration,
}

impl Server {
    /// Opens a ledger over what a store holds.
    pub(crate) fn open(store: MemoryStore, kept: Kept) -> Self {
        let Kept { tombstones_max, page_changes_max, diffusion } = kept;
        let retention = Retention { tombstone_age_max: Duration::from_secs(40), tombstones_max };
        // Short and few: held cursors go, too.
        let acks = AckRetention { age_max: Duration::from_secs(60), count_max: 3 };
        let settings = Settings { retention, diffusion, acks, ..Settings::default() };
        let ledger = Ledger::open(store, settings, &mut |_| {}).expect("the rows fit together");
        let limits = PageLimits { changes_max: page_changes_max, ..PageLimits::FULL };
        Self { ledger, streams: BTreeMap::new(), limits, clients: Clients::default() }
    }

    /// Heads of what authorities write.
    pub(crate) fn heads(&self) -> BTreeMap<CollectionName, Head> {
        let all = self.ledger.list_collections("", None, usize::MAX, |name| !name.is_inbox());
        all.into_iter().collect()
    }

    pub(crate) fn commit(
        &mut self,
        requests: &[Request],
        now: Timestamp,
        mint: &mut dyn FnMut() -> Epoch,
    ) -> Result<Group, StoreError> {
        let group = self.ledger.commit(requests, now, mint)?;
        self.announce(&group.moved);
        Ok(group)
    }

    /// Tells the streams that heads moved.
    pub(crate) fn announce(&mut self, moved: &[CollectionName]) {
        for stream in self.streams.values_mut() {
            let marks = stream.names.iter().enumerate();
            let marks = marks.filter(|(_, name)| moved.contains(name)).map(|(index, _)| index);
            stream.following.mark(marks.collect());
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
        id: StreamId,
        asked: Subscribe,
        now: Duration,
    ) -> Input {
        let names = asked.targets.iter().map(|target| target.collection.clone()).collect();
        let heartbeat = asked.heartbeat;
        let (following, accepted) =
            Following::accept(&self.ledger, asked.targets, self.limits, |_| true);
        let next_bookmark = now + heartbeat;
        let stream = Stream { following, names, heartbeat, next_bookmark };
        self.streams.insert((device, id), stream);
        message(id, Event::Accepted(accepted, heartbeat))
    }

    /// One turn of one target of a stream: what it says.
    pub(crate) fn step(&mut self, of: (DeviceId, StreamId), slow: bool) -> Vec<Input> {
        let Some(stream) = self.streams.get_mut(&of) else { return Vec::new() };
        let events = stream.following.step(&self.ledger, slow).expect("reads never fail");
        events.into_iter().map(|event| message(of.1, event)).collect()
    }

    pub(crate) fn is_due(&self, of: (DeviceId, StreamId)) -> bool {
        self.streams.get(&of).is_some_and(|stream| stream.following.is_due())
    }

    pub(crate) fn bookmark(&mut self, of: (DeviceId, StreamId), now: Timestamp) -> Option<Input> {
        let stream = self.streams.get_mut(&of)?;
        stream.next_bookmark += stream.heartbeat;
        Some(message(of.1, stream.following.bookmark(now)))
    }

    /// Gives a collection that exists a new epoch.
    pub(crate) fn rotate_epoch(
        &mut self,
        name: &CollectionName,
        now: Timestamp,
        dice: &mut StdRng,
    ) -> Epoch {
        let mut mint = || Epoch::new(dice.random::<u64>() | 1).expect("not zero");
        let asked = Administration::RotateEpoch;
        let done = self.ledger.administer(name, &asked, now, &mut mint, &mut || true);
        match done.expect("no fault is planned") {
            Ok(Administered::Rotated(head)) => head.epoch,
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
                let found = self.ledger.get_items(name, keys, false);
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
    pub(crate) fn pull(&self, id: PullId, mut pull: Pull) -> Input {
        pull.changes_max = pull.changes_max.min(self.limits.changes_max);
        let first = pull.targets.len() / 2;
        let answers = self.ledger.pull(&pull, first, |_| true, &AtomicBool::new(false));
        let outcome = |answer: Answered| {
            let wire = v1::Outcome::from(answer.outcome.expect("reads never fail"));
            Outcome::try_from(wire).expect("what the server says is well-formed")
        };
        Input::Pulled(id, Ok(answers.into_iter().map(outcome).collect()))
    }
}

/// A message as it arrives: over the wire and back.
fn message(stream: StreamId, event: Event<Bytes>) -> Input {
    let wire = v1::SubscribeResponse::from(event);
    Input::Event(stream, Event::try_from(wire).expect("what the server says is well-formed"))
}
