//! What a verification finds while commits go on, and what it does not take for damage.

use sync_proto::types::{
    Commit, Epoch, Key, Mutation, Op, SortKey, Subject, Timestamp, Value, Version,
};

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::Settings;
use crate::store::Batch;
use crate::store::memory::MemoryStore;

type Change = Box<dyn FnOnce(CollectionId, &mut Batch)>;

/// More than one look takes.
const ITEMS: u32 = 300;

struct World {
    ledger: Ledger<MemoryStore>,
    time: u64,
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn put(collection: &str, number: u32) -> Mutation {
    let key = Key::new(number.to_be_bytes().to_vec()).unwrap();
    let value = Value::new(vec![7; 20]).unwrap();
    let sort_key = Some(SortKey::new(vec![1]).unwrap());
    Mutation { collection: name(collection), op: Op::Put { key, value, sort_key } }
}

impl World {
    /// Two collections, one of them with deletes and a follower.
    fn new() -> Self {
        let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {}).unwrap();
        let mut world = Self { ledger, time: 0 };
        world.commit((0..ITEMS).flat_map(|n| [put("left", n), put("right", n)]).collect());
        let key = Key::new(7_u32.to_be_bytes().to_vec()).unwrap();
        let gone = Mutation { collection: name("left"), op: Op::Delete { key } };
        let op = Op::Follow { subject: Subject::new("bob").unwrap() };
        world.commit(vec![gone, Mutation { collection: name("left"), op }]);
        world
    }

    fn commit(&mut self, mutations: Vec<Mutation>) {
        self.time += 1;
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let (now, mut epoch) = (Timestamp::from_millis(self.time), self.time * 10);
        let mut mint = || {
            epoch += 1;
            Epoch::new(epoch).unwrap()
        };
        let group = self.ledger.commit(&[request], now, &mut mint).unwrap();
        assert!(group.answers.iter().all(Result::is_ok), "{:?}", group.answers);
    }

    /// Takes all steps; `between` happens after each.
    fn verify(
        &mut self,
        prefix: &str,
        go_on: bool,
        mut between: impl FnMut(&mut Self),
    ) -> (Found, Verification) {
        let mut verification = Verification::new(&self.ledger, prefix);
        let mut all = Found::default();
        for _ in 0..1_000 {
            let Some(found) = verification.step(&self.ledger, &mut || go_on).unwrap() else {
                return (all, verification);
            };
            all.findings.extend(found.findings);
            all.unsettled.extend(found.unsettled);
            between(self);
        }
        panic!("it does not end");
    }

    fn tamper(&self, change: impl FnOnce(CollectionId, &mut Batch)) {
        let mut batch = Batch::default();
        change(self.ledger.view(&name("left")).unwrap().0, &mut batch);
        self.ledger.store().apply(&batch).unwrap();
    }
}

/// What is whole is found whole, inboxes too, by as many rows as there are.
#[test]
fn nothing_is_wrong_with_what_is_whole() {
    let mut world = World::new();
    let (found, verification) = world.verify("", true, |_| {});
    assert_eq!(found, Found::default());
    assert_eq!(verification.collections(), 3, "left, right, the inbox");
    assert!(verification.rows() > u64::from(ITEMS) * 2 * ITEM_ROWS);
    let (found, part) = world.verify("ri", true, |_| {});
    assert_eq!((found, part.collections()), (Found::default(), 1));
}

/// G9: a row that is missing, one too many and one that does not decode are found, each in its
/// collection and nowhere else.
#[test]
fn damage_is_found_where_it_is() {
    let key = || Key::new(9_u32.to_be_bytes().to_vec()).unwrap();
    let changes: [(&str, Change); 4] = [
        ("key rows", Box::new(move |id, batch| batch.remove(keys::key_key(id, &key())))),
        (
            "list order",
            Box::new(move |id, batch| {
                let place = SortKey::new(vec![9]).unwrap();
                batch.put(keys::order_key(id, &place, &key()), bytes::Bytes::new());
            }),
        ),
        (
            "live items",
            Box::new(move |id, batch| {
                batch.remove(keys::log_key(id, Version::new(1).unwrap(), &key()));
            }),
        ),
        (
            "",
            Box::new(move |id, batch| {
                batch.put(keys::key_key(id, &key()), bytes::Bytes::from_static(b"?"));
            }),
        ),
    ];
    for (what, change) in changes {
        let mut world = World::new();
        world.tamper(change);
        let (found, verification) = world.verify("", true, |_| {});
        assert!(!found.findings.is_empty(), "{what}");
        for finding in &found.findings {
            assert!(finding.starts_with("collection \"left\": "), "{finding}");
        }
        assert!(found.findings.iter().any(|one| one.contains(what)), "{what}: {found:?}");
        assert_eq!(verification.collections(), 3, "the others were checked");
    }
}

/// G8: a collection that changes all the time is checked with the writer held, if that takes but a
/// moment; if not, it is said so. What changes is never taken for damage.
#[test]
fn what_does_not_come_to_rest_is_no_damage() {
    let change = |world: &mut World| {
        let number = u32::try_from(world.time).unwrap() % 40;
        world.commit(vec![put("left", number), put("left", 1_000 + number)]);
    };
    let mut world = World::new();
    let (found, verification) = world.verify("left", true, change);
    assert_eq!((found, verification.collections()), (Found::default(), 1));
    let (found, verification) = world.verify("", false, change);
    assert_eq!((found.findings, found.unsettled), (Vec::new(), vec![name("left")]));
    assert_eq!(verification.collections(), 2);
    let (found, _) = world.verify("left", true, |world| drop(world.ledger.view(&name("left"))));
    assert_eq!(found, Found::default());
}
