//! Following collections without a store: the server holds the place. For a process that hands
//! changes on (to a queue, a search index, another database) and keeps no copy itself.
//!
//! ```text
//! Held --page--> At(cursor) --page--> At(cursor) ...   acknowledged when the consumer says so
//!   +--nothing is held, or a reset--> Fresh --page--> At(cursor), a load: not acknowledged
//!                                                     before it is finished
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use sync_proto::limits::HEARTBEAT_MS_DEFAULT;
use sync_proto::types::{
    AcceptedTarget, Acked, CollectionName, Cursor, Delta, Event, Failure, Head, Plan, ResetReason,
    Subscribe, Target, Version,
};

use crate::backoff::Backoff;
use crate::client::{EventStream, SyncClient};
use crate::driver::now;
use crate::error::ClientError;
use crate::stream_life::{ASKED_WAIT_MAX, Silence, goodbye_wait, heartbeat_within};

/// First and longest wait before a stream is opened again.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// First and longest wait before a collection that failed alone is asked for again.
const FAULT_WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5 * 60));

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
    line: Line,
    opened_at: Instant,
    heartbeat: Duration,
    backoff: Backoff,
    /// Collections that failed: until when the stream does not carry them, and what they wait.
    kept_back: BTreeMap<CollectionName, (Instant, Backoff)>,
}

/// The stream. It outlives a call of [`Resumed::next`] that is given up, and so do its moments.
enum Line {
    /// None is opened before.
    Closed(Instant),
    Opening(BoxFuture<'static, Result<EventStream, ClientError>>),
    Open(Box<EventStream>, Silence),
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
            line: Line::Closed(now()),
            opened_at: now(),
            heartbeat: Duration::from_millis(HEARTBEAT_MS_DEFAULT.into()),
            backoff: Backoff::new(WAITS.0, WAITS.1),
            kept_back: BTreeMap::new(),
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

    /// Takes one step: waits, opens the stream, or takes one message from it. Given up and called
    /// again it goes on where it was.
    async fn advance(&mut self) -> Result<(), ClientError> {
        // Of those that the present stream does not carry.
        let waits = self.kept_back.values().map(|(until, _)| *until);
        let retry_at = waits.filter(|until| *until > self.opened_at).min();
        match &mut self.line {
            Line::Open(..) if retry_at.is_some_and(|at| at <= now()) => {
                // Somebody's wait is over: a stream with all.
                self.line = Line::Closed(now());
            }
            Line::Closed(open_at) => {
                tokio::time::sleep_until((*open_at).into()).await;
                self.open();
            }
            Line::Opening(opening) => match opening.await {
                Ok(stream) => {
                    let silence = Silence::of_opening(self.client.received(), now());
                    self.line = Line::Open(Box::new(stream), silence);
                }
                Err(error) if error.is_retryable() => self.begin_again(error.retry_after()),
                Err(error) => {
                    self.line = Line::Closed(now());
                    return Err(error);
                }
            },
            Line::Open(stream, silence) => {
                let look_at = retry_at.map_or(silence.look_at(), |at| at.min(silence.look_at()));
                match tokio::time::timeout_at(look_at.into(), stream.next()).await {
                    Ok(Some(Ok(event))) => {
                        if let Event::Accepted(_, heartbeat) = &event {
                            self.heartbeat = heartbeat_within(*heartbeat);
                        }
                        *silence = Silence::between(self.heartbeat, self.client.received(), now());
                        self.hear(event);
                    }
                    Ok(Some(Err(error))) if !error.is_retryable() => {
                        self.line = Line::Closed(now());
                        return Err(error);
                    }
                    Ok(Some(Err(error))) => self.begin_again(error.retry_after()),
                    Ok(None) => self.begin_again(None),
                    Err(_) if silence.is_over(self.client.received(), now()) => {
                        self.begin_again(None);
                    }
                    // The line brings something, or somebody's wait is over.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Opens a stream for all that are not kept back.
    fn open(&mut self) {
        let at = now();
        let targets = self.targets(at);
        let waits = self.kept_back.values().map(|(until, _)| *until).filter(|until| *until > at);
        if let Some(next) = waits.min().filter(|_| targets.is_empty()) {
            self.line = Line::Closed(next);
            return;
        }
        self.opened_at = at;
        let client_id = self.client.client_id().to_owned();
        let asked = Subscribe { targets, heartbeat: self.heartbeat, client_id };
        let client = self.client.clone();
        self.line = Line::Opening(async move { client.subscribe(asked).await }.boxed());
    }

    /// What a stream that is opened now carries.
    fn targets(&self, at: Instant) -> Vec<Target> {
        let kept_back = |name| self.kept_back.get(name).is_some_and(|(until, _)| *until > at);
        let target = |(name, place): (&CollectionName, &Place)| {
            let fresh = Target::all(name.clone(), None);
            match place {
                Place::Ended => None,
                Place::Held => Some(Target { from_last_ack: true, ..fresh }),
                Place::Fresh { .. } => Some(fresh),
                Place::At(cursor) => Some(Target { cursor: Some(*cursor), ..fresh }),
            }
        };
        self.places.iter().filter(|(name, _)| !kept_back(*name)).filter_map(target).collect()
    }

    /// The stream is of no more use; the next one is opened after a wait.
    fn begin_again(&mut self, asked: Option<Duration>) {
        let wait = asked.unwrap_or_default() + self.backoff.next(&mut rand::rng());
        self.line = Line::Closed(now() + wait);
    }

    /// One has failed and may come back; the others go on.
    fn keep_back(&mut self, name: CollectionName, asked: Duration) {
        let new = (now(), Backoff::new(FAULT_WAITS.0, FAULT_WAITS.1));
        let (until, waits) = self.kept_back.entry(name).or_insert(new);
        let wait = waits.next(&mut rand::rng());
        *until = now() + wait.max(asked.min(ASKED_WAIT_MAX));
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Accepted(targets, _) => {
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
                Some(wait) => self.keep_back(name, wait),
                None => self.end(name, Some(failure)),
            },
            Event::Goodbye(goodbye) => {
                self.line = Line::Closed(now() + goodbye_wait(&goodbye, &mut rand::rng()));
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
        self.kept_back.remove(&name);
        let before = self.places.insert(name.clone(), Place::At(delta.to));
        if begins && matches!(before, Some(Place::Held | Place::Fresh { told: false })) {
            self.arrived.push_back(Arrival::Begins(name.clone(), None));
        }
        self.arrived.push_back(Arrival::Changes(name, delta));
    }

    fn caught_up(&mut self, name: CollectionName, cursor: Cursor) {
        self.backoff.reset();
        self.kept_back.remove(&name);
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

// === impl Line ===

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(open_at) => f.debug_tuple("Closed").field(open_at).finish(),
            Self::Opening(_) => f.write_str("Opening"),
            Self::Open(stream, _) => f.debug_tuple("Open").field(stream).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sync_proto::types::{Goodbye, GoodbyeReason};

    use super::*;

    fn name(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    fn consumer(uri: &str) -> Resumed {
        let client = SyncClient::builder(uri).client_id("indexer").build().unwrap();
        client.resume(["a", "b"].map(name)).unwrap()
    }

    /// R41, R45: a consumer that gives each wait up after a moment, to look after something else,
    /// gets on all the same.
    #[tokio::test]
    async fn a_consumer_that_looks_up_often_gets_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut resumed = consumer(&format!("http://{}", listener.local_addr().unwrap()));
        let (mut calls, mut ticks) = (0, 0);
        while calls < 5 {
            ticks += 1;
            assert!(ticks < 3_000, "{calls} calls after {ticks} ticks");
            tokio::select! {
                biased;
                Ok(_hung_up) = listener.accept() => calls += 1,
                arrival = resumed.next() => panic!("{arrival:?}"),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }

    /// R12, R43: one that fails waits for its own time, which has an end, and the others go on.
    #[tokio::test]
    async fn one_that_fails_stops_nobody_else() {
        let mut resumed = consumer("http://127.0.0.1:1");
        resumed.line = Line::Opening(futures::future::pending().boxed());
        let endless = Duration::from_secs(1 << 40);
        let failure =
            |retry_after| Failure { code: 14, message: String::new(), retry_after, reason: None };
        resumed.hear(Event::Failed(name("a"), failure(Some(endless))));
        assert!(matches!(resumed.line, Line::Opening(_)), "the stream goes on");
        let until = resumed.kept_back[&name("a")].0;
        assert!(until <= now() + ASKED_WAIT_MAX);
        let carried = |resumed: &Resumed, at| {
            let targets = resumed.targets(at).into_iter();
            targets.map(|target| target.collection).collect::<Vec<_>>()
        };
        assert_eq!(carried(&resumed, now()), [name("b")]);
        assert_eq!(carried(&resumed, until), ["a", "b"].map(name));
        let goodbye =
            Goodbye { reason: GoodbyeReason::Draining, retry_after: endless, jitter: endless };
        resumed.hear(Event::Goodbye(goodbye));
        let Line::Closed(open_at) = resumed.line else { panic!("{resumed:?}") };
        assert!(open_at <= now() + 2 * ASKED_WAIT_MAX);
    }
}
