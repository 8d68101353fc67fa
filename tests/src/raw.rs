//! Calls whose messages are bytes, for what no generated client would send.

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::wait::within;

/// A codec of messages as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

/// Sends these messages to a method (`/package.Service/Method`); the first reply, if there is
/// one, as bytes.
pub async fn call(
    channel: Channel,
    method: &'static str,
    messages: Vec<&'static [u8]>,
) -> Result<Option<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    within("a connection", client.ready()).await.unwrap();
    let messages = tokio_stream::iter(messages.into_iter().map(Bytes::from_static));
    let path = PathAndQuery::from_static(method);
    let replies = client.streaming(Request::new(messages), path, Raw);
    let mut replies = within("the answer to a raw call", replies).await?.into_inner();
    within("a reply to a raw call", replies.message()).await
}

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
