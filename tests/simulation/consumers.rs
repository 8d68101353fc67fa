//! Consumers that keep no cursor: each hands changes on to a sink that outlives it, acknowledges
//! what is there, and begins its next life from the ack that the server holds. Acks get lost, come
//! twice, and come late, from an earlier life of the server or of the collection.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Cursor, Delta, Outcome, Pull, Target, Version,
};
use sync_server::core::acks::{AckRefusal, Claim, Claims};
use sync_server::core::plan::Refusal;
use sync_server::core::request::Request;
use sync_server::store::keys::ClientKey;

use crate::model::{History, Items};
use crate::network::Packet;
use crate::server::Server;
use crate::world::World;

/// The longest that an ack is under way.
pub(crate) const LATE_MAX: Duration = Duration::from_secs(60);

/// How often storage fails at an ack.
pub(crate) const ACK_FAULTS: f64 = 0.04;

/// A consumer and its sink.
#[derive(Debug)]
pub(crate) struct Consumer {
    key: ClientKey,
    sink: BTreeMap<CollectionName, Items>,
    /// The newest cursor that was seen to be held for it. What is acknowledged is durable, so within
    /// an epoch it never goes back.
    held: BTreeMap<CollectionName, Cursor>,
}

/// An ack under way.
#[derive(Debug, Clone)]
pub(crate) struct LateAck {
    consumer: usize,
    collection: CollectionName,
    cursor: Cursor,
    /// The life of the server in which it was sent what it acknowledges.
    server_life: u64,
}

// === impl Consumer ===

impl Consumer {
    pub(crate) fn new(number: usize) -> Self {
        // The same id under two subjects, and two ids under one.
        let client_id = format!("consumer {}", number / 2);
        let key = ClientKey { client_id, subject: (number % 2).to_string() };
        Self { key, sink: BTreeMap::new(), held: BTreeMap::new() }
    }

    /// Somebody put an older store in the place of the server's: acks of later are lost with it.
    pub(crate) fn server_went_back(&mut self) {
        self.held.clear();
    }

    /// Something may have been forgotten: what comes late may then be held again.
    pub(crate) fn look_at_all(&mut self, server: &Server, names: &[CollectionName]) {
        for name in names {
            let held = server.ledger.held(&self.key, name).expect("reads never fail");
            self.look_at(name, held.map(|held| held.cursor));
        }
    }

    /// One life: a few pages, and what it acknowledges.
    fn live(
        &mut self,
        server: &mut Server,
        name: &CollectionName,
        history: &History,
        dice: &mut StdRng,
    ) -> Option<Cursor> {
        let mut target = Target { from_last_ack: true, ..Target::all(name.clone(), None) };
        server.ledger.resume(&self.key, &mut target).expect("reads never fail");
        self.look_at(name, target.cursor);
        let mut staged: Option<Items> = None;
        let mut acked = None;
        for _ in 0..dice.random_range(1..=6) {
            let pull = Pull {
                targets: vec![Ok(target.clone())],
                bytes_max: 1 << 20,
                changes_max: usize::MAX,
                client_id: self.key.client_id.clone(),
            };
            let (outcome, _) = server.pull(Some(&self.key), pull).remove(0);
            match outcome {
                Outcome::Delta(delta) => {
                    let rows = match &mut staged {
                        Some(rows) => rows,
                        None if delta.from.version == Version::ZERO => staged.insert(Items::new()),
                        None => self.sink.entry(name.clone()).or_default(),
                    };
                    delta.changes.iter().for_each(|change| apply(rows, change));
                    if !delta.has_more
                        && let Some(loaded) = staged.take()
                    {
                        self.sink.insert(name.clone(), loaded);
                    }
                    // A load that is not finished is in no sink.
                    acked = if staged.is_none() { Some(delta.to) } else { acked };
                    target.cursor = Some(delta.to);
                    if !delta.has_more {
                        self.check(name, delta.to, history, &delta);
                    }
                }
                Outcome::Aligned(head) => return acked.or(Some(head.cursor())),
                Outcome::Reset(_) => {
                    (staged, acked, target.cursor) = (Some(Items::new()), None, None);
                }
                Outcome::NotFound => {
                    self.sink.remove(name);
                    return None;
                }
                other @ (Outcome::Denied | Outcome::Deferred(_) | Outcome::Failed(_)) => {
                    panic!("{other:?}")
                }
            }
        }
        acked
    }

    /// G1: where everything up to the head was handed on, the sink is the collection.
    fn check(&self, name: &CollectionName, at: Cursor, history: &History, delta: &Delta) {
        // Where the server gave the same numbers twice, only a digest tells, and here is none.
        if history.is_ambiguous(name, at.epoch) {
            return;
        }
        let wanted = history.at(name, at).expect("every head was announced");
        let sink = self.sink.get(name).cloned().unwrap_or_default();
        assert_eq!(sink, *wanted, "{:?} in {name} at {at}, after {delta:?}", self.key);
    }

    /// G2: within an epoch what is held never goes back.
    fn look_at(&mut self, name: &CollectionName, held: Option<Cursor>) {
        let Some(now) = held else {
            self.held.remove(name);
            return;
        };
        if let Some(before) = self.held.insert(name.clone(), now)
            && before.epoch == now.epoch
        {
            assert!(before.version <= now.version, "an ack of {name} went back: {before} to {now}");
        }
    }
}

fn apply(rows: &mut Items, change: &Change) {
    match &change.kind {
        ChangeKind::Put { value, sort_key, .. } => {
            // A value that is left out and not there makes the sink wrong, which is found.
            let known = || rows.get(&change.key).map(|(value, ..)| value.clone());
            let value = value.clone().or_else(known).unwrap_or_default();
            rows.insert(change.key.clone(), (value, sort_key.clone(), change.version));
        }
        ChangeKind::Delete => {
            rows.remove(&change.key);
        }
        ChangeKind::LeftScope => panic!("the scope is all"),
    }
}

// === impl World ===

impl World {
    /// A consumer wakes up, hands some changes on, acknowledges them perhaps, and dies.
    pub(crate) fn wake_a_consumer(&mut self) {
        let name = self.names.choose(&mut self.dice).expect("not empty").clone();
        let index = self.dice.random_range(0..self.consumers.len());
        let Some(server) = &mut self.server else { return };
        let consumer = &mut self.consumers[index];
        let acked = consumer.live(server, &name, &self.history, &mut self.dice);
        self.note(&format!("consumer {index} of {name} would acknowledge {acked:?}"));
        let Some(cursor) = acked else { return };
        let server_life = self.server_life;
        let ack = LateAck { consumer: index, collection: name, cursor, server_life };
        // X: lost, in time, twice, late.
        for _ in 0..self.dice.random_range(0..=2) {
            let late = self.dice.random_bool(0.3);
            let most = if late { LATE_MAX } else { Duration::from_millis(50) };
            let delay = most.mul_f64(self.dice.random_range(0.0..1.0));
            self.send_after(delay, Packet::Ack(ack.clone()));
        }
    }

    /// An ack arrives; while the server is down it is lost.
    pub(crate) fn ack_arrives(&mut self, ack: LateAck) {
        let now = self.clock();
        if self.is_stormy() {
            self.plan_a_fault(ACK_FAULTS);
        }
        let Some(server) = &mut self.server else { return };
        let LateAck { consumer, collection, cursor, server_life } = ack;
        let client = self.consumers[consumer].key.clone();
        let sent = server.clients.newest_sent(&client, &collection);
        let claims = vec![Claim { collection: collection.clone(), cursor, sent }];
        let request = Request::Ack(Claims { client: client.clone(), claims });
        let mut mint = || unreachable!("an ack creates nothing");
        let done = server.ledger.commit(&[request], now, &mut mint);
        let Some(group) = self.carried_out("an ack", done, None) else { return };
        let server = self.server.as_ref().expect("it has just answered");
        let held = server.ledger.held(&client, &collection).expect("reads never fail");
        let held = held.map(|held| held.cursor);
        let ambiguous = self.history.is_ambiguous(&collection, cursor.epoch);
        match &group.answers[0] {
            Ok(_) => {
                let held = held.expect("it was just acknowledged");
                assert_eq!(held.epoch, cursor.epoch, "an older epoch is held");
                assert!(held.version >= cursor.version, "an ack that was taken is not held");
            }
            // Within one life of the server nothing is refused that was really sent.
            Err(Refusal::Ack { reason: AckRefusal::NeverSent(_), .. }) => {
                assert!(server_life < self.server_life, "{cursor} of {collection} was sent");
            }
            Err(Refusal::Ack { reason: AckRefusal::AboveHead(_), .. }) => {
                assert!(ambiguous, "a head went back");
            }
            Err(Refusal::Ack { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        self.consumers[consumer].look_at(&collection, held);
        self.note(&format!("an ack of {collection} arrives: {held:?} is held"));
    }
}
