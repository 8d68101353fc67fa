//! What was decided lately for each client that has a name: what operators ask for when a client is
//! behind. Pure: the moment comes in. In memory only, and bounded in clients, in collections of a
//! client, and in decisions about a collection; those that are the same in a row are one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sync_proto::types::{CollectionName, Cursor, Decision, Reason, ResetReason, Timestamp};

use crate::store::keys::ClientKey;

#[cfg(test)]
mod tests;

/// What the decisions for all clients together take. Beyond it, those for the client are forgotten
/// that was decided for longest ago.
pub const DECISIONS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Collections of one client, those decided about last.
pub const COLLECTIONS_MAX: usize = 256;

/// Decisions for one client about one collection, the last ones.
pub const DECISIONS_MAX: usize = 8;

/// What a client takes besides its names, a collection besides its name (the nodes of two maps each,
/// and what the allocator adds), and a decision.
const CLIENT_BYTES: usize = 256;
const TRAIL_BYTES: usize = 224;
const DECISION_BYTES: usize = size_of::<Kept>();

/// In which call a cursor was shown; the words are those of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A target of a pull.
    Pull,
    /// A target of a stream.
    Subscribe,
    /// A reconciliation.
    Reconcile,
}

/// What was answered; the words are those of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has everything.
    Aligned,
    /// Changes.
    Delta,
    /// It must start over.
    Reset(ResetReason),
    /// Not the caller's to read.
    Denied,
    /// There is no such collection.
    NotFound,
    /// The byte budget was spent.
    Deferred,
    /// The target failed: a `google.rpc.Code`, and why.
    Failed(i32, Option<Reason>),
    /// The whole call was refused, likewise.
    Refused(i32, Option<Reason>),
    /// A stream that is only notified.
    Notify,
    /// The right to read ended while the stream was open.
    Revoked,
    /// Rounds of a reconciliation.
    Repair,
}

/// A decision as it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// In which call.
    pub call: Call,
    /// The cursor that was shown.
    pub shown: Option<Cursor>,
    /// What was answered.
    pub answer: Answer,
    /// How far what was sent reaches.
    pub reached: Option<Cursor>,
    /// Bytes that were sent.
    pub bytes: u64,
}

/// What a stream has sent for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// How far it reaches.
    pub reached: Cursor,
    /// Bytes of changes.
    pub bytes: u64,
    /// When something was sent last.
    pub at: Timestamp,
}

/// The decisions for all clients.
#[derive(Debug, Default)]
pub struct Decisions {
    clients: BTreeMap<Arc<ClientKey>, Client>,
    by_turn: BTreeMap<u64, Arc<ClientKey>>,
    turn: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Client {
    turn: u64,
    trails: BTreeMap<CollectionName, Trail>,
    by_turn: BTreeMap<u64, CollectionName>,
    /// What its trails take.
    bytes: usize,
}

/// The decisions about one collection, oldest first.
#[derive(Debug, Default)]
struct Trail {
    turn: u64,
    kept: VecDeque<Kept>,
}

/// A decision, once or several times in a row.
#[derive(Debug, Clone, Copy)]
struct Kept {
    last: Decided,
    /// The cursor that was shown the first time.
    first_shown: Option<Cursor>,
    first_time: Timestamp,
    time: Timestamp,
    times: u64,
}

// === impl Call ===

impl Call {
    fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Subscribe => "subscribe",
            Self::Reconcile => "reconcile",
        }
    }
}

// === impl Answer ===

impl Answer {
    fn word(self) -> &'static str {
        match self {
            Self::Aligned => "aligned",
            Self::Delta => "delta",
            Self::Reset(_) => "reset",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Deferred => "deferred",
            Self::Failed(..) => "failed",
            Self::Refused(..) => "refused",
            Self::Notify => "notify",
            Self::Revoked => "revoked",
            Self::Repair => "repair",
        }
    }

    fn reset_reason(self) -> Option<ResetReason> {
        if let Self::Reset(reason) = self { Some(reason) } else { None }
    }

    /// The code of a failure, and why.
    fn failed(self) -> (i32, Option<Reason>) {
        match self {
            Self::Failed(code, reason) | Self::Refused(code, reason) => (code, reason),
            Self::Aligned
            | Self::Delta
            | Self::Reset(_)
            | Self::Denied
            | Self::NotFound
            | Self::Deferred
            | Self::Notify
            | Self::Revoked
            | Self::Repair => (0, None),
        }
    }
}

// === impl Decisions ===

impl Decisions {
    /// This was decided for a client.
    pub fn decided(
        &mut self,
        key: &ClientKey,
        decided: impl IntoIterator<Item = (CollectionName, Decided)>,
        now: Timestamp,
    ) {
        self.change(key, |client, turn| {
            for (collection, decided) in decided {
                *turn += 1;
                client.trail(collection, *turn, |trail| trail.decided(decided, now));
            }
        });
    }

    /// This was sent on a stream of a client.
    pub fn pushed(
        &mut self,
        key: &ClientKey,
        pushed: impl IntoIterator<Item = (CollectionName, Pushed)>,
    ) {
        self.change(key, |client, turn| {
            for (collection, pushed) in pushed {
                *turn += 1;
                client.trail(collection, *turn, |trail| trail.pushed(pushed));
            }
        });
    }

    /// A target of a stream of a client has ended, or has nothing to follow now.
    pub fn ended(
        &mut self,
        key: &ClientKey,
        collection: CollectionName,
        answer: Answer,
        now: Timestamp,
    ) {
        self.change(key, |client, turn| {
            *turn += 1;
            client.trail(collection, *turn, |trail| {
                let shown = trail.streamed().and_then(|kept| kept.last.reached);
                let call = Call::Subscribe;
                trail.decided(Decided { call, shown, answer, reached: None, bytes: 0 }, now);
            });
        });
    }

    /// What was decided for the clients of this id, the newest `most`, oldest first; only about
    /// `collection`, if one is named.
    #[must_use]
    pub fn tell(
        &self,
        client_id: &str,
        collection: Option<&CollectionName>,
        most: usize,
    ) -> Vec<Decision> {
        let first = ClientKey { client_id: client_id.to_owned(), subject: String::new() };
        let clients = self.clients.range::<ClientKey, _>(&first..);
        let clients = clients.take_while(|(key, _)| key.client_id == client_id);
        let mut told = Vec::new();
        for (key, client) in clients {
            let trails = client.trails.iter();
            for (name, trail) in trails.filter(|(name, _)| collection.is_none_or(|c| c == *name)) {
                told.extend(trail.kept.iter().map(|kept| kept.tell(&key.subject, name)));
            }
        }
        told.sort_by_key(|decision| decision.time);
        told.drain(..told.len().saturating_sub(most));
        told
    }

    /// About how many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn change(&mut self, key: &ClientKey, change: impl FnOnce(&mut Client, &mut u64)) {
        self.turn += 1;
        let key = if let Some((known, client)) = self.clients.get_key_value(key) {
            self.by_turn.remove(&client.turn);
            Arc::clone(known)
        } else {
            self.bytes += client_bytes(key);
            Arc::new(key.clone())
        };
        self.by_turn.insert(self.turn, Arc::clone(&key));
        let client = self.clients.entry(key).or_default();
        client.turn = self.turn;
        let before = client.bytes;
        change(client, &mut self.turn);
        self.bytes = self.bytes - before + client.bytes;
        while self.bytes > DECISIONS_BYTES_MAX
            && let Some((_, key)) = self.by_turn.pop_first()
        {
            let client = self.clients.remove(&key).expect("every turn is of a client");
            self.bytes -= client.bytes + client_bytes(&key);
        }
    }
}

// === impl Client ===

impl Client {
    fn trail(&mut self, collection: CollectionName, turn: u64, change: impl FnOnce(&mut Trail)) {
        if let Some(trail) = self.trails.get(&collection) {
            self.by_turn.remove(&trail.turn);
        } else {
            self.bytes += trail_bytes(&collection);
        }
        self.by_turn.insert(turn, collection.clone());
        let trail = self.trails.entry(collection).or_default();
        trail.turn = turn;
        let before = trail.kept.len();
        change(trail);
        self.bytes = self.bytes + trail.kept.len() * DECISION_BYTES - before * DECISION_BYTES;
        if self.trails.len() > COLLECTIONS_MAX
            && let Some((_, oldest)) = self.by_turn.pop_first()
            && let Some(gone) = self.trails.remove(&oldest)
        {
            self.bytes -= trail_bytes(&oldest) + gone.kept.len() * DECISION_BYTES;
        }
    }
}

// === impl Trail ===

impl Trail {
    fn decided(&mut self, decided: Decided, now: Timestamp) {
        if let Some(kept) = self.kept.back_mut()
            && (kept.last.call, kept.last.answer) == (decided.call, decided.answer)
        {
            let bytes = kept.last.bytes.saturating_add(decided.bytes);
            kept.last = Decided { bytes, ..decided };
            kept.time = kept.time.max(now);
            kept.times += 1;
            return;
        }
        if self.kept.len() == DECISIONS_MAX {
            self.kept.pop_front();
        }
        let first_shown = decided.shown;
        self.kept.push_back(Kept {
            last: decided,
            first_shown,
            first_time: now,
            time: now,
            times: 1,
        });
    }

    /// What was sent belongs to the last decision for a stream, if that is still known.
    fn pushed(&mut self, pushed: Pushed) {
        let Some(kept) = self.streamed() else { return };
        kept.last.reached = Some(pushed.reached);
        kept.last.bytes = kept.last.bytes.saturating_add(pushed.bytes);
        kept.time = kept.time.max(pushed.at);
    }

    fn streamed(&mut self) -> Option<&mut Kept> {
        self.kept.iter_mut().rev().find(|kept| kept.last.call == Call::Subscribe)
    }
}

// === impl Kept ===

impl Kept {
    fn tell(&self, subject: &str, collection: &CollectionName) -> Decision {
        let Decided { call, shown, answer, reached, bytes } = self.last;
        let (failed_code, failed_reason) = answer.failed();
        Decision {
            time: self.time,
            first_time: self.first_time,
            times: self.times,
            subject: subject.to_owned(),
            collection: collection.clone(),
            call: call.word().to_owned(),
            shown,
            answer: answer.word().to_owned(),
            reset_reason: answer.reset_reason(),
            failed_code,
            failed_reason: failed_reason.map(|reason| reason.as_str().to_owned()),
            first_shown: self.first_shown,
            reached,
            bytes,
        }
    }
}

fn trail_bytes(name: &CollectionName) -> usize {
    TRAIL_BYTES + name.as_str().len()
}

fn client_bytes(key: &ClientKey) -> usize {
    CLIENT_BYTES + key.client_id.len() + key.subject.len()
}
