//! The books: entries, and what is looked up by. One function changes them all. Pure.

use std::time::{Duration, Instant};

use sync_proto::types::{CollectionName, Version};

use super::entry::{Entry, Stage};
use super::{Action, Desk, STORE_RETRY};
use crate::account::note::{EXCHANGED, Note};
use crate::store::Notes;

// === impl Desk ===

impl Desk {
    /// Puts an entry in the place of another, or takes it out, in all books.
    #[allow(clippy::needless_pass_by_value, reason = "it goes into the books")]
    pub(super) fn put(&mut self, name: &CollectionName, entry: Option<Entry>) {
        let before = match &entry {
            Some(entry) => self.entries.insert(name.clone(), entry.clone()),
            None => self.entries.remove(name),
        };
        if before == entry {
            return;
        }
        if let Some(before) = &before {
            self.enter(name, before, false);
        }
        if let Some(entry) = &entry {
            self.enter(name, entry, true);
        }
        let noted = entry.as_ref().or(before.as_ref()).and_then(|entry| entry.noted.as_ref());
        if entry.as_ref().and_then(Entry::note).as_ref() == noted {
            self.unnoted.remove(name);
        } else if entry.is_some() {
            self.unnoted.insert(name.clone());
        }
        self.changed.insert(name.clone());
    }

    /// Changes an entry that is there.
    pub(super) fn change(&mut self, name: &CollectionName, change: impl FnOnce(Entry) -> Entry) {
        if let Some(entry) = self.entries.get(name).cloned() {
            self.put(name, Some(change(entry)));
        }
    }

    fn enter(&mut self, name: &CollectionName, entry: &Entry, comes: bool) {
        let count = |number: &mut usize, counts: bool| match (counts, comes) {
            (true, true) => *number += 1,
            (true, false) => *number -= 1,
            (false, _) => {}
        };
        count(&mut self.dropping, entry.is_dropping());
        count(&mut self.pending, entry.is_pending());
        count(&mut self.failed, entry.has_failed());
        count(&mut self.working, matches!(entry.stage, Stage::Working { .. }));
        if entry.is_pending() && entry.asked > Version::ZERO {
            let place = (entry.asked, name.clone());
            let _was = if comes { self.asked.insert(place) } else { self.asked.remove(&place) };
        }
        match entry.stage {
            Stage::Denied(at) | Stage::Waiting(at) | Stage::Dropping(Some(at)) => {
                let place = (at, name.clone());
                let _was = if comes { self.later.insert(place) } else { self.later.remove(&place) };
            }
            Stage::Ready => {
                let place = (entry.since_ms, name.clone());
                let _was = if comes { self.ready.insert(place) } else { self.ready.remove(&place) };
            }
            Stage::Idle | Stage::Working { .. } | Stage::Resting(_) | Stage::Dropping(None) => {}
        }
    }

    /// Writes down what the store should remember and does not, all of it at once.
    pub(super) fn make_notes(&mut self, now: Instant) {
        if self.note_at.is_some_and(|at| now < at) {
            return;
        }
        // Also if there is nothing left to note: nobody must be woken for that.
        self.note_at = None;
        // The notes go by the rows that are there, unless others are on their way.
        let compared = self.exchanged && !self.scanning && self.page.is_none();
        if self.unnoted.is_empty() && !compared {
            return;
        }
        let names: Vec<CollectionName> = std::mem::take(&mut self.unnoted).into_iter().collect();
        let mut notes = Notes::none(self.inbox.clone());
        for name in &names {
            if let Some(entry) = self.entries.get_mut(name) {
                let note = entry.note();
                notes.edits.push((Note::key(name), note.as_ref().map(Note::encode)));
                entry.noted = note;
            }
        }
        if compared {
            self.exchanged = false;
            notes.edits.push((EXCHANGED, None));
        }
        self.noting.push_back((names, compared));
        self.actions.push_back(Action::Note(notes));
    }

    pub(super) fn on_noted(&mut self, made: bool, now: Instant) {
        let (names, compared) = self.noting.pop_front().unwrap_or_default();
        if made {
            self.store_waits.reset();
            return;
        }
        self.exchanged |= compared;
        for name in names {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.noted = None;
            }
            self.unnoted.insert(name);
        }
        self.note_at = Some(now + self.store_wait());
    }

    /// How long to leave the local store alone after it failed: longer and longer.
    pub(super) fn store_wait(&mut self) -> Duration {
        STORE_RETRY + self.store_waits.next(&mut self.dice)
    }
}
