//! The words of the protocol as checked types. Pure. Past `convert` nothing re-validates: a
//! [`Key`] is not empty and not too long, a [`Version`] fits 63 bits, an [`Epoch`] is not zero.

mod ack;
mod admin;
mod clients;
mod inbox;
mod log;
mod names;
mod order;
mod read;
mod reason;
mod reconcile;
mod write;

pub use ack::{Ack, Acked};
pub use admin::{Diffusion, Inspection, Policy, PolicyChange, PolicyField};
pub use clients::{ClientInfo, ClientPosition, Decision, Explanation};
pub use inbox::{InboxEntry, InboxNotice, Polled, PolledHead, Subject};
pub use log::{
    Change, ChangeKind, Cursor, Delta, Epoch, Head, Item, Reset, ResetReason, Timestamp, Version,
};
pub use names::{CollectionName, Key, Malformed, SortKey, Value};
pub use order::{OrderPlace, OrderRange};
pub use read::{
    AcceptedTarget, Event, Failure, Goodbye, GoodbyeReason, ListItems, ListOrder, Outcome, Plan,
    Position, Pull, Scope, Subscribe, Target,
};
pub use reason::{REASON_DOMAIN, Reason};
pub use reconcile::{Found, LeafEntry, Reconcile, Reconciled, Round};
pub use write::{Commit, Committed, Condition, Mutation, Op, Precondition};
