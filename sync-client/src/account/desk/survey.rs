//! What the store holds of an account, and the books made from it: at the beginning, and whenever
//! the rows of the inbox were exchanged. Pure, but for [`Holdings::read`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use sync_proto::types::{CollectionName, InboxEntry, Value, Version};

use super::entry::{Entry, Stage, Teller};
use super::inbox::read_entry;
use super::{Action, Desk};
use crate::account::note::{EXCHANGED, Note, NoteStage};
use crate::store::{ReplicaStore, Standing, StoreError};

/// What the store holds of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Where the copy of the inbox stands.
    pub inbox: Standing,
    /// The items of the inbox: what they say, and their versions.
    pub rows: BTreeMap<CollectionName, (Option<InboxEntry>, Version)>,
    /// What was noted.
    pub notes: BTreeMap<CollectionName, Note>,
    /// Where the copies of all these stand.
    pub standings: BTreeMap<CollectionName, Standing>,
    /// The rows are others than those that the notes go by.
    pub exchanged: bool,
}

/// Rows of the inbox that are read at a time.
const ROWS: usize = 1_000;

// === impl Holdings ===

impl Holdings {
    /// Reads it. May wait for the disk.
    pub fn read(store: &dyn ReplicaStore, inbox: &CollectionName) -> Result<Self, StoreError> {
        let snapshot = store.snapshot(inbox)?;
        let mut holdings = Self { inbox: *snapshot.standing(), ..Self::default() };
        let mut after = None;
        loop {
            let rows = snapshot.rows(after.as_ref(), ROWS)?;
            let done = rows.len() < ROWS;
            after = rows.last().map(|row| row.key.clone());
            for row in rows {
                let name = Note::name(row.key.as_bytes()).filter(|name| name != inbox);
                if let Some(name) = name {
                    let remote = Value::new(row.value).ok().as_ref().and_then(read_entry);
                    holdings.rows.insert(name, (remote, row.version));
                }
            }
            if done {
                break;
            }
        }
        drop(snapshot);
        for (key, content) in store.notes(inbox)? {
            holdings.exchanged |= key == EXCHANGED;
            if let Some(name) = Note::name(&key) {
                // Of one that cannot be read the least is believed: unless the inbox says that it
                // is followed, nobody else knows of the copy that may be there.
                let unknown = || Note::of(NoteStage::Dropping, None);
                holdings.notes.insert(name, Note::decode(&content).unwrap_or_else(unknown));
            }
        }
        for name in holdings.rows.keys().chain(holdings.notes.keys()) {
            if !holdings.standings.contains_key(name) {
                holdings.standings.insert(name.clone(), store.standing(name)?);
            }
        }
        Ok(holdings)
    }
}

// === impl Desk ===

impl Desk {
    pub(super) fn on_scanned(&mut self, holdings: Option<Holdings>, now: Instant) {
        self.scanning = false;
        let Some(holdings) = holdings else {
            // Nothing is acknowledged before it could be read.
            self.scanning = true;
            self.scan_at = Some(now + self.store_wait());
            return;
        };
        self.store_waits.reset();
        self.stats.scans += 1;
        self.inbox_standing = holdings.inbox;
        self.exchanged = holdings.exchanged;
        let known = self.entries.keys().chain(holdings.rows.keys()).chain(holdings.notes.keys());
        let names: BTreeSet<CollectionName> = known.cloned().collect();
        for name in names {
            let held = self.session.standing(&name);
            let standing = held.or_else(|| holdings.standings.get(&name).copied());
            let note = holdings.notes.get(&name).cloned();
            let row = holdings.rows.get(&name).copied();
            let before = self.entries.get(&name).cloned();
            let entry =
                self.surveyed(before, (note.clone(), row), standing.unwrap_or_default(), now);
            // Of one that is followed the store has just told.
            let unsure = |entry: &Entry| entry.unsure && (held.is_some() || row.is_none());
            let entry = entry.map(|entry| Entry { unsure: unsure(&entry), ..entry });
            self.see_off(&name, entry.as_ref(), now);
            self.put(&name, entry.map(|entry| Entry { noted: note, ..entry }));
        }
        for name in self.looked_at.clone() {
            self.see_looked_at(&name, now);
        }
    }

    /// What becomes of a collection of which the store holds this; `None` = nothing is to be done
    /// and nothing known.
    fn surveyed(
        &self,
        before: Option<Entry>,
        (note, row): (Option<Note>, Option<(Option<InboxEntry>, Version)>),
        standing: Standing,
        now: Instant,
    ) -> Option<Entry> {
        let restored = note.clone().map(|note| Entry::restored(note, standing, &self.clock, now));
        let known = before.or(restored).map(|entry| Entry { standing, ..entry });
        let Some((remote, version)) = row else {
            let entry = known.filter(|entry| entry.noted.is_some() || entry.may_have_copy());
            return entry.map(|entry| entry.unfollowed(Version::ZERO, now));
        };
        // Rows that came instead of others may say what was said long ago: a server that went back
        // tells again of a collection that was gone, and the copy may be of a later one.
        let settled = !self.exchanged
            && note.is_some_and(|note| {
                note.stage == NoteStage::Settled && note.remote.is_some() && note.remote == remote
            });
        let entry = known.unwrap_or_else(|| Entry::new(standing));
        let listed = entry.listed;
        let newest = if entry.is_newer_than(remote) { entry.remote } else { remote };
        let teller =
            if self.exchanged { Teller::Exchanged(version) } else { Teller::Inbox(version) };
        if entry.stage == Stage::Idle && (settled || teller.is_covered(&standing, remote)) {
            return Some(Entry { remote: newest, listed: remote, ..entry });
        }
        // What an earlier life was refused it asks for again by itself.
        if matches!(entry.stage, Stage::Denied(_)) && listed == remote {
            return Some(entry);
        }
        Some(entry.told(remote, teller, (now, &self.clock)))
    }

    /// Reads again what did not read.
    pub(super) fn scan_again(&mut self, now: Instant) {
        if self.scan_at.is_some_and(|at| at <= now) {
            self.scan_at = None;
            self.actions.push_back(Action::Scan);
        }
    }
}
