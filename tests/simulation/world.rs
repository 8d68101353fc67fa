//! One history: what happens when, and what must hold. All chance comes from one seed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::account::desk::Input;
use sync_client::session::{self, Fault, MendFault, StreamId};
use sync_proto::types::{CollectionName, Polled, Timestamp};
use sync_server::core::diffusion::Limits;
use sync_server::store::memory::{Faults, MemoryStore};

use crate::backups::Backups;
use crate::consumers::Consumer;
use crate::device::{Device, Died};
use crate::inboxes::subject;
use crate::model::{History, Model};
use crate::network::{DeviceId, Network, Packet, Weather};
use crate::server::{Kept, Server};

/// How long things happen, in all storms of a history together.
const EVENTFUL: Duration = Duration::from_secs(120);
/// How long after a storm everything must have converged: the safety pull is every 15 minutes.
const QUIET: Duration = Duration::from_secs(2 * 60 * 60);
/// Nothing real takes more steps within one moment.
const STEPS_AT_ONCE_MAX: u32 = 10_000;
/// When the simulation begins, by the server's clock.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A history in the making.
pub(crate) struct World {
    pub(crate) dice: StdRng,
    tell: bool,
    began: Instant,
    now: Duration,
    next_deed: Duration,
    /// Storms that are still to come, what the network is like in them, how long each lasts, and when
    /// this one ends or the last one ended.
    storms: u32,
    storm: Weather,
    storm_lasts: Duration,
    storm_ends: Duration,
    /// Steps since time last moved: a session that never sleeps is a bug.
    steps_at_once: u32,
    pub(crate) clock_skew_ms: u64,
    pub(crate) server: Option<Server>,
    /// What a server that is down will find.
    pub(crate) disk: Option<MemoryStore>,
    pub(crate) kept: Kept,
    pub(crate) devices: Vec<Device>,
    pub(crate) network: Network,
    pub(crate) consumers: Vec<Consumer>,
    /// A purge that failed may have forgotten acks, or not.
    pub(crate) forgot_perhaps: bool,
    /// Counts the starts of the server.
    pub(crate) server_life: u64,
    pub(crate) names: Vec<CollectionName>,
    pub(crate) model: Model,
    /// Copies of the data directory, and what was true then.
    pub(crate) older: Vec<(MemoryStore, Model)>,
    pub(crate) backups: Backups,
    /// What is also possible after a crash: the last group, if it reached the disk.
    pub(crate) maybe: Option<Model>,
    pub(crate) history: History,
    /// Everything that happened, in short.
    trace: u64,
}

impl World {
    pub(crate) fn new(seed: u64, tell: bool) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let began = Instant::now();
        let names: Vec<_> = (0..dice.random_range(1..=4))
            .map(|n| CollectionName::new(&format!("c/{n}")).expect("well-formed"))
            .collect();
        let devices = devices(&names, &mut dice, began);
        let tombstones_max = *[0, 2, 8, 1_000].choose(&mut dice).expect("not empty");
        let page_changes_max = dice.random_range(1..=6);
        let diffusion = Limits {
            write_audience_max: *[0, 1, 2, 512].choose(&mut dice).expect("not empty"),
            fan_out_per_s_max: *[1, 2_000].choose(&mut dice).expect("not empty"),
            dwell: Duration::from_secs(dice.random_range(0..4)),
        };
        let crowded = dice.random_bool(0.5);
        let storms = dice.random_range(1..=3);
        let kept = Kept { tombstones_max, page_changes_max, diffusion, crowded };
        let bad = dice.random_bool(0.7);
        let chance = |dice: &mut StdRng, most| if bad { dice.random_range(0.0..most) } else { 0.0 };
        let storm = Weather {
            lose: chance(&mut dice, 0.2),
            repeat: chance(&mut dice, 0.2),
            reorder: chance(&mut dice, 0.3),
            delay_ms_max: *[5, 50, 2_000].choose(&mut dice).expect("not empty"),
        };
        let server = Server::open(MemoryStore::new(), kept);
        Self {
            network: Network::new(storm),
            consumers: (0..4).map(Consumer::new).collect(),
            forgot_perhaps: false,
            server_life: 0,
            dice,
            tell,
            began,
            now: Duration::ZERO,
            next_deed: Duration::ZERO,
            storms: storms - 1,
            storm,
            storm_lasts: EVENTFUL / storms,
            storm_ends: EVENTFUL / storms,
            steps_at_once: 0,
            clock_skew_ms: 0,
            server: Some(server),
            disk: None,
            kept,
            devices,
            names,
            model: Model::default(),
            older: Vec::new(),
            backups: Backups::default(),
            maybe: None,
            history: History::default(),
            trace: 0,
        }
    }

    /// Runs the history to its end; returns a number that tells histories apart.
    pub(crate) fn run(mut self) -> u64 {
        for index in 0..self.devices.len() {
            self.act(index);
        }
        loop {
            while self.is_stormy() {
                self.advance(true);
            }
            self.calm_down();
            self.come_to_rest();
            if self.storms == 0 {
                return self.trace;
            }
            self.begin_a_storm();
        }
    }

    pub(crate) fn is_stormy(&self) -> bool {
        self.now < self.storm_ends
    }

    /// G1, G9: after every storm everything becomes equal, and says so.
    fn come_to_rest(&mut self) {
        while self.now < self.storm_ends + QUIET {
            self.advance(false);
            if self.is_quiet() {
                return self.check_the_end();
            }
        }
        self.check_the_end();
        panic!("everything is equal, but a session does not say so");
    }

    /// On to the next thing that happens.
    fn advance(&mut self, eventful: bool) {
        let packet = self.network.next_at().unwrap_or(Duration::MAX);
        let turn = self.server.as_ref().and_then(Server::next_turn);
        let timer = (0..self.devices.len()).map(|i| (self.devices[i].deadline(), i)).min();
        let (timer, device) = timer.expect("there is a device");
        let deed = if eventful { self.next_deed } else { Duration::MAX };
        let turn_at = turn.map_or(Duration::MAX, |(at, _)| at);
        let next = packet.min(turn_at).min(timer).min(deed);
        self.steps_at_once = if next > self.now { 0 } else { self.steps_at_once + 1 };
        assert!(self.steps_at_once < STEPS_AT_ONCE_MAX, "somebody is busy doing nothing");
        self.now = self.now.max(next);
        if let Some(server) = &mut self.server {
            server.now = self.now;
        }
        if next == packet {
            let packet = self.network.pop().expect("looked at above");
            self.arrive(packet);
        } else if next == deed {
            self.deed();
            let pause = self.dice.random_range(1..=2_000);
            self.next_deed = self.now + Duration::from_millis(pause);
        } else if next == timer {
            if self.steps_at_once > STEPS_AT_ONCE_MAX - 3 {
                eprintln!("{}", self.devices[device].machine.tell());
            }
            let now = self.began + self.now;
            self.devices[device].machine.elapse(now);
            self.receive(device, Vec::new());
        } else if let Some((_, of)) = turn {
            let now = self.clock();
            let server = self.server.as_mut().expect("it has streams");
            if let Some(input) = server.bookmark(of, now) {
                self.network.stream(of.0, of.1, input, self.now, &mut self.dice);
            }
            self.pump();
        }
    }

    pub(crate) fn clock(&self) -> Timestamp {
        let since = u64::try_from(self.now.as_millis()).expect("short");
        Timestamp::from_millis(EPOCH_MS + since + self.clock_skew_ms)
    }

    pub(crate) fn note(&mut self, what: &str) {
        for byte in what.bytes() {
            self.trace = self.trace.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte);
        }
        if self.tell {
            eprintln!("{:>10.3} {what}", self.now.as_secs_f64());
        }
    }

    /// Gives streams their turns; while things happen, some have to wait.
    pub(crate) fn pump(&mut self) {
        let eager = if self.is_stormy() { 0.9 } else { 1.0 };
        let Some(server) = &mut self.server else { return };
        let streams: Vec<(DeviceId, StreamId)> = server.streams.keys().copied().collect();
        for of in streams {
            while server.is_due(of) && self.dice.random_bool(eager) {
                let slow = self.dice.random_bool(0.1);
                for input in server.step(of, slow) {
                    self.network.stream(of.0, of.1, input, self.now, &mut self.dice);
                }
            }
        }
    }

    /// The server dies; `keeping` of its unsynced batches happen to be on the disk.
    pub(crate) fn crash_server(&mut self, keeping: usize) {
        let Some(server) = self.server.take() else { return };
        self.disk = Some(server.ledger.store().crash_keeping(keeping));
        self.backups.break_off();
        for (device, stream) in server.streams.into_keys() {
            // Half of them find out at once, half only by the silence.
            if self.dice.random_bool(0.5) {
                self.end_stream(device, stream);
            }
        }
        self.note("the server dies");
    }

    pub(crate) fn send_after(&mut self, delay: Duration, packet: Packet) {
        self.network.put(self.now + delay, packet);
    }

    fn end_stream(&mut self, device: DeviceId, stream: StreamId) {
        let ended = session::Input::StreamEnded(stream, Fault::Passing);
        self.reply(device, ended);
    }

    pub(crate) fn start_server(&mut self) {
        let Some(store) = self.disk.take() else { return };
        let mut server = Server::open(store, self.kept);
        server.now = self.now;
        let (heads, follows) = (server.heads(), server.follows());
        if let Some(maybe) = self.maybe.take()
            && !self.model.is_at(&heads, &follows)
        {
            self.model = maybe;
        }
        // G3, G4: all of the last group or nothing of it, and nothing else.
        assert!(
            self.model.is_at(&heads, &follows),
            "the store is neither before nor after the last group"
        );
        for (name, head) in &heads {
            let collection = self.model.collections.get_mut(name).expect("compared above");
            collection.epoch = Some(head.epoch);
            self.history.announce(name, collection);
        }
        server.check_inboxes(&self.model.follows);
        if std::mem::take(&mut self.forgot_perhaps) {
            for consumer in &mut self.consumers {
                consumer.look_at_all(&server, &self.names);
            }
        }
        self.server = Some(server);
        self.server_life += 1;
        self.note("the server starts");
    }

    pub(crate) fn cut_a_stream(&mut self) {
        let Some(server) = &mut self.server else { return };
        let streams: Vec<_> = server.streams.keys().copied().collect();
        let Some((device, stream)) = streams.choose(&mut self.dice).copied() else { return };
        server.streams.remove(&(device, stream));
        if self.dice.random_bool(0.7) {
            self.end_stream(device, stream);
        }
        self.note("a stream is cut");
    }

    pub(crate) fn kill_a_device(&mut self) {
        let index = self.dice.random_range(0..self.devices.len());
        self.restart(index);
    }

    pub(crate) fn restart(&mut self, index: usize) {
        let seed = self.dice.random();
        let now = self.began + self.now;
        self.devices[index].restart(seed, now);
        self.note(&format!("device {index} restarts"));
        self.act(index);
    }

    /// Sends an answer.
    pub(crate) fn send_later(&mut self, packet: Packet) {
        self.network.send(packet, self.now, &mut self.dice);
    }

    /// Sends what a call or a stream has come to.
    pub(crate) fn reply(&mut self, to: DeviceId, input: session::Input) {
        self.send_later(Packet::ToDevice(to, vec![Input::Session(input)]));
    }

    fn arrive(&mut self, packet: Packet) {
        let passing = Fault::Passing;
        match (packet, &mut self.server) {
            (Packet::Ack(ack), _) => self.ack_arrives(ack),
            (Packet::AckInbox(id, cursor, again), _) => self.inbox_ack_arrives(id, cursor, again),
            (Packet::Poll(id, question, cursor, after), _) => {
                self.poll_arrives(id, question, cursor, after);
            }
            (Packet::ToDevice(id, inputs), _) => {
                if self.devices[id.0].id == id {
                    self.receive(id.0, inputs);
                }
            }
            (Packet::Subscribe(id, stream, asked), Some(server)) => {
                let first = server.subscribe(id, self.devices[id.0].client(), stream, asked);
                self.network.stream(id, stream, first, self.now, &mut self.dice);
                self.pump();
            }
            (Packet::Subscribe(id, stream, _), None) => {
                self.reply(id, session::Input::StreamEnded(stream, passing));
            }
            (Packet::Unsubscribe(id, stream), Some(server)) => {
                server.streams.remove(&(id, stream));
            }
            (Packet::Unsubscribe(..), None) => {}
            (Packet::Pull(id, pull, asked), Some(server)) => {
                let said = server.pull(self.devices[id.0].client().as_ref(), asked);
                let (outcomes, besides): (Vec<_>, Vec<_>) = said.into_iter().unzip();
                let answer = session::Input::Pulled(pull, Ok(outcomes));
                let polled = besides.into_iter().filter(|said| *said != Polled::default());
                let inputs = std::iter::once(Input::Session(answer));
                let inputs = inputs.chain(polled.map(Input::Polled)).collect();
                self.send_later(Packet::ToDevice(id, inputs));
            }
            (Packet::Mend(id, name, mend, task), Some(server)) => {
                let done = server.mend(&name, &task);
                self.reply(id, session::Input::Mended(name, mend, done));
            }
            (Packet::Mend(id, name, mend, _), None) => {
                let failed = Err(MendFault::Call(passing));
                self.reply(id, session::Input::Mended(name, mend, failed));
            }
            (Packet::Pull(id, pull, _), None) => {
                self.reply(id, session::Input::Pulled(pull, Err(passing)));
            }
        }
    }

    fn receive(&mut self, index: usize, inputs: Vec<Input>) {
        let now = self.began + self.now;
        let mortal = self.is_stormy();
        let dice = &mut self.dice;
        let mut survives = || !mortal || !dice.random_bool(0.003);
        let device = &mut self.devices[index];
        let handled = if inputs.is_empty() {
            device.act(now, &self.history, &mut survives)
        } else {
            device.handle(inputs, now, &self.history, survives)
        };
        self.send_all(index, handled);
    }

    fn act(&mut self, index: usize) {
        let now = self.began + self.now;
        let acted = self.devices[index].act(now, &self.history, &mut || true);
        self.send_all(index, acted);
    }

    fn send_all(&mut self, index: usize, packets: Result<Vec<Packet>, Died>) {
        match packets {
            Ok(packets) => {
                for packet in packets {
                    self.network.send(packet, self.now, &mut self.dice);
                }
            }
            Err(Died) => self.restart(index),
        }
    }

    fn begin_a_storm(&mut self) {
        self.storm_ends = self.now + self.storm_lasts;
        self.storms -= 1;
        self.next_deed = self.now;
        self.network.weather = self.storm;
        self.note("a storm begins");
    }

    /// The storm is over: the server is up and the network is good.
    fn calm_down(&mut self) {
        if let Some(server) = &self.server {
            server.ledger.store().set_faults(Faults::default());
        }
        self.start_server();
        self.network.weather = Weather { delay_ms_max: 5, ..Weather::default() };
        self.note("calm");
        self.pass_what_was_given_twice();
        self.pump();
    }

    fn is_quiet(&self) -> bool {
        self.network.next_at().is_none()
            && self.devices.iter().all(|device| device.machine.is_settled())
            && self.devices.iter().all(|device| self.is_right(device))
    }

    fn is_right(&self, device: &Device) -> bool {
        let server = self.server.as_ref().expect("it was started");
        self.names.iter().all(|name| device.is_right(name, &self.model))
            && device.machine.as_account().is_none_or(|account| {
                let wanted = |name: &CollectionName| {
                    self.model.follows.contains(&(account.subject.clone(), name.clone()))
                };
                account.listed().eq(self.names.iter().filter(|name| wanted(name)))
                    && server.is_inbox_of(device, account)
            })
    }

    /// G1: replica = server = model, by content and by digest.
    fn check_the_end(&self) {
        let server = self.server.as_ref().expect("it was started");
        let is_model = self.model.is_at(&server.heads(), &server.follows());
        assert!(is_model, "the server is not the model");
        server.check_inboxes(&self.model.follows);
        for device in &self.devices {
            for name in &self.names {
                assert!(
                    device.is_right(name, &self.model),
                    "device {:?} is not the server at {name}: {:?}, {:?}\n{}",
                    device.id,
                    device.copies.standing(name),
                    device.copies.items(name),
                    device.machine.tell()
                );
            }
            let (id, told) = (device.id, device.machine.tell());
            assert!(self.is_right(device), "device {id:?} does not stand at the head\n{told}");
        }
    }
}

/// Devices with replicas of everything, and some with the accounts of subjects: of the first one
/// often two.
fn devices(names: &[CollectionName], dice: &mut StdRng, began: Instant) -> Vec<Device> {
    let replicas = dice.random_range(1..=2);
    let accounts = dice.random_range(0..=3);
    let subjects = (0..accounts).map(|number| Some(subject(number / 2)));
    let whose = std::iter::repeat_n(None, replicas).chain(subjects);
    let device = |(n, subject)| Device::new(n, subject, names.to_vec(), dice.random(), began);
    whose.enumerate().map(device).collect()
}
