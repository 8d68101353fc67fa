//! A copy of a collection that does exactly what the protocol asks of a reader, believes
//! nothing and fails at the first thing that does not fit. It has no network of its own.

use std::collections::{BTreeMap, BTreeSet};

use sync_proto::digest::Digest;
use sync_proto::types::{
    Change, ChangeKind, Cursor, Delta, Event, Key, Outcome, Scope, SortKey, Target, Value, Version,
};
use sync_proto::v1;

use crate::stream::Events;
use crate::wire::Wire;

/// A reader of one target.
#[derive(Debug, Clone)]
pub struct PlainReader {
    /// What it asks for; the cursor is where it stands.
    pub target: Target,
    /// What it shows: never half of a first load.
    pub copy: Copy,
    /// A first load under way.
    loading: Option<Copy>,
    /// Deletes may be missing: the next digest may differ.
    doubtful: bool,
    /// What it has been through.
    pub seen: Seen,
}

/// Rows and their digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// The rows by key.
    pub rows: BTreeMap<Key, Row>,
    /// The sum of their digests.
    pub digest: Digest,
}

/// A row of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Version of the commit that last touched the item.
    pub version: Version,
    /// Version of the commit that created it.
    pub created: Version,
    /// Version of the commit that last changed its value.
    pub value_version: Version,
    /// Its place in list order.
    pub sort_key: SortKey,
    /// Its content; `None` when only keys were asked for.
    pub value: Option<Value>,
}

/// What a reader has been through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Deltas applied.
    pub pages: u64,
    /// Changes applied.
    pub changes: u64,
    /// Values that came with them.
    pub values: u64,
    /// Digests compared.
    pub digests: u64,
    /// Times that it had to start over.
    pub resets: u64,
}

// === impl PlainReader ===

impl PlainReader {
    /// A reader that has nothing yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            copy: Copy::default(),
            loading: None,
            doubtful: false,
            seen: Seen::default(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn version(&self) -> Version {
        self.target.cursor.map_or(Version::ZERO, |cursor| cursor.version)
    }

    /// Whether a first load is under way.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Its rows as key and value, for comparing with what was written.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let pair = |(key, row): (&Key, &Row)| {
            let value = row.value.as_ref().expect("this reader asked for values");
            (key.as_bytes().to_vec(), value.as_bytes().to_vec())
        };
        self.copy.rows.iter().map(pair).collect()
    }

    /// Its keys in list order.
    #[must_use]
    pub fn in_list_order(&self) -> Vec<Key> {
        let rows = self.copy.rows.iter().map(|(key, row)| (row.sort_key.clone(), key.clone()));
        rows.collect::<BTreeSet<_>>().into_iter().map(|(_, key)| key).collect()
    }

    /// Pulls pages until it has everything; starts over when told to.
    pub async fn catch_up(&mut self, wire: &Wire) {
        self.catch_up_by(wire, 0).await;
    }

    /// The same by pages of at most so many changes.
    pub async fn catch_up_by(&mut self, wire: &Wire, changes_max: u32) {
        while !self.pull(wire, changes_max).await {}
    }

    /// Pulls one page. Returns whether it has everything now.
    pub async fn pull(&mut self, wire: &Wire, changes_max: u32) -> bool {
        let request = v1::PullRequest {
            targets: vec![self.target.clone().into()],
            max_changes_per_target: changes_max,
            ..Default::default()
        };
        let outcome = wire.pull_raw(request).await.unwrap().remove(0);
        self.take(outcome)
    }

    /// Takes the outcome of a pull. Returns whether it has everything now.
    pub fn take(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Aligned(head) => {
                let at = self.target.cursor.expect("who has nothing cannot be aligned");
                assert_eq!((head.epoch, head.version), (at.epoch, at.version), "aligned elsewhere");
                self.target.cursor = Some(head.cursor());
                self.end_load();
                self.compare(head.digest, head.items);
                self.target.cursor.is_some()
            }
            Outcome::Delta(delta) => {
                if let Some(at) = self.target.cursor {
                    assert_eq!(delta.from, at, "a delta begins at the cursor that was shown");
                }
                self.apply(&delta);
                !delta.has_more && self.target.cursor.is_some()
            }
            Outcome::Reset(_) => {
                self.start_over();
                false
            }
            Outcome::NotFound => {
                self.start_over();
                self.copy = Copy::default();
                true
            }
            Outcome::Deferred(_) => false,
            Outcome::Denied | Outcome::Failed(_) => panic!("{:?}: {outcome:?}", self.target),
        }
    }

    /// Follows a stream until it stands at `version` or behind it, and is caught up.
    pub async fn follow_to(&mut self, events: &mut Events, version: Version) {
        while self.version() < version || self.is_loading() {
            let event = events.next().await;
            self.hear(&event);
        }
    }

    /// Takes a message of a stream. What is about other collections is not for it.
    pub fn hear(&mut self, event: &Event) {
        let ours = &self.target.collection.clone();
        match event {
            Event::Changes(name, delta) if name == ours => self.apply(delta),
            Event::Bookmark(positions, _) => {
                for position in positions.iter().filter(|position| position.collection == *ours) {
                    let at = self.target.cursor.expect("a bookmark is about what was sent");
                    assert_eq!(position.cursor.epoch, at.epoch, "a bookmark of another epoch");
                    assert!(position.cursor.version >= at.version, "a bookmark goes back");
                    assert!(!self.is_loading(), "a bookmark overtakes a load");
                    self.target.cursor = Some(position.cursor);
                    if let Some(digest) = position.digest {
                        self.compare(digest, u64::try_from(self.copy.rows.len()).unwrap());
                    }
                }
            }
            Event::CaughtUp(name, cursor) if name == ours => {
                let at = self.target.cursor.expect("caught up with something");
                assert_eq!((at.epoch, at.version), (cursor.epoch, cursor.version), "caught up");
                self.target.cursor = Some(*cursor);
            }
            Event::Absent(name) if name == ours => {
                self.start_over();
                self.copy = Copy::default();
            }
            Event::Reset(name, _) if name == ours => self.start_over(),
            Event::Revoked(name) | Event::Failed(name, _) if name == ours => panic!("{event:?}"),
            Event::Goodbye(_) => panic!("an unexpected goodbye: {event:?}"),
            Event::Accepted(..)
            | Event::Changes(..)
            | Event::Notice(..)
            | Event::InboxNotice(_)
            | Event::Reset(..)
            | Event::Lagging(..)
            | Event::CaughtUp(..)
            | Event::Absent(_)
            | Event::Revoked(_)
            | Event::Failed(..) => {}
        }
    }

    /// Applies a delta; every rule that a delta must keep is checked.
    pub fn apply(&mut self, delta: &Delta) {
        self.check_place(delta);
        if delta.initial && delta.from.version == Version::ZERO {
            self.loading = Some(Copy::default());
            self.doubtful = false;
        }
        self.doubtful |= delta.unverified;
        let mut seen = BTreeSet::new();
        let mut last = delta.from.version;
        for change in &delta.changes {
            assert!(change.version >= last, "changes are in version order: {change:?}");
            assert!(change.version > delta.from.version, "not after the cursor: {change:?}");
            assert!(change.version <= delta.to.version, "beyond the delta's end: {change:?}");
            assert!(seen.insert(&change.key), "a key occurs twice: {change:?}");
            assert!(self.is_in_scope(change), "out of scope: {change:?}");
            last = change.version;
            self.change(delta, change);
        }
        self.seen.pages += 1;
        self.seen.changes += u64::try_from(delta.changes.len()).unwrap();
        self.target.cursor = Some(delta.to);
        if !delta.has_more {
            self.end_load();
        }
        if let Some(digest) = delta.digest {
            self.compare(digest, delta.head.items);
        }
    }

    fn check_place(&mut self, delta: &Delta) {
        let (from, to) = (delta.from, delta.to);
        assert_eq!(from.epoch, to.epoch, "a delta within one epoch");
        assert!(from.version < to.version, "a delta gets on: {from} to {to}");
        assert!(to.version <= delta.head.version, "the cursor is never beyond the head");
        assert_eq!(delta.initial, from.is_loading(), "initial while loading");
        match self.target.cursor {
            Some(at) => {
                assert_eq!(at.epoch, from.epoch, "a delta of another epoch");
                assert!(from.version <= at.version, "a gap at {at}: the next delta is from {from}");
                // A bookmark may have moved the cursor over what is not in scope.
                let repeats =
                    delta.changes.first().is_some_and(|first| first.version <= at.version);
                assert!(!repeats && at.version < to.version, "a repeat at {at}: {from} to {to}");
                assert!(at.version == from.version || !self.target.scope.is_all(), "an overlap");
            }
            None => assert_eq!(from.version, Version::ZERO, "a delta after something unknown"),
        }
        if delta.has_more {
            assert!(!delta.changes.is_empty(), "an empty page says that there is more");
            assert_eq!(delta.digest, None, "a digest where the head was not reached");
            let last = delta.changes.last().expect("not empty").version;
            // A load and a scope pass versions over that hold nothing for this reader.
            let passes_over = delta.initial || !self.target.scope.is_all();
            assert!(to.version >= last && (passes_over || to.version == last), "cursor at {to}");
            assert!(to.version < delta.head.version, "the head was not reached");
            assert!(!to.is_caught_up(), "a cursor between pages says so");
        } else {
            assert_eq!(to, delta.head.cursor(), "without more, the cursor is the head");
            assert_eq!(delta.digest.is_some(), self.target.scope == Scope::All, "digest of all");
        }
    }

    fn is_in_scope(&self, change: &Change) -> bool {
        match &change.kind {
            ChangeKind::Put { sort_key, .. } => self.target.scope.contains(&change.key, sort_key),
            ChangeKind::Delete | ChangeKind::LeftScope => {
                self.target.scope.may_contain(&change.key)
            }
        }
    }

    fn change(&mut self, delta: &Delta, change: &Change) {
        let stretch = matches!(self.target.scope, Scope::Order(_));
        // What moves into a stretch is an update of nothing.
        let caught_up = delta.from.is_caught_up() && !delta.unverified && !stretch;
        let copy = self.loading.as_mut().unwrap_or(&mut self.copy);
        let known = copy.rows.get(&change.key);
        if caught_up && change.created <= delta.from.version {
            let known = known.unwrap_or_else(|| panic!("an update of nothing: {change:?}"));
            assert!(known.created == change.created, "another item than before: {change:?}");
        }
        match &change.kind {
            ChangeKind::Put { value, sort_key, value_version } => {
                assert!(*value_version <= change.version && change.created <= *value_version);
                let value = match (value, known) {
                    (Some(value), _) => {
                        assert!(!self.target.keys_only, "a value that was not wanted: {change:?}");
                        self.seen.values += 1;
                        Some(value.clone())
                    }
                    (None, _) if self.target.keys_only => None,
                    (None, Some(known)) => {
                        assert_eq!(
                            known.value_version, *value_version,
                            "a value I lack: {change:?}"
                        );
                        known.value.clone()
                    }
                    (None, None) => panic!("the value of an unknown key is left out: {change:?}"),
                };
                let row = Row {
                    version: change.version,
                    created: change.created,
                    value_version: *value_version,
                    sort_key: sort_key.clone(),
                    value,
                };
                copy.set(&change.key, Some(row));
            }
            ChangeKind::Delete | ChangeKind::LeftScope => {
                let left = change.kind == ChangeKind::LeftScope;
                assert!(!left || stretch, "scopes by key are never left: {change:?}");
                let of_old = self.loading.is_some() && change.version <= delta.from.base;
                assert!(!of_old, "a load tells what is not there: {change:?}");
                self.loading.as_mut().unwrap_or(&mut self.copy).set(&change.key, None);
            }
        }
    }

    /// Compares with what the server says it has at the reader's cursor.
    fn compare(&mut self, digest: Digest, items: u64) {
        let comparable = self.target.scope.is_all() && !self.target.keys_only;
        if !comparable || self.is_loading() {
            return;
        }
        self.seen.digests += 1;
        if self.doubtful && self.copy.digest != digest {
            self.start_over();
            return;
        }
        self.doubtful = false;
        let name = &self.target.collection;
        assert_eq!(self.copy.digest, digest, "{name} differs at {:?}", self.target.cursor);
        assert_eq!(u64::try_from(self.copy.rows.len()).unwrap(), items, "{name}: items");
    }

    /// R30: a load is shown when nothing is missing any more, and not when its base is reached.
    fn end_load(&mut self) {
        if let Some(loaded) = self.loading.take() {
            self.copy = loaded;
        }
    }

    fn start_over(&mut self) {
        self.seen.resets += 1;
        self.target.cursor = None::<Cursor>;
        self.loading = None;
        self.doubtful = false;
    }
}

// === impl Copy ===

impl Copy {
    fn set(&mut self, key: &Key, row: Option<Row>) {
        if let Some(row) = &row {
            self.digest += row.digest(key);
        }
        let old = match row {
            Some(row) => self.rows.insert(key.clone(), row),
            None => self.rows.remove(key),
        };
        if let Some(old) = old {
            self.digest -= old.digest(key);
        }
    }
}

// === impl Row ===

impl Row {
    fn digest(&self, key: &Key) -> Digest {
        let value = self.value.clone().unwrap_or_default();
        Digest::of_item(key, self.version, &self.sort_key, value.as_bytes())
    }
}
