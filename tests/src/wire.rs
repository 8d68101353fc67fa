//! Clients as generated from the protocol, and nothing more: no retry, no repair, the message
//! limits that every language has by default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use sync_proto::types::{
    CollectionName, Commit, Committed, Cursor, Delta, Head, Mutation, Outcome, Subscribe, Target,
    Version,
};
use sync_proto::v1;
use sync_proto::v1::admin_service_client::AdminServiceClient;
use sync_proto::v1::sync_service_client::SyncServiceClient;
use sync_proto::v1::write_service_client::WriteServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::compose::{commit, scratch};
use crate::stream::Events;
use crate::wait::{PATIENCE, pass, within};

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Wire {
    channel: Channel,
    headers: Headers,
}

/// Headers that go with each call: a token, a trace.
#[derive(Debug, Clone, Default)]
pub struct Headers(BTreeMap<&'static str, MetadataValue<Ascii>>);

/// A connection that shows headers.
pub type Shown = InterceptedService<Channel, Headers>;

impl tonic::service::Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().insert(*name, value.clone());
        }
        Ok(request)
    }
}

// === impl Wire ===

impl Wire {
    /// A connection of its own; it is opened by the first call.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect_timeout(PATIENCE).connect_lazy();
        Self { channel, headers: Headers::default() }
    }

    /// A connection that was made another way.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self { channel, headers: Headers::default() }
    }

    /// The same connection with a token.
    #[must_use]
    pub fn showing(&self, token: &str) -> Self {
        self.saying("authorization", &format!("Bearer {token}"))
    }

    /// The same connection with another header.
    #[must_use]
    pub fn saying(&self, name: &'static str, value: &str) -> Self {
        let mut wire = self.clone();
        wire.headers.0.insert(name, value.parse().unwrap());
        wire
    }

    /// The bare connection.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The reader's calls.
    #[must_use]
    pub fn sync(&self) -> SyncServiceClient<Shown> {
        SyncServiceClient::with_interceptor(self.channel.clone(), self.headers.clone())
    }

    /// The writer's calls.
    #[must_use]
    pub fn write(&self) -> WriteServiceClient<Shown> {
        WriteServiceClient::with_interceptor(self.channel.clone(), self.headers.clone())
    }

    /// The operator's calls.
    #[must_use]
    pub fn admin(&self) -> AdminServiceClient<Shown> {
        AdminServiceClient::with_interceptor(self.channel.clone(), self.headers.clone())
    }

    /// Commits, or says why not.
    pub async fn try_commit(&self, commit: Commit) -> Result<Vec<Committed>, Status> {
        let reply = self.commit_reply(commit).await?;
        Ok(reply.collections.into_iter().map(|c| Committed::try_from(c).unwrap()).collect())
    }

    /// The bare answer to a commit.
    pub async fn commit_reply(&self, commit: Commit) -> Result<v1::CommitResponse, Status> {
        let request = v1::CommitRequest::from(commit);
        let mut client = self.write();
        let reply = within("the answer to a commit", client.commit(request)).await?;
        Ok(reply.into_inner())
    }

    /// Commits, which must succeed; the new version of the first collection by name.
    pub async fn commit(&self, mutations: Vec<Mutation>) -> Version {
        let committed = self.try_commit(commit(mutations)).await.unwrap();
        committed[0].version
    }

    /// Sends a commit, which has an idempotency key, until it is acknowledged.
    pub async fn commit_persistently(&self, commit: Commit) -> Vec<Committed> {
        let begun = std::time::Instant::now();
        loop {
            match self.try_commit(commit.clone()).await {
                Ok(done) => return done,
                Err(status) => {
                    assert!(begun.elapsed() < PATIENCE, "a commit is never acknowledged: {status}");
                    pass(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Sends a pull as it is.
    pub async fn pull_raw(&self, request: v1::PullRequest) -> Result<Vec<Outcome>, Status> {
        let count = request.targets.len();
        let mut client = self.sync();
        let reply = within("the answer to a pull", client.pull(request)).await?;
        let outcomes = reply.into_inner().outcomes;
        assert_eq!(outcomes.len(), count, "one outcome per target");
        Ok(outcomes.into_iter().map(|outcome| Outcome::try_from(outcome).unwrap()).collect())
    }

    /// Pulls these targets once.
    pub async fn pull(&self, targets: Vec<Target>) -> Vec<Outcome> {
        let targets = targets.into_iter().map(Into::into).collect();
        self.pull_raw(v1::PullRequest { targets, ..Default::default() }).await.unwrap()
    }

    /// Pulls one target once.
    pub async fn pull_one(&self, target: Target) -> Outcome {
        self.pull(vec![target]).await.remove(0)
    }

    /// Pulls these targets once, as this client.
    pub async fn pull_as(&self, client_id: &str, targets: Vec<Target>) -> Vec<Outcome> {
        let targets = targets.into_iter().map(Into::into).collect();
        let client_id = client_id.to_owned();
        self.pull_raw(v1::PullRequest { targets, client_id, ..Default::default() }).await.unwrap()
    }

    /// Says as this client how far it has come, or is told why that cannot be.
    pub async fn ack(&self, client_id: &str, acked: &[(&str, Cursor)]) -> Result<(), Status> {
        let acked = acked.iter().map(|(collection, cursor)| v1::AckedCursor {
            collection: (*collection).to_owned(),
            cursor: Some((*cursor).into()),
        });
        let (client_id, acked) = (client_id.to_owned(), acked.collect());
        let mut client = self.sync();
        within("the answer to an ack", client.ack(v1::AckRequest { client_id, acked })).await?;
        Ok(())
    }

    /// Pulls one page of at most so many changes, which must be a delta.
    pub async fn page(&self, target: Target, changes_max: u32) -> Delta {
        let request = v1::PullRequest {
            targets: vec![target.into()],
            max_changes_per_target: changes_max,
            ..Default::default()
        };
        let outcome = self.pull_raw(request).await.unwrap().remove(0);
        let Outcome::Delta(delta) = outcome else { panic!("a delta was due, not {outcome:?}") };
        delta
    }

    /// The head of a collection; `None` = there is none.
    pub async fn head(&self, name: &CollectionName) -> Option<Head> {
        let request = v1::GetCollectionRequest { collection: name.as_str().to_owned() };
        let mut client = self.sync();
        match within("a head", client.get_collection(request)).await {
            Ok(reply) => {
                let info = reply.into_inner().collection.unwrap();
                Some(Head::try_from(info.head.unwrap()).unwrap())
            }
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => panic!("no head: {status}"),
        }
    }

    /// Deletes a collection, which must exist.
    pub async fn delete_collection(&self, name: &str) -> Head {
        let request =
            v1::DeleteCollectionRequest { collection: name.to_owned(), head_equals: None };
        let mut client = self.write();
        let reply = within("the delete of a collection", client.delete_collection(request)).await;
        Head::try_from(reply.unwrap().into_inner().last_head.unwrap()).unwrap()
    }

    /// Opens a stream with a short heartbeat.
    pub async fn subscribe(&self, targets: Vec<Target>) -> Events {
        let heartbeat = Duration::from_millis(200);
        self.try_subscribe(Subscribe { targets, heartbeat, client_id: String::new() })
            .await
            .unwrap()
    }

    /// Opens a stream, or says why not.
    pub async fn try_subscribe(&self, subscribe: Subscribe) -> Result<Events, Status> {
        let request = v1::SubscribeRequest::from(subscribe);
        let mut client = self.sync();
        let reply = within("a stream to open", client.subscribe(request)).await?;
        Ok(Events::new(reply.into_inner()))
    }

    /// Everything that a collection holds, by a first load.
    pub async fn load(&self, collection: &str) -> crate::reader::PlainReader {
        let mut reader = crate::reader::PlainReader::new(scratch(collection));
        reader.catch_up(self).await;
        reader
    }
}
