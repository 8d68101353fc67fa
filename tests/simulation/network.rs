//! What is under way between devices and server. Loses, repeats, delays, reorders.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_client::account::desk::{Input, PollId};
use sync_client::session::{self, MendId, PullId, StreamId, Task};
use sync_proto::types::{CollectionName, Cursor, Pull, Subscribe};

use crate::consumers::LateAck;

/// Which device; the second number counts its lives.
pub(crate) type DeviceId = (usize, u64);

/// Something under way.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Subscribe(DeviceId, StreamId, Subscribe),
    Unsubscribe(DeviceId, StreamId),
    Pull(DeviceId, PullId, Pull),
    Mend(DeviceId, CollectionName, MendId, Task),
    Poll(DeviceId, PollId, Option<Cursor>, Option<CollectionName>),
    /// `true`: it has come before, and nobody waits for an answer.
    AckInbox(DeviceId, Cursor, bool),
    Ack(LateAck),
    /// What comes in one message.
    ToDevice(DeviceId, Vec<Input>),
}

/// How bad the network is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Chance that a message on a stream is lost, repeated, or overtaken.
    pub(crate) lose: f64,
    pub(crate) repeat: f64,
    pub(crate) reorder: f64,
    pub(crate) delay_ms_max: u64,
}

/// Packets by the moment of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Network {
    packets: BTreeMap<(Duration, u64), Packet>,
    sent: u64,
    /// When the last message of a stream arrives: the next one comes behind it, unless the
    /// network reorders.
    last: BTreeMap<(DeviceId, StreamId), Duration>,
    pub(crate) weather: Weather,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Self {
        Self { weather, ..Self::default() }
    }

    /// When the next packet arrives.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.packets.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next packet.
    pub(crate) fn pop(&mut self) -> Option<Packet> {
        self.packets.pop_first().map(|(_, packet)| packet)
    }

    /// Sends a call or its answer: it may be slow, and is lost only with the connection.
    pub(crate) fn send(&mut self, packet: Packet, now: Duration, dice: &mut StdRng) {
        let at = now + self.delay(dice);
        self.put(at, packet);
    }

    /// Sends a message of a stream.
    pub(crate) fn stream(
        &mut self,
        to: DeviceId,
        stream: StreamId,
        input: session::Input,
        now: Duration,
        dice: &mut StdRng,
    ) {
        let inputs = vec![Input::Session(input)];
        if dice.random_bool(self.weather.lose) {
            return;
        }
        let mut at = now + self.delay(dice);
        let last = self.last.entry((to, stream)).or_default();
        if !dice.random_bool(self.weather.reorder) {
            at = at.max(*last);
            *last = at;
        }
        if dice.random_bool(self.weather.repeat) {
            let again = at + self.delay(dice);
            self.put(again, Packet::ToDevice(to, inputs.clone()));
        }
        self.put(at, Packet::ToDevice(to, inputs));
    }

    pub(crate) fn put(&mut self, at: Duration, packet: Packet) {
        self.sent += 1;
        self.packets.insert((at, self.sent), packet);
    }

    fn delay(&self, dice: &mut StdRng) -> Duration {
        Duration::from_millis(dice.random_range(1..=self.weather.delay_ms_max.max(1)))
    }
}
