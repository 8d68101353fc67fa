//! What was decided for a client, for operators: how answers become decisions that are remembered
//! (`core::decisions`), and what is told of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::limits::{CLIENT_POSITIONS_MAX, CLIENT_SUBJECTS_MAX, DECISIONS_TOLD_MAX};
use sync_proto::types::{
    AcceptedTarget, ClientInfo, CollectionName, Cursor, Decision, Delta, Explanation, Failure,
    Found, Malformed, Outcome, Plan, Reason, Reconciled, Target,
};
use tonic::Status;

use super::Context;
use super::clients::{self, ClientRegistry};
use crate::core::decisions::{Answer, Call, Decided};
use crate::engine::ledger::Ledger;
use crate::metrics::SentKind;
use crate::status;
use crate::store::keys::ClientKey;
use crate::store::{Store, StoreError};

/// Bytes of an entry of a reconciliation besides its key and sort key, about.
const ENTRY_BYTES: u64 = 48;

/// Bytes of a sum of a reconciliation.
const SUM_BYTES: u64 = 18;

/// What a client asks, for the decisions about it.
pub(super) struct Explained {
    pub(super) key: ClientKey,
    pub(super) call: Call,
    /// Where each target says that it stands; nothing of those that make no sense.
    pub(super) shown: Vec<Option<(CollectionName, Option<Cursor>)>>,
}

// === impl Explained ===

impl Explained {
    /// A call for these targets.
    pub(super) fn new(key: ClientKey, call: Call, targets: &[Result<Target, Malformed>]) -> Self {
        let shown = |target: &Target| (target.collection.clone(), target.cursor);
        let shown = targets.iter().map(|target| target.as_ref().ok().map(shown)).collect();
        Self { key, call, shown }
    }

    /// A round of a reconciliation.
    pub(super) fn of_round(key: ClientKey, name: CollectionName) -> Self {
        Self { key, call: Call::Reconcile, shown: vec![Some((name, None))] }
    }

    /// Who was answered what by a pull, target by target.
    pub(super) fn answered<'o>(
        self,
        outcomes: impl Iterator<Item = &'o Outcome<Bytes>>,
    ) -> (ClientKey, impl Iterator<Item = (CollectionName, Decided)>) {
        let decided = self.shown.into_iter().zip(outcomes).filter_map(|(shown, outcome)| {
            let (name, cursor) = shown?;
            Some((name, of_outcome(cursor, outcome)))
        });
        (self.key, decided)
    }
}

/// Bytes of the changes of a page.
pub(super) fn bytes_of(delta: &Delta<Bytes>) -> u64 {
    delta.changes.iter().map(|change| change.len() as u64).sum()
}

/// What kind of changes they are, for metrics.
pub(super) fn kind_of(delta: &Delta<Bytes>) -> SentKind {
    if delta.initial { SentKind::Load } else { SentKind::Delta }
}

/// What a target of a pull was answered.
pub(super) fn of_outcome(shown: Option<Cursor>, outcome: &Outcome<Bytes>) -> Decided {
    let (answer, bytes) = match outcome {
        Outcome::Aligned(_) => (Answer::Aligned, 0),
        Outcome::Delta(delta) => (Answer::Delta, bytes_of(delta)),
        Outcome::Reset(reset) => (Answer::Reset(reset.reason), 0),
        Outcome::Denied => (Answer::Denied, 0),
        Outcome::NotFound => (Answer::NotFound, 0),
        Outcome::Deferred(_) => (Answer::Deferred, 0),
        Outcome::Failed(failure) => (of_failure(failure), 0),
    };
    Decided { call: Call::Pull, shown, answer, reached: clients::handed_out(outcome), bytes }
}

/// A target that failed.
pub(super) fn of_failure(failure: &Failure) -> Answer {
    Answer::Failed(failure.code, failure.reason.as_deref().and_then(Reason::of_word))
}

/// A target of a call that was refused as a whole.
pub(super) fn of_refusal(call: Call, shown: Option<Cursor>, refusal: &Status) -> Decided {
    let answer = Answer::Refused(refusal.code().into(), status::reason_of(refusal));
    Decided { call, shown, answer, reached: None, bytes: 0 }
}

/// How a target of a stream is served.
pub(super) fn of_target(shown: Option<Cursor>, target: &AcceptedTarget) -> Decided {
    let answer = match &target.plan {
        Plan::Live => Answer::Aligned,
        Plan::CatchUp | Plan::Load => Answer::Delta,
        Plan::Absent => Answer::NotFound,
        Plan::Reset(reset) => Answer::Reset(reset.reason),
        Plan::Denied => Answer::Denied,
        Plan::Notify => Answer::Notify,
    };
    let live = target.head.filter(|_| target.plan == Plan::Live);
    let reached = live.map(|head| head.cursor());
    Decided { call: Call::Subscribe, shown, answer, reached, bytes: 0 }
}

/// A round of a reconciliation.
pub(super) fn of_round(answered: &Reconciled) -> Decided {
    let bytes = round_bytes(answered);
    let reached = Some(answered.head.cursor());
    Decided { call: Call::Reconcile, shown: None, answer: Answer::Repair, reached, bytes }
}

/// Bytes of a round, about: what is found is encoded only behind the last of our layers.
pub(super) fn round_bytes(answered: &Reconciled) -> u64 {
    match &answered.found {
        Found::Sums(sums) => sums.len() as u64 * SUM_BYTES,
        Found::Entries(entries, _) => {
            let names = entries
                .iter()
                .map(|entry| entry.key.as_bytes().len() + entry.sort_key.as_bytes().len());
            names.map(|bytes| bytes as u64 + ENTRY_BYTES).sum()
        }
    }
}

/// What is known of the clients of this id; only about `collection`, if one is named.
pub(super) async fn explain<S: Store>(
    context: &Context<S>,
    client_id: String,
    collection: Option<CollectionName>,
) -> Result<Explanation, Status> {
    let registry = Arc::clone(&context.clients);
    let explained = context.read(move |ledger| {
        registry.read_books(&client_id);
        let asked = collection.as_ref();
        let decisions = registry.decisions.lock().tell(&client_id, asked, DECISIONS_TOLD_MAX);
        let keys = keys(ledger, &registry, &client_id)?;
        let clients = keys.iter().map(|key| describe(ledger, &registry, key, asked, &decisions));
        let clients = clients.collect::<Result<_, StoreError>>()?;
        Ok(Explanation { clients, decisions })
    });
    let explained = explained.await?.map_err(|error: StoreError| status::storage(&error))?;
    if explained.clients.is_empty() && explained.decisions.is_empty() {
        let text = "client_id: no client of this id was served lately or has acknowledged anything";
        return Err(status::refused(Reason::NoSuchClient, text));
    }
    Ok(explained)
}

/// The clients of this id, by subject: they come first of those whose ids begin with it.
fn keys<S: Store>(
    ledger: &Ledger<S>,
    registry: &ClientRegistry,
    client_id: &str,
) -> Result<Vec<ClientKey>, StoreError> {
    let known = registry.clients.lock().list(client_id, None, CLIENT_SUBJECTS_MAX);
    let keys = ledger.clients(known, client_id, None, CLIENT_SUBJECTS_MAX)?;
    Ok(keys.into_iter().filter(|key| key.client_id == client_id).collect())
}

fn describe<S: Store>(
    ledger: &Ledger<S>,
    registry: &ClientRegistry,
    key: &ClientKey,
    collection: Option<&CollectionName>,
    decisions: &[Decision],
) -> Result<ClientInfo, StoreError> {
    let known = registry.clients.lock().known(key, CLIENT_POSITIONS_MAX + 1);
    let mut client = registry.with_streams(key, ledger.client(key.clone(), known)?);
    let asked_for = |name: &CollectionName| {
        decisions.iter().any(|one| one.subject == key.subject && one.collection == *name)
    };
    if let Some(name) = collection {
        let sent = registry.clients.lock().newest_sent(key, name);
        let held = ledger.held(key, name)?;
        let known_here = sent.is_some() || held.is_some() || asked_for(name);
        let position = known_here.then(|| ledger.position(name.clone(), sent, held));
        client.positions = position.into_iter().collect();
        client.more_positions = false;
        return Ok(client);
    }
    // Also what it only asked for, and was not sent anything of: that is what is asked about most.
    let of_it = decisions.iter().filter(|one| one.subject == key.subject);
    let names: BTreeSet<_> = of_it.map(|one| &one.collection).collect();
    let known: BTreeSet<_> = client.positions.iter().map(|at| at.collection.clone()).collect();
    let room = CLIENT_POSITIONS_MAX.saturating_sub(known.len());
    let others: Vec<_> = names.into_iter().filter(|name| !known.contains(*name)).collect();
    client.more_positions |= others.len() > room;
    let others = others.into_iter().take(room);
    client.positions.extend(others.map(|name| ledger.position(name.clone(), None, None)));
    client.positions.sort_by(|one, other| one.collection.cmp(&other.collection));
    Ok(client)
}
