//! `verify`: every row of a store is read once, by several threads, and whatever does not fit is
//! named. Sums say whether the rows of a collection fit together; where they do not, every row of
//! that collection is looked at again, one by one (`exact`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::core::check::{Checker, Report};
use crate::store::KeyRange;
use crate::store::disk::aside::Aside;
use crate::store::disk::reading::{Finding, Reader};
use crate::store::keys::{CollectionId, Row};

use self::parts::Part;

mod audiences;
mod exact;
mod naming;
mod parts;
pub mod starting;

/// Findings that are told; a store that is broken everywhere need not be listed whole.
const FINDINGS_MAX: usize = 1_000;

/// What a verification came to.
#[derive(Debug, Default)]
pub struct Verified {
    /// Rows that were read.
    pub rows: u64,
    /// Collections that are as they should be.
    pub collections: u64,
    /// What is wrong, the first of it: where and what.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub findings_count: u64,
}

/// Findings up to a number, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    kept: Vec<Finding>,
    count: u64,
}

impl Reader for Checker {
    fn row(&mut self, key: &[u8], value: Bytes) {
        Checker::row(self, key, value);
    }
}

/// Checks every invariant of a store. `before` is what is wrong with it as a whole.
pub fn verify(
    store: &Aside,
    before: Vec<Finding>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Verified, crate::store::StoreError> {
    let mut findings = Findings::default();
    for finding in before.into_iter().chain(store.strays()) {
        findings.add(finding);
    }
    let parts = checkers(&mut |range, visit| store.scan(range, visit));
    let (checkers, damage) = store.read_all(parts, &naming::row, progress)?;
    for finding in damage {
        findings.add(finding);
    }
    let mut whole = Checker::default();
    for checker in checkers {
        whole.merge(checker);
    }
    let Report {
        checked,
        findings: told,
        findings_count,
        suspects,
        receipts_differ,
        audiences_differ,
        acks_differ,
    } = whole.report();
    findings.count += findings_count - told.len() as u64;
    for what in told {
        findings.add(("the rows".to_owned(), what));
    }
    for id in suspects {
        exact::collection(store, id, &mut findings);
    }
    if receipts_differ {
        exact::receipts(store, &mut findings);
    }
    if audiences_differ {
        audiences::name_rows(store, &mut findings);
    }
    if acks_differ {
        exact::acks(store, &mut findings);
    }
    Ok(Verified {
        rows: checked.rows,
        collections: checked.collections.len() as u64,
        findings: findings.kept,
        findings_count: findings.count,
    })
}

/// Something that visits the rows of a range.
type Scan<'a> = dyn FnMut(&KeyRange, &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>) + 'a;

/// All rows, cut into parts, and who checks each.
fn checkers(scan: &mut Scan<'_>) -> Vec<(KeyRange, Checker)> {
    let (sizes, inboxes) = sizes(scan);
    let parts = parts::largest_first(&sizes).into_iter();
    parts.map(|part: Part| part.with_checker(&inboxes)).collect()
}

/// How large each collection is, by its own account: only to cut the work into parts. And which of
/// them are inboxes.
fn sizes(scan: &mut Scan<'_>) -> (Vec<parts::Size>, Arc<BTreeSet<CollectionId>>) {
    let mut sizes = Vec::new();
    let mut inboxes = BTreeSet::new();
    let metas = KeyRange::new(parts::metas_start(), parts::metas_end());
    scan(&metas, &mut |key, value| {
        if let Ok(Row::Meta { id, meta }) = Row::decode(key, value) {
            let (rows, head) = (meta.head.items + meta.head.tombstones, meta.head.version);
            sizes.push(parts::Size { id, rows, head });
            if meta.name.is_inbox() {
                inboxes.insert(id);
            }
        }
        ControlFlow::Continue(())
    });
    (sizes, Arc::new(inboxes))
}

// === impl Findings ===

impl Findings {
    pub(crate) fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(finding);
        }
    }
}

#[cfg(test)]
mod tests;
