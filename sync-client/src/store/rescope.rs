//! What becomes of a copy whose part of the collection changes. Pure.

use sync_proto::types::{Cursor, Scope};

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescoped {
    /// It is of this part already, or there is no copy.
    Same,
    /// What does not belong to the part was dropped; the cursor stays.
    Narrowed,
    /// Its cursor cannot be continued: the part is loaded anew, and until then readers see what
    /// there was.
    Anew,
}

/// Decides what becomes of a copy that stands at `cursor`. A cursor says "everything up to here" of
/// its own part only. Of a narrower part it says the same if nothing is in doubt: a cursor that is
/// not caught up may have missed deletes, and a part has no digest that would tell.
pub(super) fn rescope(of: &Scope, cursor: Option<Cursor>, to: &Scope) -> Rescoped {
    match cursor {
        _ if of == to => Rescoped::Same,
        Some(cursor) if of.covers(to) && cursor.is_caught_up() => Rescoped::Narrowed,
        Some(_) | None => Rescoped::Anew,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sync_proto::types::{
        Change, ChangeKind, CollectionName, Epoch, Key, OrderPlace, OrderRange, SortKey, Value,
        Version,
    };

    use super::*;
    use crate::store::{
        DiskStore, MemoryStore, ReplicaStore, Row, Standing, Step, Visible, Write, check,
    };

    fn list() -> CollectionName {
        CollectionName::new("list").unwrap()
    }

    fn prefix(bytes: &'static str) -> Scope {
        Scope::KeyPrefix(Bytes::from_static(bytes.as_bytes()))
    }

    fn item(version: u64, key: &str) -> Change {
        let version = Version::new(version).unwrap();
        let kind = ChangeKind::Put {
            value: Some(Value::new(Bytes::copy_from_slice(key.as_bytes())).unwrap()),
            sort_key: SortKey::new(Bytes::copy_from_slice(&key.as_bytes()[..1])).unwrap(),
            value_version: version,
        };
        let key = Key::new(Bytes::copy_from_slice(key.as_bytes())).unwrap();
        Change { key, version, created: version, kind }
    }

    fn load(store: &dyn ReplicaStore, keys: &[&str], to: Cursor) -> Visible {
        let changes = (1..).zip(keys).map(|(version, key)| item(version, key)).collect();
        let expected = store.standing(&list()).unwrap().active();
        let write = Write { expected, step: Step::BeginLoad { changes, to } };
        store.write(&list(), &write).unwrap().visible
    }

    fn keys(store: &dyn ReplicaStore) -> Vec<String> {
        let rows = store.snapshot(&list()).unwrap().rows(None, 100).unwrap();
        let text = |row: &Row| String::from_utf8(row.key.as_bytes().to_vec()).unwrap();
        rows.iter().map(text).collect()
    }

    fn standing(store: &dyn ReplicaStore) -> Standing {
        assert!(check(&*store.snapshot(&list()).unwrap()).unwrap(), "the rows add up");
        let window = store.snapshot(&list()).unwrap().window(0, 100).unwrap();
        assert_eq!(window.len(), keys(store).len(), "so does their order");
        store.standing(&list()).unwrap()
    }

    /// A copy that is narrowed, then widened, then loaded: in memory and on disk, where the process
    /// ends between any two steps.
    #[test]
    fn a_copy_keeps_what_belongs_to_it_or_is_loaded_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy.redb");
        let memory = MemoryStore::new();
        let at = Cursor::at(Epoch::new(1).unwrap(), Version::new(9).unwrap());
        let both = |step: &dyn Fn(&dyn ReplicaStore)| {
            step(&memory);
            step(&DiskStore::open(&path).unwrap());
        };
        both(&|store| {
            assert_eq!(store.rescope(&list(), &prefix("a")).unwrap(), Rescoped::Same);
            assert_eq!(load(store, &["a", "ab", "abc", "ac"], at), Visible::Swapped);
        });
        both(&|store| {
            assert_eq!(store.rescope(&list(), &prefix("ab")).unwrap(), Rescoped::Narrowed);
        });
        both(&|store| {
            assert_eq!(keys(store), ["ab", "abc"]);
            assert_eq!((standing(store).cursor, standing(store).tally.items), (Some(at), 2));
            assert_eq!(store.rescope(&list(), &prefix("ab")).unwrap(), Rescoped::Same);
            assert_eq!(store.rescope(&list(), &Scope::All).unwrap(), Rescoped::Anew);
        });
        // The old rows are there for readers, and their cursor for nobody.
        both(&|store| {
            assert_eq!(store.rescope(&list(), &Scope::All).unwrap(), Rescoped::Same);
            assert_eq!(keys(store), ["ab", "abc"]);
            assert_eq!((standing(store).cursor, standing(store).load), (None, None));
            let under_way = Cursor { version: Version::new(2).unwrap(), base: at.version, ..at };
            assert_eq!(load(store, &["a", "z"], under_way), Visible::Nothing);
        });
        // A load belongs to its part: it goes on, until the part is another one.
        both(&|store| {
            assert_eq!(store.rescope(&list(), &Scope::All).unwrap(), Rescoped::Same);
            assert_eq!(keys(store), ["ab", "abc"]);
            assert!(standing(store).load.is_some());
            assert_eq!(store.rescope(&list(), &prefix("a")).unwrap(), Rescoped::Anew);
            assert_eq!(standing(store).load, None);
            assert_eq!(load(store, &["a", "ac"], at), Visible::Swapped);
        });
        both(&|store| {
            assert_eq!(store.rescope(&list(), &prefix("a")).unwrap(), Rescoped::Same);
            assert_eq!(keys(store), ["a", "ac"]);
            assert_eq!(standing(store).cursor, Some(at));
        });
    }

    /// A file that was written for the whole collection is read as that, and the other way round
    /// no copy of a part counts as one of the whole.
    #[test]
    fn a_copy_without_a_scope_is_of_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy.redb");
        let at = Cursor::at(Epoch::new(1).unwrap(), Version::new(9).unwrap());
        load(&DiskStore::open(&path).unwrap(), &["a", "b"], at);
        let store = DiskStore::open(&path).unwrap();
        assert_eq!(store.rescope(&list(), &Scope::All).unwrap(), Rescoped::Same);
        assert_eq!(store.rescope(&list(), &prefix("b")).unwrap(), Rescoped::Narrowed);
        drop(store);
        let store = DiskStore::open(&path).unwrap();
        assert_eq!(store.rescope(&list(), &Scope::All).unwrap(), Rescoped::Anew);
        assert_eq!(standing(&store).cursor, None);
    }

    /// Only what was certainly there is kept.
    #[test]
    fn only_a_narrower_part_keeps_its_cursor() {
        let keys = |keys: &[&'static str]| {
            Scope::Keys(keys.iter().map(|k| Key::new(*k).unwrap()).collect())
        };
        let place =
            |at: &'static str| OrderPlace { sort_key: SortKey::new(at).unwrap(), key: None };
        let order =
            |from, to| Scope::Order(OrderRange::new(Some(place(from)), Some(place(to))).unwrap());
        let at = Cursor::at(Epoch::new(1).unwrap(), Version::new(9).unwrap());
        let unsure = at.between_pages(at.version);
        for (of, cursor, to, became) in [
            (Scope::All, Some(at), Scope::All, Rescoped::Same),
            (Scope::All, Some(at), prefix("a"), Rescoped::Narrowed),
            (Scope::All, Some(unsure), prefix("a"), Rescoped::Anew),
            (Scope::All, None, prefix("a"), Rescoped::Anew),
            (prefix("a"), Some(unsure), prefix("a"), Rescoped::Same),
            (prefix("a"), Some(at), prefix("ab"), Rescoped::Narrowed),
            (prefix("ab"), Some(at), prefix("a"), Rescoped::Anew),
            (prefix("a"), Some(at), Scope::All, Rescoped::Anew),
            (prefix("a"), Some(at), keys(&["a", "ab"]), Rescoped::Narrowed),
            (prefix("a"), Some(at), keys(&["a", "b"]), Rescoped::Anew),
            (keys(&["a", "b"]), Some(at), keys(&["b"]), Rescoped::Narrowed),
            (keys(&["b"]), Some(at), keys(&["a", "b"]), Rescoped::Anew),
            (keys(&["ab"]), Some(at), prefix("a"), Rescoped::Anew),
            (Scope::All, Some(at), order("a", "c"), Rescoped::Narrowed),
            (order("a", "c"), Some(at), order("b", "c"), Rescoped::Narrowed),
            (order("a", "c"), Some(at), order("b", "d"), Rescoped::Anew),
            (order("a", "c"), Some(at), prefix("a"), Rescoped::Anew),
            (prefix("a"), Some(at), order("a", "c"), Rescoped::Anew),
        ] {
            assert_eq!(rescope(&of, cursor, &to), became, "{of:?} to {to:?}");
        }
    }
}
