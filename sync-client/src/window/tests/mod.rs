//! A window over a bad network, and what it says of itself meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::types::{CollectionName, Event, Key, OrderPlace, Position, SortKey, Timestamp};

use self::server::{GET_KEYS, Server, Stream};
use super::machine::{Action, AskId, Config, Fault, Input, Machine, WindowStart, Wish};
use super::view::{Detail, Verdict, WindowDifference, WindowView, differences};

mod scenes;
mod server;

/// Random cases when the environment does not name one by `DELTASYNC_SEED`.
const CASES: u64 = 300;
const STEPS: usize = 400;

/// A window, its server, and what is on the way between them.
struct World {
    dice: StdRng,
    now: Instant,
    server: Server,
    machine: Machine,
    questions: Vec<(AskId, Action)>,
    /// Answers that the server has given and the window has not heard.
    late: Vec<Input>,
    stream: Option<(AskId, Stream)>,
    /// Events that the server has said and the window has not heard.
    pipe: Vec<Event>,
    /// What a consumer was told last, and the keys that it has.
    told: Option<WindowView>,
    consumer: BTreeMap<Key, u64>,
    /// Contents that were fetched, by key and version of the value.
    fetched: BTreeMap<(Key, u64), u32>,
    moves: u64,
}

fn config(descending: bool) -> Config {
    Config {
        collection: CollectionName::new("list").unwrap(),
        descending,
        heartbeat: Duration::from_secs(1),
        client_id: String::new(),
        details_bytes_max: 100_000,
        backoff_longest: Duration::from_secs(5),
    }
}

fn wish(rows: usize, start: WindowStart, on_screen: Range<usize>) -> Wish {
    Wish { rows, start, moves: 0, on_screen }
}

fn key(name: &str) -> Key {
    Key::new(Bytes::copy_from_slice(name.as_bytes())).unwrap()
}

fn sort_key(at: &str) -> SortKey {
    SortKey::new(Bytes::copy_from_slice(at.as_bytes())).unwrap()
}

fn seeds() -> Range<u64> {
    match std::env::var("DELTASYNC_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("DELTASYNC_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..CASES,
    }
}

/// G1, G8: whatever is lost, late or cut, a window that calls itself complete shows exactly what
/// the collection had there at the cursor that it names, and after a quiet time it is complete at
/// the head, with all contents.
#[test]
fn a_complete_window_is_the_list_at_its_cursor() {
    for seed in seeds() {
        eprintln!("DELTASYNC_SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        world.come_to_rest();
    }
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        let descending = dice.random_bool(0.5);
        let wish = wish(dice.random_range(1..12), WindowStart::Rank(0), 0..usize::MAX);
        let machine = Machine::new(config(descending), wish, seed, now);
        Self {
            dice,
            now,
            server: Server::new(),
            machine,
            questions: Vec::new(),
            late: Vec::new(),
            stream: None,
            pipe: Vec::new(),
            told: None,
            consumer: BTreeMap::new(),
            fetched: BTreeMap::new(),
            moves: 0,
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.dice.random_range(0..300));
        match self.dice.random_range(0..100) {
            0..30 => self.write(),
            30..42 => self.answer(true),
            42..50 if !self.late.is_empty() => {
                let index = self.dice.random_range(0..self.late.len());
                let answer = self.late.swap_remove(index);
                self.handle(answer);
            }
            50..70 => self.say(),
            70..88 => self.hear(),
            88..91 => self.cut(),
            91..93 => self.wish(),
            93 if self.dice.random_bool(0.2) => self.server.delete_collection(),
            94 => self.server.forget_deletes(),
            _ => self.handle(Input::Elapsed),
        }
        if self.machine.deadline().is_some_and(|at| at <= self.now) {
            self.handle(Input::Elapsed);
        }
    }

    fn write(&mut self) {
        let name = format!("{:02}", self.dice.random_range(0..40));
        let at = ["", "a", "b", "c", "d"][self.dice.random_range(0..5)];
        match self.dice.random_range(0..10) {
            0..3 => self.server.delete(&key(&name)),
            3..6 => self.server.reorder(&key(&name), sort_key(at)),
            _ => {
                let value = format!("{name}{}", self.dice.random::<u8>());
                self.server.put(&key(&name), sort_key(at), &value);
            }
        }
    }

    fn wish(&mut self) {
        let mut wish = self.machine.wish.clone();
        match self.dice.random_range(0..3) {
            0 => wish.rows = self.dice.random_range(1..15),
            1 => wish.on_screen = 0..self.dice.random_range(1..15),
            _ => {
                self.moves += 1;
                wish.moves = self.moves;
                wish.start = match self.dice.random_range(0..3) {
                    0 => WindowStart::Rank(0),
                    1 => WindowStart::Rank(self.dice.random_range(0..60)),
                    _ => {
                        let at = ["", "a", "c", "e"][self.dice.random_range(0..4)];
                        WindowStart::Place(OrderPlace { sort_key: sort_key(at), key: None })
                    }
                };
            }
        }
        self.handle(Input::Wish(wish));
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(input, self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::List(id, _) | Action::Fetch(id, _) => self.questions.push((id, action)),
                Action::Open(id, subscribe) => {
                    let stream = Stream::new(subscribe.targets[0].clone());
                    self.stream = Some((id, stream));
                    self.pipe.clear();
                }
                Action::Close => {
                    self.stream = None;
                    self.pipe.clear();
                }
            }
        }
        let view = self.machine.view();
        self.tell(view);
    }

    /// Answers a question: it is heard at once, or later, or not at all.
    fn answer(&mut self, faults: bool) {
        if self.questions.is_empty() {
            return;
        }
        let index = self.dice.random_range(0..self.questions.len());
        let (id, question) = self.questions.swap_remove(index);
        let fails = faults && self.dice.random_bool(0.15);
        let input = match question {
            Action::List(_, list) if fails => {
                drop(list);
                Input::Listed(id, Err(Fault::Passing))
            }
            Action::List(_, list) => Input::Listed(id, self.server.list(&list)),
            Action::Fetch(..) if fails => Input::Fetched(id, Err(Fault::Passing)),
            Action::Fetch(_, keys) => {
                let reply = self.server.get(&keys);
                // As many as the server answers.
                for key in keys.iter().take(GET_KEYS) {
                    let version = self.server.value_version(key);
                    *self.fetched.entry((key.clone(), version)).or_default() += 1;
                }
                Input::Fetched(id, reply)
            }
            Action::Open(..) | Action::Close => unreachable!("no question"),
        };
        if faults && self.dice.random_bool(0.5) {
            self.late.push(input);
        } else {
            self.handle(input);
        }
    }

    /// Lets the server say the next thing on the stream.
    fn say(&mut self) {
        let page = self.dice.random_range(1..4);
        if let Some((_, stream)) = &mut self.stream {
            self.pipe.extend(stream.say(&self.server, page));
            if self.dice.random_bool(0.2) {
                self.bookmark();
            }
        }
    }

    /// A sign of life, with the position of a target that is caught up.
    fn bookmark(&mut self) {
        let Some((_, stream)) = &self.stream else { return };
        let position = stream.position(&self.server).map(|cursor| Position {
            collection: CollectionName::new("list").unwrap(),
            cursor,
            digest: None,
            commit_time: Timestamp::default(),
        });
        if stream.has_begun() {
            let positions = position.into_iter().collect();
            self.pipe.push(Event::Bookmark(positions, Timestamp::default()));
        }
    }

    fn hear(&mut self) {
        let Some((id, _)) = &self.stream else { return };
        if !self.pipe.is_empty() {
            let event = self.pipe.remove(0);
            self.handle(Input::Event(*id, event));
        }
    }

    fn cut(&mut self) {
        if let Some((id, _)) = self.stream.take() {
            self.pipe.clear();
            self.handle(Input::StreamEnded(id, Fault::Passing));
        }
    }

    /// A consumer of the differences has the keys that are shown.
    fn tell(&mut self, view: WindowView) {
        for difference in differences(self.told.as_ref(), &view) {
            match difference {
                WindowDifference::Entered(_, row) => {
                    assert!(self.consumer.insert(row.key, row.version.get()).is_none());
                }
                WindowDifference::Changed(_, row) => {
                    assert!(self.consumer.insert(row.key, row.version.get()).is_some());
                }
                WindowDifference::Deleted(key) => {
                    assert!(self.server.was_deleted(&key), "{key:?} was never deleted");
                    assert!(self.consumer.remove(&key).is_some());
                }
                WindowDifference::Left(key) | WindowDifference::Vanished(key) => {
                    assert!(self.consumer.remove(&key).is_some());
                }
                WindowDifference::Moved => self.consumer.clear(),
                WindowDifference::Verdict(_) => {}
            }
        }
        let shown: BTreeMap<Key, u64> =
            view.rows.iter().map(|row| (row.key.clone(), row.version.get())).collect();
        assert_eq!(self.consumer, shown);
        self.told = Some(view);
    }

    /// What the window says of itself is true.
    fn check(&self) {
        let view = self.machine.view();
        let (Verdict::Complete { at } | Verdict::Truncated { at }) = view.verdict else { return };
        let held = self.machine.held.as_ref().expect("rows are complete");
        let descending = self.machine.config.descending;
        let range = held.span.range();
        let then = self.server.at(at);
        let inside = then.iter().filter(|row| range.contains(&row.0, &row.1)).cloned();
        let mut inside: Vec<_> = inside.collect();
        if descending {
            inside.reverse();
        }
        inside.truncate(self.machine.rows_wanted());
        let shown: Vec<_> = view
            .rows
            .iter()
            .map(|row| (row.sort_key.clone(), row.key.clone(), row.version))
            .collect();
        assert_eq!(shown, inside, "at {at}");
        if self.machine.wish.start == WindowStart::Rank(0) {
            let mut all = then.clone();
            if descending {
                all.reverse();
            }
            all.truncate(self.machine.rows_wanted());
            assert_eq!(shown, all, "at {at}, from the beginning");
        }
        for row in &view.rows {
            if let Detail::Known(value) = &row.detail {
                assert!(self.server.had(&row.key, value), "a content that never was");
            }
        }
    }

    /// Nothing is lost any more, nothing is written: the window is the list.
    fn come_to_rest(&mut self) {
        for answer in std::mem::take(&mut self.late) {
            self.handle(answer);
            self.check();
        }
        for _ in 0..600 {
            self.now += Duration::from_millis(200);
            self.handle(Input::Elapsed);
            while !self.questions.is_empty() {
                self.answer(false);
                self.check();
            }
            self.say();
            self.bookmark();
            while self.stream.is_some() && !self.pipe.is_empty() {
                self.hear();
                self.check();
            }
        }
        let view = self.machine.view();
        let Some(head) = self.server.head() else {
            assert_eq!(view.verdict, Verdict::Absent);
            assert!(view.rows.is_empty());
            return;
        };
        let complete = Verdict::Complete { at: head.cursor() };
        assert_eq!(view.verdict, complete, "{:#?}", self.machine);
        assert_eq!(view.total, Some(head.items));
        let screen = self.machine.wish.on_screen.end;
        for row in view.rows.iter().take(screen) {
            let wanted = self.server.value(&row.key).expect("it is in the list");
            assert_eq!(row.detail, Detail::Known(wanted), "{:?}", row.key);
        }
        assert!(self.machine.deadline().is_some_and(|at| at > self.now), "it would never wake");
    }
}
