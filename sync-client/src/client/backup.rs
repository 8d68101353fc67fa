//! A backup of the whole server, as a stream of bytes: this crate only carries them, what they mean
//! is the server's.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::limits::MESSAGE_BYTES_MAX;
use sync_proto::v1;
use sync_proto::v1::admin_service_client::AdminServiceClient;
use tonic::Streaming;

use super::SyncClient;
use crate::error::ClientError;

/// A server that sends nothing for so long is taken for gone: it looks at some rows at a time.
const PIECE_WITHIN: Duration = Duration::from_secs(60);

/// A backup that is being received.
pub struct BackupStream {
    pieces: Streaming<v1::BackupResponse>,
}

/// The next bytes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPiece {
    /// The bytes.
    pub chunk: Bytes,
    /// Rows in the backup so far.
    pub rows: u64,
    /// About how many there will be.
    pub estimated_rows: u64,
}

// === impl SyncClient ===

impl SyncClient {
    /// Begins a backup of everything that the server holds; needs the right to administer.
    /// Attempted once; the deadline of a call covers the beginning only.
    pub async fn backup(&self) -> Result<BackupStream, ClientError> {
        let request = self.request(v1::BackupRequest {}).await;
        let mut rpc = AdminServiceClient::new(self.shared.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        match tokio::time::timeout(self.call_timeout(), rpc.backup(request)).await {
            Ok(Ok(response)) => Ok(BackupStream { pieces: response.into_inner() }),
            Ok(Err(status)) => Err(ClientError::from_status(&status)),
            Err(_) => Err(ClientError::Deadline),
        }
    }
}

// === impl BackupStream ===

impl BackupStream {
    /// The next piece; `None` = the backup is complete.
    pub async fn next(&mut self) -> Result<Option<BackupPiece>, ClientError> {
        let next = tokio::time::timeout(PIECE_WITHIN, self.pieces.message()).await;
        let piece = next.map_err(|_| ClientError::Deadline)?;
        let piece = piece.map_err(|status| ClientError::from_status(&status))?;
        Ok(piece.map(|v1::BackupResponse { chunk, rows, estimated_rows }| BackupPiece {
            chunk,
            rows,
            estimated_rows,
        }))
    }
}

impl fmt::Debug for BackupStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupStream").finish_non_exhaustive()
    }
}
