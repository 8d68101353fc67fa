//! Places and stretches of the list order between wire and checked types.

use bytes::Bytes;
use prost::Message as _;

use crate::types::{Key, Malformed, OrderPlace, OrderRange, Scope, SortKey};
use crate::v1;

/// Encodes which part of a collection a copy is of, as it is stored.
#[must_use]
pub fn encode_scope(scope: &Scope) -> Bytes {
    v1::Scope::from(scope.clone()).encode_to_vec().into()
}

/// Decodes what was stored, and checks it like what a peer sends.
pub fn decode_scope(stored: Bytes) -> Result<Scope, Malformed> {
    let wire =
        v1::Scope::decode(stored).map_err(|error| Malformed::new("scope", error.to_string()))?;
    wire.try_into()
}

// === OrderPlace ===

impl TryFrom<v1::OrderPlace> for OrderPlace {
    type Error = Malformed;

    fn try_from(place: v1::OrderPlace) -> Result<Self, Malformed> {
        let key = (!place.key.is_empty()).then(|| Key::new(place.key)).transpose()?;
        Ok(Self { sort_key: SortKey::new(place.sort_key)?, key })
    }
}

impl From<OrderPlace> for v1::OrderPlace {
    fn from(place: OrderPlace) -> Self {
        Self {
            sort_key: place.sort_key.to_bytes(),
            key: place.key.map_or_else(Bytes::new, |key| key.to_bytes()),
        }
    }
}

// === OrderRange ===

impl TryFrom<v1::OrderRange> for OrderRange {
    type Error = Malformed;

    fn try_from(range: v1::OrderRange) -> Result<Self, Malformed> {
        let end = |field: &str, end: Option<v1::OrderPlace>| {
            end.map(OrderPlace::try_from).transpose().map_err(|refused| refused.within(field))
        };
        Self::new(end("from", range.from)?, end("to", range.to)?)
    }
}

impl From<OrderRange> for v1::OrderRange {
    fn from(range: OrderRange) -> Self {
        Self {
            from: range.from().cloned().map(Into::into),
            to: range.to().cloned().map(Into::into),
        }
    }
}
