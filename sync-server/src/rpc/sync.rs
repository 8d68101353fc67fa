//! `SyncService`: pulls, windows, look-ups; the subscription loop is in `rpc::subscribe`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rand::RngExt as _;
use sync_proto::convert;
use sync_proto::limits::GET_ITEMS_KEYS_MAX;
use sync_proto::types::{
    Ack, CollectionName, Cursor, Failure, Head, Key, ListItems, Malformed, Outcome, Polled, Pull,
    Reconcile, Reconciled, Round, Subscribe, Target, Timestamp,
};
use sync_proto::v1;
use sync_proto::v1::sync_service_server::SyncService;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::explaining::Explained;
use super::subscribe::Reader;
use super::{Asking, Context, clients, explaining, subscribe};
use crate::admission::BRIEF_PAGE_BYTES;
use crate::auth::{AccessError, Caller};
use crate::budget::Account;
use crate::core::decisions::Call;
use crate::core::loads::Who;
use crate::core::{request, window};
use crate::engine::ledger::Ledger;
use crate::engine::listing::ListError;
use crate::engine::pulling::Answered;
use crate::engine::reserving::Reserved;
use crate::metrics::SentKind;
use crate::status;
use crate::store::keys::ClientKey;
use crate::store::{Store, StoreError};
use crate::traces::CallTrace;

/// A pull of more targets is not answered briefly.
const BRIEF_TARGETS_MAX: usize = 64;

/// The service.
#[derive(Debug)]
pub struct SyncRpc<S> {
    context: Arc<Context<S>>,
}

/// A caller who waits. Its drop, when the call is cancelled or its deadline passes, tells the
/// reading thread to give up.
#[derive(Debug, Default)]
struct Waiting {
    cancelled: Arc<AtomicBool>,
}

// === impl Waiting ===

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

// === impl SyncRpc ===

impl<S: Store> SyncRpc<S> {
    /// The service over an engine.
    #[must_use]
    pub fn new(context: Arc<Context<S>>) -> Self {
        Self { context }
    }
}

// === impl SyncRpc, pulls ===

impl<S: Store> SyncRpc<S> {
    /// Takes the targets out of a pull whose loads may not begin now: what each is answered.
    fn hold_up(&self, who: &Who, caller: &Caller, pull: &mut Pull) -> Vec<Option<Failure>> {
        let judge = |target: &Result<Target, Malformed>| {
            let target = target.as_ref().ok()?;
            // Whoever may not read, or finds nothing, is told that instead.
            let exists = || self.context.ledger.head(&target.collection).is_some();
            let served = caller.may_read(&target.collection) && exists();
            served.then(|| self.context.loads.held_up(who, target)).flatten()
        };
        let held_up: Vec<_> = pull.targets.iter().map(judge).collect();
        let mut next = held_up.iter();
        pull.targets.retain(|_| next.next().is_some_and(Option::is_none));
        held_up
    }

    /// Gives those targets that ask for it the cursors that are held for the client.
    async fn resume(
        &self,
        caller: &Caller,
        client: Option<&ClientKey>,
        targets: Vec<Result<Target, Malformed>>,
    ) -> Result<Vec<Result<Target, Malformed>>, Status> {
        let asks = targets.iter().flatten().any(|target| target.from_last_ack);
        let Some(client) = client.filter(|_| asks).cloned() else { return Ok(targets) };
        let mut resumed = targets;
        let caller = caller.clone();
        let resumed = self.context.read(move |ledger| {
            // What is not the caller's to read is not looked up, so it takes no longer either.
            let targets = resumed.iter_mut().flatten();
            let mut targets = targets.filter(|target| caller.may_read(&target.collection));
            targets.try_for_each(|target| ledger.resume(&client, target))?;
            Ok(resumed)
        });
        resumed.await?.map_err(|error: StoreError| status::storage(&error))
    }

    /// Whether a target begins a first load, or goes on with one.
    fn is_load(&self, caller: &Caller, target: &Result<Target, Malformed>) -> bool {
        let Ok(target) = target else { return false };
        let loads = target.cursor.is_none_or(|cursor| cursor.base > cursor.version);
        loads
            && caller.may_read(&target.collection)
            && self.context.ledger.head(&target.collection).is_some()
    }

    /// Lets a pull in as a load, if anything of it is one: whether it is. If there is no room for
    /// loads, they are taken out of the pull and the others answered; a pull of nothing else is
    /// refused.
    async fn admit(
        &self,
        asking: &Asking,
        caller: &Caller,
        pull: &mut Pull,
        held_up: &mut [Option<Failure>],
    ) -> Result<bool, Status> {
        let loads: Vec<_> = pull.targets.iter().map(|one| self.is_load(caller, one)).collect();
        if !loads.contains(&true) {
            return Ok(false);
        }
        let Asking { account, held } = asking;
        if !loads.contains(&false) {
            let admitted = held.become_load(account).await;
            return admitted.map(|()| true).map_err(|error| status::exhausted(&error));
        }
        let Err(busy) = held.become_whole_load(account).await else { return Ok(true) };
        let served = held_up.iter_mut().filter(|held_up| held_up.is_none());
        for (place, _) in served.zip(&loads).filter(|(_, load)| **load) {
            *place = Some(status::of_target(&status::exhausted(&busy)));
        }
        let mut next = loads.iter();
        pull.targets.retain(|_| next.next() == Some(&false));
        held.become_reply(account).await.map_err(|error| status::exhausted(&error))?;
        Ok(false)
    }

    /// Reads the answers to a pull: brief ones if there is no room for more, unless a version that
    /// comes first is larger than that.
    async fn read_answers(
        &self,
        asking: &Asking,
        caller: &Caller,
        mut pull: Pull,
        load: bool,
    ) -> Result<(Pull, Vec<Answered>), Status> {
        let bytes_max = pull.bytes_max;
        // What each target is answered at least is not counted.
        if pull.targets.len() > BRIEF_TARGETS_MAX {
            asking.held.become_whole().await.map_err(|error| status::exhausted(&error))?;
        }
        loop {
            // In this order: who has room for a brief answer must not wait for those who read loads.
            let turn = if load { Some(self.context.load_turn().await) } else { None };
            let brief = self.context.brief_turn(&asking.held).await;
            pull.bytes_max =
                if brief.is_some() { bytes_max.min(BRIEF_PAGE_BYTES) } else { bytes_max };
            let first = rand::rng().random_range(0..pull.targets.len());
            let waiting = Waiting::default();
            let (cancelled, caller) = (Arc::clone(&waiting.cancelled), caller.clone());
            let read = self.context.read(move |ledger| {
                let answers = ledger.pull(&pull, first, |name| caller.may_read(name), &cancelled);
                (pull, answers)
            });
            let (read, answers) = read.await?;
            drop(turn);
            if brief.is_none()
                || answers.iter().map(bytes_of).sum::<u64>() <= BRIEF_PAGE_BYTES as u64
            {
                return Ok((read, answers));
            }
            pull = read;
            drop((answers, brief));
            asking.held.become_whole().await.map_err(|error| status::exhausted(&error))?;
        }
    }

    /// Answers a pull, and takes note of the loads that begin and of what is sent.
    async fn answers(
        &self,
        asking: &Asking,
        who: &Who,
        client: Option<&ClientKey>,
        caller: &Caller,
        (pull, load): (Pull, bool),
    ) -> Result<Vec<(Outcome<Bytes>, Polled)>, Status> {
        let (pull, answers) = self.read_answers(asking, caller, pull, load).await?;
        for (target, answer) in pull.targets.iter().zip(&answers) {
            if let (Ok(target), Ok(Outcome::Delta(_))) = (target, &answer.outcome)
                && target.cursor.is_none()
            {
                self.context.loads.began(who, target);
            }
        }
        if let Some(client) = client {
            let sent = |(target, answer): (&Result<Target, Malformed>, &Answered)| {
                let cursor = clients::handed_out(answer.outcome.as_ref().ok()?)?;
                Some((target.as_ref().ok()?.collection.clone(), cursor))
            };
            self.context.clients.sent(client, pull.targets.iter().zip(&answers).filter_map(sent));
        }
        let told = |Answered { outcome, polled }: Answered| {
            (outcome.unwrap_or_else(|e| Outcome::Failed(status::target(&e))), polled)
        };
        Ok(answers.into_iter().map(told).collect())
    }
}

// === impl SyncRpc, reconciliations ===

impl<S: Store> SyncRpc<S> {
    /// Reads a round, in its turn.
    async fn read_round(
        &self,
        asking: &Asking,
        caller: &Caller,
        asked: Reconcile,
    ) -> Result<Reconciled, Status> {
        let name = asked.collection.clone();
        let admitted = asking.held.become_whole_load(&asking.account).await;
        admitted.map_err(|error| status::exhausted(&error))?;
        let turn = self.context.load_turn().await;
        let answer = self.context.read(move |ledger| ledger.reconcile(&asked)).await?;
        drop(turn);
        may_read(caller, &name)?;
        answer.map_err(|error| status::reconcile(&error))
    }
}

#[tonic::async_trait]
impl<S: Store> SyncService for SyncRpc<S> {
    type SubscribeStream = Empty<Result<v1::SubscribeResponse, Status>>;

    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let who = Context::<S>::loader(&request, &caller, &request.get_ref().client_id);
        let asking = Asking::of(&request).expect("every call of a connection has its account");
        let mut pull = Pull::try_from(request.into_inner()).map_err(|e| status::malformed(&e))?;
        let client = clients::key(&caller, &pull.client_id);
        pull.targets = self.resume(&caller, client.as_ref(), pull.targets).await?;
        let explained = client.clone().map(|key| Explained::new(key, Call::Pull, &pull.targets));
        let mut held_up = self.hold_up(&who, &caller, &mut pull);
        let answered = if pull.targets.is_empty() {
            Ok(Vec::new())
        } else {
            match self.admit(&asking, &caller, &mut pull, &mut held_up).await {
                Ok(load) => {
                    self.answers(&asking, &who, client.as_ref(), &caller, (pull, load)).await
                }
                Err(refusal) => Err(refusal),
            }
        };
        let answered = self.context.clients.noting(explained.as_ref(), answered)?;
        let mut answered = answered.into_iter();
        let outcomes = held_up.into_iter().map(|held_up| match held_up {
            Some(failure) => (Outcome::Failed(failure), Polled::default()),
            None => answered.next().expect("one for each target that was not held up"),
        });
        let outcomes: Vec<_> = outcomes.collect();
        if let Some(explained) = explained {
            let (key, decided) = explained.answered(outcomes.iter().map(|(outcome, _)| outcome));
            self.context.clients.decided(&key, decided);
        }
        let counted = |(outcome, _): &(Outcome<Bytes>, Polled)| {
            self.context.metrics.pulled(outcome);
            if let Outcome::Delta(delta) = outcome {
                let (kind, bytes) = (explaining::kind_of(delta), explaining::bytes_of(delta));
                self.context.metrics.sent(kind, bytes);
            }
        };
        let wire = |(outcome, polled): (Outcome<Bytes>, Polled)| {
            let (polled, polled_more) = polled.into();
            v1::Outcome { polled, polled_more, ..outcome.into() }
        };
        let outcomes = outcomes.into_iter().inspect(counted).map(wire).collect();
        Ok(Response::new(v1::PullResponse { outcomes }))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let who = Context::<S>::loader(&request, &caller, &request.get_ref().client_id);
        let account = request.extensions().get::<Arc<Account>>().cloned();
        let account = account.expect("every call of a connection has its account");
        let traced = request.extensions().get::<CallTrace>().cloned().unwrap_or_default();
        let mut asked =
            Subscribe::try_from(request.into_inner()).map_err(|e| status::malformed(&e))?;
        let client = clients::key(&caller, &asked.client_id);
        let targets = asked.targets.into_iter().map(Ok).collect();
        let targets = self.resume(&caller, client.as_ref(), targets).await?;
        let explained = client.clone().map(|key| Explained::new(key, Call::Subscribe, &targets));
        asked.targets = targets.into_iter().flatten().collect();
        let reader = Reader { caller: &caller, who: &who, client, account: &account, traced };
        let started = subscribe::start(&self.context, reader, asked);
        let outgoing = self.context.clients.noting(explained.as_ref(), started)?;
        // The stream is sent in place of this empty one.
        let mut answer = Response::new(tokio_stream::empty());
        answer.extensions_mut().insert(outgoing);
        Ok(answer)
    }

    async fn list_items(
        &self,
        request: Request<v1::ListItemsRequest>,
    ) -> Result<Response<v1::ListItemsResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let asking = Asking::of(&request).expect("every call of a connection has its account");
        let asked = ListItems::try_from(request.into_inner()).map_err(|e| status::malformed(&e))?;
        let name = asked.collection.clone();
        may_read(&caller, &name)?;
        let read = move |ledger: &Ledger<S>, bytes_max| ledger.list_items(&asked, bytes_max);
        let window = self.context.read_page(&asking, read, |window| window.bytes).await?;
        // It may have waited for room, and a right may have ended meanwhile.
        may_read(&caller, &name)?;
        Ok(Response::new(v1::ListItemsResponse {
            items: window.items.into_iter().map(Into::into).collect(),
            next_page_token: window.next,
            head: Some(window.head.into()),
            skipped: window.skipped,
        }))
    }

    async fn get_items(
        &self,
        request: Request<v1::GetItemsRequest>,
    ) -> Result<Response<v1::GetItemsResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let asking = Asking::of(&request).expect("every call of a connection has its account");
        let wire = request.into_inner();
        let name = collection(&wire.collection)?;
        let keys = keys(wire.keys).map_err(|error| status::malformed(&error))?;
        may_read(&caller, &name)?;
        let (keys_only, of) = (wire.keys_only, name.clone());
        let read =
            move |ledger: &Ledger<S>, bytes_max| ledger.get_items(&of, &keys, keys_only, bytes_max);
        let found = self.context.read_page(&asking, read, |found| found.bytes).await?;
        may_read(&caller, &name)?;
        let result = |result| v1::GetItemsResult {
            result: Some(match result {
                Ok(item) => v1::get_items_result::Result::Found(v1::Item::from(item)),
                Err(key) => v1::get_items_result::Result::Gone(Key::to_bytes(&key)),
            }),
        };
        Ok(Response::new(v1::GetItemsResponse {
            results: found.results.into_iter().map(result).collect(),
            head: Some(found.head.into()),
        }))
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::GetCollectionResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let name = collection(&request.into_inner().collection)?;
        may_read(&caller, &name)?;
        let head = self.context.ledger.head(&name);
        let head = head.ok_or_else(|| status::list(&ListError::NotFound))?;
        let info = v1::CollectionInfo { name: name.to_string(), head: Some(head.into()) };
        Ok(Response::new(v1::GetCollectionResponse { collection: Some(info) }))
    }

    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let wire = request.into_inner();
        let most = convert::page_size(wire.page_size).map_err(|e| status::malformed(&e))?;
        let question = window::names_question(&wire.prefix);
        let after = window::name_position(&wire.page_token, question);
        let after = after.map_err(status::token)?;
        // One more than fits says whether there is another page. The token is the last name of
        // this page, so it never names what the caller may not read.
        let listed = self.context.read(move |ledger| {
            let may_read = |name: &CollectionName| caller.may_read(name);
            let stems = caller.readable_stems();
            ledger.list_collections(&wire.prefix, &stems, after.as_ref(), most + 1, may_read)
        });
        let mut listed = listed.await?;
        let more = listed.len() > most;
        listed.truncate(most);
        let last = listed.last().filter(|_| more);
        let next_page_token =
            last.map(|(name, _)| window::names_token(question, name)).unwrap_or_default();
        let info = |(name, head): (CollectionName, Head)| v1::CollectionInfo {
            name: name.to_string(),
            head: Some(head.into()),
        };
        let collections = listed.into_iter().map(info).collect();
        Ok(Response::new(v1::ListCollectionsResponse { collections, next_page_token }))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let asking = Asking::of(&request).expect("every call of a connection has its account");
        let asked = Reconcile::try_from(request.into_inner()).map_err(|e| status::malformed(&e))?;
        may_read(&caller, &asked.collection)?;
        let client = clients::key(&caller, &asked.client_id);
        let (name, first) = (asked.collection.clone(), asked.round == Round::Groups);
        let explained = client.clone().map(|key| Explained::of_round(key, name.clone()));
        let answer = self.read_round(&asking, &caller, asked).await;
        let answer = self.context.clients.noting(explained.as_ref(), answer)?;
        let metrics = &self.context.metrics;
        metrics.sent(SentKind::Reconcile, explaining::round_bytes(&answer));
        if first {
            let key = client.as_ref();
            metrics.repairs(self.context.clients.repairs(key, &name, answer.head.cursor()));
        }
        if let Some(client) = &client {
            let decided = (name.clone(), explaining::of_round(&answer));
            self.context.clients.decided(client, [decided]);
        }
        if let Some(client) = client.filter(|_| first) {
            // A copy that was put together from rounds stands at the head of the first.
            let head = answer.head.cursor();
            let stands = Cursor { base: head.version, ..head };
            self.context.clients.sent(&client, [(name, stands)]);
        }
        Ok(Response::new(answer.into()))
    }

    async fn ack(
        &self,
        request: Request<v1::AckRequest>,
    ) -> Result<Response<v1::AckResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let ack = Ack::try_from(request.into_inner()).map_err(|e| status::malformed(&e))?;
        let denied = ack.acked.iter().position(|one| !caller.may_read(&one.collection));
        if let Some(index) = denied {
            let field = format!("acked[{index}].collection");
            return Err(status::access_at(&field, AccessError::Denied));
        }
        let client = clients::key(&caller, &ack.client_id).expect("an ack names its client");
        let acked = ack.acked.clone();
        let claims = self.context.clients.claims(client.clone(), ack);
        let ack = request::Request::Ack(claims);
        let done = self.context.writes.commit(ack, Reserved::default()).await;
        done.map_err(|error| status::write(&error))?;
        let newest = |name: &CollectionName| self.context.ledger.head(name);
        for committed in self.context.clients.applied(&client, &acked, newest) {
            self.context.metrics.applied(committed, Timestamp::now());
        }
        Ok(Response::new(v1::AckResponse {}))
    }
}

/// Bytes of the changes that a target is answered.
fn bytes_of(answered: &Answered) -> u64 {
    match &answered.outcome {
        Ok(Outcome::Delta(delta)) => explaining::bytes_of(delta),
        Ok(_) | Err(_) => 0,
    }
}

fn collection(name: &str) -> Result<CollectionName, Status> {
    CollectionName::new(name).map_err(|error| status::malformed(&error))
}

fn may_read(caller: &Caller, name: &CollectionName) -> Result<(), Status> {
    if caller.may_read(name) {
        Ok(())
    } else {
        Err(status::access_at("collection", AccessError::Denied))
    }
}

fn keys(wire: Vec<Bytes>) -> Result<Vec<Key>, Malformed> {
    let count = wire.len();
    if count == 0 || count > GET_ITEMS_KEYS_MAX {
        let reason = format!("{count} of them, 1 to {GET_ITEMS_KEYS_MAX} are allowed");
        return Err(Malformed::new("keys", reason));
    }
    let parse = |(index, key)| {
        Key::new(key).map_err(|error: Malformed| error.within_element("keys", index))
    };
    wire.into_iter().enumerate().map(parse).collect()
}
