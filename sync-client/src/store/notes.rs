//! Notes: small things that must change together with copies, such as what an account has still
//! to do. A store keeps their bytes and does not know what they mean.

use bytes::Bytes;
use rand::RngExt as _;
use sync_proto::digest::Digest;
use sync_proto::types::CollectionName;

use super::{ReplicaStore, StoreError, Tally};

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

/// The name under which a client goes on with what is in a store: made at random when it is needed first,
/// and kept with the owner's notes, so that it is the same client after a restart.
pub(crate) fn client_name(
    store: &dyn ReplicaStore,
    owner: &CollectionName,
) -> Result<String, StoreError> {
    let notes = store.notes(owner)?;
    let kept = notes.iter().find(|(key, _)| key.is_empty());
    let kept = kept.and_then(|(_, name)| std::str::from_utf8(name).ok());
    if let Some(kept) = kept.filter(|name| !name.is_empty()) {
        return Ok(kept.to_owned());
    }
    let made = format!("{:032x}", rand::rng().random::<u128>());
    let mut notes = Notes::none(owner.clone());
    notes.edits.push((Bytes::new(), Some(Bytes::from(made.clone()))));
    store.note(&notes)?;
    Ok(made)
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
