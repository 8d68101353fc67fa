//! A copy in memory: gone with the process. Also the oracle that the store on disk is compared
//! with.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use sync_proto::digest::Segment;
use sync_proto::types::{Change, CollectionName, Cursor, Key, Scope, SortKey, Version};

use super::plan::{Edit, Mended, compare, plan, visible};
use super::rescope::{Rescoped, rescope};
use super::{
    Applied, Changed, Load, Notes, ReplicaStore, Row, Snapshot, Staged, Standing, Step, StoreError,
    Sums, Tally, Visible, Write,
};

/// A [`ReplicaStore`] in memory. Cheap to clone; clones share the copies.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    copies: Arc<RwLock<BTreeMap<CollectionName, Copy>>>,
    notes: Arc<RwLock<BTreeMap<CollectionName, BTreeMap<Bytes, Bytes>>>>,
}

#[derive(Debug, Clone, Default)]
struct Copy {
    standing: Standing,
    scope: Scope,
    /// Shared with snapshots: a write while a snapshot lives copies the rows first.
    rows: Arc<Rows>,
    staged: Rows,
    /// The rows before the last swap, until the next write.
    before: Arc<Rows>,
    /// Edits of a repair, until the next write.
    aside: BTreeMap<Key, Staged>,
}

#[derive(Debug, Clone, Default)]
struct Rows {
    by_key: BTreeMap<Key, Row>,
    order: BTreeSet<(SortKey, Key)>,
}

struct MemorySnapshot {
    standing: Standing,
    rows: Arc<Rows>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn put_notes(&self, notes: &Notes) {
        let mut all = self.notes.write();
        let own = all.entry(notes.owner.clone()).or_default();
        for (key, content) in &notes.edits {
            match content {
                Some(content) => drop(own.insert(key.clone(), content.clone())),
                None => drop(own.remove(key)),
            }
        }
    }
}

impl ReplicaStore for MemoryStore {
    fn may_block(&self) -> bool {
        false
    }

    fn standing(&self, collection: &CollectionName) -> Result<Standing, StoreError> {
        Ok(self.copies.read().get(collection).map(|copy| copy.standing).unwrap_or_default())
    }

    fn rescope(&self, collection: &CollectionName, scope: &Scope) -> Result<Rescoped, StoreError> {
        let mut copies = self.copies.write();
        let copy = copies.entry(collection.clone()).or_default();
        let nothing = copy.standing == Standing::default();
        let became = rescope(&copy.scope, copy.standing.cursor, scope);
        if became != Rescoped::Same {
            copy.staged = Rows::default();
            copy.aside.clear();
            copy.before = Arc::default();
            copy.scope = scope.clone();
            copy.standing.load = None;
        }
        match became {
            Rescoped::Same => {}
            Rescoped::Narrowed => copy.narrow(),
            Rescoped::Anew => copy.standing.cursor = None,
        }
        Ok(if nothing { Rescoped::Same } else { became })
    }

    fn get(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, StoreError> {
        let copies = self.copies.read();
        Ok(copies.get(collection).and_then(|copy| copy.rows.by_key.get(key).cloned()))
    }

    fn snapshot(&self, collection: &CollectionName) -> Result<Box<dyn Snapshot>, StoreError> {
        let copies = self.copies.read();
        let copy = copies.get(collection);
        Ok(Box::new(MemorySnapshot {
            standing: copy.map(|copy| copy.standing).unwrap_or_default(),
            rows: copy.map(|copy| copy.rows.clone()).unwrap_or_default(),
        }))
    }

    fn write_with(
        &self,
        collection: &CollectionName,
        write: &Write,
        notes: &Notes,
    ) -> Result<Applied, StoreError> {
        let mut copies = self.copies.write();
        let copy = copies.entry(collection.clone()).or_default();
        write.check(&copy.standing)?;
        copy.before = Arc::default();
        let aside = std::mem::take(&mut copy.aside);
        let visible = match &write.step {
            Step::Page { changes, to } if copy.standing.load.is_some() => {
                copy.stage(changes, *to)?
            }
            Step::Page { changes, to } => copy.apply(changes, *to)?,
            Step::BeginLoad { changes, to } => {
                let standing = Standing { load: None, ..copy.standing };
                let (scope, rows) = (copy.scope.clone(), copy.rows.clone());
                let mut begun = Copy { standing, scope, rows, ..Copy::default() };
                let visible = begun.stage(changes, *to)?;
                *copy = begun;
                visible
            }
            Step::Mend { to, before, .. } => copy.mend(aside, *to, *before),
            Step::Clear => copy.clear(),
        };
        let standing = copy.standing;
        if notes.apply_at(&standing.tally) {
            // While the copies are locked: who reads both finds them as they belong together.
            self.put_notes(notes);
        }
        Ok(Applied { standing, visible })
    }

    fn note(&self, notes: &Notes) -> Result<(), StoreError> {
        self.put_notes(notes);
        Ok(())
    }

    fn notes(&self, owner: &CollectionName) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let notes = self.notes.read();
        let own = notes.get(owner).into_iter().flatten();
        Ok(own.map(|(key, content)| (key.clone(), content.clone())).collect())
    }

    fn swapped(
        &self,
        collection: &CollectionName,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Changed>, StoreError> {
        let copies = self.copies.read();
        let Some(copy) = copies.get(collection) else { return Ok(Vec::new()) };
        compare(copy.before.after(after), copy.rows.after(after), limit)
    }

    fn forget_swapped(&self, collection: &CollectionName) {
        if let Some(copy) = self.copies.write().get_mut(collection) {
            copy.before = Arc::default();
        }
    }

    fn sums(&self, collection: &CollectionName) -> Result<Sums, StoreError> {
        let mut sums = Sums::default();
        let rows = {
            let mut copies = self.copies.write();
            let Some(copy) = copies.get_mut(collection) else { return Ok(sums) };
            copy.aside.clear();
            copy.rows.clone()
        };
        rows.by_key.values().for_each(|row| sums.add(row));
        Ok(sums)
    }

    fn stage(&self, collection: &CollectionName, edits: Vec<Staged>) -> Result<(), StoreError> {
        let mut copies = self.copies.write();
        let copy = copies.entry(collection.clone()).or_default();
        copy.aside.extend(edits.into_iter().map(|edit| (edit.key().clone(), edit)));
        Ok(())
    }

    fn stage_rest(
        &self,
        collection: &CollectionName,
        segments: &BTreeSet<Segment>,
    ) -> Result<(), StoreError> {
        if let Some(copy) = self.copies.write().get_mut(collection) {
            let rows = copy.rows.by_key.keys().filter(|key| {
                segments.contains(&Segment::of_key(key)) && !copy.aside.contains_key(key)
            });
            let rest: Vec<Key> = rows.cloned().collect();
            copy.aside.extend(rest.into_iter().map(|key| (key.clone(), Staged::Remove(key))));
        }
        Ok(())
    }

    fn sweep(&self, _rows_max: usize) -> Result<bool, StoreError> {
        // What nobody sees is freed when the last one looks away.
        Ok(false)
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

// === impl Copy ===

impl Copy {
    fn apply(&mut self, changes: &[Change], to: Cursor) -> Result<Visible, StoreError> {
        let after = self.standing.cursor.map_or(Version::ZERO, |cursor| cursor.version);
        let mut tally = self.standing.tally;
        let edits = plan(changes, after, &mut tally, |key| Ok(self.rows.by_key.get(key).cloned()))?;
        if !edits.is_empty() {
            Arc::make_mut(&mut self.rows).carry_out(&edits);
        }
        self.standing.tally = tally;
        self.standing.cursor = Some(to);
        Ok(visible(edits))
    }

    fn stage(&mut self, changes: &[Change], to: Cursor) -> Result<Visible, StoreError> {
        let load = self.standing.load;
        let after = load.map_or(Version::ZERO, |load| load.cursor.version);
        let mut tally = load.map(|load| load.tally).unwrap_or_default();
        let staged = &self.staged;
        let edits = plan(changes, after, &mut tally, |key| Ok(staged.by_key.get(key).cloned()))?;
        self.staged.carry_out(&edits);
        if to.is_caught_up() {
            self.before =
                std::mem::replace(&mut self.rows, Arc::new(std::mem::take(&mut self.staged)));
            self.standing = Standing { cursor: Some(to), tally, load: None };
            return Ok(Visible::Swapped);
        }
        self.standing.load = Some(Load { cursor: to, tally });
        Ok(Visible::Nothing)
    }

    /// Drops what does not belong to its part.
    fn narrow(&mut self) {
        let scope = &self.scope;
        let foreign = |row: &&Row| !scope.contains(&row.key, &row.sort_key);
        let foreign: Vec<Row> = self.rows.by_key.values().filter(foreign).cloned().collect();
        for row in foreign {
            let edit = Edit { old: Some(row), new: None };
            edit.count(&mut self.standing.tally);
            Arc::make_mut(&mut self.rows).carry_out(std::slice::from_ref(&edit));
        }
    }

    fn mend(&mut self, aside: BTreeMap<Key, Staged>, to: Cursor, before: Tally) -> Visible {
        let mut tally = before;
        let mut mended = Mended::default();
        for (key, edit) in aside {
            let new = match edit {
                Staged::Keep(_) => continue,
                Staged::Put(row) => Some(row),
                Staged::Remove(_) => None,
            };
            let edit = Edit { old: self.rows.by_key.get(&key).cloned(), new };
            edit.count(&mut tally);
            Arc::make_mut(&mut self.rows).carry_out(std::slice::from_ref(&edit));
            mended.add(edit);
        }
        self.staged = Rows::default();
        self.standing = Standing { cursor: Some(to), tally, load: None };
        mended.visible()
    }

    fn clear(&mut self) -> Visible {
        let before = std::mem::take(&mut self.rows);
        let scope = std::mem::take(&mut self.scope);
        *self = Self { scope, before, ..Self::default() };
        Visible::Swapped
    }
}

// === impl Rows ===

impl Rows {
    fn carry_out(&mut self, edits: &[Edit]) {
        for edit in edits {
            if let Some(old) = &edit.old {
                self.by_key.remove(&old.key);
                self.order.remove(&(old.sort_key.clone(), old.key.clone()));
            }
            if let Some(new) = &edit.new {
                self.by_key.insert(new.key.clone(), new.clone());
                self.order.insert((new.sort_key.clone(), new.key.clone()));
            }
        }
    }

    fn after(&self, after: Option<&Key>) -> impl Iterator<Item = Result<Row, StoreError>> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.by_key.range((start, Bound::Unbounded)).map(|(_, row)| Ok(row.clone()))
    }
}

// === impl MemorySnapshot ===

impl Snapshot for MemorySnapshot {
    fn standing(&self) -> &Standing {
        &self.standing
    }

    fn rows(&self, after: Option<&Key>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.rows.after(after).take(limit).collect()
    }

    fn window(&self, offset: usize, limit: usize) -> Result<Vec<Row>, StoreError> {
        let keys = self.rows.order.iter().skip(offset).take(limit);
        Ok(keys.filter_map(|(_, key)| self.rows.by_key.get(key).cloned()).collect())
    }
}
