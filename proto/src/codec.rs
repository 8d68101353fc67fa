//! How servers read requests. tonic's own codec calls a message that does not decode `INTERNAL`,
//! whoever sent it. Of a reply that is what it is, so clients keep that codec; a request is the
//! caller's fault, and is refused as one. So is one that would be much larger decoded than it is
//! encoded, before it is decoded.
//!
//! Its buffers begin small: most calls are, and there are many of them. tonic begins with 8 KiB each
//! way. Whatever a message has is asked for at once, so a large one is not copied as it grows.

use std::fmt;
use std::marker::PhantomData;

use prost::bytes::Buf as _;
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::lists;

/// Bytes with which a buffer begins, and by multiples of which it grows for a message.
const BUFFER_BYTES: usize = 512;

/// Bytes of messages that are sent as one, if there are several; tonic's own measure.
const YIELD_BYTES: usize = 32 * 1024;

/// tonic's codec, except for requests that do not decode.
pub struct RequestCodec<T, U>(PhantomData<(T, U)>);

/// Encodes replies.
#[derive(Debug)]
pub struct ReplyEncoder<T>(ProstEncoder<T>);

/// Decodes requests, or refuses them.
#[derive(Debug)]
pub struct RequestDecoder<U>(ProstDecoder<U>);

// === impl RequestCodec ===

impl<T, U> Default for RequestCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for RequestCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestCodec")
    }
}

impl<T, U> Codec for RequestCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ReplyEncoder<T>;
    type Decoder = RequestDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ReplyEncoder(ProstEncoder::new(settings()))
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder(ProstDecoder::new(settings()))
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

// === impl ReplyEncoder ===

impl<T: Message> Encoder for ReplyEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, reply: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(reply.encoded_len());
        self.0.encode(reply, buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

// === impl RequestDecoder ===

impl<U: Message + Name + Default> Decoder for RequestDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let encoded = buffer.chunk();
        assert_eq!(encoded.len(), buffer.remaining(), "tonic hands over a message in one piece");
        lists::check::<U>(encoded)
            .map_err(|error| Status::invalid_argument(format!("request: {error}")))?;
        let refused = |status: Status| {
            Status::invalid_argument(format!("request: does not decode: {}", status.message()))
        };
        self.0.decode(buffer).map_err(refused)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
