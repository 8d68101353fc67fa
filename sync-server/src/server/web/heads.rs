//! How much of a connection may be read while no request is open: the head of the next one, and no
//! more. HTTP/2 has a limit of its own for that, and windows; of HTTP/1.1 the library would gather
//! 400 KiB for everybody who connects. Pure: bytes and counts.

use crate::requests::Requests;
use crate::server::HEADERS_BYTES_MAX;

/// What is read at once of HTTP/1.1. More would let the library's buffer grow with it.
const READ_BYTES_MAX: usize = 4 * 1024;

/// Bytes of the head of an HTTP/1.1 request: those of HTTP/2, and what is read together with them
/// before it is known that the request has begun.
const HEAD_BYTES_MAX: usize = HEADERS_BYTES_MAX as usize + 2 * READ_BYTES_MAX;

/// How HTTP/2 begins. No request of HTTP/1.1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What has been read of a connection.
#[derive(Debug)]
pub(in crate::server) struct Heads {
    speech: Speech,
    /// Requests that had begun when something was read last.
    begun: u64,
    /// Bytes that were read while none was open.
    unasked: usize,
    requests: Requests,
}

/// What a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// Its first bytes are those of HTTP/2, so many of them.
    Unclear(usize),
    Http1,
    Http2,
}

/// The peer sends what is not a request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) struct TooMuch;

// === impl Heads ===

impl Heads {
    /// Of a new connection. Where only HTTP/2 is spoken nothing is counted.
    pub(in crate::server) fn new(http_1: bool, requests: Requests) -> Self {
        let speech = if http_1 { Speech::Unclear(0) } else { Speech::Http2 };
        Self { speech, begun: 0, unasked: 0, requests }
    }

    /// How much may be read at once; `None` = as much as there is.
    pub(in crate::server) fn read_max(&self) -> Option<usize> {
        (self.speech != Speech::Http2).then_some(READ_BYTES_MAX)
    }

    /// Whether the peer has begun to speak HTTP/1.1.
    pub(in crate::server) fn are_of_http_1(&self) -> bool {
        self.speech == Speech::Http1
    }

    /// Takes note of what was read.
    pub(in crate::server) fn took(&mut self, bytes: &[u8]) -> Result<(), TooMuch> {
        self.speech = self.speech.after(bytes);
        if self.speech == Speech::Http2 {
            return Ok(());
        }
        let (begun, open) = (self.requests.begun(), self.requests.open_now() > 0);
        if open || begun != self.begun {
            self.unasked = 0;
        }
        self.begun = begun;
        if !open {
            self.unasked += bytes.len();
        }
        if self.unasked > HEAD_BYTES_MAX { Err(TooMuch) } else { Ok(()) }
    }
}

// === impl Speech ===

impl Speech {
    fn after(self, bytes: &[u8]) -> Self {
        let Self::Unclear(seen) = self else { return self };
        let expected = &PREFACE[seen..];
        let compared = expected.len().min(bytes.len());
        if expected[..compared] != bytes[..compared] {
            Self::Http1
        } else if seen + compared == PREFACE.len() {
            Self::Http2
        } else {
            Self::Unclear(seen + compared)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: &[u8] = &[b'x'; 1_000];

    fn parts_until_too_much(heads: &mut Heads) -> usize {
        (0..100).find(|_| heads.took(PART) == Err(TooMuch)).unwrap_or(100)
    }

    #[test]
    fn what_is_spoken_is_known_with_the_first_bytes() {
        let after = |bytes: &[u8]| {
            let mut heads = Heads::new(true, Requests::default());
            heads.took(bytes).unwrap();
            heads.are_of_http_1()
        };
        assert!(after(b"POST /a HTTP/1.1\r\n"));
        assert!(after(b"PRI * HTTP/1.1\r\n"));
        assert!(!after(b"PRI * HTTP/2.0\r\n"));
        assert!(!after(PREFACE));
        assert!(!Heads::new(false, Requests::default()).are_of_http_1());
    }

    /// G8: who sends no request is heard for 24 KiB, also after requests.
    #[test]
    fn a_head_is_bounded_and_a_body_is_not() {
        let requests = Requests::default();
        let mut heads = Heads::new(true, requests.clone());
        for _ in 0..100 {
            heads.took(PART).unwrap();
            let open = requests.open();
            drop(open);
        }
        let open = requests.open();
        assert_eq!(parts_until_too_much(&mut heads), 100, "a body is counted elsewhere");
        drop(open);
        assert_eq!(parts_until_too_much(&mut heads), 24);
    }

    #[test]
    fn http_2_is_known_however_its_beginning_is_cut() {
        for step in [1, 3, 24, 100] {
            let mut heads = Heads::new(true, Requests::default());
            let bytes = [PREFACE, PART].concat();
            for part in bytes.chunks(step) {
                heads.took(part).unwrap();
            }
            assert_eq!((parts_until_too_much(&mut heads), heads.read_max()), (100, None), "{step}");
        }
        for start in [&b"POST /"[..], b"PRI * HTTP/1.1", b"x"] {
            let mut heads = Heads::new(true, Requests::default());
            heads.took(start).unwrap();
            assert_eq!(heads.speech, Speech::Http1);
            assert_eq!(heads.read_max(), Some(READ_BYTES_MAX));
        }
        assert_eq!(Heads::new(false, Requests::default()).read_max(), None, "as if it were not");
    }
}
