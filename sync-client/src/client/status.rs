//! The one table from gRPC status codes to our errors. Exhaustive: what a server may say is
//! decided here and nowhere else.

use tonic::{Code, Status};

use crate::error::ClientError;

// === impl ClientError ===

impl ClientError {
    /// Reads a gRPC status, with what tonic makes of lost connections and deadlines.
    pub(super) fn from_status(status: &Status) -> Self {
        let message = status.message().to_owned();
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
