//! A connection that speaks HTTP/2 as a client does, but takes of each answer only so much.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Request, Response};

use crate::Target;

/// Bytes that gRPC puts before a message: whether it is compressed, and its length.
pub(crate) const PREFIX_LEN: usize = 5;

/// What is taken of an answer before any of it is read.
pub(crate) const WINDOW: u32 = 20_000;

/// Answers of a connection together: what is not taken of one must not hold up the others.
const CONNECTION_WINDOW: u32 = 1 << 26;

/// A call that is not accepted within this never is.
const CALL_WITHIN: Duration = Duration::from_secs(2);

/// A peer.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    requests: SendRequest<Bytes>,
    target: Target,
    ended: CancellationToken,
}

/// A call that has begun.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

// === impl Peer ===

impl Peer {
    /// Another connection; `None` = there is none to be had now.
    pub(crate) async fn open(target: &Target) -> Option<Self> {
        let stream = target.connect().await?;
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let shaken = timeout(CALL_WITHIN, builder.handshake(stream)).await;
        let (requests, connection) = shaken.ok()?.ok()?;
        let (counted, ended) = (target.clone(), CancellationToken::new());
        let ending = ended.clone().drop_guard();
        target.tasks.spawn(async move {
            drop(connection.await);
            counted.count("closed", 1);
            drop(ending);
        });
        Some(Self { requests, target: target.clone(), ended })
    }

    /// Waits until its connection is closed.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Sends the head of a call, with a header more; `None` = the connection takes none.
    pub(crate) async fn call(&mut self, path: &str, more: Option<(&str, &str)>) -> Option<Call> {
        let ready = timeout(CALL_WITHIN, self.requests.clone().ready()).await;
        self.requests = ready.ok()?.ok()?;
        let mut request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        let request = request.body(()).unwrap();
        let (response, body) = self.requests.send_request(request, false).ok()?;
        self.target.count("calls", 1);
        Some(Call { response, body })
    }

    /// Makes a whole call.
    pub(crate) async fn ask(&mut self, path: &str, message: &impl Message) -> Option<Call> {
        let mut call = self.call(path, None).await?;
        call.body.send_data(framed(message), true).ok()?;
        Some(call)
    }
}

/// Waits for the head of an answer and counts what it says; the answer, unless it is a refusal.
pub(crate) async fn answered(
    target: &Target,
    response: ResponseFuture,
) -> Option<Response<RecvStream>> {
    let response = response.await.ok();
    let status = |response: &Response<RecvStream>| {
        let status = response.headers().get("grpc-status")?;
        Some(status.to_str().unwrap_or("strange").to_owned())
    };
    match (&response, response.as_ref().and_then(status)) {
        (None, _) => target.count("cut", 1),
        (Some(_), None) => {
            target.count("answered", 1);
            return response;
        }
        (Some(_), Some(status)) => target.count(&format!("status {status}"), 1),
    }
    None
}

/// What goes before a message of this length.
pub(crate) fn prefix(compressed: bool, length: usize) -> BytesMut {
    let mut prefix = BytesMut::with_capacity(PREFIX_LEN);
    prefix.put_u8(compressed.into());
    prefix.put_u32(u32::try_from(length).unwrap());
    prefix
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = prefix(false, message.encoded_len());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}
