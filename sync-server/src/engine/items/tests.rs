//! Whoever wants many rows waits for few turns of the store.

use std::collections::BTreeSet;

use bytes::Bytes;
use sync_proto::digest::Segment;
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Commit, Epoch, Found, ListItems, ListOrder, Mutation, Op, OrderRange,
    Reconcile, Round, Subject, Timestamp,
};

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::{Ledger, Settings};
use crate::store::counted::Counted;

struct Fixture(Ledger<Counted>);

impl Fixture {
    fn new() -> Self {
        Self(Ledger::open(Counted::default(), Settings::default(), &mut |_| {}).unwrap())
    }

    fn commit(&self, mutations: Vec<Mutation>) {
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let mut mint = || Epoch::new(7).unwrap();
        let group = self.0.commit(&[request], Timestamp::from_millis(1), &mut mint).unwrap();
        assert!(group.answers[0].is_ok(), "{:?}", group.answers);
    }

    /// How many bytes the questions that `work` asks are answered with, each.
    fn answers<T>(&self, work: impl FnOnce(&Ledger<Counted>) -> T) -> (T, Vec<usize>) {
        self.0.store().take();
        let done = work(&self.0);
        (done, self.0.store().take().answers)
    }
}

fn list() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn key(number: usize) -> Key {
    Key::new(format!("item {number:04}")).unwrap()
}

fn put(number: usize, bytes: usize) -> Mutation {
    let value = Value::new(vec![b'v'; bytes]).unwrap();
    Mutation { collection: list(), op: Op::Put { key: key(number), value, sort_key: None } }
}

fn window(page_size: usize, keys_only: bool) -> ListItems {
    ListItems {
        collection: list(),
        order: ListOrder::SortKey,
        descending: false,
        page_size,
        page_token: Bytes::new(),
        keys_only,
        key_prefix: Bytes::new(),
        stretch: OrderRange::default(),
        skip: 0,
    }
}

/// G8: the rows that a commit touches are asked for in two rounds, however many there are, and so
/// are the inboxes of those who follow.
#[test]
fn a_commit_asks_for_its_rows_together() {
    let fixture = Fixture::new();
    fixture.commit((0..300).map(|number| put(number, 10)).collect());
    let follow = |number| {
        let subject = Subject::new(&format!("subject {number}")).unwrap();
        Mutation { collection: list(), op: Op::Follow { subject } }
    };
    fixture.commit((0..50).map(follow).collect());
    let again = || (0..300).map(|number| put(number, 20)).collect();
    let ((), answers) = fixture.answers(|_| fixture.commit(again()));
    assert!((2..=4).contains(&answers.len()), "{answers:?}");
}

/// G8: items are looked up by the dozen, whoever asks, and none is missed or told twice.
#[test]
fn readers_ask_for_rows_together() {
    const ITEMS: usize = 200;
    let fixture = Fixture::new();
    fixture.commit((0..ITEMS).map(|number| put(number, number % 7)).collect());
    let turns = 4;
    let keys: Vec<Key> = (0..ITEMS).map(key).collect();
    let told = |items: &[Item]| {
        let right = |item: &Item| item.value.as_ref().map(|value| value.as_bytes().len());
        assert_eq!(items.iter().map(|item| item.key.clone()).collect::<Vec<_>>(), keys);
        assert!((0..).zip(items).all(|(number, item)| right(item) == Some(number % 7)));
    };
    let (found, answers) =
        fixture.answers(|ledger| ledger.list_items(&window(ITEMS, false), PAGE_BYTES_MAX).unwrap());
    told(&found.items);
    assert_eq!(answers.len(), 2 * turns);
    let (found, answers) =
        fixture.answers(|ledger| ledger.list_items(&window(ITEMS, true), PAGE_BYTES_MAX).unwrap());
    assert!(found.items.iter().all(|item| item.value.is_none() && item.value_size < 7));
    assert_eq!((found.items.len(), answers.len()), (ITEMS, turns));
    let (found, answers) =
        fixture.answers(|ledger| ledger.get_items(&list(), &keys, false, PAGE_BYTES_MAX).unwrap());
    told(&found.results.into_iter().map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(answers.len(), 2 * turns);
    let at = fixture.0.head(&list()).unwrap().cursor();
    let segments: BTreeSet<_> = keys.iter().map(Segment::of_key).collect();
    let segments = segments.into_iter().collect();
    let round = Round::Entries { at, segments, page_token: Bytes::new() };
    let asked = Reconcile { collection: list(), round, client_id: String::new() };
    let (answer, answers) = fixture.answers(|ledger| ledger.reconcile(&asked).unwrap());
    let Found::Entries(entries, _) = answer.found else { panic!("no entries") };
    let told: BTreeSet<_> = entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(told, keys.into_iter().collect());
    assert_eq!(answers.len(), 2 * turns);
}

/// G8: large values are read a few at a time, however many keys are asked for together.
#[test]
fn large_values_are_not_read_ahead() {
    const LARGE: usize = 100 * 1024;
    let fixture = Fixture::new();
    for number in 0..30 {
        fixture.commit(vec![put(number, if number == 2 { 3 * TOGETHER_BYTES } else { LARGE })]);
    }
    let (found, answers) =
        fixture.answers(|ledger| ledger.list_items(&window(30, false), PAGE_BYTES_MAX).unwrap());
    assert!(found.items.len() > 2 && !found.next.is_empty());
    let most = answers.iter().max().unwrap();
    assert!((3 * TOGETHER_BYTES..4 * TOGETHER_BYTES).contains(most), "{answers:?}");
    let others = answers.iter().filter(|answer| *answer != most);
    assert!(others.max().unwrap() < &(TOGETHER_BYTES + 1_024), "{answers:?}");
}

/// Absent keys and tombstones are nothing, in their place.
#[test]
fn what_is_not_there_keeps_its_place() {
    let fixture = Fixture::new();
    fixture.commit((0..3).map(|number| put(number, 1)).collect());
    fixture.commit(vec![Mutation { collection: list(), op: Op::Delete { key: key(1) } }]);
    let wanted: Vec<Key> = [2, 9, 1, 0, 2].map(key).to_vec();
    let found = fixture.0.get_items(&list(), &wanted, false, PAGE_BYTES_MAX).unwrap().results;
    let there: Vec<_> = found.iter().map(|it| it.as_ref().map(|item| item.key.clone())).collect();
    let gone = |number| Err(key(number));
    let there: Vec<_> = there.into_iter().map(|it| it.map_err(Clone::clone)).collect();
    assert_eq!(there, [Ok(key(2)), gone(9), gone(1), Ok(key(0)), Ok(key(2))]);
}
