//! Watching, and replicas on disk.

use serde_json::{Value as Json, json};

use crate::programs::{Running, json, run, syncctl};
use crate::server::Server;

fn watch(server: &Server, args: &[&str]) -> Running {
    Running::start(syncctl(server, &[&["watch", "--json"], args].concat()))
}

fn is(event: &'static str, key: &'static str) -> impl Fn(&Json) -> bool {
    move |told| told["event"] == event && told["key"] == key
}

#[test]
fn a_watch_shows_what_is_there_and_what_changes() {
    let server = Server::start();
    json(&server, &["put", "g/1", "ann", r#"{"role":"admin"}"#]);
    let watch = watch(&server, &["g/1", "g/2", "--count", "4"]);
    let initial = watch.wait_for("what is there", is("insert", "ann"));
    assert_eq!((&initial["initial"], &initial["version"]), (&json!(true), &json!(1)));
    let complete = |name: &'static str| {
        move |told: &Json| told["event"] == "complete" && told["collection"] == name
    };
    watch.wait_for("its end", complete("g/1"));

    json(&server, &["put", "g/1", "bob", "new"]);
    let inserted = watch.wait_for("an insert", is("insert", "bob"));
    assert!(inserted.get("initial").is_none());
    json(&server, &["put", "g/1", "ann", r#"{"role":"member"}"#]);
    let updated = watch.wait_for("an update", is("update", "ann"));
    assert_eq!(updated["value"], json!({ "role": "member" }));
    assert_eq!(updated["old"]["value"], json!({ "role": "admin" }));
    json(&server, &["delete", "g/1", "bob"]);
    let deleted = watch.wait_for("a delete", is("delete", "bob"));
    assert_eq!(deleted["old"]["value_text"], "new");
    json(&server, &["put", "g/2", "first", "x"]);
    watch.wait_for("an insert into a new collection", is("insert", "first"));
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn a_watch_goes_on_after_a_restart_of_the_server() {
    let mut server = Server::start();
    json(&server, &["put", "g/1", "a", "1"]);
    let watch = watch(&server, &["g/1"]);
    watch.wait_for("the end of what is there", |told| told["event"] == "complete");
    server.stop();
    watch.wait_for("the loss", |told| told["event"] == "status" && told["status"] != "live");
    server.start_again();
    json(&server, &["put", "g/1", "b", "2"]);
    watch.wait_for("what came after", is("insert", "b"));
    watch.terminate();
    assert_eq!(watch.code(), Some(0));
}

#[test]
fn a_replica_on_disk_continues_where_it_was() {
    let server = Server::start();
    let files = tempfile::tempdir().unwrap();
    let store = files.path().join("copy.redb");
    let store = store.to_str().unwrap();
    for key in ["a", "b"] {
        json(&server, &["put", "g/1", key, "1"]);
    }
    let report = |args: &[&str]| {
        let report = json(&server, &[&["replica", "--store", store, "--once"], args].concat());
        report.into_iter().next().unwrap()
    };
    let first = report(&["g/1", "g/none"]);
    let head = &json(&server, &["head", "g/1"])[0];
    let copy = &first["collections"][0];
    assert_eq!((&copy["digest"], &copy["version"]), (&head["digest"], &head["version"]));
    assert_eq!((&copy["status"], &copy["inserted"]), (&json!("live"), &json!(2)));
    assert_eq!(first["collections"][1]["status"], "absent");

    json(&server, &["put", "g/1", "c", "1"]);
    json(&server, &["put", "g/1", "a", "2"]);
    json(&server, &["delete", "g/1", "b"]);
    let second = report(&["--prefix", "g/"]);
    let copy = &second["collections"][0];
    let counts = ["inserted", "updated", "deleted"].map(|field| copy[field].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!((&second["loads"], &second["repairs"]), (&json!(0), &json!(0)));
    assert_eq!(copy["digest"], json(&server, &["head", "g/1"])[0]["digest"]);
}

#[test]
fn a_replica_that_cannot_catch_up_in_time_says_so() {
    let mut server = Server::start();
    server.stop();
    let files = tempfile::tempdir().unwrap();
    let store = files.path().join("copy.redb");
    let args = ["replica", "--store", store.to_str().unwrap(), "g/1", "--once", "--timeout", "1s"];
    let failed = run(&server, &args);
    assert_eq!(failed.code, Some(5), "{failed:?}");
    assert!(failed.err.contains("g/1"), "{}", failed.err);
}

#[test]
fn a_replica_reports_what_changes_until_it_is_told_to_end() {
    let server = Server::start();
    let files = tempfile::tempdir().unwrap();
    let store = files.path().join("copy.redb");
    let args = ["replica", "--store", store.to_str().unwrap(), "g/1", "--json"];
    for (number, status) in ["absent", "live"].into_iter().enumerate() {
        let replica = Running::start(syncctl(&server, &args));
        replica.wait_for("the start", |told| told["status"] == status);
        json(&server, &["put", "g/1", &format!("{number}"), "1"]);
        let changes = replica.wait_for("a change", |told| told["event"] == "changes");
        assert_eq!((&changes["inserted"], &changes["items"]), (&json!(1), &json!(number + 1)));
        if number == 0 {
            replica.interrupt();
        } else {
            replica.terminate();
        }
        replica.wait_for("the report", |told| told["event"] == "report");
        assert_eq!(replica.code(), Some(0));
    }
}

#[test]
fn a_window_shows_the_first_rows_and_what_changes() {
    let server = Server::start();
    for item in ["a", "b", "c", "d", "e", "f", "g"] {
        json(&server, &["put", "g/1", item, "1", "--sort-key", item]);
    }
    let shown = json(&server, &["window", "g/1", "--first", "2", "--rank", "1"]);
    let keys: Vec<&Json> = shown[..2].iter().map(|row| &row["key"]).collect();
    assert_eq!(keys, ["b", "c"]);
    let verdict = &shown[2];
    assert_eq!((&verdict["verdict"], &verdict["total"]), (&json!("complete"), &json!(7)));
    let plain = run(&server, &["window", "g/1", "--first", "1", "--desc"]);
    assert_eq!(plain.text().lines().count(), 3, "{}", plain.text());
    assert!(plain.text().contains('g'), "{}", plain.text());
    let none = run(&server, &["window", "g/none"]);
    assert_eq!(none.code, Some(3), "{none:?}");

    let args = ["window", "g/1", "--first", "2", "--follow", "--json"];
    let window = Running::start(syncctl(&server, &args));
    window.wait_for("a row", is("enter", "a"));
    window.wait_for("its completeness", |told| told["verdict"] == "complete");
    json(&server, &["delete", "g/1", "a"]);
    window.wait_for("a delete", is("delete", "a"));
    json(&server, &["put", "g/1", "b", "1", "--sort-key", "z"]);
    window.wait_for("a row that left", is("leave", "b"));
    window.terminate();
    assert_eq!(window.code(), Some(0));
}
