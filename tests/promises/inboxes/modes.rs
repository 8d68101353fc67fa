//! How followers are told changes while streams are open and under load: no change falls between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sync_proto::types::InboxEntry;
use sync_proto::v1;
use sync_tests::compose::{name, put};
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;

use super::reader::{Inbox, pull_inbox};
use super::{diffusion, follow, only_read, pin, truth, unfollow};

/// G1, G7: an audience that outgrows what is written to is read at once, and written to again when
/// it is small enough, while streams are open; each move is told, and the last one always.
#[tokio::test(flavor = "multi_thread")]
async fn an_audience_grows_and_shrinks_under_open_streams() {
    let server = TestServer::with(|config| {
        (config.write_audience_max, config.fan_out_dwell_s) = (4, 0);
        config.notice_interval_ms = 10;
    })
    .await;
    let wire = server.wire();
    wire.commit(vec![put("g", "k", "0"), follow("g", "s0"), follow("g", "s1")]).await;
    let mut reader = Inbox::of("s0");
    reader.pull(wire).await;
    let mut events = wire.subscribe(vec![reader.target()]).await;
    events.accepted().await;
    for round in 1..=3 {
        wire.commit((2..6).map(|number| follow("g", &format!("s{number}"))).collect()).await;
        assert_eq!(diffusion(wire, "g").await, v1::Diffusion::Read);
        let before = reader.notices;
        for step in 0..5 {
            wire.commit(vec![put("g", "k", format!("{round} {step}"))]).await;
        }
        let now = truth(wire, "g").await;
        reader.hears_of(&mut events, &name("g"), |entry| entry == Some(now)).await;
        assert!(reader.notices > before, "by a notice");
        let (_, polled) = pull_inbox(wire, reader.target(), 0).await;
        assert_eq!(polled.heads[0].entry, now);

        wire.commit((2..6).map(|number| unfollow("g", &format!("s{number}"))).collect()).await;
        until_true("it is calm", async || diffusion(wire, "g").await == v1::Diffusion::Write).await;
        wire.commit(vec![put("g", "k", format!("{round} calm"))]).await;
        let now = truth(wire, "g").await;
        let entry = async |reader: &Inbox| reader.entries.get(&name("g")).copied();
        while entry(&reader).await != Some(now) {
            let event = events.next().await;
            reader.hear(event);
        }
        let (_, polled) = pull_inbox(wire, reader.target(), 0).await;
        assert_eq!(polled.heads, [], "the inbox says it");
    }
    server.stop().await;
}

/// Commits to one collection until it is told to stop.
async fn write(wire: Wire, collection: String, stop: Arc<AtomicBool>) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        wire.commit(vec![put(&collection, "k", number.to_string())]).await;
        number += 1;
    }
    number
}

/// Pulls an inbox until it is told to stop.
async fn poll(wire: Wire, mut reader: Inbox, stop: Arc<AtomicBool>) -> Inbox {
    while !stop.load(Ordering::Relaxed) {
        reader.pull(&wire).await;
    }
    reader.pull(&wire).await;
    reader
}

/// Follows a stream of an inbox until it knows where everything stands at last.
async fn listen(wire: Wire, mut reader: Inbox, goal: Arc<parking::Goal>) -> Inbox {
    let mut events = wire.subscribe(vec![reader.target()]).await;
    events.accepted().await;
    while !goal.reached(&reader) {
        let event = events.next().await;
        let before = (reader.notices, reader.changes);
        reader.hear(event);
        goal.heard(reader.notices - before.0, reader.changes - before.1);
    }
    reader
}

/// Where collections stand in the end, when that is known.
mod parking {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use sync_proto::types::{CollectionName, InboxEntry};

    use super::Inbox;

    #[derive(Debug, Default)]
    pub(super) struct Goal {
        last: OnceLock<Vec<(CollectionName, InboxEntry)>>,
        /// What all listeners have heard so far.
        notices: AtomicU64,
        changes: AtomicU64,
    }

    impl Goal {
        pub(super) fn set(&self, goal: Vec<(CollectionName, InboxEntry)>) {
            self.last.set(goal).unwrap();
        }

        pub(super) fn heard(&self, notices: u64, changes: u64) {
            self.notices.fetch_add(notices, Ordering::Relaxed);
            self.changes.fetch_add(changes, Ordering::Relaxed);
        }

        /// Both ways were taken more often than a few times.
        pub(super) fn both_ways(&self) -> bool {
            let many = |count: &AtomicU64| count.load(Ordering::Relaxed) > 20;
            many(&self.notices) && many(&self.changes)
        }

        pub(super) fn reached(&self, reader: &Inbox) -> bool {
            let goal = self.last.get();
            goal.is_some_and(|goal| {
                goal.iter().all(|(name, entry)| reader.knows(name) == Some(*entry))
            })
        }
    }
}

/// G1, G7: strategies flip in both directions under load; streams and pulls know in the end where
/// everything stands, and no entry is wrong on the way.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_falls_between_the_modes() {
    let server = TestServer::with(|config| config.notice_interval_ms = 10).await;
    let wire = server.wire();
    let names: Vec<String> = (0..3).map(|number| format!("g/{number}")).collect();
    for name in &names {
        wire.commit(vec![put(name, "k", "first"), follow(name, "one"), follow(name, "two")]).await;
    }
    let (tasks, stop) = (TaskTracker::new(), Arc::new(AtomicBool::new(false)));
    let goal = Arc::new(parking::Goal::default());
    let poller = tasks.spawn(poll(server.new_connection(), Inbox::of("one"), Arc::clone(&stop)));
    let listeners = ["one", "two"].map(|subject| {
        let listening = listen(server.new_connection(), Inbox::of(subject), Arc::clone(&goal));
        tasks.spawn(listening)
    });
    let writers: Vec<_> = names
        .iter()
        .map(|name| tasks.spawn(write(server.new_connection(), name.clone(), Arc::clone(&stop))))
        .collect();
    // On a slow machine more flips than these are needed until much was told in both ways.
    let enough = |round: usize| round >= 60 && goal.both_ways() || round >= 6_000;
    for round in (0..).take_while(|round| !enough(*round)) {
        let collection = &names[round % names.len()];
        let to = if round % 2 == 0 { v1::Diffusion::Read } else { v1::Diffusion::Write };
        pin(wire, collection, to).await;
        assert_eq!(diffusion(wire, collection).await, to);
        if round % 20 == 19 {
            wire.delete_collection(collection).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut commits = 0;
    for writer in writers {
        commits += within("a writer to end", writer).await.unwrap();
    }
    let mut last = Vec::new();
    for collection in &names {
        wire.commit(vec![put(collection, "k", "last")]).await;
        last.push((name(collection), truth(wire, collection).await));
    }
    goal.set(last.clone());
    let mut poller = within("the poller to end", poller).await.unwrap();
    poller.pull(wire).await;
    assert!(goal.reached(&poller), "{:?} instead of {last:?}", poller.besides);
    let (mut notices, mut changes) = (0, 0);
    for listener in listeners {
        let listener = within("a listener to know everything", listener).await.unwrap();
        notices += listener.notices;
        changes += listener.changes;
    }
    eprintln!("{commits} commits, {changes} entries and {notices} notices heard");
    assert!(notices > 20 && changes > 20, "{notices} notices, {changes} changes");
    server.stop().await;
}

/// G8: a hot collection costs a stream one notice in a while, however often it moves, and the last
/// move is told.
#[tokio::test(flavor = "multi_thread")]
async fn notices_are_rare_and_the_last_is_told() {
    let server = TestServer::with(|config| {
        only_read(config);
        config.notice_interval_ms = 300;
    })
    .await;
    let wire = server.wire();
    wire.commit(vec![follow("hot", "alice")]).await;
    let mut reader = Inbox::of("alice");
    reader.pull(wire).await;
    let mut events = wire.subscribe(vec![reader.target()]).await;
    events.accepted().await;
    let began = std::time::Instant::now();
    for number in 0..300 {
        wire.commit(vec![put("hot", "k", number.to_string())]).await;
    }
    let last = truth(wire, "hot").await;
    reader.hears_of(&mut events, &name("hot"), |entry| entry == Some(last)).await;
    let most = began.elapsed().as_millis() / Duration::from_millis(300).as_millis() + 1;
    assert!(u128::from(reader.notices) <= most, "{} notices in {most} intervals", reader.notices);
    wire.delete_collection("hot").await;
    let gone = |entry: Option<InboxEntry>| entry.is_some_and(|entry| entry.stands_at().is_none());
    reader.hears_of(&mut events, &name("hot"), gone).await;
    // Behind, the entry is brought up to date too.
    let entry = async || {
        let mut fresh = Inbox::of("alice");
        fresh.pull(wire).await;
        fresh.entries.get(&name("hot")).copied()
    };
    let InboxEntry::Exists(epoch, version) = last else { panic!("{last:?}") };
    let deleted = InboxEntry::Deleted(epoch, version);
    until_true("the sweep", async || entry().await == Some(deleted)).await;
    server.stop().await;
}
