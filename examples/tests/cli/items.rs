//! Single items, listings, exit codes.

use serde_json::{Value as Json, json};

use crate::programs::{Running, built, ended, json, run, syncctl};
use crate::server::Server;

#[test]
fn what_is_put_is_got() {
    let server = Server::start();
    let put = json(&server, &["put", "g/1", "ann", r#"{"role":"admin"}"#, "--sort-key", "2"]);
    assert_eq!(put[0]["version"], 1);
    assert_eq!(put[0]["changed"], true);
    let got = &json(&server, &["get", "g/1", "ann"])[0];
    assert_eq!(got["value"], json!({ "role": "admin" }));
    assert_eq!((&got["sort_key"], &got["version"]), (&json!("2"), &json!(1)));
    assert_eq!(run(&server, &["get", "g/1", "ann", "--raw"]).text(), r#"{"role":"admin"}"#);
    assert!(run(&server, &["get", "g/1", "ann"]).text().contains(r#"{"role":"admin"}"#));

    let again = json(&server, &["put", "g/1", "ann", r#"{"role":"admin"}"#]);
    assert_eq!(again[0]["changed"], false);
}

#[test]
fn bytes_that_are_not_text_come_back() {
    let server = Server::start();
    let put = syncctl(&server, &["put", "g/1", "/wA=", "--keys-base64", "--stdin"]);
    assert_eq!(ended(put, &[0, 0xff, b'\n']).code, Some(0));
    let got = &json(&server, &["get", "g/1", "/wA=", "--keys-base64"])[0];
    assert_eq!((&got["key_base64"], &got["value_base64"]), (&json!("/wA="), &json!("AP8K")));
    let raw = run(&server, &["get", "g/1", "/wA=", "--keys-base64", "--raw"]);
    assert_eq!(raw.out, [0, 0xff, b'\n']);
}

#[test]
fn a_listing_follows_the_order_asked_for() {
    let server = Server::start();
    for (key, sort_key) in [("a", "3"), ("b", "1"), ("c", "2")] {
        json(&server, &["put", "g/1", key, key, "--sort-key", sort_key]);
    }
    let keys = |args: &[&str]| {
        let items = json(&server, &[&["list", "g/1"], args].concat());
        items.iter().map(|item| item["key"].as_str().unwrap()).collect::<String>()
    };
    assert_eq!(keys(&[]), "abc");
    assert_eq!(keys(&["--desc"]), "cba");
    assert_eq!(keys(&["--order", "sort"]), "bca");
    assert_eq!(keys(&["--order", "sort", "--desc", "--limit", "2"]), "ac");
    assert_eq!(keys(&["--prefix", "b"]), "b");
    let bare = &json(&server, &["list", "g/1", "--keys-only", "--limit", "1"])[0];
    assert_eq!(bare["key"], "a");
    assert!(bare.get("value_text").is_none());

    let listed = json(&server, &["list"]);
    assert_eq!(listed, json(&server, &["head", "g/1"]));
    assert_eq!((&listed[0]["items"], &listed[0]["version"]), (&json!(3), &json!(3)));
}

#[test]
fn a_listing_of_many_pages_is_complete() {
    let server = Server::start();
    let ops: Vec<_> = (0..2_500)
        .map(|n| json!({"collection": "g/1", "op": "put", "key": format!("{n:05}"), "value": {}}))
        .collect();
    let import = syncctl(&server, &["import", "-"]);
    assert_eq!(ended(import, json!({ "ops": ops }).to_string().as_bytes()).code, Some(0));
    let keys: Vec<_> = json(&server, &["list", "g/1"]).iter().map(|i| i["key"].clone()).collect();
    assert_eq!(keys, (0..2_500).map(|n| json!(format!("{n:05}"))).collect::<Vec<_>>());
    assert_eq!(json(&server, &["list", "g/1", "--limit", "1001"]).len(), 1_001);
}

#[test]
fn exit_codes_say_what_happened() {
    let server = Server::start();
    let code = |args: &[&str]| run(&server, args).code;
    assert_eq!(code(&["put", "g/1", "k", "v", "--if-absent"]), Some(0));
    assert_eq!(code(&["put", "g/1", "k", "w", "--if-absent"]), Some(4));
    assert_eq!(code(&["put", "g/1", "k", "w", "--if-version", "7"]), Some(4));
    assert_eq!(code(&["put", "g/1", "k", "w", "--if-version", "1"]), Some(0));
    assert_eq!(code(&["get", "g/1", "k", "nobody"]), Some(3));
    assert_eq!(code(&["get", "g/2", "k"]), Some(3));
    assert_eq!(code(&["head", "g/2"]), Some(3));
    assert_eq!(code(&["delete", "g/1", "k", "nobody"]), Some(0));
    assert_eq!(code(&["delete", "g/1", "k"]), Some(3));
    assert_eq!(code(&["put", "a//b", "k", "v"]), Some(2));
    assert_eq!(code(&["put", "inbox/ann", "k", "v"]), Some(2));
    assert_eq!(code(&["delete-collection", "g/1"]), Some(2));
    assert_eq!(code(&["delete-collection", "g/1", "--yes"]), Some(0));
    assert_eq!(code(&["head", "g/1"]), Some(3));
    assert_eq!(code(&["health"]), Some(0));
}

#[test]
fn a_failure_tells_what_to_do_next() {
    let mut server = Server::start();
    server.stop();
    let failed = run(&server, &["list"]);
    assert_eq!(failed.code, Some(5));
    assert!(failed.err.contains("is the server running"), "{}", failed.err);
    assert!(failed.err.contains(&server.uri()), "{}", failed.err);

    let failed = run(&server, &["list", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&failed.err).unwrap();
    assert_eq!(said["exit_code"], 5);
    assert!(said["next_step"].as_str().unwrap().contains("sync-server"));
    assert_eq!(run(&server, &["health"]).code, Some(5));
}

/// G11: what `--json` promises holds for a command line that makes no sense, too.
#[test]
fn a_wrong_command_line_changes_nothing_and_is_said() {
    let server = Server::start();
    let refused = run(&server, &["put", "a//b", "k", "v", "--json"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let said: Json = serde_json::from_str(&refused.err).unwrap();
    assert_eq!(said["exit_code"], 2);
    assert!(said["error"].as_str().unwrap().contains("a//b"), "{said}");
    // A misspelt option is not content.
    let refused = run(&server, &["put", "list", "k", "--stdn"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("--stdn"), "{refused:?}");
    assert!(json(&server, &["list"]).is_empty());
    json(&server, &["put", "list", "k", "-1"]);
    let put = run(&server, &["put", "list", "hyphen", "--", "--stdn"]);
    assert_eq!(put.code, Some(0), "{put:?}");
    assert_eq!(json(&server, &["get", "list", "hyphen"])[0]["value_text"], "--stdn");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let server = Server::start();
    for number in 0..20 {
        let value = "x".repeat(20_000);
        json(&server, &["put", "g/1", &number.to_string(), &value]);
    }
    let mut list = syncctl(&server, &["list", "g/1", "--json"]);
    list.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = list.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[test]
fn the_examples_run() {
    let server = Server::start();
    let mut quickstart = std::process::Command::new(built("examples/quickstart"));
    quickstart.arg(server.uri());
    let shown = ended(quickstart, &[]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.text().contains("in the local copy"), "{shown:?}");

    let flags = ended(std::process::Command::new(built("examples/feature_flags")), &[]);
    assert_eq!(flags.code, Some(0), "{flags:?}");
    assert!(flags.text().contains("enabled 100000 times"), "{flags:?}");
}

#[test]
fn completions_are_printed_without_a_server() {
    let mut server = Server::start();
    server.stop();
    assert!(run(&server, &["completions", "bash"]).text().contains("delete-collection"));
    let watch = Running::start(syncctl(&server, &["watch", "g/1", "--json"]));
    watch.wait_for("a server that is not there", |event| event["status"] == "backing-off");
    watch.interrupt();
    assert_eq!(watch.code(), Some(0));
}
