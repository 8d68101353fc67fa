//! The clients that were served lately. What is remembered of them is decided in `core::clients`;
//! here are its clock and its lock, and what of an answer counts as sent.
//!
//! A stream notes what it says in a book of its own, under a lock that nobody else wants: what all
//! streams push would queue at one lock. The books are read when somebody asks what was sent.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use parking_lot::Mutex;
use sync_proto::limits::CLIENT_POSITIONS_MAX;
use sync_proto::types::{
    AcceptedTarget, Ack, Acked, ClientInfo, CollectionName, Cursor, Delta, Event, Head, Outcome,
    Plan, Timestamp,
};
use tonic::Status;

use super::explaining::Explained;
use super::{Context, explaining};
use crate::auth::Caller;
use crate::core::acks::{Claim, Claims};
use crate::core::clients::{self, Clients};
use crate::core::decisions::{Answer, Decided, Decisions, Pushed};
use crate::engine::ledger::Ledger;
use crate::metrics::{RepairReader, SubscriberState};
use crate::status;
use crate::store::keys::ClientKey;
use crate::store::{Store, StoreError};

/// Bytes of one page of a listing of clients.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What a client or a position takes in an answer, besides its names.
const ENTRY_BYTES: usize = 96;

/// The clients of all calls.
#[derive(Debug, Default)]
pub struct ClientRegistry {
    pub(super) clients: Mutex<Clients>,
    /// What was decided for them.
    pub(super) decisions: Mutex<Decisions>,
    /// The books of the live streams.
    books: Mutex<HashMap<ClientKey, Vec<Arc<Book>>>>,
}

/// What a stream notes.
#[derive(Debug, Default)]
struct Book {
    /// What it said since somebody asked: one entry for each of its targets at most.
    said: Mutex<BTreeMap<CollectionName, Pushed>>,
    /// How it gets on: a [`SubscriberState`].
    state: AtomicU8,
}

/// A live stream of a client.
#[derive(Debug)]
pub(super) struct OpenStream {
    clients: Arc<ClientRegistry>,
    key: ClientKey,
    book: Arc<Book>,
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
        self.clients.lock().len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.lock().is_empty()
    }

    /// These cursors are about to be sent.
    pub(super) fn sent(
        &self,
        key: &ClientKey,
        sent: impl IntoIterator<Item = (CollectionName, Cursor)>,
    ) {
        self.clients.lock().sent(key, sent, Timestamp::now());
    }

    /// This is about to be answered, and for those answers.
    pub(super) fn decided(
        &self,
        key: &ClientKey,
        decided: impl IntoIterator<Item = (CollectionName, Decided)>,
    ) {
        self.decisions.lock().decided(key, decided, Timestamp::now());
    }

    /// Passes on what came of a call; that of a client which was refused is a decision, too.
    pub(super) fn noting<T>(
        &self,
        explained: Option<&Explained>,
        came: Result<T, Status>,
    ) -> Result<T, Status> {
        if let (Err(refusal), Some(Explained { key, call, shown })) = (&came, explained) {
            // It was heard of.
            self.sent(key, []);
            let decided = shown.iter().flatten().map(|(name, cursor)| {
                (name.clone(), explaining::of_refusal(*call, *cursor, refusal))
            });
            self.decided(key, decided);
        }
        came
    }

    /// What a client says, with what it was sent.
    pub(super) fn claims(&self, client: ClientKey, ack: Ack) -> Claims {
        let books = self.books.lock().get(&client).cloned().unwrap_or_default();
        for book in books {
            self.read_book(&client, &book);
        }
        let mut clients = self.clients.lock();
        clients.sent(&client, [], Timestamp::now());
        let claim = |Acked { collection, cursor }: Acked| {
            let sent = clients.newest_sent(&client, &collection);
            Claim { collection, cursor, sent }
        };
        let claims = ack.acked.into_iter().map(claim).collect();
        drop(clients);
        Claims { client, claims }
    }

    /// When that was committed which a client says for the first time that it has applied, as far as
    /// it is the newest of its collection and the client was there before.
    pub(super) fn applied(
        &self,
        key: &ClientKey,
        acked: &[Acked],
        newest: impl Fn(&CollectionName) -> Option<Head>,
    ) -> Vec<Timestamp> {
        let mut clients = self.clients.lock();
        let first = |one: &Acked| {
            let head = newest(&one.collection).filter(|head| head.cursor() == one.cursor)?;
            let since = clients.acked(key, &one.collection, one.cursor)?;
            (head.commit_time > since).then_some(head.commit_time)
        };
        acked.iter().filter_map(first).collect()
    }

    /// Who begins to reconcile a collection that stands there.
    pub(super) fn repairs(
        &self,
        key: Option<&ClientKey>,
        collection: &CollectionName,
        head: Cursor,
    ) -> RepairReader {
        let sent = key.and_then(|key| self.clients.lock().newest_sent(key, collection));
        match sent {
            Some(sent) if sent == head => RepairReader::InStep,
            Some(_) => RepairReader::Behind,
            None => RepairReader::Unknown,
        }
    }

    /// A stream of a client begins.
    pub(super) fn open_stream(self: &Arc<Self>, key: ClientKey) -> OpenStream {
        self.clients.lock().stream_opened(&key, Timestamp::now());
        let book = Arc::<Book>::default();
        self.books.lock().entry(key.clone()).or_default().push(Arc::clone(&book));
        OpenStream { clients: Arc::clone(self), key, book }
    }

    /// Takes over what the streams of these clients said: of one client after the other, so that
    /// nobody waits for all of them.
    pub(super) fn read_books(&self, prefix: &str) {
        let books = self.books.lock();
        let books = books.iter().filter(|(key, _)| key.client_id.starts_with(prefix));
        let books: Vec<_> = books.map(|(key, books)| (key.clone(), books.clone())).collect();
        for (key, books) in books {
            for book in books {
                self.read_book(&key, &book);
            }
        }
    }

    /// How the streams of a client get on, besides where it stands.
    pub(super) fn with_streams(&self, key: &ClientKey, client: ClientInfo) -> ClientInfo {
        let books = self.books.lock();
        let of = books.get(key).map(Vec::as_slice).unwrap_or_default();
        let count = |state| {
            let such = of.iter().filter(|book| book.state.load(Relaxed) == state as u8);
            u32::try_from(such.count()).unwrap_or(u32::MAX)
        };
        let streams_lagging = count(SubscriberState::Lagging);
        ClientInfo { streams_lagging, streams_parked: count(SubscriberState::Parked), ..client }
    }

    fn read_book(&self, key: &ClientKey, book: &Book) {
        let said = mem::take(&mut *book.said.lock());
        let cursors = said.iter().map(|(name, pushed)| (name.clone(), pushed.reached));
        self.clients.lock().sent(key, cursors, Timestamp::now());
        self.decisions.lock().pushed(key, said);
    }
}

// === impl OpenStream ===

impl OpenStream {
    /// What was decided for the targets, which showed these cursors.
    pub(super) fn decided(&self, shown: &[Option<Cursor>], accepted: &[AcceptedTarget]) {
        let decided = shown.iter().zip(accepted).map(|(shown, target)| {
            (target.collection.clone(), explaining::of_target(*shown, target))
        });
        self.clients.decided(&self.key, decided);
    }

    /// How the stream gets on now.
    pub(super) fn is(&self, state: SubscriberState) {
        self.book.state.store(state as u8, Relaxed);
    }

    /// An event is about to be sent.
    pub(super) fn says(&self, event: &Event<Bytes>) {
        let at = |name: &CollectionName, cursor: Cursor| (name.clone(), cursor, 0);
        match event {
            Event::Accepted(targets, _) => {
                let live = targets.iter().filter(|target| target.plan == Plan::Live);
                let live = live.filter_map(|target| Some((target, target.head?)));
                self.sent(live.map(|(target, head)| at(&target.collection, head.cursor())));
            }
            Event::Changes(name, delta) => self.says_changes(name, delta),
            Event::CaughtUp(name, cursor) => self.sent([at(name, *cursor)]),
            Event::Bookmark(positions, _) => {
                self.sent(
                    positions.iter().map(|position| at(&position.collection, position.cursor)),
                );
            }
            Event::Reset(name, reset) => self.ended(name, Answer::Reset(reset.reason)),
            Event::Absent(name) => self.ended(name, Answer::NotFound),
            Event::Revoked(name) => self.ended(name, Answer::Revoked),
            Event::Failed(name, failure) => self.ended(name, explaining::of_failure(failure)),
            Event::Notice(..) | Event::InboxNotice(_) | Event::Lagging(..) | Event::Goodbye(_) => {}
        }
    }

    /// Likewise of changes alone.
    pub(super) fn says_changes(&self, name: &CollectionName, delta: &Delta<Bytes>) {
        self.sent([(name.clone(), delta.to, explaining::bytes_of(delta))]);
    }

    fn sent(&self, sent: impl IntoIterator<Item = (CollectionName, Cursor, u64)>) {
        let now = Timestamp::now();
        let mut book = self.book.said.lock();
        for (name, reached, bytes) in sent {
            let before = book.get(&name).map_or(0, |pushed| pushed.bytes);
            book.insert(name, Pushed { reached, bytes: before + bytes, at: now });
        }
    }

    /// Rare, so it goes where all look; what was said before comes first.
    fn ended(&self, name: &CollectionName, answer: Answer) {
        self.clients.read_book(&self.key, &self.book);
        self.clients.decisions.lock().ended(&self.key, name.clone(), answer, Timestamp::now());
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut books = self.clients.books.lock();
        if let Some(its) = books.get_mut(&self.key) {
            its.retain(|book| !Arc::ptr_eq(book, &self.book));
            if its.is_empty() {
                books.remove(&self.key);
            }
        }
        drop(books);
        self.clients.read_book(&self.key, &self.book);
        self.clients.clients.lock().stream_closed(&self.key, Timestamp::now());
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
        registry.read_books(&asked);
        // One more than fits says whether there is another page.
        let (after, most) = (after.as_ref(), most + 1);
        let known = registry.clients.lock().list(&asked, after, most);
        let keys = ledger.clients(known, &asked, after, most)?;
        describe(ledger, &registry, keys, most - 1)
    });
    let (listed, more) = listed.await?.map_err(|error| status::storage(&error))?;
    let last = listed.last().filter(|_| more);
    let next = last.map(|last| {
        let ClientInfo { client_id, subject, .. } = last.clone();
        clients::token(&prefix, &ClientKey { client_id, subject })
    });
    Ok((listed, next.unwrap_or_default()))
}

/// Describes clients, as many as a page takes, and one at least; whether there are more.
fn describe<S: Store>(
    ledger: &Ledger<S>,
    registry: &ClientRegistry,
    keys: Vec<ClientKey>,
    most: usize,
) -> Result<(Vec<ClientInfo>, bool), StoreError> {
    let mut page: Vec<ClientInfo> = Vec::new();
    let mut bytes = 0;
    for key in keys {
        let known = registry.clients.lock().known(&key, CLIENT_POSITIONS_MAX + 1);
        let client = ledger.client(key.clone(), known)?;
        let client = registry.with_streams(&key, client);
        bytes += size(&client);
        if page.len() == most || (bytes > PAGE_BYTES_MAX && !page.is_empty()) {
            return Ok((page, true));
        }
        page.push(client);
    }
    Ok((page, false))
}

fn size(client: &ClientInfo) -> usize {
    let positions = client.positions.iter();
    let positions = positions.map(|position| ENTRY_BYTES + position.collection.as_str().len());
    ENTRY_BYTES + client.client_id.len() + client.subject.len() + positions.sum::<usize>()
}
