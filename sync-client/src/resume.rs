//! Following collections without a store: the server holds the place. For a process that hands
//! changes on (to a queue, a search index, another database) and keeps no copy itself.
//!
//! ```text
//! Held --page--> At(cursor) --page--> At(cursor) ...   acknowledged when the consumer says so
//!   +--nothing is held, or a reset--> Fresh --page--> At(cursor), a load: not acknowledged
//!                                                     before it is finished
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures::StreamExt as _;
use sync_proto::limits::HEARTBEAT_MS_DEFAULT;
use sync_proto::types::{
    AcceptedTarget, Acked, CollectionName, Cursor, Delta, Event, Failure, Goodbye, Head, Plan,
    ResetReason, Subscribe, Target, Version,
};

use crate::backoff::{Backoff, part_of};
use crate::client::{EventStream, SyncClient};
use crate::error::ClientError;

/// No message for so many heartbeats: the stream is dead.
const SILENT_HEARTBEATS: u32 = 3;

/// First and longest wait before a stream is opened again.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A consumer of collections that keeps nothing of them; made by [`SyncClient::resume`].
#[derive(Debug)]
pub struct Resumed {
    client: SyncClient,
    places: BTreeMap<CollectionName, Place>,
    /// Loads that are under way: a consumer that dies in one must begin it again.
    loading: BTreeSet<CollectionName>,
    /// What was handed out and not acknowledged.
    handed_out: BTreeMap<CollectionName, Cursor>,
    arrived: VecDeque<Arrival>,
    stream: Option<EventStream>,
    heartbeat: Duration,
    backoff: Backoff,
    wait: Option<Duration>,
}

/// Where a collection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where the server says.
    Held,
    /// At the beginning; whether the consumer knows.
    Fresh { told: bool },
    /// Here.
    At(Cursor),
    /// Nothing comes any more.
    Ended,
}

/// What comes of a collection, in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Arrival {
    /// It begins anew: the changes up to [`Arrival::CaughtUp`] are all that there is, and what they
    /// do not mention does not exist. Because nothing was acknowledged, or for this reason.
    Begins(CollectionName, Option<ResetReason>),
    /// Changes, in version order, at most one a key: its latest state.
    Changes(CollectionName, Delta),
    /// Everything up to here has been handed out.
    CaughtUp(CollectionName, Cursor),
    /// There is no such collection (any more). When it is created it begins anew.
    Absent(CollectionName),
    /// The credentials do not cover it, or it failed for good: nothing more comes of it.
    Ended(CollectionName, Option<Failure>),
}

// === impl SyncClient ===

impl SyncClient {
    /// Follows collections from where this client, by its name, has acknowledged them. Nothing was:
    /// from the beginning. Does not wait for the connection.
    pub fn resume(
        &self,
        collections: impl IntoIterator<Item = CollectionName>,
    ) -> Result<Resumed, ClientError> {
        if self.client_id().is_empty() {
            return Err(ClientError::Setting("going on from an ack needs a client_id".into()));
        }
        Ok(Resumed {
            client: self.clone(),
            places: collections.into_iter().map(|name| (name, Place::Held)).collect(),
            loading: BTreeSet::new(),
            handed_out: BTreeMap::new(),
            arrived: VecDeque::new(),
            stream: None,
            heartbeat: Duration::from_millis(HEARTBEAT_MS_DEFAULT.into()),
            backoff: Backoff::new(WAITS.0, WAITS.1),
            wait: None,
        })
    }
}

// === impl Resumed ===

impl Resumed {
    /// The next thing that comes; waits for it, through lost connections and restarts of the server.
    /// May be dropped and called again: nothing is lost. `Err`: it is of no use to wait.
    pub async fn next(&mut self) -> Result<Arrival, ClientError> {
        loop {
            if let Some(arrival) = self.arrived.pop_front() {
                self.note(&arrival);
                return Ok(arrival);
            }
            self.advance().await?;
        }
    }

    /// Acknowledges everything that [`next`](Self::next) has returned: call it when that is durably
    /// done. A load counts when it is finished. Whoever dies before it is handed the same again.
    pub async fn ack(&mut self) -> Result<(), ClientError> {
        let acked: Vec<Acked> = self
            .handed_out
            .iter()
            .filter(|(name, _)| !self.loading.contains(*name))
            .map(|(name, cursor)| Acked { collection: name.clone(), cursor: *cursor })
            .collect();
        if !acked.is_empty() {
            self.client.ack(acked.clone()).await?;
        }
        for Acked { collection, cursor } in acked {
            if self.handed_out.get(&collection) == Some(&cursor) {
                self.handed_out.remove(&collection);
            }
        }
        Ok(())
    }

    /// What the consumer may acknowledge from here on.
    fn note(&mut self, arrival: &Arrival) {
        match arrival {
            Arrival::Begins(name, _) => {
                self.handed_out.remove(name);
                self.loading.insert(name.clone());
            }
            Arrival::Changes(name, delta) => {
                self.handed_out.insert(name.clone(), delta.to);
                if !delta.has_more {
                    self.loading.remove(name);
                }
            }
            Arrival::CaughtUp(name, cursor) => {
                self.handed_out.insert(name.clone(), *cursor);
                self.loading.remove(name);
            }
            Arrival::Absent(name) | Arrival::Ended(name, _) => {
                self.handed_out.remove(name);
                self.loading.remove(name);
            }
        }
    }

    /// Takes one step: waits, opens the stream, or takes one message from it.
    async fn advance(&mut self) -> Result<(), ClientError> {
        if let Some(wait) = self.wait {
            tokio::time::sleep(wait).await;
            self.wait = None;
        }
        let Some(stream) = &mut self.stream else { return self.open().await };
        match tokio::time::timeout(self.heartbeat * SILENT_HEARTBEATS, stream.next()).await {
            Ok(Some(Ok(event))) => self.hear(event),
            Ok(Some(Err(error))) if !error.is_retryable() => {
                self.stream = None;
                return Err(error);
            }
            Ok(Some(Err(_)) | None) | Err(_) => self.begin_again(None),
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let target = |(name, place): (&CollectionName, &Place)| {
            let fresh = Target::all(name.clone(), None);
            match place {
                Place::Held => Some(Target { from_last_ack: true, ..fresh }),
                Place::Fresh { .. } => Some(fresh),
                Place::At(cursor) => Some(Target { cursor: Some(*cursor), ..fresh }),
                Place::Ended => None,
            }
        };
        let targets = self.places.iter().filter_map(target).collect();
        let client_id = self.client.client_id().to_owned();
        let asked = Subscribe { targets, heartbeat: self.heartbeat, client_id };
        match self.client.subscribe(asked).await {
            Ok(stream) => self.stream = Some(stream),
            Err(error) if error.is_retryable() => self.begin_again(None),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The stream is of no more use; the next one is opened after a wait.
    fn begin_again(&mut self, at_least: Option<Duration>) {
        self.stream = None;
        let wait = self.backoff.next(&mut rand::rng());
        self.wait = Some(at_least.map_or(wait, |least| least + wait));
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Accepted(targets, heartbeat) => {
                self.heartbeat = heartbeat;
                for target in targets {
                    self.accepted(target);
                }
            }
            Event::Changes(name, delta) => self.changes(name, delta),
            Event::CaughtUp(name, cursor) => self.caught_up(name, cursor),
            Event::Reset(name, reset) => self.start_over(name, reset.reason),
            Event::Absent(name) => self.absent(name),
            Event::Revoked(name) => self.end(name, None),
            Event::Failed(name, failure) => match failure.retry_after {
                Some(wait) => self.begin_again(Some(wait)),
                None => self.end(name, Some(failure)),
            },
            Event::Goodbye(Goodbye { retry_after, jitter, .. }) => {
                self.stream = None;
                self.wait = Some(retry_after + part_of(jitter, &mut rand::rng()));
            }
            Event::Notice(..)
            | Event::InboxNotice(_)
            | Event::Bookmark(..)
            | Event::Lagging(..) => {}
        }
    }

    fn accepted(&mut self, target: AcceptedTarget) {
        let AcceptedTarget { collection, plan, head } = target;
        match plan {
            Plan::Live => {
                if let Some(cursor) = head.as_ref().map(Head::cursor)
                    && self.places.get(&collection) != Some(&Place::At(cursor))
                {
                    self.caught_up(collection, cursor);
                }
            }
            Plan::Reset(reset) => self.start_over(collection, reset.reason),
            Plan::Absent => self.absent(collection),
            Plan::Denied => self.end(collection, None),
            Plan::CatchUp | Plan::Load | Plan::Notify => {}
        }
    }

    fn changes(&mut self, name: CollectionName, delta: Delta) {
        let begins = delta.from.version == Version::ZERO;
        let fits = match self.places.get(&name) {
            Some(Place::Held) => true,
            Some(Place::Fresh { .. }) => begins,
            Some(Place::At(at)) => {
                let same = at.epoch == delta.from.epoch;
                if same && delta.to.version <= at.version {
                    return;
                }
                same && delta.from.version <= at.version
            }
            Some(Place::Ended) | None => return,
        };
        if !fits {
            return self.begin_again(None);
        }
        self.backoff.reset();
        let before = self.places.insert(name.clone(), Place::At(delta.to));
        if begins && matches!(before, Some(Place::Held | Place::Fresh { told: false })) {
            self.arrived.push_back(Arrival::Begins(name.clone(), None));
        }
        self.arrived.push_back(Arrival::Changes(name, delta));
    }

    fn caught_up(&mut self, name: CollectionName, cursor: Cursor) {
        self.backoff.reset();
        self.places.insert(name.clone(), Place::At(cursor));
        self.arrived.push_back(Arrival::CaughtUp(name, cursor));
    }

    /// The others go on, but this one needs a stream that asks for it from the beginning.
    fn start_over(&mut self, name: CollectionName, reason: ResetReason) {
        self.places.insert(name.clone(), Place::Fresh { told: true });
        self.arrived.push_back(Arrival::Begins(name, Some(reason)));
        self.begin_again(None);
    }

    /// The target stays: a first load follows when the collection is created.
    fn absent(&mut self, name: CollectionName) {
        let absent = Place::Fresh { told: false };
        if self.places.insert(name.clone(), absent) != Some(absent) {
            self.arrived.push_back(Arrival::Absent(name));
        }
    }

    fn end(&mut self, name: CollectionName, why: Option<Failure>) {
        self.places.insert(name.clone(), Place::Ended);
        self.arrived.push_back(Arrival::Ended(name, why));
    }
}
