//! How an application reads the opaque bytes of an item.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A way to read and write values. A type-level choice: `Collection<Json<Member>>`.
pub trait Codec: Send + Sync + 'static {
    /// What the application works with.
    type Item: Send + 'static;

    /// Reads a value. What fails here is quarantined, never dropped: the replica keeps the
    /// bytes, and a later version of the application may know how to read them.
    fn decode(value: &Bytes) -> Result<Self::Item, DecodeError>;

    /// Writes a value.
    fn encode(item: &Self::Item) -> Result<Bytes, DecodeError>;
}

/// JSON by `serde_json`.
pub struct Json<T>(PhantomData<fn() -> T>);

/// Protocol Buffers by `prost`.
pub struct Protobuf<M>(PhantomData<fn() -> M>);

/// The bytes as they are.
#[derive(Debug)]
pub enum Raw {}

/// A value is not what its codec expects.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(Box<dyn Error + Send + Sync>);

// === impl Json ===

impl<T: Serialize + DeserializeOwned + Send + 'static> Codec for Json<T> {
    type Item = T;

    fn decode(value: &Bytes) -> Result<T, DecodeError> {
        serde_json::from_slice(value).map_err(DecodeError::new)
    }

    fn encode(item: &T) -> Result<Bytes, DecodeError> {
        serde_json::to_vec(item).map(Bytes::from).map_err(DecodeError::new)
    }
}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Json")
    }
}

// === impl Protobuf ===

impl<M: prost::Message + Default + 'static> Codec for Protobuf<M> {
    type Item = M;

    fn decode(value: &Bytes) -> Result<M, DecodeError> {
        M::decode(value.clone()).map_err(DecodeError::new)
    }

    fn encode(item: &M) -> Result<Bytes, DecodeError> {
        Ok(item.encode_to_vec().into())
    }
}

impl<M> fmt::Debug for Protobuf<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protobuf")
    }
}

// === impl Raw ===

impl Codec for Raw {
    type Item = Bytes;

    fn decode(value: &Bytes) -> Result<Bytes, DecodeError> {
        Ok(value.clone())
    }

    fn encode(item: &Bytes) -> Result<Bytes, DecodeError> {
        Ok(item.clone())
    }
}

// === impl DecodeError ===

impl DecodeError {
    /// Wraps what a codec of the application says.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}
