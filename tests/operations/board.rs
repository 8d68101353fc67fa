//! The board and the alert rules beside the server name what the server shows, and nothing else: a
//! panel without data, or a rule that never fires, would look as if all were well.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use sync_tests::data::workspace;

use crate::metrics::Shown;

const BOARD: &str = "deploy/grafana/dashboards/deltasync.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";

/// What our metrics begin with.
const PREFIX: &str = "deltasync_";

/// A metric as it is asked for, with the labels that must have just this value.
type Asked = (String, Vec<(String, String)>);

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The metrics of ours in a text of queries.
fn asked(text: &str) -> BTreeSet<Asked> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(PREFIX) {
        if text[..at].ends_with(is_of_name) {
            continue;
        }
        let end = text[at..].find(|c| !is_of_name(c)).map_or(text.len(), |end| at + end);
        let matchers = text[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let matchers = matchers.map_or("", |(inside, _)| inside);
        // `=~`, `!=` name no value that must be there.
        let exact = matchers.split(',').filter_map(|one| one.split_once("=\""));
        let exact = exact.filter(|(label, _)| label.chars().all(is_of_name));
        let exact = exact.map(|(label, value)| (label.to_owned(), value.replace('"', "")));
        found.insert((text[at..end].to_owned(), exact.collect()));
    }
    found
}

/// The board, as Grafana reads it.
fn board() -> Json {
    let text = std::fs::read_to_string(workspace().join(BOARD)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a panel asks for: its strings, unescaped.
fn queries(panel: &Json) -> impl Iterator<Item = &str> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    targets.map(|target| target["expr"].as_str().unwrap())
}

/// All that the board asks for.
fn asked_by_board() -> String {
    let board = board();
    let panels = board["panels"].as_array().unwrap();
    let queries: Vec<_> = panels.iter().flat_map(queries).collect();
    assert!(queries.len() > 30, "{} queries", queries.len());
    queries.join("\n")
}

/// Whether a page has a sample of this name with these labels.
fn has(page: &str, (name, labels): &Asked) -> bool {
    page.lines().any(|line| {
        let of_name = line.strip_prefix(name.as_str());
        let rest = of_name.filter(|rest| rest.starts_with([' ', '{']));
        let has =
            |(label, value): &(String, String)| line.contains(&format!("{label}=\"{value}\""));
        rest.is_some() && labels.iter().all(has)
    })
}

/// Every metric that the board and the alert rules name, with every value of a label, is on the page
/// of a server to which nothing has happened yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Shown::start(dir.path());
    let page = server.page().await;
    for (file, text) in [
        (BOARD, asked_by_board()),
        (ALERTS, std::fs::read_to_string(workspace().join(ALERTS)).unwrap()),
    ] {
        let asked = asked(&text);
        assert!(asked.len() > 10, "{file} asks for {asked:?}");
        let missing: Vec<_> = asked.iter().filter(|one| !has(&page, one)).collect();
        assert!(missing.is_empty(), "{file} asks for what no server shows: {missing:?}");
    }
    server.stop().await;
}

/// Whoever looks at a panel is told what it shows, and sees the servers that were chosen alone.
#[test]
fn every_panel_says_what_it_shows() {
    for panel in board()["panels"].as_array().unwrap() {
        let described = panel["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(described || panel["type"] == "row", "{}", panel["title"]);
        for query in queries(panel) {
            let metrics = asked(query).len() + query.matches("up{").count();
            let chosen = query.matches("instance=~\"$instance\"").count();
            assert!(chosen >= metrics && chosen > 0, "{query}");
        }
    }
}

/// The check of names can fail: names, parts of names and values that are not there are found.
#[test]
fn what_is_not_shown_is_found() {
    let page =
        "deltasync_items 3\ndeltasync_calls_total{call=\"SyncService/Pull\",result=\"ok\"} 1\n";
    let all = asked(
        "rate(deltasync_items[5m]) > deltasync_item and deltasync_calls_total{result=\"ok\",call!=\"x\"} \
         or deltasync_calls_total{result=\"fine\"} or not_deltasync_items",
    );
    let missing: Vec<_> = all.iter().filter(|one| !has(page, one)).map(|one| &one.0[..]).collect();
    assert_eq!(missing, ["deltasync_calls_total", "deltasync_item"]);
    assert_eq!(all.len(), 4);
}
