//! The commands that work on a store while no server has it, as an operator runs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sync_tests::compose::{delete, put};
use sync_tests::process::Program;
use sync_tests::server::copy_dir;

use crate::SERVER;

/// How a command ended: its exit code, what it printed, what it said beside.
pub(crate) fn run(args: &[&str], dir: &Path) -> (i32, String, String) {
    let command = Command::new(SERVER).args(args).arg("--data-dir").arg(dir).output();
    let Output { status, stdout, stderr } = command.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("it was not killed"), text(stdout), text(stderr))
}

/// G3: a server's store that was compacted is smaller, serves what it held and goes on counting;
/// while a server has it, compacting is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_store_is_smaller_and_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let wire = program.wire();
    let value = vec![7; 20_000];
    for round in 0..20 {
        let puts = (0..50).map(|item| put("list", format!("{}", round * 50 + item), &value));
        wire.commit(puts.collect()).await;
    }
    let all = (0..20 * 50 - 1).map(|item| delete("list", format!("{item}")));
    let before = wire.commit(all.collect()).await;
    let loaded = wire.load("list").await;

    let (code, _, said) = run(&["compact"], dir.path());
    assert!(code == 1 && said.contains("in use"), "{code}: {said}");
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());

    let (code, printed, said) = run(&["compact", "--json"], dir.path());
    assert_eq!(code, 0, "{said}");
    assert!(said.is_empty(), "{said}");
    let told: Value = serde_json::from_str(&printed).unwrap();
    let bytes = |name: &str| told[name].as_u64().unwrap();
    assert!(bytes("bytes_after") * 2 < bytes("bytes_before"), "{told}");
    let (code, printed, said) = run(&["compact"], dir.path());
    assert!(code == 0 && printed.contains("compacted"), "{code}: {printed}{said}");

    let mut process = program.start_serving().await;
    let wire = program.wire();
    assert_eq!(wire.load("list").await.contents(), loaded.contents());
    assert!(wire.commit(vec![put("list", "more", "1")]).await > before);
    process.kill();
}

/// G11: what cannot be done ends with the documented exit code and a reason.
#[test]
fn commands_say_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    let (code, _, said) = run(&["compact"], &nowhere);
    assert!(code == 1 && said.contains("there is no store in"), "{code}: {said}");
    assert!(!nowhere.exists());
    let (code, printed, said) = run(&["compact", "--json"], &nowhere);
    assert!(code == 1 && printed.is_empty(), "{code}: {printed}");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert!(told["exit_code"] == 1 && told["error"].is_string(), "{told}");

    let (code, _, said) = run(&["compact", "--cache-mib", "0"], &nowhere);
    assert!(code == 2 && said.contains("cache_mib"), "{code}: {said}");
    let (code, _, said) = run(&["--listen", "127.0.0.1:0", "compact"], &nowhere);
    assert!(code == 2 && said.contains("cannot be used with"), "{code}: {said}");
    let (code, printed, _) = run(&["compact", "--help"], &nowhere);
    assert!(code == 0 && printed.contains("Exit codes: 0 done"), "{code}: {printed}");
}

/// G11: a store that is in doubt is neither compacted nor touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_not_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    program.wire().commit(vec![put("list", "a", "1")]).await;
    process.terminate();
    process.ended().await;
    std::fs::remove_file(dir.path().join("store/high-water")).unwrap();
    let (code, _, said) = run(&["compact"], dir.path());
    assert!(code == 3 && said.contains("damaged"), "{code}: {said}");
    let mut process = program.start();
    assert_eq!(process.ended().await.code(), Some(3), "{}", process.log());
}

/// A sound store has no findings, and a server's store that is not is told row by row, with an exit
/// code of its own; neither is changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_verified_without_being_changed() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    for round in 0..10 {
        let puts = (0..100).map(|item| put("list", format!("{item}"), format!("{round}")));
        program.wire().commit(puts.collect()).await;
    }
    let (code, _, said) = run(&["verify"], dir.path());
    assert!(code == 1 && said.contains("in use"), "{code}: {said}");
    process.terminate();
    process.ended().await;

    let before = files(dir.path());
    let (code, printed, said) = run(&["verify", "--json"], dir.path());
    assert_eq!(code, 0, "{printed}{said}");
    let told: Value = serde_json::from_str(&printed).unwrap();
    assert!(told["findings_count"] == 0 && told["collections"] == 1, "{told}");
    assert!(told["rows"].as_u64().unwrap() >= 300, "{told}");
    assert!(files(dir.path()) == before);

    // An older state of the rows, with the mark of the newer one.
    let mark = std::fs::read(dir.path().join("store/high-water")).unwrap();
    let older = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), older.path());
    let mut process = program.start_serving().await;
    program.wire().commit(vec![put("list", "more", "1")]).await;
    process.terminate();
    process.ended().await;
    let newer = std::fs::read(dir.path().join("store/high-water")).unwrap();
    assert_ne!(mark, newer);
    std::fs::write(older.path().join("store/high-water"), newer).unwrap();
    let before = files(older.path());
    let (code, printed, said) = run(&["verify"], older.path());
    assert_eq!(code, 7, "{printed}{said}");
    assert!(printed.contains("high-water: it ends with batch"), "{printed}");
    assert!(said.contains("1 finding(s)"), "{said}");
    assert!(files(older.path()) == before);
}

/// Every file below a directory, with what is in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    files
}
