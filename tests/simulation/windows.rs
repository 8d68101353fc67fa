//! Windows of the client as another kind of device, over the real ledger and the real subscriptions.
//! A stream keeps its order, as connections do; calls and streams are cut, late and lost, the
//! server dies and comes back, collections are deleted, purged, and get new epochs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::client::{Found, GetItemsReply};
use sync_client::window::{
    Action, AskId, Config, Detail, Fault, Input, Listed, Machine, Verdict, WindowStart, Wish,
};
use sync_proto::limits::PAGE_BYTES_MAX;
use sync_proto::types::{
    CollectionName, Commit, Epoch, Event, Item, Key, ListItems, ListOrder, Mutation, Op, SortKey,
    Subscribe, Timestamp, Value, Version,
};
use sync_proto::v1;
use sync_server::core::page::PageLimits;
use sync_server::core::request::Request;
use sync_server::core::retention::Retention;
use sync_server::engine::following::Following;
use sync_server::engine::ledger::{Ledger, Settings};
use sync_server::engine::listing::ListError;
use sync_server::engine::purging::Rest;
use sync_server::store::memory::MemoryStore;

/// Things that happen before it becomes quiet.
const STEPS: usize = 500;
/// Turns of quiet, of 200 ms, after which a window must be the list.
const QUIET_TURNS: usize = 500;
/// Seeds that have failed once. A late answer that an item had gone, when there was another under its
/// key.
const KEPT: [u64; 1] = [12_305];
/// Histories of a run that does not say.
const SEEDS_DEFAULT: u64 = 150;

/// The keys and versions of a collection in list order.
type State = Vec<(SortKey, Key, Version)>;

struct World {
    dice: StdRng,
    began: Instant,
    now: Duration,
    name: CollectionName,
    ledger: Option<Ledger<MemoryStore>>,
    following: Option<(AskId, Following)>,
    machine: Machine,
    questions: Vec<Action>,
    /// Answers that were given and not heard.
    late: Vec<Input>,
    /// What the stream has said and was not heard.
    pipe: VecDeque<Input>,
    history: BTreeMap<(u64, Version), State>,
}

/// G1, G5, G8: a window that calls itself complete is the list at the cursor that it names, and
/// after a quiet time it is complete at the head, with its contents.
#[test]
fn windows_are_the_list_whatever_happens() {
    crate::search("windows", &KEPT, SEEDS_DEFAULT, |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        world.come_to_rest();
    });
}

fn open(store: MemoryStore) -> Ledger<MemoryStore> {
    let retention = Retention { tombstone_age_max: Duration::from_secs(20), tombstones_max: 5 };
    let settings = Settings { retention, ..Settings::default() };
    Ledger::open(store, settings, &mut |_| {}).expect("the rows fit together")
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let name = CollectionName::new("list").expect("well-formed");
        let config = Config {
            collection: name.clone(),
            descending: dice.random_bool(0.5),
            heartbeat: Duration::from_secs(1),
            client_id: String::new(),
            details_bytes_max: 100_000,
            backoff_longest: Duration::from_secs(5),
        };
        let wish = Wish {
            rows: dice.random_range(1..10),
            start: WindowStart::Rank(0),
            moves: 0,
            on_screen: 0..usize::MAX,
        };
        let began = Instant::now();
        Self {
            machine: Machine::new(config, wish, seed, began),
            dice,
            began,
            now: Duration::ZERO,
            name,
            ledger: Some(open(MemoryStore::new())),
            following: None,
            questions: Vec::new(),
            late: Vec::new(),
            pipe: VecDeque::new(),
            history: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.dice.random_range(0..200));
        match self.dice.random_range(0..100) {
            0..35 => self.commit(),
            35..50 => self.answer(true),
            50..58 if !self.late.is_empty() => {
                let index = self.dice.random_range(0..self.late.len());
                let answer = self.late.swap_remove(index);
                self.handle(answer);
            }
            58..74 => self.say(),
            74..92 => self.hear(),
            92..94 => self.cut(),
            94..96 => self.purge(),
            96 if self.dice.random_bool(0.3) => self.delete_collection(),
            97 => self.restart_server(),
            _ => self.handle(Input::Elapsed),
        }
        let due = |at| at <= self.began + self.now;
        if self.machine.deadline().is_some_and(due) {
            self.handle(Input::Elapsed);
        }
    }

    fn clock(&self) -> Timestamp {
        let millis = u64::try_from(self.now.as_millis()).expect("short");
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    fn commit(&mut self) {
        let mut mutations = BTreeMap::new();
        for _ in 0..self.dice.random_range(1..4) {
            let key = format!("{:02}", self.dice.random_range(0..35));
            let key = Key::new(key).expect("short");
            let place = *["", "a", "b", "\0", "c"].choose(&mut self.dice).expect("not empty");
            let place = SortKey::new(place).expect("short");
            let there = self.items(|item| item.key == key).next().is_some();
            let op = match self.dice.random_range(0..10) {
                0..3 => Op::Delete { key: key.clone() },
                3..6 if there => Op::Reorder { key: key.clone(), sort_key: place },
                _ => {
                    let value = Value::new(self.dice.random::<u16>().to_string()).expect("short");
                    Op::Put { key: key.clone(), value, sort_key: Some(place) }
                }
            };
            mutations.insert(key, Mutation { collection: self.name.clone(), op });
        }
        let mutations = mutations.into_values().collect();
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        let now = self.clock();
        let dice = &mut self.dice;
        let mut mint = || Epoch::new(dice.random::<u64>() | 1).expect("not zero");
        let Some(ledger) = &self.ledger else { return };
        ledger.commit(&[request], now, &mut mint).expect("no fault is planned");
        self.moved();
    }

    /// The head moved: it is noted what is there now, and the stream hears of it.
    fn moved(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        if let Some(head) = ledger.head(&self.name) {
            let mut state: State =
                self.items(|_| true).map(|item| (item.sort_key, item.key, item.version)).collect();
            state.sort();
            self.history.insert((head.epoch.get(), head.version), state);
        }
        if let Some((_, following)) = &mut self.following {
            following.mark(BTreeSet::from([0]));
        }
    }

    fn items(&self, wanted: impl Fn(&Item) -> bool) -> impl Iterator<Item = Item> {
        let listed = self.ledger.as_ref().map(|ledger| {
            ledger.list_items(
                &ListItems {
                    collection: self.name.clone(),
                    order: ListOrder::Key,
                    descending: false,
                    page_size: 1_000,
                    page_token: bytes::Bytes::new(),
                    keys_only: false,
                    key_prefix: bytes::Bytes::new(),
                    stretch: sync_proto::types::OrderRange::default(),
                    skip: 0,
                },
                PAGE_BYTES_MAX,
            )
        });
        let items = match listed {
            Some(Ok(window)) => window.items,
            Some(Err(_)) | None => Vec::new(),
        };
        items.into_iter().filter(move |item| wanted(item)).collect::<Vec<_>>().into_iter()
    }

    fn purge(&mut self) {
        let now = self.clock();
        let Some(ledger) = &self.ledger else { return };
        while ledger.purge_step(now, &mut || true).expect("no fault") != Rest::Nothing {}
    }

    fn delete_collection(&mut self) {
        let now = self.clock();
        if let Some(ledger) = &self.ledger {
            let _gone = ledger.delete_collection(&self.name, None, now).expect("no fault");
            self.moved();
        }
    }

    /// The server dies with its connections, and is there again at once or later.
    fn restart_server(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            self.ledger = Some(open(ledger.store().crash()));
        }
        self.cut();
    }

    fn cut(&mut self) {
        self.pipe.clear();
        if let Some((id, _)) = self.following.take() {
            self.handle(Input::StreamEnded(id, Fault::Passing));
        }
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(input, self.began + self.now);
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::List(..) | Action::Fetch(..) => self.questions.push(action),
                Action::Open(id, subscribe) => self.subscribe(id, subscribe),
                Action::Close => {
                    self.following = None;
                    self.pipe.clear();
                }
            }
        }
    }

    fn subscribe(&mut self, id: AskId, asked: Subscribe) {
        self.pipe.clear();
        let wire = v1::SubscribeRequest::from(asked);
        let asked = Subscribe::try_from(wire).expect("what a window asks is well-formed");
        let Some(ledger) = &self.ledger else { return };
        let limits = PageLimits { changes_max: self.dice.random_range(1..5), ..PageLimits::FULL };
        let (following, accepted) = Following::accept(ledger, asked.targets, limits, |_| true);
        self.following = Some((id, following));
        self.tell(Event::Accepted(accepted, asked.heartbeat));
    }

    /// A message of the stream, over the wire and back.
    fn tell(&mut self, event: Event<bytes::Bytes>) {
        let Some((id, _)) = &self.following else { return };
        let event = Event::try_from(v1::SubscribeResponse::from(event));
        self.pipe.push_back(Input::Event(*id, event.expect("what the server says is well-formed")));
    }

    fn say(&mut self) {
        let (slow, now) = (self.dice.random_bool(0.1), self.clock());
        let (Some(ledger), Some((_, following))) = (&self.ledger, &mut self.following) else {
            return;
        };
        let mut events = following.step(ledger, slow).expect("reads never fail");
        if events.is_empty() {
            events.push(following.bookmark(now));
        }
        for event in events {
            self.tell(event);
        }
    }

    fn hear(&mut self) {
        if let Some(input) = self.pipe.pop_front() {
            self.handle(input);
        }
    }

    fn answer(&mut self, faults: bool) {
        if self.questions.is_empty() {
            return;
        }
        let index = self.dice.random_range(0..self.questions.len());
        let vanishes = faults && self.dice.random_bool(0.15);
        let input = match (self.questions.swap_remove(index), &self.ledger) {
            (Action::List(id, _), _) if vanishes => Input::Listed(id, Err(Fault::Passing)),
            (Action::Fetch(id, _), _) if vanishes => Input::Fetched(id, Err(Fault::Passing)),
            (Action::List(id, list), Some(ledger)) => Input::Listed(id, listed(ledger, list)),
            (Action::Fetch(id, keys), Some(ledger)) => {
                let found = ledger
                    .get_items(&self.name, &keys, false, PAGE_BYTES_MAX)
                    .map_err(|e| fault(&e));
                let reply = found.map(|found| GetItemsReply {
                    results: found
                        .results
                        .into_iter()
                        .map(|result| result.map_or_else(Found::Gone, Found::Item))
                        .collect(),
                    head: found.head,
                });
                Input::Fetched(id, reply)
            }
            (other, _) => unreachable!("not a question: {other:?}"),
        };
        if faults && self.dice.random_bool(0.4) {
            self.late.push(input);
        } else {
            self.handle(input);
        }
    }

    /// What the window says of itself is true.
    fn check(&self) {
        let view = self.machine.view();
        let Verdict::Complete { at } = view.verdict else { return };
        let then = &self.history[&(at.epoch.get(), at.version)];
        assert_eq!(self.shown(), self.first_of(then), "complete at {at}");
    }

    fn shown(&self) -> State {
        let rows = self.machine.view().rows.into_iter();
        rows.map(|row| (row.sort_key, row.key, row.version)).collect()
    }

    fn first_of(&self, state: &State) -> State {
        let mut first = state.clone();
        if self.machine.config().descending {
            first.reverse();
        }
        first.truncate(self.machine.wish().rows);
        first
    }

    fn come_to_rest(&mut self) {
        for answer in std::mem::take(&mut self.late) {
            self.handle(answer);
        }
        for _ in 0..QUIET_TURNS {
            self.now += Duration::from_millis(200);
            self.handle(Input::Elapsed);
            while !self.questions.is_empty() {
                self.answer(false);
            }
            self.say();
            while !self.pipe.is_empty() {
                self.hear();
                self.check();
            }
        }
        let view = self.machine.view();
        let head = self.ledger.as_ref().and_then(|ledger| ledger.head(&self.name));
        let Some(head) = head else {
            assert_eq!(view.verdict, Verdict::Absent);
            return;
        };
        assert_eq!(view.verdict, Verdict::Complete { at: head.cursor() }, "{:?}", self.machine);
        self.check();
        for row in &view.rows {
            let item = self.items(|item| item.key == row.key).next().expect("it is there");
            assert_eq!(row.detail, Detail::Known(item.value.expect("it was asked for")));
        }
    }
}

/// A page, asked for over the wire.
fn listed(ledger: &Ledger<MemoryStore>, list: ListItems) -> Result<Listed, Fault> {
    let wire = v1::ListItemsRequest::from(list);
    let mut list = ListItems::try_from(wire).expect("what a window asks is well-formed");
    list.page_size = list.page_size.min(4);
    let window = ledger.list_items(&list, PAGE_BYTES_MAX).map_err(|error| fault(&error))?;
    let next = (!window.next.is_empty()).then_some(window.next);
    Ok(Listed { items: window.items, next, head: window.head, skipped: window.skipped })
}

fn fault(error: &ListError) -> Fault {
    match error {
        ListError::NotFound => Fault::Absent,
        ListError::Token(_) => Fault::BeginAgain,
        ListError::Store(_) | _ => panic!("a read failed: {error}"),
    }
}
