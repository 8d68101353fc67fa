//! What can go wrong, by what the caller can do about it.

use std::fmt;
use std::time::Duration;

use sync_proto::types::{CollectionName, Malformed, Reason};

use crate::store::StoreError;

/// What a server says of a call that did not succeed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Told {
    /// For people.
    pub text: String,
    /// For programs: one of the words that `docs/PROTOCOL.md` lists under "Errors". `None`: the
    /// server gave none, or the call did not reach it.
    pub reason: Option<String>,
    /// The server asks to wait for at least so long before the call is repeated.
    pub retry_after: Option<Duration>,
    /// What is wrong in the request: the paths of its fields.
    pub fields: Vec<String>,
    /// The quotas that are used up.
    pub used_up: Vec<UsedUp>,
}

/// A quota that is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedUp {
    /// Whose it is: a principal, a collection, the names below one.
    pub whose: String,
    /// Which it is, and its limit.
    pub limit: String,
}

/// Why a call to the server did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address or a setting of the client cannot be used.
    #[error("cannot connect: {0}")]
    Setting(String),
    /// The server cannot be reached, is starting, draining or overloaded. Try again later.
    #[error("the server is not available: {0}")]
    Unavailable(Told),
    /// A limit of the server is used up. Try again later, or ask for less.
    #[error("the server refused for lack of room: {0}")]
    Exhausted(Told),
    /// The deadline passed; a write may or may not have happened.
    #[error("no answer within the deadline")]
    Deadline,
    /// No credentials, or none that the server knows.
    #[error("not authenticated: {0}")]
    Unauthenticated(Told),
    /// The credentials do not cover the call.
    #[error("permission denied: {0}")]
    Denied(Told),
    /// There is no such thing.
    #[error("not found: {0}")]
    NotFound(Told),
    /// A precondition does not hold; nothing was changed.
    #[error("precondition failed: {0}")]
    Precondition(Told),
    /// What the call goes by has changed meanwhile; begin again.
    #[error("begin again: {0}")]
    Aborted(Told),
    /// The request breaks a rule of the protocol; repeating it unchanged is of no use.
    #[error("the server does not accept the request: {0}")]
    Invalid(Told),
    /// The server does not do this.
    #[error("the server does not know this call: {0}")]
    Unimplemented(Told),
    /// A fault of the server. Try again later: another attempt or another instance may not have it.
    #[error("the server failed: {0}")]
    Internal(Told),
    /// A message breaks a rule of the protocol.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
}

/// Why a replica could not be built or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// The replica does not follow the collection.
    #[error("the replica does not follow {0}")]
    NotFollowed(CollectionName),
    /// A replica follows 1 to 1,024 collections: as many as one stream carries.
    #[error("a replica follows 1 to {max} collections, not {count}")]
    Count {
        /// How many were asked for.
        count: usize,
        /// How many a replica follows at most.
        max: usize,
    },
    /// There is no such part of a collection.
    #[error("{0}: scope: {1}")]
    Scope(CollectionName, Malformed),
    /// The local store failed.
    #[error("the local store failed")]
    Store(#[from] StoreError),
}

/// Why an item could not be read from a replica.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The local store failed.
    #[error("the local store failed")]
    Store(#[from] StoreError),
    /// The item is there but its content does not decode; see `Collection::undecodable`.
    #[error("the item does not decode")]
    Undecodable(#[from] crate::codec::DecodeError),
}

/// Why waiting for a replica ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is over; the replica goes on.
    #[error("not reached within the time given")]
    Deadline,
    /// The collection is not the caller's to read.
    #[error("the collection is not readable with these credentials")]
    Denied,
    /// The replica's driver has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

// === impl Told ===

impl Told {
    /// Whether the server gave this reason.
    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        self.reason.as_deref() == Some(reason.as_str())
    }
}

impl From<String> for Told {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Told {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl ClientError ===

impl ClientError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // A quota of bytes does not pass by itself.
            Self::Exhausted(told) => {
                !told.is(Reason::CollectionQuota) && !told.is(Reason::StoredBytes)
            }
            Self::Unavailable(_) | Self::Deadline | Self::Internal(_) => true,
            Self::Setting(_)
            | Self::Unauthenticated(_)
            | Self::Denied(_)
            | Self::NotFound(_)
            | Self::Precondition(_)
            | Self::Aborted(_)
            | Self::Invalid(_)
            | Self::Unimplemented(_)
            | Self::Malformed(_) => false,
        }
    }

    /// Why, in one word for programs, if the server gave one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.told()?.reason.as_deref()
    }

    /// How long the server asks to wait before the call is repeated.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.told()?.retry_after
    }

    /// What the server told besides its code, if it was reached and the code has more to it.
    #[must_use]
    pub fn told(&self) -> Option<&Told> {
        match self {
            Self::Unavailable(told)
            | Self::Exhausted(told)
            | Self::Unauthenticated(told)
            | Self::Denied(told)
            | Self::NotFound(told)
            | Self::Precondition(told)
            | Self::Aborted(told)
            | Self::Invalid(told)
            | Self::Unimplemented(told)
            | Self::Internal(told) => Some(told),
            Self::Setting(_) | Self::Deadline | Self::Malformed(_) => None,
        }
    }
}
