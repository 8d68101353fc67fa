//! The writer's calls, and what befalls them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::Stream;
use sync_proto::v1;
use sync_proto::v1::mutation::Op;
use sync_proto::v1::write_service_client::WriteServiceClient;
use sync_proto::v1::write_service_server::WriteService;
use tonic::{Request, Response, Status, Streaming};

use super::Front;
use crate::faults::{Fault, Moment};

// === impl Front ===

impl Front {
    /// The commits of an import that are passed on; `broken`: no more is to be.
    fn passed(
        &self,
        commits: Streaming<v1::ImportRequest>,
        broken: &Arc<AtomicBool>,
    ) -> impl Stream<Item = v1::ImportRequest> + Send + 'static {
        let from = (commits, self.clone(), Arc::clone(broken));
        futures::stream::unfold(from, |(mut commits, front, broken)| async move {
            loop {
                // A client that is gone has said all that it says.
                let commit = commits.message().await.ok().flatten()?;
                let fault = front.with(|state| {
                    state.seen.importing(&commit);
                    state.armed.take(Moment::ImportPart)
                });
                match fault {
                    None => return Some((commit, (commits, front, broken))),
                    Some(Fault::BreakImport) => {
                        broken.store(true, Ordering::Relaxed);
                        return None;
                    }
                    Some(_) => {}
                }
            }
        })
    }
}

/// Takes the key of the first item that is put.
fn spoil(request: &mut v1::CommitRequest) {
    let ops = request.mutations.iter_mut().filter_map(|mutation| mutation.op.as_mut());
    let mut keys =
        ops.filter_map(|op| if let Op::Put(put) = op { Some(&mut put.key) } else { None });
    if let Some(key) = keys.next() {
        *key = Bytes::new();
    }
}

#[tonic::async_trait]
impl WriteService for Front {
    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let mut request = request.into_inner();
        self.with(|state| state.seen.committing(&request));
        let upstream = self.call("Commit")?;
        if self.with(|state| state.armed.take(Moment::Request)).is_some() {
            spoil(&mut request);
        }
        let answer = WriteServiceClient::new(upstream).commit(request).await?;
        self.answered(answer, |_| {})
    }

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportRequest>>,
    ) -> Result<Response<v1::ImportResponse>, Status> {
        let upstream = self.call("Import")?;
        let broken = Arc::new(AtomicBool::new(false));
        let commits = self.passed(request.into_inner(), &broken);
        let answer = WriteServiceClient::new(upstream).import(commits).await?;
        if broken.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the kit breaks this off"));
        }
        self.answered(answer, |_| {})
    }

    async fn get_import(
        &self,
        request: Request<v1::GetImportRequest>,
    ) -> Result<Response<v1::GetImportResponse>, Status> {
        let upstream = self.call("GetImport")?;
        WriteServiceClient::new(upstream).get_import(request.into_inner()).await
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let upstream = self.call("DeleteCollection")?;
        WriteServiceClient::new(upstream).delete_collection(request.into_inner()).await
    }
}
