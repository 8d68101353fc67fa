//! What operators ask of a collection.

use std::collections::BTreeSet;

use serde_json::json;

use crate::programs::{Running, json, run, syncctl};
use crate::server::Server;

/// A collection with one item, and the tombstones of versions 2, 3 and 4.
fn server() -> Server {
    let server = Server::start();
    json(&server, &["put", "g/1", "kept", "v"]);
    for item in ["a", "b", "c"] {
        json(&server, &["put", "g/2", item, "v"]);
    }
    for item in ["a", "b", "c"] {
        json(&server, &["delete", "g/2", item]);
    }
    server
}

#[test]
fn a_policy_is_shown_and_set() {
    let server = server();
    let seen = &json(&server, &["inspect", "g/2"])[0];
    assert_eq!((&seen["tombstones"], &seen["subscribers"]), (&json!(3), &json!(0)));
    assert_eq!(seen["policy"], json!({}));
    assert_eq!(seen["effective_policy"]["tombstones_max"], 1_000_000);
    assert!(seen["oldest_tombstone_time"].is_string());
    let set = ["policy", "g/2", "--tombstone-age", "12h", "--tombstones", "500", "--bytes", "7"];
    let set = &json(&server, &set)[0];
    let wanted = json!({
        "tombstone_age_max_ms": 12 * 3_600_000, "tombstones_max": 500, "bytes_max": 7,
    });
    assert_eq!(set["effective_policy"], wanted);
    assert_eq!(json(&server, &["inspect", "g/2"])[0]["policy"], wanted);
    assert_eq!(json(&server, &["policy", "g/2"])[0]["effective_policy"], wanted);
    assert_eq!(run(&server, &["put", "g/2", "key", "value"]).code, Some(1), "above the quota");
    let ended = run(&server, &["inspect", "g/2"]);
    let shown = ended.text();
    for fact in ["oldest tombstone", "43200 s", "500", "policy"] {
        assert!(shown.contains(fact), "{fact} is missing:\n{shown}");
    }
    let ended = run(&server, &["policy", "g/1"]);
    let shown = ended.text();
    assert!(shown.contains("no limit") && shown.contains("server"), "{shown}");
    assert_eq!(run(&server, &["policy", "none"]).code, Some(3));
    assert_eq!(run(&server, &["policy", "g/1", "--tombstone-age", "soon"]).code, Some(2));
}

/// Who follows what is set, listed both ways and inspected; how they are told is pinned, and given
/// back to the server.
#[test]
fn followers_are_set_and_shown() {
    let server = server();
    let told = &json(&server, &["follow", "g/2", "alice", "bob"])[0];
    assert_eq!((&told["exists"], &told["subjects"]), (&json!(true), &json!(["alice", "bob"])));
    assert_eq!(json(&server, &["follow", "none/yet", "alice"])[0]["exists"], false);
    json(&server, &["unfollow", "g/2", "bob"]);
    let subjects = json(&server, &["audience", "g/2"]);
    assert_eq!(subjects, [json!({ "collection": "g/2", "subject": "alice" })]);
    let names: Vec<_> = json(&server, &["follows", "alice"])
        .iter()
        .map(|follow| follow["collection"].clone())
        .collect();
    assert_eq!(names, ["g/2", "none/yet"]);
    let seen = &json(&server, &["inspect", "g/2"])[0];
    assert_eq!((&seen["audience"], &seen["diffusion"]), (&json!(1), &json!("write")));
    let set = &json(&server, &["policy", "g/2", "--diffusion", "read", "--bytes", "9"])[0];
    assert_eq!(set["effective_policy"]["diffusion"], "read");
    assert_eq!(json(&server, &["inspect", "g/2"])[0]["diffusion"], "read");
    let back = ["policy", "g/2", "--default", "diffusion", "--default", "bytes"];
    assert_eq!(json(&server, &back)[0]["effective_policy"]["diffusion"], json!(null));
    assert_eq!(json(&server, &["inspect", "g/2"])[0]["policy"], json!({}));
    let ended = run(&server, &["inspect", "g/2"]);
    for fact in ["followers", "diffusion in force", "chosen by the server"] {
        assert!(ended.text().contains(fact), "{fact} is missing:\n{}", ended.text());
    }
    assert!(run(&server, &["follow", "none/yet", "bob"]).text().contains("does not exist yet"));
    assert!(run(&server, &["audience", "none/yet"]).text().contains("bob"));
    assert_eq!(run(&server, &["follow", "g/2", "a//b"]).code, Some(2));
}

#[test]
fn clients_are_shown_and_acknowledged_for() {
    let server = server();
    let acked = &json(&server, &["ack", "g/2", "--client-id", "phone-1", "--version", "4"])[0];
    assert_eq!((&acked["client_id"], &acked["acked"]["version"]), (&json!("phone-1"), &json!(4)));
    json(&server, &["ack", "g/1", "--client-id", "phone-1"]);
    json(&server, &["ack", "g/1", "--client-id", "tablet"]);
    let seen = json(&server, &["clients", "phone-"]);
    assert_eq!((seen.len(), &seen[0]["client_id"]), (1, &json!("phone-1")));
    let at = &seen[0]["positions"][1];
    assert_eq!((&at["collection"], &at["behind"]), (&json!("g/2"), &json!(2)));
    assert_eq!(at["acked"]["epoch"], acked["acked"]["epoch"]);
    assert_eq!(json(&server, &["clients"]).len(), 2);
    let ended = run(&server, &["clients"]);
    let shown = ended.text();
    for fact in ["CLIENT", "phone-1", "tablet", "g/2", "@4", "BEHIND"] {
        assert!(shown.contains(fact), "{fact} is missing:\n{shown}");
    }
    let beyond = ["ack", "g/2", "--client-id", "phone-1", "--version", "7"];
    assert_eq!(run(&server, &beyond).code, Some(4), "above the head");
    assert_eq!(run(&server, &["ack", "none", "--client-id", "phone-1"]).code, Some(3));
}

#[test]
fn deletes_are_purged_and_an_epoch_begun() {
    let server = server();
    let purged = &json(&server, &["purge", "g/2", "--up-to", "5", "--yes"])[0];
    assert_eq!((&purged["purged"], &purged["floor"]), (&json!(2), &json!(5)));
    let ended = run(&server, &["purge", "g/2", "--yes"]);
    let purged = ended.text();
    assert!(purged.contains("purged 1 tombstones of g/2: 0 are left, the floor is 6"), "{purged}");
    assert_eq!(run(&server, &["purge", "g/2", "--up-to", "7", "--yes"]).code, Some(4));
    assert_eq!(run(&server, &["purge", "g/2"]).code, Some(2), "nobody is there to be asked");
    let before = &json(&server, &["head", "g/1"])[0];
    let after = &json(&server, &["rotate-epoch", "g/1", "--yes"])[0];
    assert_ne!(before["epoch"], after["epoch"]);
    assert_eq!((&before["version"], &before["digest"]), (&after["version"], &after["digest"]));
    assert_eq!(run(&server, &["rotate-epoch", "none", "--yes"]).code, Some(3));
}

/// Two that follow are two clients, a replica that comes back is the one that it was, and what is
/// only looked at leaves nobody behind.
#[test]
fn followers_are_the_clients_that_they_say_they_are() {
    let server = server();
    let ids = || -> Vec<String> {
        let seen = json(&server, &["clients"]);
        seen.iter().map(|client| client["client_id"].as_str().unwrap().to_owned()).collect()
    };
    let watch = |more: &[&str]| {
        let args = [&["watch", "g/1", "--json"], more].concat();
        let watch = Running::start(syncctl(&server, &args));
        watch.wait_for("the end of what is there", |told| told["event"] == "complete");
        watch
    };
    let (one, two) = (watch(&["--client-id", "one"]), watch(&["--client-id", "two"]));
    assert_eq!(ids(), ["one", "two"]);
    let third = watch(&[]);
    assert_eq!(ids().len(), 3, "who follows is there, also without a name of its own");
    let before: BTreeSet<_> = ids().into_iter().collect();

    let files = tempfile::tempdir().unwrap();
    let copy = |file: &str, more: &[&str]| {
        let store = files.path().join(file);
        let args = ["replica", "g/1", "--once", "--store", store.to_str().unwrap()];
        json(&server, &[&args, more].concat());
    };
    copy("a.redb", &[]);
    let with_copy: BTreeSet<_> = ids().into_iter().collect();
    assert_eq!(with_copy.difference(&before).count(), 1);
    copy("a.redb", &[]);
    assert_eq!(ids().into_iter().collect::<BTreeSet<_>>(), with_copy, "it came back as another");
    copy("b.redb", &[]);
    assert_eq!(ids().len(), 5, "the copy in another file is another client");
    copy("a.redb", &["--client-id", "three"]);
    assert!(ids().contains(&"three".to_owned()));
    copy("a.redb", &[]);
    assert_eq!(ids().len(), 6, "a name for once does not replace the one that is kept");
    for watch in [one, two, third] {
        watch.terminate();
        assert_eq!(watch.code(), Some(0));
    }
}
