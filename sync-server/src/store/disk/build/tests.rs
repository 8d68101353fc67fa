//! A store that is built is there as a whole, or not at all.

use tempfile::TempDir;

use super::super::super::Store as _;
use super::super::tests;
use super::super::tests::{options, put, refusal};
use super::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fill(store: DiskStore) -> Result<DiskStore, StoreError> {
    store.apply(&put(b"a", "1"))?;
    Ok(store)
}

#[test]
fn a_store_is_built_in_an_empty_directory_only() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("new");
    build(&inner, &options(), fill, Ok::<_, StoreError>).unwrap();
    assert_eq!(names(&inner), ["lock", "store"]);
    assert_eq!(DiskStore::open(&inner, &options()).unwrap().get(b"a").unwrap().unwrap(), "1");
    let again = build(&inner, &options(), fill, Ok::<_, StoreError>).unwrap_err();
    assert!(matches!(again, StoreError::NotEmpty { .. }), "{again}");
    fs::write(dir.path().join("something"), "else").unwrap();
    let other = build(dir.path(), &options(), fill, Ok::<_, StoreError>).unwrap_err();
    assert!(matches!(other, StoreError::NotEmpty { .. }), "{other}");
}

/// X1: what fails leaves nothing; what is killed is not taken for a store, nor is an empty one put in
/// its place; the next attempt removes it.
#[test]
fn a_store_that_was_not_completed_is_none() {
    let dir = TempDir::new().unwrap();
    let failing = |_| Err(StoreError::Missing { path: String::new() });
    build(dir.path(), &options(), failing, Ok).unwrap_err();
    assert_eq!(names(dir.path()), ["lock"]);
    build(dir.path(), &options(), fill, failing).unwrap_err();
    assert_eq!(names(dir.path()), ["lock"]);

    fs::create_dir_all(dir.path().join("store.restore/store")).unwrap();
    let error = refusal(&dir);
    assert!(error.to_string().contains("not completed"), "{error}");
    build(dir.path(), &options(), fill, Ok::<_, StoreError>).unwrap();
    assert_eq!(tests::open(&dir).get(b"a").unwrap().unwrap(), "1");
}
