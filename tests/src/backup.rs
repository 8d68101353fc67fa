//! Backups as an operator takes them.

use sync_proto::v1;
use tonic::Status;

use crate::wait::within;
use crate::wire::Wire;

/// Why a backup did not come to its end.
#[derive(Debug)]
pub struct CutOff {
    /// What came before.
    pub bytes: Vec<u8>,
    /// Why nothing more did.
    pub why: Status,
}

/// Takes a backup: the bytes of a file that a store can be restored from.
pub async fn take(wire: &Wire) -> Result<Vec<u8>, CutOff> {
    let mut bytes = Vec::new();
    let begun = within("a backup to begin", wire.admin().backup(v1::BackupRequest {})).await;
    let mut stream = match begun {
        Ok(stream) => stream.into_inner(),
        Err(why) => return Err(CutOff { bytes, why }),
    };
    let mut rows = 0;
    loop {
        match within("a piece of a backup", stream.message()).await {
            Ok(Some(piece)) => {
                bytes.extend(piece.chunk);
                assert!((rows..=piece.estimated_rows).contains(&piece.rows), "{} rows", piece.rows);
                rows = piece.rows;
            }
            Ok(None) => return Ok(bytes),
            Err(why) => return Err(CutOff { bytes, why }),
        }
    }
}
