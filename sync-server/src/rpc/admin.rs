//! `AdminService`. A call about a collection needs the right to administer it, any other that to
//! administer everything.

use std::sync::Arc;
use std::time::Duration;

use sync_proto::convert;
use sync_proto::types::{
    CollectionName, Head, Inspection, Malformed, Reason, Subject, Timestamp, Version,
};
use sync_proto::v1;
use sync_proto::v1::admin_service_server::AdminService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::long_calls::Operator;
use super::{Context, backup, clients, explaining, verifying};
use crate::auth::policy::Verb;
use crate::auth::{AccessError, Caller};
use crate::core::window;
use crate::engine::administering::{Administered, Administration};
use crate::status;
use crate::store::Store;

/// How long a purge waits until the store has caught up with it.
const PURGE_PAUSE: Duration = Duration::from_millis(20);

/// The service.
#[derive(Debug)]
pub struct AdminRpc<S> {
    context: Arc<Context<S>>,
}

// === impl AdminRpc ===

impl<S: Store> AdminRpc<S> {
    /// The service over an engine.
    #[must_use]
    pub fn new(context: Arc<Context<S>>) -> Self {
        Self { context }
    }

    /// Lets only those in that may administer everything.
    fn may_all<T>(request: &Request<T>) -> Result<Caller, Status> {
        let caller = Context::<S>::caller(request)?;
        let rights = caller.rights().map_err(status::access)?;
        if rights.allows_all(Verb::Admin) { Ok(caller) } else { Err(denied()) }
    }

    async fn administer(
        &self,
        name: &CollectionName,
        asked: Administration,
    ) -> Result<Administered, Status> {
        let answer = self.context.writes.administer(name.clone(), asked).await;
        answer.map_err(|error| status::write(&error))
    }

    /// Purges step by step: each is queued like a commit, so that commits get their turn. What is
    /// purged stays purged if the call ends early.
    async fn purge_all(
        &self,
        name: &CollectionName,
        up_to: Version,
    ) -> Result<(u64, Head), Status> {
        let (mut purged, mut epoch) = (0, None);
        loop {
            let answer = self.administer(name, Administration::Purge { up_to, epoch }).await?;
            let Administered::Purged { count, head, done } = answer else {
                return Err(unexpected(answer));
            };
            purged += count;
            if done {
                return Ok((purged, head));
            }
            if self.context.drain.is_cancelled() {
                return Err(status::stopping("the server is stopping; purge again"));
            }
            epoch = Some(head.epoch);
            if self.context.ledger.is_behind() {
                tokio::time::sleep(PURGE_PAUSE).await;
            }
        }
    }
}

/// The writer answered another question.
fn unexpected(answer: Administered) -> Status {
    tracing::error!(?answer, "the writer answered another question");
    status::internal()
}

fn collection(name: &str) -> Result<CollectionName, Status> {
    CollectionName::new(name).map_err(|error| status::malformed(&error))
}

/// The name of a collection that the caller may administer.
fn administered(caller: &Caller, name: &str) -> Result<CollectionName, Status> {
    let name = collection(name)?;
    if caller.may_administer(&name) { Ok(name) } else { Err(denied()) }
}

fn denied() -> Status {
    status::access(AccessError::Denied)
}

#[tonic::async_trait]
impl<S: Store> AdminService for AdminRpc<S> {
    type BackupStream = ReceiverStream<Result<v1::BackupResponse, Status>>;
    type VerifyStream = ReceiverStream<Result<v1::VerifyResponse, Status>>;

    async fn inspect_collection(
        &self,
        request: Request<v1::InspectCollectionRequest>,
    ) -> Result<Response<v1::InspectCollectionResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let name = administered(&caller, &request.into_inner().collection)?;
        let asked = name.clone();
        let found =
            self.context.read(move |ledger| ledger.inspect(&asked, Timestamp::now())).await?;
        let found = found.map_err(|error| status::storage(&error))?;
        let found = found.ok_or_else(|| {
            status::refused(Reason::NoSuchCollection, "there is no such collection")
        })?;
        let subscribers = u64::try_from(self.context.hub.listeners(&name)).unwrap_or(u64::MAX);
        Ok(Response::new(Inspection { subscribers, ..found }.into()))
    }

    async fn set_policy(
        &self,
        request: Request<v1::SetPolicyRequest>,
    ) -> Result<Response<v1::SetPolicyResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let wire = request.into_inner();
        let name = administered(&caller, &wire.collection)?;
        let change = convert::policy_change(wire.policy, &wire.clear);
        let change = change.map_err(|error| status::malformed(&error))?;
        match self.administer(&name, Administration::SetPolicy(change)).await? {
            Administered::Policy(policy) => {
                Ok(Response::new(v1::SetPolicyResponse { effective_policy: Some(policy.into()) }))
            }
            other @ (Administered::Purged { .. } | Administered::Rotated(_)) => {
                Err(unexpected(other))
            }
        }
    }

    async fn purge(
        &self,
        request: Request<v1::PurgeRequest>,
    ) -> Result<Response<v1::PurgeResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let wire = request.into_inner();
        let name = administered(&caller, &wire.collection)?;
        let up_to = Version::new(wire.up_to_version)
            .map_err(|error| status::malformed(&Malformed::new("up_to_version", error.reason)))?;
        let (purged, head) = self.purge_all(&name, up_to).await?;
        Ok(Response::new(v1::PurgeResponse { purged, head: Some(head.into()) }))
    }

    async fn rotate_epoch(
        &self,
        request: Request<v1::RotateEpochRequest>,
    ) -> Result<Response<v1::RotateEpochResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let name = administered(&caller, &request.into_inner().collection)?;
        match self.administer(&name, Administration::RotateEpoch).await? {
            Administered::Rotated(head) => {
                Ok(Response::new(v1::RotateEpochResponse { head: Some(head.into()) }))
            }
            other @ (Administered::Policy(_) | Administered::Purged { .. }) => {
                Err(unexpected(other))
            }
        }
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let operator = Operator::of(Self::may_all(&request)?, &request);
        Ok(Response::new(ReceiverStream::new(backup::start(&self.context, operator)?)))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let operator = Operator::of(Self::may_all(&request)?, &request);
        let prefix = request.into_inner().prefix;
        let told = verifying::start(&self.context, operator, prefix)?;
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn list_clients(
        &self,
        request: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        Self::may_all(&request)?;
        let wire = request.into_inner();
        let most = convert::page_size(wire.page_size).map_err(|e| status::malformed(&e))?;
        let listed = clients::list(&self.context, wire.prefix, &wire.page_token, most).await?;
        let (clients, next_page_token) = listed;
        let clients = clients.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListClientsResponse { clients, next_page_token }))
    }

    async fn explain_client(
        &self,
        request: Request<v1::ExplainClientRequest>,
    ) -> Result<Response<v1::ExplainClientResponse>, Status> {
        Self::may_all(&request)?;
        let wire = request.into_inner();
        convert::id(&wire.client_id, "client_id").map_err(|error| status::malformed(&error))?;
        if wire.client_id.is_empty() {
            return Err(status::malformed(&Malformed::new("client_id", "must be set")));
        }
        let name = wire.collection;
        let name = (!name.is_empty()).then(|| collection(&name)).transpose()?;
        let explained = explaining::explain(&self.context, wire.client_id, name).await?;
        Ok(Response::new(explained.into()))
    }

    async fn list_audience(
        &self,
        request: Request<v1::ListAudienceRequest>,
    ) -> Result<Response<v1::ListAudienceResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let wire = request.into_inner();
        let name = administered(&caller, &wire.collection)?;
        let most = convert::page_size(wire.page_size).map_err(|e| status::malformed(&e))?;
        let question = window::audience_question(&name);
        let after = window::subject_position(&wire.page_token, question);
        let after = after.map_err(status::token)?;
        // One more than fits says whether there is another page.
        let listed = self
            .context
            .read(move |ledger| ledger.list_audience(&name, after.as_ref(), most + 1))
            .await?;
        let mut listed = listed.map_err(|error| status::storage(&error))?;
        let more = listed.len() > most;
        listed.truncate(most);
        let last = listed.last().filter(|_| more);
        let token = last.map(|subject| window::subject_token(question, subject));
        Ok(Response::new(v1::ListAudienceResponse {
            subjects: listed.iter().map(ToString::to_string).collect(),
            next_page_token: token.unwrap_or_default(),
        }))
    }

    async fn list_follows(
        &self,
        request: Request<v1::ListFollowsRequest>,
    ) -> Result<Response<v1::ListFollowsResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let wire = request.into_inner();
        let subject = Subject::new(&wire.subject).map_err(|e| status::malformed(&e))?;
        if !caller.may_administer(&subject.inbox()) {
            return Err(denied());
        }
        let most = convert::page_size(wire.page_size).map_err(|e| status::malformed(&e))?;
        let token = wire.page_token;
        let listed = self.context.read(move |ledger| ledger.list_follows(&subject, most, token));
        let (names, next_page_token) = listed.await?.map_err(|error| status::list(&error))?;
        let collections = names.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::ListFollowsResponse { collections, next_page_token }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        Self::may_all(&request)?;
        let grace = convert::grace(request.into_inner().grace);
        let grace = grace.map_err(|error| status::malformed(&error))?;
        tracing::info!(grace_s = grace.map(|grace| grace.as_secs()), "an operator asks to drain");
        self.context.ending.ask(grace);
        Ok(Response::new(v1::DrainResponse {}))
    }
}
