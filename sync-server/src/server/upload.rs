//! The body of a request, as it arrives. Nothing of a message is read before there is room for
//! all of it; the last of a request is not passed on before there is room for the answer; and a
//! peer that does not get on with sending does not hold what it claims for long.
//!
//! ```text
//! Starting ─► Reading ◄─► Claiming (a message begins)
//!                │
//!                ├─ complete ─► Answering (room for the answer) ─► Ended
//!                └─ reset ────► Reset (whoever called is gone, and so is the call)
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use sync_proto::limits::MESSAGE_BYTES_MAX;
use sync_proto::types::Reason;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};

use super::framing::Framing;
use crate::admission::{ANSWER_BYTES_MAX, Granted, Held};
use crate::budget::{Account, Claim, Exhausted};
use crate::flight::CALL_BYTES;
use crate::rpc::ending::Ending;
use crate::status;

/// A message must arrive at least this fast, give or take the server's patience.
const UPLOAD_BYTES_PER_S_MIN: usize = 16 * 1024;

/// An import may pause this long between two messages.
const IMPORT_PAUSE_MAX: Duration = Duration::from_secs(300);

/// A request that is not complete when the server begins to stop gets at most this long.
const UPLOAD_MAX: Duration = Duration::from_secs(1);

/// How long a call waits for room that others hold.
pub(super) const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// An answer about what a request named is not larger than a few times the request.
const ANSWER_PER_REQUEST: usize = 4;

/// How a call uses memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Answers with what is stored.
    Reading,
    /// The same, and may be answered with less of it than was asked for.
    Paging,
    /// Answers with a few words about what was asked.
    Telling,
    /// The same, after any number of messages.
    Importing,
    /// Answers for ever; the stream claims for itself.
    Following,
}

/// Bounds of uploads.
#[derive(Debug, Clone)]
pub(super) struct UploadBounds {
    /// Silence that is borne within a message; the whole of it may take as long beyond the time
    /// in which it arrives when it arrives just fast enough.
    pub(super) patience: Duration,
    /// Cancelled when the server begins to stop.
    pub(super) drain: CancellationToken,
    /// Who may have asked for that, and with which grace.
    pub(super) ending: Ending,
    /// The grace otherwise.
    pub(super) grace: Duration,
}

/// The body of a request: ends when the server does not wait for it any longer.
pub(super) struct Upload {
    body: Body,
    /// Whether its caller can reset it, and the body tells that from its end: over HTTP/2.
    resets: bool,
    shape: Shape,
    account: Arc<Account>,
    held: Held,
    framing: Framing,
    step: Step,
    patience: Duration,
    pace: Pace,
    due: Pin<Box<Sleep>>,
    drained: BoxFuture<'static, ()>,
}

type Claiming = BoxFuture<'static, Result<Claim, Exhausted>>;

enum Step {
    Starting(Claiming),
    Reading,
    Claiming(Claiming, Bytes),
    Answering(BoxFuture<'static, Result<Granted, Exhausted>>),
    Reset,
    Ended,
}

/// How a peer gets on with what it is sending.
#[derive(Debug)]
struct Pace {
    /// When the message began, or the pause before it.
    since: Instant,
    /// When something last came.
    last: Instant,
    bytes: usize,
    /// Bytes of the whole request.
    total: usize,
    pausing: bool,
}

// === impl Shape ===

impl Shape {
    /// The shape of the call with this path. A call that is not known here may answer anything.
    pub(super) fn of(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("Subscribe") => Self::Following,
            Some("Import") => Self::Importing,
            Some("Commit" | "GetImport" | "DeleteCollection" | "GetCollection" | "Ack") => {
                Self::Telling
            }
            Some("Pull" | "ListItems" | "GetItems") => Self::Paging,
            Some(_) | None => Self::Reading,
        }
    }

    /// Waits for room for the answer to a request of so many bytes.
    async fn grant(self, account: Arc<Account>, request: usize) -> Result<Granted, Exhausted> {
        let words = match self {
            Self::Reading => return Granted::whole(&account.replies, ROOM_WITHIN).await,
            Self::Paging => {
                return Granted::page(&account, &account.replies, ROOM_WITHIN).await;
            }
            Self::Telling => ANSWER_BYTES_MAX.min(2 * CALL_BYTES + ANSWER_PER_REQUEST * request),
            Self::Importing => 2 * CALL_BYTES,
            Self::Following => 0,
        };
        Granted::words(&account, words, ROOM_WITHIN).await
    }
}

// === impl UploadBounds ===

impl UploadBounds {
    /// From when the server drains, what a peer still has to send of its requests must come within
    /// this: half the grace if that is short, so that a peer that sends no more does not make the
    /// end an untimely one.
    fn drain_within(&self) -> Duration {
        UPLOAD_MAX.min(self.ending.grace(self.grace) / 2)
    }
}

// === impl Upload ===

impl Upload {
    pub(super) fn new(
        (body, resets): (Body, bool),
        shape: Shape,
        account: Arc<Account>,
        held: Held,
        bounds: UploadBounds,
    ) -> Self {
        let patience = bounds.patience;
        let drained = Box::pin(async move {
            bounds.drain.cancelled().await;
            tokio::time::sleep(bounds.drain_within()).await;
        });
        let calling = Arc::clone(&account);
        let starting = Box::pin(async move { calling.call(ROOM_WITHIN).await });
        let now = Instant::now();
        Self {
            body,
            resets,
            shape,
            account,
            held,
            framing: Framing::default(),
            step: Step::Starting(starting),
            patience,
            pace: Pace { since: now, last: now, bytes: 0, total: 0, pausing: false },
            due: Box::pin(tokio::time::sleep_until(now + patience)),
            drained,
        }
    }

    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match &mut self.step {
                Step::Starting(claiming) => {
                    let claim = ready!(claiming.as_mut().poll(context)).map_err(refusal)?;
                    self.held.begin(claim);
                    self.begin_reading();
                }
                Step::Claiming(claiming, bytes) => {
                    let claim = ready!(claiming.as_mut().poll(context)).map_err(refusal)?;
                    let bytes = std::mem::take(bytes);
                    self.held.request(claim);
                    self.begin_reading();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Step::Reading => match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => {
                            if let Some(bytes) = self.take(bytes)? {
                                return Poll::Ready(Some(Ok(Frame::data(bytes))));
                            }
                        }
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    // A call that was reset is dropped right after. Nothing is to be done for it meanwhile:
                    // tonic would take it for one that is complete.
                    Some(Err(error)) if self.resets && is_of_transport(&error) => {
                        self.step = Step::Reset;
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None if self.resets && !self.body.is_end_stream() => self.step = Step::Reset,
                    None => {
                        self.check_end()?;
                        self.begin_answering();
                    }
                },
                Step::Answering(granting) => {
                    let granted = ready!(granting.as_mut().poll(context)).map_err(refusal)?;
                    self.held.may_answer(granted);
                    self.step = Step::Ended;
                }
                Step::Reset => return Poll::Pending,
                Step::Ended => return Poll::Ready(None),
            }
        }
    }

    /// There is room for what comes next.
    fn begin_reading(&mut self) {
        // The peer was not to blame for the wait.
        self.pace.since = Instant::now();
        self.pace.last = self.pace.since;
        self.step = Step::Reading;
    }

    /// Takes note of what has arrived; returned at once if there is room for it already.
    fn take(&mut self, bytes: Bytes) -> Result<Option<Bytes>, Status> {
        self.held.took(self.framing.open().unwrap_or_default());
        let begun = self.framing.take(&bytes).min(MESSAGE_BYTES_MAX);
        if self.framing.is_flagged() {
            return Err(status::undecodable(
                "a message is marked as compressed, or as something else",
            ));
        }
        self.pace.total += bytes.len();
        if self.pace.pausing || (begun > 0 && self.shape == Shape::Importing) {
            self.pace = Pace { since: Instant::now(), bytes: 0, pausing: false, ..self.pace };
        }
        self.pace.last = Instant::now();
        self.pace.bytes += bytes.len();
        if begun <= CALL_BYTES {
            // The claim of the call covers it.
            return Ok(Some(bytes));
        }
        let place = Arc::clone(&self.account.uploads).try_acquire_owned();
        let place = place.map_err(|_| status::too_many_uploads())?;
        let lane = self.account.requests.clone();
        let claiming = Box::pin(async move {
            let claim = lane.claim_within(begun, ROOM_WITHIN).await;
            drop(place);
            claim
        });
        self.step = Step::Claiming(claiming, bytes);
        Ok(None)
    }

    /// Whether the request ends where it may; tonic would call it a fault of ours.
    fn check_end(&self) -> Result<(), Status> {
        if self.framing.open().is_some() {
            return Err(status::undecodable("it ends within a message"));
        }
        if !self.framing.has_begun() && self.shape != Shape::Importing {
            return Err(status::undecodable("it has no message"));
        }
        Ok(())
    }

    /// The request is complete.
    fn begin_answering(&mut self) {
        self.held.waits_for(&self.account.replies);
        self.step =
            Step::Answering(Box::pin(self.shape.grant(Arc::clone(&self.account), self.pace.total)));
    }

    /// Whether the peer has been waited for long enough.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.step, Step::Reading | Step::Reset) {
            return Poll::Pending;
        }
        let between = self.shape == Shape::Importing && self.framing.open().is_none();
        if between && !self.pace.pausing {
            // Only now has all before been taken, so only now does the peer pause.
            self.pace = Pace { since: Instant::now(), bytes: 0, pausing: true, ..self.pace };
        }
        let due = if between {
            self.pace.since + IMPORT_PAUSE_MAX
        } else {
            // Neither a silence as long, nor a trickle for longer.
            self.pace.last.min(self.pace.since + fair(self.pace.bytes)) + self.patience
        };
        if self.due.deadline() != due {
            self.due.as_mut().reset(due);
        }
        self.due.as_mut().poll(context)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let status = match self.poll_step(context) {
            Poll::Ready(Some(Err(status))) => status,
            Poll::Ready(frame) => return Poll::Ready(frame),
            Poll::Pending if self.drained.as_mut().poll(context).is_ready() => {
                status::stopping("the server is stopping; the request was not complete")
            }
            Poll::Pending => {
                ready!(self.poll_overdue(context));
                status::refused(
                    Reason::UploadTooSlow,
                    "upload_timeout_s: the rest of the request did not come within it, or all of it \
                     slower than 16 KiB/s; nothing of it was done",
                )
            }
        };
        self.step = Step::Ended;
        Poll::Ready(Some(Err(status)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.step, Step::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the call, or its connection, was cut while the request came; else the request is wrong.
fn is_of_transport(error: &Status) -> bool {
    matches!(
        error.code(),
        Code::Cancelled | Code::Internal | Code::Unknown | Code::Unavailable | Code::Aborted
    )
}

/// The time in which so many bytes arrive when they arrive fast enough.
fn fair(bytes: usize) -> Duration {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let rate = u64::try_from(UPLOAD_BYTES_PER_S_MIN).expect("it is small");
    Duration::from_millis(bytes.saturating_mul(1_000) / rate)
}

fn refusal(error: Exhausted) -> Status {
    status::exhausted(&error)
}
