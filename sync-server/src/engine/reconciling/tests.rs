//! Rounds over a ledger in memory; rounds over the wire, and beside the model, are elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sync_proto::digest::{GROUPS, Group, SEGMENTS};
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Commit, Cursor, Epoch, ListItems, ListOrder, Mutation, Op, OrderRange, SortKey,
    Timestamp, Value, Version,
};

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::Settings;
use crate::store::counted::Counted;
use crate::store::memory::MemoryStore;

fn ledger<S: Store + Default>() -> Ledger<S> {
    Ledger::open(S::default(), Settings::default(), &mut |_| {}).unwrap()
}

fn list() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn commit(ledger: &Ledger<impl Store>, ops: Vec<Op>) {
    let mutations = ops.into_iter().map(|op| Mutation { collection: list(), op }).collect();
    let request =
        Request::Commit { commit: Commit { mutations, ..Commit::default() }, fingerprint: [0; 16] };
    let mut mint = || Epoch::new(7).unwrap();
    let group = ledger.commit(&[request], Timestamp::from_millis(1), &mut mint).unwrap();
    assert!(group.answers[0].is_ok(), "{:?}", group.answers);
}

fn put(key: impl Into<Bytes>, value: &str) -> Op {
    let value = Value::new(value.to_owned()).unwrap();
    Op::Put { key: Key::new(key).unwrap(), value, sort_key: None }
}

fn ask(ledger: &Ledger<impl Store>, round: Round) -> Result<Found, ReconcileError> {
    let asked = Reconcile { collection: list(), round, client_id: String::new() };
    ledger.reconcile(&asked).map(|answer| answer.found)
}

fn at(ledger: &Ledger<impl Store>) -> Cursor {
    ledger.head(&list()).unwrap().cursor()
}

/// A page of the entries of these segments, and the token of the next.
fn page(
    ledger: &Ledger<MemoryStore>,
    segments: &[Segment],
    token: Bytes,
) -> (Vec<LeafEntry>, Bytes) {
    let segments = segments.to_vec();
    let round = Round::Entries { at: at(ledger), segments, page_token: token };
    let Found::Entries(entries, next) = ask(ledger, round).unwrap() else { panic!("no entries") };
    (entries, next)
}

fn all_segments() -> Vec<Segment> {
    (0..u16::try_from(SEGMENTS).unwrap()).map(|n| Segment::new(n).unwrap()).collect()
}

fn items(ledger: &Ledger<MemoryStore>) -> Vec<Item> {
    let asked = ListItems {
        collection: list(),
        order: ListOrder::Key,
        descending: false,
        page_size: 1_000,
        page_token: Bytes::new(),
        keys_only: false,
        key_prefix: Bytes::new(),
        stretch: OrderRange::default(),
        skip: 0,
    };
    ledger.list_items(&asked, PAGE_BYTES_MAX).unwrap().items
}

/// G9: what the rounds tell is what the items add up to, and all of it: after inserts, updates,
/// reorders and deletes.
#[test]
fn rounds_tell_what_the_items_are() {
    let ledger: Ledger<MemoryStore> = ledger();
    commit(&ledger, (0..400).map(|n| put(format!("item {n}"), &format!("value {n}"))).collect());
    commit(&ledger, (0..50).map(|n| put(format!("item {n}"), "changed")).collect());
    let key = |n: u32| Key::new(format!("item {n}")).unwrap();
    commit(&ledger, (40..90).map(|n| Op::Delete { key: key(n) }).collect());
    let sort_key = SortKey::new("z").unwrap();
    let reorder = |n| Op::Reorder { key: key(n), sort_key: sort_key.clone() };
    commit(&ledger, (90..120).map(reorder).collect());

    let items = items(&ledger);
    let mut groups = vec![Digest::EMPTY; GROUPS];
    let mut leaves = vec![Digest::EMPTY; SEGMENTS];
    let mut entries = BTreeMap::new();
    for item in &items {
        let value = item.value.as_ref().unwrap().as_bytes();
        let digest = Digest::of_item(&item.key, item.version, &item.sort_key, value);
        let segment = Segment::of_key(&item.key);
        groups[usize::from(segment.group().get())] += digest;
        leaves[usize::from(segment.get())] += digest;
        entries.insert((segment, item.key.clone()), entry(Some(item.clone())).unwrap());
    }
    assert_eq!(ask(&ledger, Round::Groups).unwrap(), Found::Sums(groups));
    let every_group = (0..64).map(|n| Group::new(n).unwrap()).collect();
    let round = Round::Leaves { at: at(&ledger), groups: every_group };
    assert_eq!(ask(&ledger, round).unwrap(), Found::Sums(leaves));
    let mut told = Vec::new();
    for segments in all_segments().chunks(64) {
        let (entries, next) = page(&ledger, segments, Bytes::new());
        assert!(next.is_empty());
        told.extend(entries);
    }
    assert_eq!(told, entries.into_values().collect::<Vec<_>>());
}

/// Keys of 900 bytes in the first two segments.
fn long_keys(count: usize) -> Vec<Key> {
    let pad = "k".repeat(900);
    let keys = (0u32..).map(|n| Key::new(format!("{n}{pad}")).unwrap());
    keys.filter(|key| Segment::of_key(key).get() < 2).take(count).collect()
}

/// G1: pages of entries neither repeat nor hide an item that stays, whatever comes and goes
/// between them; a token of another question is refused.
#[test]
fn pages_cover_the_leaves_once_while_items_move() {
    let ledger: Ledger<MemoryStore> = ledger();
    let keys = long_keys(2_400);
    for part in keys.chunks(800) {
        commit(&ledger, part.iter().map(|key| put(key.to_bytes(), "v")).collect());
    }
    let segments: Vec<Segment> = all_segments()[..2].to_vec();
    let mut stays: BTreeSet<Key> = keys.iter().cloned().collect();
    let mut told: BTreeSet<Key> = BTreeSet::new();
    let (mut token, mut pages) = (Bytes::new(), 0);
    loop {
        let (entries, next) = page(&ledger, &segments, token.clone());
        assert!(entries.iter().all(|entry| told.insert(entry.key.clone())), "a repeat");
        pages += 1;
        if next.is_empty() {
            break;
        }
        assert!(entries.len() > 900, "a page is filled: {}", entries.len());
        let other = Round::Entries {
            at: at(&ledger),
            segments: segments[..1].to_vec(),
            page_token: next.clone(),
        };
        let refusal = ask(&ledger, other).unwrap_err();
        assert!(matches!(refusal, ReconcileError::Token(TokenRefusal::Invalid)), "{refusal}");
        // The very item that the token points to goes, or stays, some others go, the rest moves.
        let last = entries.last().unwrap().key.clone();
        let last_stays = pages % 2 == 0;
        let mut gone: BTreeSet<Key> = stays.iter().step_by(7).cloned().collect();
        if last_stays {
            gone.remove(&last);
        } else {
            gone.insert(last);
        }
        gone.retain(|key| stays.remove(key));
        commit(&ledger, gone.into_iter().map(|key| Op::Delete { key }).collect());
        let moved = stays.iter().step_by(3).map(|key| put(key.to_bytes(), "moved")).collect();
        commit(&ledger, moved);
        token = next;
    }
    assert!(pages >= 3, "{pages} pages");
    assert!(stays.is_subset(&told), "an item that stayed was hidden");
}

/// Rounds that cannot go on say so; the token of an earlier life is not even looked at.
#[test]
fn rounds_that_cannot_go_on_say_so() {
    let ledger: Ledger<MemoryStore> = ledger();
    assert!(matches!(ask(&ledger, Round::Groups), Err(ReconcileError::NotFound)));
    commit(&ledger, vec![put("k", "v")]);
    let now = at(&ledger);
    let leaves = |at| Round::Leaves { at, groups: vec![Group::new(0).unwrap()] };
    ask(&ledger, leaves(now)).unwrap();
    let ahead = Cursor { version: now.version.next(), ..now };
    let other = Cursor { epoch: Epoch::new(8).unwrap(), ..now };
    for (at, wanted) in [
        (ahead, BeginAgain::AheadOfHead(now)),
        (other, BeginAgain::OtherEpoch(now)),
        (Cursor::at(other.epoch, Version::ZERO), BeginAgain::OtherEpoch(now)),
    ] {
        let entries = Round::Entries {
            at,
            segments: vec![Segment::new(0).unwrap()],
            page_token: Bytes::from_static(b"no token"),
        };
        for round in [leaves(at), entries] {
            let refusal = ask(&ledger, round).unwrap_err();
            let ReconcileError::BeginAgain(told) = refusal else { panic!("{refusal}") };
            assert_eq!(told, wanted);
        }
    }
}

/// G8: a round costs what it answers, not what the collection holds.
#[test]
fn a_round_costs_what_it_answers() {
    let ledger: Ledger<Counted> = ledger();
    for part in 0..25 {
        commit(&ledger, (0..2_000).map(|n| put(format!("item {part} {n}"), "value")).collect());
    }
    let cost = |round: Round| {
        ledger.store().take();
        let found = ask(&ledger, round).unwrap();
        (found, ledger.store().take().rows)
    };
    let at = at(&ledger);
    let (_, rows) = cost(Round::Groups);
    assert!((4_000..=SEGMENTS).contains(&rows), "{rows} rows for the sums of all groups");
    let groups = (0..3).map(|number| Group::new(number).unwrap()).collect();
    let (_, rows) = cost(Round::Leaves { at, groups });
    assert!((180..=3 * SEGMENTS / GROUPS).contains(&rows), "{rows} rows for the leaves of three");
    let segments = (0..50).map(|number| Segment::new(number * 80).unwrap()).collect();
    let (found, rows) = cost(Round::Entries { at, segments, page_token: Bytes::new() });
    let Found::Entries(entries, next) = found else { panic!("entries were asked") };
    assert!(next.is_empty() && (500..720).contains(&entries.len()), "{}", entries.len());
    // Where it is in its segment, its key row, its log row.
    assert!(rows <= 3 * entries.len(), "{rows} rows for {} entries", entries.len());
}
