use std::collections::BTreeSet;

use bytes::Bytes;
use sync_proto::types::{
    Commit, Epoch, Event, Key, Mutation, Op, Subject, Target, Timestamp, Value, Version,
};

use super::*;
use crate::core::request::Request;
use crate::engine::following::Following;
use crate::engine::ledger::Settings;
use crate::store::memory::MemoryStore;

/// A crowded collection.
struct Crowd {
    ledger: Arc<Ledger<MemoryStore>>,
    name: CollectionName,
}

impl Crowd {
    fn new(name: &str) -> Self {
        let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {}).unwrap();
        let crowd = Self { ledger: Arc::new(ledger), name: CollectionName::new(name).unwrap() };
        crowd.put("first", 1);
        crowd
    }

    /// Another one of the same server.
    fn beside(&self, name: CollectionName) -> Self {
        Self { ledger: Arc::clone(&self.ledger), name }
    }

    fn commit(&self, op: Op) {
        self.commit_in(5, op);
    }

    /// A collection that this creates gets this epoch.
    fn commit_in(&self, epoch: u64, op: Op) {
        let mutations = vec![Mutation { collection: self.name.clone(), op }];
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let mut mint = || Epoch::new(epoch).unwrap();
        self.ledger.commit(&[request], Timestamp::from_millis(9), &mut mint).unwrap();
    }

    fn put(&self, key: &str, bytes: usize) {
        self.commit(put(key, bytes));
        self.prepare();
    }

    fn prepare(&self) {
        self.ledger.prepare_tail(&self.name, PageLimits::FULL);
    }

    /// A subscriber who has everything.
    fn follow(&self, change: impl Fn(Target) -> Target) -> Following {
        let cursor = self.ledger.head(&self.name).map(|head| head.cursor());
        let targets = vec![change(Target::all(self.name.clone(), cursor))];
        Following::accept(&self.ledger, targets, PageLimits::FULL, |_| true).0
    }

    /// Wakes a follower; how many pages were at hand, if any.
    fn wake(&self, following: &mut Following) -> Option<usize> {
        following.mark(BTreeSet::from([0]));
        let tails = following.at_hand(&self.ledger)?;
        following.took(&tails);
        Some(tails.len())
    }

    fn chain(&self) -> Option<(usize, usize)> {
        let state = self.ledger.tails.state.read();
        let chain = state.chains.get(&self.name)?;
        let sizes: usize = chain.pages.iter().map(|page| page.size()).sum();
        assert_eq!(chain.bytes, TAIL_OVERHEAD_BYTES + sizes);
        Some((chain.pages.len(), chain.bytes))
    }
}

fn put(key: &str, bytes: usize) -> Op {
    let value = Value::new(vec![7; bytes]).unwrap();
    Op::Put { key: Key::new(key.to_owned()).unwrap(), value, sort_key: None }
}

/// G2, G3: who takes pages at hand is told all that who reads is told, each page from where the one
/// before ended, and reads nothing.
#[test]
fn pages_at_hand_tell_what_a_read_tells() {
    let crowd = Crowd::new("hot");
    let (mut takes, mut reads) = (crowd.follow(|all| all), crowd.follow(|all| all));
    let mut at = crowd.ledger.head(&crowd.name).unwrap().cursor();
    for (round, keys) in [&["a"][..], &["a", "b", "c"], &["b"]].into_iter().enumerate() {
        for key in keys {
            crowd.put(key, 100 + round);
        }
        takes.mark(BTreeSet::from([0]));
        let (hits, misses) = crowd.ledger.page_hits_and_misses();
        let tails = takes.at_hand(&crowd.ledger).unwrap();
        takes.took(&tails);
        let looked = crowd.ledger.page_hits_and_misses();
        assert_eq!(looked, (hits + keys.len() as u64, misses), "nothing is read");
        assert_eq!(tails.len(), keys.len());
        for tail in &tails {
            assert_eq!((tail.delta.from, tail.delta.has_more), (at, false));
            at = tail.delta.to;
        }
        let head = crowd.ledger.head(&crowd.name).unwrap();
        assert_eq!(at, head.cursor());
        assert_eq!(tails.last().unwrap().delta.digest, Some(head.digest));
        assert!(!takes.is_due() && !takes.is_behind());
        reads.mark(BTreeSet::from([0]));
        let events = reads.step(&crowd.ledger, false).unwrap();
        let [Event::Changes(_, read)] = events.as_slice() else { panic!("{events:?}") };
        let told: Vec<Bytes> = tails.iter().flat_map(|tail| tail.delta.changes.clone()).collect();
        // Keys that changed twice in between come twice, in the order in which they changed.
        assert!(told.ends_with(&read.changes[read.changes.len() - 1..]));
        assert!(read.changes.iter().all(|change| told.contains(change)));
        assert_eq!((read.to, read.digest), (at, Some(head.digest)));
    }
    let now = Timestamp::from_millis(1);
    assert_eq!(takes.bookmark(now), reads.bookmark(now), "both stand at the same place");
}

/// G8: a chain has a bound in pages and in bytes, and all chains together have one. Who is further
/// behind than it reaches, or at no joint, reads for itself and finds a joint.
#[test]
fn chains_are_bounded() {
    let crowd = Crowd::new("hot");
    let mut behind = crowd.follow(|all| all);
    for number in 0..=CHAIN_PAGES_MAX {
        crowd.put(&format!("{number}"), 10);
    }
    assert_eq!(crowd.chain().unwrap().0, CHAIN_PAGES_MAX);
    assert_eq!(crowd.wake(&mut behind), None);
    assert!(behind.is_due(), "its turn is still to come");
    assert!(!behind.step(&crowd.ledger, false).unwrap().is_empty());
    crowd.put("more", 10);
    assert_eq!(crowd.wake(&mut behind), Some(1));
    for number in 0..10 {
        crowd.put(&format!("{number}"), CHAIN_BYTES_MAX / 5);
        let (pages, bytes) = crowd.chain().unwrap();
        assert!(bytes <= CHAIN_BYTES_MAX || pages == 1, "{pages} pages of {bytes} bytes");
    }
    // A page that is larger than a chain is one of its own.
    crowd.put("large", CHAIN_BYTES_MAX);
    assert_eq!(crowd.chain().unwrap().0, 1);
    assert_eq!(crowd.ledger.tails.state.read().bytes, crowd.chain().unwrap().1);
    let mut state = crowd.ledger.tails.state.write();
    state.bytes += ALL_BYTES_MAX;
    drop(state);
    crowd.put("too much", 10);
    // The others have gone, and it has what it is told of.
    let own = crowd.chain().unwrap().1;
    assert!(own < ALL_BYTES_MAX);
    assert_eq!(crowd.ledger.tails.state.read().bytes, own);
}

/// G5, G6: a cursor that may not be continued is not continued by what is at hand, and a chain does
/// not lead from one life of a collection to the next.
#[test]
fn no_page_at_hand_for_a_cursor_that_ends() {
    let crowd = Crowd::new("hot");
    crowd.put("a", 10);
    let mut of_the_past = crowd.follow(|all| all);
    let deleted = crowd.ledger.delete_collection(&crowd.name, None, Timestamp::from_millis(9));
    assert!(deleted.unwrap().is_ok());
    assert_eq!(crowd.wake(&mut of_the_past), None);
    crowd.commit_in(6, put("b", 10));
    crowd.prepare();
    assert_eq!(crowd.wake(&mut of_the_past), None);
    assert_eq!(crowd.chain(), Some((0, TAIL_OVERHEAD_BYTES)), "the chain begins anew");
    let told = of_the_past.step(&crowd.ledger, false).unwrap();
    assert!(matches!(told.as_slice(), [Event::Reset(..)]), "{told:?}");
    let head = crowd.ledger.head(&crowd.name).unwrap();
    let ahead = Cursor { version: Version::new(9).unwrap(), ..head.cursor() };
    assert!(crowd.ledger.tails(&crowd.name, ahead).is_none());
}

/// A page at hand is for those who take everything: not for parts, keys alone, notices, or an
/// inbox, whose stream looks into what it says.
#[test]
fn only_whoever_takes_everything_is_served_so() {
    let crowd = Crowd::new("hot");
    let part = Scope::KeyPrefix(Bytes::from_static(b"a"));
    let mut others = [
        crowd.follow(|all| Target { scope: part.clone(), ..all }),
        crowd.follow(|all| Target { keys_only: true, ..all }),
        crowd.follow(|all| Target { notify_only: true, ..all }),
    ];
    let mut takes_all = crowd.follow(|all| all);
    crowd.put("a", 10);
    assert_eq!(others.each_mut().map(|other| crowd.wake(other)), [None; 3]);
    assert_eq!(crowd.wake(&mut takes_all), Some(1));
    assert_eq!(crowd.wake(&mut takes_all), None, "there is nothing new");
    let me = Subject::new("me").unwrap();
    let inbox = crowd.beside(me.inbox());
    crowd.commit(Op::Follow { subject: me });
    inbox.prepare();
    let mut looks_in = inbox.follow(|all| all);
    crowd.put("b", 10);
    inbox.prepare();
    assert_eq!(inbox.chain().map(|(pages, _)| pages), Some(1));
    assert_eq!(inbox.wake(&mut looks_in), None);
}

/// A chain goes on from where it ends, also over commits for which nothing was prepared; what is
/// announced besides commits changes nothing, and a deleted collection has none.
#[test]
fn a_chain_goes_on_from_its_end() {
    let crowd = Crowd::new("hot");
    let mut follower = crowd.follow(|all| all);
    crowd.commit(put("a", 10));
    crowd.commit(put("b", 10));
    assert_eq!(crowd.wake(&mut follower), None);
    crowd.prepare();
    crowd.prepare();
    assert_eq!(crowd.chain().map(|(pages, _)| pages), Some(1));
    assert_eq!(crowd.wake(&mut follower), Some(1));
    let deleted = crowd.ledger.delete_collection(&crowd.name, None, Timestamp::from_millis(9));
    assert!(deleted.unwrap().is_ok());
    crowd.prepare();
    assert_eq!((crowd.chain(), crowd.ledger.tails.state.read().bytes), (None, 0));
}
