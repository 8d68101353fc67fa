//! What is said when something is not done: a text for people, and for programs the details of
//! `google.rpc`: always a reason (`ErrorInfo`), the field that is wrong (`BadRequest`), when to come
//! again (`RetryInfo`), the quota that is used up (`QuotaFailure`). Nothing in them names what the
//! caller has not named itself. Pure.

use std::collections::HashMap;
use std::time::Duration;

use sync_proto::types::{REASON_DOMAIN, Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The field of a message that does not decode: no part of it is known.
pub(super) const WHOLE_REQUEST: &str = "request";

/// What passes by itself, and after how many seconds it is worth asking again.
const USUAL_WAITS: [(Reason, u64); 9] = [
    (Reason::LoadsBusy, 2),
    (Reason::KeysNotReady, 1),
    (Reason::NoRoom, 1),
    (Reason::UploadTooSlow, 1),
    (Reason::Stopping, 1),
    (Reason::Internal, 1),
    (Reason::StreamsTaken, 5),
    (Reason::OperationBusy, 10),
    (Reason::DiskFull, 30),
];

/// A refusal that is put together.
#[derive(Debug)]
pub(crate) struct Refused {
    reason: Reason,
    text: String,
    details: ErrorDetails,
    retry_after: Option<Duration>,
    /// The setting, or the quota, whose limit is in the way.
    limit: Option<&'static str>,
}

/// The code that goes with a reason. A new reason does not compile until it has one.
#[must_use]
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::Malformed
        | Reason::Undecodable
        | Reason::PageTokenInvalid
        | Reason::IdempotencyKeyReused
        | Reason::CommitTooLarge => Code::InvalidArgument,
        Reason::MessageTooLarge => Code::OutOfRange,
        Reason::CredentialsNeeded | Reason::CredentialsExpired => Code::Unauthenticated,
        Reason::NotAllowed => Code::PermissionDenied,
        Reason::NoSuchCall => Code::Unimplemented,
        Reason::NoSuchCollection | Reason::NoSuchImport | Reason::NoSuchClient => Code::NotFound,
        Reason::PreconditionFailed
        | Reason::ItemMissing
        | Reason::ImportGap
        | Reason::HeadDiffers
        | Reason::AboveHead
        | Reason::AckOtherEpoch
        | Reason::AckAboveHead
        | Reason::AckNeverSent
        | Reason::ReconcileAnew => Code::FailedPrecondition,
        Reason::PageTokenOutlived | Reason::EpochChanged | Reason::BackupOvertaken => Code::Aborted,
        Reason::NoRoom
        | Reason::StreamsTaken
        | Reason::OperationBusy
        | Reason::LoadRepeated
        | Reason::DiskFull
        | Reason::CollectionQuota
        | Reason::StoredBytes
        | Reason::CommitRate
        | Reason::MutationRate
        | Reason::LoadsBusy => Code::ResourceExhausted,
        Reason::UploadTooSlow | Reason::NotTaken | Reason::TookTooLong => Code::DeadlineExceeded,
        Reason::CallerGone => Code::Cancelled,
        Reason::KeysNotReady | Reason::Stopping => Code::Unavailable,
        // Not UNAVAILABLE: that one promises that nothing was changed.
        Reason::OutcomeUnknown => Code::Unknown,
        Reason::Internal => Code::Internal,
    }
}

/// When the same call may be worth repeating; `None` = not by itself, or nobody can say.
fn usual_wait(reason: Reason) -> Option<Duration> {
    let known = USUAL_WAITS.iter().find(|(known, _)| *known == reason);
    known.map(|(_, seconds)| Duration::from_secs(*seconds))
}

/// What a status of tonic's own means; nothing of those that are never its own.
fn foreign_reason(code: Code) -> Option<Reason> {
    match code {
        Code::InvalidArgument => Some(Reason::Undecodable),
        Code::OutOfRange => Some(Reason::MessageTooLarge),
        Code::Unimplemented => Some(Reason::NoSuchCall),
        Code::DeadlineExceeded => Some(Reason::TookTooLong),
        Code::Cancelled => Some(Reason::CallerGone),
        Code::Unknown => Some(Reason::OutcomeUnknown),
        Code::Internal | Code::DataLoss => Some(Reason::Internal),
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::Unauthenticated => None,
    }
}

/// A status of tonic's own with the details that it lacks; `None` = it lacks none.
pub(crate) fn completed(status: &Status) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    let mut refused = Refused::new(foreign_reason(status.code())?, status.message());
    if status.code() == Code::InvalidArgument {
        let text = status.message().trim_start_matches("request: ");
        refused = refused.field(WHOLE_REQUEST, text);
    }
    Some(refused.with_code(status.code()))
}

/// The same with words before its text, in both places that have it: there are clients that refuse
/// details whose text is another one, and others that show only theirs.
pub(crate) fn preceded(by: &str, status: &Status) -> Status {
    let text = format!("{by}: {}", status.message());
    Status::with_error_details(status.code(), text, status.get_error_details())
}

/// The reason that a status tells.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Reason> {
    let told = status.get_details_error_info()?;
    Reason::of_word(&told.reason)
}

// === impl Refused ===

impl Refused {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        let (text, retry_after) = (text.into(), usual_wait(reason));
        Self { reason, text, details: ErrorDetails::new(), retry_after, limit: None }
    }

    /// The field that is wrong, by its path in the request, and what is wrong with it.
    pub(crate) fn field(mut self, path: &str, description: &str) -> Self {
        self.details.add_bad_request_violation(path, description);
        self
    }

    /// The quota that is used up: whose it is, and what its limit is.
    pub(crate) fn quota(mut self, subject: &str, description: &str) -> Self {
        self.details.add_quota_failure_violation(subject, description);
        self
    }

    /// The setting whose limit is in the way.
    pub(crate) fn limit(self, setting: &'static str) -> Self {
        Self { limit: Some(setting), ..self }
    }

    /// The same call may pass after this.
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    fn with_code(mut self, code: Code) -> Status {
        let limit = self.limit.map(|setting| ("limit".to_owned(), setting.to_owned()));
        let metadata: HashMap<_, _> = limit.into_iter().collect();
        self.details.set_error_info(self.reason.as_str(), REASON_DOMAIN, metadata);
        if self.retry_after.is_some() {
            self.details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(code, self.text, self.details)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = code(refused.reason);
        refused.with_code(code)
    }
}
