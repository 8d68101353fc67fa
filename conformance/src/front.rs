//! What the client under test talks to: passes calls on to the real server, and does to what
//! passes what was asked for.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use sync_proto::types::{REASON_DOMAIN, Reason};
use sync_proto::v1;
use sync_proto::v1::outcome::Result as Answer;
use sync_proto::v1::subscribe_response::Message;
use sync_proto::v1::sync_service_server::{SyncService, SyncServiceServer};
use sync_proto::v1::write_service_server::WriteServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::backend::{MESSAGE_BYTES_MAX, sync_client};
use crate::distort::distort;
use crate::faults::{Armed, Farewell, Fault, Moment, StreamFault};
use crate::play::{Play, reset};
use crate::seen::{Seen, place, shown};

mod writing;

/// The heartbeat in force, whatever the client asked for: so a lost push is noticed soon (R40).
const HEARTBEAT_MS: u32 = 300;
/// When a target that fails is to be asked for again.
const RETRY_AFTER_MS: u64 = 300;
/// Messages that wait for a client.
const WAITING_MAX: usize = 16;
/// How far ahead a spoilt ack is.
const FAR_AHEAD: u64 = 1_000_000;
/// `google.rpc.Code` UNAVAILABLE.
const CODE_UNAVAILABLE: i32 = 14;

/// The face of the server of one case.
#[derive(Debug, Clone)]
pub struct Front {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    moved: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One stream: where it comes from, where it goes, what befalls it.
struct Line {
    messages: Streaming<v1::SubscribeResponse>,
    out: mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
    faults: mpsc::Receiver<StreamFault>,
    play: Play,
    /// The first target.
    target: String,
}

/// What the runner says and asks.
#[derive(Debug)]
pub struct State {
    /// The connection to the server that runs now.
    pub upstream: Channel,
    /// What was asked for.
    pub armed: Armed,
    /// What was seen.
    pub seen: Seen,
    /// Every call is refused.
    pub away: bool,
    /// Most changes of a page of a pull; 0 = as the client and the server say.
    pub page_changes: u32,
    /// Who the client is to say it is.
    pub client_id: String,
    /// Calls of this name are not to come before.
    not_before: Option<(&'static str, Instant)>,
    streams: BTreeMap<u64, mpsc::Sender<StreamFault>>,
    opened: u64,
}

// === impl Front ===

impl Front {
    /// Listens on a free port of loopback.
    pub async fn start(upstream: Channel, client_id: &str) -> io::Result<(Self, SocketAddr)> {
        let state = State {
            upstream,
            armed: Armed::default(),
            seen: Seen::default(),
            away: false,
            page_changes: 0,
            client_id: client_id.to_owned(),
            not_before: None,
            streams: BTreeMap::new(),
            opened: 0,
        };
        let shared = Shared {
            state: Mutex::new(state),
            moved: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let this = Self { shared: Arc::new(shared) };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let sync =
            SyncServiceServer::new(this.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let router = tonic::transport::Server::builder()
            .add_service(sync)
            .add_service(WriteServiceServer::new(this.clone()));
        let stopped = this.shared.stop.clone().cancelled_owned();
        // Its connections are accepted until the case ends; then nobody asks how that went.
        this.shared
            .tasks
            .spawn(router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
        Ok((this, address))
    }

    /// Looks at what was seen, or says what to do next.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let found = look(&mut self.shared.state.lock());
        self.wake();
        found
    }

    /// Looks at what was seen, and moves nothing.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.lock())
    }

    /// Changes whenever something moves.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.shared.moved.subscribe()
    }

    /// Something moved, perhaps elsewhere.
    pub fn wake(&self) {
        self.shared.moved.send_modify(|moves| *moves = moves.wrapping_add(1));
    }

    /// Does this to the streams that are open.
    pub fn to_streams(&self, fault: StreamFault) {
        self.with(|state| {
            for (number, stream) in &state.streams {
                let sent = stream.try_send(fault);
                if sent.is_err() || ends(fault) {
                    state.seen.ended(*number);
                }
            }
        });
    }

    /// Ends it, and every stream.
    pub fn stop(&self) {
        self.to_streams(StreamFault::Cut);
        self.shared.stop.cancel();
    }

    /// A call begins: the connection to the server, unless the call is refused.
    fn call(&self, name: &'static str) -> Result<Channel, Status> {
        self.with(|state| {
            state.seen.calls += 1;
            state.is_awaited(name, Instant::now());
            if state.away {
                return Err(Status::unavailable("the kit refuses this call"));
            }
            match state.armed.take(Moment::Call) {
                Some(Fault::Busy(wait_ms)) => {
                    let wait = Duration::from_millis(wait_ms);
                    state.not_before = Some((name, Instant::now() + wait));
                    Err(refused(Code::ResourceExhausted, Reason::NoRoom, Some(wait)))
                }
                Some(Fault::Unauthenticated) => {
                    Err(refused(Code::Unauthenticated, Reason::CredentialsNeeded, None))
                }
                Some(_) => Err(Status::unavailable("the kit refuses this call")),
                None => Ok(state.upstream.clone()),
            }
        })
    }

    /// Passes an answer on, unless it is to be lost.
    fn answered<T>(
        &self,
        answer: Response<T>,
        note: impl FnOnce(&mut State),
    ) -> Result<Response<T>, Status> {
        self.with(|state| {
            note(state);
            match state.armed.take(Moment::CommitAnswer) {
                Some(_) => Err(Status::unavailable("the kit loses this answer")),
                None => Ok(answer),
            }
        })
    }

    async fn head(&self, collection: &str) -> Option<v1::Head> {
        let upstream = self.with(|state| state.upstream.clone());
        let request = v1::GetCollectionRequest { collection: collection.to_owned() };
        let found = sync_client(upstream).get_collection(request).await.ok()?;
        found.into_inner().collection?.head
    }

    /// What the client is told of a target instead of this.
    async fn distorted(&self, target: &v1::Target, mut outcome: v1::Outcome) -> v1::Outcome {
        let collection = target.collection.as_str();
        let fault = self.with(|state| {
            let fault = state.armed.judge(collection, shown(target).map(place));
            fault.or_else(|| state.armed.take(Moment::PullTarget))
        });
        match fault {
            Some(Fault::Reset(reason)) => {
                let head = self.head(collection).await;
                outcome.result = Some(Answer::Reset(reset(reason, head)));
            }
            Some(Fault::Deny) => outcome.result = Some(Answer::Denied(v1::Denied {})),
            Some(Fault::Defer) => {
                let head = self.head(collection).await;
                outcome.result = Some(Answer::Deferred(v1::Deferred { head }));
            }
            Some(_) => {
                let message = "the kit lets this target fail".to_owned();
                outcome.result = Some(Answer::Failed(v1::Failure {
                    code: CODE_UNAVAILABLE,
                    message,
                    retry_after_ms: RETRY_AFTER_MS,
                    reason: Reason::Stopping.as_str().to_owned(),
                }));
            }
            None => {}
        }
        self.with(|state| {
            if let Some(Answer::Delta(delta)) = &mut outcome.result
                && state.armed.next(Moment::Delta).is_some_and(|fault| distort(delta, fault))
            {
                state.armed.take(Moment::Delta);
            }
            if matches!(outcome.result, Some(Answer::Delta(_)))
                && state.armed.take(Moment::Page).is_some()
            {
                state.armed.arm(Fault::Unavailable, 1, 0);
            }
            state.seen.answered(collection, &outcome);
        });
        outcome
    }

    /// A stream, from its first message to its end.
    async fn stream(self, number: u64, stream: Line) {
        self.pump(number, stream).await;
        self.with(|state| {
            state.streams.remove(&number);
            state.seen.ended(number);
        });
    }

    /// Passes on what the server says, until one side ends.
    async fn pump(&self, number: u64, line: Line) {
        let Line { mut messages, out, mut faults, mut play, target } = line;
        loop {
            let said = tokio::select! {
                biased;
                () = out.closed() => return,
                fault = faults.recv() => match fault {
                    None | Some(StreamFault::End) => return,
                    Some(StreamFault::Silence) => return out.closed().await,
                    Some(StreamFault::Cut) => vec![Err(Status::unavailable("the kit cuts this"))],
                    Some(StreamFault::Goodbye(farewell)) => vec![Ok(goodbye(farewell))],
                    Some(StreamFault::OldBookmark) => vec![Ok(play.old_bookmark())],
                    Some(StreamFault::Reset(reason)) => {
                        let resets = play.reset(reason, self.head(&target).await.as_ref());
                        resets.into_iter().map(Ok).collect()
                    }
                },
                message = messages.message() => match message {
                    Ok(None) => return,
                    Err(status) => vec![Err(status)],
                    Ok(Some(message)) => {
                        let said = self.with(|state| play.pass(message, &mut state.armed));
                        said.into_iter().map(Ok).collect()
                    }
                },
            };
            for one in said {
                let last = is_last(&one);
                if let Ok(message) = &one {
                    self.with(|state| state.seen.told(number, message));
                }
                if out.send(one).await.is_err() || last {
                    return;
                }
            }
            if play.is_broken() {
                // A client that is gone needs not be told.
                out.send(Err(Status::unavailable("the kit breaks this off"))).await.ok();
                return;
            }
        }
    }
}

// === impl State ===

impl State {
    /// A call comes now. Whoever was asked to stay away does (R128).
    fn is_awaited(&mut self, name: &'static str, now: Instant) {
        if let Some((asked, moment)) = self.not_before
            && asked == name
        {
            self.not_before = None;
            if now < moment {
                let early = moment - now;
                self.seen.objections.push(format!("came back {early:?} too early with {name}"));
            }
        }
    }
}

/// A refusal as the server itself makes it.
fn refused(code: Code, reason: Reason, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.as_str(), REASON_DOMAIN, std::collections::HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, "the kit refuses this call", details)
}

/// Whether nothing more is heard by it.
fn ends(fault: StreamFault) -> bool {
    match fault {
        StreamFault::Cut
        | StreamFault::End
        | StreamFault::Silence
        | StreamFault::Goodbye(_)
        | StreamFault::Reset(_) => true,
        StreamFault::OldBookmark => false,
    }
}

fn is_last(said: &Result<v1::SubscribeResponse, Status>) -> bool {
    match said {
        Ok(message) => matches!(message.message, Some(Message::Goodbye(_))),
        Err(_) => true,
    }
}

fn goodbye(farewell: Farewell) -> v1::SubscribeResponse {
    let goodbye = v1::Goodbye {
        reason: v1::GoodbyeReason::Draining as i32,
        retry_after_ms: farewell.retry_after_ms,
        jitter_ms: farewell.jitter_ms,
    };
    v1::SubscribeResponse { message: Some(Message::Goodbye(goodbye)) }
}

type Told = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SyncService for Front {
    type SubscribeStream = Told;

    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        let upstream = self.call("Pull")?;
        let mut request = request.into_inner();
        self.with(|state| {
            request.targets.iter().for_each(|target| state.seen.asked(target));
            if state.page_changes > 0 {
                request.max_changes_per_target = state.page_changes;
            }
        });
        let targets = request.targets.clone();
        let answer = sync_client(upstream).pull(request).await?.into_inner();
        let mut outcomes = Vec::with_capacity(answer.outcomes.len());
        for (target, outcome) in targets.iter().zip(answer.outcomes) {
            outcomes.push(self.distorted(target, outcome).await);
        }
        Ok(Response::new(v1::PullResponse { outcomes }))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Told>, Status> {
        let upstream = self.call("Subscribe")?;
        let mut request = request.into_inner();
        request.heartbeat_ms = HEARTBEAT_MS;
        let play = Play::of(&request.targets);
        let target = request.targets.first().map(|first| first.collection.clone());
        let (told, faults) = mpsc::channel(WAITING_MAX);
        let number = self.with(|state| {
            request.targets.iter().for_each(|target| state.seen.asked(target));
            state.opened += 1;
            state.streams.insert(state.opened, told);
            state.opened
        });
        let messages = sync_client(upstream).subscribe(request).await?.into_inner();
        let (out, said) = mpsc::channel(WAITING_MAX);
        let line = Line { messages, out, faults, play, target: target.unwrap_or_default() };
        self.shared.tasks.spawn(self.clone().stream(number, line));
        Ok(Response::new(Box::pin(ReceiverStream::new(said))))
    }

    async fn list_items(
        &self,
        request: Request<v1::ListItemsRequest>,
    ) -> Result<Response<v1::ListItemsResponse>, Status> {
        let upstream = self.call("ListItems")?;
        let request = request.into_inner();
        let answer = sync_client(upstream).list_items(request.clone()).await?;
        self.with(|state| state.seen.listed(&request, answer.get_ref().head.as_ref()));
        Ok(answer)
    }

    async fn get_items(
        &self,
        request: Request<v1::GetItemsRequest>,
    ) -> Result<Response<v1::GetItemsResponse>, Status> {
        sync_client(self.call("GetItems")?).get_items(request.into_inner()).await
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        sync_client(self.call("GetCollection")?).get_collection(request.into_inner()).await
    }

    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        sync_client(self.call("ListCollections")?).list_collections(request.into_inner()).await
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        let upstream = self.call("Reconcile")?;
        let request = request.into_inner();
        let (collection, first) = (request.collection.clone(), request.at.is_none());
        let answer = sync_client(upstream).reconcile(request).await?;
        self.with(|state| {
            state.seen.reconciled(&collection, first, answer.get_ref().head.as_ref());
        });
        Ok(answer)
    }

    async fn ack(
        &self,
        request: Request<v1::AckRequest>,
    ) -> Result<Response<v1::AckResponse>, Status> {
        let mut request = request.into_inner();
        let spoilt = self.with(|state| {
            state.seen.acking(&request, &state.client_id);
            state.armed.take(Moment::Request).is_some()
        });
        if spoilt {
            for cursor in request.acked.iter_mut().filter_map(|acked| acked.cursor.as_mut()) {
                cursor.version += FAR_AHEAD;
            }
        }
        let answer = sync_client(self.call("Ack")?).ack(request.clone()).await?;
        self.answered(answer, |state| state.seen.acknowledged(&request))
    }
}
