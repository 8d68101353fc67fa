//! The one table from our errors to gRPC status codes. Exhaustive: a new error does not compile
//! until it picks a code. Our own faults say little outside and everything in the log.

use std::time::Duration;

use sync_proto::types::{Failure, Malformed, Reason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::auth::AccessError;
use crate::budget::{Exhausted, LOADS_SETTING, WAITING_UPLOADS_MAX};
use crate::core::acks::AckRefusal;
use crate::core::plan::Refusal;
use crate::core::rates::{Counted, TooFast};
use crate::core::stored::TooMuch;
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

use self::refused::Refused;

mod refused;

pub use self::refused::{code, reason_of};
pub(crate) use self::refused::{completed, preceded};

/// What is said of a fault that is ours.
const INTERNAL: &str = "internal error; the server's log says more";

/// When a target that failed inside the server may be asked for again.
const TARGET_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal that has nothing to tell but its reason.
#[must_use]
pub fn refused(reason: Reason, text: impl Into<String>) -> Status {
    Refused::new(reason, text).into()
}

/// A message of the protocol that was not well-formed.
#[must_use]
pub fn malformed(error: &Malformed) -> Status {
    Refused::new(Reason::Malformed, error.to_string()).field(&error.field, &error.reason).into()
}

/// A request whose bytes are no message.
#[must_use]
pub fn undecodable(text: &str) -> Status {
    Refused::new(Reason::Undecodable, text).field(refused::WHOLE_REQUEST, text).into()
}

/// A message of an import that was not well-formed, with the number of its commit.
#[must_use]
pub fn malformed_commit(sequence: u64, error: &Malformed) -> Status {
    let text = format!("commit {sequence}.{error}");
    Refused::new(Reason::Malformed, text).field(&error.field, &error.reason).into()
}

/// A fault of ours, which the log has told.
#[must_use]
pub fn internal() -> Status {
    refused(Reason::Internal, INTERNAL)
}

/// The server does not begin this, or does not end it, because it is about to end itself.
#[must_use]
pub fn stopping(text: &str) -> Status {
    refused(Reason::Stopping, text)
}

/// A caller that may not.
#[must_use]
pub fn access(error: AccessError) -> Status {
    let reason = match error {
        AccessError::NotReady => Reason::KeysNotReady,
        AccessError::Unauthenticated | AccessError::UnknownKey => Reason::CredentialsNeeded,
        AccessError::Expired => Reason::CredentialsExpired,
        AccessError::Denied => Reason::NotAllowed,
    };
    refused(reason, error.to_string())
}

/// A caller that may not, with the field that says what.
#[must_use]
pub fn access_at(field: &str, error: AccessError) -> Status {
    preceded(field, &access(error))
}

/// A call for which there is no room; of a first load or a reconciliation it is told apart.
#[must_use]
pub fn exhausted(error: &Exhausted) -> Status {
    let load = error.setting() == LOADS_SETTING;
    let reason = if load { Reason::LoadsBusy } else { Reason::NoRoom };
    Refused::new(reason, error.to_string()).limit(error.setting()).into()
}

/// A commit of somebody who commits too fast.
#[must_use]
pub fn too_fast(error: &TooFast) -> Status {
    let reason = match error.counted {
        Counted::Commits => Reason::CommitRate,
        Counted::Mutations => Reason::MutationRate,
    };
    let quota = error.counted.quota();
    let limit = format!("{quota}: {} a second", error.per_s);
    let refused = Refused::new(reason, error.to_string()).limit(quota);
    refused.quota("principal", &limit).retry_after(error.wait).into()
}

/// A commit that would store more below a name than the policy allows.
#[must_use]
pub fn too_much(error: &TooMuch) -> Status {
    let limit = format!("stored_bytes: {} bytes of live items", error.bytes_max);
    let refused = Refused::new(Reason::StoredBytes, error.to_string()).limit("stored_bytes");
    refused.quota(&format!("below:{}", error.root), &limit).into()
}

/// A request that would wait for room, behind others of its connection that do.
#[must_use]
pub fn too_many_uploads() -> Status {
    let text = format!(
        "requests_mib: {WAITING_UPLOADS_MAX} requests of this connection wait for room, which is \
         the limit; send less at once"
    );
    Refused::new(Reason::NoRoom, text).limit("requests_mib").into()
}

/// A stream for which there is no place.
#[must_use]
pub fn no_place(error: &NoPlace) -> Status {
    let text = error.to_string();
    let setting = error.setting();
    Refused::new(Reason::StreamsTaken, &text).limit(setting).quota(setting, &text).into()
}

/// A write that did not happen, or may not have.
#[must_use]
pub fn write(error: &WriteError) -> Status {
    let text = error.to_string();
    match error {
        WriteError::Refused(refusal) => refusal_of(refusal, text),
        WriteError::NotDeleted(refusal) => match refusal {
            DeleteRefusal::NotFound => refused(Reason::NoSuchCollection, text),
            DeleteRefusal::HeadDiffers(_) => refused(Reason::HeadDiffers, text),
        },
        WriteError::NotAdministered(refusal) => match refusal {
            AdminRefusal::NotFound => refused(Reason::NoSuchCollection, text),
            AdminRefusal::AboveHead(_) => refused(Reason::AboveHead, text),
            AdminRefusal::OtherEpoch(_) => refused(Reason::EpochChanged, text),
        },
        WriteError::Full => Refused::new(Reason::DiskFull, text).limit("free_disk_min_mib").into(),
        WriteError::Stopping => refused(Reason::Stopping, text),
        WriteError::Unknown => refused(Reason::OutcomeUnknown, text),
    }
}

fn refusal_of(refusal: &Refusal, text: String) -> Status {
    // The text begins with the path of the field.
    let at = |reason, text: &str| {
        let (field, description) = text.split_once(": ").unwrap_or(("", text));
        Refused::new(reason, text).field(field, description).into()
    };
    match refusal {
        Refusal::Precondition { .. } => refused(Reason::PreconditionFailed, text),
        Refusal::ReorderOfMissing { .. } => refused(Reason::ItemMissing, text),
        Refusal::ImportGap { .. } => refused(Reason::ImportGap, text),
        Refusal::Ack { reason, .. } => {
            let reason = match reason {
                AckRefusal::NoCollection => Reason::NoSuchCollection,
                AckRefusal::OtherEpoch(_) => Reason::AckOtherEpoch,
                AckRefusal::AboveHead(_) => Reason::AckAboveHead,
                AckRefusal::NeverSent(_) => Reason::AckNeverSent,
            };
            refused(reason, text)
        }
        Refusal::OverQuota { collection, quota, .. } => {
            let limit = format!("policy.bytes_max: {quota} bytes of live items");
            let quota = Refused::new(Reason::CollectionQuota, text).limit("policy.bytes_max");
            quota.quota(&format!("collection:{collection}"), &limit).into()
        }
        Refusal::TooMuchStored(error) => too_much(error),
        Refusal::KeyReused => at(Reason::IdempotencyKeyReused, &text),
        Refusal::VersionTooLarge { .. } | Refusal::ReplacesTooMuch { .. } => {
            at(Reason::CommitTooLarge, &text)
        }
        Refusal::Damaged(cause) => storage(cause),
    }
}

/// A listing that could not be had.
#[must_use]
pub fn list(error: &ListError) -> Status {
    match error {
        ListError::NotFound => refused(Reason::NoSuchCollection, error.to_string()),
        ListError::Token(refusal) => token(*refusal),
        ListError::Store(cause) => storage(cause),
    }
}

/// A page token that cannot be continued.
#[must_use]
pub fn token(error: TokenRefusal) -> Status {
    let text = error.to_string();
    match error {
        TokenRefusal::Invalid => {
            let description = text.trim_start_matches("page_token: ");
            Refused::new(Reason::PageTokenInvalid, &text).field("page_token", description).into()
        }
        TokenRefusal::OtherEpoch => refused(Reason::PageTokenOutlived, text),
    }
}

/// A round of a reconciliation that could not be had.
#[must_use]
pub fn reconcile(error: &ReconcileError) -> Status {
    let text = error.to_string();
    match error {
        ReconcileError::NotFound => refused(Reason::NoSuchCollection, text),
        ReconcileError::BeginAgain(_) => refused(Reason::ReconcileAnew, text),
        ReconcileError::Token(refusal) => match refusal {
            TokenRefusal::Invalid => token(*refusal),
            TokenRefusal::OtherEpoch => refused(Reason::ReconcileAnew, text),
        },
        ReconcileError::Store(cause) => storage(cause),
    }
}

/// A backup that was not taken.
#[must_use]
pub fn backup(error: &BackupFailure) -> Status {
    match error {
        BackupFailure::Store(cause) => storage(cause),
        BackupFailure::TooBusy => refused(Reason::BackupOvertaken, error.to_string()),
    }
}

/// Whether a write that ended so has changed nothing, which is known of all but some faults of ours.
#[must_use]
pub fn is_unchanged(status: &Status) -> bool {
    !matches!(status.code(), Code::Unknown | Code::Internal)
}

/// A read that storage failed.
#[must_use]
pub fn storage(error: &StoreError) -> Status {
    tracing::error!(error = error as &dyn std::error::Error, "a read failed");
    internal()
}

/// A blocking task that did not come back: it panicked, or the server is stopping.
#[must_use]
pub fn lost_task(error: &tokio::task::JoinError) -> Status {
    if error.is_panic() {
        tracing::error!(error = error as &dyn std::error::Error, "a read panicked");
    }
    internal()
}

/// A target whose load is begun again and again.
#[must_use]
pub fn begun_again(wait: Duration) -> Failure {
    let text = "the same first load was begun again and again without getting on from it; wait, and \
                give every device a client_id of its own";
    let code = code(Reason::LoadRepeated).into();
    let reason = Some(Reason::LoadRepeated.as_str().to_owned());
    Failure { code, message: text.to_owned(), retry_after: Some(wait), reason }
}

/// What is said of a target alone, as it would be of its call.
#[must_use]
pub fn of_target(status: &Status) -> Failure {
    let retry = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    let message = status.message().to_owned();
    Failure { code: status.code().into(), message, retry_after: retry, reason: word(status) }
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
        reason: word(&status),
    }
}

/// The reason of a status in its word.
fn word(status: &Status) -> Option<String> {
    reason_of(status).map(|reason| reason.as_str().to_owned())
}
