//! HTTP/2 as bytes, for what no library would send. Pure.

/// What every connection begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Flags of frames.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Bytes before what a frame holds.
pub(crate) const FRAME_HEAD_LEN: usize = 9;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    Reset = 3,
    Settings = 4,
    Ping = 6,
    WindowUpdate = 8,
    Continuation = 9,
}

/// Adds a frame.
pub(crate) fn frame(to: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, holds: &[u8]) {
    let [_, length @ ..] = u32::try_from(holds.len()).unwrap().to_be_bytes();
    to.extend(length);
    to.extend([kind as u8, flags]);
    to.extend(stream.to_be_bytes());
    to.extend(holds);
}

/// Adds a header that no table remembers.
pub(crate) fn header(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    to.push(0);
    text(to, name);
    text(to, value);
}

/// Adds a text that is not compressed, of at most 16 KiB.
pub(crate) fn text(to: &mut Vec<u8>, text: &[u8]) {
    if let Ok(length @ ..0x7f) = u8::try_from(text.len()) {
        to.push(length);
    } else {
        let rest = text.len() - 0x7f;
        let low = u8::try_from(rest & 0x7f).unwrap() | 0x80;
        to.extend([0x7f, low, u8::try_from(rest >> 7).unwrap()]);
    }
    to.extend(text);
}

/// The headers of a gRPC call.
pub(crate) fn head(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` are numbers of the static table.
    let mut head = vec![0x83, 0x86];
    header(&mut head, b":path", path.as_bytes());
    header(&mut head, b":authority", b"server");
    header(&mut head, b"content-type", b"application/grpc");
    header(&mut head, b"te", b"trailers");
    head
}
