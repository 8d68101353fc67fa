//! A copy on disk, in a redb file: one file, transactions, opens in milliseconds. The bytes are
//! in `layout`.
//!
//! A commit that waits for the disk costs milliseconds, and a copy that comes back a moment
//! older than it was only asks the server for that moment again, since rows and cursor are one
//! transaction. So most writes do not wait; see [`DURABLE_EVERY`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, Durability, WriteTransaction};
use sync_proto::digest::Segment;
use sync_proto::types::{CollectionName, Key, Scope};

use self::file::{File, THE_FILE};
use self::layout::{
    COPIES, CopyRecord, ORDER, Part, ROWS, decode_row, generation_range, key_in_order, row_key,
};
use self::tables::Tables;
use super::plan::compare;
use super::rescope::{Rescoped, rescope};
use super::{
    Applied, Changed, Notes, ReplicaStore, Row, Snapshot, Staged, Standing, Step, StoreError, Sums,
    Visible, Write,
};

mod file;
mod layout;
mod mending;
mod noting;
mod tables;

/// A write waits for the disk when the last one that did is this long ago ...
const DURABLE_EVERY: Duration = Duration::from_millis(500);
/// ... or this many writes ago: redb reuses no space before that.
const DURABLE_WRITES: u32 = 128;

/// A [`ReplicaStore`] in a redb database. Owns the tables whose names begin with `deltasync/`
/// and touches no other: the application may keep its own tables in the same file, and a reload
/// of a collection leaves them alone. Cheap to clone; clones share the database.
///
/// After a crash, or when the disk stops taking writes, a copy stands where it stood a second or two
/// before, rows and cursor alike; the server sends the rest again. After [`ReplicaStore::flush`], which the driver calls
/// when it stops, nothing is lost.
#[derive(Clone)]
pub struct DiskStore {
    shared: Arc<Shared>,
}

struct Shared {
    file: File,
    /// The rows before the last swap of a collection, as long as somebody compares them.
    before: Mutex<BTreeMap<CollectionName, u64>>,
    /// Which part of a collection its copy is of, as far as that was said.
    scopes: Mutex<BTreeMap<CollectionName, Scope>>,
    /// The generations of edits that are put aside.
    aside: Mutex<BTreeMap<CollectionName, u64>>,
    pace: Mutex<Pace>,
}

/// Writes since one waited for the disk.
struct Pace {
    writes: u32,
    durable_at: Instant,
}

struct DiskSnapshot {
    shared: Arc<Shared>,
    read: redb::ReadTransaction,
    record: CopyRecord,
    standing: Standing,
}

// === impl DiskStore ===

impl DiskStore {
    /// Opens the file, or creates it. One that is damaged is set aside under its name with
    /// `.damaged` behind it, in the place of an earlier one, and a new one begun: its copies are
    /// loaded again. After a failure of the disk the file is opened again when it is next needed. One
    /// that may not be written is opened all the same, if it was closed in good order: what is in it
    /// is shown, writes are refused ([`StoreError::ReadOnly`]) until it may.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self::on(File::open(path.as_ref())?))
    }

    /// Keeps the copies in a database of the application. A write transaction of the
    /// application makes the replica wait, and the other way round.
    pub fn from_database(database: Arc<Database>) -> Result<Self, StoreError> {
        Ok(Self::on(File::of(database)?))
    }

    fn on(file: File) -> Self {
        let pace = Mutex::new(Pace { writes: 0, durable_at: Instant::now() });
        let (before, aside, scopes) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { shared: Arc::new(Shared { file, before, scopes, aside, pace }) }
    }

    fn read(&self, collection: &CollectionName) -> Result<DiskSnapshot, StoreError> {
        self.read_with_scope(collection).map(|(snapshot, _)| snapshot)
    }

    /// The same, and the part that the copy is of.
    fn read_with_scope(
        &self,
        collection: &CollectionName,
    ) -> Result<(DiskSnapshot, Scope), StoreError> {
        let doing = "reading the local store";
        let read = self.shared.file.begin_read(doing)?;
        let copies = read.open_table(COPIES).map_err(failed(doing))?;
        let found = copies.get(collection.as_str()).map_err(failed(doing))?;
        let record = found.and_then(|bytes| CopyRecord::decode_or_none(bytes.value()));
        let (record, scope) = record.unwrap_or((CopyRecord::default(), Scope::All));
        let shared = self.shared.clone();
        Ok((DiskSnapshot { shared, read, record, standing: record.standing() }, scope))
    }

    fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        let doing = "writing the local store";
        let mut write = self.shared.file.begin_write(doing)?;
        let mut pace = self.shared.pace.lock();
        pace.writes += 1;
        if pace.writes < DURABLE_WRITES && pace.durable_at.elapsed() < DURABLE_EVERY {
            write.set_durability(Durability::None).map_err(failed(doing))?;
        } else {
            *pace = Pace { writes: 0, durable_at: Instant::now() };
        }
        Ok(write)
    }
}

impl DiskStore {
    fn carry_out(
        &self,
        collection: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> Result<Applied, StoreError> {
        let transaction = self.begin_write()?;
        let mut tables = Tables::open(&transaction)?;
        let (record, scope) = tables.copy(collection)?;
        // What was said last counts, also after a file or a record was lost.
        let scope = self.shared.scopes.lock().get(collection).cloned().unwrap_or(scope);
        write.check(&record.standing())?;
        let (now, visible) = match &write.step {
            Step::Page { changes, to } => tables.page(record, changes, *to)?,
            Step::BeginLoad { changes, to } => {
                tables.discard(record.load)?;
                let load = Some(tables.new_part(*to)?);
                tables.page(CopyRecord { load, ..record }, changes, *to)?
            }
            Step::Mend { to, before, reorder } => {
                // The copy has gone meanwhile.
                let Some(rows) = record.rows else { return Err(conflict(&record)) };
                tables.discard(record.load)?;
                let aside = self.shared.aside.lock().get(collection).copied();
                let (rows, visible) = tables.mend(rows, aside, *to, *before, *reorder)?;
                (CopyRecord { rows: Some(rows), load: None, ..record }, visible)
            }
            Step::Clear => {
                tables.discard(record.load)?;
                tables.discard(record.rows)?;
                (CopyRecord::default(), Visible::Swapped)
            }
        };
        tables.put_copy(collection, &now, &scope)?;
        drop(tables);
        if notes.apply_at(&now.standing().tally) {
            noting::put_notes(&transaction, notes)?;
        }
        // While the transaction keeps others from sweeping what is garbage once it is committed.
        self.forget_swapped(collection);
        self.shared.aside.lock().remove(collection);
        if visible == Visible::Swapped {
            let before = record.rows.map_or(0, |part| part.generation);
            self.shared.before.lock().insert(collection.clone(), before);
        }
        transaction.commit().map_err(failed("writing the local store"))?;
        Ok(Applied { standing: now.standing(), visible })
    }

    fn change_scope(
        &self,
        collection: &CollectionName,
        scope: &Scope,
    ) -> Result<Rescoped, StoreError> {
        let remember = || self.shared.scopes.lock().insert(collection.clone(), scope.clone());
        // Mostly it is what it was. Who only reads must not wait for who writes, nor need a store
        // that takes writes.
        let (DiskSnapshot { record, .. }, of) = self.read_with_scope(collection)?;
        if is_same(&record, &of, scope) {
            remember();
            return Ok(Rescoped::Same);
        }
        // Waits for the disk: writes that go by this part must never meet rows of the one before.
        let doing = "writing the local store";
        let transaction = self.shared.file.begin_write(doing)?;
        let mut tables = Tables::open(&transaction)?;
        let (mut record, of) = tables.copy(collection)?;
        if is_same(&record, &of, scope) {
            remember();
            return Ok(Rescoped::Same);
        }
        let became = rescope(&of, record.standing().cursor, scope);
        tables.discard(record.load.take())?;
        match record.rows {
            Some(rows) if became == Rescoped::Narrowed => {
                record.rows = Some(tables.narrow(rows, scope)?);
            }
            rows => record.foreign = rows.is_some(),
        }
        tables.put_copy(collection, &record, scope)?;
        drop(tables);
        self.forget_swapped(collection);
        self.shared.aside.lock().remove(collection);
        transaction.commit().map_err(failed(doing))?;
        remember();
        Ok(became)
    }

    fn sweep_some(&self, rows_max: usize) -> Result<bool, StoreError> {
        let transaction = self.begin_write()?;
        // Of another replica on the same store, perhaps.
        let mut kept: BTreeSet<u64> = self.shared.before.lock().values().copied().collect();
        kept.extend(self.shared.aside.lock().values());
        let more = Tables::open(&transaction)?.sweep(rows_max, &kept)?;
        transaction.commit().map_err(failed("sweeping the local store"))?;
        Ok(more)
    }
}

/// Whether a copy needs no change to be of this part.
fn is_same(record: &CopyRecord, of: &Scope, scope: &Scope) -> bool {
    let became = rescope(of, record.standing().cursor, scope);
    became == Rescoped::Same || *record == CopyRecord::default()
}

impl ReplicaStore for DiskStore {
    fn lives(&self) -> u64 {
        self.shared.file.lives()
    }

    fn standing(&self, collection: &CollectionName) -> Result<Standing, StoreError> {
        Ok(self.shared.file.watch(|| self.read(collection))?.standing)
    }

    fn rescope(&self, collection: &CollectionName, scope: &Scope) -> Result<Rescoped, StoreError> {
        self.shared.file.watch(|| self.change_scope(collection, scope))
    }

    fn get(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, StoreError> {
        self.shared.file.watch(|| {
            let snapshot = self.read(collection)?;
            let Some(part) = snapshot.record.rows else { return Ok(None) };
            snapshot.row(part.generation, key.clone())
        })
    }

    fn snapshot(&self, collection: &CollectionName) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(self.shared.file.watch(|| self.read(collection))?))
    }

    fn write_with(
        &self,
        collection: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> Result<Applied, StoreError> {
        self.shared.file.watch(|| self.carry_out(collection, write, notes))
    }

    fn note(&self, notes: &Notes) -> Result<(), StoreError> {
        self.shared.file.watch(|| self.write_notes(notes))
    }

    fn notes(&self, owner: &CollectionName) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.shared.file.watch(|| self.read_notes(owner))
    }

    fn swapped(
        &self,
        collection: &CollectionName,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Changed>, StoreError> {
        let before = self.shared.before.lock().get(collection).copied();
        let Some(before) = before else { return Ok(Vec::new()) };
        let snapshot = self.read(collection)?;
        let now = snapshot.record.rows.map_or(0, |part| part.generation);
        compare(snapshot.rows_of(before, after)?, snapshot.rows_of(now, after)?, limit)
    }

    fn forget_swapped(&self, collection: &CollectionName) {
        self.shared.before.lock().remove(collection);
    }

    fn sums(&self, collection: &CollectionName) -> Result<Sums, StoreError> {
        self.shared.aside.lock().remove(collection);
        self.shared.file.watch(|| self.read(collection)?.sums())
    }

    fn stage(&self, collection: &CollectionName, edits: Vec<Staged>) -> Result<(), StoreError> {
        self.shared.file.watch(|| self.put_aside(collection, &edits))
    }

    fn stage_rest(
        &self,
        collection: &CollectionName,
        segments: &BTreeSet<Segment>,
    ) -> Result<(), StoreError> {
        self.shared.file.watch(|| self.put_rest_aside(collection, segments))
    }

    fn sweep(&self, rows_max: usize) -> Result<bool, StoreError> {
        self.shared.file.watch(|| self.sweep_some(rows_max))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let doing = "flushing the local store";
        self.shared.file.watch(|| {
            let transaction = self.shared.file.begin_write(doing)?;
            transaction.commit().map_err(failed(doing))
        })
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").finish_non_exhaustive()
    }
}

// === impl DiskSnapshot ===

impl DiskSnapshot {
    fn row(&self, generation: u64, key: Key) -> Result<Option<Row>, StoreError> {
        let doing = "reading the local store";
        let rows = self.read.open_table(ROWS).map_err(failed(doing))?;
        let found = rows.get(row_key(generation, &key).as_slice()).map_err(failed(doing))?;
        found.map(|bytes| decode_row(key, bytes.value())).transpose()
    }

    fn rows_of(
        &self,
        generation: u64,
        after: Option<&Key>,
    ) -> Result<impl Iterator<Item = Result<Row, StoreError>>, StoreError> {
        let doing = "reading the local store";
        let range = generation_range(generation);
        // The first key behind `after` is `after` with a zero byte.
        let start = after.map_or(range.start, |key| [&row_key(generation, key)[..], &[0]].concat());
        let rows = self.read.open_table(ROWS).map_err(failed(doing))?;
        let found = rows.range::<&[u8]>(&start[..]..&range.end[..]).map_err(failed(doing))?;
        Ok(found.map(move |entry| {
            let (place, bytes) = entry.map_err(failed(doing))?;
            let key = place.value().get(8..).unwrap_or_default().to_vec();
            let key = Key::new(key).map_err(|_| StoreError::Damaged { place: "deltasync/rows" })?;
            decode_row(key, bytes.value())
        }))
    }
}

impl Snapshot for DiskSnapshot {
    fn standing(&self) -> &Standing {
        &self.standing
    }

    fn rows(&self, after: Option<&Key>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let Some(part) = self.record.rows else { return Ok(Vec::new()) };
        self.shared.file.watch(|| self.rows_of(part.generation, after)?.take(limit).collect())
    }

    fn window(&self, offset: usize, limit: usize) -> Result<Vec<Row>, StoreError> {
        let Some(part) = self.record.rows else { return Ok(Vec::new()) };
        self.shared.file.watch(|| self.window_of(part, offset, limit))
    }
}

impl DiskSnapshot {
    fn window_of(&self, part: Part, offset: usize, limit: usize) -> Result<Vec<Row>, StoreError> {
        let doing = "reading the local store";
        let range = generation_range(part.generation);
        let order = self.read.open_table(ORDER).map_err(failed(doing))?;
        let places =
            order.range::<&[u8]>(&range.start[..]..&range.end[..]).map_err(failed(doing))?;
        let mut rows = Vec::new();
        for place in places.skip(offset).take(limit) {
            let (place, ()) = place.map(|(place, _)| (place, ())).map_err(failed(doing))?;
            let row = self.row(part.generation, key_in_order(place.value())?)?;
            rows.push(row.ok_or(StoreError::Damaged { place: "deltasync/order" })?);
        }
        Ok(rows)
    }
}

fn conflict(record: &CopyRecord) -> StoreError {
    StoreError::Conflict { standing: Box::new(record.standing()) }
}

/// What redb says, with what was being done. A file that is not what redb wrote is damage.
fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> StoreError {
    move |error| {
        let error = error.into();
        if matches!(error, redb::Error::Corrupted(_)) {
            return StoreError::Damaged { place: THE_FILE };
        }
        StoreError::Io { doing, source: Box::new(error) }
    }
}
