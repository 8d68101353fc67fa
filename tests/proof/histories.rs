//! Several clients at the same time commit, compare and set, read from the server, follow streams
//! and wait for what they wrote in copies of their own, while the server is killed and started
//! again. Everything that they are told is written down and must be what a right server can say.
//! `DELTASYNC_HISTORY_STEPS` sets how much each client does, `DELTASYNC_HISTORY_KILLS` how often
//! the server dies meanwhile, `DELTASYNC_HISTORIES` how many histories there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::{Collection, Entry, MemoryStore, Raw};
use sync_proto::digest::Digest;
use sync_proto::types::{Commit, Committed, Cursor, Mutation, Precondition, Subscribe};
use sync_proto::v1;
use sync_tests::compose::{delete, key, name, put, scratch, version};
use sync_tests::device::Device;
use sync_tests::history::{Condition, Event, Items, Source, What, check};
use sync_tests::process::Program;
use sync_tests::reader::PlainReader;
use sync_tests::seed::{dice, number};
use sync_tests::wait::{PATIENCE, pass, within};
use sync_tests::wire::Wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use crate::SERVER;
use sync_tests::report::report;

/// Sizes when the environment does not say.
const STEPS: u64 = 400;
const KILLS: u64 = 3;
const HISTORIES: u64 = 1;

/// Who takes part.
const WRITERS: usize = 5;
const COPIES: usize = 2;
const FOLLOWERS: usize = 2;

/// Few keys, so that clients are in each other's way.
const KEYS: u64 = 6;

/// The first takes every commit, the second some of them.
const COLLECTIONS: [&str; 2] = ["often", "seldom"];

/// Before an unanswered commit is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// What all clients share: the server, the clock, and what they wrote down of each collection.
#[derive(Clone)]
struct World {
    program: Program,
    clock: Arc<AtomicU64>,
    written: Arc<Mutex<[Vec<Event>; 2]>>,
}

/// Somebody who asks.
struct Client {
    id: usize,
    world: World,
    wire: Wire,
    dice: StdRng,
    commits: u64,
}

/// G2, G4, G7: commits of a collection have one order that everybody sees, also across kills; reads
/// see all of a commit or nothing, never the past of what was known, and never go back; who waits
/// for a write reads it; a condition is judged at one moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_saw_is_what_a_right_server_says() {
    let (mut dice, _seed) = dice();
    let (mut events, mut commits, mut refused, mut kills) = (0, 0, 0, 0);
    for _ in 0..number("DELTASYNC_HISTORIES").unwrap_or(HISTORIES) {
        let written = record(&mut dice, &mut kills).await;
        for (collection, history) in COLLECTIONS.into_iter().zip(&written) {
            let seen = check(history);
            seen.unwrap_or_else(|wrong| {
                panic!("{collection}: {wrong}: {:#?}", told(history, &wrong))
            });
            let count =
                |of: fn(&What) -> bool| history.iter().filter(|told| of(&told.what)).count();
            events += history.len();
            commits += count(|what| matches!(what, What::Committed { .. }));
            refused += count(|what| matches!(what, What::Refused(_)));
        }
    }
    assert!(commits > 0 && refused > 0, "{commits} commits, {refused} refusals");
    report(&format!(
        "histories: {events} events, {commits} commits, {refused} refusals, {kills} kills"
    ));
}

/// The events that a finding is about.
fn told<'a>(history: &'a [Event], wrong: &impl std::fmt::Display) -> Vec<&'a Event> {
    let text = wrong.to_string();
    let numbers = text.split(|letter: char| !letter.is_ascii_digit());
    numbers.filter_map(|number| history.get(number.parse::<usize>().ok()?)).collect()
}

/// Lets everybody work on a fresh store, and returns what they wrote down.
async fn record(dice: &mut StdRng, kills: &mut u64) -> [Vec<Event>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let world = World { program, clock: Arc::default(), written: Arc::default() };
    let steps = number("DELTASYNC_HISTORY_STEPS").unwrap_or(STEPS);
    let mut first = world.client(0, dice);
    first.commit(vec![0, 1], vec![("k0".to_owned(), true)], None).await;
    let done = CancellationToken::new();
    let (working, following) = (TaskTracker::new(), TaskTracker::new());
    for id in 1..=WRITERS {
        working.spawn(world.client(id, dice).work(steps));
    }
    for id in 100..100 + COPIES {
        working.spawn(world.client(id, dice).write_and_read(steps / 2));
    }
    for id in 200..200 + FOLLOWERS {
        following.spawn(world.client(id, dice).follow(id % 2, done.clone()));
    }
    working.close();
    following.close();
    for _ in 0..number("DELTASYNC_HISTORY_KILLS").unwrap_or(KILLS) {
        pass(Duration::from_millis(dice.random_range(50..400))).await;
        if working.is_empty() {
            break;
        }
        process.kill();
        *kills += 1;
        process = world.program.start_serving().await;
    }
    within("all clients to have done their work", working.wait()).await;
    done.cancel();
    within("the followers to end", following.wait()).await;
    process.kill();
    std::mem::take(&mut *world.written.lock())
}

// === impl World ===

impl World {
    fn client(&self, id: usize, dice: &mut StdRng) -> Client {
        let (wire, dice) = (self.program.wire(), StdRng::seed_from_u64(dice.random()));
        Client { id, world: self.clone(), wire, dice, commits: 0 }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

// === impl Client ===

impl Client {
    async fn work(mut self, steps: u64) {
        for _ in 0..steps {
            // What cannot be read because the server is dead is read another time.
            match self.dice.random_range(0..10) {
                0..3 => self.write_blindly().await,
                3..6 => self.compare_and_set().await,
                6 => drop(self.get_items().await),
                7 => drop(self.list().await),
                _ => drop(self.load().await),
            }
        }
    }

    /// Writes, waits until the own copy has it, and reads there.
    async fn write_and_read(mut self, steps: u64) {
        let uri = format!("http://{}", self.world.program.address());
        let device = Device::start(&uri, MemoryStore::new(), &COLLECTIONS[..1]);
        let copy = device.collection(COLLECTIONS[0]);
        for _ in 0..steps {
            let writes = vec![(self.some_key(), true), (self.some_key(), true)];
            let done = self.commit(vec![0], writes, None).await;
            let done = done.expect("it has no condition");
            let epoch = done[0].epoch.expect("it exists");
            let cursor = Cursor { epoch, version: done[0].version, base: version(0) };
            copy.wait_for(cursor, PATIENCE).await.unwrap();
            let sent = self.world.now();
            let (version, items) = one_moment(&copy).await;
            self.saw_copy(0, sent, version, items, cursor.version.get());
        }
        device.stop().await;
    }

    /// Follows a collection on streams, one after the other.
    async fn follow(self, collection: usize, done: CancellationToken) {
        let mut reader = PlainReader::new(scratch(COLLECTIONS[collection]));
        while !done.is_cancelled() {
            let subscribe = Subscribe {
                targets: vec![reader.target.clone()],
                heartbeat: Duration::from_millis(100),
                client_id: String::new(),
            };
            let Ok(mut events) = self.wire.try_subscribe(subscribe).await else {
                pass(AGAIN_AFTER).await;
                continue;
            };
            loop {
                let sent = self.world.now();
                let event = tokio::select! {
                    biased;
                    () = done.cancelled() => return,
                    event = events.try_next() => event,
                };
                let Ok(Some(event)) = event else { break };
                reader.hear(&event);
                if !reader.is_loading() {
                    self.saw_copy(collection, sent, reader.version().get(), items(&reader), 0);
                }
            }
        }
    }

    /// Some items at once, some of them deleted, without a condition.
    async fn write_blindly(&mut self) {
        let keys = [self.some_key(), self.some_key(), self.some_key()];
        let keep = [true, self.dice.random_bool(0.7), self.dice.random_bool(0.7)];
        let writes = keys.into_iter().zip(keep).collect();
        let both = if self.dice.random_bool(0.3) { vec![0, 1] } else { vec![0] };
        self.commit(both, writes, None).await;
    }

    /// Changes what was just read, if it is still so.
    async fn compare_and_set(&mut self) {
        let Ok((head, items)) = self.list().await else { return };
        let key = self.some_key();
        let condition = match (self.dice.random_range(0..6), items.get(&key)) {
            (0, _) => Condition::Head(head),
            (1, Some(_)) => Condition::Present(key.clone()),
            (_, Some((version, _))) => Condition::Item(key.clone(), *version),
            (_, None) => Condition::Absent(key.clone()),
        };
        self.commit(vec![0], vec![(key, true)], Some(condition)).await;
    }

    /// Commits; `None` = the condition did not hold. Each key is written once, the last word
    /// counts.
    async fn commit(
        &mut self,
        collections: Vec<usize>,
        writes: Vec<(String, bool)>,
        condition: Option<Condition>,
    ) -> Option<Vec<Committed>> {
        self.commits += 1;
        let number = (self.id as u64) << 32 | self.commits;
        // It must change something: a commit that does nothing has no version.
        let own = (format!("own {}", self.id), true);
        let writes = writes.into_iter().chain([own]);
        let writes: BTreeMap<String, Option<u64>> =
            writes.map(|(key, kept)| (key, kept.then_some(number))).collect();
        let commit = Commit {
            mutations: mutations(&collections, &writes),
            preconditions: condition.iter().map(precondition).collect(),
            idempotency_key: number.to_string(),
        };
        let sent = self.world.now();
        let answer = self.answer(commit).await;
        let during = sent..=self.world.now();
        let note = |collection: usize, what| {
            let event = Event { client: self.id, during: during.clone(), what };
            self.world.written.lock()[collection].push(event);
        };
        match answer {
            Ok(done) => {
                for told in &done {
                    let place =
                        COLLECTIONS.iter().position(|name| *name == told.collection.as_str());
                    let place = place.expect("one of the two");
                    let (prev, version) = (told.prev_version.get(), told.version.get());
                    let condition = condition.clone().filter(|_| place == 0);
                    let writes = writes.clone();
                    note(place, What::Committed { prev, version, writes, condition });
                }
                Some(done)
            }
            Err(status) => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                note(0, What::Refused(condition.expect("only a condition can fail")));
                None
            }
        }
    }

    /// Sends a commit until there is an answer.
    async fn answer(&self, commit: Commit) -> Result<Vec<Committed>, Status> {
        let begun = Instant::now();
        loop {
            let answer = self.wire.try_commit(commit.clone()).await;
            if !unanswered(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "a commit is never answered: {answer:?}");
            pass(AGAIN_AFTER).await;
        }
    }

    /// Some of the items, by key.
    async fn get_items(&mut self) -> Result<(), Status> {
        let asked = vec![self.some_key(), self.some_key(), self.some_key()];
        let request = v1::GetItemsRequest {
            collection: COLLECTIONS[0].to_owned(),
            keys: asked.iter().map(|key| key.clone().into()).collect(),
            ..Default::default()
        };
        let sent = self.world.now();
        let mut client = self.wire.sync();
        let reply = within("items", client.get_items(request)).await?.into_inner();
        let found = reply.results.into_iter().filter_map(|result| match result.result {
            Some(v1::get_items_result::Result::Found(item)) => Some(item),
            Some(v1::get_items_result::Result::Gone(_)) | None => None,
        });
        self.saw_server(sent, reply.head, found.collect(), Some(asked));
        Ok(())
    }

    /// All items, by a listing.
    async fn list(&mut self) -> Result<(u64, Items), Status> {
        let request = v1::ListItemsRequest {
            collection: COLLECTIONS[0].to_owned(),
            page_size: 1_000,
            ..Default::default()
        };
        let sent = self.world.now();
        let mut client = self.wire.sync();
        let reply = within("a listing", client.list_items(request)).await?.into_inner();
        let seen = self.saw_server(sent, reply.head, reply.items, None);
        Ok(seen)
    }

    /// All items, by a first load.
    async fn load(&mut self) -> Result<(), Status> {
        let sent = self.world.now();
        let mut reader = PlainReader::new(scratch(COLLECTIONS[0]));
        loop {
            let request = v1::PullRequest {
                targets: vec![reader.target.clone().into()],
                ..Default::default()
            };
            if reader.take(self.wire.pull_raw(request).await?.remove(0)) {
                break;
            }
        }
        let (version, items) = (reader.version().get(), items(&reader));
        self.saw(0, sent, Source::Server, version, items, None, 0);
        Ok(())
    }

    fn saw_server(
        &self,
        sent: u64,
        head: Option<v1::Head>,
        items: Vec<v1::Item>,
        asked: Option<Vec<String>>,
    ) -> (u64, Items) {
        let version = head.expect("every answer has a head").version;
        let item = |item: v1::Item| (text(&item.key), (item.version, value(&item.value)));
        let items: Items = items.into_iter().map(item).collect();
        self.saw(0, sent, Source::Server, version, items.clone(), asked, 0);
        (version, items)
    }

    fn saw_copy(&self, collection: usize, sent: u64, version: u64, items: Items, waited_for: u64) {
        self.saw(collection, sent, Source::Copy, version, items, None, waited_for);
    }

    #[allow(clippy::too_many_arguments, reason = "one line per field of what is written down")]
    fn saw(
        &self,
        collection: usize,
        sent: u64,
        source: Source,
        version: u64,
        items: Items,
        asked: Option<Vec<String>>,
        waited_for: u64,
    ) {
        let what = What::Saw { source, version, items, asked, waited_for };
        let event = Event { client: self.id, during: sent..=self.world.now(), what };
        self.world.written.lock()[collection].push(event);
    }

    fn some_key(&mut self) -> String {
        let keys: Vec<u64> = (0..KEYS).collect();
        format!("k{}", keys.choose(&mut self.dice).expect("there are some"))
    }
}

/// Whether it happened is unknown, or it surely did not.
fn unanswered(answer: &Result<Vec<Committed>, Status>) -> bool {
    let codes = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded];
    answer.as_ref().is_err_and(|status| codes.contains(&status.code()))
}

fn mutations(collections: &[usize], writes: &BTreeMap<String, Option<u64>>) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for collection in collections.iter().map(|place| COLLECTIONS[*place]) {
        for (key, write) in writes {
            mutations.push(match write {
                Some(number) => put(collection, key, number.to_string()),
                None => delete(collection, key),
            });
        }
    }
    mutations
}

/// What a copy holds, and the version that this is the state of.
async fn one_moment(copy: &Collection<Raw>) -> (u64, Items) {
    let begun = Instant::now();
    loop {
        let standing = copy.standing();
        let (mut digest, mut items) = (Digest::default(), Items::new());
        let mut entries = copy.items().await.unwrap();
        while let Some(entry) = entries.next().await {
            let Entry { key, value: bytes, version, sort_key, .. } = entry.unwrap();
            digest += Digest::of_item(&key, version, &sort_key, &bytes);
            items.insert(text(key.as_bytes()), (version.get(), value(&bytes)));
        }
        if digest == standing.tally.digest {
            return (standing.cursor.expect("it waited for one").version.get(), items);
        }
        assert!(begun.elapsed() < PATIENCE, "a copy is never what it says");
        pass(Duration::from_millis(1)).await;
    }
}

fn precondition(condition: &Condition) -> Precondition {
    use sync_proto::types::Condition as Wanted;
    let condition = match condition {
        Condition::Head(at) => Wanted::HeadEquals(None, version(*at)),
        Condition::Item(item, at) => Wanted::ItemVersionEquals(key(item), version(*at)),
        Condition::Absent(item) => Wanted::ItemAbsent(key(item)),
        Condition::Present(item) => Wanted::ItemPresent(key(item)),
    };
    Precondition { collection: name(COLLECTIONS[0]), condition }
}

fn items(reader: &PlainReader) -> Items {
    let item = |(key, row): (&sync_proto::types::Key, &sync_tests::reader::Row)| {
        let number = value(row.value.as_ref().expect("it asked for values").as_bytes());
        (text(key.as_bytes()), (row.version.get(), number))
    };
    reader.copy.rows.iter().map(item).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn value(bytes: &[u8]) -> u64 {
    text(bytes).parse().unwrap()
}
