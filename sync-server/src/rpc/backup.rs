//! The shell of a backup: reads off the async workers and sends. What is read is decided in
//! `engine::backing_up`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sync_proto::types::Timestamp;
use sync_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::Context;
use super::long_calls::{self, Message, Operator, Outbox};
use crate::engine::backing_up::Backup;
use crate::status;
use crate::store::Store;

/// How long the writer may be held for the last pass; commits wait for as long.
const HELD_MAX: Duration = Duration::from_millis(100);

/// Starts the task of a backup and returns its pieces.
pub(super) fn start<S: Store>(
    context: &Arc<Context<S>>,
    operator: Operator,
) -> Result<mpsc::Receiver<Message<v1::BackupResponse>>, Status> {
    let busy = "another backup is being taken";
    long_calls::start(context, operator, &context.backups, busy, send_all)
}

async fn send_all<S: Store>(
    context: Arc<Context<S>>,
    outbox: Outbox<v1::BackupResponse>,
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
            let (rows, estimated_rows) = (backup.rows(), backup.estimated_rows());
            outbox.send(v1::BackupResponse { chunk, rows, estimated_rows }).await?;
        }
    }
    tracing::info!(rows = backup.rows(), took = ?began.elapsed(), "a backup was taken");
    Ok(())
}
