//! Keeps the rules of `core` over a store: load rows, plan, persist, publish. Synchronous, no
//! threads, no clock: time and chance come in as arguments, so that a simulation can drive it.
//!
//! ```text
//!   plan ──► gate shut: undo in place, batch applied ──► gate open ──► sync ──► heads published
//!            (readers between here ...................... and here see the undo)
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sync_proto::types::{CollectionName, Epoch, Head, Timestamp};

pub(super) use self::heads::Heads;
use super::diffusing::{Diffusing, Spread};
use super::pages::PageCache;
use super::purging::Purging;
use super::tails::Tails;
use super::upgrading;
use super::view::View;
use crate::core::acks::AckRetention;
use crate::core::check::{Checked, Checker, as_damage};
use crate::core::diffusion;
use crate::core::plan::{Answer, Moment, Refusal};
use crate::core::request::Request;
use crate::core::retention::Retention;
use crate::core::workspace::{LoadError, Needs, Planned, Undo, Workspace};
use crate::store::keys::{self, CollectionId, ROW_FORMAT, Row};
use crate::store::rows::Meta;
use crate::store::{Batch, Direction, KeyRange, Store, StoreError};

mod heads;
#[cfg(test)]
mod tests;

/// Collections over a store.
#[derive(Debug)]
pub struct Ledger<S> {
    pub(super) store: S,
    pub(super) settings: Settings,
    /// Shared by readers for the length of a page, held alone while a batch is applied.
    gate: RwLock<()>,
    /// Pages that many readers want.
    pub(super) pages: PageCache,
    /// Pages for those who follow live.
    pub(super) tails: Tails,
    /// What is durable.
    pub(super) heads: RwLock<Heads>,
    /// What only the writer needs.
    pub(super) writing: Mutex<Writing>,
    /// What followers were told since the start.
    pub(super) spread: Spread,
}

/// How a ledger keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long tombstones are kept.
    pub retention: Retention,
    /// How long an idempotency key protects.
    pub receipt_window: Duration,
    /// Receipts kept at most; above it the oldest go whatever their age.
    pub receipts_max: u64,
    /// How followers are told.
    pub diffusion: diffusion::Limits,
    /// How long cursors are held for clients.
    pub acks: AckRetention,
}

#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) next_id: u64,
    pub(super) receipts: u64,
    /// Cursors that are held for clients.
    pub(super) acks: u64,
    /// Deleted collections whose rows are still to be purged.
    pub(super) doomed: Vec<CollectionId>,
    /// A batch is applied but not settled: for good, if that failed.
    pub(super) failed: bool,
    pub(super) purging: Purging,
    pub(super) diffusing: Diffusing,
}

/// What became of a group of commits.
#[derive(Debug, Default)]
pub struct Group {
    /// One per request, in order.
    pub answers: Vec<Result<Answer, Refusal>>,
    /// Collections that moved or were created, inboxes included.
    pub moved: Vec<CollectionName>,
}

/// What all collections hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Collections.
    pub collections: u64,
    /// Their live items.
    pub items: u64,
    /// Their tombstones.
    pub tombstones: u64,
    /// Bytes of their live items.
    pub bytes: u64,
    /// Versions from the floor to the head, where they are fewest and where they are most, among
    /// those that have a floor.
    pub floor_distance: Option<(u64, u64)>,
    /// Cursors that are held for clients.
    pub acks: u64,
}

/// Why a collection was not deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteRefusal {
    /// There is no such collection.
    #[error("collection: there is no such collection")]
    NotFound,
    /// It does not stand where the caller said.
    #[error("head_equals: the collection stands at {0}")]
    HeadDiffers(sync_proto::types::Cursor),
}

/// Refuses rows of a newer program, which this one could only misread. `row` is that of the format.
pub fn known_format(row: Option<Bytes>) -> Result<(), StoreError> {
    match row.map(|row| Row::decode(&keys::format_key(), row)).transpose()? {
        Some(Row::Format { format }) if format > ROW_FORMAT => {
            Err(StoreError::NewerFormat { found: format, known: ROW_FORMAT })
        }
        Some(_) | None => Ok(()),
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            retention: Retention { tombstone_age_max: 30 * DAY, tombstones_max: 1_000_000 },
            receipt_window: Duration::from_secs(10 * 60),
            receipts_max: 100_000,
            diffusion: diffusion::Limits::default(),
            acks: AckRetention::default(),
        }
    }
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Opens a ledger over `store`, reading and checking every row once, unless a newer program
    /// wrote them: this one could only misread them. Rows of an older format are upgraded.
    /// `progress` hears of the check every 100,000 rows.
    pub fn open(
        store: S,
        settings: Settings,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, StoreError> {
        known_format(store.get(&keys::format_key())?)?;
        let mut checker = Checker::default();
        let everything = KeyRange { start: Vec::new(), end: None };
        store.scan(&everything, Direction::Forward, &mut |key, value| {
            checker.row(key, value);
            if checker.rows().is_multiple_of(100_000) {
                progress(checker.rows());
            }
            ControlFlow::Continue(())
        })?;
        let found = checker.finish().map_err(|findings| as_damage(&findings))?;
        Self::over(store, settings, found)
    }

    /// Whether work that can wait should, see [`Store::is_behind`].
    pub fn is_behind(&self) -> bool {
        self.store.is_behind()
    }

    /// A ledger over a store of which every row has just been checked.
    pub fn over(store: S, settings: Settings, found: Checked) -> Result<Self, StoreError> {
        if found.empty {
            let mut batch = Batch::default();
            batch.put(keys::format_key(), Bytes::copy_from_slice(&ROW_FORMAT.to_be_bytes()));
            batch.put(keys::next_id_key(), Bytes::copy_from_slice(&1u64.to_be_bytes()));
            store.apply(&batch)?;
            store.sync()?;
        }
        if found.outdated {
            upgrading::upgrade(&store, found.unindexed)?;
        }
        let by_name = found.collections.into_iter();
        let mut heads = Heads {
            by_name: by_name.map(|(id, meta)| (meta.name.clone(), (id, Arc::new(meta)))).collect(),
            acks: found.acks,
            ..Heads::default()
        };
        for (name, audience) in found.audiences {
            heads.set_audience(&name, Some(audience));
        }
        let writing = Writing {
            next_id: found.next_id.max(1),
            receipts: found.receipts,
            acks: found.acks,
            doomed: found.doomed,
            diffusing: Diffusing::with(found.sweeps),
            ..Writing::default()
        };
        Ok(Self {
            store,
            settings,
            gate: RwLock::new(()),
            pages: PageCache::default(),
            tails: Tails::default(),
            heads: RwLock::new(heads),
            writing: Mutex::new(writing),
            spread: Spread::default(),
        })
    }

    /// The store beneath.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Gives the store back.
    pub fn into_store(self) -> S {
        self.store
    }

    /// The durable state of a collection.
    pub fn head(&self, name: &CollectionName) -> Option<Head> {
        self.heads.read().by_name.get(name).map(|(_, meta)| meta.head)
    }

    /// What all collections hold together.
    pub fn totals(&self) -> Totals {
        let heads = self.heads.read();
        let (collections, acks) = (heads.by_name.len() as u64, heads.acks);
        let mut totals = Totals { collections, acks, ..Totals::default() };
        for (_, meta) in heads.by_name.values() {
            totals.items += meta.head.items;
            totals.tombstones += meta.head.tombstones;
            totals.bytes += meta.head.bytes;
            let (version, floor) = (meta.head.version.get(), meta.head.floor.get());
            if floor > 0 {
                let (distance, known) = (version - floor, totals.floor_distance);
                let (least, most) = known.unwrap_or((distance, distance));
                totals.floor_distance = Some((least.min(distance), most.max(distance)));
            }
        }
        totals
    }

    /// How often a shared page was there, and how often it had to be built.
    pub fn page_hits_and_misses(&self) -> (u64, u64) {
        self.pages.hits_and_misses()
    }

    /// Plans the requests in order, persists them as one batch and makes it durable. When this
    /// returns `Ok`, every answer in it may be sent. After `Err` the ledger takes no writes.
    pub fn commit(
        &self,
        requests: &[Request],
        now: Timestamp,
        mint: &mut dyn FnMut() -> Epoch,
    ) -> Result<Group, StoreError> {
        let mut writing = self.writing.lock();
        self.may_write(&writing)?;
        let receipt_window = self.settings.receipt_window;
        let mut group = Group::default();
        let acks = self.settings.acks;
        let mut moment = Moment { now, receipt_window, acks, mint };
        self.commit_together(requests, &mut writing, &mut moment, &mut group)?;
        Ok(group)
    }

    /// Commits the requests as one batch, or as smaller ones if together they replace too much.
    fn commit_together(
        &self,
        requests: &[Request],
        writing: &mut Writing,
        moment: &mut Moment<'_>,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let mut workspace = match self.load(requests, writing.next_id) {
            Ok(workspace) => workspace,
            Err(LoadError::Store(error)) => return Err(error),
            Err(LoadError::ReplacesTooMuch { bytes }) if requests.len() == 1 => {
                group.answers.push(Err(Refusal::ReplacesTooMuch { bytes }));
                return Ok(());
            }
            Err(LoadError::ReplacesTooMuch { .. }) => {
                let (first, rest) = requests.split_at(requests.len() / 2);
                self.commit_together(first, writing, moment, group)?;
                return self.commit_together(rest, writing, moment, group);
            }
        };
        let answers = requests.iter().map(|request| workspace.plan(request, moment));
        group.answers.extend(answers);
        self.diffuse(writing, &mut workspace, moment)?;
        group.moved.extend(self.persist_planned(writing, workspace.finish(), |_| {})?);
        Ok(())
    }

    /// Persists what was planned. Whom it concerns: collections that moved, and inboxes whose
    /// subjects follow something that is told otherwise from now on.
    pub(super) fn persist_planned(
        &self,
        writing: &mut Writing,
        planned: Planned,
        publish: impl FnOnce(&mut Heads),
    ) -> Result<Vec<CollectionName>, StoreError> {
        let Planned { batch, undo, moved, next_id, receipts_added, acks_added, .. } = planned;
        let Planned { audiences, sweeps, told, .. } = planned;
        let mut concerned: Vec<_> = moved.iter().map(|(_, meta)| meta.name.clone()).collect();
        let mut switched = Vec::new();
        let acks = writing.acks + acks_added;
        self.persist(writing, &batch, undo, |heads| {
            for (id, meta) in moved {
                heads.set(id, meta);
            }
            for (name, audience) in audiences {
                switched.extend(heads.set_audience(&name, audience));
            }
            heads.acks = acks;
            publish(heads);
        })?;
        writing.next_id = next_id;
        writing.receipts += receipts_added;
        writing.acks = acks;
        writing.diffusing.take_note(sweeps);
        self.spread.count(told.entries, &switched);
        concerned.extend(told.woken);
        Ok(concerned)
    }

    fn load(&self, requests: &[Request], next_id: u64) -> Result<Workspace, LoadError> {
        let mut needs = Needs::default();
        for request in requests {
            request.needs(&mut needs);
        }
        let find = |name: &CollectionName| {
            let heads = self.heads.read();
            heads.by_name.get(name).map(|(id, meta)| (*id, Meta::clone(meta)))
        };
        // The writer alone changes rows, and every batch before this one is durable.
        Workspace::load(needs, next_id, find, |keys| self.store.get_many(keys))
    }

    /// The durable rows, with the state of `name` that they belong to.
    pub(super) fn view(
        &self,
        name: &CollectionName,
    ) -> Option<(CollectionId, Arc<Meta>, View<'_, S>)> {
        // First the gate, then the heads: otherwise a batch could be applied in between, and its
        // rows be read as if they belonged to the state before.
        let no_apply = self.gate.read();
        let heads = self.heads.read();
        let (id, meta) = heads.by_name.get(name)?;
        let view = View::new(&self.store, Arc::clone(&heads.undo), no_apply);
        Some((*id, Arc::clone(meta), view))
    }

    /// A durable row that belongs to no collection.
    pub(super) fn durable(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.view_of_now().get(key)
    }

    /// The durable rows, of whichever collection.
    pub(super) fn view_of_now(&self) -> View<'_, S> {
        let no_apply = self.gate.read();
        let undo = Arc::clone(&self.heads.read().undo);
        View::new(&self.store, undo, no_apply)
    }

    pub(super) fn may_write(&self, writing: &Writing) -> Result<(), StoreError> {
        not_failed(writing)?;
        self.store.room()
    }

    /// Applies, syncs, publishes. A failure leaves the undo in place: readers go on seeing what
    /// is durable, and nothing is written any more.
    pub(super) fn persist(
        &self,
        writing: &mut Writing,
        batch: &Batch,
        undo: Undo,
        publish: impl FnOnce(&mut Heads),
    ) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.apply(writing, batch, undo)?;
        self.settle(writing, publish)
    }

    /// Applies a batch on top of those that are not settled yet. Whoever applies settles, or
    /// nothing is written any more.
    pub(super) fn apply(
        &self,
        writing: &mut Writing,
        batch: &Batch,
        undo: Undo,
    ) -> Result<(), StoreError> {
        writing.failed = true;
        let _alone = self.gate.write();
        {
            let mut heads = self.heads.write();
            // Nobody views through it while the gate is shut, so this does not copy.
            let unsettled = Arc::make_mut(&mut heads.undo);
            for (key, before) in undo {
                // What is durable is what was there before the first of the batches.
                unsettled.entry(key).or_insert(before);
            }
        }
        self.store.apply(batch)
    }

    /// Makes durable what was applied, and publishes it.
    pub(super) fn settle(
        &self,
        writing: &mut Writing,
        publish: impl FnOnce(&mut Heads),
    ) -> Result<(), StoreError> {
        self.store.sync()?;
        let mut heads = self.heads.write();
        publish(&mut heads);
        heads.undo = Arc::default();
        writing.failed = false;
        Ok(())
    }
}

/// Whether the store still takes writes.
pub(super) fn not_failed(writing: &Writing) -> Result<(), StoreError> {
    if writing.failed {
        return Err(StoreError::Io {
            doing: "writing, after an earlier failure",
            source: std::io::Error::other("the store takes no writes until a restart"),
        });
    }
    Ok(())
}
