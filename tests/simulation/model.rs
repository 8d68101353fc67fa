//! What must be true: a naive model of the collections, written without the server's code.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sync_proto::digest::Digest;
use sync_proto::types::{
    CollectionName, Committed, Cursor, Epoch, Head, Key, Mutation, Op, SortKey, Subject, Value,
    Version,
};

/// The items of a collection: content, place, version.
pub(crate) type Items = BTreeMap<Key, (Value, SortKey, Version)>;

/// A collection.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Collection {
    /// Unknown until the server has told.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) version: u64,
    pub(crate) items: Items,
}

/// All collections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) collections: BTreeMap<CollectionName, Collection>,
    /// Who follows what.
    pub(crate) follows: BTreeSet<(Subject, CollectionName)>,
}

/// Every state that the server has announced.
#[derive(Debug, Default)]
pub(crate) struct History {
    states: HashMap<(CollectionName, Epoch, Version), Arc<Items>>,
    /// The newest version of each life.
    newest: HashMap<(CollectionName, Epoch), u64>,
    /// Lives that an older store has begun again, and how far each had come before.
    given_again: HashMap<(CollectionName, Epoch), u64>,
}

impl Model {
    /// Applies a commit: each collection that it really changes gets the next version. `false`:
    /// the commit must be refused, and nothing was changed.
    pub(crate) fn commit(&mut self, mutations: &[Mutation]) -> bool {
        let missing = |mutation: &Mutation| match &mutation.op {
            Op::Reorder { key, .. } => !self.has(&mutation.collection, key),
            Op::Put { .. } | Op::Delete { .. } | Op::Follow { .. } | Op::Unfollow { .. } => false,
        };
        if mutations.iter().any(missing) {
            return false;
        }
        let mut touched = BTreeMap::new();
        for mutation in mutations {
            let name = &mutation.collection;
            match &mutation.op {
                Op::Follow { subject } => {
                    self.follows.insert((subject.clone(), name.clone()));
                }
                Op::Unfollow { subject } => {
                    self.follows.remove(&(subject.clone(), name.clone()));
                }
                Op::Put { .. } | Op::Delete { .. } | Op::Reorder { .. } => {}
            }
            if self.changes(mutation) {
                touched.entry(mutation.collection.clone()).or_insert(Vec::new()).push(mutation);
            }
        }
        for (name, mutations) in touched {
            let collection = self.collections.entry(name).or_default();
            collection.version += 1;
            let version = Version::new(collection.version).expect("small");
            for mutation in mutations {
                collection.apply(&mutation.op, version);
            }
        }
        true
    }

    /// The same contents where only the server knows the epochs.
    pub(crate) fn in_another_life(mut self) -> Self {
        self.collections.values_mut().for_each(|collection| collection.epoch = None);
        self
    }

    fn has(&self, name: &CollectionName, key: &Key) -> bool {
        self.collections.get(name).is_some_and(|collection| collection.items.contains_key(key))
    }

    fn changes(&self, mutation: &Mutation) -> bool {
        let items = self.collections.get(&mutation.collection).map(|found| &found.items);
        let found = mutation.op.key().and_then(|key| items?.get(key));
        match (&mutation.op, found) {
            (Op::Put { .. }, None) => true,
            (Op::Put { value, sort_key, .. }, Some((old, place, _))) => {
                value != old || sort_key.as_ref().is_some_and(|sort_key| sort_key != place)
            }
            (Op::Reorder { sort_key, .. }, Some((_, place, _))) => sort_key != place,
            (Op::Delete { .. }, found) => found.is_some(),
            (Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. }, _) => false,
        }
    }

    /// Takes over what only the server can know, and holds everything else against it.
    pub(crate) fn agree(&mut self, committed: &Committed) {
        let Some(epoch) = committed.epoch else {
            assert_eq!(committed.version, Version::ZERO, "no epoch, but a version");
            return;
        };
        let collection = self.collections.get_mut(&committed.collection);
        let collection = collection.expect("the server changed what it should not have");
        assert_eq!(*collection.epoch.get_or_insert(epoch), epoch, "an epoch changed by itself");
    }

    /// Whether the server stands exactly here.
    pub(crate) fn is_at(
        &self,
        heads: &BTreeMap<CollectionName, Head>,
        follows: &BTreeSet<(Subject, CollectionName)>,
    ) -> bool {
        self.follows == *follows
            && self.collections.len() == heads.len()
            && self.collections.iter().all(|(name, collection)| {
                heads.get(name).is_some_and(|head| {
                    head.version.get() == collection.version
                        && collection.epoch.is_none_or(|epoch| epoch == head.epoch)
                        && head.digest == digest(&collection.items)
                })
            })
    }
}

impl Collection {
    fn apply(&mut self, op: &Op, version: Version) {
        match op {
            Op::Put { key, value, sort_key } => {
                let old = self.items.get(key).map(|(_, place, _)| place.clone());
                let place = sort_key.clone().or(old).unwrap_or_default();
                self.items.insert(key.clone(), (value.clone(), place, version));
            }
            Op::Delete { key } => {
                self.items.remove(key);
            }
            Op::Reorder { key, sort_key } => {
                let item = self.items.get_mut(key).expect("checked before");
                (item.1, item.2) = (sort_key.clone(), version);
            }
            Op::Follow { .. } | Op::Unfollow { .. } => unreachable!("no change of an item"),
        }
    }
}

impl History {
    /// From now on the versions of this life may stand for other contents than before.
    pub(crate) fn give_again(&mut self, name: &CollectionName, collection: &Collection) {
        let epoch = collection.epoch.expect("it was backed up from a running server");
        let life = (name.clone(), epoch);
        let newest = self.newest.get(&life).copied().unwrap_or_default();
        self.given_again.insert(life, newest);
    }

    /// Whether versions of an epoch were given twice: nothing can be told by them then.
    pub(crate) fn is_ambiguous(&self, name: &CollectionName, epoch: Epoch) -> bool {
        self.given_again.contains_key(&(name.clone(), epoch))
    }

    /// Whether this version, or one behind it, was given before and stood for something else: a
    /// copy that has it by then cannot be told by its version.
    pub(crate) fn is_given_again(&self, name: &CollectionName, collection: &Collection) -> bool {
        let life = collection.epoch.map(|epoch| (name.clone(), epoch));
        let before = life.and_then(|life| self.given_again.get(&life));
        before.is_some_and(|before| collection.version <= *before)
    }

    /// The server has announced this state. G2: a version never stands for two contents, unless an
    /// older data directory was put in place.
    pub(crate) fn announce(&mut self, name: &CollectionName, collection: &Collection) {
        let epoch = collection.epoch.expect("the server has told its epoch");
        let version = Version::new(collection.version).expect("small");
        let newest = self.newest.entry((name.clone(), epoch)).or_default();
        *newest = collection.version.max(*newest);
        if self.is_ambiguous(name, epoch) {
            return;
        }
        let items = Arc::new(collection.items.clone());
        let known = self.states.entry((name.clone(), epoch, version)).or_insert(items);
        assert_eq!(**known, collection.items, "{name} has two contents at {version}");
    }

    /// The state that was announced at a cursor.
    pub(crate) fn at(&self, name: &CollectionName, cursor: Cursor) -> Option<&Items> {
        self.states.get(&(name.clone(), cursor.epoch, cursor.version)).map(Arc::as_ref)
    }
}

/// The digest of items, by the definition.
pub(crate) fn digest(items: &Items) -> Digest {
    items.iter().fold(Digest::EMPTY, |sum, (key, (value, place, version))| {
        sum + Digest::of_item(key, *version, place, value.as_bytes())
    })
}
