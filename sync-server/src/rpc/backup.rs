//! The shell of a backup: reads off the async workers, sends, and gives up when nobody takes what
//! is sent. What is read is decided in `engine::backing_up`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sync_proto::types::Timestamp;
use sync_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::auth::policy::Verb;
use crate::engine::backing_up::Backup;
use crate::status;
use crate::store::Store;

/// Pieces that wait for the transport, each below 4 MiB.
const OUTBOX_LEN: usize = 2;

/// Whoever takes nothing for so long is gone.
const TAKE_WITHIN: Duration = Duration::from_secs(60);

/// How long the writer may be held for the last pass; commits wait for as long.
const HELD_MAX: Duration = Duration::from_millis(100);

type Message = Result<v1::BackupResponse, Status>;

/// Starts the task of a backup and returns its pieces.
pub(super) fn start<S: Store>(
    context: &Arc<Context<S>>,
    caller: Caller,
) -> Result<mpsc::Receiver<Message>, Status> {
    if context.drain.is_cancelled() {
        return Err(stopping());
    }
    let turn = Arc::clone(&context.backups).try_acquire_owned();
    let turn = turn.map_err(|_| Status::resource_exhausted("another backup is being taken"))?;
    let (outbox, pieces) = mpsc::channel(OUTBOX_LEN);
    context.tasks.spawn(run(Arc::clone(context), caller, outbox, turn));
    Ok(pieces)
}

async fn run<S: Store>(
    context: Arc<Context<S>>,
    caller: Caller,
    outbox: mpsc::Sender<Message>,
    _turn: OwnedSemaphorePermit,
) {
    let ended = tokio::select! {
        biased;
        () = context.drain.cancelled() => Err(stopping()),
        () = outbox.closed() => return,
        error = caller.loses(|rights| rights.allows_all(Verb::Admin)) => Err(status::access(error)),
        ended = send_all(&context, &outbox) => ended,
    };
    if let Err(status) = ended
        && tokio::time::timeout(TAKE_WITHIN, outbox.send(Err(status))).await.is_err()
    {
        tracing::debug!("nobody was there to hear why there is no backup");
    }
}

async fn send_all<S: Store>(
    context: &Context<S>,
    outbox: &mpsc::Sender<Message>,
) -> Result<(), Status> {
    let began = Instant::now();
    let mut backup = Backup::new(Timestamp::now());
    loop {
        let step = context.read(move |ledger| {
            let began = Instant::now();
            let pieces = backup.step(ledger, &mut || began.elapsed() < HELD_MAX);
            (backup, pieces)
        });
        let pieces;
        (backup, pieces) = step.await?;
        let Some(pieces) = pieces.map_err(|error| status::backup(&error))? else { break };
        for chunk in pieces {
            send(outbox, &backup, chunk).await?;
        }
    }
    tracing::info!(rows = backup.rows(), took = ?began.elapsed(), "a backup was taken");
    Ok(())
}

async fn send(outbox: &mpsc::Sender<Message>, backup: &Backup, chunk: Bytes) -> Result<(), Status> {
    let (rows, estimated_rows) = (backup.rows(), backup.estimated_rows());
    let piece = v1::BackupResponse { chunk, rows, estimated_rows };
    match tokio::time::timeout(TAKE_WITHIN, outbox.send(Ok(piece))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("the caller is gone")),
        Err(_) => Err(Status::deadline_exceeded("the caller took nothing for a minute")),
    }
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}
