//! Keeps the rules of `core` over a store: load rows, plan, persist, publish. Synchronous, no
//! threads, no clock: time and chance come in as arguments, so that a simulation can drive it.
//!
//! ```text
//!   plan ──► gate shut: undo in place, batch applied ──► gate open ──► sync ──► heads published
//!            (readers between here ...................... and here see the undo)
//! ```

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sync_proto::types::{CollectionName, Condition, Epoch, Head, Timestamp, Version};

use super::pages::PageCache;
use super::view::View;
use crate::core::check::{Checker, as_damage};
use crate::core::plan::{Answer, Moment, Refusal, Request};
use crate::core::retention::{self, Retention, Tombstone};
use crate::core::workspace::{Needs, Planned, Undo, Workspace};
use crate::store::keys::{self, CollectionId, ROW_FORMAT, Row, log_key};
use crate::store::rows::Meta;
use crate::store::{Batch, Direction, KeyRange, Store, StoreError};

/// Rows removed by one step of a purge. Small: sled leaks memory in batches of many removes.
const PURGE_ROWS_MAX: usize = 100;

/// Collections whose oldest tombstone one step of a purge looks at.
const PURGE_LOOKS_MAX: usize = 64;

/// Collections over a store.
#[derive(Debug)]
pub struct Ledger<S> {
    pub(super) store: S,
    settings: Settings,
    /// Shared by readers for the length of a page, held alone while a batch is applied.
    gate: RwLock<()>,
    /// Pages that many readers want.
    pub(super) pages: PageCache,
    /// What is durable.
    pub(super) heads: RwLock<Heads>,
    /// What only the writer needs.
    writing: Mutex<Writing>,
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
}

/// The durable state of all collections, and the undo of the batch that is not durable yet.
#[derive(Debug, Default)]
pub(super) struct Heads {
    pub(super) by_name: BTreeMap<CollectionName, (CollectionId, Arc<Meta>)>,
    undo: Arc<Undo>,
}

#[derive(Debug, Default)]
struct Writing {
    next_id: u64,
    receipts: u64,
    doomed: Vec<CollectionId>,
    failed: bool,
    /// The next purge step looks at tombstones of collections behind this one.
    purge_after: Option<CollectionName>,
}

/// What became of a group of commits.
#[derive(Debug, Default)]
pub struct Group {
    /// One per request, in order.
    pub answers: Vec<Result<Answer, Refusal>>,
    /// Collections that moved or were created.
    pub moved: Vec<CollectionName>,
}

/// Why a collection was not deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteRefusal {
    /// There is no such collection.
    #[error("there is no such collection")]
    NotFound,
    /// It does not stand where the caller said.
    #[error("head_equals: the collection stands at {0}")]
    HeadDiffers(sync_proto::types::Cursor),
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            retention: Retention { tombstone_age_max: 30 * DAY, tombstones_max: 1_000_000 },
            receipt_window: Duration::from_secs(10 * 60),
            receipts_max: 100_000,
        }
    }
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Opens a ledger over `store`, reading and checking every row once; `progress` hears of it
    /// every 100,000 rows.
    pub fn open(
        store: S,
        settings: Settings,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, StoreError> {
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
        if found.empty {
            let mut batch = Batch::default();
            batch.put(keys::format_key(), Bytes::copy_from_slice(&ROW_FORMAT.to_be_bytes()));
            batch.put(keys::next_id_key(), Bytes::copy_from_slice(&1u64.to_be_bytes()));
            store.apply(&batch)?;
            store.sync()?;
        }
        let by_name = found.collections.into_iter();
        let heads = Heads {
            by_name: by_name.map(|(id, meta)| (meta.name.clone(), (id, Arc::new(meta)))).collect(),
            undo: Arc::default(),
        };
        let writing = Writing {
            next_id: found.next_id.max(1),
            receipts: found.receipts,
            doomed: found.doomed,
            ..Writing::default()
        };
        Ok(Self {
            store,
            settings,
            gate: RwLock::new(()),
            pages: PageCache::default(),
            heads: RwLock::new(heads),
            writing: Mutex::new(writing),
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
        let mut needs = Needs::default();
        for request in requests {
            request.needs(&mut needs);
        }
        let find = |name: &CollectionName| {
            let heads = self.heads.read();
            heads.by_name.get(name).map(|(id, meta)| (*id, Meta::clone(meta)))
        };
        // The writer alone changes rows, and every batch before this one is durable.
        let get = |key: &[u8]| self.store.get(key);
        let mut workspace = Workspace::load(needs, writing.next_id, find, get)?;
        let receipt_window = self.settings.receipt_window;
        let mut moment = Moment { now, receipt_window, mint };
        let answers = requests.iter().map(|request| workspace.plan(request, &mut moment)).collect();
        let Planned { batch, undo, moved, next_id, receipts_added } = workspace.finish();
        let names = moved.iter().map(|(_, meta)| meta.name.clone()).collect();
        self.persist(&mut writing, &batch, undo, |heads| {
            for (id, meta) in moved {
                heads.set(id, meta);
            }
        })?;
        writing.next_id = next_id;
        writing.receipts += receipts_added;
        Ok(Group { answers, moved: names })
    }

    /// Removes a collection; its rows are purged behind. `condition` is a [`Condition`] on its
    /// head.
    pub fn delete_collection(
        &self,
        name: &CollectionName,
        condition: Option<&Condition>,
    ) -> Result<Result<Head, DeleteRefusal>, StoreError> {
        let mut writing = self.writing.lock();
        self.may_write(&writing)?;
        let found = self.heads.read().by_name.get(name).cloned();
        let Some((id, meta)) = found else { return Ok(Err(DeleteRefusal::NotFound)) };
        let head = meta.head;
        if let Some(Condition::HeadEquals(epoch, version)) = condition
            && (head.version != *version || epoch.is_some_and(|epoch| epoch != head.epoch))
        {
            return Ok(Err(DeleteRefusal::HeadDiffers(head.cursor())));
        }
        let mut batch = Batch::default();
        batch.remove(keys::name_key(name));
        batch.remove(keys::meta_key(id));
        batch.put(keys::doomed_key(id), Bytes::new());
        // Readers find a collection through the heads, so its rows need no undo.
        self.persist(&mut writing, &batch, Undo::new(), |heads| {
            heads.by_name.remove(name);
        })?;
        writing.doomed.push(id);
        Ok(Ok(head))
    }

    /// Forgets a little of what may be forgotten: old tombstones, rows of deleted collections,
    /// expired receipts. Returns whether there may be more to do at once.
    pub fn purge_step(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut writing = self.writing.lock();
        if writing.failed {
            return Ok(false);
        }
        if self.purge_doomed(&mut writing)? || self.purge_receipts(&mut writing, now)? {
            return Ok(true);
        }
        self.purge_tombstones(&mut writing, now)
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
        let no_apply = self.gate.read();
        let undo = Arc::clone(&self.heads.read().undo);
        View::new(&self.store, undo, no_apply).get(key)
    }

    fn may_write(&self, writing: &Writing) -> Result<(), StoreError> {
        if writing.failed {
            return Err(StoreError::Io {
                doing: "writing, after an earlier failure",
                source: std::io::Error::other("the store takes no writes until a restart"),
            });
        }
        self.store.room()
    }

    /// Applies, syncs, publishes. A failure leaves the undo in place: readers go on seeing what
    /// is durable, and nothing is written any more.
    fn persist(
        &self,
        writing: &mut Writing,
        batch: &Batch,
        undo: Undo,
        publish: impl FnOnce(&mut Heads),
    ) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        writing.failed = true;
        {
            let _alone = self.gate.write();
            self.heads.write().undo = Arc::new(undo);
            self.store.apply(batch)?;
        }
        self.store.sync()?;
        let mut heads = self.heads.write();
        publish(&mut heads);
        heads.undo = Arc::default();
        writing.failed = false;
        Ok(())
    }

    fn purge_doomed(&self, writing: &mut Writing) -> Result<bool, StoreError> {
        let Some(id) = writing.doomed.last().copied() else { return Ok(false) };
        let mut batch = Batch::default();
        for range in keys::doomed_ranges(id) {
            self.store.scan(&range, Direction::Forward, &mut |key, _| {
                batch.remove(key.to_vec());
                if batch.len() < PURGE_ROWS_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            if batch.len() >= PURGE_ROWS_MAX {
                break;
            }
        }
        let last_step = batch.len() < PURGE_ROWS_MAX;
        if last_step {
            batch.remove(keys::doomed_key(id));
        }
        self.persist(writing, &batch, Undo::new(), |_| {})?;
        if last_step {
            writing.doomed.pop();
        }
        Ok(true)
    }

    fn purge_receipts(&self, writing: &mut Writing, now: Timestamp) -> Result<bool, StoreError> {
        let surplus = writing.receipts.saturating_sub(self.settings.receipts_max);
        let window = self.settings.receipt_window.as_millis();
        let mut batch = Batch::default();
        let mut count = 0;
        let mut broken = None;
        self.store.scan(&keys::receipt_age_range(), Direction::Forward, &mut |key, value| {
            match Row::decode(key, value) {
                Ok(Row::ReceiptAge { time, kind, name }) => {
                    let age = now.as_millis().saturating_sub(time.as_millis());
                    if count >= surplus && u128::from(age) < window {
                        return ControlFlow::Break(());
                    }
                    batch.remove(key.to_vec());
                    batch.remove(keys::receipt_key(kind, &name));
                    count += 1;
                }
                Ok(_) => return ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
            }
            if batch.len() < PURGE_ROWS_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = broken {
            return Err(error);
        }
        self.persist(writing, &batch, Undo::new(), |_| {})?;
        writing.receipts -= count;
        Ok(count > 0)
    }

    fn purge_tombstones(&self, writing: &mut Writing, now: Timestamp) -> Result<bool, StoreError> {
        let candidates = self.purge_candidates(writing.purge_after.as_ref());
        let last_of_round = candidates.len() < PURGE_LOOKS_MAX;
        for (id, meta) in candidates {
            let oldest = self.oldest_tombstones(id, &meta, now)?;
            if !oldest.is_empty() {
                let purge = retention::purge(id, &meta, &oldest);
                let after = purge.meta.expect("tombstones were found");
                self.persist(writing, &purge.batch, purge.undo, |heads| heads.set(id, after))?;
                return Ok(true);
            }
            writing.purge_after = Some(meta.name.clone());
        }
        if last_of_round {
            writing.purge_after = None;
        }
        Ok(!last_of_round)
    }

    /// The next collections with tombstones, by name: everybody's turn comes, and a step stays
    /// short however many there are.
    fn purge_candidates(&self, after: Option<&CollectionName>) -> Vec<(CollectionId, Arc<Meta>)> {
        let heads = self.heads.read();
        let behind = match after {
            Some(after) => heads.by_name.range((Bound::Excluded(after), Bound::Unbounded)),
            None => heads.by_name.range(..),
        };
        behind
            .map(|(_, (id, meta))| (*id, Arc::clone(meta)))
            .filter(|(_, meta)| meta.head.tombstones > 0)
            .take(PURGE_LOOKS_MAX)
            .collect()
    }

    fn oldest_tombstones(
        &self,
        id: CollectionId,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Vec<Tombstone>, StoreError> {
        let retention = &self.settings.retention;
        let surplus = retention.surplus(meta.head.tombstones);
        // A tombstone has three rows.
        let most = PURGE_ROWS_MAX / 3;
        let mut places = Vec::new();
        let mut broken = None;
        self.store.scan(&keys::tombstone_range(id), Direction::Forward, &mut |key, value| {
            match Row::decode(key, value) {
                Ok(Row::Tombstone { time, version, key, .. }) => {
                    let forced = u64::try_from(places.len()).is_ok_and(|count| count < surplus);
                    if places.len() >= most || !(forced || retention.outlived(time, now)) {
                        return ControlFlow::Break(());
                    }
                    places.push((time, version, key));
                    ControlFlow::Continue(())
                }
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = broken {
            return Err(error);
        }
        places.into_iter().map(|place| self.tombstone(id, place)).collect()
    }

    fn tombstone(
        &self,
        id: CollectionId,
        (time, version, key): (Timestamp, Version, sync_proto::types::Key),
    ) -> Result<Tombstone, StoreError> {
        let row = |place: Vec<u8>| {
            self.store.get(&place)?.ok_or_else(|| StoreError::Damaged {
                place: format!("collection {}, version {version}", id.0),
                reason: "a tombstone lacks one of its rows".to_owned(),
            })
        };
        let key_row = row(keys::key_key(id, &key))?;
        let log_row = row(log_key(id, version, &key))?;
        Ok(Tombstone { time, version, key, key_row, log_row })
    }
}

// === impl Heads ===

impl Heads {
    fn set(&mut self, id: CollectionId, meta: Meta) {
        if let Some((_, before)) = self.by_name.get(&meta.name) {
            let (before, after) = (&before.head, &meta.head);
            assert!(
                before.epoch != after.epoch
                    || (before.version <= after.version && before.floor <= after.floor),
                "a head never goes back within an epoch"
            );
        }
        self.by_name.insert(meta.name.clone(), (id, Arc::new(meta)));
    }
}
