//! The one table from gRPC status codes to our errors. Exhaustive: what a server may say is
//! decided here and nowhere else.

use sync_proto::types::REASON_DOMAIN;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::{ClientError, Told, UsedUp};
use crate::stream_life::ASKED_WAIT_MAX;

// === impl ClientError ===

impl ClientError {
    /// Reads a gRPC status, with what tonic makes of lost connections and deadlines.
    pub(super) fn from_status(status: &Status) -> Self {
        let message = told(status);
        match status.code() {
            // tonic reports an expired deadline of ours as CANCELLED and a connection that broke
            // in the middle of a call as UNKNOWN; we cancel no calls ourselves.
            Code::DeadlineExceeded | Code::Cancelled => Self::Deadline,
            Code::Unavailable | Code::Unknown => Self::Unavailable(message),
            Code::ResourceExhausted => Self::Exhausted(message),
            Code::Unauthenticated => Self::Unauthenticated(message),
            Code::PermissionDenied => Self::Denied(message),
            Code::NotFound => Self::NotFound(message),
            Code::FailedPrecondition | Code::AlreadyExists => Self::Precondition(message),
            Code::Aborted => Self::Aborted(message),
            // OUT_OF_RANGE is what tonic says of a message above the size limit.
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid(message),
            Code::Unimplemented => Self::Unimplemented(message),
            Code::Internal | Code::DataLoss | Code::Ok => Self::Internal(message),
        }
    }
}

/// What a status tells, with its details; those of another domain say nothing that we know.
fn told(status: &Status) -> Told {
    let details = status.get_error_details();
    let reason = details.error_info().filter(|info| info.domain == REASON_DOMAIN);
    let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
    let wrong = details.bad_request().into_iter().flat_map(|request| &request.field_violations);
    let quotas = details.quota_failure().into_iter().flat_map(|failure| &failure.violations);
    let used_up = quotas
        .map(|quota| UsedUp { whose: quota.subject.clone(), limit: quota.description.clone() });
    Told {
        text: status.message().to_owned(),
        reason: reason.map(|info| info.reason.clone()),
        retry_after: retry_after.map(|wait| wait.min(ASKED_WAIT_MAX)),
        fields: wrong.map(|wrong| wrong.field.clone()).collect(),
        used_up: used_up.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use sync_proto::types::Reason;
    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(reason: Reason, retry_after: Option<Duration>) -> ClientError {
        let mut details =
            ErrorDetails::with_error_info(reason.as_str(), REASON_DOMAIN, HashMap::new());
        if retry_after.is_some() {
            details.set_retry_info(retry_after);
        }
        let status = Status::with_error_details(Code::ResourceExhausted, "enough", details);
        ClientError::from_status(&status)
    }

    /// G11: the reason and the wait of a server arrive, but no wait that would never end; and a
    /// quota of bytes is not asked for again.
    #[test]
    fn what_a_server_tells_besides_arrives() {
        let wait = Duration::from_millis(1_500);
        let limited = refusal(Reason::NoRoom, Some(wait));
        assert_eq!((limited.reason(), limited.retry_after()), (Some("NO_ROOM"), Some(wait)));
        assert!(limited.is_retryable());
        let endless = refusal(Reason::NoRoom, Some(Duration::from_secs(1 << 40)));
        assert_eq!(endless.retry_after(), Some(ASKED_WAIT_MAX));
        let mut details = ErrorDetails::with_quota_failure_violation("collection:a", "9 bytes");
        details.add_bad_request_violation("mutations[0].key", "is empty");
        let both = Status::with_error_details(Code::InvalidArgument, "no", details);
        let both = ClientError::from_status(&both);
        let told = both.told().expect("the server told");
        let whose = UsedUp { whose: "collection:a".to_owned(), limit: "9 bytes".to_owned() };
        assert_eq!(
            (&*told.fields, &*told.used_up),
            (&["mutations[0].key".to_owned()][..], &[whose][..])
        );
        let full = refusal(Reason::CollectionQuota, None);
        assert!(!full.is_retryable(), "{full:?}");
        let plain = ClientError::from_status(&Status::resource_exhausted("enough"));
        assert_eq!((plain.reason(), plain.retry_after()), (None, None));
        assert!(plain.is_retryable());
    }
}
