//! Telling followers: what `core::inbox` plans gets its rows here, and the periodic work beside
//! commits. That is two kinds of steps, each a bounded batch with a sync of its own: entries behind
//! a deletion that was too large to be told at once, and audiences that are calm enough to be
//! written to again.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sync_proto::types::{CollectionName, Diffusion, Epoch, Policy, Subject, Timestamp};

use super::ledger::{Heads, Ledger, Writing};
use crate::core::diffusion::Limits;
use crate::core::inbox::{Known, Rates, Rules};
use crate::core::plan::Moment;
use crate::core::workspace::Workspace;
use crate::store::keys::{self, CollectionId, Row};
use crate::store::rows::{Audience, Meta, Sweep};
use crate::store::{Direction, Store, StoreError};

#[cfg(test)]
mod tests;

/// Entries that one step of a sweep brings up to date: some milliseconds, which commits wait for.
/// Few in tests, so that sweeps are met.
const SWEEP_ENTRIES_MAX: usize = if cfg!(test) { 2 } else { 64 };

/// Audiences that one step judges by what is known of them in memory.
const LOOKS_MAX: usize = 4_096;

/// Entries that one step writes because audiences are written to again; one audience may exceed it.
const SWITCH_ENTRIES_MAX: u64 = if cfg!(test) { 4 } else { 64 };

/// What telling remembers between groups.
#[derive(Debug, Default)]
pub(super) struct Diffusing {
    rates: Rates,
    /// Since when there are rates.
    since: Option<Timestamp>,
    sweeps: BTreeMap<CollectionName, Sweep>,
    /// The sweep that was served last.
    swept: Option<CollectionName>,
    /// The round over all audiences that are read goes on behind this one.
    looked: Option<CollectionName>,
    /// Concerned by what was done since somebody asked.
    concerned: Vec<CollectionName>,
}

/// What followers were told since the start. Only for people to look at.
#[derive(Debug, Default)]
pub(super) struct Spread {
    entries: AtomicU64,
    to_write: AtomicU64,
    to_read: AtomicU64,
    sweeps: AtomicU64,
}

/// How followers are told, and what they were told since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpreadTotals {
    /// Collections whose followers are written to.
    pub write_diffused: u64,
    /// Collections whose followers read.
    pub read_diffused: u64,
    /// Entries of inboxes that were written.
    pub entries: u64,
    /// Switches to writing.
    pub to_write: u64,
    /// Switches to reading.
    pub to_read: u64,
    /// Sweeps that have come to their end.
    pub sweeps: u64,
}

/// What the ledger knows, for planning.
struct Knowing<'a, S> {
    ledger: &'a Ledger<S>,
    sweeps: &'a BTreeMap<CollectionName, Sweep>,
}

// === impl Diffusing ===

impl Diffusing {
    pub(super) fn with(sweeps: BTreeMap<CollectionName, Sweep>) -> Self {
        Self { sweeps, ..Self::default() }
    }

    pub(super) fn take_note(&mut self, sweeps: Vec<(CollectionName, Option<Sweep>)>) {
        for (name, sweep) in sweeps {
            match sweep {
                Some(sweep) => drop(self.sweeps.insert(name, sweep)),
                None => drop(self.sweeps.remove(&name)),
            }
        }
    }

    pub(super) fn announce(&mut self, concerned: Vec<CollectionName>) {
        self.concerned.extend(concerned);
    }

    /// How often a second a collection moved lately.
    pub(super) fn moves_per_s(&self, name: &CollectionName, now: Timestamp) -> f64 {
        self.rates.get(name).map_or(0.0, |rate| rate.per_s(now))
    }

    fn rules<'a>(
        &'a mut self,
        limits: &'a Limits,
        now: Timestamp,
    ) -> (Rules<'a>, &'a BTreeMap<CollectionName, Sweep>) {
        let since = *self.since.get_or_insert(now);
        (Rules { limits, rates: &mut self.rates, since }, &self.sweeps)
    }

    /// The sweep whose turn it is.
    fn next_sweep(&mut self) -> Option<CollectionName> {
        let behind =
            self.swept.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
        let next = self.sweeps.range::<str, _>((behind, Bound::Unbounded)).next();
        let next = next.or_else(|| self.sweeps.first_key_value()).map(|(name, _)| name.clone());
        self.swept.clone_from(&next);
        next
    }
}

// === impl Spread ===

impl Spread {
    pub(super) fn count(&self, entries: u64, switched: &[Diffusion]) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        for mode in switched {
            let counter = match mode {
                Diffusion::Write => &self.to_write,
                Diffusion::Read => &self.to_read,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Knowing ===

impl<S: Store> Known for Knowing<'_, S> {
    fn find(&self, name: &CollectionName) -> Option<(CollectionId, Meta)> {
        let heads = self.ledger.heads.read();
        heads.by_name.get(name).map(|(id, meta)| (*id, Meta::clone(meta)))
    }

    fn audience(&self, name: &CollectionName) -> Option<Audience> {
        self.ledger.heads.read().audiences.get(name).copied()
    }

    fn sweep(&self, name: &CollectionName) -> Option<Sweep> {
        self.sweeps.get(name).cloned()
    }

    fn followers(
        &self,
        name: &CollectionName,
        from: Option<&Subject>,
        most: usize,
    ) -> Result<Vec<Subject>, StoreError> {
        let mut subjects = Vec::new();
        let mut broken = None;
        let range = keys::audience_range(name, from);
        self.ledger.store.scan(&range, Direction::Forward, &mut |key, value| {
            if subjects.len() == most {
                return ControlFlow::Break(());
            }
            match Row::decode(key, value) {
                Ok(Row::Audience { subject, .. }) => subjects.push(subject),
                Ok(_) => return ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        broken.map_or(Ok(subjects), Err)
    }

    fn rows(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        // The writer alone changes rows, and every batch before this one is durable.
        self.ledger.store.get_many(keys)
    }
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Tells the followers of what a group changed.
    pub(super) fn diffuse(
        &self,
        writing: &mut Writing,
        workspace: &mut Workspace,
        at: &mut Moment<'_>,
    ) -> Result<(), StoreError> {
        let (mut rules, sweeps) = writing.diffusing.rules(&self.settings.diffusion, at.now);
        workspace.diffuse(&mut rules, at, &Knowing { ledger: self, sweeps })
    }

    /// Plans to tell followers of something that is no group of commits.
    pub(super) fn telling(
        &self,
        writing: &mut Writing,
        now: Timestamp,
        plan: impl FnOnce(&mut Rules<'_>, &mut Moment<'_>, &dyn Known) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut rules, sweeps) = writing.diffusing.rules(&self.settings.diffusion, now);
        // Whoever follows has an inbox, so none is made here.
        let mut mint = || Epoch::new(1).expect("one is not zero");
        let (receipt_window, acks) = (self.settings.receipt_window, self.settings.acks);
        let mut at = Moment { now, receipt_window, acks, mint: &mut mint };
        plan(&mut rules, &mut at, &Knowing { ledger: self, sweeps })
    }

    /// Collections and inboxes that were concerned, since this was last asked, by what was done
    /// besides commits.
    pub fn take_concerned(&self) -> Vec<CollectionName> {
        std::mem::take(&mut self.writing.lock().diffusing.concerned)
    }

    /// Does a little of what is to be done for followers beside commits: some milliseconds' worth,
    /// and at most one audience beyond that. Whether more is left.
    pub fn tend_audiences(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut writing = self.writing.lock();
        match self.may_write(&writing) {
            Ok(()) => {}
            // What is told later is polled meanwhile.
            Err(StoreError::Full { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let swept = self.sweep_some(&mut writing, now)?;
        let switched = self.switch_some(&mut writing, now)?;
        Ok(swept || switched)
    }

    fn sweep_some(&self, writing: &mut Writing, now: Timestamp) -> Result<bool, StoreError> {
        let Some(name) = writing.diffusing.next_sweep() else { return Ok(false) };
        let mut workspace = Workspace::empty(writing.next_id);
        self.telling(writing, now, |_, at, known| {
            workspace.sweep(&name, SWEEP_ENTRIES_MAX, known)?;
            workspace.post(at, known)
        })?;
        let concerned = self.persist_planned(writing, workspace.finish(), |_| {})?;
        let diffusing = &mut writing.diffusing;
        diffusing.announce(concerned);
        if !diffusing.sweeps.contains_key(&name) {
            self.spread.sweeps.fetch_add(1, Ordering::Relaxed);
        }
        Ok(!diffusing.sweeps.is_empty())
    }

    /// Goes on with the round over all audiences that are read, and writes to those that are calm.
    fn switch_some(&self, writing: &mut Writing, now: Timestamp) -> Result<bool, StoreError> {
        let mut calm = Vec::new();
        let mut entries = 0;
        let mut looks = 0;
        let mut last = None;
        let full = |entries| entries >= SWITCH_ENTRIES_MAX;
        {
            let heads = self.heads.read();
            let looked = writing.diffusing.looked.clone();
            let (rules, _) = writing.diffusing.rules(&self.settings.diffusion, now);
            let behind =
                looked.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
            if looked.is_none() {
                rules.rates.retain(|_, rate| !rate.is_forgotten(now));
            }
            for (name, _) in heads.read_diffused.range::<str, _>((behind, Bound::Unbounded)) {
                if looks == LOOKS_MAX || full(entries) {
                    break;
                }
                looks += 1;
                last = Some(name.clone());
                let Some(audience) = heads.audiences.get(name) else { continue };
                let pinned = heads.policy(name).diffusion;
                if rules.judge(name, audience, pinned, now) == Diffusion::Write {
                    entries += audience.count;
                    calm.push(name.clone());
                }
            }
        }
        let ended = looks < LOOKS_MAX && !full(entries);
        writing.diffusing.looked = if ended { None } else { last };
        self.switch_all(writing, &calm, Diffusion::Write, now)?;
        Ok(!ended)
    }

    /// Judges how an audience is told, now, and changes it if need be.
    pub(super) fn reconsider(
        &self,
        writing: &mut Writing,
        name: &CollectionName,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (audience, policy) = {
            let heads = self.heads.read();
            (heads.audiences.get(name).copied(), heads.policy(name))
        };
        let Some(audience) = audience else { return Ok(()) };
        let (rules, _) = writing.diffusing.rules(&self.settings.diffusion, now);
        let mode = rules.judge(name, &audience, policy.diffusion, now);
        if mode != audience.mode {
            self.switch_all(writing, std::slice::from_ref(name), mode, now)?;
        }
        Ok(())
    }

    fn switch_all(
        &self,
        writing: &mut Writing,
        names: &[CollectionName],
        mode: Diffusion,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        let mut workspace = Workspace::empty(writing.next_id);
        self.telling(writing, now, |_, at, known| {
            for name in names {
                workspace.switch(name, mode, now, known)?;
            }
            workspace.post(at, known)
        })?;
        let concerned = self.persist_planned(writing, workspace.finish(), |_| {})?;
        writing.diffusing.announce(concerned);
        Ok(())
    }

    /// Entries of inboxes that were written since the start.
    pub fn entries_written(&self) -> u64 {
        self.spread.entries.load(Ordering::Relaxed)
    }

    /// How followers are told, and what they were told since the start.
    pub fn spread_totals(&self) -> SpreadTotals {
        let heads = self.heads.read();
        let read_diffused = heads.read_diffused.len() as u64;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpreadTotals {
            write_diffused: heads.audiences.len() as u64 - read_diffused,
            read_diffused,
            entries: self.entries_written(),
            to_write: count(&self.spread.to_write),
            to_read: count(&self.spread.to_read),
            sweeps: count(&self.spread.sweeps),
        }
    }
}

// === impl Heads ===

impl Heads {
    /// What was set for a collection, if there is one.
    pub(super) fn policy(&self, name: &CollectionName) -> Policy {
        self.by_name.get(name).map_or_else(Policy::default, |(_, meta)| meta.policy)
    }
}
