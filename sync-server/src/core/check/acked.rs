//! Whether the cursors that are held for clients fit their ages, and their collections. Pure.

use std::collections::HashMap;

use sync_proto::types::{CollectionName, Epoch, Timestamp, Version};

use super::Sum;
use crate::store::keys::{AckPlace, CollectionId, Held};
use crate::store::rows::Meta;

/// What the rows of held cursors say.
#[derive(Debug, Default)]
pub(super) struct AckTally {
    acks: Sum,
    ages: Sum,
    /// The highest version that is held of a life of a collection.
    furthest: HashMap<(CollectionName, Epoch), Version>,
}

impl AckTally {
    pub(super) fn ack(&mut self, place: &AckPlace, held: &Held) {
        self.acks.add((held.time.as_millis(), place));
        let version = held.cursor.version.max(held.cursor.base);
        self.further((place.collection.clone(), held.cursor.epoch), version);
    }

    pub(super) fn age(&mut self, time: Timestamp, place: &AckPlace) {
        self.ages.add((time.as_millis(), place));
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.acks.merge(other.acks);
        self.ages.merge(other.ages);
        for (life, version) in other.furthest {
            self.further(life, version);
        }
    }

    /// How many are held.
    pub(super) fn count(&self) -> u64 {
        self.acks.count
    }

    /// Whether each has its age, and each age its cursor.
    pub(super) fn agree(&self) -> bool {
        self.acks == self.ages
    }

    /// Nobody holds more of a collection than there is: what is wrong, if somebody does.
    pub(super) fn beyond(&self, collections: &[(CollectionId, Meta)]) -> Vec<String> {
        let beyond = |(id, meta): &(CollectionId, Meta)| {
            let life = (meta.name.clone(), meta.head.epoch);
            let held = *self.furthest.get(&life)?;
            let (number, end) = (id.0, meta.head.version);
            let what =
                || format!("collection {number}: a client holds version {held}, it ends at {end}");
            (held > end).then(what)
        };
        collections.iter().filter_map(beyond).collect()
    }

    fn further(&mut self, life: (CollectionName, Epoch), version: Version) {
        let furthest = self.furthest.entry(life).or_default();
        *furthest = version.max(*furthest);
    }
}
