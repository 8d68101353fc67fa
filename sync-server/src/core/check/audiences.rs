//! Whether audiences and inboxes say the same. Pure. Like the rest of the check it compares sums:
//! who follows what, by subject and by name, and what entries say, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::convert::{decode_change, decode_inbox_entry};
use sync_proto::digest::Segment;
use sync_proto::types::{ChangeKind, CollectionName, Diffusion, Head, InboxEntry, Key, Subject};

use super::Sum;
use crate::core::inbox::{entry_key, truth};
use crate::store::keys::CollectionId;
use crate::store::rows::{Audience, Meta, Sweep};

/// What rows say of audiences, from each side.
#[derive(Debug, Default)]
pub(super) struct Audiences {
    /// Which collections are inboxes; of those whose names are in another part of the rows, what
    /// was said at the beginning.
    inboxes: BTreeSet<CollectionId>,
    told: Option<Arc<BTreeSet<CollectionId>>>,
    /// By subject: the keys of its entries, by the rows of audiences.
    follows: BTreeMap<Subject, Sum>,
    /// By name: rows of its audience.
    counts: BTreeMap<CollectionName, u64>,
    /// By name: what the entries of all inboxes say.
    entries: BTreeMap<CollectionName, Sum>,
    pub(super) states: BTreeMap<CollectionName, Audience>,
    pub(super) sweeps: BTreeMap<CollectionName, Sweep>,
}

// === impl Audiences ===

impl Audiences {
    /// Those of a part of the rows.
    pub(super) fn knowing(inboxes: Arc<BTreeSet<CollectionId>>) -> Self {
        Self { told: Some(inboxes), ..Self::default() }
    }

    pub(super) fn name(&mut self, name: &str, id: CollectionId) {
        if CollectionName::new(name).is_ok_and(|name| name.is_inbox()) {
            self.inboxes.insert(id);
        }
    }

    pub(super) fn follower(&mut self, name: CollectionName, subject: Subject) {
        let key = entry_key(&name);
        // As a collection counts the items of its segments.
        let sum = self.follows.entry(subject).or_default();
        sum.add((Segment::of_key(&key).get(), key.as_bytes()));
        *self.counts.entry(name).or_default() += 1;
    }

    /// Takes a live row of a collection, which may be an inbox.
    pub(super) fn item(
        &mut self,
        id: CollectionId,
        key: &Key,
        change: &Bytes,
    ) -> Result<(), String> {
        let told = self.told.as_ref().is_some_and(|told| told.contains(&id));
        if !told && !self.inboxes.contains(&id) {
            return Ok(());
        }
        let name = std::str::from_utf8(key.as_bytes()).ok();
        let name = name.and_then(|name| CollectionName::new(name).ok());
        let name = name.ok_or_else(|| "an entry of what is no name".to_owned())?;
        let change = decode_change(change.clone()).map_err(|error| error.to_string())?;
        let ChangeKind::Put { value: Some(value), .. } = change.kind else {
            return Err("an entry without a value".to_owned());
        };
        let entry = decode_inbox_entry(&value).map_err(|error| error.to_string())?;
        self.entries.entry(name).or_default().add(entry);
        Ok(())
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.inboxes.extend(other.inboxes);
        for (subject, sum) in other.follows {
            self.follows.entry(subject).or_default().merge(sum);
        }
        for (name, count) in other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        for (name, sum) in other.entries {
            self.entries.entry(name).or_default().merge(sum);
        }
        self.states.extend(other.states);
        self.sweeps.extend(other.sweeps);
    }

    /// What does not fit. `inboxes`: by subject, the keys of its entries, by the rows of its inbox.
    pub(super) fn judge(
        &self,
        collections: &[(CollectionId, Meta)],
        mut inboxes: BTreeMap<Subject, Sum>,
    ) -> Vec<String> {
        let mut findings = Vec::new();
        for (subject, sum) in &self.follows {
            if inboxes.remove(subject).unwrap_or_default() != *sum {
                findings
                    .push(format!("the inbox of {subject:?} does not agree with the audiences"));
            }
        }
        for (subject, sum) in inboxes {
            if sum != Sum::default() {
                findings
                    .push(format!("the inbox of {subject:?} does not agree with the audiences"));
            }
        }
        let heads: BTreeMap<_, _> =
            collections.iter().map(|(_, meta)| (&meta.name, &meta.head)).collect();
        for (name, count) in &self.counts {
            if self.states.get(name).map(|state| state.count) != Some(*count) {
                findings.push(format!("the audience of {name:?} has another number of followers"));
            }
        }
        for (name, state) in &self.states {
            let head = heads.get(name).copied();
            findings.extend(self.judge_state(name, state, head));
        }
        let stray = self.sweeps.keys().filter(|name| {
            self.states.get(*name).is_none_or(|state| state.mode == Diffusion::Write)
        });
        findings.extend(stray.map(|name| format!("{name:?} is swept, but needs no sweep")));
        findings
    }

    fn judge_state(
        &self,
        name: &CollectionName,
        state: &Audience,
        head: Option<&Head>,
    ) -> Option<String> {
        if !self.counts.contains_key(name) {
            return Some(format!("the audience of {name:?} has no followers"));
        }
        if head.is_some() && state.last_life.is_some() {
            return Some(format!("{name:?} exists, but its audience was told that it is deleted"));
        }
        let told: InboxEntry = truth(head, state);
        let mut all = Sum::default();
        all.add(told);
        let all = Sum { count: state.count, sum: all.sum.wrapping_mul(state.count) };
        let wrong = state.mode == Diffusion::Write && self.entries.get(name) != Some(&all);
        wrong.then(|| format!("entries of {name:?} do not say where it stands"))
    }
}
