//! Which rows planning a group needs. Pure.

use std::collections::BTreeMap;

use sync_proto::types::{CollectionName, Key, Subject};

use crate::store::keys::AckPlace;
use crate::store::rows::ReceiptKind;

/// What rows a group needs to be planned.
#[derive(Debug, Default)]
pub struct Needs {
    pub(super) items: BTreeMap<CollectionName, BTreeMap<Key, Purpose>>,
    pub(super) receipts: Vec<(ReceiptKind, String)>,
    pub(super) members: Vec<(CollectionName, Subject)>,
    pub(super) acks: Vec<AckPlace>,
}

/// What a row is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Judged,
    Changed,
}

// === impl Needs ===

impl Needs {
    /// The collection, whichever of its items.
    pub fn collection(&mut self, name: &CollectionName) {
        if !self.items.contains_key(name) {
            self.items.insert(name.clone(), BTreeMap::new());
        }
    }

    /// An item whose state a precondition asks for.
    pub fn judged(&mut self, name: &CollectionName, key: &Key) {
        self.item(name, key, Purpose::Judged);
    }

    /// An item that is changed.
    pub fn changed(&mut self, name: &CollectionName, key: &Key) {
        self.item(name, key, Purpose::Changed);
    }

    /// A receipt.
    pub fn receipt(&mut self, kind: ReceiptKind, name: &str) {
        self.receipts.push((kind, name.to_owned()));
    }

    /// Whether a subject follows the collection.
    pub fn member(&mut self, name: &CollectionName, subject: &Subject) {
        self.collection(name);
        self.members.push((name.clone(), subject.clone()));
    }

    /// A cursor that is held for a client, and where its collection stands.
    pub fn ack(&mut self, place: AckPlace) {
        self.collection(&place.collection);
        self.acks.push(place);
    }

    fn item(&mut self, name: &CollectionName, key: &Key, purpose: Purpose) {
        self.collection(name);
        let items = self.items.get_mut(name).expect("inserted above");
        let known = items.entry(key.clone()).or_insert(purpose);
        *known = purpose.max(*known);
    }
}
