//! From a write of the inbox's copy to what is to be done: a page changes rows, cursor and queue in
//! one transaction. Where rows are exchanged instead (a load, a repair), the whole list is compared
//! with the copies afterwards, before anything is acknowledged. Pure.

use std::time::Instant;

use bytes::Bytes;
use sync_proto::convert::decode_inbox_entry;
use sync_proto::types::{
    Change, ChangeKind, CollectionName, InboxEntry, PolledHead, Value, Version,
};

use super::entry::{Entry, Teller};
use super::{Action, Desk, GATHER};
use crate::account::note::{EXCHANGED, Note};
use crate::session::WriteFault;
use crate::store::{Notes, Standing, Step, Write};

/// What a write of the inbox leads to.
#[derive(Debug)]
pub(super) enum Page {
    /// What it tells, and what is noted with it.
    Told(Vec<(CollectionName, Told, Option<Note>)>),
    /// All rows may be others.
    Exchange,
    /// Nothing that readers see.
    Staged,
}

/// What an inbox tells of a collection, at this version.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Stands(Option<InboxEntry>, Version),
    Unfollowed(Version),
}

/// What an item of an inbox says; `None` = nothing that this program can read.
pub(super) fn read_entry(value: &Value) -> Option<InboxEntry> {
    decode_inbox_entry(value).ok()
}

// === impl Desk ===

impl Desk {
    /// The notes that belong to a write of the inbox; remembers what it leads to.
    pub(super) fn plan_page(&mut self, write: &Write, now: Instant) -> Notes {
        let mut notes = Notes::none(self.inbox.clone());
        let page =
            match &write.step {
                Step::Page { to, .. } if self.inbox_standing.load.is_some() => {
                    if to.is_caught_up() { Page::Exchange } else { Page::Staged }
                }
                Step::Page { changes, .. } => {
                    let mut page = Vec::new();
                    for (name, told) in self.told_by(changes) {
                        let note =
                            self.entry_after(&name, told, now).as_ref().and_then(Entry::note);
                        let known = self.entries.get(&name).and_then(|entry| entry.noted.as_ref());
                        if note.as_ref() != known {
                            notes.edits.push((Note::key(&name), note.as_ref().map(Note::encode)));
                        }
                        page.push((name, told, note));
                    }
                    Page::Told(page)
                }
                Step::BeginLoad { to, .. } if !to.is_caught_up() => Page::Staged,
                Step::BeginLoad { .. } | Step::Mend { .. } | Step::Clear => Page::Exchange,
            };
        if matches!(page, Page::Exchange) {
            notes.edits.push((EXCHANGED, Some(Bytes::new())));
        }
        self.page = Some(page);
        notes
    }

    fn told_by(&mut self, changes: &[Change]) -> Vec<(CollectionName, Told)> {
        let after = self.inbox_standing.cursor.map_or(Version::ZERO, |cursor| cursor.version);
        let mut told = Vec::new();
        for change in changes.iter().filter(|change| change.version > after) {
            let Some(name) = self.name_of(change.key.as_bytes()) else { continue };
            match &change.kind {
                // The value is as it was, and so is what it says.
                ChangeKind::Put { value: None, .. } => {}
                ChangeKind::Put { value: Some(value), .. } => {
                    let remote = read_entry(value);
                    self.stats.malformed += u64::from(remote.is_none());
                    told.push((name, Told::Stands(remote, change.version)));
                }
                ChangeKind::Delete | ChangeKind::LeftScope => {
                    told.push((name, Told::Unfollowed(change.version)));
                }
            }
        }
        told
    }

    /// An entry as it is once something was told; `None` = it is not followed, and has no copy.
    fn entry_after(&self, name: &CollectionName, told: Told, now: Instant) -> Option<Entry> {
        match told {
            Told::Stands(remote, version) => {
                Some(self.entry_told(name, remote, Teller::Inbox(version), now))
            }
            Told::Unfollowed(version) => self.entry_unfollowed(name, version, now),
        }
    }

    /// The collection that an item of the inbox is about. The inbox itself is none.
    pub(super) fn name_of(&mut self, key: &[u8]) -> Option<CollectionName> {
        let name = Note::name(key).filter(|name| *name != self.inbox);
        self.stats.malformed += u64::from(name.is_none());
        name
    }

    fn entry_told(
        &self,
        name: &CollectionName,
        remote: Option<InboxEntry>,
        teller: Teller,
        now: Instant,
    ) -> Entry {
        let streamed = self.session.standing(name).is_some();
        let due = if streamed { Entry::grace(now) } else { now + GATHER };
        let entry = self.entries.get(name).cloned();
        entry.unwrap_or_else(|| Entry::new(Standing::default())).told(
            remote,
            teller,
            (due, &self.clock),
        )
    }

    fn entry_unfollowed(&self, name: &CollectionName, at: Version, now: Instant) -> Option<Entry> {
        let entry = self.entries.get(name)?.clone();
        entry.may_have_copy().then(|| entry.unfollowed(at, now))
    }

    pub(super) fn on_inbox_written(
        &mut self,
        page: Option<Page>,
        result: Result<Standing, WriteFault>,
        now: Instant,
    ) {
        match result {
            Ok(standing) => self.inbox_standing = standing,
            Err(WriteFault::Conflict(standing)) => {
                // Somebody else writes it, or it was lost with its file.
                self.inbox_standing = standing;
                return self.scan();
            }
            Err(WriteFault::MissingValue | WriteFault::Damaged | WriteFault::Failed) => return,
        }
        match page {
            Some(Page::Told(page)) => {
                for (name, told, note) in page {
                    self.take_over(&name, told, note, now);
                }
            }
            Some(Page::Exchange) => self.scan(),
            Some(Page::Staged) | None => {}
        }
    }

    /// Takes in what was told, now that the page that told it is written and this noted. The entry
    /// may have moved since the page was planned.
    fn take_over(&mut self, name: &CollectionName, told: Told, note: Option<Note>, now: Instant) {
        let entry = self.entry_after(name, told, now);
        self.see_off(name, entry.as_ref(), now);
        let Some(entry) = entry else { return self.put(name, None) };
        self.stats.asked += u64::from(entry.is_pending());
        self.put(name, Some(Entry { noted: note, ..entry }));
        if self.looked_at.contains(name) {
            self.see_looked_at(name, now);
        }
    }

    pub(super) fn scan(&mut self) {
        if !self.scanning {
            self.scanning = true;
            self.actions.push_back(Action::Scan);
        }
    }

    /// Somebody says where a collection stands that the inbox does not announce. Of one that is not
    /// followed, or not yet, the inbox will tell.
    pub(super) fn hear(&mut self, head: PolledHead, now: Instant) {
        let PolledHead { collection: name, entry: remote } = head;
        let Some(before) = self.entries.get(&name) else { return };
        if before.is_dropping() {
            return;
        }
        let pending = before.is_pending();
        let entry = self.entry_told(&name, Some(remote), Teller::Head, now);
        self.stats.polled += u64::from(!pending && entry.is_pending());
        self.put(&name, Some(entry));
    }
}
