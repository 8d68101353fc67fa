//! What a client was seen doing, and what it was handed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use sync_proto::v1;
use sync_proto::v1::outcome::Result as Answer;
use sync_proto::v1::subscribe_response::Message;

use crate::faults::Place;

/// The protocol's names of resets, by number.
const RESET_NAMES: [&str; 6] =
    ["UNSPECIFIED", "EPOCH_CHANGED", "AHEAD_OF_HEAD", "BELOW_FLOOR", "TOO_LARGE", "FORCED"];

/// What a client was seen doing.
#[derive(Debug, Default)]
pub struct Seen {
    /// Calls of any kind.
    pub calls: u64,
    /// Targets without a cursor.
    pub from_scratch: u64,
    /// Reasons of the resets that it was told.
    pub resets: BTreeSet<String>,
    /// What breaks a rule whatever the case.
    pub objections: Vec<String>,
    /// Commits that were answered, by idempotency key: the request, and how often it came.
    pub commits: BTreeMap<String, (Bytes, u32)>,
    /// Where the client has said that it stands, by collection, and the server has taken it.
    pub acked: BTreeMap<String, Place>,
    /// Commits of imports, by id and number.
    imported: BTreeMap<(String, u64), Bytes>,
    /// What a stream, by number, has told to be at the head.
    live: BTreeSet<(u64, String)>,
    handed: BTreeMap<String, BTreeSet<Place>>,
}

// === impl Seen ===

impl Seen {
    /// A target was asked for. A cursor must be one that was handed out (R7).
    pub fn asked(&mut self, target: &v1::Target) {
        let Some(shown) = shown(target) else {
            self.from_scratch += u64::from(!target.from_last_ack);
            return;
        };
        let handed = self.handed.get(&target.collection);
        // Behind an unverified page a client says by itself that it is not caught up (R36).
        let between = shown.base == shown.version;
        let known = handed.is_some_and(|handed| {
            let caught_up = v1::Cursor { base: 0, ..shown };
            handed.contains(&place(shown)) || (between && handed.contains(&place(caught_up)))
        });
        if !known {
            let objection = format!(
                "showed a cursor of {} that it was not handed: {shown:?}",
                target.collection
            );
            self.objections.push(objection);
        }
    }

    /// A pull's outcome was sent.
    pub fn answered(&mut self, collection: &str, outcome: &v1::Outcome) {
        match &outcome.result {
            Some(Answer::Aligned(aligned)) => self.hand_head(collection, aligned.head.as_ref()),
            Some(Answer::Delta(delta)) => self.hand(collection, delta.to),
            Some(Answer::Reset(reset)) => self.reset(reset),
            Some(
                Answer::Denied(_) | Answer::NotFound(_) | Answer::Deferred(_) | Answer::Failed(_),
            )
            | None => {}
        }
    }

    /// A message of a stream was sent.
    pub fn told(&mut self, stream: u64, message: &v1::SubscribeResponse) {
        match &message.message {
            Some(Message::Accepted(accepted)) => {
                for target in &accepted.targets {
                    self.accepted(stream, target);
                }
            }
            Some(Message::Changes(changes)) => {
                self.hand(&changes.collection, changes.delta.as_ref().and_then(|delta| delta.to));
            }
            Some(Message::CaughtUp(caught_up)) => {
                self.hand(&caught_up.collection, caught_up.cursor);
                self.live.insert((stream, caught_up.collection.clone()));
            }
            Some(Message::Reset(reset)) => {
                if let Some(reset) = &reset.reset {
                    self.reset(reset);
                }
            }
            // A bookmark's cursor is one to compare with, unless it is that of a part (R42).
            Some(
                Message::Notice(_)
                | Message::Bookmark(_)
                | Message::Lagging(_)
                | Message::Revoked(_)
                | Message::Goodbye(_)
                | Message::Absent(_)
                | Message::Failed(_),
            )
            | None => {}
        }
    }

    /// Nothing more comes on this stream.
    pub fn ended(&mut self, stream: u64) {
        self.live.retain(|(live, _)| *live != stream);
    }

    /// Whether a stream that is open has told that this collection is at the head.
    #[must_use]
    pub fn is_live(&self, collection: &str) -> bool {
        self.live.iter().any(|(_, live)| live == collection)
    }

    /// A round of a reconciliation was answered; the first one's head is a place to pull from.
    pub fn reconciled(&mut self, collection: &str, first: bool, head: Option<&v1::Head>) {
        if let Some(head) = head.filter(|_| first) {
            let at = v1::Cursor { epoch: head.epoch, version: head.version, base: head.version };
            self.hand(collection, Some(at));
        }
    }

    /// A page of a list was read; what the first one shows is a place to go on from (R104).
    pub fn listed(&mut self, request: &v1::ListItemsRequest, head: Option<&v1::Head>) {
        if request.page_token.is_empty() {
            self.hand_head(&request.collection, head);
        }
    }

    /// A commit came. A retry must be the same request under the same key (R58).
    pub fn committing(&mut self, request: &v1::CommitRequest) {
        let key = request.idempotency_key.clone();
        if key.is_empty() {
            self.objections.push("committed without an idempotency key".to_owned());
        }
        let bytes = Bytes::from(request.encode_to_vec());
        let (first, times) = self.commits.entry(key).or_insert((bytes.clone(), 0));
        *times += 1;
        if *first != bytes {
            self.objections.push("sent another commit under a key that it had used".to_owned());
        }
    }

    /// A commit of an import came. Whatever is sent again is the same (R61).
    pub fn importing(&mut self, part: &v1::ImportRequest) {
        let place = (part.import_id.clone(), part.sequence);
        let other = self.imported.keys().any(|(id, _)| *id != part.import_id);
        if other || part.import_id.is_empty() {
            self.objections.push("did not keep to one id for its import".to_owned());
        }
        let bytes = Bytes::from(part.encode_to_vec());
        if self.imported.entry(place).or_insert(bytes.clone()) != &bytes {
            let number = part.sequence;
            self.objections.push(format!("sent something else as commit {number} of its import"));
        }
    }

    /// An ack came. It claims no more than the client was handed (R110, R112), and says whose it is.
    pub fn acking(&mut self, request: &v1::AckRequest, client_id: &str) {
        if request.client_id != client_id {
            self.objections.push(format!("acknowledged as {:?}", request.client_id));
        }
        for acked in &request.acked {
            let handed = self.handed.get(&acked.collection);
            let known = acked
                .cursor
                .is_some_and(|cursor| handed.is_some_and(|handed| handed.contains(&place(cursor))));
            if !known {
                let name = &acked.collection;
                let objection = format!("acknowledged of {name} what it was not handed: {acked:?}");
                self.objections.push(objection);
            }
        }
    }

    /// The server has taken it.
    pub fn acknowledged(&mut self, request: &v1::AckRequest) {
        for acked in &request.acked {
            self.acked.extend(acked.cursor.map(|at| (acked.collection.clone(), place(at))));
        }
    }

    /// The reason of a reset, as the protocol calls it.
    #[must_use]
    pub fn reset_name(number: i32) -> &'static str {
        let index = usize::try_from(number).unwrap_or_default();
        RESET_NAMES.get(index).copied().unwrap_or(RESET_NAMES[0])
    }

    fn accepted(&mut self, stream: u64, target: &v1::AcceptedTarget) {
        if target.plan == v1::Plan::Live as i32 {
            self.hand_head(&target.collection, target.head.as_ref());
            self.live.insert((stream, target.collection.clone()));
        }
        if let Some(reset) = &target.reset {
            self.reset(reset);
        }
    }

    fn reset(&mut self, reset: &v1::Reset) {
        self.resets.insert(Self::reset_name(reset.reason).to_owned());
    }

    fn hand_head(&mut self, collection: &str, head: Option<&v1::Head>) {
        let at = head.map(|head| v1::Cursor { epoch: head.epoch, version: head.version, base: 0 });
        self.hand(collection, at);
    }

    fn hand(&mut self, collection: &str, cursor: Option<v1::Cursor>) {
        let handed = self.handed.entry(collection.to_owned()).or_default();
        handed.extend(cursor.map(place));
    }
}

/// The cursor that a target shows; three zeros are none (R8).
#[must_use]
pub fn shown(target: &v1::Target) -> Option<v1::Cursor> {
    target.cursor.filter(|shown| *shown != v1::Cursor::default())
}

/// A cursor as numbers.
#[must_use]
pub fn place(cursor: v1::Cursor) -> Place {
    (cursor.epoch, cursor.version, cursor.base)
}
