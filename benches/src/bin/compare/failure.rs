//! What goes wrong while measuring.

use std::io;
use std::time::Duration;

/// A measurement that cannot be made, or was made wrongly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The system is not on this machine.
    #[error("{0} is not installed here (looked for the program \"{1}\")")]
    NotHere(&'static str, &'static str),
    /// A program, a file or a connection.
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    /// A gRPC server refused.
    #[error("a call failed")]
    Call(#[from] tonic::Status),
    /// There is no gRPC server.
    #[error("no connection")]
    Connection(#[from] tonic::transport::Error),
    /// A peer said what its protocol does not say, or refused.
    #[error("{system}: {said}")]
    Peer { system: &'static str, said: String },
    /// It takes too long.
    #[error("{what} took longer than {limit:?}")]
    Late { what: &'static str, limit: Duration },
    /// Readers did not get what was written: no figure of it would be worth anything.
    #[error("wrong: {0}")]
    Wrong(String),
    /// Our own client.
    #[error("the replica: {0}")]
    Client(String),
}

/// Which outcome a measurement has.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// An error of the system, with what was being done.
pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::Io { doing, source }
}

/// `work`, which must not take longer than this.
pub(crate) async fn within<T>(
    what: &'static str,
    limit: Duration,
    work: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Failure::Late { what, limit }))
}

/// The text of a failure with all its causes.
pub(crate) fn chain(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut cause = std::error::Error::source(failure);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
