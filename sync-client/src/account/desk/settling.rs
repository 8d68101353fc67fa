//! From what the session does to the books: what a write settles, what is in step, what failed.
//! Pure.

use std::time::{Duration, Instant};

use sync_proto::types::CollectionName;

use super::entry::{Entry, Stage};
use super::{Action, DENIED_RETRY, Desk};
use crate::account::note::Note;
use crate::backoff::part_of;
use crate::session::{self, Because, Completes, Fortune, Part, WriteFault};
use crate::store::{Notes, Standing, Step, Write};

// === impl Desk ===

impl Desk {
    /// Takes the session's actions over, and says whom they concern.
    pub(super) fn drain(&mut self, touched: &mut Vec<CollectionName>, now: Instant) {
        while let Some(action) = self.session.poll_action() {
            let action = match action {
                session::Action::Write(name, write) => {
                    let notes = if name == self.inbox {
                        self.plan_page(&write, now)
                    } else {
                        self.notes_of(&name, &write)
                    };
                    Action::Write(name, write, notes)
                }
                session::Action::Pull(id, pull) => {
                    let names = pull.targets.iter().flatten().map(|one| one.collection.clone());
                    let names: Vec<CollectionName> = names.collect();
                    for name in &names {
                        self.is_pulled(name);
                    }
                    self.flying.insert(id, names);
                    Action::Session(session::Action::Pull(id, pull))
                }
                session::Action::Report(name, report) => {
                    if name == self.inbox {
                        self.inbox_status = report.status;
                    } else if !touched.contains(&name) {
                        touched.push(name.clone());
                    }
                    Action::Session(session::Action::Report(name, report))
                }
                other @ (session::Action::OpenStream(..)
                | session::Action::CloseStream(_)
                | session::Action::SelfCheck(_)
                | session::Action::Mend(..)
                | session::Action::Chosen(..)) => Action::Session(other),
            };
            self.actions.push_back(action);
        }
    }

    fn is_pulled(&mut self, name: &CollectionName) {
        if let Some(Entry { stage: Stage::Working { pulled }, .. }) = self.entries.get_mut(name) {
            *pulled = true;
        }
    }

    /// A pull was sent and brought no word of the server: what was told since may be newer than
    /// what is known.
    pub(super) fn is_not_pulled(&mut self, name: &CollectionName) {
        if let Some(Entry { stage: Stage::Working { pulled }, .. }) = self.entries.get_mut(name) {
            *pulled = false;
        }
    }

    /// The notes that belong to the write of a copy: if it settles the collection, that is noted
    /// with it.
    fn notes_of(&mut self, name: &CollectionName, write: &Write) -> Notes {
        let mut notes = Notes::none(self.inbox.clone());
        let settled = self.entries.get(name).and_then(|entry| {
            let digest = match self.session.completes(name) {
                Completes::No => return None,
                Completes::IfItIs(digest) => Some(digest),
                Completes::Yes => None,
            };
            let cursor = match &write.step {
                Step::Page { to, .. } | Step::BeginLoad { to, .. } => Some(*to),
                Step::Clear => None,
                Step::Mend { .. } => return None,
            };
            if cursor.is_some_and(|to| !to.is_caught_up()) {
                return None;
            }
            let standing = Standing { cursor, ..Standing::default() };
            let after = Entry { standing, ..entry.clone() };
            after.is_done().then(|| (after.settled(), digest))
        });
        if let Some((after, digest)) = settled {
            let note = after.note();
            notes.edits.push((Note::key(name), note.as_ref().map(Note::encode)));
            notes.only_at = digest;
            self.carried.insert(name.clone(), (note, digest));
        }
        notes
    }

    /// Knows what was noted with the write of a copy, and whether it knows where the copy stands.
    pub(super) fn carried_out(
        &mut self,
        name: &CollectionName,
        result: Result<Standing, WriteFault>,
    ) {
        let unsure = match result {
            Err(WriteFault::Failed) => Some(true),
            Ok(_) | Err(WriteFault::Conflict(_)) => Some(false),
            // Nothing was written.
            Err(WriteFault::MissingValue | WriteFault::Damaged) => None,
        };
        if let Some(unsure) = unsure {
            self.change(name, |entry| Entry { unsure, ..entry });
        }
        let (Some((note, digest)), Ok(standing)) = (self.carried.remove(name), result) else {
            return;
        };
        if digest.is_none_or(|digest| digest == standing.tally.digest) {
            self.change(name, |entry| Entry { noted: note, ..entry });
        }
    }

    /// Sees how a collection is doing, and what follows.
    pub(super) fn settle(&mut self, name: &CollectionName, now: Instant) {
        let Some(fortune) = self.session.fortune(name, now) else { return };
        let Some(entry) = self.entries.get(name) else { return };
        let standing = self.session.standing(name).unwrap_or(entry.standing);
        let entry = Entry { standing, ..entry.clone() };
        match (fortune, entry.stage) {
            (Fortune::Denied, _) => {
                self.stats.denied += 1;
                let retry = now + DENIED_RETRY / 2 + part_of(DENIED_RETRY, &mut self.dice);
                self.put(name, Some(entry.denied(retry)));
                self.session.let_go(name, now);
            }
            (Fortune::InStep, Stage::Idle) => self.put(name, Some(entry)),
            (Fortune::InStep, _) if entry.is_done() => {
                self.stats.caught_up += 1;
                self.put(name, Some(entry.settled()));
                if self.part_of(name) != Part::Streamed {
                    self.session.let_go(name, now);
                }
            }
            // Something was told meanwhile.
            (Fortune::InStep, Stage::Working { .. } | Stage::Resting(_)) => {
                let stage = Stage::Working { pulled: false };
                self.put(name, Some(Entry { stage, ..entry }));
                self.session.pull_now(name, now);
            }
            (Fortune::KeptBack(until, because), stage) if stage != Stage::Resting(until) => {
                self.rest(name, entry, (until, because), now);
            }
            (Fortune::Working, Stage::Resting(_)) => {
                let stage = Stage::Working { pulled: false };
                self.put(name, Some(Entry { stage, ..entry }));
            }
            (Fortune::Working | Fortune::KeptBack(..) | Fortune::InStep, _) => {
                self.put(name, Some(entry));
            }
        }
    }

    /// An attempt has failed; the session tries again.
    fn rest(
        &mut self,
        name: &CollectionName,
        mut entry: Entry,
        (until, because): (Instant, Because),
        now: Instant,
    ) {
        self.stats.failures += 1;
        match because {
            Because::Server if entry.error.is_empty() => entry.set_error("no answer"),
            Because::Server => {}
            Because::Store => entry.set_error("the local store did not take it"),
            Because::Repair(reason) => entry.set_error(reason.as_str()),
        }
        if !entry.is_pending() {
            entry.since_ms = self.clock.ms(now);
        }
        entry.attempts = entry.attempts.saturating_add(1);
        entry.next_try_ms = self.clock.ms(until);
        entry.stage = Stage::Resting(until);
        self.put(name, Some(entry));
    }

    pub(super) fn is_dropping(&self, name: &CollectionName) -> bool {
        self.entries.get(name).is_some_and(Entry::is_dropping)
    }

    /// The copy of a collection that is not followed any more was dropped, or was not.
    pub(super) fn on_dropped(
        &mut self,
        name: &CollectionName,
        result: Result<Standing, WriteFault>,
        now: Instant,
    ) {
        self.carried.remove(name);
        let (standing, wait) = match result {
            Ok(standing) if standing == Standing::default() => {
                self.store_waits.reset();
                self.stats.dropped += 1;
                return self.forget(name);
            }
            // A write of the session that was given out before.
            Ok(standing) => return self.change(name, |entry| Entry { standing, ..entry }),
            Err(WriteFault::Conflict(standing)) => (Some(standing), Duration::ZERO),
            Err(WriteFault::MissingValue | WriteFault::Damaged | WriteFault::Failed) => {
                (None, self.store_wait())
            }
        };
        self.change(name, |entry| Entry {
            // As long as nobody says otherwise the copy may be there.
            unsure: standing.is_none(),
            standing: standing.unwrap_or(entry.standing),
            stage: Stage::Dropping(Some(now + wait)),
            ..entry
        });
    }

    /// A collection is not followed, has no copy, and nothing is to be done.
    pub(super) fn forget(&mut self, name: &CollectionName) {
        if let Some(entry) = self.entries.get(name).cloned() {
            let left = entry.noted.is_some() && entry.standing == Standing::default();
            self.put(name, None);
            if left {
                // It had nothing to drop, so no write took the note with it.
                let mut notes = Notes::none(self.inbox.clone());
                notes.edits.push((Note::key(name), None));
                self.noting.push_back((Vec::new(), false));
                self.actions.push_back(Action::Note(notes));
            }
        }
    }
}
