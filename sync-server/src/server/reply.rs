//! The answer to a call, on its way. What tonic has encoded is copied once, into a buffer of just
//! the right size, and counted until the transport has let go of the last byte: the peer decides
//! when that is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use sync_proto::limits::MESSAGE_BYTES_MAX;
use tonic::Status;
use tonic::body::Body;

use crate::budget::Claim;
use crate::flight::{Cargo, Flight};
use crate::requests::OpenRequest;

/// The body of an answer.
pub(super) struct Reply {
    /// `None`: everything was read.
    body: Option<Body>,
    flight: Arc<Flight>,
    /// What the answer may take, until it is known what it does take.
    claim: Option<Claim>,
    cargo: Option<Cargo>,
    last: Option<Result<Frame<Bytes>, Status>>,
    _open: Option<OpenRequest>,
}

// === impl Reply ===

impl Reply {
    /// The answer `body`, for which so much was claimed, to a request that is open until then.
    pub(super) fn new(body: Body, claim: Claim, open: Option<OpenRequest>) -> Self {
        Self {
            body: Some(body),
            flight: Flight::new(),
            claim: Some(claim),
            cargo: None,
            last: None,
            _open: open,
        }
    }

    /// Loads what there is, up to the end or a message's worth. Tonic's buffer is let go of with
    /// the end of its body; before that it keeps the size of the largest message.
    fn load(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES_MAX
            && let Some(body) = &mut self.body
        {
            match Pin::new(body).poll_frame(context) {
                Poll::Pending if frames.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        bytes += data.len();
                        frames.push(data);
                    }
                    Err(trailers) => self.last = Some(Ok(trailers)),
                },
                Poll::Ready(Some(Err(status))) => self.last = Some(Err(status)),
                Poll::Ready(None) => self.body = None,
            }
            if self.last.is_some() {
                self.body = None;
            }
        }
        // A stream that goes on keeps its claim for what it says later.
        let claim = self.claim.take_if(|_| self.body.is_none());
        self.cargo = Some(self.flight.load(frames.concat().into(), claim));
        Poll::Ready(())
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(cargo) = &mut self.cargo
                && !cargo.is_empty()
            {
                return Poll::Ready(Some(Ok(Frame::data(cargo.unload()))));
            }
            if self.body.is_none() {
                return Poll::Ready(self.last.take());
            }
            ready!(self.load(context));
        }
    }
}
