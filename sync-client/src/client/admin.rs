//! The calls of operators, in checked types. They need the right to administer.

use bytes::Bytes;
use sync_proto::convert::policy_fields;
use sync_proto::limits::LIST_PAGE_MAX;
use sync_proto::types::{
    CollectionName, Head, Inspection, Malformed, Policy, PolicyChange, Subject, Version,
};
use sync_proto::v1;
use sync_proto::v1::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;

use super::{Page, SyncClient};
use crate::error::ClientError;

// === impl SyncClient ===

impl SyncClient {
    pub(super) fn operator(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.shared.channel.clone())
    }

    /// What a collection holds and how it is kept.
    pub async fn inspect_collection(
        &self,
        name: &CollectionName,
    ) -> Result<Inspection, ClientError> {
        let request = v1::InspectCollectionRequest { collection: name.as_str().to_owned() };
        let send = |request| {
            let mut rpc = self.operator();
            async move { rpc.inspect_collection(request).await }
        };
        Ok(self.repeat(request, send).await?.try_into()?)
    }

    /// Changes how a collection is kept: what `change` does not name stays. The policy in force.
    pub async fn set_policy(
        &self,
        name: &CollectionName,
        change: PolicyChange,
    ) -> Result<Policy, ClientError> {
        let request = v1::SetPolicyRequest {
            collection: name.as_str().to_owned(),
            policy: Some(change.set.into()),
            clear: policy_fields(&change.clear),
        };
        let send = |request| {
            let mut rpc = self.operator();
            async move { rpc.set_policy(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let effective = required(reply.effective_policy, "effective_policy")?;
        Ok(Policy::try_from(effective)?)
    }

    /// The subjects who follow a collection, a page of them; the collection need not exist.
    pub async fn list_audience(
        &self,
        name: &CollectionName,
        page_token: Option<Bytes>,
    ) -> Result<Page<Subject>, ClientError> {
        let request = v1::ListAudienceRequest {
            collection: name.as_str().to_owned(),
            page_size: u32::try_from(LIST_PAGE_MAX).unwrap_or(0),
            page_token: page_token.unwrap_or_default(),
        };
        let send = |request| {
            let mut rpc = self.operator();
            async move { rpc.list_audience(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let entries = reply.subjects.iter().map(|subject| Subject::new(subject));
        Ok(page(entries.collect::<Result<_, _>>()?, reply.next_page_token))
    }

    /// What a subject follows, a page of it.
    pub async fn list_follows(
        &self,
        subject: &Subject,
        page_token: Option<Bytes>,
    ) -> Result<Page<CollectionName>, ClientError> {
        let request = v1::ListFollowsRequest {
            subject: subject.as_str().to_owned(),
            page_size: u32::try_from(LIST_PAGE_MAX).unwrap_or(0),
            page_token: page_token.unwrap_or_default(),
        };
        let send = |request| {
            let mut rpc = self.operator();
            async move { rpc.list_follows(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let entries = reply.collections.iter().map(|name| CollectionName::new(name));
        Ok(page(entries.collect::<Result<_, _>>()?, reply.next_page_token))
    }

    /// Forgets the deletes of versions up to this one now: how many, and the head afterwards. Once
    /// per call; what was forgotten when it fails stays forgotten.
    pub async fn purge(
        &self,
        name: &CollectionName,
        up_to: Version,
    ) -> Result<(u64, Head), ClientError> {
        let request =
            v1::PurgeRequest { collection: name.as_str().to_owned(), up_to_version: up_to.get() };
        let mut rpc = self.operator();
        let reply = self.attempt(request, async |request| rpc.purge(request).await).await?;
        Ok((reply.purged, Head::try_from(required(reply.head, "head")?)?))
    }

    /// Gives a collection a new epoch: every reader starts over or reconciles. Once per call: a
    /// repetition would be another epoch.
    pub async fn rotate_epoch(&self, name: &CollectionName) -> Result<Head, ClientError> {
        let request = v1::RotateEpochRequest { collection: name.as_str().to_owned() };
        let mut rpc = self.operator();
        let reply = self.attempt(request, async |request| rpc.rotate_epoch(request).await).await?;
        Ok(Head::try_from(required(reply.head, "head")?)?)
    }
}

fn page<T>(entries: Vec<T>, next: Bytes) -> Page<T> {
    Page { entries, next: (!next.is_empty()).then_some(next), head: None }
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, Malformed> {
    field.ok_or_else(|| Malformed::new(name, "must be set"))
}
