//! While a batch is not durable, nobody sees anything of it.

use std::sync::Arc;

use parking_lot::Mutex;
use sync_proto::types::Key;

use super::*;
use crate::store::{Batch, KeyRange, Usage};

/// A store that lets somebody look when a batch is applied and not yet synced.
#[derive(Default)]
struct Peeped {
    inner: MemoryStore,
    look: Mutex<Option<Look>>,
}

type Look = Box<dyn FnMut() + Send>;

impl Store for Peeped {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key)
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.scan(range, direction, visit)
    }

    fn room(&self) -> Result<(), StoreError> {
        self.inner.room()
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.inner.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if let Some(look) = self.look.lock().as_mut() {
            look();
        }
        self.inner.sync()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

/// Everything that readers can see of followers: heads, and every row of every inbox and audience.
fn seen(ledger: &Ledger<Peeped>) -> Vec<(Vec<u8>, Bytes)> {
    let mut rows = Vec::new();
    let anything = ledger.head(&subject(0).inbox()).map(|_| subject(0).inbox());
    let Some((_, _, view)) = anything.and_then(|name| ledger.view(&name)) else { return rows };
    let everything = KeyRange { start: Vec::new(), end: None };
    let visit = &mut |key: &[u8], value: Bytes| {
        rows.push((key.to_vec(), value));
        ControlFlow::Continue(())
    };
    view.scan(&everything, Direction::Forward, visit).unwrap();
    drop(view);
    // Nobody finds what is deleted, so its own rows need not be as they were.
    let all = ledger.list_collections("inbox/", &[String::new()], None, usize::MAX, |_| true);
    let ids: BTreeSet<_> = all.iter().map(|(name, _)| ledger.view(name).unwrap().0).collect();
    rows.retain(|(key, _)| match keys::KeyParts::of(key).unwrap() {
        keys::KeyParts::Log { id, .. }
        | keys::KeyParts::Key { id, .. }
        | keys::KeyParts::Order { id, .. }
        | keys::KeyParts::Segment { id, .. }
        | keys::KeyParts::Tombstone { id, .. }
        | keys::KeyParts::Member { id, .. }
        | keys::KeyParts::Meta { id } => ids.contains(&id),
        keys::KeyParts::Audience { .. }
        | keys::KeyParts::AudienceState { .. }
        | keys::KeyParts::Sweep { .. } => true,
        keys::KeyParts::Name { .. }
        | keys::KeyParts::Doomed { .. }
        | keys::KeyParts::Receipt { .. }
        | keys::KeyParts::ReceiptAge { .. }
        | keys::KeyParts::NextId
        | keys::KeyParts::Format
        | keys::KeyParts::Upgrading
        | keys::KeyParts::Policy { .. }
        | keys::KeyParts::Ack { .. }
        | keys::KeyParts::AckAge { .. } => false,
    });
    for (name, audience) in &ledger.heads.read().audiences {
        rows.push((name.as_str().as_bytes().to_vec(), audience.encode()));
    }
    rows
}

/// G3: while a batch is not durable, readers see every row of inboxes, audiences and sweeps as it
/// was before, whoever writes them.
#[test]
fn nobody_is_shown_what_is_not_durable() {
    let ledger = Arc::new(open(Peeped::default()));
    let (mut dice, mut epochs) = (SmallRng::seed_from_u64(7), 0);
    let before = Arc::new(Mutex::new((0, Vec::new())));
    let looks: Look = {
        let (ledger, before) = (Arc::downgrade(&ledger), Arc::clone(&before));
        Box::new(move || {
            let ledger = ledger.upgrade().unwrap();
            let mut before = before.lock();
            assert!(seen(&ledger) == before.1, "something is shown too early");
            before.0 += u64::from(!before.1.is_empty());
        })
    };
    *ledger.store().look.lock() = Some(looks);
    for step in 0..600_u32 {
        before.lock().1 = seen(&ledger);
        let now = Timestamp::from_millis(u64::from(step) * 700);
        let (name, who) = (name(dice.random_range(0..3)), subject(dice.random_range(0..7)));
        let mut mint = || next(&mut epochs);
        match dice.random_range(0..10) {
            0 => drop(ledger.delete_collection(&name, None, now).unwrap()),
            1 => drop(ledger.tend_audiences(now).unwrap()),
            2 => {
                let asked = Administration::RotateEpoch;
                ledger.administer(&name, &asked, now, &mut mint, &mut || true).unwrap().ok();
            }
            choice => {
                let op = match choice {
                    3 => Op::Unfollow { subject: who },
                    4..7 => Op::Follow { subject: who },
                    _ => {
                        let value = Value::new(step.to_be_bytes().to_vec()).unwrap();
                        Op::Put { key: Key::new("k").unwrap(), value, sort_key: None }
                    }
                };
                let mutations = vec![Mutation { collection: name, op }];
                let commit = Commit { mutations, ..Commit::default() };
                let request = Request::Commit { commit, fingerprint: [0; 16] };
                ledger.commit(&[request], now, &mut mint).unwrap();
            }
        }
    }
    assert!(before.lock().0 > 200, "only {} batches were looked at", before.lock().0);
}
