//! The labels of metrics: every value that each can have. No name, key or subject of a user ever
//! becomes one.

use sync_proto::types::{Reason, ResetReason};

/// Codes of `google.rpc.Code`.
const OK: i32 = 0;
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const DEADLINE_EXCEEDED: i32 = 4;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const DATA_LOSS: i32 = 15;
const UNAUTHENTICATED: i32 = 16;

/// How a commit, or an ack, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitResult {
    /// It is durable.
    Done,
    /// It was refused; nothing changed.
    Refused,
    /// The disk is almost full; nothing changed.
    Full,
    /// Storage failed; nobody knows.
    Unknown,
}

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Unauthenticated,
    Denied,
    Unknown,
}

/// What ended because a right did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// A target of a stream; the others went on.
    Target,
    /// A stream: its caller is nobody any more.
    Stream,
}

/// What became of a file that had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// It is in force.
    Done,
    /// It makes no sense; the one before stays in force.
    Refused,
}

/// A file that may change while the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// The policy.
    Policy,
    /// The keys that sign tokens.
    Keys,
    /// The server's certificate.
    Certificate,
    /// Who says who clients are.
    Authority,
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// Well.
    Done,
    /// One side did not like the other.
    Failed,
    /// Not in time.
    Late,
}

/// How a target of a pull was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullOutcome {
    Aligned,
    Delta,
    Reset,
    Denied,
    NotFound,
    Deferred,
    Failed,
}

/// How a call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallResult {
    Ok,
    Refused,
    Limited,
    Unavailable,
    /// Whoever called does not wait for it any longer.
    Cancelled,
    Failed,
}

/// What is sent to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentKind {
    /// Changes behind a cursor.
    Delta,
    /// Pages of first loads.
    Load,
    /// Rounds of reconciliations.
    Reconcile,
}

/// What became of a span of a call that is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanResult {
    /// The collector has it.
    Sent,
    /// Too many waited, or it was not taken in time.
    Dropped,
    /// The collector does not want it.
    Refused,
}

/// Who begins to reconcile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairReader {
    /// A client that was sent all there is: its digest differs, or it doubts its store.
    InStep,
    /// A client that was not.
    Behind,
    /// One without a name, or that was not served lately.
    Unknown,
}

/// How a subscriber gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SubscriberState {
    /// It has been sent everything.
    Live,
    /// Some target is behind.
    Lagging,
    /// There is something to send, and what was sent before has not been taken.
    Parked,
}

/// A label of ours: every value it can have.
pub(super) trait Labelled: Copy + PartialEq + 'static {
    const ALL: &'static [(Self, &'static str)];
}

// === impl Refused ===

impl Refused {
    /// Whether an answer with this code refuses its caller, and why.
    pub(super) fn of(code: i32) -> Option<Self> {
        match code {
            UNAUTHENTICATED => Some(Self::Unauthenticated),
            PERMISSION_DENIED => Some(Self::Denied),
            UNIMPLEMENTED => Some(Self::Unknown),
            _ => None,
        }
    }
}

// === impl CallResult ===

impl CallResult {
    pub(super) fn of(code: i32) -> Self {
        match code {
            OK => Self::Ok,
            RESOURCE_EXHAUSTED => Self::Limited,
            UNAVAILABLE | DEADLINE_EXCEEDED => Self::Unavailable,
            CANCELLED => Self::Cancelled,
            UNKNOWN | INTERNAL | DATA_LOSS => Self::Failed,
            _ => Self::Refused,
        }
    }
}

// === impl Labelled ===

impl Labelled for CallResult {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "ok"),
        (Self::Refused, "refused"),
        (Self::Limited, "limited"),
        (Self::Unavailable, "unavailable"),
        (Self::Cancelled, "cancelled"),
        (Self::Failed, "failed"),
    ];
}

impl Labelled for SentKind {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Delta, "delta"), (Self::Load, "load"), (Self::Reconcile, "reconcile")];
}

impl Labelled for SpanResult {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Sent, "sent"), (Self::Dropped, "dropped"), (Self::Refused, "refused")];
}

impl Labelled for RepairReader {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::InStep, "in_step"), (Self::Behind, "behind"), (Self::Unknown, "unknown")];
}

impl Labelled for SubscriberState {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Live, "live"), (Self::Lagging, "lagging"), (Self::Parked, "parked")];
}

impl Labelled for CommitResult {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Done, "done"),
        (Self::Refused, "refused"),
        (Self::Full, "full"),
        (Self::Unknown, "unknown"),
    ];
}

impl Labelled for Refused {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Unauthenticated, "unauthenticated"),
        (Self::Denied, "denied"),
        (Self::Unknown, "unknown"),
    ];
}

impl Labelled for Revoked {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Target, "target"), (Self::Stream, "stream")];
}

impl Labelled for Reload {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Done, "done"), (Self::Refused, "refused")];
}

impl Labelled for Handshake {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Done, "done"), (Self::Failed, "failed"), (Self::Late, "late")];
}

impl Labelled for PullOutcome {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Aligned, "aligned"),
        (Self::Delta, "delta"),
        (Self::Reset, "reset"),
        (Self::Denied, "denied"),
        (Self::NotFound, "not_found"),
        (Self::Deferred, "deferred"),
        (Self::Failed, "failed"),
    ];
}

impl Labelled for Reason {
    const ALL: &'static [(Self, &'static str)] = Self::WORDS;
}

impl Labelled for ResetReason {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::EpochChanged, "epoch_changed"),
        (Self::AheadOfHead, "ahead_of_head"),
        (Self::BelowFloor, "below_floor"),
        (Self::TooLarge, "too_large"),
        (Self::Forced, "forced"),
    ];
}
