//! `AdminService`. Every call needs the right to administer; what this server does not offer says so.

use std::sync::Arc;

use sync_proto::types::{CollectionName, Head, Inspection, Malformed, Policy, Version};
use sync_proto::v1;
use sync_proto::v1::admin_service_server::AdminService;
use tokio_stream::Empty;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, backup};
use crate::auth::AccessError;
use crate::engine::administering::{Administered, Administration};
use crate::status;
use crate::store::Store;

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

    /// Lets only those in that may administer.
    fn may<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let caller = self.context.caller(request)?;
        if caller.may_administer() { Ok(()) } else { Err(status::access(AccessError::Denied)) }
    }

    /// The answer to a call that is not offered.
    fn not_offered<T, R>(&self, request: &Request<T>) -> Result<Response<R>, Status> {
        self.may(request)?;
        Err(Status::unimplemented("this server does not offer the call"))
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
                return Err(Status::unavailable("the server is stopping; purge again"));
            }
            epoch = Some(head.epoch);
        }
    }
}

/// The writer answered another question.
fn unexpected(answer: Administered) -> Status {
    tracing::error!(?answer, "the writer answered another question");
    Status::internal("internal error; the server's log says more")
}

fn collection(name: &str) -> Result<CollectionName, Status> {
    CollectionName::new(name).map_err(|error| status::malformed(&error))
}

/// What is to change of a policy.
fn change(wire: Option<v1::Policy>) -> Result<Policy, Status> {
    let malformed = |error: Malformed| status::malformed(&error);
    let wire = wire.ok_or_else(|| malformed(Malformed::new("policy", "must be set")))?;
    if wire.diffusion != i32::from(v1::Diffusion::Unspecified) {
        let text = "policy.diffusion: this server keeps no audiences; leave it out";
        return Err(Status::unimplemented(text));
    }
    Policy::try_from(wire).map_err(|error| malformed(error.within("policy")))
}

#[tonic::async_trait]
impl<S: Store> AdminService for AdminRpc<S> {
    type BackupStream = ReceiverStream<Result<v1::BackupResponse, Status>>;
    type VerifyStream = Empty<Result<v1::VerifyResponse, Status>>;

    async fn inspect_collection(
        &self,
        request: Request<v1::InspectCollectionRequest>,
    ) -> Result<Response<v1::InspectCollectionResponse>, Status> {
        self.may(&request)?;
        let name = collection(&request.into_inner().collection)?;
        let asked = name.clone();
        let found = self.context.read(move |ledger| ledger.inspect(&asked)).await?;
        let found = found.map_err(|error| status::storage(&error))?;
        let found = found.ok_or_else(|| Status::not_found("there is no such collection"))?;
        let subscribers = u64::try_from(self.context.hub.listeners(&name)).unwrap_or(u64::MAX);
        Ok(Response::new(Inspection { subscribers, ..found }.into()))
    }

    async fn set_policy(
        &self,
        request: Request<v1::SetPolicyRequest>,
    ) -> Result<Response<v1::SetPolicyResponse>, Status> {
        self.may(&request)?;
        let wire = request.into_inner();
        let name = collection(&wire.collection)?;
        let change = change(wire.policy)?;
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
        self.may(&request)?;
        let wire = request.into_inner();
        let name = collection(&wire.collection)?;
        let up_to = Version::new(wire.up_to_version)
            .map_err(|error| status::malformed(&Malformed::new("up_to_version", error.reason)))?;
        let (purged, head) = self.purge_all(&name, up_to).await?;
        Ok(Response::new(v1::PurgeResponse { purged, head: Some(head.into()) }))
    }

    async fn rotate_epoch(
        &self,
        request: Request<v1::RotateEpochRequest>,
    ) -> Result<Response<v1::RotateEpochResponse>, Status> {
        self.may(&request)?;
        let name = collection(&request.into_inner().collection)?;
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
        self.may(&request)?;
        Ok(Response::new(ReceiverStream::new(backup::start(&self.context)?)))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        self.not_offered(&request)
    }

    async fn list_clients(
        &self,
        request: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        self.not_offered(&request)
    }

    async fn explain_client(
        &self,
        request: Request<v1::ExplainClientRequest>,
    ) -> Result<Response<v1::ExplainClientResponse>, Status> {
        self.not_offered(&request)
    }

    async fn list_audience(
        &self,
        request: Request<v1::ListAudienceRequest>,
    ) -> Result<Response<v1::ListAudienceResponse>, Status> {
        self.not_offered(&request)
    }

    async fn list_follows(
        &self,
        request: Request<v1::ListFollowsRequest>,
    ) -> Result<Response<v1::ListFollowsResponse>, Status> {
        self.not_offered(&request)
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        self.not_offered(&request)
    }
}
