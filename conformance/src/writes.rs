//! What a case has the real server do: commits, deletions, and what an operator does.

use bytes::Bytes;
use sync_proto::v1;
use sync_proto::v1::mutation::Op;

use crate::backend::{Backend, BackendError};
use crate::catalogue::{Commit, Fill, Mode};

/// Keys of what clients write begin with this.
pub const WRITTEN_KEYS: &[u8] = b"item ";
/// Items that a client in the mode `write` commits, one by one: the README tells.
const WRITTEN: u64 = 10;
/// Items that a client in the mode `import` imports, one a commit.
const IMPORTED: u64 = 8;
/// A value that is imported: all of them together are more than a message may have.
const IMPORTED_BYTES: usize = 700_000;

/// Commits.
pub async fn commit(backend: &Backend, mutations: Vec<v1::Mutation>) -> Result<(), BackendError> {
    let request = v1::CommitRequest { mutations, ..v1::CommitRequest::default() };
    backend.write().commit(request).await?;
    Ok(())
}

/// Deletes a collection.
pub async fn delete(backend: &Backend, name: &str) -> Result<(), BackendError> {
    let collection = name.to_owned();
    let request = v1::DeleteCollectionRequest { collection, head_equals: None };
    backend.write().delete_collection(request).await?;
    Ok(())
}

/// Gives a collection another epoch.
pub async fn rotate(backend: &Backend, name: &str) -> Result<(), BackendError> {
    let request = v1::RotateEpochRequest { collection: name.to_owned() };
    backend.admin().rotate_epoch(request).await?;
    Ok(())
}

/// Forgets all deletes up to the head.
pub async fn purge(backend: &Backend, name: &str) -> Result<(), BackendError> {
    let up_to_version = backend.head(name).await?.map_or(0, |head| head.version);
    let request = v1::PurgeRequest { collection: name.to_owned(), up_to_version };
    backend.admin().purge(request).await?;
    Ok(())
}

/// Has followers told of a collection by polled heads and notices.
pub async fn tell_by_polling(backend: &Backend, name: &str) -> Result<(), BackendError> {
    let diffusion = v1::Diffusion::Read as i32;
    let policy = Some(v1::Policy { diffusion, ..v1::Policy::default() });
    let request = v1::SetPolicyRequest { collection: name.to_owned(), policy, clear: Vec::new() };
    backend.admin().set_policy(request).await?;
    Ok(())
}

/// Bounds what a collection may hold.
pub async fn bound(backend: &Backend, name: &str, bytes_max: u64) -> Result<(), BackendError> {
    let policy = Some(v1::Policy { bytes_max: Some(bytes_max), ..v1::Policy::default() });
    let request = v1::SetPolicyRequest { collection: name.to_owned(), policy, clear: Vec::new() };
    backend.admin().set_policy(request).await?;
    Ok(())
}

/// The items that a client of this mode writes, in order.
pub fn written(mode: Mode) -> impl Iterator<Item = (Bytes, Bytes)> {
    let (numbers, bytes) = match mode {
        Mode::Write => (0..WRITTEN, 0),
        Mode::Import => (1..IMPORTED + 1, IMPORTED_BYTES),
        Mode::Follow | Mode::Inbox | Mode::Resume | Mode::Window => (0..0, 0),
    };
    numbers.map(move |number| (format!("item {number}").into(), value(number, bytes)))
}

/// The value of an item by its number, filled up to so many bytes.
fn value(number: u64, bytes: usize) -> Bytes {
    // What is filled up ends the number with a space.
    let mut value = format!("value {number}{}", if bytes > 0 { " " } else { "" }).into_bytes();
    value.resize(bytes.max(value.len()), b'.');
    value.into()
}

/// What a commit changes.
#[must_use]
pub fn mutations(commit: &Commit) -> Vec<v1::Mutation> {
    let bytes = |text: &String| Bytes::from(text.clone());
    let puts = commit.put.iter().map(|(key, value)| {
        Op::Put(v1::PutItem { key: bytes(key), value: bytes(value), sort_key: None })
    });
    let deletes = commit.delete.iter().map(|key| Op::Delete(v1::DeleteItem { key: bytes(key) }));
    let reorders = commit.reorder.iter().map(|(key, sort_key)| {
        Op::Reorder(v1::ReorderItem { key: bytes(key), sort_key: bytes(sort_key) })
    });
    let ops = puts.chain(deletes).chain(reorders);
    ops.map(|op| of(&commit.collection, op)).collect()
}

/// The commits that fill a collection.
pub fn fill(collection: &str, fill: Fill) -> impl Iterator<Item = Vec<v1::Mutation>> {
    let collection = collection.to_owned();
    let per_commit = fill.per_commit.max(1);
    (0..fill.items).step_by(per_commit as usize).map(move |first| {
        let numbers = first..(first + per_commit).min(fill.items);
        let put = |number: u32| {
            let value = value(number.into(), fill.value_bytes.max(1));
            let key = Bytes::from(format!("item {number:06}"));
            let sort_key = Some(Bytes::from(format!("{:03}", number % 100)));
            of(&collection, Op::Put(v1::PutItem { key, value, sort_key }))
        };
        numbers.map(put).collect()
    })
}

/// A subject follows a collection, or does no more.
#[must_use]
pub fn follow(collection: &str, subject: &str, follows: bool) -> v1::Mutation {
    let subject = subject.to_owned();
    let op = if follows {
        Op::Follow(v1::Follow { subject })
    } else {
        Op::Unfollow(v1::Unfollow { subject })
    };
    of(collection, op)
}

fn of(collection: &str, op: Op) -> v1::Mutation {
    v1::Mutation { collection: collection.to_owned(), op: Some(op) }
}
