//! Who follows what, and who is told of what a group changed. Pure: rows come from [`Known`].
//!
//! When a group is planned it is diffused on its final state: each inbox gets one new version, and
//! each entry is written once, however often its collection moved. Everything that a group tells is
//! in its batch, so no reader finds a head that its inbox does not know, or the other way round.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sync_proto::convert::encode_inbox_entry;
use sync_proto::types::{
    CollectionName, Diffusion, Head, InboxEntry, Key, Mutation, Op, Scope, SortKey, Subject,
    Timestamp, Value,
};

use super::diffusion::{FAN_OUT_ENTRIES_MAX, Limits, Rate, Seen, decide};
use super::effect::{Effect, put_over};
use super::plan::Moment;
use super::workspace::{Planned, Slot, Workspace};
use crate::store::StoreError;
use crate::store::keys::{CollectionId, audience_key, audience_state_key, sweep_key};
use crate::store::rows::{Audience, Meta, Sweep};

/// What is known besides the rows of a group: the newest state, before the group.
pub trait Known {
    /// A collection.
    fn find(&self, name: &CollectionName) -> Option<(CollectionId, Meta)>;
    /// The audience of a name.
    fn audience(&self, name: &CollectionName) -> Option<Audience>;
    /// Whose inboxes are still to be told of a collection that was deleted.
    fn sweep(&self, name: &CollectionName) -> Option<Sweep>;
    /// Those who follow a name from `from` on, in order, so many at most.
    fn followers(
        &self,
        name: &CollectionName,
        from: Option<&Subject>,
        most: usize,
    ) -> Result<Vec<Subject>, StoreError>;
    /// The rows at these keys, in their order.
    fn rows(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError>;
}

/// How often the collections moved that are followed.
pub type Rates = BTreeMap<CollectionName, Rate>;

/// What decides how followers are told.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The bounds.
    pub limits: &'a Limits,
    /// What happened lately.
    pub rates: &'a mut Rates,
    /// Since when that is known: rates are not kept over a restart.
    pub since: Timestamp,
}

/// What a group does to audiences and inboxes.
#[derive(Debug, Default)]
pub(super) struct Spreading {
    members: BTreeMap<CollectionName, BTreeMap<Subject, Slot<()>>>,
    states: BTreeMap<CollectionName, Slot<Audience>>,
    sweeps: BTreeMap<CollectionName, Slot<Sweep>>,
    /// What inboxes are to say; `None`: the subject follows no longer.
    letters: BTreeMap<Subject, BTreeMap<CollectionName, Option<InboxEntry>>>,
    /// Entries that were written because collections moved.
    spread: u64,
    told: Told,
}

/// An inbox, and what it is to say by key.
type Letter = (CollectionName, Vec<(Key, Option<InboxEntry>)>);

/// What a group told whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Entries of inboxes that changed.
    pub entries: u64,
    /// Inboxes of which nothing changed, but whose subjects follow something that is read from now
    /// on: streams of theirs must look.
    pub woken: Vec<CollectionName>,
}

/// Where a name stands, as an inbox says it.
#[must_use]
pub fn truth(head: Option<&Head>, audience: &Audience) -> InboxEntry {
    match (head, audience.last_life) {
        (Some(head), _) => InboxEntry::Exists(head.epoch, head.version),
        (None, Some((epoch, version))) => InboxEntry::Deleted(epoch, version),
        (None, None) => InboxEntry::Absent,
    }
}

/// The key of a collection's entry.
#[must_use]
pub fn entry_key(name: &CollectionName) -> Key {
    Key::new(Bytes::copy_from_slice(name.as_str().as_bytes())).expect("a name is a short key")
}

/// Whether the entry of a name belongs to a part of an inbox. Entries have no sort key.
#[must_use]
pub fn in_scope(scope: &Scope, name: &CollectionName) -> bool {
    scope.contains(&entry_key(name), &SortKey::default())
}

// === impl Workspace, who follows ===

impl Workspace {
    /// Takes note of who followed before the group.
    pub(super) fn load_member(&mut self, name: CollectionName, subject: Subject, follows: bool) {
        let slot = Slot::loaded(follows.then_some(()));
        self.spreading.members.entry(name).or_default().insert(subject, slot);
    }

    /// Plans who follows from now on.
    pub(super) fn plan_members(&mut self, mutations: &[Mutation]) {
        for Mutation { collection, op } in mutations {
            let (subject, now) = match op {
                Op::Follow { subject } => (subject, Some(())),
                Op::Unfollow { subject } => (subject, None),
                Op::Put { .. } | Op::Delete { .. } | Op::Reorder { .. } => continue,
            };
            let members = self.spreading.members.get_mut(collection);
            let slot = members.and_then(|members| members.get_mut(subject));
            slot.expect("needs() asked for the member").now = now;
        }
    }

    /// Who came and who went in this group.
    fn changed_members(&self, name: &CollectionName) -> (BTreeSet<Subject>, BTreeSet<Subject>) {
        let (mut came, mut went) = (BTreeSet::new(), BTreeSet::new());
        for (subject, slot) in self.spreading.members.get(name).into_iter().flatten() {
            match (slot.before, slot.now) {
                (None, Some(())) => drop(came.insert(subject.clone())),
                (Some(()), None) => drop(went.insert(subject.clone())),
                (None, None) | (Some(()), Some(())) => {}
            }
        }
        (came, went)
    }

    /// Everybody who follows when the group is done.
    fn everybody(
        &self,
        name: &CollectionName,
        known: &dyn Known,
    ) -> Result<BTreeSet<Subject>, StoreError> {
        let (came, went) = self.changed_members(name);
        let mut all: BTreeSet<_> = known.followers(name, None, usize::MAX)?.into_iter().collect();
        all.retain(|subject| !went.contains(subject));
        all.extend(came);
        Ok(all)
    }
}

// === impl Workspace, who is told ===

impl Workspace {
    /// Tells followers of what was planned so far. Called once, when everything else is planned.
    pub fn diffuse(
        &mut self,
        rules: &mut Rules<'_>,
        at: &mut Moment<'_>,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let moved = self.collections.iter().filter(|(_, working)| working.has_moved());
        let moved: BTreeMap<CollectionName, u64> = moved
            .filter(|(name, _)| known.audience(name).is_some())
            .map(|(name, working)| (name.clone(), working.commits()))
            .collect();
        let mut concerned: BTreeSet<_> = moved.keys().cloned().collect();
        let touched = self.spreading.members.keys().filter(|name| {
            let (came, went) = self.changed_members(name);
            !came.is_empty() || !went.is_empty()
        });
        concerned.extend(touched.cloned());
        for name in concerned {
            self.diffuse_one(&name, moved.get(&name).copied(), rules, at.now, known)?;
        }
        self.post(at, known)
    }

    fn diffuse_one(
        &mut self,
        name: &CollectionName,
        commits: Option<u64>,
        rules: &mut Rules<'_>,
        now: Timestamp,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let moved = commits.is_some();
        let before = known.audience(name);
        let (came, went) = self.changed_members(name);
        self.write_all(&went, name, None);
        let count = before.map_or(0, |before| before.count) + len(&came) - len(&went);
        if count == 0 {
            rules.rates.remove(name);
            self.set_audience(name, None, known);
            return Ok(());
        }
        let (head, pinned) = match self.meta_now(name, known) {
            Some(meta) => (Some(meta.head), meta.policy.diffusion),
            None => (None, None),
        };
        let fresh = Audience { count, mode: Diffusion::Write, since: now, last_life: None };
        let mut after = Audience { count, ..before.unwrap_or(fresh) };
        if head.is_some() {
            after.last_life = None;
        }
        let mode = rules.decide(name, &after, pinned, commits, now);
        // What was read is told again only by a switch, which writes all of its entries.
        let switches = after.mode == Diffusion::Write
            && (mode == Diffusion::Read || (moved && !self.takes(count)));
        if switches {
            after = Audience { mode: Diffusion::Read, since: now, ..after };
            let everybody = self.everybody(name, known)?;
            self.spreading.told.woken.extend(everybody.iter().map(Subject::inbox));
        }
        let entry = truth(head.as_ref(), &after);
        if moved && after.mode == Diffusion::Write {
            self.spreading.spread += count;
            let everybody = self.everybody(name, known)?;
            self.write_all(&everybody, name, Some(entry));
        } else {
            self.write_all(&came, name, Some(entry));
        }
        self.set_audience(name, Some(after), known);
        Ok(())
    }

    /// Tells followers that a collection is deleted: at once, or behind.
    pub fn bury(
        &mut self,
        name: &CollectionName,
        meta: &Meta,
        rules: &mut Rules<'_>,
        at: &mut Moment<'_>,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let Some(before) = known.audience(name) else { return Ok(()) };
        let mode = rules.decide(name, &before, meta.policy.diffusion, Some(1), at.now);
        let last_life = Some((meta.head.epoch, meta.head.version));
        let mut after = Audience { last_life, ..before };
        let told = before.mode == Diffusion::Write && mode == Diffusion::Write;
        if told && self.takes(after.count) {
            let everybody = self.everybody(name, known)?;
            self.write_all(&everybody, name, Some(truth(None, &after)));
        } else if before.mode == Diffusion::Write {
            after = Audience { mode: Diffusion::Read, since: at.now, ..after };
            let everybody = self.everybody(name, known)?;
            self.spreading.told.woken.extend(everybody.iter().map(Subject::inbox));
        }
        self.set_audience(name, Some(after), known);
        if after.mode == Diffusion::Read {
            self.set_sweep(name, Some(Sweep::default()), known);
        }
        self.post(at, known)
    }

    /// Changes how an audience is told, if it has one. Whoever is written to from now on is told
    /// the truth of this moment with it, so nothing falls between the modes.
    pub fn switch(
        &mut self,
        name: &CollectionName,
        mode: Diffusion,
        now: Timestamp,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let Some(before) = known.audience(name) else { return Ok(()) };
        let everybody = self.everybody(name, known)?;
        match mode {
            Diffusion::Write => {
                let head = self.meta_now(name, known).map(|meta| meta.head);
                self.write_all(&everybody, name, Some(truth(head.as_ref(), &before)));
                self.set_sweep(name, None, known);
            }
            Diffusion::Read => {
                self.spreading.told.woken.extend(everybody.iter().map(Subject::inbox));
            }
        }
        self.set_audience(name, Some(Audience { mode, since: now, ..before }), known);
        Ok(())
    }

    /// Brings so many entries of an audience up to date, from where the last such step ended.
    pub fn sweep(
        &mut self,
        name: &CollectionName,
        most: usize,
        known: &dyn Known,
    ) -> Result<(), StoreError> {
        let (Some(audience), Some(Sweep(from))) = (known.audience(name), known.sweep(name)) else {
            return Ok(());
        };
        let mut some = known.followers(name, from.as_ref(), most + 1)?;
        let next = if some.len() > most { some.pop() } else { None };
        let head = self.meta_now(name, known).map(|meta| meta.head);
        let some = some.into_iter().collect();
        self.write_all(&some, name, Some(truth(head.as_ref(), &audience)));
        self.set_sweep(name, next.map(|next| Sweep(Some(next))), known);
        Ok(())
    }

    /// Puts what was written to subjects into their inboxes.
    pub fn post(&mut self, at: &mut Moment<'_>, known: &dyn Known) -> Result<(), StoreError> {
        let letters: Vec<Letter> = std::mem::take(&mut self.spreading.letters)
            .into_iter()
            .map(|(subject, entries)| {
                let entry = |(name, entry): (_, _)| (entry_key(&name), entry);
                (subject.inbox(), entries.into_iter().map(entry).collect())
            })
            .collect();
        let keys = letters.iter().map(|(inbox, entries)| {
            (inbox.clone(), entries.iter().map(|(key, _)| key.clone()).collect())
        });
        self.load_entries(keys, known)?;
        for (inbox, entries) in letters {
            let mut effects = Vec::with_capacity(entries.len());
            for (key, entry) in &entries {
                if let Some(effect) = self.entry_effect(&inbox, key, *entry)? {
                    effects.push((key, effect));
                }
            }
            if !effects.is_empty() {
                self.spreading.told.entries += u64::try_from(effects.len()).expect("small");
                self.apply(&inbox, effects, at);
            }
        }
        Ok(())
    }

    /// What an entry changes; `None` = nothing.
    fn entry_effect(
        &self,
        inbox: &CollectionName,
        key: &Key,
        entry: Option<InboxEntry>,
    ) -> Result<Option<Effect>, StoreError> {
        let value: Option<Value> = entry.map(encode_inbox_entry);
        match (self.live(inbox, key), value) {
            (None, None) => Ok(None),
            (Some(_), None) => Ok(Some(Effect::Delete)),
            (Some(old), Some(value)) => put_over(old, &value, None),
            (None, Some(value)) => {
                let sort_key = SortKey::default();
                Ok(Some(Effect::Put { value, sort_key, same_value: false }))
            }
        }
    }

    fn write_all(
        &mut self,
        subjects: &BTreeSet<Subject>,
        name: &CollectionName,
        entry: Option<InboxEntry>,
    ) {
        for subject in subjects {
            let letters = self.spreading.letters.entry(subject.clone()).or_default();
            letters.insert(name.clone(), entry);
        }
    }

    /// Whether the batch takes so many entries more.
    fn takes(&self, entries: u64) -> bool {
        self.spreading.spread + entries <= FAN_OUT_ENTRIES_MAX
    }

    fn meta_now(&self, name: &CollectionName, known: &dyn Known) -> Option<Meta> {
        match self.collections.get(name) {
            Some(working) => working.meta.now.clone(),
            None => known.find(name).map(|(_, meta)| meta),
        }
    }

    fn set_audience(&mut self, name: &CollectionName, now: Option<Audience>, known: &dyn Known) {
        let before = known.audience(name);
        self.spreading.states.insert(name.clone(), Slot { before, now });
        if now.is_none() {
            self.set_sweep(name, None, known);
        }
    }

    fn set_sweep(&mut self, name: &CollectionName, now: Option<Sweep>, known: &dyn Known) {
        let before = known.sweep(name);
        self.spreading.sweeps.insert(name.clone(), Slot { before, now });
    }

    /// The rows of audiences, as they were and as planned.
    pub(super) fn write_audiences(&mut self, planned: &mut Planned) {
        let spreading = std::mem::take(&mut self.spreading);
        for (name, members) in &spreading.members {
            for (subject, slot) in members {
                let row = |there: Option<()>| there.map(|()| Bytes::new());
                planned.set(audience_key(name, subject), row(slot.before), row(slot.now));
            }
        }
        for (name, slot) in spreading.states {
            let row = |audience: Option<Audience>| audience.as_ref().map(Audience::encode);
            planned.set(audience_state_key(&name), row(slot.before), row(slot.now));
            if slot.before != slot.now {
                planned.audiences.push((name, slot.now));
            }
        }
        for (name, slot) in spreading.sweeps {
            planned.set(
                sweep_key(&name),
                slot.before.as_ref().map(Sweep::encode),
                slot.now.as_ref().map(Sweep::encode),
            );
            planned.sweeps.push((name, slot.now));
        }
        planned.told = spreading.told;
    }
}

// === impl Rules ===

impl Rules<'_> {
    fn decide(
        &mut self,
        name: &CollectionName,
        audience: &Audience,
        pinned: Option<Diffusion>,
        commits: Option<u64>,
        now: Timestamp,
    ) -> Diffusion {
        if let Some(commits) = commits {
            self.rates.entry(name.clone()).or_default().tick(commits, now);
        }
        self.judge(name, audience, pinned, now)
    }

    /// How an audience that did not move is told from now on.
    #[must_use]
    pub fn judge(
        &self,
        name: &CollectionName,
        audience: &Audience,
        pinned: Option<Diffusion>,
        now: Timestamp,
    ) -> Diffusion {
        let moves_per_s = self.rates.get(name).map_or(0.0, |rate| rate.per_s(now));
        let Audience { count, mode, since, .. } = *audience;
        // One that was read because it moved often is not calm because nobody has looked yet.
        let since = if mode == Diffusion::Read { since.max(self.since) } else { since };
        let seen = Seen { mode, since, audience: count, moves_per_s, pinned };
        decide(&seen, now, self.limits)
    }
}

fn len(subjects: &BTreeSet<Subject>) -> u64 {
    u64::try_from(subjects.len()).expect("an audience fits in 64 bits")
}
