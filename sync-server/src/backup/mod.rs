//! Backups: what a file of one looks like ([`mod@format`]), and how a store is built from it
//! ([`restore`]). How one is taken while commits go on is the engine's: `engine::backing_up`.

mod followers;
pub mod format;
pub mod restore;

use crate::store::StoreError;

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It does not begin like one.
    #[error("this is no backup")]
    NotABackup,
    /// A newer program wrote it.
    #[error("the backup has format {found}, this program knows up to {known}: run a newer one")]
    NewerFormat {
        /// Format number of the file.
        found: u32,
        /// Newest format number that this program reads.
        known: u32,
    },
    /// It ends too early.
    #[error("the backup ends at byte {at}, before it is complete: take another")]
    Truncated {
        /// Where.
        at: u64,
    },
    /// Its bytes are not those that were written.
    #[error("the backup is damaged at byte {at}: {reason}")]
    Damaged {
        /// Where the part begins that does not fit.
        at: u64,
        /// What does not fit.
        reason: String,
    },
    /// The bytes are those that were written, but what they say cannot be.
    #[error("the backup does not hold together: collection {collection}: {reason}")]
    Unsound {
        /// Name of the collection.
        collection: String,
        /// What does not fit.
        reason: String,
    },
    /// The file cannot be read.
    #[error("the backup cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// The store cannot be built.
    #[error(transparent)]
    Store(#[from] StoreError),
}
