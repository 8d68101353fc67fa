//! How to serve a reader that stands at some cursor. Pure. The order of the decisions is part of
//! the protocol (docs/PROTOCOL.md): epoch, ahead, equal, floor, page.

use sync_proto::types::{Cursor, Head, Reset, ResetReason, Scope};

/// How to serve a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPlan {
    /// The reader has everything.
    Aligned,
    /// Read on from here.
    Page(PageStart),
    /// The reader's past is not ours any more; it must start over.
    Reset(ResetReason),
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageStart {
    /// Where the reader stands; a first load has its base filled in.
    pub from: Cursor,
    /// Deletes may be missing behind it.
    pub unverified: bool,
}

/// Decides how to serve a reader of a collection that exists and that it may read.
#[must_use]
pub fn decide(head: &Head, cursor: Option<Cursor>, verify: bool) -> ReadPlan {
    let Some(cursor) = cursor else {
        return ReadPlan::Page(PageStart { from: Cursor::load_from(head), unverified: false });
    };
    if cursor.epoch != head.epoch {
        return ReadPlan::Reset(ResetReason::EpochChanged);
    }
    if cursor.version.max(cursor.base) > head.version {
        return ReadPlan::Reset(ResetReason::AheadOfHead);
    }
    if cursor.version == head.version {
        return ReadPlan::Aligned;
    }
    // A load skips tombstones up to its base, so what it may miss is judged by the base.
    let oldest_needed = if cursor.is_loading() { cursor.base } else { cursor.version };
    if oldest_needed >= head.floor {
        ReadPlan::Page(PageStart { from: cursor, unverified: false })
    } else if verify && !cursor.is_loading() {
        ReadPlan::Page(PageStart { from: cursor, unverified: true })
    } else {
        ReadPlan::Reset(ResetReason::BelowFloor)
    }
}

/// What a reader is told that must start over.
#[must_use]
pub fn reset(reason: ResetReason, head: Head, scope: &Scope) -> Reset {
    let (estimated_changes, estimated_bytes) = match scope {
        Scope::All | Scope::KeyPrefix(_) | Scope::Order(_) => (head.items, head.bytes),
        Scope::Keys(keys) => {
            let count = u64::try_from(keys.len()).expect("a scope has at most 1,000 keys");
            let share = head.bytes.checked_div(head.items).unwrap_or(0);
            (count.min(head.items), share.saturating_mul(count).min(head.bytes))
        }
    };
    Reset { reason, head, estimated_changes, estimated_bytes }
}

#[cfg(test)]
mod tests {
    use sync_proto::digest::Digest;
    use sync_proto::types::{Epoch, Timestamp, Version};

    use super::*;

    fn v(version: u64) -> Version {
        Version::new(version).unwrap()
    }

    fn head() -> Head {
        Head {
            epoch: Epoch::new(7).unwrap(),
            version: v(50),
            floor: v(40),
            items: 3,
            tombstones: 0,
            bytes: 30,
            digest: Digest::EMPTY,
            commit_time: Timestamp::default(),
        }
    }

    fn at(epoch: u64, version: u64, base: u64) -> Cursor {
        Cursor { epoch: Epoch::new(epoch).unwrap(), version: v(version), base: v(base) }
    }

    fn page(from: Cursor, unverified: bool) -> ReadPlan {
        ReadPlan::Page(PageStart { from, unverified })
    }

    /// Every branch of DESIGN §5.1, in its order; G5, G6, T01, T02, T03, T04.
    #[test]
    fn every_cursor_has_exactly_one_answer() {
        use ResetReason::{AheadOfHead, BelowFloor, EpochChanged};
        let cases = [
            (None, false, page(at(7, 0, 50), false)),
            (Some(at(8, 50, 0)), false, ReadPlan::Reset(EpochChanged)),
            (Some(at(8, 99, 0)), false, ReadPlan::Reset(EpochChanged)),
            (Some(at(7, 51, 0)), false, ReadPlan::Reset(AheadOfHead)),
            (Some(at(7, 10, 51)), false, ReadPlan::Reset(AheadOfHead)),
            (Some(at(7, 50, 0)), false, ReadPlan::Aligned),
            (Some(at(7, 41, 0)), false, page(at(7, 41, 0), false)),
            (Some(at(7, 40, 0)), false, page(at(7, 40, 0), false)),
            (Some(at(7, 39, 0)), false, ReadPlan::Reset(BelowFloor)),
            (Some(at(7, 39, 0)), true, page(at(7, 39, 0), true)),
            (Some(at(7, 0, 40)), false, page(at(7, 0, 40), false)),
            (Some(at(7, 0, 39)), false, ReadPlan::Reset(BelowFloor)),
            (Some(at(7, 0, 39)), true, ReadPlan::Reset(BelowFloor)),
            (Some(at(7, 39, 39)), false, ReadPlan::Reset(BelowFloor)),
        ];
        for (cursor, verify, wanted) in cases {
            assert_eq!(decide(&head(), cursor, verify), wanted, "{cursor:?} verify={verify}");
        }
    }

    /// T03: an equal version in another epoch is not equality.
    #[test]
    fn equality_needs_the_same_epoch() {
        let mut reborn = head();
        reborn.floor = v(0);
        assert_eq!(
            decide(&reborn, Some(at(9, 50, 0)), true),
            ReadPlan::Reset(ResetReason::EpochChanged)
        );
    }

    /// A collection at its floor serves a caught-up reader: equality comes before the floor.
    #[test]
    fn a_reader_at_the_head_is_aligned_even_at_the_floor() {
        let mut purged = head();
        purged.floor = purged.version;
        assert_eq!(decide(&purged, Some(at(7, 50, 0)), false), ReadPlan::Aligned);
    }
}
