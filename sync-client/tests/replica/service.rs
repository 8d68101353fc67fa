//! The reference server behind a real socket, with faults on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sync_proto::convert::encode_change;
use sync_proto::types::{
    CollectionName, Commit, Cursor, Delta, Event, Goodbye, GoodbyeReason, InboxEntry, Key, Op,
    Outcome, Plan, Reconcile, Subscribe,
};
use sync_proto::v1;
use sync_proto::v1::sync_service_server::{SyncService, SyncServiceServer};
use sync_proto::v1::write_service_server::{WriteService, WriteServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::reference::inboxes::Inboxes;
use crate::reference::{NoRound, Serving, failure};

/// A running server.
#[derive(Clone)]
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

pub(crate) struct State {
    pub(crate) server: Inboxes,
    dice: StdRng,
    /// Streams say nothing any more, as if their peer had vanished.
    pub(crate) silent: bool,
    /// Streams end with a goodbye.
    pub(crate) goodbye: bool,
    /// Pulls fail as a whole, so many times.
    pub(crate) failing_pulls: u32,
    pub(crate) denied: BTreeSet<CollectionName>,
    /// Answers about these do not parse.
    pub(crate) garbled: BTreeSet<CollectionName>,
    pub(crate) streams: u32,
    pub(crate) pulls: u32,
    /// What was asked for, pull by pull.
    pub(crate) asked: Vec<Vec<CollectionName>>,
    /// Bytes of the answers to pulls.
    pub(crate) answered_bytes: usize,
    /// Answers about these are failures.
    pub(crate) poison: BTreeSet<CollectionName>,
    /// Where each client says that it stands.
    pub(crate) acks: BTreeMap<(String, CollectionName), Cursor>,
    /// Cursors shown by the last Subscribe.
    pub(crate) shown: BTreeMap<CollectionName, Option<sync_proto::types::Cursor>>,
    pub(crate) idempotency_keys: Vec<String>,
    /// Rounds of reconciliations are answered.
    pub(crate) compares: bool,
    pub(crate) rounds: usize,
    /// Items asked for by key.
    pub(crate) fetched: usize,
    /// Commits are carried out but their answer is lost, so many times.
    pub(crate) lost_answers: u32,
}

/// Heads that one answer polls.
const POLLED_MAX: usize = 2;
/// What streams have said of collections that inboxes do not announce.
type Told = BTreeMap<CollectionName, BTreeMap<CollectionName, InboxEntry>>;

/// How often a stream looks for news.
const TICK: Duration = Duration::from_millis(5);

// === impl TestServer ===

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Inboxes::default()).await
    }

    pub(crate) async fn start_at(address: SocketAddr, server: Inboxes) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            server,
            dice: StdRng::seed_from_u64(1),
            silent: false,
            goodbye: false,
            failing_pulls: 0,
            denied: BTreeSet::new(),
            garbled: BTreeSet::new(),
            streams: 0,
            pulls: 0,
            asked: Vec::new(),
            answered_bytes: 0,
            poison: BTreeSet::new(),
            acks: BTreeMap::new(),
            shown: BTreeMap::new(),
            idempotency_keys: Vec::new(),
            compares: true,
            rounds: 0,
            fetched: 0,
            lost_answers: 0,
        };
        let this =
            Self { address, state: Arc::new(Mutex::new(state)), stop: CancellationToken::new() };
        let serve = tonic::transport::Server::builder()
            .add_service(SyncServiceServer::new(this.clone()))
            .add_service(WriteServiceServer::new(this.clone()))
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                this.stop.clone().cancelled_owned(),
            );
        tokio::spawn(serve);
        this
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// So many random commits.
    pub(crate) fn commits(&self, name: &CollectionName, count: usize) {
        let State { server, dice, .. } = &mut *self.state.lock();
        (0..count).for_each(|_| server.commit(name, dice));
    }

    /// Ends streams and the listener.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    fn outcome(state: &State, target: v1::Target) -> v1::Outcome {
        let polled_after = CollectionName::new(&target.polled_after).ok();
        let target = sync_proto::types::Target::try_from(target).unwrap();
        if state.poison.contains(&target.collection) {
            return Outcome::<Bytes>::Failed(failure()).into();
        }
        if state.garbled.contains(&target.collection) {
            return v1::Outcome { result: None, ..v1::Outcome::default() };
        }
        if state.denied.contains(&target.collection) {
            return Outcome::<Bytes>::Denied.into();
        }
        let wire = match state.server.outcome(&target, 100) {
            Outcome::Aligned(head) => Outcome::Aligned(head),
            Outcome::Delta(delta) => Outcome::Delta(encoded(delta)),
            Outcome::Reset(reset) => Outcome::Reset(reset),
            Outcome::NotFound => Outcome::NotFound,
            _ => Outcome::Failed(failure()),
        };
        let mut wire = v1::Outcome::from(wire);
        if target.collection.is_inbox() {
            let polled = state.server.polled(&target.collection, polled_after.as_ref(), POLLED_MAX);
            wire.polled = polled.heads.into_iter().map(Into::into).collect();
            wire.polled_more = polled.more;
        }
        wire
    }

    /// What a stream says of collections that inboxes do not announce.
    fn notices(&self, inboxes: &mut Told) -> Vec<v1::SubscribeResponse> {
        let state = self.state.lock();
        if state.silent {
            return Vec::new();
        }
        let mut notices = Vec::new();
        for (inbox, told) in inboxes {
            for head in state.server.polled(inbox, None, usize::MAX - 1).heads {
                if told.insert(head.collection.clone(), head.entry) == Some(head.entry) {
                    continue;
                }
                let notice = v1::Notice {
                    collection: head.collection.to_string(),
                    head: state.server.collections.get(&head.collection).map(|l| l.head().into()),
                    inbox: inbox.to_string(),
                };
                let message = Some(v1::subscribe_response::Message::Notice(notice));
                notices.push(v1::SubscribeResponse { message });
            }
        }
        notices
    }

    /// What a stream says next.
    fn say(&self, serving: &mut Serving, quiet: &mut u32) -> (Vec<v1::SubscribeResponse>, bool) {
        let state = self.state.lock();
        if state.silent {
            return (Vec::new(), false);
        }
        if state.goodbye {
            let wait = Duration::from_millis(20);
            let goodbye =
                Goodbye { reason: GoodbyeReason::Draining, retry_after: wait, jitter: wait };
            return (vec![Event::<Bytes>::Goodbye(goodbye).into()], true);
        }
        let mut events = state.server.push(serving, 100);
        *quiet = if events.is_empty() { *quiet + 1 } else { 0 };
        if *quiet >= 10 {
            *quiet = 0;
            events.push(state.server.bookmark(serving));
        }
        (events.into_iter().map(|event| wire(event, &state.garbled)).collect(), false)
    }

    async fn follow(
        self,
        subscribe: Subscribe,
        out: mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
    ) {
        let inboxes = subscribe.targets.iter().map(|target| target.collection.clone());
        let mut inboxes: Told =
            inboxes.filter(CollectionName::is_inbox).map(|name| (name, BTreeMap::new())).collect();
        let (mut serving, accepted) = {
            let mut state = self.state.lock();
            state.streams += 1;
            state.shown =
                subscribe.targets.iter().map(|t| (t.collection.clone(), t.cursor)).collect();
            let (serving, mut accepted) = state.server.serve(&subscribe);
            if let Event::Accepted(targets, _) = &mut accepted {
                for target in targets.iter_mut().filter(|t| state.denied.contains(&t.collection)) {
                    target.plan = Plan::Denied;
                }
            }
            (serving, wire(accepted, &BTreeSet::new()))
        };
        let mut said = (vec![accepted], false);
        let mut quiet = 0;
        loop {
            for message in said.0 {
                if out.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            if said.1 {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = out.closed() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            said = self.say(&mut serving, &mut quiet);
            said.0.extend(self.notices(&mut inboxes));
        }
    }
}

fn encoded(delta: Delta) -> Delta<Bytes> {
    let Delta { from, to, changes, has_more, initial, digest, unverified, head } = delta;
    let changes = changes.iter().map(encode_change).collect();
    Delta { from, to, changes, has_more, initial, digest, unverified, head }
}

fn wire(event: Event, garbled: &BTreeSet<CollectionName>) -> v1::SubscribeResponse {
    match event {
        Event::Changes(name, delta) => {
            let mut delta = encoded(delta);
            if garbled.contains(&name) {
                delta.changes = vec![Bytes::from_static(b"garbage")];
            }
            Event::Changes(name, delta)
        }
        Event::Accepted(targets, heartbeat) => Event::Accepted(targets, heartbeat),
        Event::Bookmark(positions, now) => Event::Bookmark(positions, now),
        Event::CaughtUp(name, cursor) => Event::CaughtUp(name, cursor),
        Event::Reset(name, reset) => Event::Reset(name, reset),
        Event::Absent(name) => Event::Absent(name),
        other => panic!("the reference server does not say {other:?}"),
    }
    .into()
}

type Streamed = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SyncService for TestServer {
    type SubscribeStream = Streamed;

    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        {
            let mut state = self.state.lock();
            state.pulls += 1;
            if state.failing_pulls > 0 {
                state.failing_pulls -= 1;
                return Err(Status::unavailable("simulated"));
            }
        }
        let targets = request.into_inner().targets;
        let names = targets.iter().map(|one| CollectionName::new(&one.collection).unwrap());
        let names = names.collect();
        let mut state = self.state.lock();
        let outcomes = targets.into_iter().map(|target| Self::outcome(&state, target)).collect();
        let answer = v1::PullResponse { outcomes };
        state.asked.push(names);
        state.answered_bytes += answer.encoded_len();
        drop(state);
        Ok(Response::new(answer))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Streamed>, Status> {
        let subscribe = Subscribe::try_from(request.into_inner()).unwrap();
        let (out, messages) = mpsc::channel(16);
        tokio::spawn(self.clone().follow(subscribe, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn list_items(
        &self,
        _: Request<v1::ListItemsRequest>,
    ) -> Result<Response<v1::ListItemsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_items(
        &self,
        request: Request<v1::GetItemsRequest>,
    ) -> Result<Response<v1::GetItemsResponse>, Status> {
        let request = request.into_inner();
        let name = CollectionName::new(&request.collection).unwrap();
        let keys: Vec<Key> = request.keys.into_iter().map(|key| Key::new(key).unwrap()).collect();
        let mut state = self.state.lock();
        state.fetched += keys.len();
        let found = state.server.items(&name, &keys);
        let (items, head) = found.ok_or_else(|| Status::not_found("no such collection"))?;
        let results = keys.iter().map(|key| {
            let item = items.iter().find(|item| item.key == *key);
            v1::GetItemsResult {
                result: Some(match item {
                    Some(item) => v1::get_items_result::Result::Found(item.clone().into()),
                    None => v1::get_items_result::Result::Gone(key.to_bytes()),
                }),
            }
        });
        Ok(Response::new(v1::GetItemsResponse {
            results: results.collect(),
            head: Some(head.into()),
        }))
    }

    async fn get_collection(
        &self,
        _: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_collections(
        &self,
        _: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        let asked = Reconcile::try_from(request.into_inner()).unwrap();
        let mut state = self.state.lock();
        if !state.compares {
            return Err(Status::unimplemented("not here"));
        }
        state.rounds += 1;
        match state.server.round(&asked.collection, &asked.round) {
            Ok(answer) => Ok(Response::new(answer.into())),
            Err(NoRound::Moved) => Err(Status::failed_precondition("begin again")),
            Err(NoRound::NotFound) => Err(Status::not_found("no such collection")),
        }
    }

    async fn ack(
        &self,
        request: Request<v1::AckRequest>,
    ) -> Result<Response<v1::AckResponse>, Status> {
        let v1::AckRequest { client_id, acked } = request.into_inner();
        let mut state = self.state.lock();
        for one in acked {
            let name = CollectionName::new(&one.collection).unwrap();
            let cursor = Cursor::try_from(one.cursor.unwrap()).unwrap();
            let head = state.server.collections.get(&name).map(|log| log.head().cursor());
            if head.is_none_or(|head| head.epoch != cursor.epoch || head.version < cursor.version) {
                return Err(Status::failed_precondition("more than was sent"));
            }
            state.acks.insert((client_id.clone(), name), cursor);
        }
        Ok(Response::new(v1::AckResponse {}))
    }
}

#[tonic::async_trait]
impl WriteService for TestServer {
    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let commit = Commit::try_from(request.into_inner()).unwrap();
        let mut state = self.state.lock();
        let replayed = state.idempotency_keys.contains(&commit.idempotency_key);
        state.idempotency_keys.push(commit.idempotency_key);
        if !replayed {
            for mutation in commit.mutations {
                let Op::Put { key, value, .. } = mutation.op else {
                    return Err(Status::unimplemented("not here"));
                };
                state.server.put(&mutation.collection, key, value.to_bytes());
            }
        }
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(Response::new(v1::CommitResponse { collections: Vec::new(), replayed }))
    }

    async fn import(
        &self,
        _: Request<Streaming<v1::ImportRequest>>,
    ) -> Result<Response<v1::ImportResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_import(
        &self,
        _: Request<v1::GetImportRequest>,
    ) -> Result<Response<v1::GetImportResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn delete_collection(
        &self,
        _: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
