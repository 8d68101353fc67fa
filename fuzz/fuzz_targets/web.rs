//! What pages send: gRPC-Web however it is cut, media types, the first bytes of connections, where
//! messages begin, and the trace that a caller says it is in. The files that know them are included as
//! they are, so nothing of them has to be public.
#![no_main]
#![allow(dead_code, reason = "the included files also serve")]

use libfuzzer_sys::fuzz_target;

#[path = "../../sync-server/src/requests.rs"]
mod requests;

#[path = "../../sync-server/src/server"]
mod server {
    mod framing;

    pub(crate) mod web {
        mod coding;
        pub(super) mod heads;

        use base64::engine::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        use bytes::Bytes;
        use futures::FutureExt as _;
        use http_body::Frame;
        use http_body_util::{BodyExt as _, Full, StreamBody};
        use tonic::body::Body;
        use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
        use tonic::{Code, Status};

        use coding::{Answer, Coding, Request, Unread};

        const QUAD: usize = 4;
        const TRAILERS: u8 = 0x80;

        /// What a body holds that arrives in parts of so many bytes.
        fn arrived(bytes: &[u8], step: usize, coding: Coding) -> Result<Bytes, Status> {
            let parts =
                bytes.chunks(step).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part))));
            let parts: Vec<Result<_, Status>> = parts.collect();
            let body = Body::new(StreamBody::new(futures::stream::iter(parts)));
            let whole = Request::new(body, coding, Unread::default()).collect();
            Ok(whole.now_or_never().expect("all parts are there")?.to_bytes())
        }

        /// The same, quad by quad, as the standard of base64 has it.
        fn quad_by_quad(text: &[u8]) -> Option<Vec<u8>> {
            let quads = text.chunks(QUAD).map(|quad| STANDARD.decode(quad).ok());
            let quads: Option<Vec<_>> = quads.collect();
            quads.map(|quads| quads.concat())
        }

        /// A body is what its base64 says, however it is cut, or is refused as such.
        pub(crate) fn request(bytes: &[u8], step: usize) {
            let whole = arrived(bytes, step, Coding::Binary).expect("any bytes are a body");
            assert_eq!(whole, bytes);
            match (arrived(bytes, step, Coding::Base64), quad_by_quad(bytes)) {
                (Ok(read), wanted) => assert_eq!(Some(&read[..]), wanted.as_deref()),
                (Err(refused), wanted) => {
                    assert_eq!((refused.code(), wanted), (Code::InvalidArgument, None));
                }
            }
        }

        /// What an answer is sent as holds it whole, with its trailers in the last frame.
        pub(crate) fn answer(message: &[u8], lines: &[u8]) {
            let mut trailers = HeaderMap::new();
            for line in lines.split(|byte| *byte == b'\n').take(16) {
                let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
                let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
                let name = HeaderName::from_bytes(name);
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                    trailers.append(name, value);
                }
            }
            for coding in [Coding::Binary, Coding::Base64] {
                let said = Ok(trailers.clone());
                let body =
                    Full::new(Bytes::copy_from_slice(message)).map_err(|never| match never {});
                let body = Body::new(body.with_trailers(async move { Some(said) }));
                let sent = Answer::new(body, coding, None).collect();
                let sent = sent.now_or_never().expect("all of it is there").unwrap().to_bytes();
                let sent = match coding {
                    Coding::Binary => sent.to_vec(),
                    Coding::Base64 => quad_by_quad(&sent).expect("it is base64"),
                };
                let frame = sent.strip_prefix(message).expect("it begins with the message");
                assert_eq!(frame[0], TRAILERS);
                assert_eq!(frame[1..5], u32::try_from(frame.len() - 5).unwrap().to_be_bytes());
                assert_eq!(parsed(&frame[5..]), trailers);
            }
        }

        fn parsed(mut lines: &[u8]) -> HeaderMap {
            let mut headers = HeaderMap::new();
            while let Some(end) = lines.windows(2).position(|pair| pair == b"\r\n") {
                let at = lines.windows(2).position(|pair| pair == b": ").expect("name: value");
                let name = HeaderName::from_bytes(&lines[..at]).expect("it was a name");
                let value = HeaderValue::from_bytes(&lines[at + 2..end]).expect("it was a value");
                headers.append(name, value);
                lines = &lines[end + 2..];
            }
            assert!(lines.is_empty(), "every line has its end");
            headers
        }

        /// A media type is of gRPC-Web only if it says so, in whatever case.
        pub(crate) fn media_type(bytes: &[u8]) {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
            let found = Coding::of(&value);
            let large = HeaderValue::from_bytes(&bytes.to_ascii_uppercase()).expect("it was one");
            assert_eq!(Coding::of(&large), found);
            if let Some(coding) = found {
                assert!(
                    bytes.to_ascii_lowercase().windows(20).any(|s| s == b"application/grpc-web")
                );
                assert_eq!(Coding::of(&coding.media_type()), Some(coding));
            }
        }
    }

    use framing::Framing;
    use web::heads::Heads;

    use crate::requests::Requests;

    /// As the server has it.
    const HEADERS_BYTES_MAX: u32 = 16 * 1024;

    /// The most that is heard of a peer which asks for nothing.
    const UNASKED_BYTES_MAX: usize = HEADERS_BYTES_MAX as usize + 2 * 4 * 1024;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// Enough to be too much.
    const REPEATED_BYTES: usize = 32 * 1024;

    /// Where messages begin and end does not depend on how they are cut.
    pub(crate) fn framing(bytes: &[u8], step: usize) {
        let (mut wanted, mut open, mut rest) = (0, None, bytes);
        while !rest.is_empty() {
            let Some((prefix, after)) = rest.split_at_checked(5) else {
                open = Some(());
                break;
            };
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            wanted += length;
            open = (after.len() < length).then_some(());
            rest = after.get(length..).unwrap_or_default();
        }
        let mut framing = Framing::default();
        let begun: usize = bytes.chunks(step).map(|part| framing.take(part)).sum();
        assert_eq!((begun, framing.open().map(drop)), (wanted, open));
    }

    /// Whoever does not begin as HTTP/2 does is heard for so long without a request, and no longer.
    pub(crate) fn heads(bytes: &[u8], step: usize) {
        if bytes.is_empty() {
            return;
        }
        let bytes = bytes.repeat(REPEATED_BYTES / bytes.len() + 1);
        let mut heads = Heads::new(true, Requests::default());
        let mut heard = 0;
        let is_http_2 = bytes.starts_with(PREFACE);
        for part in bytes.chunks(step) {
            heard += part.len();
            let is_too_much = !is_http_2 && heard > UNASKED_BYTES_MAX;
            assert_eq!(heads.took(part).is_err(), is_too_much, "{heard} bytes");
            if is_too_much {
                break;
            }
        }
        assert_eq!(heads.read_max().is_none(), is_http_2);
    }
}

#[path = "../../sync-server/src/traces"]
mod traces {
    mod parent;

    use hyper::HeaderMap;
    use hyper::header::HeaderValue;

    /// A caller's trace is in its header as it is taken over, or there is none.
    pub(crate) fn of_caller(bytes: &[u8]) {
        let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let (said, state) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
        let Ok(said) = HeaderValue::from_bytes(said) else { return };
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", said.clone());
        if let Ok(state) = HeaderValue::from_bytes(state) {
            headers.insert("tracestate", state);
        }
        let Some(caller) = parent::of_caller(&headers) else { return };
        assert!(caller.is_valid() && caller.is_remote());
        let said = said.to_str().expect("it was read");
        assert_eq!(&said[3..35], caller.trace_id().to_string());
        assert_eq!(&said[36..52], caller.span_id().to_string());
        assert!(caller.trace_state().header().len() <= 512);
        headers.append("traceparent", HeaderValue::from_static(""));
        assert!(parent::of_caller(&headers).is_none(), "two callers are none");
    }
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, step, bytes) = input;
    let step = usize::from(step).max(1);
    match kind % 6 {
        0 => server::web::request(bytes, step),
        1 => {
            let (message, lines) = bytes.split_at(step.min(bytes.len()));
            server::web::answer(message, lines);
        }
        2 => server::web::media_type(bytes),
        3 => server::framing(bytes, step),
        4 => server::heads(bytes, step),
        _ => traces::of_caller(bytes),
    }
});
