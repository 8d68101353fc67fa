//! How servers read requests. tonic's own codec calls a message that does not decode `INTERNAL`,
//! whoever sent it. Of a reply that is what it is, so clients keep that codec; a request is the
//! caller's fault, and is refused as one.

use std::fmt;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// tonic's codec, except for requests that do not decode.
pub struct RequestCodec<T, U>(ProstCodec<T, U>);

/// Decodes requests, or refuses them.
#[derive(Debug)]
pub struct RequestDecoder<U>(ProstDecoder<U>);

// === impl RequestCodec ===

impl<T, U> Default for RequestCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
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
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = RequestDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder(self.0.decoder())
    }
}

// === impl RequestDecoder ===

impl<U: Message + Default> Decoder for RequestDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let refused = |status: Status| {
            Status::invalid_argument(format!("request: does not decode: {}", status.message()))
        };
        self.0.decode(buffer).map_err(refused)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
