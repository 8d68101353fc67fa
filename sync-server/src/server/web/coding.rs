//! The bodies of gRPC-Web: those of gRPC with the trailers as a last frame, as they are or in
//! base64. What is sent in base64 keeps the bytes that it was made of, so that both are counted
//! until the transport has let go of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::engine::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue};

use crate::requests::OpenRequest;

/// Bytes of base64 that stand for three of others, or at its end for fewer.
const QUAD: usize = 4;

/// Of a request that was refused by its head, so much is let arrive.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// It must come within this.
const UNREAD_WITHIN: Duration = Duration::from_secs(1);

/// The flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// How the bytes of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Binary,
    Base64,
}

/// What nobody has read of a request that was answered before its end.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<Mutex<Option<Body>>>);

/// The body of a request, as gRPC has it.
pub(super) struct Request {
    body: Body,
    unread: Unread,
    /// `None` = it is not in base64.
    base64: Option<Base64>,
    ended: bool,
}

/// The body of an answer, as gRPC-Web has it. The request is open as long as this is there.
pub(super) struct Answer {
    body: Body,
    coding: Coding,
    _open: Option<OpenRequest>,
}

/// Base64 that arrives in parts.
#[derive(Debug, Default)]
struct Base64 {
    /// What is not a whole quad yet.
    rest: Vec<u8>,
}

/// Base64 on its way.
struct Encoded {
    text: String,
    _of: Bytes,
}

// === impl Coding ===

impl Coding {
    /// What a media type says, in a list or with parameters; `None` = it is not of gRPC-Web.
    pub(super) fn of(media_type: &HeaderValue) -> Option<Self> {
        let types = media_type.to_str().ok()?.split(',');
        let mut types = types.map(|one| one.split(';').next().unwrap_or_default().trim());
        types.find_map(|one| match one.to_ascii_lowercase().as_str() {
            "application/grpc-web" | "application/grpc-web+proto" => Some(Self::Binary),
            "application/grpc-web-text" | "application/grpc-web-text+proto" => Some(Self::Base64),
            _ => None,
        })
    }

    /// The media type of an answer.
    pub(super) fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Base64 => "application/grpc-web-text+proto",
        })
    }

    fn encode(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Binary => bytes,
            Self::Base64 => {
                Bytes::from_owner(Encoded { text: STANDARD.encode(&bytes), _of: bytes })
            }
        }
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

// === impl Base64 ===

impl Base64 {
    /// What has become whole with these bytes. Every part that its sender encoded by itself may end
    /// with padding.
    fn decode(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / QUAD * QUAD;
        let mut decoded = Vec::with_capacity(whole);
        let mut left = &self.rest[..whole];
        while !left.is_empty() {
            let padding = left.iter().position(|byte| *byte == b'=');
            let (part, after) =
                left.split_at(padding.map_or(left.len(), |at| at / QUAD * QUAD + QUAD));
            let done = STANDARD.decode_vec(part, &mut decoded);
            done.map_err(|_| Status::invalid_argument("the body is not base64"))?;
            left = after;
        }
        self.rest.drain(..whole);
        Ok(decoded)
    }

    fn end(&self) -> Result<(), Status> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Status::invalid_argument("the body ends in the middle of base64"))
    }
}

/// The last frame of an answer.
fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_slice(b": ");
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = vec![TRAILERS];
    frame.put_u32(u32::try_from(lines.len()).expect("trailers are short"));
    frame.extend(lines);
    frame.into()
}

// === impl Request ===

impl Request {
    /// A request that leaves behind what is not read of it.
    pub(super) fn new(body: Body, coding: Coding, unread: Unread) -> Self {
        let base64 = (coding == Coding::Base64).then(Base64::default);
        Self { body, unread, base64, ended: false }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)?) else {
                let end = self.base64.as_ref().map_or(Ok(()), Base64::end);
                return Poll::Ready(end.err().map(Err));
            };
            // Trailers of a request say nothing in gRPC.
            let Ok(bytes) = frame.into_data() else { continue };
            let Some(base64) = &mut self.base64 else { return Poll::Ready(Some(Ok(bytes))) };
            let decoded = base64.decode(&bytes)?;
            if !decoded.is_empty() {
                return Poll::Ready(Some(Ok(decoded.into())));
            }
        }
    }
}

impl http_body::Body for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll(context));
        self.ended = !matches!(polled, Some(Ok(_)));
        Poll::Ready(polled.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.base64.is_none() && self.body.is_end_stream())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            *self.unread.0.lock() = Some(std::mem::take(&mut self.body));
        }
    }
}

// === impl Unread ===

impl Unread {
    /// All of a request.
    pub(super) fn all(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Lets what is left arrive, if it is little and comes soon. Over HTTP/1.1 the connection ends
    /// otherwise, and the answer may be lost with it.
    pub(super) async fn discard(self) {
        let Some(mut body) = self.0.lock().take() else { return };
        let all = async {
            let mut bytes = 0;
            while bytes < UNREAD_BYTES_MAX
                && let Some(Ok(frame)) = body.frame().await
            {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        if tokio::time::timeout(UNREAD_WITHIN, all).await.is_err() {
            tracing::debug!("the rest of a request that is answered does not come");
        }
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn new(body: Body, coding: Coding, open: Option<OpenRequest>) -> Self {
        Self { body, coding, _open: open }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context)?);
        Poll::Ready(frame.map(|frame| {
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(frame) => trailers_frame(frame.trailers_ref().unwrap_or(&HeaderMap::new())),
            };
            Ok(Frame::data(self.coding.encode(bytes)))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn decoded(parts: &[&[u8]]) -> Result<Bytes, Status> {
        let frames: Vec<Result<_, Status>> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
        let body = Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)));
        Ok(Request::new(body, Coding::Base64, Unread::default()).collect().await?.to_bytes())
    }

    /// Base64 is read however it is cut, with padding wherever its sender put some.
    #[tokio::test]
    async fn base64_is_read_however_it_is_cut() {
        let text =
            [STANDARD.encode("a"), STANDARD.encode("bcd"), STANDARD.encode("efghi")].concat();
        for step in [1, 2, 3, 4, 5, 7, 100] {
            let parts: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
            assert_eq!(decoded(&parts).await.unwrap(), "abcdefghi", "{step}");
        }
        assert_eq!(decoded(&[]).await.unwrap(), "");
    }

    /// G11: what is not base64 is refused as such, also if only its end is missing.
    #[tokio::test]
    async fn what_is_not_base64_is_refused() {
        for bad in [&b"YQ="[..], b"YQ", b"Y===", b"====", b"!!!!", b"YWJjZ", b"YQ==!"] {
            let refusal = decoded(&[bad]).await.unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
    }

    /// G8: base64 on its way keeps what it was made of, which is counted.
    #[test]
    fn what_is_encoded_keeps_its_source() {
        let source = Bytes::from(vec![7; 300]);
        let encoded = Coding::Base64.encode(source.clone());
        assert_eq!(encoded.len(), 400);
        let part = encoded.slice(10..20);
        drop(encoded);
        assert!(!source.is_unique(), "a part is still with the transport");
        drop(part);
        assert!(source.is_unique());
        assert_eq!(Coding::Binary.encode(source.clone()).as_ptr(), source.as_ptr(), "no copy");
    }

    /// The trailers are the last frame of the body.
    #[tokio::test]
    async fn trailers_come_last() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(Bytes::from("m")).map_err(|never| match never {});
        let body = Body::new(body.with_trailers(async move { Some(Ok(trailers)) }));
        let answer = Answer::new(body, Coding::Binary, None).collect().await.unwrap();
        assert_eq!(answer.to_bytes(), &b"m\x80\x00\x00\x00\x10grpc-status: 0\r\n"[..]);
    }

    #[test]
    fn media_types_are_told_apart() {
        let of = |text| Coding::of(&HeaderValue::from_static(text));
        assert_eq!(of("application/grpc-web"), Some(Coding::Binary));
        assert_eq!(of("Application/gRPC-Web+proto; charset=utf-8"), Some(Coding::Binary));
        assert_eq!(of("application/grpc-web-text"), Some(Coding::Base64));
        assert_eq!(of("*/*, application/grpc-web-text+proto"), Some(Coding::Base64));
        for other in ["application/grpc", "application/grpc-web+json", "text/plain", "*/*", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
