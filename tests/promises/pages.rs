//! Whatever the pages, their union is the collection: no version is split, none is skipped, no
//! page is empty while more lies behind it, and the cursor is never beyond what was returned.
//! `PlainReader` checks these rules at every page.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_proto::types::{ChangeKind, Mutation, Op, Outcome, Version};
use sync_tests::compose::{after, delete, name, put, put_at, reorder, scratch, version};
use sync_tests::reader::PlainReader;
use sync_tests::seed::dice;
use sync_tests::server::TestServer;
use sync_tests::wire::Wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Keys that random commits choose from.
const KEYS: u32 = 200;

fn item(number: u32) -> String {
    format!("item {number:04}")
}

/// A commit of `count` random changes; the same few keys change again and again.
fn random_commit(dice: &mut StdRng, count: usize) -> Vec<Mutation> {
    let mut keys = BTreeSet::new();
    while keys.len() < count {
        keys.insert(dice.random_range(0..KEYS));
    }
    let change = |number: u32| {
        if dice.random_bool(0.3) {
            return delete("list", item(number));
        }
        put("list", item(number), format!("value {}", dice.random::<u32>()))
    };
    keys.into_iter().map(change).collect()
}

/// What random commits leave behind, by plain overwriting.
fn play(commits: &[Vec<Mutation>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    for mutation in commits.iter().flatten() {
        let key = mutation.op.key().unwrap().as_bytes().to_vec();
        match &mutation.op {
            Op::Put { value, .. } => {
                state.insert(key, value.as_bytes().to_vec());
            }
            Op::Delete { .. } => {
                state.remove(&key);
            }
            Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. } => {
                unreachable!("a random commit puts and deletes")
            }
        }
    }
    state
}

/// G1, G4, T05, T14: 1,000 commits, some of 30 keys. A reader that is killed after any page and
/// goes on from its stored cursor ends with the server's items, and so do readers that were away
/// for any part of the history.
#[tokio::test(flavor = "multi_thread")]
async fn the_union_of_all_pages_is_the_collection() {
    let (mut dice, _seed) = dice();
    let server = TestServer::start().await;
    let wire = server.wire();
    let mut commits = Vec::new();
    let mut away = Vec::new();
    for number in 0..1_000 {
        let count = if dice.random_bool(0.1) { 30 } else { dice.random_range(1..4) };
        commits.push(random_commit(&mut dice, count));
        wire.commit(commits[number].clone()).await;
        if number % 90 == 0 {
            away.push(wire.load("list").await);
        }
    }
    let state = play(&commits);
    let mut loader = PlainReader::new(scratch("list"));
    while !loader.pull(wire, 20).await {
        // A kill between pages: what is stored is the rows and the cursor, nothing else.
        let mut resumed = loader.clone();
        resumed.catch_up_by(wire, 50).await;
        assert_eq!(resumed.contents(), state);
    }
    assert_eq!(loader.contents(), state);
    for mut reader in away {
        let from = reader.version();
        reader.catch_up_by(wire, 7).await;
        assert_eq!(reader.contents(), state, "away since {from}");
    }
    server.stop().await;
}

/// G4, T06: a commit that is larger than a page comes whole, in a larger page.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_larger_than_a_page_is_sent_whole() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "before", "1")]).await;
    wire.commit((0..300).map(|n| put("list", item(n), "many")).collect()).await;
    wire.commit(vec![put("list", "behind", "1")]).await;
    let first = wire.page(scratch("list"), 10).await;
    assert_eq!((first.changes.len(), first.to.version), (1, version(1)));
    let second = wire.page(after("list", first.to), 10).await;
    assert_eq!((second.changes.len(), second.to.version), (300, version(2)));
    assert!(second.has_more);
    let third = wire.page(after("list", second.to), 10).await;
    assert_eq!((third.changes.len(), third.has_more), (1, false));

    // By bytes: three megabytes in one commit pass the limit of a page and fit into a message.
    let mega = vec![b'x'; 1_000_000];
    wire.commit((0..3).map(|n| put("list", format!("large {n}"), &mega)).collect()).await;
    let large = wire.page(after("list", third.to), 0).await;
    assert_eq!((large.changes.len(), large.has_more), (3, false));
    server.stop().await;
}

/// G1, T14: one change per key with its final state, whatever happened in between; the update
/// of a key that was never seen inserts it, the delete of one is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_holds_one_change_per_key_its_latest() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "there", "1")]).await;
    let mut reader = wire.load("list").await;
    for (key, values) in [
        ("phoenix", vec![Some("1"), Some("2"), None, Some("3")]),
        ("mayfly", vec![Some("1"), None]),
        ("there", vec![None, Some("1")]),
    ] {
        for value in values {
            let mutation = value.map_or(delete("list", key), |value| put("list", key, value));
            wire.commit(vec![mutation]).await;
        }
    }
    let delta = wire.page(reader.target.clone(), 0).await;
    let told: Vec<_> = delta
        .changes
        .iter()
        .map(|change| {
            let kind = match &change.kind {
                ChangeKind::Put { value, .. } => value.as_ref().map(|v| v.as_bytes().to_vec()),
                ChangeKind::Delete | ChangeKind::LeftScope => None,
            };
            (change.key.as_bytes().to_vec(), change.created.get(), kind)
        })
        .collect();
    assert_eq!(
        told,
        [
            (b"phoenix".to_vec(), 5, Some(b"3".to_vec())),
            (b"mayfly".to_vec(), 6, None),
            (b"there".to_vec(), 9, Some(b"1".to_vec())),
        ],
        "a re-created item is new, with its value"
    );
    reader.take(Outcome::Delta(delta));
    let expected = [("phoenix", "3"), ("there", "1")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(reader.contents(), BTreeMap::from(expected));
    server.stop().await;
}

/// G1, T16: moving an item in the list costs one change without value, and both readers have
/// the server's order, ties included.
#[tokio::test(flavor = "multi_thread")]
async fn a_reorder_moves_a_row_and_not_its_value() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let all =
        (0..2_000).map(|n| put_at("list", item(n), "value", [u8::try_from(n / 500).unwrap()]));
    wire.commit(all.collect()).await;
    let (mut one, mut two) = (wire.load("list").await, wire.load("list").await);
    let values = one.seen.values;
    wire.commit(vec![reorder("list", item(1_999), [0])]).await;
    one.catch_up(wire).await;
    assert_eq!((one.seen.values, one.seen.changes), (values, 2_001));
    wire.commit(vec![put_at("list", item(3), "other", [2])]).await;
    for reader in [&mut one, &mut two] {
        reader.catch_up(wire).await;
        let order = reader.in_list_order();
        assert_eq!(order[499].as_bytes(), item(1_999).as_bytes(), "behind its equals, by key");
        assert_eq!(order[1_000].as_bytes(), item(3).as_bytes(), "before its equals, by key");
    }
    assert_eq!(one.seen.values, values + 1, "a new value comes with the row");
    server.stop().await;
}

/// G1: the value changed while the reader was between two pages, then the row moved ahead: the
/// reader never got the value and must be sent it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_between_pages_is_sent_the_value_that_it_missed() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for number in 0..6 {
        wire.commit(vec![put("list", item(number), "old")]).await;
    }
    let mut reader = wire.load("list").await;
    // Versions 7 to 12: item 5 gets its new value at 11.
    for number in [0, 1, 2, 3, 5, 4] {
        wire.commit(vec![put("list", item(number), "new")]).await;
    }
    assert!(!reader.pull(wire, 2).await, "the reader stands between pages");
    assert_eq!(reader.version(), version(8));
    assert!(!reader.pull(wire, 1).await);
    // Now the row of item 5 moves ahead of where the value was; the reader is at 9.
    wire.commit(vec![reorder("list", item(5), "last")]).await;
    reader.catch_up_by(wire, 2).await;
    let news: BTreeSet<_> = reader.contents().into_values().collect();
    assert!(news.iter().eq([b"new"]), "{news:?}");
    server.stop().await;
}

/// G1, G4, T07, T09: readers load and poll, by small pages, while a writer inserts, updates,
/// deletes and re-creates without pause: whatever a reader shows at the head is exactly what the
/// server held at that version, so nobody sees half a commit, or half of a first load.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_page_while_a_writer_writes_miss_nothing() {
    let (mut dice, _seed) = dice();
    let server = TestServer::start().await;
    let mut commits = vec![(0..KEYS).map(|n| put("list", item(n), "first")).collect::<Vec<_>>()];
    server.wire().commit(commits[0].clone()).await;
    let done = CancellationToken::new();
    let tracker = TaskTracker::new();
    let readers = [1, 10, 40].map(|page| {
        let (wire, done) = (server.new_connection(), done.clone());
        tracker.spawn(poll_until_done(wire, page, done))
    });
    for number in 0..400u32 {
        let count = dice.random_range(1..8);
        let mut commit = random_commit(&mut dice, count);
        // Every commit changes something, so that version n is what n commits made.
        commit.push(put("list", "number", number.to_string()));
        server.wire().commit(commit.clone()).await;
        commits.push(commit);
    }
    done.cancel();
    let truth = server.wire().load("list").await;
    for reader in readers {
        let (reader, shown) = reader.await.unwrap();
        assert!(reader.copy == truth.copy, "a reader ended with other items");
        assert!(shown.len() > 10, "the reader read while the writer wrote");
        for (version, contents) in shown {
            let count = usize::try_from(version.get()).unwrap();
            assert!(contents == play(&commits[..count]), "another list than that of {version}");
        }
    }
    server.stop().await;
}

/// What a reader showed when it stood at the head.
type Shown = BTreeMap<Version, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Loads anew now and then, polls otherwise; one last catch-up when the writer is done.
async fn poll_until_done(wire: Wire, page: u32, done: CancellationToken) -> (PlainReader, Shown) {
    let mut reader = PlainReader::new(scratch("list"));
    let mut shown = Shown::new();
    let mut rounds = 0;
    loop {
        let last = done.is_cancelled();
        let mut complete = false;
        while !complete {
            let (before, loads) = (reader.copy.clone(), reader.target.cursor.is_none());
            let loads = loads || reader.is_loading();
            complete = reader.pull(&wire, page).await;
            if complete {
                shown.insert(reader.version(), reader.contents());
            } else {
                assert!(!loads || reader.copy == before, "a load shows before its end");
            }
        }
        if last {
            return (reader, shown);
        }
        rounds += 1;
        if rounds % 20 == 0 {
            reader.target.cursor = None;
        }
    }
}

/// G7: the head moved but nothing in scope did: the newer cursor is told, and the range is not
/// asked for again (T15).
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_delta_moves_the_cursor() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "mine/a", "1"), put("list", "yours/a", "1")]).await;
    let mut reader = PlainReader::new(sync_tests::compose::scratch_of("list", "mine/"));
    reader.catch_up(wire).await;
    wire.commit(vec![put("list", "yours/b", "1")]).await;
    let delta = wire.page(reader.target.clone(), 0).await;
    assert_eq!((delta.changes.len(), delta.has_more), (0, false));
    assert_eq!(delta.to, wire.head(&name("list")).await.unwrap().cursor());
    assert_eq!(delta.digest, None, "the digest is of the whole collection");
    reader.catch_up(wire).await;
    let outcome = wire.pull_one(reader.target.clone()).await;
    assert!(matches!(outcome, Outcome::Aligned(_)), "{outcome:?}");
    server.stop().await;
}
