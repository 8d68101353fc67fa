//! Pushes that came before what they continue: kept for a moment, within bounds. Pure.

use std::collections::BTreeMap;

use sync_proto::types::{ChangeKind, Cursor, Delta, Version};

/// Pushes that came before what they continue, in the order in which they continue each other.
#[derive(Debug, Default)]
pub(super) struct Held {
    deltas: BTreeMap<(Version, Version), Delta>,
}

/// Pushes that one collection keeps. Past this a pull is cheaper.
const HELD_MAX: usize = 256;
/// Bytes of pushes that all collections of a session keep together.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

// === impl Held ===

impl Held {
    /// Keeps a push, if there is room.
    pub(super) fn keep(&mut self, delta: Delta, bytes: &mut usize) -> bool {
        let size = size_of_delta(&delta);
        let place = (delta.from.version, delta.to.version);
        if self.deltas.len() == HELD_MAX
            || *bytes + size > HELD_BYTES_MAX
            || self.deltas.contains_key(&place)
        {
            return false;
        }
        *bytes += size;
        self.deltas.insert(place, delta);
        true
    }

    /// Takes the first push, if it does not lie behind a hole.
    pub(super) fn first(&mut self, bytes: &mut usize, at: Option<Cursor>) -> Option<Delta> {
        let at = at.map_or(Version::ZERO, |at| at.version);
        let ((from, _), _) = self.deltas.first_key_value()?;
        if *from > at {
            return None;
        }
        let (_, delta) = self.deltas.pop_first()?;
        *bytes -= size_of_delta(&delta);
        Some(delta)
    }

    pub(super) fn clear(&mut self, bytes: &mut usize) {
        let freed: usize = self.deltas.values().map(size_of_delta).sum();
        *bytes -= freed;
        self.deltas.clear();
    }

    /// Whether there is no hole between them: then one late push may be all that is missing.
    pub(super) fn is_contiguous(&self) -> bool {
        let pairs = self.deltas.keys().zip(self.deltas.keys().skip(1));
        pairs.into_iter().all(|((_, end), (start, _))| start <= end)
    }
}

/// About how much memory a delta takes.
fn size_of_delta(delta: &Delta) -> usize {
    let changes = delta.changes.iter().map(|change| {
        let content = match &change.kind {
            ChangeKind::Put { value, sort_key, .. } => {
                value.as_ref().map_or(0, |value| value.as_bytes().len()) + sort_key.as_bytes().len()
            }
            ChangeKind::Delete | ChangeKind::LeftScope => 0,
        };
        size_of_val(change) + change.key.as_bytes().len() + content
    });
    size_of_val(delta) + changes.sum::<usize>()
}
