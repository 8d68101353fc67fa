//! What becomes of the messages of one stream. Pure: messages in, messages out.

use std::collections::{BTreeMap, BTreeSet};

use sync_proto::v1;
use sync_proto::v1::subscribe_response::Message;

use crate::distort::{distort, stray};
use crate::faults::{Armed, Fault, Moment, Place, Reason};
use crate::seen::{place, shown};

/// One stream as the client sees it.
#[derive(Debug, Default)]
pub struct Play {
    /// A push that comes after the next one.
    held: Option<v1::SubscribeResponse>,
    /// The first push.
    first: Option<v1::SubscribeResponse>,
    /// Where each collection stood when the first push of it came.
    oldest: BTreeMap<String, v1::Cursor>,
    /// Targets that have ended.
    ended: BTreeSet<String>,
    /// What was asked for, and with which cursors.
    targets: BTreeMap<String, Option<Place>>,
    broken: bool,
}

// === impl Play ===

impl Play {
    /// A stream of these targets.
    #[must_use]
    pub fn of(targets: &[v1::Target]) -> Self {
        let shows = |target: &v1::Target| (target.collection.clone(), shown(target).map(place));
        Self { targets: targets.iter().map(shows).collect(), ..Self::default() }
    }

    /// Whether the stream is to break off behind what was passed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What the client is sent instead of this message.
    pub fn pass(
        &mut self,
        message: v1::SubscribeResponse,
        armed: &mut Armed,
    ) -> Vec<v1::SubscribeResponse> {
        if collection(&message).is_some_and(|name| self.ended.contains(name)) {
            return Vec::new();
        }
        match message.message {
            Some(Message::Changes(changes)) => self.changes(changes, armed),
            Some(Message::Bookmark(mut bookmark)) => {
                bookmark.positions.retain(|at| !self.ended.contains(&at.collection));
                vec![say(Message::Bookmark(bookmark))]
            }
            Some(Message::Accepted(mut accepted)) => {
                self.accept(&mut accepted, armed);
                vec![say(Message::Accepted(accepted))]
            }
            message => vec![v1::SubscribeResponse { message }],
        }
    }

    /// The stream is accepted, but for targets that a fault befalls.
    fn accept(&mut self, accepted: &mut v1::Accepted, armed: &mut Armed) {
        for target in &mut accepted.targets {
            let shown = self.targets.get(&target.collection).copied().flatten();
            match armed.judge(&target.collection, shown) {
                Some(Fault::Reset(reason)) => {
                    self.ended.insert(target.collection.clone());
                    target.plan = v1::Plan::Reset as i32;
                    target.reset = Some(reset(reason, target.head.clone()));
                }
                Some(_) => {
                    self.ended.insert(target.collection.clone());
                    target.plan = v1::Plan::Denied as i32;
                    target.head = None;
                }
                None => {}
            }
        }
    }

    /// All targets end with a reset.
    pub fn reset(&mut self, reason: Reason, head: Option<&v1::Head>) -> Vec<v1::SubscribeResponse> {
        self.ended.extend(self.targets.keys().cloned());
        let resets = self.targets.keys().map(|collection| {
            let reset = Some(reset(reason, head.cloned()));
            say(Message::Reset(v1::TargetReset { collection: collection.clone(), reset }))
        });
        resets.collect()
    }

    /// A bookmark of the past.
    #[must_use]
    pub fn old_bookmark(&self) -> v1::SubscribeResponse {
        let positions = self.oldest.iter().map(|(collection, cursor)| v1::Position {
            collection: collection.clone(),
            cursor: Some(*cursor),
            ..v1::Position::default()
        });
        say(Message::Bookmark(v1::Bookmark {
            positions: positions.collect(),
            ..v1::Bookmark::default()
        }))
    }

    fn changes(
        &mut self,
        mut changes: v1::Changes,
        armed: &mut Armed,
    ) -> Vec<v1::SubscribeResponse> {
        let name = changes.collection.clone();
        if let Some(delta) = &mut changes.delta {
            if let Some(from) = delta.from {
                self.oldest.entry(name).or_insert(from);
            }
            if armed.next(Moment::Delta).is_some_and(|fault| distort(delta, fault)) {
                armed.take(Moment::Delta);
            }
        }
        self.broken |= armed.take(Moment::Page).is_some();
        let strange = changes.delta.as_ref().map(stray);
        let push = say(Message::Changes(changes.clone()));
        if self.first.is_none() {
            self.first = Some(push.clone());
        }
        match armed.take(Moment::Push) {
            Some(Fault::DropPush) => Vec::new(),
            Some(Fault::SwapPush) => {
                self.held = Some(push);
                Vec::new()
            }
            Some(Fault::RepeatPush) => vec![push.clone(), push],
            Some(Fault::StalePush) => {
                [Some(push), self.first.clone()].into_iter().flatten().collect()
            }
            Some(Fault::StrayPush) => {
                changes.delta = strange;
                vec![push, say(Message::Changes(changes))]
            }
            Some(_) | None => [Some(push), self.held.take()].into_iter().flatten().collect(),
        }
    }
}

/// A reset that the kit makes up.
#[must_use]
pub fn reset(reason: Reason, head: Option<v1::Head>) -> v1::Reset {
    let items = head.as_ref().map_or(0, |head| head.items);
    v1::Reset { reason: reason.number(), head, estimated_changes: items, estimated_bytes: 0 }
}

fn say(message: Message) -> v1::SubscribeResponse {
    v1::SubscribeResponse { message: Some(message) }
}

/// The collection that a message is about, if it is about one.
fn collection(message: &v1::SubscribeResponse) -> Option<&String> {
    match message.message.as_ref()? {
        Message::Changes(about) => Some(&about.collection),
        Message::Notice(about) => Some(&about.collection),
        Message::Reset(about) => Some(&about.collection),
        Message::Lagging(about) => Some(&about.collection),
        Message::CaughtUp(about) => Some(&about.collection),
        Message::Revoked(about) => Some(&about.collection),
        Message::Absent(about) => Some(&about.collection),
        Message::Failed(about) => Some(&about.collection),
        Message::Accepted(_) | Message::Bookmark(_) | Message::Goodbye(_) => None,
    }
}
