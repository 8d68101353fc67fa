//! What a ledger should do, written the slow way: it remembers every step that was ever taken
//! and plays them again for each question.

use std::collections::{BTreeMap, BTreeSet};

use sync_proto::digest::{Digest, Segment};
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Commit, Committed, Condition, Epoch, Head, Key, ListOrder,
    Op, Precondition, ResetReason, Scope, SortKey, Timestamp, Value, Version,
};
use sync_server::core::retention::Retention;

/// All collections with all that ever happened in them.
pub(super) struct Naive {
    lives: BTreeMap<CollectionName, Life>,
    retention: Retention,
}

/// One life of a collection.
struct Life {
    epoch: Epoch,
    steps: Vec<Step>,
    /// Deletes that have been forgotten, and the newest of them.
    forgotten: BTreeSet<(Version, Key)>,
    floor: Version,
    time: Timestamp,
}

/// What a commit did to one key.
#[derive(Clone)]
struct Step {
    version: Version,
    time: Timestamp,
    key: Key,
    /// `None` = it was deleted.
    content: Option<(Value, SortKey)>,
}

/// A key after some steps.
#[derive(Clone)]
struct Known {
    version: Version,
    time: Timestamp,
    created: Version,
    value_version: Version,
    content: Option<(Value, SortKey)>,
}

// === impl Naive ===

impl Naive {
    pub(super) fn new(retention: Retention) -> Self {
        Self { lives: BTreeMap::new(), retention }
    }

    /// Does the commit, or says why not.
    pub(super) fn commit(
        &mut self,
        commit: &Commit,
        now: Timestamp,
        mint: &mut dyn FnMut() -> Epoch,
    ) -> Result<Vec<Committed>, &'static str> {
        if !commit.preconditions.iter().all(|precondition| self.holds(precondition)) {
            return Err("precondition");
        }
        let mut steps: BTreeMap<&CollectionName, Vec<Step>> = BTreeMap::new();
        for mutation in &commit.mutations {
            let steps = steps.entry(&mutation.collection).or_default();
            let version = self.version(&mutation.collection).next();
            let old = self.live(&mutation.collection, mutation.op.key().unwrap());
            let step = |key: &Key, content| Step { version, time: now, key: key.clone(), content };
            match (&mutation.op, old) {
                (Op::Put { key, value, sort_key }, old) => {
                    let place = old.as_ref().map(|(_, place)| place.clone()).unwrap_or_default();
                    let new = (value.clone(), sort_key.clone().unwrap_or(place));
                    steps.extend((old.as_ref() != Some(&new)).then(|| step(key, Some(new))));
                }
                (Op::Delete { key }, old) => steps.extend(old.map(|_| step(key, None))),
                (Op::Reorder { .. }, None) => return Err("reorder"),
                (Op::Reorder { key, sort_key }, Some((value, place))) => {
                    let moved = (place != *sort_key).then(|| (value, sort_key.clone()));
                    steps.extend(moved.map(|new| step(key, Some(new))));
                }
                (Op::Follow { .. } | Op::Unfollow { .. }, _) => unreachable!("not in this model"),
            }
        }
        Ok(steps.into_iter().map(|(name, steps)| self.take(name, steps, now, mint)).collect())
    }

    fn take(
        &mut self,
        name: &CollectionName,
        steps: Vec<Step>,
        now: Timestamp,
        mint: &mut dyn FnMut() -> Epoch,
    ) -> Committed {
        let prev_version = self.version(name);
        if !steps.is_empty() {
            let life = self.lives.entry(name.clone()).or_insert_with(|| Life {
                epoch: mint(),
                steps: Vec::new(),
                forgotten: BTreeSet::new(),
                floor: Version::ZERO,
                time: now,
            });
            life.time = now;
            life.steps.extend(steps);
        }
        Committed {
            collection: name.clone(),
            epoch: self.lives.get(name).map(|life| life.epoch),
            prev_version,
            version: self.version(name),
        }
    }

    fn holds(&self, precondition: &Precondition) -> bool {
        let name = &precondition.collection;
        let life = self.lives.get(name);
        match &precondition.condition {
            Condition::CollectionAbsent => life.is_none(),
            Condition::HeadEquals(epoch, version) => life.is_some_and(|life| {
                life.version() == *version && epoch.is_none_or(|epoch| epoch == life.epoch)
            }),
            Condition::ItemVersionEquals(key, version) => {
                let known = life.and_then(|life| life.known(life.version()).remove(key));
                known.is_some_and(|known| known.content.is_some() && known.version == *version)
            }
            Condition::ItemAbsent(key) => self.live(name, key).is_none(),
            Condition::ItemPresent(key) => self.live(name, key).is_some(),
        }
    }

    fn version(&self, name: &CollectionName) -> Version {
        self.lives.get(name).map_or(Version::ZERO, Life::version)
    }

    fn live(&self, name: &CollectionName, key: &Key) -> Option<(Value, SortKey)> {
        let life = self.lives.get(name)?;
        life.known(life.version()).remove(key)?.content
    }

    pub(super) fn delete_collection(&mut self, name: &CollectionName) -> Option<Head> {
        let head = self.head(name);
        self.lives.remove(name);
        head
    }

    /// Forgets the oldest deletes: those that are too old or too many.
    pub(super) fn purge(&mut self, now: Timestamp) {
        let retention = self.retention;
        for life in self.lives.values_mut() {
            let mut left = life.tombstones();
            while let Some((version, time, key)) = left.first().cloned() {
                let age = now.as_millis() - time.as_millis();
                let too_old = u128::from(age) > retention.tombstone_age_max.as_millis();
                let too_many = u64::try_from(left.len()).unwrap() > retention.tombstones_max;
                if !(too_old || too_many) {
                    break;
                }
                left.remove(0);
                life.floor = life.floor.max(version);
                life.forgotten.insert((version, key));
            }
        }
    }

    pub(super) fn head(&self, name: &CollectionName) -> Option<Head> {
        let life = self.lives.get(name)?;
        let mut head = Head {
            epoch: life.epoch,
            version: life.version(),
            floor: life.floor,
            items: 0,
            tombstones: u64::try_from(life.tombstones().len()).unwrap(),
            bytes: 0,
            digest: Digest::EMPTY,
            commit_time: life.time,
        };
        for (key, known) in life.known(life.version()) {
            let Some((value, place)) = known.content else { continue };
            head.items += 1;
            let bytes = key.as_bytes().len() + value.as_bytes().len() + place.as_bytes().len();
            head.bytes += u64::try_from(bytes).unwrap();
            head.digest += Digest::of_item(&key, known.version, &place, value.as_bytes());
        }
        Some(head)
    }

    /// Live items of a part as key and value.
    pub(super) fn contents(&self, name: &CollectionName, scope: &Scope) -> BTreeMap<Key, Value> {
        let Some(life) = self.lives.get(name) else { return BTreeMap::new() };
        let known = life.known(life.version()).into_iter();
        let items = known.filter_map(|(key, known)| Some((key, known.content?)));
        let part = items.filter(|(key, (_, sort_key))| scope.contains(key, sort_key));
        part.map(|(key, (value, _))| (key, value)).collect()
    }

    pub(super) fn list(
        &self,
        name: &CollectionName,
        order: ListOrder,
    ) -> Option<Vec<(Key, Version)>> {
        let life = self.lives.get(name)?;
        let known = life.known(life.version()).into_iter();
        let placed = known.filter_map(|(key, known)| Some((known.content?.1, key, known.version)));
        let mut placed: Vec<_> = placed.collect();
        match order {
            ListOrder::Key => placed.sort_by(|a, b| a.1.cmp(&b.1)),
            ListOrder::SortKey => placed.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1))),
        }
        Some(placed.into_iter().map(|(_, key, version)| (key, version)).collect())
    }

    /// Live items by segment.
    pub(super) fn entries(&self, name: &CollectionName) -> Option<Vec<(Segment, Key, Version)>> {
        let listed = self.list(name, ListOrder::Key)?.into_iter();
        let mut entries: Vec<_> =
            listed.map(|(key, version)| (Segment::of_key(&key), key, version)).collect();
        entries.sort();
        Some(entries)
    }

    /// What a caught-up reader of a part is told that stands at a version.
    pub(super) fn delta(
        &self,
        name: &CollectionName,
        scope: &Scope,
        at: Version,
    ) -> Result<Vec<Change>, ResetReason> {
        let life = &self.lives[name];
        if at > life.version() {
            return Err(ResetReason::AheadOfHead);
        }
        if at < life.floor && at != life.version() {
            return Err(ResetReason::BelowFloor);
        }
        let known = life.known(life.version()).into_iter();
        let mut changes: Vec<Change> = known
            .filter(|(key, known)| {
                known.version > at && !life.forgotten.contains(&(known.version, key.clone()))
            })
            .filter(|(key, _)| scope.may_contain(key))
            .map(|(key, known)| known.change(key, scope, at))
            .collect();
        changes.sort_by(|a, b| (a.version, &a.key).cmp(&(b.version, &b.key)));
        Ok(changes)
    }
}

// === impl Life ===

impl Life {
    fn version(&self) -> Version {
        self.steps.last().expect("a life begins with a step").version
    }

    /// Every key that was ever there, after the steps up to a version.
    fn known(&self, at: Version) -> BTreeMap<Key, Known> {
        let mut all: BTreeMap<Key, Known> = BTreeMap::new();
        for step in self.steps.iter().take_while(|step| step.version <= at) {
            let old = all.get(&step.key);
            let alive = old.filter(|old| old.content.is_some());
            let same_value = alive.filter(|old| {
                old.content.as_ref().map(|content| &content.0)
                    == step.content.as_ref().map(|content| &content.0)
            });
            let known = Known {
                version: step.version,
                time: step.time,
                created: alive.map_or(step.version, |old| old.created),
                value_version: same_value.map_or(step.version, |old| old.value_version),
                content: step.content.clone(),
            };
            all.insert(step.key.clone(), known);
        }
        all
    }

    /// Deletes that are still remembered, oldest first.
    fn tombstones(&self) -> Vec<(Version, Timestamp, Key)> {
        let dead = self.known(self.version()).into_iter();
        let dead = dead.filter(|(_, known)| known.content.is_none());
        let mut dead: Vec<_> = dead
            .map(|(key, known)| (known.version, known.time, key))
            .filter(|(version, _, key)| !self.forgotten.contains(&(*version, key.clone())))
            .collect();
        dead.sort();
        dead
    }
}

// === impl Known ===

impl Known {
    /// The change as a caught-up reader of `at` gets it.
    fn change(self, key: Key, scope: &Scope, at: Version) -> Change {
        let kind = match self.content {
            None => ChangeKind::Delete,
            Some((_, sort_key)) if !scope.contains(&key, &sort_key) => ChangeKind::LeftScope,
            Some((value, sort_key)) => {
                let moved_in = matches!(scope, Scope::Order(_));
                let has_it = !moved_in && self.created <= at && self.value_version <= at;
                ChangeKind::Put {
                    value: (!has_it).then_some(value),
                    sort_key,
                    value_version: self.value_version,
                }
            }
        };
        Change { key, version: self.version, created: self.created, kind }
    }
}
