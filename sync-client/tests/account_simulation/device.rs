//! One device: a desk, its store, its line to the server, and what must hold after every action.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::account::desk::{
    AckFault, Action, Desk, DeskConfig, Holdings, Input, LOOKED_AT_STREAMED_MAX, PollId,
};
use sync_client::account::{Followed, Summary};
use sync_client::session::{self, Done, Fault, MendFault, MendId, PullId, StreamId, Task, work};
use sync_client::store::MemoryStore;
use sync_client::types::{
    CollectionName, Cursor, Event, InboxEntry, InboxNotice, Outcome, Plan, Pull, Subject, Subscribe,
};

use super::reference::{Log, NoRound, Serving, failure};
use super::{Seen, World, repairs};

mod books;
mod rough;

#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct Device {
    inbox: CollectionName,
    dice: StdRng,
    now: Instant,
    began: Instant,
    desk: Desk,
    store: MemoryStore,
    stream: Option<(StreamId, Serving, BTreeMap<CollectionName, InboxEntry>)>,
    link: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    /// The process is killed after so many actions.
    kill_in: Option<u32>,
    offline_until: Instant,
    flush_at: Option<Instant>,
    pulls: usize,
    list: BTreeMap<CollectionName, Followed>,
    summary: Summary,
    acked: Option<Cursor>,
    /// What the inbox says, as far as the device can know.
    told: BTreeMap<CollectionName, Option<InboxEntry>>,
    /// What the inbox said, and was done once.
    done: Vec<(CollectionName, Option<InboxEntry>)>,
    seen: Seen,
    history: Vec<String>,
    /// What happens is told if somebody looks for a fault.
    telling: bool,
    /// The store has changed since the books were compared with it, and with the server.
    written: bool,
    judged: bool,
    /// The store fails now and then.
    rough: bool,
    /// A note was not taken: until then what should be noted may not be.
    unnoted_until: Instant,
    /// Failures of the store since it took a note or was read last.
    failures: u32,
    /// What the rows of the inbox are the desk cannot know, because a write of them failed.
    doubtful: bool,
    /// Somebody who looks at something looks away then.
    look_away_at: Option<Instant>,
}

#[derive(Debug)]
enum Flight {
    ToClient(Input),
    Subscribe(StreamId, Subscribe),
    Pull(PullId, Pull),
    Poll(PollId, Option<CollectionName>),
    Ack(Cursor),
    Mend(CollectionName, MendId, Task),
}

/// Heads that one answer polls.
const POLLED_MAX: usize = 2;

fn config(now: Duration) -> DeskConfig {
    let clock_ms = 1_700_000_000_000 + u64::try_from(now.as_millis()).unwrap();
    let subject = Subject::new("ada").unwrap();
    DeskConfig { subject, clock_ms, ..DeskConfig::default() }
}

// === impl Device ===

impl Device {
    pub(crate) fn new(inbox: &CollectionName, seed: u64) -> Self {
        let (now, store) = (Instant::now(), MemoryStore::new());
        Self {
            inbox: inbox.clone(),
            dice: StdRng::seed_from_u64(seed),
            now,
            began: now,
            desk: Desk::new(config(Duration::ZERO), Holdings::default(), seed, now),
            store,
            stream: None,
            link: BTreeMap::new(),
            sent: 0,
            kill_in: None,
            offline_until: now,
            flush_at: None,
            pulls: 0,
            list: BTreeMap::new(),
            summary: Summary::default(),
            acked: None,
            told: BTreeMap::new(),
            done: Vec::new(),
            seen: Seen::default(),
            history: Vec::new(),
            telling: std::env::var_os("DELTASYNC_SEED").is_some(),
            written: true,
            judged: false,
            rough: true,
            unnoted_until: now,
            failures: 0,
            doubtful: false,
            look_away_at: None,
        }
    }

    pub(crate) fn cut(&mut self) {
        if let Some((id, ..)) = self.stream.take() {
            let ended = session::Input::StreamEnded(id, Fault::Passing);
            self.fly(Duration::from_millis(1), Flight::ToClient(Input::Session(ended)));
        }
    }

    pub(crate) fn kill_soon(&mut self) {
        self.kill_in = Some(self.dice.random_range(0..12));
    }

    pub(crate) fn go_offline(&mut self, time: Duration) {
        self.offline_until = self.now + time;
        self.stream = None;
    }

    pub(crate) fn reconnect(&mut self) {
        self.offline_until = self.now;
        self.kill_in = None;
        self.rough = false;
    }

    pub(crate) fn look_at(&mut self, names: &[CollectionName], dice: &mut StdRng) {
        let some = names.iter().filter(|_| dice.random_bool(0.2)).cloned().collect();
        // Not longer than a round trip, or so.
        let glance = dice.random_bool(0.5).then(|| dice.random_range(1..300));
        self.look_away_at = glance.map(|glance| self.now + Duration::from_millis(glance));
        self.input(Input::LookAt(some));
    }

    pub(crate) fn until_next(&self) -> Duration {
        let next = self.link.keys().next().map(|(at, _)| *at);
        let at = next.map_or(self.desk.deadline(), |at| at.min(self.desk.deadline()));
        let at = self.flush_at.map_or(at, |flush| at.min(flush));
        at.saturating_duration_since(self.now)
    }

    pub(crate) fn step(&mut self, time: Duration, world: &World) {
        self.now += time;
        self.push(world);
        while let Some((at, _)) = self.link.keys().next().copied()
            && at <= self.now
        {
            let (_, flight) = self.link.pop_first().unwrap();
            self.arrive(flight, world);
        }
        if self.look_away_at.is_some_and(|at| at <= self.now) {
            self.look_away_at = None;
            self.input(Input::LookAt(Vec::new()));
        }
        let mut turns = 0;
        while self.desk.deadline() <= self.now {
            self.input(Input::Session(session::Input::Elapsed));
            turns += 1;
            assert!(turns < 100, "it never rests\n{}", self.tell());
        }
        if self.flush_at.is_some_and(|at| at <= self.now) {
            self.flush_at = None;
            self.input(Input::Flushed);
        }
        if !std::mem::replace(&mut self.judged, true) {
            self.assert_nothing_is_claimed(world);
        }
    }

    /// The stream says what it has to say.
    fn push(&mut self, world: &World) {
        let Some((id, serving, told)) = &mut self.stream else { return };
        let limit = self.dice.random_range(1..8);
        let mut events = world.server.server.push(serving, limit);
        events.retain(
            |event| !matches!(event, Event::Changes(name, _) if world.denied.contains(name)),
        );
        if self.dice.random_bool(0.05) {
            events.push(world.server.server.bookmark(serving));
        }
        let id = *id;
        let mut inputs: Vec<Input> =
            events.into_iter().map(|e| Input::Session(session::Input::Event(id, e))).collect();
        for head in world.server.polled(&self.inbox, None, usize::MAX - 1).heads {
            if told.insert(head.collection.clone(), head.entry) != Some(head.entry) {
                let collections = &world.server.server.collections;
                let notice = InboxNotice {
                    inbox: self.inbox.clone(),
                    head: collections.get(&head.collection).map(Log::head),
                    collection: head.collection,
                };
                let event = session::Input::Event(id, Event::InboxNotice(notice));
                inputs.push(Input::Session(event));
            }
        }
        for input in inputs {
            let copies = match self.dice.random_range(0..100) {
                _ if world.calm => 1,
                0..5 => 0,
                5..10 => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let delay = if world.calm { 5 } else { self.dice.random_range(0..60) };
                self.fly(Duration::from_millis(delay), Flight::ToClient(input.clone()));
            }
        }
    }

    fn arrive(&mut self, flight: Flight, world: &World) {
        if self.now < self.offline_until && !matches!(flight, Flight::ToClient(_)) {
            return self.lose(flight);
        }
        match flight {
            Flight::ToClient(input) => {
                if let Input::Session(session::Input::Pulled(..)) = &input {
                    self.pulls -= 1;
                }
                self.input(input);
            }
            Flight::Subscribe(id, subscribe) => {
                let streamed = subscribe.targets.len();
                assert!(streamed <= 1 + LOOKED_AT_STREAMED_MAX, "{streamed} targets streamed");
                let (serving, mut accepted) = world.server.server.serve(&subscribe);
                if let Event::Accepted(targets, _) = &mut accepted {
                    let denied =
                        targets.iter_mut().filter(|t| world.denied.contains(&t.collection));
                    denied.for_each(|target| target.plan = Plan::Denied);
                }
                self.stream = Some((id, serving, BTreeMap::new()));
                let accepted = Input::Session(session::Input::Event(id, accepted));
                self.fly(Duration::from_millis(5), Flight::ToClient(accepted));
            }
            Flight::Pull(id, pull) => self.answer_pull(id, pull, world),
            Flight::Poll(id, after) => {
                if !world.calm && self.dice.random_bool(0.05) {
                    return self.lose(Flight::Poll(id, after));
                }
                let polled = world.server.polled(&self.inbox, after.as_ref(), POLLED_MAX);
                let input = Input::PolledOn(id, Ok(polled));
                self.fly(Duration::from_millis(20), Flight::ToClient(input));
            }
            Flight::Ack(cursor) => self.answer_ack(cursor, world),
            Flight::Mend(name, id, task) => {
                let answer = self.answer_mend(&name, &task, world);
                let input = session::Input::Mended(name, id, answer);
                self.fly(Duration::from_millis(30), Flight::ToClient(Input::Session(input)));
            }
        }
    }

    fn lose(&mut self, flight: Flight) {
        let input = match flight {
            Flight::ToClient(input) => input,
            Flight::Subscribe(id, _) => {
                Input::Session(session::Input::StreamEnded(id, Fault::Passing))
            }
            Flight::Pull(id, _) => Input::Session(session::Input::Pulled(id, Err(Fault::Passing))),
            Flight::Poll(id, _) => Input::PolledOn(id, Err(Fault::Passing)),
            Flight::Ack(_) => Input::Acked(Err(AckFault::Passing)),
            Flight::Mend(name, id, _) => {
                let fault = Err(MendFault::Call(Fault::Passing));
                Input::Session(session::Input::Mended(name, id, fault))
            }
        };
        self.fly(Duration::from_millis(100), Flight::ToClient(input));
    }

    fn answer_pull(&mut self, id: PullId, pull: Pull, world: &World) {
        if !world.calm && self.dice.random_bool(0.05) {
            return self.lose(Flight::Pull(id, pull));
        }
        assert!(pull.targets.len() <= 256);
        let limit = self.dice.random_range(1..8);
        let mut polled = None;
        let outcomes = pull.targets.into_iter().map(|target| {
            let target = target.unwrap();
            let name = &target.collection;
            if world.denied.contains(name) {
                return Outcome::Denied;
            }
            if world.poison.contains(name) {
                return Outcome::Failed(failure());
            }
            if !world.calm && self.dice.random_range(0..20) == 0 {
                return Outcome::Deferred(None);
            }
            let outcome = world.server.server.outcome(&target, limit);
            if *name == self.inbox && matches!(outcome, Outcome::Aligned(_) | Outcome::Delta(_)) {
                polled = Some(world.server.polled(&self.inbox, None, POLLED_MAX));
            }
            outcome
        });
        let input = session::Input::Pulled(id, Ok(outcomes.collect()));
        // Some are answered when nobody waits any more.
        let late = !world.calm && self.dice.random_bool(0.1);
        let longest = if late { 4_000 } else { 200 };
        let wait = Duration::from_millis(self.dice.random_range(1..longest));
        self.fly(wait, Flight::ToClient(Input::Session(input)));
        if let Some(polled) = polled {
            self.fly(wait, Flight::ToClient(Input::Polled(polled)));
        }
    }

    fn answer_ack(&mut self, cursor: Cursor, world: &World) {
        let known = world.server.server.collections.get(&self.inbox).is_some_and(|log| {
            log.head().epoch == cursor.epoch && cursor.version <= log.head().version
        });
        let answer = match self.dice.random_range(0..10) {
            0 if !world.calm => Err(AckFault::Passing),
            _ if known => {
                self.acked = Some(cursor);
                Ok(())
            }
            _ => Err(AckFault::Refused),
        };
        self.fly(Duration::from_millis(10), Flight::ToClient(Input::Acked(answer)));
    }

    fn answer_mend(
        &mut self,
        name: &CollectionName,
        task: &Task,
        world: &World,
    ) -> Result<Done, MendFault> {
        if world.denied.contains(name) {
            return Err(MendFault::Denied);
        }
        if world.poison.contains(name) || !world.calm && self.dice.random_bool(0.05) {
            return Err(MendFault::Call(Fault::Passing));
        }
        match task {
            Task::Round(round) => match world.server.server.round(name, round) {
                Ok(answer) => Ok(Done::Answered(answer)),
                Err(NoRound::Moved) => Err(MendFault::Moved),
                Err(NoRound::NotFound) => Err(MendFault::NotFound),
            },
            Task::Fetch(keys) => {
                let found = world.server.server.items(name, keys);
                let (items, head) = found.ok_or(MendFault::NotFound)?;
                Ok(Done::Fetched(items, keys.len(), head))
            }
            local => panic!("not a question: {local:?}"),
        }
    }

    fn fly(&mut self, wait: Duration, flight: Flight) {
        self.sent += 1;
        self.link.insert((self.now + wait, self.sent), flight);
    }

    fn input(&mut self, input: Input) {
        if self.telling {
            self.history.push(format!("{:?} {input:.300?}", self.now - self.began));
        }
        self.desk.handle(input, self.now);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.desk.poll_action() {
            if let Some(left) = &mut self.kill_in {
                if *left == 0 {
                    return self.die();
                }
                *left -= 1;
            }
            if self.telling {
                self.history.push(format!("    {action:.300?}"));
            }
            self.carry_out(action);
        }
        if std::mem::take(&mut self.written) {
            self.assert_books_hold();
        }
    }

    fn carry_out(&mut self, action: Action) {
        let wait = Duration::from_millis(self.dice.random_range(1..100));
        match action {
            Action::Session(action) => self.converse(action, wait),
            Action::Write(name, write, notes) => {
                (self.written, self.judged) = (true, false);
                let input = self.write(&name, &write, &notes);
                self.flush_at.get_or_insert(self.now + Duration::from_secs(1));
                self.desk.handle(Input::Session(input), self.now);
            }
            Action::Note(notes) => {
                (self.written, self.judged) = (true, false);
                let made = self.note(&notes);
                self.flush_at.get_or_insert(self.now + Duration::from_secs(1));
                self.desk.handle(Input::Noted(made), self.now);
            }
            Action::Scan => {
                (self.written, self.judged) = (true, false);
                let held = self.read();
                self.flush_at.get_or_insert(self.now + Duration::from_secs(1));
                self.desk.handle(Input::Scanned(held), self.now);
            }
            Action::Poll(id, _, after) => self.fly(wait, Flight::Poll(id, after)),
            Action::Ack(cursor) => {
                self.assert_processed(cursor);
                self.fly(wait, Flight::Ack(cursor));
            }
            Action::Show(shown, summary) => {
                self.see_done();
                self.summary = summary;
                for (name, one) in shown {
                    match one {
                        Some(one) => drop(self.list.insert(name, one)),
                        None => drop(self.list.remove(&name)),
                    }
                }
            }
        }
    }

    fn converse(&mut self, action: session::Action, wait: Duration) {
        match action {
            session::Action::OpenStream(id, subscribe) => {
                self.fly(wait, Flight::Subscribe(id, subscribe));
            }
            session::Action::CloseStream(_) => self.stream = None,
            session::Action::Pull(id, pull) => {
                self.pulls += 1;
                assert!(self.pulls <= 8, "{} pulls at once", self.pulls);
                self.fly(wait, Flight::Pull(id, pull));
            }
            session::Action::Mend(name, id, task) => {
                match work(&self.store, &name, &task).unwrap() {
                    Some(done) => {
                        let input = session::Input::Mended(name, id, done);
                        self.desk.handle(Input::Session(input), self.now);
                    }
                    None => self.fly(wait, Flight::Mend(name, id, task)),
                }
            }
            session::Action::Write(..) => panic!("a write without its notes"),
            session::Action::SelfCheck(_)
            | session::Action::Report(..)
            | session::Action::Chosen(..) => {}
        }
    }

    /// The process is killed between two actions; what is in the store stays.
    fn die(&mut self) {
        self.seen.add(&self.lived());
        self.seen.kills += 1;
        self.history.push("killed".into());
        self.kill_in = None;
        (self.stream, self.flush_at, self.pulls) = (None, None, 0);
        (self.unnoted_until, self.failures) = (self.now, 0);
        (self.doubtful, self.look_away_at) = (false, None);
        self.link.clear();
        self.list.clear();
        let held = Holdings::read(&self.store, &self.inbox).unwrap();
        let seed = self.dice.random();
        self.desk = Desk::new(config(self.now - self.began), held, seed, self.now);
        self.list = self.desk.followed().map(|one| (one.name.clone(), one)).collect();
        self.see_done();
        self.act();
    }

    fn lived(&self) -> Seen {
        let repairs = repairs(self.desk.session_stats());
        Seen { stats: *self.desk.stats(), repairs, ..Seen::default() }
    }

    pub(crate) fn seen(&self) -> Seen {
        let mut seen = self.lived();
        seen.add(&self.seen);
        seen
    }
}
