//! Whose turn it is: what somebody looks at first, then the rest by age; as many at once as pulls
//! can carry. Pure.

use std::collections::BTreeSet;
use std::time::Instant;

use sync_proto::types::CollectionName;

use super::entry::{Entry, Stage};
use super::{Action, Desk, LOOKED_AT_MAX, LOOKED_AT_STREAMED_MAX, WORKING_MAX};
use crate::session::{Joining, Part};
use crate::store::{Notes, Step, Write};

// === impl Desk ===

impl Desk {
    /// Sees to everything whose moment has come.
    pub(super) fn take_turns(&mut self, now: Instant) {
        while let Some((at, name)) = self.later.first().cloned()
            && at <= now
        {
            let Some(entry) = self.entries.get(&name) else { return };
            let stage = match entry.stage {
                Stage::Dropping(_) => Stage::Dropping(None),
                Stage::Idle
                | Stage::Denied(_)
                | Stage::Waiting(_)
                | Stage::Ready
                | Stage::Working { .. }
                | Stage::Resting(_) => Stage::Ready,
            };
            self.change(&name, |entry| Entry { stage, ..entry });
            if stage == Stage::Dropping(None) {
                self.drop_copy(&name);
            }
        }
        self.begin_ready(now);
    }

    fn begin_ready(&mut self, now: Instant) {
        let room = WORKING_MAX.saturating_sub(self.working);
        if self.ready.is_empty() {
            return;
        }
        let is_ready = |name: &&CollectionName| {
            self.entries.get(*name).is_some_and(|entry| entry.stage == Stage::Ready)
        };
        // Their number is bounded, and they wait for nobody.
        let mut chosen: Vec<CollectionName> =
            self.looked_at.iter().filter(is_ready).cloned().collect();
        let looked_at: BTreeSet<CollectionName> = chosen.iter().cloned().collect();
        let rest =
            self.ready.iter().map(|(_, name)| name).filter(|name| !looked_at.contains(*name));
        chosen.extend(rest.take(room).cloned());
        let mut joining = Vec::with_capacity(chosen.len());
        for name in chosen {
            if self.must_be_read(&name) {
                continue;
            }
            let part = self.part_of(&name);
            let Some(entry) = self.entries.get(&name) else { continue };
            let Entry { standing, unsure, attempts, .. } = *entry;
            let one = Joining { standing, unsure, part, attempts };
            let stage = Stage::Working { pulled: false };
            self.change(&name, |entry| Entry { stage, ..entry });
            joining.push((name, one));
        }
        self.session.bring_in(joining, now);
    }

    /// Whether only the store knows where a copy stands, which is asked then: the server would be
    /// told of a copy that may not be there.
    fn must_be_read(&mut self, name: &CollectionName) -> bool {
        let unsure = self.entries.get(name).is_some_and(|entry| entry.unsure);
        let must = unsure && self.session.standing(name).is_none();
        if must {
            self.scan();
        }
        must
    }

    /// How a collection takes part in the conversation.
    pub(super) fn part_of(&self, name: &CollectionName) -> Part {
        match self.looked_at.iter().position(|looked_at| looked_at == name) {
            Some(place) if place < LOOKED_AT_STREAMED_MAX => Part::Streamed,
            Some(_) => Part::Prompt,
            None => Part::Quiet,
        }
    }

    /// Somebody looks at these: they go first, and the first of them are carried by the stream.
    pub(super) fn look_at(&mut self, mut names: Vec<CollectionName>, now: Instant) {
        let mut seen = BTreeSet::new();
        names.retain(|name| *name != self.inbox && seen.insert(name.clone()));
        names.truncate(LOOKED_AT_MAX);
        let before = std::mem::replace(&mut self.looked_at, names);
        for name in &before {
            if self.part_of(name) == Part::Streamed {
                continue;
            }
            let idle = self.entries.get(name).is_none_or(|entry| entry.stage == Stage::Idle);
            if idle {
                self.session.let_go(name, now);
            } else {
                self.session.set_part(name, self.part_of(name), now);
            }
        }
        for name in self.looked_at.clone() {
            self.see_looked_at(&name, now);
            // What failed is tried at once, each time that somebody says so.
            let resting = |entry: &Entry| matches!(entry.stage, Stage::Resting(_));
            if self.entries.get(&name).is_some_and(resting) {
                self.session.try_now(&name, now);
            }
        }
    }

    /// What is looked at is in the session; what was kept waiting is tried.
    pub(super) fn see_looked_at(&mut self, name: &CollectionName, now: Instant) {
        let part = self.part_of(name);
        let Some(entry) = self.entries.get(name) else { return };
        match entry.stage {
            Stage::Working { .. } | Stage::Resting(_) => self.session.set_part(name, part, now),
            Stage::Denied(_) | Stage::Waiting(_) => {
                self.change(name, |entry| Entry { stage: Stage::Ready, ..entry });
            }
            Stage::Idle if part == Part::Streamed && self.session.standing(name).is_none() => {
                if self.must_be_read(name) {
                    return;
                }
                let Some(entry) = self.entries.get(name) else { return };
                let Entry { standing, unsure, .. } = *entry;
                let joining = Joining { standing, unsure, part, attempts: 0 };
                self.session.bring_in([(name.clone(), joining)], now);
            }
            Stage::Idle | Stage::Ready | Stage::Dropping(_) => {}
        }
    }

    /// Gives out that the copy of a collection is dropped, and its note with it.
    fn drop_copy(&mut self, name: &CollectionName) {
        let Some(entry) = self.entries.get(name) else { return };
        if !entry.may_have_copy() {
            self.forget(name);
            return;
        }
        let write = Write { expected: entry.standing.active(), step: Step::Clear };
        let mut notes = Notes::none(self.inbox.clone());
        notes.edits.push((crate::account::note::Note::key(name), None));
        self.actions.push_back(Action::Write(name.clone(), write, notes));
    }

    /// Sees a collection off that is not followed any more, or that comes back while its copy is
    /// being dropped. A write that was given out and not carried out is of the plan before: it
    /// would leave a copy that nobody knows of, or empty one that is believed to be there.
    pub(super) fn see_off(&mut self, name: &CollectionName, after: Option<&Entry>, now: Instant) {
        let before = self.entries.get(name).map(|entry| entry.stage);
        let dropped = before == Some(Stage::Dropping(None));
        let leaves = after.is_none_or(Entry::is_dropping);
        if dropped || leaves && self.session.is_writing(name) {
            self.actions.retain(|action| !matches!(action, Action::Write(of, ..) if of == name));
            self.carried.remove(name);
        }
        if leaves {
            self.session.let_go(name, now);
        }
    }
}
