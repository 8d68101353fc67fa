//! What a subscription says, on its way to its subscriber. One parcel at a time: the next is not
//! made before the transport has let go of the last, so a subscriber that does not read costs one
//! parcel at most, and none while it has not taken the one before. The messages are encoded here
//! and not by tonic, whose buffer would keep the size of the largest page for as long as the
//! stream lives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes};
use futures::future::BoxFuture;
use http_body::Frame;
use parking_lot::Mutex;
use prost::Message as _;
use sync_proto::limits::MESSAGE_BYTES_MAX;
use sync_proto::types::Event;
use sync_proto::v1;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};

use self::hatch::{Giver, NotLeft, Taker, Watch};
use crate::auth::AccessError;
use crate::budget::{Account, Claim, Lane};
use crate::engine::tails::Tail;
use crate::flight::{CALL_BYTES, Cargo, Flight};
use crate::requests::OpenRequest;
use crate::status;

mod hatch;

/// Parcels that wait for the transport: one, and the last words of the stream.
const PARCELS_MAX: usize = 2;

/// Bytes of a message before the message itself: a flag and its length.
const PREFIX_LEN: usize = 5;

/// What goes from the task of a stream to its body.
pub(super) type Parcel = Result<Cargo, Status>;

/// The sending end.
#[derive(Debug)]
pub(super) struct Outbox {
    parcels: Giver<Parcel>,
    flight: Arc<Flight>,
    lane: Lane,
    loads: Lane,
    shared: Lane,
}

/// The body of an answer that takes the place of the one that tonic would make. Travels as an
/// extension of the answer, which is why it can be cloned; the first to take it has it.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(Arc<Mutex<Option<Messages>>>);

/// The receiving end.
#[derive(Debug)]
struct Messages {
    parcels: Taker<Parcel>,
    cargo: Option<Cargo>,
    /// A part of the cargo has gone.
    begun: bool,
    ended: bool,
    _open: Option<OpenRequest>,
}

/// Both ends, for one stream of a connection that may hold as much as its account says.
pub(super) fn open(account: &Account) -> (Outbox, Outgoing) {
    let (giver, taker) = hatch::open(PARCELS_MAX);
    let flight = Flight::new();
    let (lane, shared) = account.pages.for_stream(&account.shared_pages);
    let messages =
        Messages { parcels: taker, cargo: None, begun: false, ended: false, _open: None };
    (
        Outbox { parcels: giver, flight, lane, loads: account.loads.clone(), shared },
        Outgoing(Arc::new(Mutex::new(Some(messages)))),
    )
}

// === impl Outbox ===

impl Outbox {
    /// Whether everything before has gone. Only then the next parcel is made.
    pub(super) fn is_free(&self) -> bool {
        self.flight.has_landed()
    }

    /// Waits until everything before has gone.
    pub(super) async fn landed(&self) {
        self.flight.landed().await;
    }

    /// Waits until what the next parcel may hold is claimed, among first loads or not.
    pub(super) fn room(&self, of_load: bool) -> BoxFuture<'static, Claim> {
        let lane = if of_load { self.loads.clone() } else { self.lane.clone() };
        Box::pin(async move { lane.claim(MESSAGE_BYTES_MAX).await })
    }

    /// What the peer has not taken of the stream is in the way of what is claimed here.
    pub(super) fn in_the_way(&self, claim: &mut Claim) {
        claim.await_peer();
        claim.await_lane(&self.lane);
    }

    /// Room for messages that others are sent as well, if there is some at once.
    pub(super) fn room_for(&self, messages: &Bytes) -> Option<Claim> {
        self.shared.try_claim(CALL_BYTES + messages.len())
    }

    /// Sends messages, as [`framed`], for which there is room; without it, such that the place of the
    /// stream pays for. An error says that the subscriber went away.
    pub(super) fn send(&self, messages: Bytes, room: Option<Claim>) -> Result<(), ()> {
        self.queue(Ok(self.flight.load(messages, room)))
    }

    /// Sends the last message of the stream, a small one, whether or not there is room, and waits
    /// until it has gone.
    pub(super) async fn end(&self, message: v1::SubscribeResponse) {
        let parcel = Ok(self.flight.load(framed(&[message]), None));
        if self.queue(parcel).is_ok() {
            self.flight.landed().await;
        }
    }

    /// Nothing of what was sent goes any further, because the right to all of it has ended: what the
    /// transport has not begun is dropped, and a message that it has begun ends the stream.
    pub(super) fn take_back(&self) {
        self.parcels.take_back();
    }

    /// Ends the stream with an error.
    pub(super) fn fail(&self, status: Status) {
        if self.queue(Err(status)).is_err() {
            tracing::debug!("a subscriber was gone before it could be told of a failure");
        }
    }

    /// Sees whether the subscriber is there.
    pub(super) fn watch(&self) -> Watch<Parcel> {
        self.parcels.watch()
    }

    fn queue(&self, parcel: Parcel) -> Result<(), ()> {
        self.parcels.leave(parcel).map_err(|error| match error {
            NotLeft::Gone => {}
            NotLeft::Full => panic!("a parcel was sent before the last one had gone"),
        })
    }
}

/// The messages as gRPC sends them, in a buffer of just their size.
pub(super) fn framed(messages: &[v1::SubscribeResponse]) -> Bytes {
    let size = |message: &v1::SubscribeResponse| PREFIX_LEN + message.encoded_len();
    let mut buffer = Vec::with_capacity(messages.iter().map(size).sum());
    for message in messages {
        buffer.put_u8(0);
        buffer.put_u32(u32::try_from(message.encoded_len()).expect("a message is bounded"));
        message.encode(&mut buffer).expect("a vector has room");
    }
    buffer.into()
}

/// Pages as gRPC sends them; a single one as it lies.
pub(super) fn joined(tails: &[Arc<Tail>]) -> Bytes {
    let message = |tail: &Tail| {
        let event = Event::Changes(tail.collection.clone(), tail.delta.clone());
        framed(&[event.into()])
    };
    match tails {
        [one] => one.message(message),
        many => many.iter().map(|tail| tail.message(message)).collect::<Vec<_>>().concat().into(),
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// The body of the answer to a request that is open until then.
    pub(crate) fn into_body(self, open: Option<OpenRequest>) -> Body {
        let messages = self.0.lock().take();
        messages
            .map_or_else(Body::empty, |messages| Body::new(Messages { _open: open, ..messages }))
    }
}

// === impl Messages ===

impl Messages {
    /// The last of the body.
    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
    }
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(left) = self.cargo.take_if(|cargo| !cargo.is_empty()) {
                if !self.parcels.is_taken_back() {
                    self.begun = true;
                    let cargo = self.cargo.insert(left);
                    return Poll::Ready(Some(Ok(Frame::data(cargo.unload()))));
                }
                drop(left);
                if self.begun {
                    return Poll::Ready(Some(self.end(&status::access(AccessError::Expired))));
                }
            }
            let last = match ready!(self.parcels.poll_take(context)) {
                Some(Ok(cargo)) => {
                    (self.cargo, self.begun) = (Some(cargo), false);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::new(Code::Ok, ""),
            };
            return Poll::Ready(Some(self.end(&last)));
        }
    }
}
