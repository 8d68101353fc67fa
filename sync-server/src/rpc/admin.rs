//! `AdminService`. The calls are in the protocol; this server does not offer them yet and says so.

use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use sync_proto::v1;
use sync_proto::v1::admin_service_server::AdminService;

/// Answers every call with `UNIMPLEMENTED`.
#[derive(Debug, Default)]
pub struct AdminRpc;

/// The answer to every call.
fn not_offered<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this server does not offer the call"))
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    type BackupStream = Empty<Result<v1::BackupResponse, Status>>;
    type VerifyStream = Empty<Result<v1::VerifyResponse, Status>>;

    async fn inspect_collection(
        &self,
        _: Request<v1::InspectCollectionRequest>,
    ) -> Result<Response<v1::InspectCollectionResponse>, Status> {
        not_offered()
    }

    async fn set_policy(
        &self,
        _: Request<v1::SetPolicyRequest>,
    ) -> Result<Response<v1::SetPolicyResponse>, Status> {
        not_offered()
    }

    async fn purge(
        &self,
        _: Request<v1::PurgeRequest>,
    ) -> Result<Response<v1::PurgeResponse>, Status> {
        not_offered()
    }

    async fn rotate_epoch(
        &self,
        _: Request<v1::RotateEpochRequest>,
    ) -> Result<Response<v1::RotateEpochResponse>, Status> {
        not_offered()
    }

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        not_offered()
    }

    async fn verify(
        &self,
        _: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        not_offered()
    }

    async fn list_clients(
        &self,
        _: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        not_offered()
    }

    async fn explain_client(
        &self,
        _: Request<v1::ExplainClientRequest>,
    ) -> Result<Response<v1::ExplainClientResponse>, Status> {
        not_offered()
    }

    async fn list_audience(
        &self,
        _: Request<v1::ListAudienceRequest>,
    ) -> Result<Response<v1::ListAudienceResponse>, Status> {
        not_offered()
    }

    async fn list_follows(
        &self,
        _: Request<v1::ListFollowsRequest>,
    ) -> Result<Response<v1::ListFollowsResponse>, Status> {
        not_offered()
    }

    async fn drain(
        &self,
        _: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        not_offered()
    }
}
