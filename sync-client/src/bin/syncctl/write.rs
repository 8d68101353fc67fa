//! Commands that change something: put, delete, delete-collection.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use serde::Serialize;
use sync_client::types::{Commit, Committed, Condition, Mutation, Op, Precondition, Value};
use sync_proto::limits::VALUE_LEN_MAX;

use crate::Context;
use crate::args::{Delete, DeleteCollection, Put};
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::output::Colour;
use crate::read::HeadFields;

/// What a commit did to a collection.
#[derive(Serialize)]
struct CommittedFields<'a> {
    collection: &'a str,
    epoch: Option<String>,
    prev_version: u64,
    version: u64,
    changed: bool,
}

// === impl CommittedFields ===

impl<'a> CommittedFields<'a> {
    fn new(committed: &'a Committed) -> Self {
        Self {
            collection: committed.collection.as_str(),
            epoch: committed.epoch.map(|epoch| epoch.to_string()),
            prev_version: committed.prev_version.get(),
            version: committed.version.get(),
            changed: committed.version != committed.prev_version,
        }
    }
}

pub(crate) async fn put(context: &mut Context, put: Put) -> Result<Exit, Failure> {
    let key = put.form.key(&put.key).map_err(Failure::Usage)?;
    let value = content(&put).await?;
    let condition = match (put.if_version, put.if_absent) {
        (Some(version), _) => Some(Condition::ItemVersionEquals(key.clone(), version)),
        (None, true) => Some(Condition::ItemAbsent(key.clone())),
        (None, false) => None,
    };
    let precondition =
        condition.map(|condition| Precondition { collection: put.collection.clone(), condition });
    let op = Op::Put { key, value: Value::new(value)?, sort_key: put.sort_key };
    let mutations = vec![Mutation { collection: put.collection, op }];
    let preconditions = precondition.into_iter().collect();
    let done = commit(context, Commit { mutations, preconditions, ..Commit::default() }).await?;
    tell(context, &done, "put", "put changed nothing")?;
    Ok(Exit::Done)
}

async fn content(put: &Put) -> Result<Vec<u8>, Failure> {
    if let Some(value) = &put.value {
        return Ok(value.clone().into_bytes());
    }
    let Some(file) = put.file.clone() else {
        let read = || read_bounded(io::stdin().lock());
        return blocking(read).await?.map_err(Failure::io("reading standard input"));
    };
    let doing = format!("reading {}", file.display());
    blocking(move || read_bounded(std::fs::File::open(file)?)).await?.map_err(Failure::io(doing))
}

/// Reads just so much that the check of the length can refuse it.
fn read_bounded(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(VALUE_LEN_MAX as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

pub(crate) async fn delete(context: &mut Context, delete: Delete) -> Result<Exit, Failure> {
    let keys = delete.keys.iter().map(|key| delete.form.key(key));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
    let mutations = keys
        .into_iter()
        .map(|key| Mutation { collection: delete.collection.clone(), op: Op::Delete { key } })
        .collect();
    let done = commit(context, Commit { mutations, ..Commit::default() }).await?;
    tell(context, &done, "deleted", "nothing to delete")?;
    Ok(if done.version == done.prev_version { Exit::NotFound } else { Exit::Done })
}

/// A commit of one collection.
pub(crate) async fn commit(context: &Context, commit: Commit) -> Result<Committed, Failure> {
    let reply = context.client.commit(commit).await?;
    let first = reply.collections.into_iter().next();
    first.ok_or_else(|| Failure::Internal("the reply to a commit names no collection".into()))
}

fn tell(
    context: &mut Context,
    done: &Committed,
    what: &str,
    unchanged: &str,
) -> Result<(), Failure> {
    if context.output.json() {
        return context.output.object(&CommittedFields::new(done));
    }
    let Committed { collection, prev_version, version, .. } = done;
    if version == prev_version {
        let line = format!("{unchanged}: {collection} stays at version {version}");
        return context.output.coloured_line(Colour::Dim, &line);
    }
    context.output.line(&format!("{what}: {collection} is at version {version}"))
}

pub(crate) async fn delete_collection(
    context: &mut Context,
    delete: &DeleteCollection,
) -> Result<Exit, Failure> {
    let name = &delete.collection;
    // What the user agrees to is what is deleted, not what it has become meanwhile.
    let head = context.client.get_collection(name).await?;
    let question = format!("Delete {name} with {} items?", head.items);
    if !delete.yes && !agreed(context, question).await? {
        return Err(Failure::Interrupted { next_step: Some("nothing was deleted".into()) });
    }
    let only_at = (!delete.yes).then_some((head.epoch, head.version));
    let last = context.client.delete_collection(name, only_at).await?;
    if context.output.json() {
        context.output.object(&HeadFields::new(name, &last))?;
    } else {
        let line = format!("deleted {name}: {} items, version {}", last.items, last.version);
        context.output.line(&line)?;
    }
    Ok(Exit::Done)
}

/// Asks a person; only "yes" is yes.
pub(crate) async fn agreed(context: &Context, question: String) -> Result<bool, Failure> {
    if context.output.json() || !io::stdin().is_terminal() {
        return Err(Failure::Usage("nobody is there to be asked: add --yes".into()));
    }
    let ask = move || {
        let mut answer = String::new();
        write!(io::stderr(), "{question} Type \"yes\": ")?;
        io::stdin().lock().read_line(&mut answer)?;
        io::Result::Ok(answer)
    };
    let answer = tokio::select! {
        biased;
        () = interrupted() => return Ok(false),
        answer = blocking(ask) => answer?.map_err(Failure::io("asking"))?,
    };
    Ok(answer.trim() == "yes")
}

/// Runs what waits for a disk or for a person.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Failure::Internal(panic.to_string()))
}
