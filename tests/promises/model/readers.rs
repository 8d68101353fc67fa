//! Readers that page through both ledgers at their own speed, while everything goes on.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use sync_proto::convert::decode_change;
use sync_proto::types::{
    Change, Delta, OrderPlace, OrderRange, Outcome, ResetReason, Scope, Target,
};
use sync_server::core::page::PageLimits;
use sync_server::core::route::LookLimits;
use sync_server::engine::ledger::Ledger;
use sync_server::engine::reading::PageRequest;
use sync_server::store::Store;
use sync_server::store::disk::DiskStore;
use sync_server::store::memory::MemoryStore;
use sync_tests::compose::{key, scratch, sort_key};
use sync_tests::reader::PlainReader;

use super::naive::Naive;

/// Readers at a time.
const READERS: usize = 8;

/// Readers, each with its own scope.
#[derive(Default)]
pub(super) struct Readers {
    readers: Vec<PlainReader>,
}

// === impl Readers ===

impl Readers {
    /// Lets one reader read one page; what both engines say must be the same, and a reader that
    /// has caught up must have what the model has.
    pub(super) fn step(
        &mut self,
        dice: &mut StdRng,
        memory: &Ledger<MemoryStore>,
        disk: &Ledger<DiskStore>,
        naive: &Naive,
        collections: &[&str],
    ) {
        if self.readers.len() < READERS {
            self.readers.push(PlainReader::new(random_target(dice, collections)));
        }
        let index = dice.random_range(0..self.readers.len());
        let reader = &mut self.readers[index];
        let limits = PageLimits {
            changes_max: dice.random_range(1..4),
            bytes_max: dice.random_range(1..200),
            first_version_bytes_max: usize::MAX,
        };
        let look = random_look(dice);
        let at = reader.target.clone();
        let outcome = page(memory, &at, limits, look);
        assert_eq!(outcome, page(disk, &at, limits, look), "{at:?}");
        if let Outcome::Reset(reset) = &outcome {
            let reason = reset.reason;
            assert_ne!(reason, ResetReason::AheadOfHead, "nothing was lost: {at:?}");
        }
        if !reader.take(outcome) {
            return;
        }
        let wanted = naive.contents(&at.collection, &at.scope);
        assert!(reader.copy.rows.keys().eq(wanted.keys()), "{at:?}");
        if !at.keys_only {
            let values = reader.copy.rows.values().map(|row| row.value.as_ref().unwrap());
            assert!(values.eq(wanted.values()), "{at:?}");
        }
        if dice.random_bool(0.1) {
            *reader = PlainReader::new(random_target(dice, collections));
        }
    }
}

fn random_target(dice: &mut StdRng, collections: &[&str]) -> Target {
    let scope = random_scope(dice);
    let keys_only = dice.random_bool(0.2);
    let verify = dice.random_bool(0.3) && scope.is_all() && !keys_only;
    Target { scope, keys_only, verify, ..scratch(collections.choose(dice).unwrap()) }
}

/// All, and parts that are a large or a small part of the keys.
pub(super) fn random_scope(dice: &mut StdRng) -> Scope {
    let place =
        |place: &str, k: Option<&str>| OrderPlace { sort_key: sort_key(place), key: k.map(key) };
    let stretch = |from, to| Scope::Order(OrderRange::new(from, to).unwrap());
    match dice.random_range(0..10) {
        0 => Scope::KeyPrefix(Bytes::from_static(b"b")),
        1 => Scope::KeyPrefix(Bytes::from_static(b"zz")),
        2 => Scope::Keys(vec![key("a"), key("b/1"), key("zz")]),
        3 => Scope::Keys(vec![key("b/2")]),
        4 => stretch(Some(place("1", None)), None),
        5 => stretch(None, Some(place("1", Some("b/1")))),
        6 => stretch(Some(place("", Some("b0"))), Some(place("1", Some("b/3")))),
        _ => Scope::All,
    }
}

/// Looks so short that every way to the changes is taken, and ends at every place. No shorter
/// than a version, of at most 5 changes, or they would not get on.
pub(super) fn random_look(dice: &mut StdRng) -> LookLimits {
    let trial_rows = dice.random_range(1..5);
    LookLimits { rows_max: dice.random_range(7..30), trial_rows, ..LookLimits::FULL }
}

fn page<S: Store>(
    ledger: &Ledger<S>,
    target: &Target,
    limits: PageLimits,
    look: LookLimits,
) -> Outcome {
    let asked = PageRequest {
        collection: &target.collection,
        cursor: target.cursor,
        scope: &target.scope,
        keys_only: target.keys_only,
        verify: target.verify,
        catch_up_max: target.changes_max,
        limits,
        look,
    };
    let (outcome, _) = ledger.page(&asked, &mut 0, &AtomicBool::new(false)).unwrap();
    match outcome {
        Outcome::Delta(delta) => Outcome::Delta(decode(delta)),
        Outcome::Aligned(head) => Outcome::Aligned(head),
        Outcome::Reset(reset) => Outcome::Reset(reset),
        Outcome::NotFound => Outcome::NotFound,
        Outcome::Denied | Outcome::Deferred(_) | Outcome::Failed(_) => panic!("{outcome:?}"),
    }
}

fn decode(delta: Delta<Bytes>) -> Delta {
    let changes = delta.changes.into_iter().map(|change| decode_change(change).unwrap());
    Delta {
        changes: changes.collect(),
        from: delta.from,
        to: delta.to,
        has_more: delta.has_more,
        initial: delta.initial,
        digest: delta.digest,
        unverified: delta.unverified,
        head: delta.head,
    }
}

/// What a caught-up reader is told that stands where `target` says, on its first page.
pub(super) fn delta<S: Store>(
    ledger: &Ledger<S>,
    target: &Target,
    look: LookLimits,
) -> Result<Vec<Change>, ResetReason> {
    match page(ledger, target, PageLimits::FULL, look) {
        Outcome::Delta(delta) => {
            assert!(!delta.has_more || !delta.changes.is_empty(), "never empty with more behind");
            Ok(delta.changes)
        }
        Outcome::Aligned(_) => Ok(Vec::new()),
        Outcome::Reset(reset) => Err(reset.reason),
        Outcome::NotFound | Outcome::Denied | Outcome::Deferred(_) | Outcome::Failed(_) => {
            panic!("{target:?}")
        }
    }
}
