//! What one group may write is bounded, and what does not fit is told otherwise; nor does a start
//! write what it knows nothing of.

use super::*;
use crate::core::diffusion::FAN_OUT_ENTRIES_MAX;

/// Followers of each collection: as many as are written to at most.
const AUDIENCE: u64 = 512;

fn commit(ledger: &Ledger<MemoryStore>, mutations: &[Mutation]) {
    let mut mint = || Epoch::new(7).unwrap();
    let request = |some: &[Mutation]| Request::Commit {
        commit: Commit { mutations: some.to_vec(), ..Commit::default() },
        fingerprint: [0; 16],
    };
    // All of them in one group.
    let requests: Vec<_> = mutations.chunks(5_000).map(request).collect();
    let group = ledger.commit(&requests, Timestamp::from_millis(1), &mut mint).unwrap();
    assert!(group.answers.iter().all(Result::is_ok));
}

fn modes(ledger: &Ledger<MemoryStore>) -> [usize; 2] {
    let heads = ledger.heads.read();
    let read = heads.read_diffused.len();
    [heads.audiences.len() - read, read]
}

/// G8: a group over more followed collections than a batch takes entries: those beyond it are read
/// from then on, and nobody misses a word.
#[test]
fn a_group_writes_so_many_entries_and_no_more() {
    let settings = Settings { diffusion: Limits::default(), ..settings() };
    let ledger = Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap();
    let fits = FAN_OUT_ENTRIES_MAX / AUDIENCE;
    let names: Vec<_> = (0..u32::try_from(fits).unwrap() + 3).map(name).collect();
    for name in &names {
        let follow = |number| {
            let subject = subject(number);
            Mutation { collection: name.clone(), op: Op::Follow { subject } }
        };
        let follows: Vec<_> = (0..u32::try_from(AUDIENCE).unwrap()).map(follow).collect();
        commit(&ledger, &follows);
    }
    assert_eq!(modes(&ledger), [names.len(), 0]);
    let before = ledger.spread_totals().entries;
    let put = |name: &CollectionName| {
        let value = Value::new("v").unwrap();
        let op = Op::Put { key: Key::new("k").unwrap(), value, sort_key: None };
        Mutation { collection: name.clone(), op }
    };
    commit(&ledger, &names.iter().map(put).collect::<Vec<_>>());
    assert_eq!(ledger.spread_totals().entries - before, FAN_OUT_ENTRIES_MAX);
    assert_eq!(modes(&ledger), [usize::try_from(fits).unwrap(), 3]);
    let inbox = subject(0).inbox();
    let search = Search {
        inbox: &inbox,
        scope: &Scope::All,
        after: None,
        only_moved: true,
        may_read: &|_| true,
        most: 100,
    };
    let polled = ledger.hot_follows(&search, &mut 9, &AtomicBool::new(false)).unwrap();
    assert_eq!(polled.follows.len(), 3, "of the others the inbox tells");
    // What opens fits together.
    Ledger::open(ledger.store().fork(), settings, &mut |_| {}).unwrap();
}

/// G8: a collection that is read because it moves often is not written to because the program was
/// started again and has not seen it move yet. One that does not move is, after a while.
#[test]
fn a_start_does_not_take_the_unknown_for_calm() {
    let diffusion = Limits { write_audience_max: 100, fan_out_per_s_max: 10, ..Limits::default() };
    let settings = Settings { diffusion, ..settings() };
    let second = |second: u64| Timestamp::from_millis(second * 1_000);
    let at = |ledger: &Ledger<MemoryStore>, mutations: Vec<Mutation>, now: Timestamp| {
        let mut mint = || Epoch::new(7).unwrap();
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        ledger.commit(&[request], now, &mut mint).unwrap();
        while ledger.tend_audiences(now).unwrap() {}
        modes(ledger)
    };
    let put = |number: u32, second: u64| {
        let (key, value) = (Key::new("k").unwrap(), Value::new(second.to_string()).unwrap());
        Mutation { collection: name(number), op: Op::Put { key, value, sort_key: None } }
    };
    let open = |store| Ledger::open(store, settings, &mut |_| {}).unwrap();
    let ledger = open(MemoryStore::new());
    let follow = |number: u32| {
        let op = Op::Follow { subject: subject(number % 20) };
        Mutation { collection: name(number / 20), op }
    };
    at(&ledger, (0..40).map(follow).collect(), second(0));
    let both = |now| at(&ledger, vec![put(0, now), put(1, now)], second(now));
    let busy: Vec<_> = (0..100).map(both).collect();
    assert_eq!((busy[29], busy[99]), ([2, 0], [0, 2]), "20 entries a second each");
    let ledger = open(ledger.store().crash());
    for now in 100..300 {
        let modes = at(&ledger, vec![put(0, now)], second(now));
        assert_eq!(modes, if now < 130 { [0, 2] } else { [1, 1] }, "at {now}");
    }
}

/// G9: the sums of an inbox hold although entries share segments, which they do when there are many.
#[test]
fn many_entries_of_an_inbox_add_up() {
    let ledger = open(MemoryStore::new());
    for number in 0..300 {
        let op = Op::Follow { subject: subject(0) };
        commit(&ledger, &[Mutation { collection: name(number), op }]);
    }
    assert_eq!(ledger.head(&subject(0).inbox()).unwrap().items, 300);
    // Opening sums everything anew.
    open(ledger.store().fork());
}
