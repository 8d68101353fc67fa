//! A slow reader delays nobody, costs bounded memory and is not dropped: when it reads again it
//! gets what it missed, coalesced.

use std::time::{Duration, Instant};

use sync_proto::types::{ChangeKind, Event, Goodbye, GoodbyeReason, Subscribe, Target};
use sync_proto::v1;
use sync_tests::compose::{name, put, scratch, version};
use sync_tests::reader::PlainReader;
use sync_tests::server::TestServer;
use sync_tests::stream::Events;
use sync_tests::wait::{pass, until_true};
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::transport::Endpoint;

/// Bytes of one value of the flood.
const LARGE: usize = 200_000;

/// Commits of the flood: 60 MB over ten keys, far beyond every window of the transport.
const FLOOD: usize = 300;

/// G8, X10: a subscriber stops reading during a flood of 60 MB. Commits go on, another subscriber
/// keeps up, and the stalled one gets a few megabytes: what lay in the transport, `Lagging`, the
/// latest state once, `CaughtUp`.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_is_caught_up_by_coalesced_changes() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let mut stalled = PlainReader::new(scratch("list"));
    let mut stalled_events = server.new_connection().subscribe(vec![scratch("list")]).await;
    stalled_events.accepted().await;
    let mut brisk = PlainReader::new(scratch("list"));
    let mut brisk_events = server.new_connection().subscribe(vec![scratch("list")]).await;
    let last = version(u64::try_from(FLOOD).unwrap());
    let brisk = TaskTracker::new().spawn(async move {
        brisk.follow_to(&mut brisk_events, last).await;
        brisk
    });
    for number in 0..FLOOD {
        let value = vec![u8::try_from(number % 251).unwrap(); LARGE];
        wire.commit(vec![put("list", format!("{}", number % 10), value)]).await;
    }
    let keeping_up = Instant::now();
    let brisk = brisk.await.unwrap();
    assert!(keeping_up.elapsed() < Duration::from_secs(5), "the brisk reader was delayed");
    // Long enough that the server notices.
    pass(Duration::from_millis(1_500)).await;

    let mut signs = Vec::new();
    while stalled.version() < last {
        let event = stalled_events.next().await;
        note(&event, &mut signs);
        stalled.hear(&event);
    }
    while signs.last() != Some(&"caught up") {
        note(&stalled_events.next().await, &mut signs);
    }
    assert!(stalled.copy == brisk.copy);
    let lagged =
        signs.iter().position(|sign| *sign == "lagging").expect("it was told that it lags");
    assert!(signs[lagged..].contains(&"changes"), "{signs:?}");
    assert!(stalled.seen.changes < 100, "{} changes of {FLOOD}", stalled.seen.changes);
    server.stop().await;
}

fn note(event: &Event, signs: &mut Vec<&str>) {
    match event {
        Event::Lagging(_, behind) => {
            assert!(*behind > 0);
            signs.push("lagging");
        }
        Event::Changes(..) => signs.push("changes"),
        Event::CaughtUp(..) => signs.push("caught up"),
        Event::Accepted(..)
        | Event::Notice(..)
        | Event::InboxNotice(_)
        | Event::Bookmark(..)
        | Event::Reset(..)
        | Event::Absent(_)
        | Event::Revoked(_)
        | Event::Failed(..)
        | Event::Goodbye(_) => {}
    }
}

/// G8, G11: when those who do not read hold all room for pages, small news and bookmarks reach those
/// who do; what is large comes when others were cut.
#[tokio::test(flavor = "multi_thread")]
async fn small_news_wait_for_no_pages() {
    let server = TestServer::with(|config| config.pages_mib = 16).await;
    let wire = server.wire();
    wire.commit(vec![put("news", "k", "0")]).await;
    let mut events = server.new_connection().subscribe(vec![scratch("news")]).await;
    while !matches!(events.next().await, Event::CaughtUp(..)) {}
    let stalled = hold_pages(&server).await;
    let (began, mut slowest, mut bookmarks) = (Instant::now(), Duration::ZERO, 0);
    for number in 1.. {
        let sent = Instant::now();
        wire.commit(vec![put("news", "k", number.to_string())]).await;
        while !matches!(events.next().await, Event::Changes(..)) {
            bookmarks += 1;
        }
        slowest = slowest.max(sent.elapsed());
        pass(Duration::from_millis(20)).await;
        // Those who take nothing are cut after two seconds.
        if began.elapsed() > Duration::from_millis(1_500) {
            break;
        }
    }
    assert!(slowest < Duration::from_millis(500), "news took {slowest:?}");
    assert!(bookmarks > 3, "{bookmarks} signs of life in a second and a half");
    let long = vec![b'n'; 50_000];
    wire.commit(vec![put("news", "k", &long)]).await;
    loop {
        if let Event::Changes(_, delta) = events.next().await
            && let ChangeKind::Put { value: Some(value), .. } = &delta.changes[0].kind
            && value.as_bytes() == long
        {
            break;
        }
    }
    drop(stalled);
    server.stop().await;
}

/// Subscribers that are sent what they do not take, until there is no room for pages, of 16 MiB.
async fn hold_pages(server: &TestServer) -> Vec<Events> {
    let wire = server.wire();
    wire.commit(vec![put("large", "k", "")]).await;
    let before = wire.head(&name("large")).await.unwrap().cursor();
    wire.commit(vec![put("large", "k", vec![b'l'; 1_000_000])]).await;
    let mut stalled = Vec::new();
    for _ in 0..14 {
        let resume = Target::all(name("large"), Some(before));
        stalled.push(narrow(server).subscribe(vec![resume]).await);
    }
    // The first of them have room.
    for events in &mut stalled[..8] {
        events.accepted().await;
    }
    stalled
}

/// G8, G11: a stream with something large to say tells that it lives while there is no room for that,
/// and keeps its place meanwhile: what is large comes when others were cut, which is after two seconds
/// of waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_waits_for_room_tells_that_it_lives() {
    let server = TestServer::with(|config| config.pages_mib = 16).await;
    let wire = server.wire();
    wire.commit(vec![put("list", "k", "0")]).await;
    let mut events = server.new_connection().subscribe(vec![scratch("list")]).await;
    while !matches!(events.next().await, Event::CaughtUp(..)) {}
    let stalled = hold_pages(&server).await;
    let began = Instant::now();
    wire.commit(vec![put("list", "k", vec![b'n'; 50_000])]).await;
    let mut bookmarks = Vec::new();
    loop {
        let event = events.next().await;
        if matches!(event, Event::Changes(..)) {
            break;
        }
        if matches!(event, Event::Bookmark(..)) {
            bookmarks.push(began.elapsed());
        }
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_500), "there was room after {took:?}");
    let late = bookmarks.iter().filter(|at| **at > Duration::from_secs(1)).count();
    assert!(late >= 3, "signs of life at {bookmarks:?} of {took:?}");
    drop(stalled);
    server.stop().await;
}

/// A connection whose streams take a few KB and no more.
fn narrow(server: &TestServer) -> Wire {
    let endpoint = Endpoint::from_shared(server.uri()).unwrap();
    Wire::over(endpoint.initial_stream_window_size(20_000).connect_lazy())
}

/// G8, G11: when those who do not read hold all room for first loads, a resume comes at once, also on
/// a stream with a first load of its own; that one comes when others were cut.
#[tokio::test(flavor = "multi_thread")]
async fn resumes_wait_for_no_first_loads() {
    let server = TestServer::with(|config| (config.loads_mib, config.pages_mib) = (16, 16)).await;
    let wire = server.wire();
    wire.commit(vec![put("large", "k", vec![b'l'; 1_000_000])]).await;
    wire.commit(vec![put("list", "k", "")]).await;
    let before = wire.head(&name("list")).await.unwrap().cursor();
    wire.commit(vec![put("list", "k", vec![b'x'; 300_000])]).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(narrow(&server).subscribe(vec![scratch("large")]).await);
    }
    // The first of them have room; nobody is cut before others have waited for two seconds.
    for events in &mut stalled[..8] {
        events.accepted().await;
    }
    pass(Duration::from_millis(200)).await;
    let asked = Instant::now();
    let resume = || Target::all(name("list"), Some(before));
    let mut alone = server.new_connection().subscribe(vec![resume()]).await;
    let mut beside = server.new_connection().subscribe(vec![scratch("large"), resume()]).await;
    for events in [&mut beside, &mut alone] {
        events.accepted().await;
        let event = events.next_news().await;
        let took = asked.elapsed();
        assert!(matches!(&event, Event::Changes(of, _) if *of == name("list")), "{event:?}");
        assert!(took < Duration::from_secs(1), "it took {took:?}");
    }
    while !matches!(beside.next().await, Event::CaughtUp(of, _) if of == name("large")) {}
    drop(stalled);
    server.stop().await;
}

/// G8: a target that is far behind does not hide the others of its stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_load_does_not_hide_the_other_targets() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for part in 0..40 {
        let rows = (0..1_000).map(|n| put("large", format!("{part} {n}"), "value"));
        wire.commit(rows.collect()).await;
    }
    wire.commit(vec![put("small", "a", "1")]).await;
    let mut events = wire.subscribe(vec![scratch("large"), scratch("small")]).await;
    events.accepted().await;
    let mut pages = 0;
    loop {
        let event = events.next_news().await;
        let Event::Changes(of, _) = event else { panic!("{event:?}") };
        if of == name("small") {
            break;
        }
        pages += 1;
    }
    assert!(pages <= 2, "{pages} pages of the large one came first");
    server.stop().await;
}

/// G8: streams are counted; one that ends makes room, and nothing else is refused meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_capped_and_their_places_come_back() {
    let server = TestServer::with(|config| config.streams_max = 3).await;
    let wire = server.wire();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut events = wire.subscribe(vec![scratch("list")]).await;
        events.accepted().await;
        open.push(events);
    }
    let ask = || {
        let heartbeat = Duration::from_secs(1);
        Subscribe { targets: vec![scratch("list")], heartbeat, client_id: String::new() }
    };
    let refusal = wire.try_subscribe(ask()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    wire.commit(vec![put("list", "a", "1")]).await;
    open.pop();
    until_true("the place of a dropped stream to come back", async || {
        wire.try_subscribe(ask()).await.is_ok()
    })
    .await;
    server.stop().await;
}

/// A stream that has grown old is moved with a goodbye, not cut.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_stream_ends_with_a_goodbye() {
    let server = TestServer::with(|config| config.stream_age_max_s = 1).await;
    let mut events = server.wire().subscribe(vec![scratch("list")]).await;
    events.accepted().await;
    let event = events.next_news().await;
    let Event::Goodbye(Goodbye { reason, .. }) = event else { panic!("{event:?}") };
    assert_eq!(reason, GoodbyeReason::MaxAge);
    assert_eq!(events.try_next().await.unwrap(), None, "nothing follows a goodbye");
    server.stop().await;
}

/// G11: what cannot be a subscription is refused as a whole, naming the field and the limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_not_well_formed_is_refused() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let good = v1::Target { collection: "list".to_owned(), ..Default::default() };
    let many = |count: usize| {
        let target = |n| v1::Target { collection: format!("list/{n}"), ..Default::default() };
        v1::SubscribeRequest { targets: (0..count).map(target).collect(), ..Default::default() }
    };
    let beat = |heartbeat_ms| v1::SubscribeRequest { heartbeat_ms, ..many(1) };
    let twice = v1::SubscribeRequest { targets: vec![good.clone(); 2], ..Default::default() };
    let long = v1::SubscribeRequest { client_id: "x".repeat(129), ..many(1) };
    let nameless =
        v1::SubscribeRequest { targets: vec![good, v1::Target::default()], ..Default::default() };
    for (request, field) in [
        (many(0), "targets"),
        (many(1_025), "targets"),
        (twice, "targets[1].collection"),
        (nameless, "targets[1].collection"),
        (beat(99), "heartbeat_ms"),
        (beat(60_001), "heartbeat_ms"),
        (long, "client_id"),
    ] {
        let refusal = wire.sync().subscribe(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{field}: {refusal}");
        assert!(refusal.message().starts_with(&format!("{field}: ")), "{field}: {refusal}");
    }
    for request in [many(1_024), beat(100), beat(60_000)] {
        wire.sync().subscribe(request).await.unwrap();
    }
    let acked = Target { from_last_ack: true, ..scratch("list") };
    let ask = Subscribe {
        targets: vec![acked],
        heartbeat: Duration::from_secs(1),
        client_id: String::new(),
    };
    let refusal = wire.try_subscribe(ask).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    assert!(refusal.message().starts_with("targets[0].from_last_ack: "), "{refusal}");
    server.stop().await;
}
