//! Copies that are not in the session are checked for damage, too: one after the other, each about
//! once a day. Damage happens while nobody looks. Pure.

use std::ops::Bound;
use std::time::{Duration, Instant};

use sync_proto::types::CollectionName;

use super::entry::{Entry, Stage};
use super::{Action, Desk};
use crate::session::{self, Joining};

/// How often each copy is checked, about.
const CHECK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Least time between two checks: each reads a whole copy.
const CHECK_PAUSE: Duration = Duration::from_secs(10);

// === impl Desk ===

impl Desk {
    /// Checks the next copy, if it is time.
    pub(super) fn check_next(&mut self, now: Instant) {
        if now < self.check_at {
            return;
        }
        let copies = u32::try_from(self.entries.len()).unwrap_or(u32::MAX).max(1);
        self.check_at = now + (CHECK_EVERY / copies).max(CHECK_PAUSE);
        let after = self.checked.take().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.entries.range((after, Bound::Unbounded));
        let idle = |entry: &Entry| entry.stage == Stage::Idle && entry.standing.cursor.is_some();
        let next = rest.filter(|(_, entry)| idle(entry)).map(|(name, _)| name.clone()).next();
        if let Some(name) = &next {
            self.actions.push_back(Action::Session(session::Action::SelfCheck(name.clone())));
        }
        // After the last one the first.
        self.checked = next;
    }

    /// Which copy is damaged that is not in the session, if one is.
    pub(super) fn damaged(&self, input: &session::Input) -> Option<CollectionName> {
        let session::Input::SelfChecked(name, false) = input else { return None };
        let idle = self.entries.get(name).is_some_and(|entry| entry.stage == Stage::Idle);
        (idle && self.session.standing(name).is_none()).then(|| name.clone())
    }

    /// A damaged copy comes into the session, which puts it right.
    pub(super) fn mend(&mut self, name: &CollectionName, now: Instant) {
        let Some(entry) = self.entries.get(name) else { return };
        let Entry { standing, unsure, .. } = *entry;
        let part = self.part_of(name);
        let joining = Joining { standing, unsure, part, attempts: 0 };
        let since_ms = self.clock.ms(now);
        let stage = Stage::Working { pulled: false };
        self.change(name, |entry| Entry { stage, since_ms, ..entry });
        self.session.bring_in_damaged(name, joining, now);
    }
}
