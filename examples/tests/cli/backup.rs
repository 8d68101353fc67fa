//! Backups into files.

use std::path::Path;
use std::time::Duration;

use sync_server::backup::restore::contents;

use crate::programs::{json, run};
use crate::server::Server;

fn rows(file: &Path) -> u64 {
    contents(std::fs::File::open(file).unwrap(), &mut |_| {}).unwrap().rows
}

/// The file appears when it is complete, replaces nothing unasked, and nothing is left of one that
/// was given up.
#[test]
fn a_backup_is_a_whole_file_or_none() {
    let mut server = Server::start();
    for item in 0..20 {
        run(&server, &["put", "list", &format!("{item}"), "value"]);
    }
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("all.backup");
    let path = file.to_str().unwrap();
    let told = json(&server, &["backup", "--out", path]);
    assert_eq!(told[0]["rows"], 20, "{told:?}");
    assert_eq!(told[0]["bytes"], std::fs::metadata(&file).unwrap().len());
    assert_eq!(rows(&file), 20);

    run(&server, &["put", "list", "more", "value"]);
    let refused = run(&server, &["backup", "--out", path]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("--force"), "{refused:?}");
    assert_eq!(rows(&file), 20);
    let replaced = run(&server, &["backup", "--out", path, "--force"]);
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
    assert!(replaced.text().contains("backed up 21 rows"), "{replaced:?}");
    assert_eq!(rows(&file), 21);

    server.stop();
    let timeout = format!("{}s", Duration::from_secs(1).as_secs());
    let down = run(&server, &["--timeout", &timeout, "backup", "--out", path, "--force"]);
    assert_eq!(down.code, Some(5), "{down:?}");
    assert_eq!(rows(&file), 21);
    let names = std::fs::read_dir(files.path()).unwrap().count();
    assert_eq!(names, 1, "something is left beside the backup");
}
