//! Short words for what tests say to a server.

use bytes::Bytes;
use sync_proto::types::{
    CollectionName, Commit, Condition, Cursor, Key, Mutation, Op, Precondition, Scope, SortKey,
    Target, Value, Version,
};

/// A collection's name.
#[must_use]
pub fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

/// A key.
#[must_use]
pub fn key(key: impl AsRef<[u8]>) -> Key {
    Key::new(Bytes::copy_from_slice(key.as_ref())).unwrap()
}

/// A value.
#[must_use]
pub fn value(value: impl AsRef<[u8]>) -> Value {
    Value::new(Bytes::copy_from_slice(value.as_ref())).unwrap()
}

/// A sort key.
#[must_use]
pub fn sort_key(sort_key: impl AsRef<[u8]>) -> SortKey {
    SortKey::new(Bytes::copy_from_slice(sort_key.as_ref())).unwrap()
}

/// A version.
#[must_use]
pub fn version(version: u64) -> Version {
    Version::new(version).unwrap()
}

/// A put that keeps the item's place.
#[must_use]
pub fn put(collection: &str, k: impl AsRef<[u8]>, v: impl AsRef<[u8]>) -> Mutation {
    let op = Op::Put { key: key(k), value: value(v), sort_key: None };
    Mutation { collection: name(collection), op }
}

/// A put with a place in list order.
#[must_use]
pub fn put_at(
    collection: &str,
    k: impl AsRef<[u8]>,
    v: impl AsRef<[u8]>,
    place: impl AsRef<[u8]>,
) -> Mutation {
    let op = Op::Put { key: key(k), value: value(v), sort_key: Some(sort_key(place)) };
    Mutation { collection: name(collection), op }
}

/// A delete.
#[must_use]
pub fn delete(collection: &str, k: impl AsRef<[u8]>) -> Mutation {
    Mutation { collection: name(collection), op: Op::Delete { key: key(k) } }
}

/// A move in list order.
#[must_use]
pub fn reorder(collection: &str, k: impl AsRef<[u8]>, place: impl AsRef<[u8]>) -> Mutation {
    let op = Op::Reorder { key: key(k), sort_key: sort_key(place) };
    Mutation { collection: name(collection), op }
}

/// A commit without conditions.
#[must_use]
pub fn commit(mutations: Vec<Mutation>) -> Commit {
    Commit { mutations, ..Commit::default() }
}

/// A commit that happens only if this holds.
#[must_use]
pub fn commit_if(collection: &str, condition: Condition, mutations: Vec<Mutation>) -> Commit {
    let precondition = Precondition { collection: name(collection), condition };
    Commit { mutations, preconditions: vec![precondition], ..Commit::default() }
}

/// Everything of a collection after a cursor.
#[must_use]
pub fn after(collection: &str, cursor: Cursor) -> Target {
    Target::all(name(collection), Some(cursor))
}

/// A collection from scratch.
#[must_use]
pub fn scratch(collection: &str) -> Target {
    Target::all(name(collection), None)
}

/// The keys that begin with `prefix`, from scratch.
#[must_use]
pub fn scratch_of(collection: &str, prefix: &'static str) -> Target {
    Target { scope: Scope::KeyPrefix(Bytes::from_static(prefix.as_bytes())), ..scratch(collection) }
}
