//! Notes: small things that must change together with copies, such as what an account has still
//! to do. A store keeps their bytes and does not know what they mean.

use bytes::Bytes;
use sync_proto::digest::Digest;
use sync_proto::types::CollectionName;

use super::Tally;

/// Edits of the notes of one owner, carried out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notes {
    /// Whose notes; owners do not see each other's.
    pub owner: CollectionName,
    /// Key and content; `None` = the note goes. Of two for one key the later one counts.
    pub edits: Vec<(Bytes, Option<Bytes>)>,
    /// They are made only if the copy that is written beside them then has this digest.
    pub only_at: Option<Digest>,
}

// === impl Notes ===

impl Notes {
    /// No edits.
    #[must_use]
    pub fn none(owner: CollectionName) -> Self {
        Self { owner, edits: Vec::new(), only_at: None }
    }

    /// Whether they are to be made beside a copy that has come to this.
    pub(super) fn apply_at(&self, tally: &Tally) -> bool {
        !self.edits.is_empty() && self.only_at.is_none_or(|digest| digest == tally.digest)
    }
}
