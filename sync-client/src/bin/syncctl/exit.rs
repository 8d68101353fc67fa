//! How a command ends: the exit codes, what is said when something failed, and what to do next.

use std::error::Error;
use std::io;

use sync_client::store::StoreError;
use sync_client::types::{CollectionName, Malformed, Reason};
use sync_client::{ClientError, ReplicaError};

/// Exit codes. [`EXIT_CODES`] tells users; the two change together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Precondition = 4,
    Unavailable = 5,
    Denied = 6,
    Findings = 7,
    Interrupted = 130,
}

/// The part of `--help` about [`Exit`].
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the server refused or failed, or a local file did
  2    wrong usage, or input that breaks a rule
  3    not found
  4    a precondition does not hold; nothing was changed
  5    the server cannot be reached, is not ready, or did not answer in time
  6    the token is missing, unknown, or does not cover this
  7    \"verify\": something does not fit
  130  interrupted (Ctrl-C); \"watch\" and \"replica\" end with 0 then";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    /// A store that was checked, and does not hold together.
    #[error("{0} finding(s)")]
    Unsound(u64),
    /// The server is there but does not serve.
    #[error("{0}")]
    NotServing(String),
    #[error("{doing}")]
    Io { doing: String, source: io::Error },
    /// The input file breaks a rule.
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A collection was not caught up in time.
    #[error("not caught up within the time given: {0}")]
    TooLate(CollectionName),
    /// Only an import can be interrupted half-way; it says how to go on.
    #[error("interrupted")]
    Interrupted { next_step: Option<String> },
    /// Whoever read our output went away: `syncctl list | head`.
    #[error("the reader of the output is gone")]
    ClosedPipe,
    /// A task of ours died.
    #[error("internal fault: {0}")]
    Internal(String),
}

// === impl Failure ===

impl Failure {
    /// Names what was being done when input or output failed.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing: doing.into(), source }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::ClosedPipe => Exit::Done,
            Self::Usage(_) | Self::Input(_) => Exit::Usage,
            Self::NotFound(_) => Exit::NotFound,
            Self::Unsound(_) => Exit::Findings,
            Self::NotServing(_) | Self::TooLate(_) => Exit::Unavailable,
            Self::Interrupted { .. } => Exit::Interrupted,
            Self::Io { .. } | Self::Store(_) | Self::Replica(_) | Self::Internal(_) => Exit::Failed,
            Self::Client(error) => exit_of(error),
        }
    }

    /// What the user can do about it.
    pub(crate) fn next_step(&self, server: &str) -> Option<String> {
        match self {
            Self::Client(ClientError::Unavailable(_)) => Some(format!(
                "is the server running at {server}? Start it with \"sync-server --data-dir DIR\", \
                 or name another one with --server URL"
            )),
            Self::Client(ClientError::Deadline) => Some(
                "try again, or allow more time with --timeout; a write may have happened, so look \
                 before you repeat it"
                    .into(),
            ),
            Self::Client(ClientError::Unauthenticated(_)) => {
                Some("pass a token with --token-file, SYNCCTL_TOKEN or --token, or a certificate with --cert-file".into())
            }
            Self::Client(ClientError::Denied(_)) => {
                Some("use a token that covers this collection and this call".into())
            }
            Self::Client(ClientError::Precondition(_)) => {
                Some("read the item again (\"syncctl get\") and decide anew".into())
            }
            Self::Client(ClientError::NotFound(told)) if told.is(Reason::NoSuchClient) => {
                Some("\"syncctl clients\" shows which there are".into())
            }
            Self::Client(ClientError::NotFound(_)) | Self::NotFound(_) => {
                Some("\"syncctl list\" shows what there is".into())
            }
            Self::TooLate(_) => Some(format!(
                "is the server running at {server}? A first load of a large collection may need a \
                 longer --timeout"
            )),
            Self::Unsound(_) => Some(
                "stop the server and run \"sync-server verify\": it says which rows; then restore a \
                 backup, and look at disk and memory"
                    .into(),
            ),
            Self::NotServing(_) => Some("wait until it has started, or look at its log".into()),
            Self::Store(StoreError::InUse) => {
                Some("end the other process, or use another --store".into())
            }
            Self::Interrupted { next_step } => next_step.clone(),
            Self::Usage(_) => Some("see \"syncctl help\"".into()),
            Self::Client(_)
            | Self::Io { .. }
            | Self::Input(_)
            | Self::Store(_)
            | Self::Replica(_)
            | Self::ClosedPipe
            | Self::Internal(_) => None,
        }
    }

    /// The failure with all its causes, as one sentence.
    pub(crate) fn text(&self) -> String {
        let mut text = self.to_string();
        // What the client says has its cause in its text.
        let mut cause = if matches!(self, Self::Client(_)) { None } else { self.source() };
        while let Some(next) = cause {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next.source();
        }
        text
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Usage(error.to_string())
    }
}

fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::Setting(_) | ClientError::Invalid(_) => Exit::Usage,
        ClientError::Unavailable(_) | ClientError::Deadline => Exit::Unavailable,
        ClientError::Unauthenticated(_) | ClientError::Denied(_) => Exit::Denied,
        ClientError::NotFound(_) => Exit::NotFound,
        ClientError::Precondition(_) => Exit::Precondition,
        ClientError::Exhausted(_)
        | ClientError::Aborted(_)
        | ClientError::Unimplemented(_)
        | ClientError::Internal(_)
        | ClientError::Malformed(_)
        | _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_exit_code() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Precondition,
            Exit::Unavailable,
            Exit::Denied,
            Exit::Findings,
            Exit::Interrupted,
        ] {
            let code = format!("\n  {:<4} ", exit as u8);
            assert!(EXIT_CODES.contains(&code), "{exit:?} is missing");
        }
    }

    #[test]
    fn an_unreachable_server_has_its_own_code_and_a_next_step() {
        let failure = Failure::from(ClientError::Unavailable("refused".into()));
        assert_eq!(failure.exit(), Exit::Unavailable);
        let step = failure.next_step("http://127.0.0.1:1").unwrap();
        assert!(step.contains("http://127.0.0.1:1") && step.contains("sync-server"), "{step}");
    }

    #[test]
    fn a_failure_names_each_cause_once() {
        let cause = io::Error::other("no space");
        let failure = Failure::io("writing out.jsonl")(cause);
        assert_eq!(failure.text(), "writing out.jsonl: no space");
    }
}
