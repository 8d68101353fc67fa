//! The one table from our errors to gRPC status codes. Exhaustive: a new error does not compile
//! until it picks a code. Our own faults say little outside and everything in the log.

use std::time::Duration;

use sync_proto::types::{Failure, Malformed};
use tonic::{Code, Status};

use crate::auth::AccessError;
use crate::budget::{Exhausted, WAITING_UPLOADS_MAX};
use crate::core::acks::AckRefusal;
use crate::core::plan::Refusal;
use crate::core::window::TokenRefusal;
use crate::engine::administering::AdminRefusal;
use crate::engine::backing_up::BackupFailure;
use crate::engine::ledger::DeleteRefusal;
use crate::engine::listing::ListError;
use crate::engine::pulling::TargetError;
use crate::engine::reconciling::ReconcileError;
use crate::engine::writer::WriteError;
use crate::rpc::places::NoPlace;
use crate::store::StoreError;

/// What is said of a fault that is ours.
const INTERNAL: &str = "internal error; the server's log says more";

/// When a target that failed inside the server may be asked for again.
const TARGET_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A message of the protocol that was not well-formed.
#[must_use]
pub fn malformed(error: &Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A caller that may not.
#[must_use]
pub fn access(error: AccessError) -> Status {
    match error {
        AccessError::NotReady => Status::unavailable(error.to_string()),
        AccessError::Unauthenticated | AccessError::UnknownKey | AccessError::Expired => {
            Status::unauthenticated(error.to_string())
        }
        AccessError::Denied => Status::permission_denied(error.to_string()),
    }
}

/// A caller that may not, with the field that says what.
#[must_use]
pub fn access_at(field: &str, error: AccessError) -> Status {
    let status = access(error);
    Status::new(status.code(), format!("{field}: {}", status.message()))
}

/// A call for which there is no room.
#[must_use]
pub fn exhausted(error: &Exhausted) -> Status {
    Status::resource_exhausted(error.to_string())
}

/// A request that would wait for room, behind others of its connection that do.
#[must_use]
pub fn too_many_uploads() -> Status {
    Status::resource_exhausted(format!(
        "requests_mib: {WAITING_UPLOADS_MAX} requests of this connection wait for room, which is \
         the limit; send less at once"
    ))
}

/// A stream for which there is no place.
#[must_use]
pub fn no_place(error: &NoPlace) -> Status {
    Status::resource_exhausted(error.to_string())
}

/// A write that did not happen, or may not have.
#[must_use]
pub fn write(error: &WriteError) -> Status {
    let text = error.to_string();
    match error {
        WriteError::Refused(refusal) => match refusal {
            Refusal::Precondition { .. }
            | Refusal::ReorderOfMissing { .. }
            | Refusal::ImportGap { .. } => Status::failed_precondition(text),
            Refusal::Ack { reason, .. } => match reason {
                AckRefusal::NoCollection => Status::not_found(text),
                AckRefusal::OtherEpoch(_) | AckRefusal::AboveHead(_) | AckRefusal::NeverSent(_) => {
                    Status::failed_precondition(text)
                }
            },
            Refusal::OverQuota { .. } => Status::resource_exhausted(text),
            Refusal::KeyReused
            | Refusal::VersionTooLarge { .. }
            | Refusal::ReplacesTooMuch { .. } => Status::invalid_argument(text),
            Refusal::Damaged(cause) => storage(cause),
        },
        WriteError::NotDeleted(refusal) => match refusal {
            DeleteRefusal::NotFound => Status::not_found(text),
            DeleteRefusal::HeadDiffers(_) => Status::failed_precondition(text),
        },
        WriteError::NotAdministered(refusal) => match refusal {
            AdminRefusal::NotFound => Status::not_found(text),
            AdminRefusal::AboveHead(_) => Status::failed_precondition(text),
            AdminRefusal::OtherEpoch(_) => Status::aborted(text),
        },
        WriteError::Full => Status::resource_exhausted(text),
        WriteError::Stopping => Status::unavailable(text),
        // Not UNAVAILABLE: that one promises that nothing was changed.
        WriteError::Unknown => Status::unknown(text),
    }
}

/// A listing that could not be had.
#[must_use]
pub fn list(error: &ListError) -> Status {
    match error {
        ListError::NotFound => Status::not_found(error.to_string()),
        ListError::Token(refusal) => token(*refusal),
        ListError::Store(cause) => storage(cause),
    }
}

/// A page token that cannot be continued.
#[must_use]
pub fn token(error: TokenRefusal) -> Status {
    match error {
        TokenRefusal::Invalid => Status::invalid_argument(error.to_string()),
        TokenRefusal::OtherEpoch => Status::aborted(error.to_string()),
    }
}

/// A round of a reconciliation that could not be had.
#[must_use]
pub fn reconcile(error: &ReconcileError) -> Status {
    let text = error.to_string();
    match error {
        ReconcileError::NotFound => Status::not_found(text),
        ReconcileError::BeginAgain(_) => Status::failed_precondition(text),
        ReconcileError::Token(refusal) => match refusal {
            TokenRefusal::Invalid => Status::invalid_argument(text),
            TokenRefusal::OtherEpoch => Status::failed_precondition(text),
        },
        ReconcileError::Store(cause) => storage(cause),
    }
}

/// A backup that was not taken.
#[must_use]
pub fn backup(error: &BackupFailure) -> Status {
    match error {
        BackupFailure::Store(cause) => storage(cause),
        BackupFailure::TooBusy => Status::aborted(error.to_string()),
    }
}

/// A read that storage failed.
#[must_use]
pub fn storage(error: &StoreError) -> Status {
    tracing::error!(error = error as &dyn std::error::Error, "a read failed");
    Status::internal(INTERNAL)
}

/// A blocking task that did not come back: it panicked, or the server is stopping.
#[must_use]
pub fn lost_task(error: &tokio::task::JoinError) -> Status {
    if error.is_panic() {
        tracing::error!(error = error as &dyn std::error::Error, "a read panicked");
    }
    Status::internal(INTERNAL)
}

/// A target whose load is begun again and again.
#[must_use]
pub fn begun_again(wait: Duration) -> Failure {
    let text = "the same first load was begun again and again without getting on from it; wait, and \
                give every device a client_id of its own";
    let status = Status::resource_exhausted(text);
    let message = status.message().to_owned();
    Failure { code: status.code().into(), message, retry_after: Some(wait) }
}

/// A target that has no answer, while the others of its call do.
#[must_use]
pub fn target(error: &TargetError) -> Failure {
    let status = match error {
        TargetError::Malformed(error) => malformed(error),
        TargetError::Store(cause) => storage(cause),
    };
    let transient = status.code() == Code::Internal;
    Failure {
        code: status.code().into(),
        message: status.message().to_owned(),
        retry_after: transient.then_some(TARGET_RETRY_AFTER),
    }
}
