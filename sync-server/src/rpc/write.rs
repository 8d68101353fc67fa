//! `WriteService`: commits, imports, deletion of collections.

use std::collections::VecDeque;
use std::sync::Arc;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sync_proto::convert;
use sync_proto::types::{CollectionName, Commit, Malformed, Mutation, Reason, Timestamp};
use sync_proto::v1;
use sync_proto::v1::write_service_server::WriteService;
use tonic::{Request, Response, Status, Streaming};

use super::Context;
use super::loads::ConnectionNumber;
use super::pacing::Taken;
use crate::auth::{AccessError, Caller};
use crate::core::plan::Answer;
use crate::core::request::{Repeated, Request as Work};
use crate::engine::reserving::Reserved;
use crate::engine::writer::Pending;
use crate::status;
use crate::store::Store;

/// Commits of one import that wait for the writer together.
const IMPORT_WINDOW: usize = 64;

/// The service.
#[derive(Debug)]
pub struct WriteRpc<S> {
    context: Arc<Context<S>>,
}

/// How an import gets on.
struct Import<'a, S> {
    context: &'a Context<S>,
    caller: Caller,
    /// The connection that it comes on.
    on: u64,
    id: Option<String>,
    waiting: VecDeque<Waiting>,
    told: v1::ImportResponse,
}

/// A commit of an import that is not durable yet.
struct Waiting {
    pending: Pending,
    sequence: u64,
    mutations: u64,
    taken: Taken,
}

// === impl WriteRpc ===

impl<S: Store> WriteRpc<S> {
    /// The service over an engine.
    #[must_use]
    pub fn new(context: Arc<Context<S>>) -> Self {
        Self { context }
    }

    /// Writes a commit, if there is room where it writes; or finds that it was done before.
    async fn write(
        &self,
        caller: &Caller,
        commit: Commit,
        fingerprint: [u8; 16],
    ) -> Result<Answer, Status> {
        let context = &self.context;
        let reserved = context.storing.reserve(context, caller, &commit.mutations).await?;
        // It may have waited for others to write, and a right may have ended meanwhile.
        check(caller, &commit)?;
        let (work, reserved) = match reserved {
            Ok(reserved) => (Work::Commit { commit, fingerprint }, reserved),
            Err(too_much) => {
                let idempotency_key = commit.idempotency_key;
                if idempotency_key.is_empty() {
                    return Err(status::too_much(&too_much));
                }
                let repeated = Repeated::Commit { idempotency_key, fingerprint };
                (Work::Repeat(repeated, too_much), Reserved::default())
            }
        };
        context.writes.commit(work, reserved).await.map_err(|error| status::write(&error))
    }
}

#[tonic::async_trait]
impl<S: Store> WriteService for WriteRpc<S> {
    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let on = connection(&request);
        let wire = request.into_inner();
        // Only a retry is compared with what it repeats; hashing megabytes costs milliseconds.
        let retryable = !wire.idempotency_key.is_empty();
        let fingerprint = if retryable { fingerprint(&wire) } else { Default::default() };
        let mut commit = Commit::try_from(wire).map_err(|error| status::malformed(&error))?;
        if !commit.idempotency_key.is_empty() {
            commit.idempotency_key = owned_by(&caller, &commit.idempotency_key);
        }
        check(&caller, &commit)?;
        let pacing = &self.context.pacing;
        let taken = pacing.take(&caller, on, commit.mutations.len());
        let taken = taken.map_err(|error| status::too_fast(&error))?;
        let done = self.write(&caller, commit, fingerprint).await;
        if done.as_ref().map_or_else(status::is_unchanged, |answer| answer.replayed) {
            pacing.unchanged(taken);
        }
        let answer = done?;
        Ok(Response::new(v1::CommitResponse {
            collections: answer.collections.into_iter().map(Into::into).collect(),
            replayed: answer.replayed,
        }))
    }

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportRequest>>,
    ) -> Result<Response<v1::ImportResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let on = connection(&request);
        let mut messages = request.into_inner();
        let mut import = Import {
            context: &self.context,
            on,
            caller,
            id: None,
            waiting: VecDeque::new(),
            told: v1::ImportResponse::default(),
        };
        let draining = self.context.drain.clone();
        let caller = import.caller.clone();
        loop {
            let message = tokio::select! {
                biased;
                error = caller.ended() => {
                    import.settle(0).await?;
                    return Err(status::access(error));
                }
                () = draining.cancelled() => {
                    import.settle(0).await?;
                    return Err(status::stopping("the server is stopping; resume the import"));
                }
                message = messages.message() => message,
            };
            let taken = match message {
                Ok(Some(message)) => import.take(message).await,
                Ok(None) => break,
                Err(unreadable) => Err(unreadable),
            };
            if let Err(refused) = taken {
                // What was handed over before is settled first: GetImport must not tell less.
                import.settle(0).await?;
                return Err(refused);
            }
        }
        import.settle(0).await?;
        import.finish().await
    }

    async fn get_import(
        &self,
        request: Request<v1::GetImportRequest>,
    ) -> Result<Response<v1::GetImportResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let import_id = request.into_inner().import_id;
        check_import_id(&import_id).map_err(|error| status::malformed(&error))?;
        let import_id = owned_by(&caller, &import_id);
        let found = self
            .context
            .read(move |ledger| ledger.import_progress(&import_id, Timestamp::now()))
            .await?;
        let found = found.map_err(|error| status::storage(&error))?;
        let sequence = found.ok_or_else(|| {
            let text = "import_id: no such import within the window";
            status::refused(Reason::NoSuchImport, text)
        })?;
        Ok(Response::new(v1::GetImportResponse { sequence }))
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let caller = Context::<S>::caller(&request)?;
        let on = connection(&request);
        let wire = request.into_inner();
        let malformed = |error: Malformed| status::malformed(&error);
        let name = CollectionName::new(&wire.collection).map_err(malformed)?;
        if name.is_inbox() {
            let reason = "names below \"inbox/\" are the server's";
            return Err(malformed(Malformed::new("collection", reason)));
        }
        let condition = wire.head_equals.map(convert::head_equals).transpose();
        let condition = condition.map_err(|error| malformed(error.within("head_equals")))?;
        may_write(&caller, &name)?;
        let paced = self.context.pacing.take(&caller, on, 0);
        paced.map_err(|error| status::too_fast(&error))?;
        let gone = self.context.writes.delete_collection(name, condition).await;
        let head = gone.map_err(|error| status::write(&error))?;
        Ok(Response::new(v1::DeleteCollectionResponse { last_head: Some(head.into()) }))
    }
}

// === impl Import ===

impl<S: Store> Import<'_, S> {
    /// Hands a message to the writer; waits while too many are under way.
    async fn take(&mut self, message: v1::ImportRequest) -> Result<(), Status> {
        let malformed = |error: Malformed| status::malformed(&error);
        check_import_id(&message.import_id).map_err(malformed)?;
        let id = self.id.get_or_insert_with(|| message.import_id.clone()).clone();
        if id != message.import_id {
            let reason = "differs from the first message of the stream";
            return Err(malformed(Malformed::new("import_id", reason)));
        }
        if message.sequence == 0 {
            return Err(malformed(Malformed::new("sequence", "begins at 1")));
        }
        let mutations: Vec<Mutation> = convert::mutations(message.mutations)
            .map_err(|error| status::malformed_commit(message.sequence, &error))?;
        allowed("mutations", mutations.iter().map(|one| self.caller.may_change(one)))?;
        self.settle(IMPORT_WINDOW - 1).await?;
        let taken = self.keep_pace(mutations.len()).await?;
        let count = u64::try_from(mutations.len()).expect("a commit is bounded");
        let (sequence, import_id) = (message.sequence, owned_by(&self.caller, &id));
        let (context, caller) = (self.context, self.caller.clone());
        let mut reserved = context.storing.reserve(context, &caller, &mutations).await?;
        if reserved.is_err() {
            // What is under way may be repetitions, which add nothing.
            self.settle(0).await?;
            reserved = context.storing.reserve(context, &caller, &mutations).await?;
        }
        // All of this may have taken minutes, and a right may have ended meanwhile.
        allowed("mutations", mutations.iter().map(|one| caller.may_change(one)))?;
        let (work, reserved) = match reserved {
            Ok(reserved) => (Work::Import { import_id, sequence, mutations }, reserved),
            Err(too_much) => {
                let repeated = Repeated::Import { import_id, sequence };
                (Work::Repeat(repeated, too_much), Reserved::default())
            }
        };
        let submitted = self.context.writes.submit(work, reserved).await;
        let pending = submitted.map_err(|error| status::write(&error))?;
        self.waiting.push_back(Waiting { pending, sequence, mutations: count, taken });
        Ok(())
    }

    /// Waits until the caller may write as much: an import is slowed down, not refused.
    async fn keep_pace(&self, mutations: usize) -> Result<Taken, Status> {
        loop {
            let too_fast = match self.context.pacing.take(&self.caller, self.on, mutations) {
                Ok(taken) => return Ok(taken),
                Err(too_fast) => too_fast,
            };
            tokio::select! {
                biased;
                error = self.caller.ended() => return Err(status::access(error)),
                () = self.context.drain.cancelled() => {
                    return Err(status::stopping("the server is stopping; resume the import"));
                }
                () = tokio::time::sleep(too_fast.wait) => {}
            }
        }
    }

    /// Says what the import did, once everything is durable.
    async fn finish(mut self) -> Result<Response<v1::ImportResponse>, Status> {
        let Some(id) = &self.id else {
            let nothing = Malformed::new("import_id", "the stream held no message");
            return Err(status::malformed(&nothing));
        };
        if self.told.skipped > 0 {
            // An earlier call may have come further than this one.
            let id = owned_by(&self.caller, id);
            let known =
                self.context.read(move |ledger| ledger.import_progress(&id, Timestamp::now()));
            let known = known.await?.map_err(|error| status::storage(&error))?;
            self.told.sequence = self.told.sequence.max(known.unwrap_or_default());
        }
        Ok(Response::new(self.told))
    }

    /// Waits until at most `most` commits are under way.
    async fn settle(&mut self, most: usize) -> Result<(), Status> {
        while self.waiting.len() > most {
            let Some(next) = self.waiting.pop_front() else { break };
            let done = next.pending.answer().await.map_err(|error| status::write(&error));
            if done.as_ref().map_or_else(status::is_unchanged, |answer| answer.replayed) {
                self.context.pacing.unchanged(next.taken);
            }
            let answer = done.map_err(|status| {
                status::preceded(&format!("commit {}", next.sequence), &status)
            })?;
            self.told.sequence = self.told.sequence.max(next.sequence);
            if answer.replayed {
                self.told.skipped += 1;
            } else {
                self.told.commits += 1;
                self.told.mutations += next.mutations;
            }
        }
        Ok(())
    }
}

/// The number of the connection that a request came on.
fn connection<T>(request: &Request<T>) -> u64 {
    request.extensions().get::<ConnectionNumber>().copied().unwrap_or_default().0
}

fn check_import_id(id: &str) -> Result<(), Malformed> {
    if id.is_empty() {
        return Err(Malformed::new("import_id", "must not be empty"));
    }
    convert::id(id, "import_id")
}

fn may_write(caller: &Caller, name: &CollectionName) -> Result<(), Status> {
    if caller.may_write(name) {
        Ok(())
    } else {
        Err(status::access_at("collection", AccessError::Denied))
    }
}

/// Whether the caller may do all of a commit.
fn check(caller: &Caller, commit: &Commit) -> Result<(), Status> {
    let judged = commit.preconditions.iter();
    allowed("mutations", commit.mutations.iter().map(|one| caller.may_change(one)))?;
    allowed("preconditions", judged.map(|one| caller.may_write(&one.collection)))
}

/// Names the first element of `list` that is not allowed; not whether what it names exists.
fn allowed(list: &str, mut verdicts: impl Iterator<Item = bool>) -> Result<(), Status> {
    match verdicts.position(|allowed| !allowed) {
        None => Ok(()),
        Some(index) => {
            let denied = AccessError::Denied;
            Err(status::access_at(&format!("{list}[{index}].collection"), denied))
        }
    }
}

/// The name of a receipt: callers choose theirs without meeting each other's.
fn owned_by(caller: &Caller, id: &str) -> String {
    format!("{}\0{id}", caller.subject())
}

/// What makes a retry the same request: its content.
fn fingerprint(request: &v1::CommitRequest) -> [u8; 16] {
    Sha256::digest(request.encode_to_vec())[..16].try_into().expect("a SHA-256 has 32 bytes")
}
