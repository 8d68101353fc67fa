//! Cutting pages: bounds, versions never split, cursors, values left out only when right.

use proptest::prelude::*;
use sync_proto::digest::Digest;
use sync_proto::types::{Cursor, Epoch, OrderPlace, OrderRange, SortKey, Timestamp, Value};

use super::*;

const LIMITS: PageLimits =
    PageLimits { changes_max: 3, bytes_max: 1_000, first_version_bytes_max: usize::MAX };

fn v(version: u64) -> Version {
    Version::new(version).unwrap()
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes().to_vec()).unwrap()
}

fn head(version: u64) -> Head {
    Head {
        epoch: Epoch::new(1).unwrap(),
        version: v(version),
        floor: v(0),
        items: 0,
        tombstones: 0,
        bytes: 0,
        digest: Digest::EMPTY,
        commit_time: Timestamp::default(),
    }
}

fn start(version: u64, base: u64) -> PageStart {
    let from = Cursor { epoch: head(1).epoch, version: v(version), base: v(base) };
    PageStart { from, unverified: false }
}

fn row(name: &str, version: u64, created: u64, value_version: u64, value: Option<&[u8]>) -> LogRow {
    let (kind, change) = match value {
        Some(value) => (
            RowKind::Live,
            ChangeKind::Put {
                value: Some(Value::new(value.to_vec()).unwrap()),
                sort_key: SortKey::default(),
                value_version: v(value_version),
            },
        ),
        None => (RowKind::Tombstone, ChangeKind::Delete),
    };
    let change = Change { key: key(name), version: v(version), created: v(created), kind: change };
    LogRow {
        kind,
        created: v(created),
        value_version: v(value_version),
        change: encode_change(&change),
    }
}

fn all() -> View<'static> {
    View { scope: &Scope::All, keys_only: false }
}

/// Offers rows `(version, name, row)` until the page is full and finishes it.
fn build(
    start: PageStart,
    limits: PageLimits,
    head_at: u64,
    rows: Vec<(u64, &str, LogRow)>,
) -> Built {
    let mut builder = PageBuilder::new(start, all(), limits);
    for (version, name, row) in rows {
        if builder.offer(v(version), &key(name), row).unwrap() == Offer::Full {
            return builder.finish(head(head_at), false);
        }
    }
    builder.finish(head(head_at), true)
}

fn page(built: Built) -> Delta<Bytes> {
    match built {
        Built::Page(delta, _) => delta,
        other @ (Built::NothingYet(_) | Built::TooLarge) => panic!("not a page: {other:?}"),
    }
}

fn put(version: u64) -> LogRow {
    row("k", version, version, version, Some(b"x"))
}

/// T05, G4: the cursor of a page that was cut is the last version that it holds.
#[test]
fn a_page_is_cut_between_versions() {
    let rows = vec![
        (1, "a", put(1)),
        (2, "b", put(2)),
        (2, "c", put(2)),
        (3, "d", put(3)),
        (3, "e", put(3)),
    ];
    let delta = page(build(start(0, 0), LIMITS, 3, rows));
    assert_eq!(delta.changes.len(), 3);
    assert!(delta.has_more);
    assert_eq!(delta.to, Cursor { epoch: head(1).epoch, version: v(2), base: v(2) });
    assert_eq!(delta.digest, None, "a page that was cut proves nothing");
}

/// T05: a version that begins in a page but does not fit is left out whole.
#[test]
fn a_version_is_never_split() {
    let rows = vec![(1, "a", put(1)), (1, "b", put(1)), (2, "c", put(2)), (2, "d", put(2))];
    let delta = page(build(start(0, 0), LIMITS, 2, rows));
    assert_eq!((delta.changes.len(), delta.to.version), (2, v(1)));
}

/// T06: a commit with more keys than a page is sent whole.
#[test]
fn a_version_larger_than_a_page_is_sent_whole() {
    let mut rows: Vec<_> = (0..10).map(|_| (1, "k", put(1))).collect();
    rows.push((2, "z", put(2)));
    let delta = page(build(start(0, 0), LIMITS, 2, rows));
    assert_eq!((delta.changes.len(), delta.to.version, delta.has_more), (10, v(1), true));
}

/// A reply that already holds something does not grow past the message limit.
#[test]
fn a_large_first_version_waits_when_it_may_not_exceed() {
    let limits = PageLimits { first_version_bytes_max: 20, ..LIMITS };
    let rows: Vec<_> = (0..10).map(|_| (1, "k", put(1))).collect();
    assert_eq!(build(start(0, 0), limits, 1, rows), Built::TooLarge);
}

/// G3, G9: only the page that reaches the head carries the digest, and its cursor is caught up.
#[test]
fn the_last_page_carries_the_digest() {
    let delta = page(build(start(4, 4), LIMITS, 9, vec![(5, "a", put(5))]));
    assert_eq!(delta.to, head(9).cursor());
    assert_eq!(delta.digest, Some(Digest::EMPTY));
    assert!(!delta.has_more && delta.to.is_caught_up());
}

/// T15: nothing in scope still moves the cursor.
#[test]
fn an_empty_page_moves_the_cursor() {
    let delta = page(build(start(4, 0), LIMITS, 9, Vec::new()));
    assert!(delta.changes.is_empty());
    assert_eq!(delta.to, head(9).cursor());
}

/// DESIGN §5.3: tombstones up to the base are skipped, those behind it are not.
#[test]
fn a_load_skips_only_tombstones_up_to_its_base() {
    let rows = vec![
        (3, "gone", row("gone", 3, 1, 3, None)),
        (4, "here", put(4)),
        (7, "later", row("later", 7, 2, 7, None)),
    ];
    let delta = page(build(start(0, 5), LIMITS, 7, rows));
    assert!(delta.initial);
    let versions: Vec<_> =
        delta.changes.into_iter().map(|bytes| decode_change(bytes).unwrap().version).collect();
    assert_eq!(versions, [v(4), v(7)]);
}

/// A load that is cut behind its base is no load any more, but not caught up either.
#[test]
fn a_load_that_passes_its_base_is_between_pages() {
    let rows = vec![(6, "a", put(6)), (7, "b", put(7)), (8, "c", put(8)), (9, "d", put(9))];
    let delta = page(build(start(2, 5), LIMITS, 9, rows));
    assert_eq!((delta.to.version, delta.to.base), (v(8), v(8)));
    assert!(delta.initial && !delta.to.is_loading() && !delta.to.is_caught_up());
}

fn omits(start: PageStart, row: LogRow) -> bool {
    let delta = page(build(start, LIMITS, 60, vec![(60, "k", row)]));
    let change = decode_change(delta.changes[0].clone()).unwrap();
    matches!(change.kind, ChangeKind::Put { value: None, .. })
}

/// T16: a reorder costs a change without its value, but only for a reader that has the value.
#[test]
fn a_value_is_left_out_only_for_a_reader_that_has_it() {
    let reordered = || row("k", 60, 5, 5, Some(b"value"));
    assert!(omits(start(10, 0), reordered()), "caught up at 10: it has the value of 5");
    assert!(!omits(start(4, 0), reordered()), "the value changed after its cursor");
    assert!(!omits(start(10, 10), reordered()), "between pages: the row may have moved ahead");
    assert!(!omits(start(10, 50), reordered()), "loading");
    let recreated = row("k", 60, 60, 60, Some(b"value"));
    assert!(!omits(start(10, 0), recreated), "created after its cursor");
}

/// What a reader of the places before `m` is told of one row; `None` = nothing.
fn told_of_stretch(start: PageStart, keys_only: bool, row: LogRow) -> Option<ChangeKind> {
    let end = OrderPlace { sort_key: SortKey::new("m").unwrap(), key: None };
    let scope = Scope::Order(OrderRange::new(None, Some(end)).unwrap());
    let mut builder = PageBuilder::new(start, View { scope: &scope, keys_only }, LIMITS);
    assert_eq!(builder.offer(v(60), &key("k"), row), Ok(Offer::More));
    let delta = page(builder.finish(head(60), true));
    delta.changes.first().map(|change| decode_change(change.clone()).unwrap().kind)
}

/// G5: an item outside of a stretch may have been inside, also if it is an item created anew whose
/// predecessor was; what was there when a load began and has not moved was never inside.
#[test]
fn what_may_have_been_in_a_stretch_leaves_it() {
    let at = |sort: &str, created: u64| {
        let kind = ChangeKind::Put {
            value: Some(Value::new("value").unwrap()),
            sort_key: SortKey::new(sort.to_owned()).unwrap(),
            value_version: v(created),
        };
        let change = Change { key: key("k"), version: v(60), created: v(created), kind };
        LogRow { change: encode_change(&change), ..row("k", 60, created, created, Some(b"")) }
    };
    let left = Some(ChangeKind::LeftScope);
    for (start, row, told) in [
        (start(10, 0), at("x", 5), left.clone()),
        (start(10, 0), at("x", 60), left.clone()),
        (start(10, 10), at("x", 5), left.clone()),
        (start(0, 59), at("x", 60), left),
        (start(0, 60), at("x", 5), None),
        (start(0, 60), row("k", 60, 5, 60, None), None),
        (start(10, 0), row("k", 60, 60, 60, None), Some(ChangeKind::Delete)),
    ] {
        assert_eq!(told_of_stretch(start, false, row), told, "{start:?}");
    }
    // Moved into the stretch: its value is old, but new to the reader.
    for (keys_only, with_value) in [(false, true), (true, false)] {
        let told = told_of_stretch(start(10, 0), keys_only, at("a", 5));
        let Some(ChangeKind::Put { value, .. }) = told else { panic!("{told:?}") };
        assert_eq!(value.is_some(), with_value);
    }
}

#[test]
fn keys_only_leaves_every_value_out() {
    let view = View { scope: &Scope::All, keys_only: true };
    let mut builder = PageBuilder::new(start(0, 0), view, LIMITS);
    assert_eq!(builder.offer(v(1), &key("k"), put(1)), Ok(Offer::More));
    let delta = page(builder.finish(head(1), true));
    let change = decode_change(delta.changes[0].clone()).unwrap();
    assert!(matches!(change.kind, ChangeKind::Put { value: None, .. }));
}

proptest! {
    /// G4, T05: whatever the bounds, the union of the pages is the log, in order, no version is
    /// split, no page with `has_more` is empty, and no cursor lies beyond what was returned.
    #[test]
    fn pages_add_up_to_the_log(
        sizes in prop::collection::vec(1..6usize, 1..40),
        changes_max in 1..8usize,
        bytes_max in 1..200usize,
    ) {
        let limits = PageLimits { changes_max, bytes_max, first_version_bytes_max: usize::MAX };
        let newest = u64::try_from(sizes.len()).unwrap();
        let log: Vec<(u64, LogRow)> = (1..=newest)
            .zip(&sizes)
            .flat_map(|(version, size)| (0..*size).map(move |_| (version, put(version))))
            .collect();
        let mut from = start(0, 0);
        let mut seen = Vec::new();
        loop {
            let behind = log.iter().filter(|(version, _)| v(*version) > from.from.version);
            let rows = behind.map(|(version, row)| (*version, "k", row.clone())).collect();
            let delta = page(build(from, limits, newest, rows));
            prop_assert!(!(delta.changes.is_empty() && delta.has_more));
            for bytes in &delta.changes {
                let version = decode_change(bytes.clone()).unwrap().version;
                prop_assert!(version > delta.from.version && version <= delta.to.version);
                seen.push(version.get());
            }
            from = PageStart { from: delta.to, unverified: false };
            if !delta.has_more {
                break;
            }
        }
        let whole: Vec<u64> = log.iter().map(|(version, _)| *version).collect();
        prop_assert_eq!(seen, whole);
    }
}
