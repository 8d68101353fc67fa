//! Calls of operators that work through everything and tell how far they are: one of a kind at a
//! time, ended by the end of the server or of the caller's right, and given up when nobody takes
//! what is told.

use std::sync::Arc;
use std::time::Duration;

use sync_proto::types::Reason;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Status};
use tracing::Instrument as _;

use super::Context;
use crate::auth::Caller;
use crate::auth::policy::Verb;
use crate::status;
use crate::store::Store;
use crate::traces::CallTrace;

/// Messages that wait for the transport, each below 4 MiB.
const OUTBOX_LEN: usize = 2;

/// Whoever takes nothing for so long is gone.
const TAKE_WITHIN: Duration = Duration::from_secs(60);

pub(super) type Message<T> = Result<T, Status>;

/// Who makes such a call.
#[derive(Debug)]
pub(super) struct Operator {
    caller: Caller,
    /// The span of the call, which ends with its task.
    traced: CallTrace,
}

/// Where such a call tells what it has.
#[derive(Debug)]
pub(super) struct Outbox<T>(mpsc::Sender<Message<T>>);

/// Starts the task of a call and returns its messages. `busy` is said when another has the turn.
pub(super) fn start<S: Store, T: Send + 'static, W>(
    context: &Arc<Context<S>>,
    operator: Operator,
    turn: &Arc<Semaphore>,
    busy: &str,
    work: impl FnOnce(Arc<Context<S>>, Outbox<T>) -> W,
) -> Result<mpsc::Receiver<Message<T>>, Status>
where
    W: Future<Output = Result<(), Status>> + Send + 'static,
{
    if context.drain.is_cancelled() {
        return Err(stopping());
    }
    let turn = Arc::clone(turn).try_acquire_owned();
    let turn = turn.map_err(|_| status::refused(Reason::OperationBusy, busy))?;
    let (sender, messages) = mpsc::channel(OUTBOX_LEN);
    let work = work(Arc::clone(context), Outbox(sender.clone()));
    let drain = context.drain.clone();
    let Operator { caller, traced } = operator;
    let task = async move {
        let _turn = turn;
        let ended = tokio::select! {
            biased;
            () = drain.cancelled() => Err(stopping()),
            () = sender.closed() => return,
            error = caller.loses(|rights| rights.allows_all(Verb::Admin)) => {
                Err(status::access(error))
            }
            ended = work => ended,
        };
        let Err(status) = ended else { return };
        traced.answered(status.code().into(), status::reason_of(&status));
        if tokio::time::timeout(TAKE_WITHIN, sender.send(Err(status))).await.is_err() {
            tracing::debug!("nobody was there to hear why a call of an operator ended");
        }
    };
    context.tasks.spawn(task.in_current_span());
    Ok(messages)
}

// === impl Operator ===

impl Operator {
    /// `caller`, who has asked this.
    pub(super) fn of<T>(caller: Caller, request: &Request<T>) -> Self {
        let traced = request.extensions().get().cloned().unwrap_or_default();
        Self { caller, traced }
    }
}

// === impl Outbox ===

impl<T> Outbox<T> {
    /// Sends a message, and waits until it may.
    pub(super) async fn send(&self, message: T) -> Result<(), Status> {
        match tokio::time::timeout(TAKE_WITHIN, self.0.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(status::refused(Reason::CallerGone, "the caller is gone")),
            Err(_) => {
                let text = "the caller took nothing for a minute";
                Err(status::refused(Reason::NotTaken, text))
            }
        }
    }
}

fn stopping() -> Status {
    status::stopping("the server is stopping")
}
