//! What a stream says where the general tests do not lead.

use std::time::Duration;

use sync_proto::types::{Commit, Epoch, Key, Mutation, Op, Timestamp, Value};

use super::*;
use crate::core::request::Request;
use crate::core::retention::Retention;
use crate::engine::ledger::Settings;
use crate::store::memory::MemoryStore;

fn list() -> CollectionName {
    CollectionName::new("list").unwrap()
}

fn commit(ledger: &Ledger<MemoryStore>, op: Op) {
    let commit =
        Commit { mutations: vec![Mutation { collection: list(), op }], ..Commit::default() };
    let request = Request::Commit { commit, fingerprint: [0; 16] };
    let mut mint = || Epoch::new(7).unwrap();
    ledger.commit(&[request], Timestamp::from_millis(1), &mut mint).unwrap();
}

/// G5: where a delete was purged before a live stream came to it, who compares digests is told so,
/// although there is no change to tell; the next delta would continue behind it as if nothing were
/// missing (seed 65552 of an earlier simulation).
#[test]
fn an_empty_delta_says_that_deletes_may_be_missing() {
    let retention = Retention { tombstone_age_max: Duration::from_secs(9), tombstones_max: 0 };
    let settings = Settings { retention, ..Settings::default() };
    let ledger = Ledger::open(MemoryStore::new(), settings, &mut |_| {}).unwrap();
    let key = Key::new(&b"a"[..]).unwrap();
    let value = Value::new(&b"1"[..]).unwrap();
    commit(&ledger, Op::Put { key: key.clone(), value, sort_key: None });
    let at = ledger.head(&list()).unwrap().cursor();
    let target = Target { verify: true, ..Target::all(list(), Some(at)) };
    let (mut following, accepted) =
        Following::accept(&ledger, vec![target], PageLimits::FULL, |_| true);
    assert_eq!(accepted[0].plan, Plan::Live);

    commit(&ledger, Op::Delete { key });
    for _ in 0..9 {
        ledger.purge_step(Timestamp::from_millis(2), &mut || true).unwrap();
    }
    let head = ledger.head(&list()).unwrap();
    assert_eq!((head.tombstones, head.floor), (0, head.version));
    following.mark([0].into());
    let said = following.step(&ledger, false).unwrap();
    let [Event::Changes(_, delta)] = said.as_slice() else { panic!("{said:?}") };
    assert!(delta.changes.is_empty() && delta.unverified, "{delta:?}");
    assert_eq!((delta.from, delta.to), (at, head.cursor()));
}
