//! What may be claimed, and what a claim changes.

use proptest::prelude::*;
use sync_proto::digest::Digest;
use sync_proto::types::Epoch;

use super::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

fn v(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn at(epoch: u64, version: u64, base: u64) -> Cursor {
    Cursor { epoch: Epoch::new(epoch).unwrap(), version: v(version), base: v(base) }
}

fn head(epoch: u64, version: u64) -> Head {
    Head {
        epoch: Epoch::new(epoch).unwrap(),
        version: v(version),
        floor: Version::ZERO,
        items: 0,
        tombstones: 0,
        bytes: 0,
        digest: Digest::EMPTY,
        commit_time: Timestamp::default(),
    }
}

fn claim(cursor: Cursor, sent: Option<Cursor>) -> Claim {
    Claim { collection: CollectionName::new("list").unwrap(), cursor, sent }
}

/// Every branch of the judgement, in its order; G11.
#[test]
fn every_claim_has_exactly_one_answer() {
    let head = head(7, 50);
    let other = Err(AckRefusal::OtherEpoch(head.cursor()));
    let above = Err(AckRefusal::AboveHead(head.cursor()));
    let never = |sent| Err(AckRefusal::NeverSent(sent));
    let caught_up = Some(at(7, 40, 0));
    let between = Some(at(7, 40, 40));
    let loading = Some(at(7, 40, 45));
    let cases = [
        (at(8, 1, 0), None, other),
        (at(8, 99, 0), caught_up, other),
        (at(7, 51, 0), None, above),
        (at(7, 1, 51), None, above),
        (at(7, 51, 0), caught_up, above),
        (at(7, 50, 0), None, Ok(())),
        (at(7, 50, 0), caught_up, never(at(7, 40, 0))),
        (at(7, 41, 41), caught_up, never(at(7, 40, 0))),
        (at(7, 40, 0), caught_up, Ok(())),
        (at(7, 40, 40), caught_up, Ok(())),
        (at(7, 39, 0), caught_up, Ok(())),
        (at(7, 10, 45), caught_up, Ok(())),
        (at(7, 40, 0), between, never(at(7, 40, 40))),
        (at(7, 40, 40), between, Ok(())),
        (at(7, 40, 40), loading, never(at(7, 40, 45))),
        (at(7, 40, 45), loading, Ok(())),
        // What was sent of an earlier life says nothing of this one.
        (at(7, 50, 0), Some(at(6, 3, 0)), Ok(())),
    ];
    for (cursor, sent, wanted) in cases {
        assert_eq!(judge(Some(&head), &claim(cursor, sent)), wanted, "{cursor:?} {sent:?}");
    }
    assert_eq!(judge(None, &claim(at(7, 1, 0), None)), Err(AckRefusal::NoCollection));
}

/// A late or repeated ack changes nothing, another epoch replaces what is held.
#[test]
fn a_claim_moves_what_is_held_or_changes_nothing() {
    let retention = AckRetention::default();
    let time = Timestamp::from_millis(DAY_MS);
    let held = |cursor| Held { time, cursor };
    let now = Timestamp::from_millis(2 * DAY_MS);
    let cases = [
        (at(7, 40, 0), at(7, 39, 0), None),
        (at(7, 40, 0), at(7, 40, 0), None),
        (at(7, 40, 0), at(7, 40, 40), None),
        (at(7, 40, 0), at(7, 10, 60), None),
        (at(7, 40, 0), at(7, 41, 0), Some(at(7, 41, 0))),
        (at(7, 40, 0), at(7, 41, 99), Some(at(7, 41, 99))),
        (at(7, 40, 40), at(7, 40, 0), Some(at(7, 40, 0))),
        (at(7, 40, 60), at(7, 40, 40), Some(at(7, 40, 40))),
        (at(7, 40, 0), at(8, 1, 0), Some(at(8, 1, 0))),
    ];
    for (before, claim, moved) in cases {
        let after = moved.map_or(held(before), |cursor| Held { time: now, cursor });
        assert_eq!(hold(Some(held(before)), claim, now, &retention), after, "{before:?} {claim:?}");
    }
    assert_eq!(hold(None, at(7, 3, 9), now, &retention), Held { time: now, cursor: at(7, 3, 9) });
}

/// A client of a quiet collection that says the same again keeps its cursor; it costs a write only
/// once in a while. A clock that goes back makes nothing older.
#[test]
fn what_is_said_again_is_kept() {
    let retention = AckRetention { age_max: Duration::from_secs(16), count_max: 9 };
    let after = |before, now| {
        let held = Held { time: Timestamp::from_millis(before), cursor: at(7, 40, 0) };
        hold(Some(held), at(7, 40, 0), Timestamp::from_millis(now), &retention).time.as_millis()
    };
    assert_eq!(after(5_000, 5_999), 5_000);
    assert_eq!(after(5_000, 6_000), 6_000);
    assert_eq!(after(5_000, 1_000), 5_000);
    let moved = Held { time: Timestamp::from_millis(5_000), cursor: at(7, 40, 0) };
    let moved = hold(Some(moved), at(7, 41, 0), Timestamp::from_millis(1_000), &retention);
    assert_eq!(moved.time.as_millis(), 5_000);
    let time = Timestamp::from_millis;
    assert!(!retention.outlived(time(5_000), time(20_999)));
    assert!(retention.outlived(time(5_000), time(21_000)));
    assert_eq!((retention.surplus(9), retention.surplus(11)), (0, 2));
}

proptest! {
    /// G2: whatever is claimed in whatever order, what is held of an epoch never goes back, and is
    /// always something that was claimed.
    #[test]
    fn what_is_held_never_goes_back(
        claims in prop::collection::vec((1..3u64, 0..9u64, 0..3u64), 1..40),
    ) {
        let mut held: Option<Held> = None;
        let mut all = Vec::new();
        for (index, (epoch, version, more)) in (0u64..).zip(claims) {
            let base = if more == 0 { 0 } else { version + more - 1 };
            let cursor = at(epoch, version, base);
            all.push(cursor);
            let now = Timestamp::from_millis(index);
            let after = hold(held, cursor, now, &AckRetention::default());
            prop_assert!(all.contains(&after.cursor));
            if let Some(before) = held && before.cursor.epoch == after.cursor.epoch {
                prop_assert!(reach(after.cursor) >= reach(before.cursor));
                prop_assert!(reach(after.cursor) >= reach(cursor));
            } else {
                prop_assert_eq!(after.cursor, cursor);
            }
            held = Some(after);
        }
    }
}
