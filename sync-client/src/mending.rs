//! Carries out the steps of a repair by difference: asks the server, and works on the rows.
//! Decides nothing itself.

use sync_proto::types::{CollectionName, Item, Key, LeafEntry, Reconcile, Round};

use crate::client::{Found, SyncClient};
use crate::error::ClientError;
use crate::session::{Done, Fault, MendFault, Task};
use crate::store::{Fate, ReplicaStore, Row, Staged, StoreError};

/// What is asked of the server, and what is done here.
pub(crate) enum Place {
    Server(Ask),
    Here(Task),
}

/// A question to the server.
pub(crate) enum Ask {
    Round(Round),
    Fetch(Vec<Key>),
}

/// Asks the server. Says how many bytes the answer took.
pub(crate) async fn ask(
    client: &SyncClient,
    collection: &CollectionName,
    ask: Ask,
) -> (Result<Done, MendFault>, u64) {
    let answer = match ask {
        Ask::Round(round) => {
            let client_id = client.client_id().to_owned();
            let asked = Reconcile { collection: collection.clone(), round, client_id };
            let answer = client.reconcile_once(asked).await;
            answer.map(|(answer, bytes)| (Done::Answered(answer), bytes))
        }
        Ask::Fetch(keys) => client.get_items_once(collection, &keys).await.map(|(reply, bytes)| {
            let looked_at = reply.results.len();
            let items = reply.results.into_iter().filter_map(|found| match found {
                Found::Item(item) => Some(item),
                Found::Gone(_) => None,
            });
            (Done::Fetched(items.collect(), looked_at, reply.head), bytes)
        }),
    };
    match answer {
        Ok((done, bytes)) => (Ok(done), bytes as u64),
        Err(failure) => {
            tracing::debug!(%failure, %collection, "a step of a repair failed");
            (Err(fault(&failure)), 0)
        }
    }
}

/// Carries out a step of a repair that concerns the rows; `None` = the server must be asked. May
/// wait for the disk. `Err`: the store has failed for good.
pub fn work(
    store: &dyn ReplicaStore,
    collection: &CollectionName,
    task: &Task,
) -> Result<Option<Result<Done, MendFault>>, StoreError> {
    let done = match task {
        Task::Sum => store.sums(collection).map(Done::Summed),
        Task::Compare(entries) => compare(store, collection, entries).map(Done::Compared),
        Task::Keep(items) => {
            let rows = items.iter().filter_map(row).map(Staged::Put).collect();
            store.stage(collection, rows).map(|()| Done::Staged)
        }
        Task::Rest(segments) => store.stage_rest(collection, segments).map(|()| Done::Staged),
        Task::Round(_) | Task::Fetch(_) => return Ok(None),
    };
    match done {
        Ok(done) => Ok(Some(Ok(done))),
        Err(StoreError::Damaged { .. }) => Ok(Some(Err(MendFault::Damaged))),
        Err(fatal) => Err(fatal),
    }
}

/// Stages what the entries say of the rows; names the items whose values are not here.
fn compare(
    store: &dyn ReplicaStore,
    collection: &CollectionName,
    entries: &[LeafEntry],
) -> Result<Vec<(Key, u32)>, StoreError> {
    let (mut staged, mut missing) = (Vec::new(), Vec::new());
    for entry in entries {
        let row = match store.get(collection, &entry.key) {
            // What does not read is not there.
            Err(StoreError::Damaged { .. }) => None,
            row => row?,
        };
        match Fate::of(entry, row) {
            Fate::Known(edit) => staged.push(edit),
            Fate::Fetch => missing.push((entry.key.clone(), entry.value_size)),
        }
    }
    store.stage(collection, staged)?;
    Ok(missing)
}

/// An item as it is kept, in memory of its own. Without a value it is none: it was asked for.
fn row(item: &Item) -> Option<Row> {
    let value = item.value.as_ref()?;
    Some(Row::of(
        &item.key,
        value.as_bytes(),
        &item.sort_key,
        [item.version, item.created, item.value_version],
    ))
}

fn fault(failure: &ClientError) -> MendFault {
    match failure {
        ClientError::Precondition(_) => MendFault::Moved,
        ClientError::NotFound(_) => MendFault::NotFound,
        ClientError::Denied(_) => MendFault::Denied,
        ClientError::Unimplemented(_) => MendFault::Unknown,
        ClientError::Setting(_)
        | ClientError::Unavailable(_)
        | ClientError::Exhausted(_)
        | ClientError::Deadline
        | ClientError::Unauthenticated(_)
        | ClientError::Aborted(_)
        | ClientError::Invalid(_)
        | ClientError::Internal(_)
        | ClientError::Malformed(_) => MendFault::Call(Fault::from(failure)),
    }
}

// === impl Place ===

impl From<Task> for Place {
    fn from(task: Task) -> Self {
        match task {
            Task::Round(round) => Self::Server(Ask::Round(round)),
            Task::Fetch(keys) => Self::Server(Ask::Fetch(keys)),
            here @ (Task::Sum | Task::Compare(_) | Task::Keep(_) | Task::Rest(_)) => {
                Self::Here(here)
            }
        }
    }
}
