//! One stream takes a reader from nothing to live, without a seam. `PlainReader::hear` refuses
//! every gap, every repeat and every bookmark that overtakes a change.

use sync_proto::types::{Condition, Event, Plan, ResetReason, Target, Version};
use sync_tests::compose::{after, commit, commit_if, name, put, scratch, scratch_of, version};
use sync_tests::reader::PlainReader;
use sync_tests::server::TestServer;
use sync_tests::stream::Events;
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;

/// A first load of this many items takes five pages.
const LOADED: usize = 5_000;

/// G7: the first message says how each target is served, in request order.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_comes_first_and_tells_every_plan() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for collection in ["live", "behind", "fresh", "told"] {
        wire.commit(vec![put(collection, "a", "1")]).await;
    }
    let mut targets = Vec::new();
    for collection in ["live", "behind"] {
        targets.push(wire.load(collection).await.target);
    }
    wire.commit(vec![put("behind", "a", "2")]).await;
    let mut ahead = wire.load("told").await.target;
    ahead.cursor.as_mut().unwrap().version = version(9);
    ahead.collection = name("told");
    targets.extend([scratch("fresh"), scratch("none"), ahead]);
    targets.push(Target { notify_only: true, ..scratch("other") });
    let mut events = wire.subscribe(targets.clone()).await;
    let accepted = events.accepted().await;
    assert!(accepted.iter().map(|a| &a.collection).eq(targets.iter().map(|t| &t.collection)));
    let plans: Vec<&Plan> = accepted.iter().map(|accepted| &accepted.plan).collect();
    let [Plan::Live, Plan::CatchUp, Plan::Load, Plan::Absent, Plan::Reset(reset), Plan::Notify] =
        plans.as_slice()
    else {
        panic!("{plans:?}")
    };
    assert_eq!(reset.reason, ResetReason::AheadOfHead);
    server.stop().await;
}

/// G4, G7: subscribers that join while snapshots are read and a writer goes on: first load,
/// catch-up and live arrive without gap or repeat, and end at the server's items.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_joins_the_live_changes_without_a_seam() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let rows = |n: usize| put("list", format!("row {n:04}"), "a value of some length");
    wire.commit((0..LOADED).map(rows).collect()).await;
    // Spread over versions, so that the load has somewhere to be cut.
    for part in 0..LOADED / 100 {
        let row = |n| put("list", format!("row {:04}", part * 100 + n), "again");
        wire.commit((0..100).map(row).collect()).await;
    }
    let tracker = TaskTracker::new();
    let writes = 300;
    let last = version(1 + u64::try_from(LOADED / 100 + writes).unwrap());
    let mut following = Vec::new();
    for number in 0..writes {
        let row = format!("row {:04}", number * 37 % LOADED);
        let write = if number % 3 == 0 {
            sync_tests::compose::delete("list", row)
        } else {
            put("list", row, format!("live {number}"))
        };
        wire.commit(vec![write, put("list", "ticker", number.to_string())]).await;
        if number % 30 == 0 {
            following.push(tracker.spawn(join(server.new_connection(), last)));
        }
    }
    let truth = wire.load("list").await;
    assert_eq!(truth.version(), last);
    for reader in following {
        let reader = reader.await.unwrap();
        assert!(reader.copy == truth.copy, "a subscriber ended with other items");
    }
    server.stop().await;
}

/// Follows from scratch to a version.
async fn join(wire: Wire, last: Version) -> PlainReader {
    let mut reader = PlainReader::new(scratch("list"));
    let mut events = wire.subscribe(vec![reader.target.clone()]).await;
    events.accepted().await;
    reader.follow_to(&mut events, last).await;
    reader
}

/// G7: 200 subscribers of one collection, some from scratch, some from a cursor, while a writer
/// races: each hears every change exactly once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_subscribers_hear_everything_once_in_order() {
    const WRITES: u64 = 300;
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "0", "")]).await;
    let from_one = wire.load("list").await;
    let tracker = TaskTracker::new();
    let mut subscribers = Vec::new();
    for number in 0..200 {
        let connection = if number % 50 == 0 { server.new_connection() } else { wire.clone() };
        let mut reader = from_one.clone();
        if number % 2 == 0 {
            reader = PlainReader::new(scratch("list"));
        }
        subscribers.push(tracker.spawn(async move {
            let mut events = connection.subscribe(vec![reader.target.clone()]).await;
            events.accepted().await;
            reader.follow_to(&mut events, version(WRITES + 1)).await;
            reader
        }));
    }
    for number in 1..=WRITES {
        assert_eq!(
            wire.commit(vec![put("list", number.to_string(), "")]).await,
            version(number + 1)
        );
    }
    for subscriber in subscribers {
        let reader = subscriber.await.unwrap();
        // No key was written twice, so nothing can have been coalesced away or sent again.
        assert_eq!((reader.copy.rows.len(), reader.seen.changes), (301, 301));
    }
    server.stop().await;
}

/// G7, X11: while changes flow, bookmarks come too and never overtake one: at each of them the
/// copy has exactly the digest that it tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_never_overtakes_a_change() {
    let server = TestServer::start().await;
    let wire = server.wire().clone();
    let mut reader = PlainReader::new(scratch("list"));
    let mut events = wire.subscribe(vec![reader.target.clone()]).await;
    events.accepted().await;
    let writer = TaskTracker::new().spawn(async move {
        for number in 0..1_500 {
            wire.commit(vec![put("list", format!("{}", number % 50), number.to_string())]).await;
        }
    });
    let mut bookmarks = 0;
    while reader.version() < version(1_500) {
        let event = events.next().await;
        let compared = reader.seen.digests;
        reader.hear(&event);
        if let Event::Bookmark(positions, _) = &event
            && !positions.is_empty()
        {
            assert_eq!(reader.seen.digests, compared + 1);
            bookmarks += 1;
        }
    }
    writer.await.unwrap();
    assert!(bookmarks >= 1, "the heartbeat beats also while changes flow");
    server.stop().await;
}

/// X11: streams with nothing to say still say that they live: idle, of what does not exist, and
/// of a part in which nothing happens; the latter's cursor moves.
#[tokio::test(flavor = "multi_thread")]
async fn quiet_streams_get_bookmarks() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let mut filtered = PlainReader::new(scratch_of("list", "mine/"));
    filtered.catch_up(wire).await;
    let idle = wire.load("list").await.target;
    let notified = Target { notify_only: true, ..scratch("list") };
    for target in [idle, scratch("none"), filtered.target.clone(), notified] {
        let mut events = wire.subscribe(vec![target]).await;
        events.accepted().await;
        for _ in 0..2 {
            let event = events.next().await;
            assert!(matches!(event, Event::Bookmark(..)), "{event:?}");
        }
    }
    let mut events = wire.subscribe(vec![filtered.target.clone()]).await;
    events.accepted().await;
    let head = wire.commit(vec![put("list", "b", "1")]).await;
    filtered.follow_to(&mut events, head).await;
    assert_eq!(filtered.seen.changes, 0, "the bookmark told it");
    server.stop().await;
}

/// Notices tell that heads moved and send no changes; a notice is a level, not a count.
#[tokio::test(flavor = "multi_thread")]
async fn notices_tell_heads_and_send_no_changes() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let targets = ["list", "none"].map(|name| Target { notify_only: true, ..scratch(name) });
    let mut events = wire.subscribe(targets.to_vec()).await;
    events.accepted().await;
    for number in 2..5 {
        let version = wire.commit(vec![put("list", "a", number.to_string())]).await;
        let event = events.next_news().await;
        let Event::Notice(of, head) = event else { panic!("{event:?}") };
        assert_eq!((of, head.version), (name("list"), version));
    }
    wire.commit(vec![put("none", "a", "1")]).await;
    let event = events.next_news().await;
    assert!(matches!(&event, Event::Notice(of, _) if *of == name("none")), "{event:?}");
    wire.delete_collection("list").await;
    let event = events.next_news().await;
    assert!(matches!(&event, Event::Absent(of) if *of == name("list")), "{event:?}");
    server.stop().await;
}

/// G1, G7: a target outlives its collection: absent, created, loaded, deleted, created again.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_follows_its_collection_through_all_lives() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let mut reader = PlainReader::new(scratch("list"));
    let mut events = wire.subscribe(vec![reader.target.clone()]).await;
    assert_eq!(events.accepted().await[0].plan, Plan::Absent);
    for life in 0..3 {
        for number in 0..=life {
            let version = wire.commit(vec![put("list", format!("{life} {number}"), "")]).await;
            reader.follow_to(&mut events, version).await;
        }
        assert_eq!(reader.copy.rows.len(), life + 1, "only the items of this life");
        wire.delete_collection("list").await;
        hear_until_absent(&mut reader, &mut events).await;
        assert!(reader.copy.rows.is_empty() && reader.target.cursor.is_none());
    }
    server.stop().await;
}

async fn hear_until_absent(reader: &mut PlainReader, events: &mut Events) {
    loop {
        let event = events.next().await;
        reader.hear(&event);
        if matches!(event, Event::Absent(_)) {
            return;
        }
    }
}

/// G6: a target that cannot go on ends alone; the others of the stream go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_its_target_only() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for number in 0..5 {
        wire.commit(vec![put("large", number.to_string(), "")]).await;
    }
    let first = wire.page(scratch("large"), 1).await.to;
    let old = sync_proto::types::Cursor { base: Version::ZERO, ..first };
    let mut reader = PlainReader::new(scratch("small"));
    let large = Target { changes_max: Some(2), ..after("large", old) };
    let mut events = wire.subscribe(vec![large, reader.target.clone()]).await;
    events.accepted().await;
    let event = events.next_news().await;
    let Event::Reset(ended, reset) = event else { panic!("{event:?}") };
    assert_eq!((ended, reset.reason), (name("large"), ResetReason::TooLarge));
    wire.commit(vec![put("large", "after the end", "")]).await;
    let head = wire.commit(vec![put("small", "a", "1")]).await;
    while reader.version() < head {
        let event = events.next().await;
        assert!(!matches!(&event, Event::Changes(of, _) if *of == name("large")), "{event:?}");
        reader.hear(&event);
    }
    server.stop().await;
}

/// R13: `max_changes` is about the catch-up: a target that was live from the start has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_target_is_not_judged_by_the_size_of_a_commit() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1")]).await;
    let mut reader = wire.load("list").await;
    reader.target.changes_max = Some(1);
    let mut events = wire.subscribe(vec![reader.target.clone()]).await;
    assert_eq!(events.accepted().await[0].plan, Plan::Live);
    let last = wire.commit(vec![put("list", "b", "2"), put("list", "c", "2")]).await;
    reader.follow_to(&mut events, last).await;
    assert_eq!((reader.copy.rows.len(), reader.seen.resets), (3, 0));
    server.stop().await;
}

/// G3: a writer that has its answer finds its change on every stream; what was refused is
/// nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_never_shown() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let mut reader = PlainReader::new(scratch("list"));
    let mut events = wire.subscribe(vec![reader.target.clone()]).await;
    events.accepted().await;
    wire.try_commit(commit(vec![put("list", "a", "1")])).await.unwrap();
    let absent = Condition::CollectionAbsent;
    let refused = commit_if("list", absent, vec![put("list", "refused", "1")]);
    wire.try_commit(refused).await.unwrap_err();
    let head = wire.commit(vec![put("list", "b", "1")]).await;
    reader.follow_to(&mut events, head).await;
    assert_eq!((head, reader.copy.rows.len()), (version(2), 2));
    server.stop().await;
}
