//! Histories of right servers are accepted, and each kind of wrong one is refused for its reason.

use super::{Condition, Event, Items, Source, What, Wrong, check};

fn event(client: usize, from: u64, to: u64, what: What) -> Event {
    Event { client, during: from..=to, what }
}

fn committed(prev: u64, version: u64, writes: &[(&str, Option<u64>)]) -> What {
    let writes = writes.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    What::Committed { prev, version, writes, condition: None }
}

fn committed_if(condition: Condition, prev: u64, version: u64, key: &str, value: u64) -> What {
    let writes = [(key.to_owned(), Some(value))].into();
    What::Committed { prev, version, writes, condition: Some(condition) }
}

fn saw(source: Source, version: u64, items: &[(&str, u64, u64)]) -> What {
    let items: Items =
        items.iter().map(|(key, at, value)| ((*key).to_owned(), (*at, *value))).collect();
    What::Saw { source, version, items, asked: None, waited_for: 0 }
}

fn item(key: &str, version: u64) -> Condition {
    Condition::Item(key.to_owned(), version)
}

/// Two items written together, one of them again, a delete: with gaps between versions.
fn writes() -> Vec<Event> {
    vec![
        event(0, 1, 2, committed(0, 3, &[("a", Some(10)), ("b", Some(11))])),
        event(1, 5, 8, committed(3, 4, &[("a", Some(12))])),
        event(0, 6, 9, committed(4, 7, &[("b", None)])),
    ]
}

fn with(more: impl IntoIterator<Item = Event>) -> Vec<Event> {
    writes().into_iter().chain(more).collect()
}

#[test]
fn a_right_history_is_accepted() {
    let all = &[("a", 3, 10), ("b", 3, 11)];
    check(&[]).unwrap();
    check(&with([
        event(2, 3, 4, saw(Source::Server, 3, all)),
        // Concurrent with both later commits: either of three states.
        event(2, 5, 9, saw(Source::Server, 3, all)),
        event(3, 5, 9, saw(Source::Server, 4, &[("a", 4, 12), ("b", 3, 11)])),
        event(4, 5, 9, saw(Source::Server, 7, &[("a", 4, 12)])),
        // A copy may be late.
        event(5, 20, 21, saw(Source::Copy, 3, all)),
        event(5, 22, 23, saw(Source::Copy, 7, &[("a", 4, 12)])),
        event(6, 6, 7, What::Refused(item("a", 3))),
        event(6, 30, 31, committed_if(item("a", 4), 7, 8, "a", 13)),
    ]))
    .unwrap();
}

#[test]
fn a_version_that_was_given_twice_is_found() {
    let twice = with([event(2, 5, 6, committed(3, 4, &[("c", Some(1))]))]);
    assert_eq!(check(&twice), Err(Wrong::SameVersion(1, 3)));
}

/// A commit that was acknowledged and then lost: its successor does not know of it.
#[test]
fn a_lost_commit_is_found() {
    let lost = with([event(2, 20, 21, committed(4, 8, &[("c", Some(1))]))]);
    assert_eq!(check(&lost), Err(Wrong::BrokenChain(3)));
}

#[test]
fn a_stale_read_is_found() {
    let stale = with([event(2, 10, 11, saw(Source::Server, 4, &[("a", 4, 12), ("b", 3, 11)]))]);
    assert_eq!(check(&stale), Err(Wrong::Stale(3, 2)));
}

/// What one client was shown, another must not miss, although nobody was told of the commit yet.
#[test]
fn reads_of_several_clients_do_not_go_back() {
    let back = with([
        event(2, 6, 7, saw(Source::Server, 7, &[("a", 4, 12)])),
        event(3, 8, 9, saw(Source::Server, 4, &[("a", 4, 12), ("b", 3, 11)])),
    ]);
    assert_eq!(check(&back), Err(Wrong::Stale(4, 3)));
}

/// Commits that do not overlap must have versions in their order.
#[test]
fn commits_against_the_clock_are_found() {
    let against = [
        event(0, 1, 2, committed(2, 5, &[("a", Some(1))])),
        event(1, 3, 4, committed(0, 2, &[("a", Some(2))])),
    ];
    assert_eq!(check(&against), Err(Wrong::Stale(1, 0)));
}

#[test]
fn a_read_of_what_was_not_yet_sent_is_found() {
    let early = with([event(2, 3, 4, saw(Source::Copy, 4, &[("a", 4, 12), ("b", 3, 11)]))]);
    assert_eq!(check(&early), Err(Wrong::Stale(1, 3)));
}

#[test]
fn half_a_commit_is_found() {
    let half = with([event(2, 3, 4, saw(Source::Server, 3, &[("a", 3, 10)]))]);
    assert_eq!(check(&half), Err(Wrong::NeverSo(3)));
    let ghost = with([event(2, 10, 11, saw(Source::Server, 7, &[("a", 4, 12), ("b", 3, 11)]))]);
    assert_eq!(check(&ghost), Err(Wrong::NeverSo(3)));
    let between = with([event(2, 6, 7, saw(Source::Server, 5, &[("a", 4, 12), ("b", 3, 11)]))]);
    assert_eq!(check(&between), Err(Wrong::NeverSo(3)));
    let asked = Some(vec!["b".to_owned()]);
    let part =
        What::Saw { source: Source::Server, version: 3, items: Items::new(), asked, waited_for: 0 };
    assert_eq!(check(&with([event(2, 3, 4, part)])), Err(Wrong::NeverSo(3)));
}

#[test]
fn a_copy_that_goes_back_is_found() {
    let back = with([
        event(2, 20, 21, saw(Source::Copy, 7, &[("a", 4, 12)])),
        event(2, 22, 23, saw(Source::Copy, 4, &[("a", 4, 12), ("b", 3, 11)])),
    ]);
    assert_eq!(check(&back), Err(Wrong::WentBack(4, 3)));
}

#[test]
fn a_write_that_is_not_read_is_found() {
    let items = Items::from([("a".to_owned(), (4, 12)), ("b".to_owned(), (3, 11))]);
    let late = What::Saw { source: Source::Copy, version: 4, items, asked: None, waited_for: 7 };
    assert_eq!(check(&with([event(0, 20, 21, late)])), Err(Wrong::NotWaitedFor(3)));
}

/// Two clients take the same version and both are told that they were first.
#[test]
fn a_lost_update_is_found() {
    let lost = with([
        event(2, 20, 25, committed_if(item("a", 4), 7, 8, "a", 20)),
        event(3, 20, 25, committed_if(item("a", 4), 8, 9, "a", 21)),
    ]);
    assert_eq!(check(&lost), Err(Wrong::HappenedAnyway(4)));
    let head = with([event(2, 20, 21, committed_if(Condition::Head(4), 7, 8, "a", 20))]);
    assert_eq!(check(&head), Err(Wrong::HappenedAnyway(3)));
    let absent = Condition::Absent("a".to_owned());
    let twice = with([event(2, 20, 21, committed_if(absent, 7, 8, "a", 20))]);
    assert_eq!(check(&twice), Err(Wrong::HappenedAnyway(3)));
}

#[test]
fn a_refusal_without_a_reason_is_found() {
    let conditions =
        [item("a", 4), Condition::Present("a".to_owned()), Condition::Absent("b".to_owned())];
    for condition in conditions {
        // Nothing changes any more: the condition holds all the time.
        let refused = with([event(2, 20, 21, What::Refused(condition.clone()))]);
        assert_eq!(check(&refused), Err(Wrong::RefusedAnyway(3)), "{condition:?}");
    }
    // While something changes, there was a moment for the refusal.
    check(&with([event(2, 6, 8, What::Refused(item("a", 4)))])).unwrap();
}
