//! A backup that says what cannot be is refused, even if every byte is what was written.

use sync_proto::convert::encode_change;
use sync_proto::digest::Digest;
use sync_proto::types::{
    Change, ChangeKind, CollectionName, Key, SortKey, Timestamp, Value, Version,
};

use super::*;
use crate::backup::format::Encoder;
use crate::engine::ledger::{Ledger, Settings};
use crate::store::memory::MemoryStore;
use crate::store::rows::{LogRow, Meta, RowKind};

fn version(version: u64) -> Version {
    Version::new(version).unwrap()
}

fn row(key: &'static str, at: u64, value: Option<&'static str>) -> BackupRow {
    let kind = match value {
        None => ChangeKind::Delete,
        Some(value) => ChangeKind::Put {
            value: Some(Value::new(value).unwrap()),
            sort_key: SortKey::default(),
            value_version: version(at),
        },
    };
    let key = Key::new(key).unwrap();
    let change = Change { key: key.clone(), version: version(at), created: version(at), kind };
    let log = LogRow {
        kind: if value.is_some() { RowKind::Live } else { RowKind::Tombstone },
        created: version(at),
        value_version: version(at),
        change: encode_change(&change),
    };
    BackupRow { version: version(at), time: Timestamp::from_millis(at), key, log }
}

/// The head of a collection that ends at `at` with these items.
fn head(at: u64, floor: u64, items: &[(&'static str, u64, &'static str)]) -> Head {
    let mut head = Head {
        epoch: Epoch::new(9).unwrap(),
        version: version(at),
        floor: version(floor),
        items: items.len() as u64,
        tombstones: 0,
        bytes: 0,
        digest: Digest::EMPTY,
        commit_time: Timestamp::from_millis(at),
    };
    for (key, at, value) in items {
        let item = Key::new(*key).unwrap();
        head.bytes += (key.len() + value.len()) as u64;
        head.digest += Digest::of_item(&item, version(*at), &SortKey::default(), value.as_bytes());
    }
    head
}

fn file(rows: Vec<(u32, Vec<BackupRow>)>, heads: Vec<(u64, u32, &str, Head)>) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut file = encoder.header(Timestamp::from_millis(1)).to_vec();
    for (generation, rows) in rows {
        file.extend(encoder.block(&Block::Rows { id: CollectionId(1), generation, rows }));
    }
    let heads = heads.into_iter().map(|(id, generation, name, head)| BackupHead {
        id: CollectionId(id),
        generation,
        meta: Meta { name: CollectionName::new(name).unwrap(), head, policy: Policy::default() },
    });
    file.extend(encoder.block(&Block::Heads(heads.collect())));
    file.extend(encoder.end());
    file
}

fn restored(file: &[u8]) -> Result<Ledger<MemoryStore>, BackupError> {
    let contents = contents(file, &mut |_| {})?;
    let open = |store| Ledger::open(store, Settings::default(), &mut |_| {});
    let store = open(MemoryStore::new())?.into_store();
    let mut mint = || Epoch::new(77).unwrap();
    restore(&store, file, &contents, &mut mint, &mut |_| {})?;
    store.sync()?;
    Ok(open(store)?)
}

fn head_of(file: &[u8]) -> Head {
    restored(file).unwrap().head(&CollectionName::new("c").unwrap()).unwrap()
}

/// G5: the newest row of a key counts, in whatever order they lie; a delete at or below the floor
/// takes the item with it and leaves nothing.
#[test]
fn the_newest_row_of_a_key_counts() {
    let rows = vec![
        (0, vec![row("a", 1, Some("old")), row("b", 1, Some("old"))]),
        (0, vec![row("a", 5, Some("new")), row("b", 4, None)]),
        (0, vec![row("a", 3, Some("between")), row("b", 4, None)]),
    ];
    let expected = head(6, 4, &[("a", 5, "new")]);
    let there = head_of(&file(rows, vec![(1, 0, "c", expected)]));
    assert_eq!(there, Head { epoch: Epoch::new(77).unwrap(), ..expected });
}

/// Rows of a generation that was given up, and of collections that are gone, do not count.
#[test]
fn rows_that_do_not_count_are_left_out() {
    let rows = vec![(0, vec![row("ghost", 1, Some("x"))]), (1, vec![row("a", 2, Some("y"))])];
    let expected = head(2, 0, &[("a", 2, "y")]);
    assert_eq!(head_of(&file(rows, vec![(1, 1, "c", expected)])).items, 1);
    let rows = vec![(0, vec![row("ghost", 1, Some("x"))])];
    let ledger = restored(&file(rows, vec![])).unwrap();
    assert_eq!(ledger.totals(), crate::engine::ledger::Totals::default());
}

/// G9, G11: a head that its rows do not add up to, a row that does not fit itself, a name twice.
#[test]
fn what_does_not_hold_together_is_refused() {
    let rows = || vec![(0, vec![row("a", 1, Some("x"))])];
    let right = head(1, 0, &[("a", 1, "x")]);
    restored(&file(rows(), vec![(1, 0, "c", right)])).unwrap();
    let mut wrong_row = row("a", 1, Some("x"));
    wrong_row.key = Key::new("b").unwrap();
    let refused = [
        file(rows(), vec![(1, 0, "c", Head { items: 2, ..right })]),
        file(rows(), vec![(1, 0, "c", Head { bytes: 9, ..right })]),
        file(rows(), vec![(1, 0, "c", Head { tombstones: 1, ..right })]),
        file(rows(), vec![(1, 0, "c", head(1, 0, &[("a", 1, "y")]))]),
        file(rows(), vec![(1, 1, "c", right)]),
        file(rows(), vec![(1, 0, "c", right), (2, 0, "c", head(1, 0, &[]))]),
        file(rows(), vec![(1, 0, "c", right), (1, 0, "d", right)]),
        file(vec![(0, vec![row("a", 2, Some("x"))])], vec![(1, 0, "c", right)]),
        file(vec![(0, vec![wrong_row])], vec![(1, 0, "c", right)]),
    ];
    for (number, file) in refused.iter().enumerate() {
        let error = restored(file).map(drop).unwrap_err();
        assert!(matches!(error, BackupError::Unsound { .. }), "case {number}: {error}");
    }
}
