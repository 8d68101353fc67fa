//! Followers: what the inboxes of a server must say, whatever happened to it. Only what a client may
//! know counts: entries of the inbox, and what a pull says besides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use rand::RngExt as _;
use sync_client::account::desk::{AckFault, Input, PollId};
use sync_client::session::Fault;
use sync_proto::convert::{decode_change, decode_inbox_entry};
use sync_proto::types::{
    ChangeKind, CollectionName, Cursor, Diffusion, InboxEntry, Outcome, Pull, Subject, Target,
    Timestamp,
};
use sync_server::core::acks::{AckRefusal, Claim, Claims};
use sync_server::core::plan::Refusal;
use sync_server::core::request::Request;

use crate::consumers::{ACK_FAULTS, LATE_MAX};
use crate::device::Device;
use crate::machine::Account;
use crate::network::{DeviceId, Packet};
use crate::server::Server;
use crate::world::World;

/// Subjects that follow something now and then.
pub(crate) const SUBJECTS: usize = 4;

/// One of them.
pub(crate) fn subject(number: usize) -> Subject {
    Subject::new(&format!("s/{number}")).expect("well-formed")
}

impl Server {
    /// Who follows what, as operators see it.
    pub(crate) fn follows(&self) -> BTreeSet<(Subject, CollectionName)> {
        let mut follows = BTreeSet::new();
        for number in 0..SUBJECTS {
            let subject = subject(number);
            let mut token = Bytes::new();
            loop {
                let (names, next) =
                    self.ledger.list_follows(&subject, 2, token).expect("reads never fail");
                follows.extend(names.into_iter().map(|name| (subject.clone(), name)));
                token = next;
                if token.is_empty() {
                    break;
                }
            }
        }
        follows
    }

    /// What a subject learns by one pull of its inbox: entries, and what is said besides.
    fn learn(&self, subject: &Subject) -> [BTreeMap<CollectionName, InboxEntry>; 2] {
        let targets = vec![Ok(Target::all(subject.inbox(), None))];
        let client_id = String::new();
        let pull = Pull { targets, bytes_max: 1 << 20, changes_max: 1_000, client_id };
        let answer = self.ledger.pull(&pull, 0, |_| true, &AtomicBool::new(false)).remove(0);
        assert!(!answer.polled.more, "few names are followed");
        let polled = answer.polled.heads.into_iter().map(|head| (head.collection, head.entry));
        let mut entries = BTreeMap::new();
        let outcome = answer.outcome.expect("reads never fail");
        if let Outcome::Delta(delta) = outcome {
            for change in delta.changes {
                let change = decode_change(change).expect("the server's own bytes");
                let ChangeKind::Put { value: Some(value), .. } = change.kind else { continue };
                let name = std::str::from_utf8(change.key.as_bytes()).expect("a name");
                let name = CollectionName::new(name).expect("a name");
                entries.insert(name, decode_inbox_entry(&value).expect("an entry"));
            }
        } else {
            assert!(matches!(outcome, Outcome::NotFound), "{outcome:?}");
        }
        [entries, polled.collect()]
    }

    /// G1, G4: each subject has an entry for what it follows and for nothing else; entries and what
    /// is said besides say where everything stands; and of what is written to followers the entry
    /// alone does.
    pub(crate) fn check_inboxes(&self, follows: &BTreeSet<(Subject, CollectionName)>) {
        let heads = self.heads();
        for number in 0..SUBJECTS {
            let subject = subject(number);
            let [entries, polled] = self.learn(&subject);
            let followed: BTreeSet<_> = entries.keys().cloned().collect();
            let wanted = follows.iter().filter(|(who, _)| *who == subject);
            assert_eq!(followed, wanted.map(|(_, name)| name.clone()).collect(), "{subject}");
            assert!(polled.keys().all(|name| followed.contains(name)), "{subject}: {polled:?}");
            for (name, entry) in entries {
                let head = heads.get(&name).map(|head| (head.epoch, head.version));
                let told = polled.get(&name).copied().unwrap_or(entry);
                assert_eq!(told.stands_at(), head, "{subject} at {name}");
                let seen = self.ledger.inspect(&name, Timestamp::default());
                let seen = seen.expect("reads never fail").and_then(|seen| seen.diffusion);
                if seen == Some(Diffusion::Write) {
                    assert_eq!(entry.stands_at(), head, "{subject} at {name}, which is written");
                }
            }
        }
    }

    /// G1: the copy of the inbox is the inbox, by cursor and by digest, and all of it is
    /// acknowledged.
    pub(crate) fn is_inbox_of(&self, device: &Device, account: &Account) -> bool {
        let inbox = account.subject.inbox();
        let standing = device.copies.standing(&inbox);
        let Some(head) = self.ledger.head(&inbox) else { return standing.cursor.is_none() };
        standing.cursor == Some(head.cursor())
            && standing.tally.digest == head.digest
            && device.has_acked(head.cursor())
    }
}

// === impl World ===

impl World {
    /// An account asks for more of what its inbox does not announce.
    pub(crate) fn poll_arrives(
        &mut self,
        id: DeviceId,
        question: PollId,
        cursor: Option<Cursor>,
        after: Option<CollectionName>,
    ) {
        let device = &self.devices[id.0];
        let (client, account) = (device.client(), device.machine.as_account());
        let inbox = account.expect("only accounts poll").subject.inbox();
        let target = Target { polled_after: after, ..Target::all(inbox, cursor) };
        let pull = Pull {
            targets: vec![Ok(target)],
            bytes_max: 1 << 20,
            changes_max: usize::MAX,
            client_id: String::new(),
        };
        let said = self.server.as_mut().map(|server| server.pull(client.as_ref(), pull).remove(0));
        // Only who has everything is told what the inbox does not say.
        let answer = match said {
            Some((Outcome::Aligned(_), polled)) => Ok(polled),
            Some((Outcome::Delta(delta), polled)) if !delta.has_more => Ok(polled),
            Some(_) | None => Err(Fault::Passing),
        };
        self.send_later(Packet::ToDevice(id, vec![Input::PolledOn(question, answer)]));
    }

    /// An account says how far it has processed its inbox. It may claim what it was sent in some
    /// life of the server; within one life, and one of the device, never more than it was sent.
    /// Acks get lost, and so do answers; and some come again, late.
    pub(crate) fn inbox_ack_arrives(&mut self, id: DeviceId, cursor: Cursor, repeated: bool) {
        let weather = self.network.weather;
        if self.dice.random_bool(weather.repeat) && !repeated {
            let late = LATE_MAX.mul_f64(self.dice.random_range(0.0..1.0));
            self.send_after(late, Packet::AckInbox(id, cursor, true));
        }
        let mut answer = Err(AckFault::Passing);
        if !self.dice.random_bool(weather.lose) {
            answer = self.take_ack(id, cursor);
        }
        if self.dice.random_bool(weather.lose) {
            answer = Err(AckFault::Passing);
        }
        if !repeated {
            self.send_later(Packet::ToDevice(id, vec![Input::Acked(answer)]));
        }
    }

    fn take_ack(&mut self, id: DeviceId, cursor: Cursor) -> Result<(), AckFault> {
        let device = &self.devices[id.0];
        let client = device.client().expect("only accounts acknowledge");
        let inbox = device.machine.as_account().expect("only accounts acknowledge").subject.inbox();
        let now = self.clock();
        if self.is_stormy() {
            self.plan_a_fault(ACK_FAULTS);
        }
        let Some(server) = &mut self.server else { return Err(AckFault::Passing) };
        let sent = server.clients.newest_sent(&client, &inbox);
        let claims = vec![Claim { collection: inbox.clone(), cursor, sent }];
        let request = Request::Ack(Claims { client: client.clone(), claims });
        let mut mint = || unreachable!("an ack creates nothing");
        let done = server.ledger.commit(&[request], now, &mut mint);
        let group = self.carried_out("an ack", done, None).ok_or(AckFault::Passing)?;
        let server = self.server.as_ref().expect("it has just answered");
        let answer = match &group.answers[0] {
            Ok(_) => {
                let held = server.ledger.held(&client, &inbox).expect("reads never fail");
                let held = held.expect("it was just acknowledged").cursor;
                assert_eq!(held.epoch, cursor.epoch, "an older epoch is held");
                assert!(held.version >= cursor.version, "an ack that was taken is not held");
                Ok(())
            }
            Err(Refusal::Ack { reason: AckRefusal::NeverSent(sent), .. }) => {
                assert!(self.server_life > 0, "{cursor} of {inbox} was sent, not only {sent}");
                Err(AckFault::Refused)
            }
            Err(Refusal::Ack { .. }) => Err(AckFault::Refused),
            Err(other) => panic!("{other}"),
        };
        self.note(&format!("{client:?} acknowledges {cursor}: {answer:?}"));
        if answer.is_ok() {
            self.devices[id.0].was_acked(cursor);
        }
        answer
    }
}
