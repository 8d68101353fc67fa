//! Names and contents of items, checked once. Pure.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{
    COLLECTION_NAME_LEN_MAX, INBOX_PREFIX, KEY_LEN_MAX, SORT_KEY_LEN_MAX, VALUE_LEN_MAX,
};

/// The name of a collection: 1..512 bytes of `/`-separated, non-empty segments. Shared when it is
/// cloned: a server keeps the name of every target in several places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionName(Arc<str>);

/// Identifies an item in its collection: 1..1024 bytes, opaque.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// Where an item stands in list order: at most 1024 bytes; empty sorts first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SortKey(Bytes);

/// The content of an item: at most 1 MiB, opaque.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Value(Bytes);

/// A value that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    /// Path of the field, e.g. `targets[3].cursor.version`.
    pub field: String,
    /// What is wrong with it, with the limit.
    pub reason: String,
}

// === impl CollectionName ===

impl CollectionName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, Malformed> {
        let refuse = |reason: String| Err(Malformed::new("collection", reason));
        if name.is_empty() {
            return refuse("must not be empty".into());
        }
        if name.len() > COLLECTION_NAME_LEN_MAX {
            let len = name.len();
            return refuse(format!("{len} bytes, the limit is {COLLECTION_NAME_LEN_MAX}"));
        }
        if name.split('/').any(str::is_empty) {
            return refuse("segments between \"/\" must not be empty".into());
        }
        if name.chars().any(char::is_control) {
            return refuse("must not contain control characters".into());
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the collection is an inbox, which only the server writes.
    #[must_use]
    pub fn is_inbox(&self) -> bool {
        self.0.starts_with(INBOX_PREFIX)
    }
}

/// Maps ordered by name can be searched by any text: names are equal, ordered and hashed as their
/// text is.
impl Borrow<str> for CollectionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

// === impl Key ===

impl Key {
    /// Checks a key.
    pub fn new(key: impl Into<Bytes>) -> Result<Self, Malformed> {
        let key = key.into();
        if key.is_empty() {
            return Err(Malformed::new("key", "must not be empty"));
        }
        at_most("key", key.len(), KEY_LEN_MAX)?;
        Ok(Self(key))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

// === impl SortKey ===

impl SortKey {
    /// Checks a sort key.
    pub fn new(sort_key: impl Into<Bytes>) -> Result<Self, Malformed> {
        let sort_key = sort_key.into();
        at_most("sort_key", sort_key.len(), SORT_KEY_LEN_MAX)?;
        Ok(Self(sort_key))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

// === impl Value ===

impl Value {
    /// Checks a value.
    pub fn new(value: impl Into<Bytes>) -> Result<Self, Malformed> {
        let value = value.into();
        at_most("value", value.len(), VALUE_LEN_MAX)?;
        Ok(Self(value))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, shared.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

// === impl Malformed ===

impl Malformed {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same, seen from the message that holds the field.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), reason: self.reason }
    }

    /// The same, seen from the message that holds the list of which this is an element.
    #[must_use]
    pub fn within_element(self, parent: &str, index: usize) -> Self {
        self.within(&format!("{parent}[{index}]"))
    }
}

fn at_most(field: &str, len: usize, max: usize) -> Result<(), Malformed> {
    if len > max {
        return Err(Malformed::new(field, format!("{len} bytes, the limit is {max}")));
    }
    Ok(())
}
