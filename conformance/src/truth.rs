//! Where every collection has been, and whether what a client says fits. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What a client says of a copy: one line each time it believes that it is caught up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct At {
    /// Of which collection.
    pub collection: String,
    /// The epoch of its cursor in decimal; `0` = there is no such collection, or no copy of it.
    pub epoch: String,
    /// The version of its cursor in decimal.
    pub version: String,
    /// Items that readers see.
    pub items: u64,
    /// Their digest, computed anew from what readers see, in hexadecimal.
    pub digest: String,
}

/// Where a collection stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its epoch; 0 = it does not exist.
    pub epoch: u64,
    /// Its version.
    pub version: u64,
}

/// Everything that readers may ever have seen.
#[derive(Debug, Default)]
pub struct Truth {
    heads: BTreeMap<String, Place>,
    /// Items and digest, by collection and place.
    states: BTreeMap<(String, Place), (u64, String)>,
    epochs: BTreeMap<String, Vec<u64>>,
}

const NOWHERE: Place = Place { epoch: 0, version: 0 };
const NO_ITEMS: &str = "00000000000000000000000000000000";

// === impl Truth ===

impl Truth {
    /// The collection stands here now.
    pub fn stands(&mut self, collection: &str, place: Place, items: u64, digest: String) {
        let epochs = self.epochs.entry(collection.to_owned()).or_default();
        if !epochs.contains(&place.epoch) {
            epochs.push(place.epoch);
        }
        self.heads.insert(collection.to_owned(), place.clone());
        self.states.insert((collection.to_owned(), place), (items, digest));
    }

    /// The collection does not exist any more, or a client has no copy of it to keep.
    pub fn is_gone(&mut self, collection: &str) {
        self.stands(collection, NOWHERE, 0, NO_ITEMS.to_owned());
    }

    /// Whether the copy is the collection.
    #[must_use]
    pub fn is_head(&self, at: &At) -> bool {
        let Some(head) = self.heads.get(&at.collection) else { return false };
        *head == at.place() && self.is_state(head, at)
    }

    /// The collections that a client must have copies of, or know to be gone.
    pub fn collections(&self) -> impl Iterator<Item = &String> {
        self.heads.keys()
    }

    /// Where everything stands, in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        let heads = self.heads.iter().map(|(name, place)| {
            let Place { epoch, version } = place;
            let state = self.states.get(&(name.clone(), place.clone()));
            let (items, digest) = state.cloned().unwrap_or_default();
            format!("{name} epoch {epoch} version {version}, {items} items, digest {digest}")
        });
        heads.collect::<Vec<_>>().join("; ")
    }

    /// What is wrong with what a client says, after `before`.
    #[must_use]
    pub fn objection(&self, before: Option<&At>, at: &At, may_go_back: bool) -> Option<String> {
        let place = at.place();
        let known = self.states.contains_key(&(at.collection.clone(), place.clone()));
        // What the server writes into inboxes of its own accord is not noted move by move.
        if !known && !at.collection.starts_with("inbox/") {
            return Some(format!("stands at {}, where the server never was", at.describe()));
        }
        if known && !self.is_state(&place, at) {
            return Some(format!("shows something else than the server had: {}", at.describe()));
        }
        let before = before?.place();
        let same = before.epoch == place.epoch;
        if may_go_back || !known || place == NOWHERE {
            None
        } else if same && place.version < before.version {
            Some(format!("went back from version {} to {}", before.version, place.version))
        } else if !same && self.life(&at.collection, &place) < self.life(&at.collection, &before) {
            Some(format!("went back to an earlier life: {}", at.describe()))
        } else {
            None
        }
    }

    /// Which life of the collection this is. Being gone is none: it comes between two.
    fn life(&self, collection: &str, place: &Place) -> Option<usize> {
        let epochs = self.epochs.get(collection)?;
        epochs.iter().filter(|epoch| **epoch != 0).position(|epoch| *epoch == place.epoch)
    }

    fn is_state(&self, place: &Place, at: &At) -> bool {
        let state = self.states.get(&(at.collection.clone(), place.clone()));
        state.is_some_and(|(items, digest)| *items == at.items && *digest == at.digest)
    }
}

// === impl At ===

impl At {
    /// Where the copy stands.
    #[must_use]
    pub fn place(&self) -> Place {
        // What is no number is nowhere that the server ever was.
        let number = |text: &str| text.parse().unwrap_or(u64::MAX);
        Place { epoch: number(&self.epoch), version: number(&self.version) }
    }

    /// In a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { collection, epoch, version, items, digest } = self;
        format!("{collection} epoch {epoch} version {version}, {items} items, digest {digest}")
    }
}
