//! Import and export.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::programs::{Running, ended, json, run, syncctl};
use crate::server::Server;

/// A real history, with the state that its makers proved.
const HISTORY: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/data/membership-k8s-org/changes.jsonl.zst");
const TRANSACTIONS: u64 = 2_778;
const CHANGES: u64 = 25_770;
const ITEMS: u64 = 7_047;

/// What an export puts, without the numbers and times of its lines.
fn puts(file: &Path) -> Vec<Json> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    lines.flat_map(|line| line["ops"].as_array().unwrap().clone()).collect()
}

fn export(server: &Server, file: &Path) -> Vec<Json> {
    json(server, &["export", "-o", file.to_str().unwrap()]);
    puts(file)
}

/// A file of so many transactions of one put each.
fn long_history(file: &Path, transactions: u64) {
    let line = |n| {
        let key = format!("{:04}", n % 1_000);
        let put = json!({"collection": "g/1", "op": "put", "key": key, "value": {"n": n}});
        json!({ "tx": n + 1, "ops": [put] }).to_string() + "\n"
    };
    fs::write(file, (0..transactions).map(line).collect::<String>()).unwrap();
}

/// The collection that [`long_history`] ends with.
fn assert_imported(server: &Server, transactions: u64) {
    let items = json(server, &["list", "g/1"]);
    let values: Vec<_> = items.iter().map(|item| item["value"]["n"].as_u64().unwrap()).collect();
    assert_eq!(values, (transactions - 1_000..transactions).collect::<Vec<_>>());
    // One commit each, none twice: versions count them.
    assert_eq!(json(server, &["head", "g/1"])[0]["version"], transactions);
}

#[test]
fn an_import_of_an_export_restores_the_state() {
    let (server, other) = (Server::start(), Server::start());
    let files = tempfile::tempdir().unwrap();
    let told = &json(&server, &["import", HISTORY])[0];
    assert_eq!(told["commits"], TRANSACTIONS);
    assert_eq!(told["mutations"], CHANGES);
    json(&server, &["put", "odd/values", "text", "not json", "--sort-key", "9"]);
    json(&server, &["put", "odd/values", "lines", "{\n}"]);
    json(&server, &["put", "odd/values", "null", "null"]);
    let put = syncctl(&server, &["put", "odd/values", "/w==", "--keys-base64", "--stdin"]);
    assert_eq!(ended(put, &[0xff]).code, Some(0));

    let exported = export(&server, &files.path().join("1.jsonl"));
    assert_eq!(exported.len() as u64, ITEMS + 4);
    json(&other, &["import", files.path().join("1.jsonl").to_str().unwrap()]);
    let restored = export(&other, &files.path().join("2.jsonl"));
    assert_eq!(exported, restored);
    let items = |server: &Server| {
        let items = json(server, &["list", "odd/values", "--order", "sort"]);
        let field = |item: &Json, name: &str| item.get(name).cloned().unwrap_or_default();
        let fields = ["key", "key_base64", "value_text", "value_base64", "sort_key"];
        items.iter().map(|item| fields.map(|name| field(item, name))).collect::<Vec<_>>()
    };
    assert_eq!(items(&server), items(&other));

    json(&other, &["import", HISTORY, "--prefix", "copy/"]);
    json(&other, &["export", "--prefix", "copy/", "-o", files.path().join("3").to_str().unwrap()]);
    assert_eq!(puts(&files.path().join("3")).len() as u64, ITEMS);
    let count = fs::read_dir(files.path()).unwrap().count();
    assert_eq!(count, 3, "an export leaves nothing but its file");
}

#[test]
fn an_import_that_was_killed_goes_on() {
    let server = Server::start();
    let files = tempfile::tempdir().unwrap();
    let (file, transactions) = (files.path().join("long.jsonl"), 20_000);
    long_history(&file, transactions);
    let file = file.to_str().unwrap();
    let import = Running::start(syncctl(&server, &["import", file]));
    wait_for_version(&server, 500);
    import.kill();

    let told = &json(&server, &["import", file])[0];
    let (done, skipped) =
        (told["commits"].as_u64().unwrap(), told["commits_skipped"].as_u64().unwrap());
    assert!(skipped >= 500 && done > 0, "{told}");
    assert_eq!(done + skipped, transactions);
    assert_imported(&server, transactions);

    let again = run(&server, &["import", file]);
    assert!(again.text().contains("had been imported before"), "{again:?}");
    assert_imported(&server, transactions);
}

#[test]
fn an_import_survives_a_restart_of_the_server() {
    let mut server = Server::start();
    let files = tempfile::tempdir().unwrap();
    let (file, transactions) = (files.path().join("long.jsonl"), 20_000);
    long_history(&file, transactions);
    let import = syncctl(&server, &["import", file.to_str().unwrap(), "--json"]);
    let import = Running::start(import);
    wait_for_version(&server, 500);
    server.stop();
    server.start_again();
    let told = import.wait_for("the end of the import", |told| told["commits"].is_u64());
    assert_eq!(told["commits"], transactions);
    assert_imported(&server, transactions);
}

fn wait_for_version(server: &Server, version: u64) {
    let deadline = std::time::Instant::now() + crate::programs::WITHIN;
    loop {
        let head = run(server, &["head", "g/1", "--json"]);
        let objects = if head.code == Some(0) { head.objects() } else { Vec::new() };
        if objects.first().is_some_and(|head| head["version"].as_u64().unwrap() >= version) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the import does not get on: {head:?}");
    }
}

#[test]
fn a_transaction_larger_than_a_commit_is_split_and_said_so() {
    let server = Server::start();
    let ops: Vec<_> = (0..6_000)
        .map(|n| json!({"collection": "g/1", "op": "put", "key": n.to_string(), "value": {}}))
        .collect();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("large.jsonl");
    fs::write(&file, json!({ "tx": 1, "ops": ops }).to_string()).unwrap();
    let told = run(&server, &["import", file.to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.text().contains("became several"), "{told:?}");
    let head = &json(&server, &["head", "g/1"])[0];
    assert_eq!((&head["items"], &head["version"]), (&json!(6_000), &json!(2)));
}

#[test]
fn a_line_that_breaks_a_rule_is_named_and_what_was_before_it_stays() {
    let server = Server::start();
    let input = concat!(
        r#"{"tx":1,"ops":[{"collection":"g/1","op":"put","key":"a","value":{}}]}"#,
        "\n\n",
        r#"{"tx":2,"ops":[{"collection":"g/1","op":"put","key":"","value":{}}]}"#,
    );
    let failed = ended(syncctl(&server, &["import", "-"]), input.as_bytes());
    assert_eq!(failed.code, Some(2));
    assert!(failed.err.contains("line 3: ops[0].key"), "{}", failed.err);
    assert_eq!(json(&server, &["head", "g/1"])[0]["items"], 1);
    assert_eq!(run(&server, &["import", "/there/is/no/such/file"]).code, Some(1));
}

#[test]
fn what_is_imported_from_a_pipe_is_counted() {
    let server = Server::start();
    let import = syncctl(&server, &["import", "-", "--json"]);
    let told = ended(import, &fs::read(HISTORY).unwrap());
    assert_eq!(told.objects()[0]["mutations"], CHANGES, "{told:?}");
    let exported = run(&server, &["export", "org/etcd-io/members", "org/etcd-io/teams"]);
    assert_eq!(exported.text().lines().count(), 2);
    assert_eq!(run(&server, &["export", "no/such"]).code, Some(3));
}
