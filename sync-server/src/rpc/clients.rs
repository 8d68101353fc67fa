//! The clients that were served lately. What is remembered of them is decided in `core::clients`;
//! here are its clock and its lock, and what of an answer counts as sent.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sync_proto::limits::CLIENT_POSITIONS_MAX;
use sync_proto::types::{
    Ack, Acked, ClientInfo, CollectionName, Cursor, Event, Outcome, Plan, Timestamp,
};
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::core::acks::{Claim, Claims};
use crate::core::clients::{self, Clients};
use crate::status;
use crate::store::Store;
use crate::store::keys::ClientKey;

/// Bytes of one page of a listing of clients.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What a client or a position takes in an answer, besides its names.
const ENTRY_BYTES: usize = 96;

/// The clients of all calls.
#[derive(Debug, Default)]
pub struct ClientRegistry(Mutex<Clients>);

/// A live stream of a client.
#[derive(Debug)]
pub(super) struct OpenStream {
    clients: Arc<ClientRegistry>,
    key: ClientKey,
}

/// Which client calls; `None` = one without a name.
pub(super) fn key(caller: &Caller, client_id: &str) -> Option<ClientKey> {
    let subject = caller.subject().to_owned();
    (!client_id.is_empty()).then(|| ClientKey { client_id: client_id.to_owned(), subject })
}

/// The cursor that an outcome hands out.
pub(super) fn handed_out(outcome: &Outcome<Bytes>) -> Option<Cursor> {
    match outcome {
        Outcome::Aligned(head) => Some(head.cursor()),
        Outcome::Delta(delta) => Some(delta.to),
        Outcome::Reset(_)
        | Outcome::Denied
        | Outcome::NotFound
        | Outcome::Deferred(_)
        | Outcome::Failed(_) => None,
    }
}

// === impl ClientRegistry ===

impl ClientRegistry {
    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// These cursors are about to be sent.
    pub(super) fn sent(
        &self,
        key: &ClientKey,
        sent: impl IntoIterator<Item = (CollectionName, Cursor)>,
    ) {
        self.0.lock().sent(key, sent, Timestamp::now());
    }

    /// What a client says, with what it was sent.
    pub(super) fn claims(&self, client: ClientKey, ack: Ack) -> Claims {
        let mut clients = self.0.lock();
        clients.sent(&client, [], Timestamp::now());
        let claim = |Acked { collection, cursor }: Acked| {
            let sent = clients.newest_sent(&client, &collection);
            Claim { collection, cursor, sent }
        };
        let claims = ack.acked.into_iter().map(claim).collect();
        drop(clients);
        Claims { client, claims }
    }

    /// A stream of a client begins.
    pub(super) fn open_stream(self: &Arc<Self>, key: ClientKey) -> OpenStream {
        self.0.lock().stream_opened(&key, Timestamp::now());
        OpenStream { clients: Arc::clone(self), key }
    }
}

// === impl OpenStream ===

impl OpenStream {
    /// An event is about to be sent.
    pub(super) fn says(&self, event: &Event<Bytes>) {
        let at = |name: &CollectionName, cursor: Cursor| (name.clone(), cursor);
        match event {
            Event::Accepted(targets, _) => {
                let live = targets.iter().filter(|target| target.plan == Plan::Live);
                let live = live.filter_map(|target| Some((target, target.head?)));
                self.sent(live.map(|(target, head)| at(&target.collection, head.cursor())));
            }
            Event::Changes(name, delta) => self.sent([at(name, delta.to)]),
            Event::CaughtUp(name, cursor) => self.sent([at(name, *cursor)]),
            Event::Bookmark(positions, _) => {
                self.sent(
                    positions.iter().map(|position| at(&position.collection, position.cursor)),
                );
            }
            Event::Notice(..)
            | Event::InboxNotice(_)
            | Event::Reset(..)
            | Event::Lagging(..)
            | Event::Absent(_)
            | Event::Revoked(_)
            | Event::Failed(..)
            | Event::Goodbye(_) => {}
        }
    }

    fn sent(&self, sent: impl IntoIterator<Item = (CollectionName, Cursor)>) {
        self.clients.sent(&self.key, sent);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.clients.0.lock().stream_closed(&self.key, Timestamp::now());
    }
}

/// A page of a listing, and the token of the next one.
pub(super) async fn list<S: Store>(
    context: &Context<S>,
    prefix: String,
    page_token: &[u8],
    most: usize,
) -> Result<(Vec<ClientInfo>, Bytes), Status> {
    let after = clients::position(page_token, &prefix).map_err(status::token)?;
    let registry = Arc::clone(&context.clients);
    let asked = prefix.clone();
    let listed = context.read(move |ledger| {
        // One more than fits says whether there is another page.
        let (after, most) = (after.as_ref(), most + 1);
        let known = registry.0.lock().list(&asked, after, most, CLIENT_POSITIONS_MAX + 1);
        ledger.clients(known, &asked, after, most)
    });
    let mut listed = listed.await?.map_err(|error| status::storage(&error))?;
    let mut bytes = 0;
    let fits = listed.iter().take(most).take_while(|client| {
        let first = bytes == 0;
        bytes += size(client);
        first || bytes <= PAGE_BYTES_MAX
    });
    let count = fits.count();
    let more = listed.len() > count;
    listed.truncate(count);
    let last = listed.last().filter(|_| more);
    let next = last.map(|last| {
        let ClientInfo { client_id, subject, .. } = last.clone();
        clients::token(&prefix, &ClientKey { client_id, subject })
    });
    Ok((listed, next.unwrap_or_default()))
}

fn size(client: &ClientInfo) -> usize {
    let positions = client.positions.iter();
    let positions = positions.map(|position| ENTRY_BYTES + position.collection.as_str().len());
    ENTRY_BYTES + client.client_id.len() + client.subject.len() + positions.sum::<usize>()
}
