//! A view is the store as it was before the batch that is not durable yet.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use proptest::prelude::*;

use super::*;
use crate::store::Batch;
use crate::store::memory::MemoryStore;

type Rows = BTreeMap<Vec<u8>, Bytes>;

fn small_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4u8, 1..3)
}

fn writes() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<u8>>> {
    prop::collection::btree_map(small_key(), any::<Option<u8>>(), 0..12)
}

proptest! {
    /// G3: whatever the batch did, gets of one and of many and scans both ways show the rows before it, also when
    /// the reader stops early.
    #[test]
    fn a_view_shows_what_was_before_the_batch(
        rows in prop::collection::btree_map(small_key(), any::<u8>(), 0..12),
        writes in writes(),
        bounds in (small_key(), prop::option::of(small_key())),
        wanted in prop::collection::vec(small_key(), 0..12),
        backward: bool,
        most in 1..20usize,
    ) {
        let store = MemoryStore::new();
        let mut before = Batch::default();
        let mut expected = Rows::new();
        for (key, value) in rows {
            let value = Bytes::from(vec![value]);
            expected.insert(key.clone(), value.clone());
            before.put(key, value);
        }
        store.apply(&before).unwrap();
        let mut batch = Batch::default();
        let mut undo = Undo::new();
        for (key, value) in writes {
            undo.insert(key.clone(), expected.get(&key).cloned());
            match value {
                Some(value) => batch.put(key, Bytes::from(vec![value])),
                None => batch.remove(key),
            }
        }
        store.apply(&batch).unwrap();

        let gate = RwLock::new(());
        let view = View::new(&store, Arc::new(undo), gate.read());
        for (key, value) in &expected {
            let got = view.get(key).unwrap();
            prop_assert_eq!(got.as_ref(), Some(value));
        }
        let got = view.get_many(&wanted).unwrap();
        let rows: Vec<_> = wanted.iter().map(|key| expected.get(key).cloned()).collect();
        prop_assert_eq!(got, rows);
        let range = KeyRange { start: bounds.0, end: bounds.1 };
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let mut seen = Vec::new();
        view.scan(&range, direction, &mut |key, value| {
            seen.push((key.to_vec(), value));
            if seen.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }).unwrap();
        let mut in_range: Vec<_> =
            expected.into_iter().filter(|(key, _)| range.contains(key)).collect();
        if backward {
            in_range.reverse();
        }
        in_range.truncate(most);
        prop_assert_eq!(seen, in_range);
    }
}
