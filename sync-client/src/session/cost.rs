//! What it costs to put a copy right, in bytes, and which way is the cheapest. Pure. Estimates
//! need not be right: each way ends with a copy whose digest is the server's. They only keep a
//! copy from being loaded anew for a few rows, and from being compared row by row when it would
//! be cheaper to load it.

use super::status::{RepairHow, RepairReason};

/// What is known when a copy must be put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) reason: RepairReason,
    /// Items of the server.
    pub(super) items: u64,
    /// Bytes of their keys, sort keys and values.
    pub(super) bytes: u64,
    /// Versions that the copy is behind, if its cursor can be continued by an unverified delta.
    pub(super) behind: Option<u64>,
    /// There are rows to compare, and a server that compares.
    pub(super) comparable: bool,
    /// This very repair was tried just before.
    pub(super) again: bool,
}

/// A decision, and the figures that led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Why something must be done.
    pub reason: RepairReason,
    /// What is done.
    pub how: RepairHow,
    /// Estimated bytes of a first load.
    pub load_bytes: u64,
    /// Estimated bytes of an unverified delta; `None` = not possible.
    pub delta_bytes: Option<u64>,
    /// Estimated bytes of comparing and fetching what differs; `None` = not possible.
    pub reconcile_bytes: Option<u64>,
}

/// What a change costs beside its key, sort key and value: versions, lengths, tags.
const CHANGE_BYTES: u64 = 30;
/// What a question and its answer cost whatever is in them, headers and heads included, and
/// something for the time that they take.
const ROUND_BYTES: u64 = 500;
/// The sums of one group, or of all groups.
const SUMS_BYTES: u64 = 64 * 18;
/// What an entry costs: a key, a place, a hash, versions.
const ENTRY_BYTES: u64 = 80;
/// Before anything is compared, one item of so many is taken to differ. Most repairs find far
/// less: a restored server that lost nothing, a row that a disk has flipped.
const ONE_DIFFERS_OF: u64 = 100;
/// An unverified delta may turn out to lack deletes, so that the copy is compared after all: one
/// time of so many.
const ONE_LACKS_DELETES_OF: u64 = 4;

/// Up to one commit for so many items, each is taken to have touched another one.
const COMMITS_COUNT_UP_TO: u64 = 4;

const GROUPS: u64 = 64;
const SEGMENTS: u64 = 4_096;

/// Decides before anything is compared.
pub(super) fn choose(facts: &Facts) -> Choice {
    let few = facts.items / ONE_DIFFERS_OF;
    // What changed behind the cursor differs, too. Of many commits nobody knows whether they
    // touched many items or a few again and again: comparing finds out.
    let touched = facts.behind.filter(|behind| *behind <= facts.items / COMMITS_COUNT_UP_TO);
    let load_bytes = facts.load();
    let delta_bytes = facts.behind.map(|behind| {
        let changes = behind.min(facts.items).saturating_mul(facts.item() + CHANGE_BYTES);
        // A missed delete is found, and nothing is fetched for it.
        changes.saturating_add(facts.compare(few) / ONE_LACKS_DELETES_OF)
    });
    let differing = few.max(touched.unwrap_or(0));
    let both = facts.compare(differing).saturating_add(facts.fetch(differing));
    let reconcile_bytes = facts.comparable.then_some(both);
    let choice =
        |how| Choice { reason: facts.reason, how, load_bytes, delta_bytes, reconcile_bytes };
    // What was tried and did not help is not tried again: a load leaves nothing to doubt.
    if facts.again {
        return choice(RepairHow::Load);
    }
    let ways = [
        (delta_bytes, RepairHow::Delta),
        (reconcile_bytes, RepairHow::Reconcile),
        (Some(load_bytes), RepairHow::Load),
    ];
    let priced = ways.into_iter().filter_map(|(bytes, how)| Some((bytes?, how)));
    let cheapest = priced.min_by_key(|(bytes, _)| *bytes);
    choice(cheapest.map_or(RepairHow::Load, |(_, how)| how))
}

/// Whether comparing on still pays when so many of the 64 groups differ.
pub(super) fn groups_pay(facts: &Facts, groups: usize) -> bool {
    let groups = groups as u64;
    // When every group differs, anything from a few hundred items on may differ.
    let differing = estimate(groups, GROUPS).unwrap_or(5 * GROUPS).min(facts.items);
    let next = ROUND_BYTES + SUMS_BYTES * groups;
    next + facts.rest(hit(differing, SEGMENTS), differing) < facts.load()
}

/// Whether comparing on still pays when so many of the 4,096 segments differ.
pub(super) fn segments_pay(facts: &Facts, segments: usize) -> bool {
    let segments = segments as u64;
    let differing = estimate(segments, SEGMENTS).unwrap_or(facts.items).min(facts.items);
    facts.rest(segments, differing) < facts.load()
}

// === impl Facts ===

impl Facts {
    fn load(&self) -> u64 {
        self.bytes.saturating_add(self.items.saturating_mul(CHANGE_BYTES)) + ROUND_BYTES
    }

    /// Average bytes of an item.
    fn item(&self) -> u64 {
        self.bytes / self.items.max(1)
    }

    /// Comparing when so many items differ.
    fn compare(&self, differing: u64) -> u64 {
        let sums = SUMS_BYTES * (1 + hit(differing, GROUPS));
        self.entries(hit(differing, SEGMENTS)).saturating_add(2 * ROUND_BYTES + sums)
    }

    /// The entries of so many segments, and the items that differ.
    fn rest(&self, segments: u64, differing: u64) -> u64 {
        self.entries(segments).saturating_add(self.fetch(differing))
    }

    fn entries(&self, segments: u64) -> u64 {
        let entries = self.items.saturating_mul(segments) / SEGMENTS;
        entries.saturating_mul(ENTRY_BYTES).saturating_add(2 * ROUND_BYTES * segments.min(1))
    }

    fn fetch(&self, items: u64) -> u64 {
        items.saturating_mul(self.item() + CHANGE_BYTES)
    }
}

/// How many of `boxes` are hit by so many items that fall into them by chance.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn hit(items: u64, boxes: u64) -> u64 {
    let boxes = boxes as f64;
    (boxes * (1.0 - (-(items as f64) / boxes).exp())).ceil() as u64
}

/// How many items fell by chance into `boxes` of which so many are hit; `None` = all are, so there
/// is no telling.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn estimate(hit: u64, boxes: u64) -> Option<u64> {
    let boxes_f = boxes as f64;
    (hit < boxes).then(|| (-boxes_f * (1.0 - hit as f64 / boxes_f).ln()).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use sync_proto::types::ResetReason;

    use super::*;

    fn facts(items: u64, item_bytes: u64) -> Facts {
        Facts {
            reason: RepairReason::DigestMismatch,
            items,
            bytes: items * item_bytes,
            behind: None,
            comparable: true,
            again: false,
        }
    }

    #[test]
    fn a_large_copy_is_compared_and_a_small_one_loaded() {
        assert_eq!(choose(&facts(50_000, 128)).how, RepairHow::Reconcile);
        assert_eq!(choose(&facts(1_000, 128)).how, RepairHow::Reconcile);
        assert_eq!(choose(&facts(10, 50)).how, RepairHow::Load);
        assert_eq!(choose(&facts(0, 0)).how, RepairHow::Load);
        let mute = Facts { comparable: false, ..facts(50_000, 128) };
        assert_eq!(choose(&mute).how, RepairHow::Load);
        let again = Facts { again: true, ..facts(50_000, 128) };
        assert_eq!(choose(&again).how, RepairHow::Load);
    }

    #[test]
    fn a_cursor_below_the_floor_is_continued_unless_too_much_has_changed() {
        let reason = RepairReason::Reset(ResetReason::BelowFloor);
        let below = |behind| Facts { reason, behind: Some(behind), ..facts(50_000, 128) };
        assert_eq!(choose(&below(10)).how, RepairHow::Delta);
        assert_eq!(choose(&below(40_000)).how, RepairHow::Reconcile);
    }

    #[test]
    fn comparing_stops_when_most_differs() {
        let some = facts(50_000, 128);
        assert!(groups_pay(&some, 0) && groups_pay(&some, 35) && groups_pay(&some, 64));
        assert!(segments_pay(&some, 0) && segments_pay(&some, 50));
        assert!(!segments_pay(&some, 4_096));
        assert!(!groups_pay(&facts(100, 50), 64));
    }

    #[test]
    fn how_much_differs_is_read_off_what_is_hit() {
        assert_eq!(estimate(64, 64), None);
        for items in [0, 1, 50, 1_000, 5_000] {
            let back = estimate(hit(items, SEGMENTS), SEGMENTS).unwrap();
            assert!(back.abs_diff(items) <= 1 + items / 50, "{items}: {back}");
        }
    }
}
