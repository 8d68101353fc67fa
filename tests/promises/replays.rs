//! Real histories through commits, with everything that a user would compare compared: the
//! server's items and a live subscriber's at each of the ten checkpoints of a history.
//! `DELTASYNC_REPLAY=small` leaves out the largest; histories that are not present are passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::{Duration, Instant};

use sync_proto::limits::{COMMIT_MUTATIONS_MAX, SUBSCRIBE_TARGETS_MAX};
use sync_proto::types::{CollectionName, Event, Mutation, Subscribe, Version};
use sync_tests::compose::{commit, scratch};
use sync_tests::data::{History, State, state_sha256};
use sync_tests::reader::PlainReader;
use sync_tests::report::not_run;
use sync_tests::server::TestServer;
use sync_tests::stream::Events;
use sync_tests::wire::Wire;

/// Commits that are under way at once, where order does not matter: parts of one transaction.
const PARTS_AT_ONCE: usize = 4;

/// Copies of all collections of a history, kept by streams and nothing else.
struct Followers {
    wire: Wire,
    readers: BTreeMap<CollectionName, PlainReader>,
    /// Each with what it follows.
    streams: Vec<(Events, Vec<CollectionName>)>,
}

/// G1, G4, G7, G9: the shipped history: 2,778 transactions over 1,121 collections.
#[tokio::test(flavor = "multi_thread")]
async fn membership_of_an_organisation() {
    replay(&History::shipped()).await;
}

/// G1, G4, G7, G9: the files of a repository over ten years.
#[tokio::test(flavor = "multi_thread")]
async fn tree_of_a_repository() {
    replay_if_present("tree-tokio").await;
}

/// G1, G4, G7, G9: feature flags.
#[tokio::test(flavor = "multi_thread")]
async fn flags_of_a_browser() {
    replay_if_present("flags-brave").await;
}

/// G1, G4, G7, G8, G9: a catalog of 190,000 items whose largest transaction has 91,875 changes.
#[tokio::test(flavor = "multi_thread")]
async fn catalog_of_airports() {
    if env::var("DELTASYNC_REPLAY").is_ok_and(|replay| replay == "small") {
        not_run("catalog-ourairports", "left out by DELTASYNC_REPLAY=small");
        return;
    }
    replay_if_present("catalog-ourairports").await;
}

async fn replay_if_present(name: &str) {
    match History::beside(name) {
        Some(history) => replay(&history).await,
        None => not_run(name, "the history is not present"),
    }
}

async fn replay(history: &History) {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), |config| config.cache_mib = 64).await;
    let wire = server.wire();
    let manifest = history.manifest();
    let mut followers = Followers::of(wire.clone());
    let (mut heads, mut checked, mut last) = (BTreeMap::new(), 0, String::new());
    let began = Instant::now();
    for transaction in history.transactions() {
        followers.expect(&transaction.mutations).await;
        write(wire, &mut heads, transaction.mutations).await;
        if let Some(wanted) = manifest.checkpoints.get(&transaction.number) {
            let at = format!("transaction {}", transaction.number);
            last = state_sha256(&pull_everything(wire, heads.keys()).await);
            assert_eq!(&last, wanted, "the server's state at {at}");
            followers.reach(&heads).await;
            assert_eq!(&state_sha256(&followers.state()), wanted, "the subscriber's state at {at}");
            checked += 1;
        }
    }
    assert_eq!(checked, manifest.checkpoints.len(), "every checkpoint was compared");
    assert_eq!(last, manifest.final_state_sha256);
    eprintln!("{} transactions in {:?}", manifest.transactions, began.elapsed());
    server.stop().await;
}

/// Commits a transaction; a larger one than a commit may be goes in parts.
async fn write(
    wire: &Wire,
    heads: &mut BTreeMap<CollectionName, Version>,
    mutations: Vec<Mutation>,
) {
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for mutation in mutations {
        let size = mutation.op.size();
        if part.len() == COMMIT_MUTATIONS_MAX || bytes + size > 3_000_000 {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(mutation);
    }
    parts.push(part);
    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let now: Vec<_> = parts.by_ref().take(PARTS_AT_ONCE).collect();
        let commits = now.into_iter().map(|part| wire.try_commit(commit(part)));
        for done in futures::future::join_all(commits).await {
            for done in done.unwrap() {
                let head = heads.entry(done.collection).or_insert(done.version);
                *head = done.version.max(*head);
            }
        }
    }
}

/// The state of the server, every collection by a first load.
async fn pull_everything(wire: &Wire, names: impl Iterator<Item = &CollectionName>) -> State {
    let mut state = State::new();
    for name in names {
        add(&mut state, &wire.load(name.as_str()).await);
    }
    state
}

fn add(state: &mut State, reader: &PlainReader) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let items = reader.contents().into_iter().map(|(key, value)| (text(key), value));
    state.insert(reader.target.collection.to_string(), items.collect());
}

// === impl Followers ===

impl Followers {
    fn of(wire: Wire) -> Self {
        Self { wire, readers: BTreeMap::new(), streams: Vec::new() }
    }

    /// Follows the collections that are new in these mutations, before they are created.
    async fn expect(&mut self, mutations: &[Mutation]) {
        let mut new: BTreeSet<_> = mutations.iter().map(|mutation| &mutation.collection).collect();
        new.retain(|name| !self.readers.contains_key(*name));
        let new: Vec<_> = new.into_iter().cloned().collect();
        for names in new.chunks(SUBSCRIBE_TARGETS_MAX) {
            let targets: Vec<_> = names.iter().map(|name| scratch(name.as_str())).collect();
            for target in &targets {
                let reader = PlainReader::new(target.clone());
                self.readers.insert(target.collection.clone(), reader);
            }
            let heartbeat = Duration::from_secs(5);
            let ask = Subscribe { targets, heartbeat, client_id: String::new() };
            let mut events = self.wire.try_subscribe(ask).await.unwrap();
            events.accepted().await;
            self.streams.push((events, names.to_vec()));
        }
    }

    /// Hears everything up to these heads.
    async fn reach(&mut self, heads: &BTreeMap<CollectionName, Version>) {
        for (events, names) in &mut self.streams {
            let readers = &mut self.readers;
            while names.iter().any(|name| readers[name].version() < heads[name]) {
                let event = events.next().await;
                for name in names.iter().filter(|name| concerns(&event, name)) {
                    readers.get_mut(name).unwrap().hear(&event);
                }
            }
        }
    }

    fn state(&self) -> State {
        let mut state = State::new();
        for reader in self.readers.values() {
            add(&mut state, reader);
        }
        state
    }
}

/// Whether an event is about a collection.
fn concerns(event: &Event, name: &CollectionName) -> bool {
    match event {
        Event::Changes(about, _) | Event::CaughtUp(about, _) => about == name,
        Event::Bookmark(..) => true,
        Event::Lagging(..) => false,
        Event::Accepted(..)
        | Event::Notice(..)
        | Event::InboxNotice(_)
        | Event::Reset(..)
        | Event::Absent(_)
        | Event::Revoked(_)
        | Event::Failed(..)
        | Event::Goodbye(_) => panic!("unexpected: {event:?}"),
    }
}
