//! The unary calls, in checked types.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use sync_proto::limits::LIST_PAGE_DEFAULT;
use sync_proto::types::{
    CollectionName, Commit, Committed, Epoch, Failure, Head, Item, Key, ListItems, Malformed,
    Mutation, Outcome, Pull, Reconcile, Reconciled, Version,
};
use sync_proto::v1;

use super::{SyncClient, random_id};
use crate::error::ClientError;
use crate::window::Listed;

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitReply {
    /// One per collection that the commit names, by name.
    pub collections: Vec<Committed>,
    /// This is the stored answer of an earlier attempt.
    pub replayed: bool,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order asked for.
    pub entries: Vec<T>,
    /// Where the next page begins; `None` = this was the last.
    pub next: Option<Bytes>,
    /// The collection at the moment of reading; `None` in a list of collections.
    pub head: Option<Head>,
}

/// Items asked for by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetItemsReply {
    /// In the order of the keys asked for. May be shorter: ask again for the rest.
    pub results: Vec<Found>,
    /// The collection at the moment of reading.
    pub head: Head,
}

/// What became of a key that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The item.
    Item(Item),
    /// There is no item of this key.
    Gone(Key),
}

/// A collection by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionInfo {
    /// Its name.
    pub name: CollectionName,
    /// Its head.
    pub head: Head,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportReply {
    /// Sequence of the last commit that is durable.
    pub sequence: u64,
    /// Commits applied by this call.
    pub commits: u64,
    /// Commits skipped because they had been applied before.
    pub skipped: u64,
    /// Mutations applied by this call.
    pub mutations: u64,
}

/// `google.rpc.Code` INTERNAL: what a reply that breaks the protocol counts as.
pub(super) const CODE_INTERNAL: i32 = 13;

// === impl SyncClient ===

impl SyncClient {
    /// Applies all mutations atomically. An idempotency key is added when there is none, so
    /// that a repeated attempt is harmless.
    pub async fn commit(&self, commit: Commit) -> Result<CommitReply, ClientError> {
        let mut request = v1::CommitRequest::from(commit);
        if request.idempotency_key.is_empty() {
            request.idempotency_key = random_id();
        }
        let send = |request| {
            let mut rpc = self.writer();
            async move { rpc.commit(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let collections = reply.collections.into_iter().map(Committed::try_from);
        Ok(CommitReply {
            collections: collections.collect::<Result<_, _>>()?,
            replayed: reply.replayed,
        })
    }

    /// "What changed after my cursors?" One outcome per target, in order.
    pub async fn pull(&self, pull: Pull) -> Result<Vec<Outcome>, ClientError> {
        let request = v1::PullRequest::try_from(pull)?;
        let asked = request.targets.len();
        let send = |request| {
            let mut rpc = self.reader();
            async move { rpc.pull(request).await }
        };
        outcomes(self.repeat(request, send).await?, asked)
    }

    /// One round of finding what differs, and the size of the reply. Attempted once.
    pub(crate) async fn reconcile_once(
        &self,
        asked: Reconcile,
    ) -> Result<(Reconciled, usize), ClientError> {
        let round = asked.round.clone();
        let mut rpc = self.reader();
        let request = v1::ReconcileRequest::from(asked);
        let reply = self.attempt(request, async |request| rpc.reconcile(request).await).await?;
        let size = reply.encoded_len();
        Ok((Reconciled::from_wire(reply, &round)?, size))
    }

    /// One attempt to get items by key, and the size of the reply.
    pub(crate) async fn get_items_once(
        &self,
        collection: &CollectionName,
        keys: &[Key],
    ) -> Result<(GetItemsReply, usize), ClientError> {
        let collection = collection.as_str().to_owned();
        let keys = keys.iter().map(Key::to_bytes).collect();
        let request = v1::GetItemsRequest { collection, keys, keys_only: false };
        let mut rpc = self.reader();
        let reply = self.attempt(request, async |request| rpc.get_items(request).await).await?;
        let size = reply.encoded_len();
        let results = reply.results.into_iter().map(found).collect::<Result<_, _>>()?;
        Ok((GetItemsReply { results, head: head(reply.head)? }, size))
    }

    /// A window of a collection, without syncing it.
    pub async fn list_items(&self, list: ListItems) -> Result<Page<Item>, ClientError> {
        let send = |request| {
            let mut rpc = self.reader();
            async move { rpc.list_items(request).await }
        };
        let reply = self.repeat(v1::ListItemsRequest::from(list), send).await?;
        let items = reply.items.into_iter().map(Item::try_from);
        Ok(Page {
            entries: items.collect::<Result<_, _>>()?,
            next: (!reply.next_page_token.is_empty()).then_some(reply.next_page_token),
            head: reply.head.map(Head::try_from).transpose()?,
        })
    }

    /// One attempt at a page of a window, and the size of the reply.
    pub(crate) async fn list_items_once(
        &self,
        list: ListItems,
    ) -> Result<(Listed, u64), ClientError> {
        let mut rpc = self.reader();
        let request = v1::ListItemsRequest::from(list);
        let reply = self.attempt(request, async |request| rpc.list_items(request).await).await?;
        let size = reply.encoded_len() as u64;
        let items = reply.items.into_iter().map(Item::try_from);
        let listed = Listed {
            items: items.collect::<Result<_, _>>()?,
            next: (!reply.next_page_token.is_empty()).then_some(reply.next_page_token),
            head: head(reply.head)?,
            skipped: reply.skipped,
        };
        Ok((listed, size))
    }

    /// Items by key.
    pub async fn get_items(
        &self,
        collection: &CollectionName,
        keys: &[Key],
        keys_only: bool,
    ) -> Result<GetItemsReply, ClientError> {
        let request = v1::GetItemsRequest {
            collection: collection.as_str().to_owned(),
            keys: keys.iter().map(Key::to_bytes).collect(),
            keys_only,
        };
        let send = |request| {
            let mut rpc = self.reader();
            async move { rpc.get_items(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let results = reply.results.into_iter().map(found);
        Ok(GetItemsReply { results: results.collect::<Result<_, _>>()?, head: head(reply.head)? })
    }

    /// The head of a collection.
    pub async fn get_collection(&self, collection: &CollectionName) -> Result<Head, ClientError> {
        let request = v1::GetCollectionRequest { collection: collection.as_str().to_owned() };
        let send = |request| {
            let mut rpc = self.reader();
            async move { rpc.get_collection(request).await }
        };
        let reply = self.repeat(request, send).await?;
        head(reply.collection.and_then(|info| info.head))
    }

    /// A page of the collections that the caller may read and whose names begin with `prefix`.
    pub async fn list_collections(
        &self,
        prefix: &str,
        page_token: Option<Bytes>,
    ) -> Result<Page<CollectionInfo>, ClientError> {
        let request = v1::ListCollectionsRequest {
            prefix: prefix.to_owned(),
            page_size: u32::try_from(LIST_PAGE_DEFAULT).unwrap_or(0),
            page_token: page_token.unwrap_or_default(),
        };
        let send = |request| {
            let mut rpc = self.reader();
            async move { rpc.list_collections(request).await }
        };
        let reply = self.repeat(request, send).await?;
        let entries = reply.collections.into_iter().map(|info| {
            Ok(CollectionInfo { name: CollectionName::new(&info.name)?, head: head(info.head)? })
        });
        Ok(Page {
            entries: entries.collect::<Result<_, ClientError>>()?,
            next: (!reply.next_page_token.is_empty()).then_some(reply.next_page_token),
            head: None,
        })
    }

    /// Bulk load: each element of `commits` is applied as one commit, in order, numbered from
    /// `first_sequence`. Not repeated by itself: when it fails, ask [`Self::get_import`] how far
    /// it came and go on from there with the same id; what was applied is skipped. Has no
    /// deadline: the stream decides how long it takes.
    pub async fn import(
        &self,
        import_id: &str,
        first_sequence: u64,
        commits: impl Stream<Item = Vec<Mutation>> + Send + 'static,
    ) -> Result<ImportReply, ClientError> {
        let import_id = import_id.to_owned();
        let numbered = futures::stream::iter(first_sequence..).zip(commits);
        let messages = numbered.map(move |(sequence, mutations)| v1::ImportRequest {
            import_id: import_id.clone(),
            sequence,
            mutations: mutations.into_iter().map(Into::into).collect(),
        });
        let sent = self.writer().import(self.request(messages).await).await;
        let reply = sent.map_err(|status| ClientError::from_status(&status))?.into_inner();
        Ok(ImportReply {
            sequence: reply.sequence,
            commits: reply.commits,
            skipped: reply.skipped,
            mutations: reply.mutations,
        })
    }

    /// Sequence of the last durable commit of an import.
    pub async fn get_import(&self, import_id: &str) -> Result<u64, ClientError> {
        let request = v1::GetImportRequest { import_id: import_id.to_owned() };
        let send = |request| {
            let mut rpc = self.writer();
            async move { rpc.get_import(request).await }
        };
        Ok(self.repeat(request, send).await?.sequence)
    }

    /// Removes a collection, if it stands exactly at `only_at`. Attempted once: after a lost
    /// answer, ask [`Self::get_collection`]. Returns where it stood.
    pub async fn delete_collection(
        &self,
        collection: &CollectionName,
        only_at: Option<(Epoch, Version)>,
    ) -> Result<Head, ClientError> {
        let request = v1::DeleteCollectionRequest {
            collection: collection.as_str().to_owned(),
            head_equals: only_at.map(|(epoch, version)| v1::HeadEquals {
                epoch: epoch.get(),
                version: version.get(),
            }),
        };
        let mut rpc = self.writer();
        let send = async |request| rpc.delete_collection(request).await;
        head(self.attempt(request, send).await?.last_head)
    }
}

/// A reply in which one outcome breaks the protocol is good for the other targets.
pub(super) fn outcomes(reply: v1::PullResponse, asked: usize) -> Result<Vec<Outcome>, ClientError> {
    let given = reply.outcomes.len();
    if given != asked {
        let reason = format!("{given} of them for {asked} targets");
        return Err(Malformed::new("outcomes", reason).into());
    }
    let parse =
        |wire| Outcome::try_from(wire).unwrap_or_else(|broken| Outcome::Failed(failure(&broken)));
    Ok(reply.outcomes.into_iter().map(parse).collect())
}

/// A message that breaks the protocol, as a failure of the one target that it is about.
pub(super) fn failure(broken: &Malformed) -> Failure {
    let message = format!("malformed message: {broken}");
    Failure { code: CODE_INTERNAL, message, retry_after: None, reason: None }
}

fn head(wire: Option<v1::Head>) -> Result<Head, ClientError> {
    let wire = wire.ok_or_else(|| Malformed::new("head", "must be set"))?;
    Ok(Head::try_from(wire)?)
}

fn found(wire: v1::GetItemsResult) -> Result<Found, Malformed> {
    match wire.result {
        Some(v1::get_items_result::Result::Found(item)) => Item::try_from(item).map(Found::Item),
        Some(v1::get_items_result::Result::Gone(key)) => Key::new(key).map(Found::Gone),
        None => Err(Malformed::new("result", "must be set")),
    }
}
