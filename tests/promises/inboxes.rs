//! Inboxes tell subjects of what they follow: by entries, by what a pull says besides, by notices.
//! No change falls between, whichever way it is told.

use sha2::{Digest as _, Sha256};
use sync_proto::types::{
    CollectionName, Epoch, Event, InboxEntry, Mutation, Op, Outcome, Subject, Target, Version,
};
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use sync_server::backup::restore::{contents, restore};
use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::store::Store as _;
use sync_server::store::memory::MemoryStore;
use sync_tests::compose::{commit, delete, name, put};
use sync_tests::data::hex;
use sync_tests::server::TestServer;
use sync_tests::wait::{until, until_true, within};
use sync_tests::wire::Wire;
use tonic::Code;

use self::reader::{Inbox, audience, follows, pull_inbox};

mod modes;
mod reader;

fn follow(collection: &str, subject: &str) -> Mutation {
    let subject = Subject::new(subject).unwrap();
    Mutation { collection: name(collection), op: Op::Follow { subject } }
}

fn unfollow(collection: &str, subject: &str) -> Mutation {
    let subject = Subject::new(subject).unwrap();
    Mutation { collection: name(collection), op: Op::Unfollow { subject } }
}

async fn truth(wire: &Wire, collection: &str) -> InboxEntry {
    let head = wire.head(&name(collection)).await.unwrap();
    InboxEntry::Exists(head.epoch, head.version)
}

async fn diffusion(wire: &Wire, collection: &str) -> v1::Diffusion {
    let request = v1::InspectCollectionRequest { collection: collection.to_owned() };
    let mut client = wire.admin();
    within("an inspection", client.inspect_collection(request))
        .await
        .unwrap()
        .into_inner()
        .diffusion()
}

async fn pin(wire: &Wire, collection: &str, diffusion: v1::Diffusion) {
    let policy = Some(v1::Policy { diffusion: diffusion.into(), ..Default::default() });
    let collection = collection.to_owned();
    let request = v1::SetPolicyRequest { collection, policy, ..Default::default() };
    // A collection that was just deleted is created by its next commit.
    until("a pin", async || {
        let mut client = wire.admin();
        match client.set_policy(request.clone()).await {
            Ok(_) => Some(()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await;
}

/// Every collection is read by its followers.
fn only_read(config: &mut Config) {
    (config.write_audience_max, config.notice_interval_ms) = (0, 10);
}

/// G4: who follows is told in the batch of the commit: what does not exist yet, what moves, what is
/// deleted, what begins a new life. To follow no longer is something else than a deletion.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_of_a_followed_collection_is_told() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let told = wire.try_commit(commit(vec![follow("g/1", "alice")])).await.unwrap();
    assert_eq!((told[0].epoch, told[0].version), (None, Version::ZERO), "it does not exist yet");
    let mut alice = Inbox::of("alice");
    alice.pull(wire).await;
    assert_eq!(alice.knows(&name("g/1")), Some(InboxEntry::Absent));
    let mut events = wire.subscribe(vec![alice.target()]).await;
    events.accepted().await;
    wire.commit(vec![put("g/1", "a", "1"), follow("g/2", "alice")]).await;
    let first = truth(wire, "g/1").await;
    alice.hears_of(&mut events, &name("g/1"), |entry| entry == Some(first)).await;
    assert_eq!(alice.knows(&name("g/2")), Some(InboxEntry::Absent), "in the same version");
    let InboxEntry::Exists(epoch, version) = first else { panic!("{first:?}") };

    wire.delete_collection("g/1").await;
    let gone = InboxEntry::Deleted(epoch, version);
    alice.hears_of(&mut events, &name("g/1"), |entry| entry == Some(gone)).await;
    wire.commit(vec![follow("g/1", "bob")]).await;
    let mut bob = Inbox::of("bob");
    bob.pull(wire).await;
    assert_eq!(bob.knows(&name("g/1")), Some(gone), "who comes later hears of the last life too");

    wire.commit(vec![put("g/1", "b", "2")]).await;
    let again = truth(wire, "g/1").await;
    assert_ne!(again, first);
    alice.hears_of(&mut events, &name("g/1"), |entry| entry == Some(again)).await;
    wire.commit(vec![unfollow("g/1", "alice"), unfollow("g/1", "nobody")]).await;
    alice.hears_of(&mut events, &name("g/1"), |entry| entry.is_none()).await;
    wire.commit(vec![put("g/1", "b", "3"), put("g/2", "b", "3")]).await;
    let other = truth(wire, "g/2").await;
    alice.hears_of(&mut events, &name("g/2"), |entry| entry == Some(other)).await;
    assert_eq!(alice.knows(&name("g/1")), None, "nothing more of what is not followed");
    bob.pull(wire).await;
    assert_eq!(bob.knows(&name("g/1")), Some(truth(wire, "g/1").await));
    server.stop().await;
}

/// G4: one commit over many followed collections is one version of an inbox; what changes nothing
/// there is none; following twice changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_moves_an_inbox_once() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let names: Vec<String> = (0..50).map(|number| format!("g/{number}")).collect();
    wire.commit(names.iter().map(|name| follow(name, "alice")).collect()).await;
    let inbox = Subject::new("alice").unwrap().inbox();
    let version = async || wire.head(&inbox).await.unwrap().version.get();
    assert_eq!(version().await, 1);
    wire.commit(names.iter().map(|name| put(name, "k", "v")).collect()).await;
    assert_eq!(version().await, 2);
    wire.commit(names.iter().map(|name| put(name, "k", "v")).collect()).await;
    wire.commit(names.iter().map(|name| follow(name, "alice")).collect()).await;
    wire.commit(vec![unfollow("g/1", "bob")]).await;
    assert_eq!(version().await, 2, "nothing changed");
    let mut alice = Inbox::of("alice");
    alice.pull(wire).await;
    for name in &names {
        assert_eq!(alice.entries[&CollectionName::new(name).unwrap()], truth(wire, name).await);
    }
    server.stop().await;
}

/// G10, G11: inboxes are written by the server alone, and a commit says each thing once.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_into_an_inbox() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![follow("g", "alice")]).await;
    for mutation in [
        put("inbox/alice", "g", "lies"),
        delete("inbox/alice", "g"),
        follow("inbox/alice", "bob"),
        unfollow("inbox/alice", "bob"),
    ] {
        let refused = wire.try_commit(commit(vec![mutation])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let collection = "inbox/alice".to_owned();
    let request = v1::DeleteCollectionRequest { collection, head_equals: None };
    let refused = wire.write().delete_collection(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let twice = vec![follow("g", "alice"), unfollow("g", "alice")];
    let refused = wire.try_commit(commit(twice)).await.unwrap_err();
    assert!(refused.message().starts_with("mutations[1].subject: "), "{refused}");
    server.stop().await;
}

/// Whom a collection tells and what a subject hears of, page by page; also of what does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn audiences_and_follows_are_listed() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let subjects: Vec<String> = (0..25).map(|number| format!("s{number:02}")).collect();
    wire.commit(subjects.iter().map(|subject| follow("g", subject)).collect()).await;
    wire.commit(vec![follow("g/below", "s03"), follow("gg", "s03"), unfollow("g", "s07")]).await;
    let left: Vec<_> = subjects.iter().filter(|subject| *subject != "s07").cloned().collect();
    for page_size in [1, 7, 24, 1_000] {
        assert_eq!(audience(wire, "g", page_size).await, left);
        assert_eq!(follows(wire, "s03", page_size).await, ["g", "g/below", "gg"]);
    }
    assert!(audience(wire, "nothing", 9).await.is_empty());
    assert!(follows(wire, "nobody", 9).await.is_empty());
    let request = v1::ListAudienceRequest {
        collection: "g".to_owned(),
        page_token: b"made up".to_vec().into(),
        ..Default::default()
    };
    let refused = wire.admin().list_audience(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await;
}

/// G1: what is not announced is polled: all of it, page by page, within any budget, and only what
/// the inbox does not say already.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_inbox_does_not_announce_is_polled() {
    let server = TestServer::with(only_read).await;
    let wire = server.wire();
    let names: Vec<String> = (0..700).map(|number| format!("hot/{number:03}")).collect();
    wire.commit(names.iter().map(|name| follow(name, "alice")).collect()).await;
    wire.commit(names.iter().map(|name| follow(name, "bob")).collect()).await;
    let mut alice = Inbox::of("alice");
    let quiet = alice.pull(wire).await;
    assert!(quiet.iter().all(|polled| polled.heads.is_empty() && !polled.more), "nothing moved");
    wire.commit(names[..650].iter().map(|name| put(name, "k", "v")).collect()).await;

    let (outcome, first) = pull_inbox(wire, alice.target(), 0).await;
    assert!(matches!(outcome, Outcome::Aligned(_)), "{outcome:?}");
    assert_eq!((first.heads.len(), first.more), (512, true));
    let behind = Target { polled_after: Some(name(&names[511])), ..alice.target() };
    let (_, rest) = pull_inbox(wire, behind, 0).await;
    assert_eq!((rest.heads.len(), rest.more), (138, false));
    let told: Vec<_> =
        first.heads.iter().chain(&rest.heads).map(|head| head.collection.to_string()).collect();
    assert_eq!(told, names[..650]);
    for head in first.heads.iter().step_by(97) {
        assert_eq!(head.entry, truth(wire, head.collection.as_str()).await);
    }
    // However small the budget, each round gets on.
    let (mut after, mut rounds) = (Some(name(&names[600])), 0);
    while let Some(last) = after {
        let target = Target { polled_after: Some(last), ..alice.target() };
        let (_, some) = pull_inbox(wire, target, 200).await;
        assert!(!some.heads.is_empty() && some.heads.len() < 10, "{}", some.heads.len());
        rounds += some.heads.len();
        after = some.heads.last().map(|head| head.collection.clone()).filter(|_| some.more);
    }
    assert_eq!(rounds, 49);
    // A part of an inbox is told of that part.
    let scope = sync_proto::types::Scope::KeyPrefix("hot/00".into());
    let (_, part) = pull_inbox(wire, Target { scope, ..alice.target() }, 0).await;
    assert_eq!(part.heads.len(), 10);
    server.stop().await;
}

/// G10: who may read an inbox hears from it where things stand; a whole head is only shown to whom
/// the collection may be shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_notice_shows_nothing_that_may_not_be_read() {
    let token = |secret: &str, read: Vec<&str>| TokenConfig {
        sha256: hex(&Sha256::digest(secret)),
        subject: secret.to_owned(),
        read: read.into_iter().map(str::to_owned).collect(),
        write: vec!["*".to_owned()],
        admin: true,
    };
    let tokens = vec![token("authority", vec!["*"]), token("alice", vec!["inbox/alice", "open"])];
    let server = TestServer::with(|config| {
        only_read(config);
        config.tokens = tokens;
    })
    .await;
    let (authority, alice) = (server.wire().showing("authority"), server.wire().showing("alice"));
    authority.commit(vec![follow("open", "alice"), follow("closed", "alice")]).await;
    let mut reader = Inbox::of("alice");
    reader.pull(&alice).await;
    let mut events = alice.subscribe(vec![reader.target()]).await;
    events.accepted().await;
    for round in 0..5 {
        authority.commit(vec![put("closed", "k", round.to_string())]).await;
        authority.commit(vec![put("open", "k", round.to_string())]).await;
    }
    let wanted = truth(&authority, "open").await;
    reader.hears_of(&mut events, &name("open"), |entry| entry == Some(wanted)).await;
    assert_eq!(reader.knows(&name("closed")), Some(InboxEntry::Absent), "not from the stream");
    reader.pull(&alice).await;
    assert_eq!(reader.knows(&name("closed")), Some(truth(&authority, "closed").await));
    server.stop().await;
}

/// G2, G3: followers, modes and entries are there after a restart, also after a kill; an older
/// store than the first with followers opens without any.
#[tokio::test(flavor = "multi_thread")]
async fn followers_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let small = |config: &mut Config| config.write_audience_max = 2;
    let server = TestServer::on_disk(dir.path(), small).await;
    let wire = server.wire();
    wire.commit(vec![put("calm", "k", "1"), follow("calm", "a"), follow("calm", "b")]).await;
    wire.commit(["a", "b", "c"].map(|subject| follow("large", subject)).into()).await;
    wire.commit(vec![put("large", "k", "1")]).await;
    server.stop().await;

    let server = TestServer::on_disk(dir.path(), small).await;
    let wire = server.wire();
    assert_eq!(audience(wire, "large", 10).await, ["a", "b", "c"]);
    assert_eq!(diffusion(wire, "large").await, v1::Diffusion::Read);
    assert_eq!(diffusion(wire, "calm").await, v1::Diffusion::Write);
    wire.commit(vec![put("calm", "k", "2"), put("large", "k", "2")]).await;
    let mut reader = Inbox::of("a");
    let polled = reader.pull(wire).await;
    assert_eq!(polled.last().unwrap().heads[0].entry, truth(wire, "large").await);
    assert_eq!(reader.entries[&name("calm")], truth(wire, "calm").await);
    server.stop().await;
}

/// G1, G6: after a restore every inbox has a new epoch, who follows what is as it was, everything is
/// polled at first, and entries are brought up to date behind.
#[tokio::test(flavor = "multi_thread")]
async fn followers_survive_a_restore() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("g", "k", "1"), follow("g", "a"), follow("g", "b")]).await;
    wire.commit(vec![put("gone", "k", "1"), follow("gone", "a"), follow("never", "a")]).await;
    wire.delete_collection("gone").await;
    let mut reader = Inbox::of("a");
    reader.pull(wire).await;
    let stream = within("a backup", wire.admin().backup(v1::BackupRequest {})).await;
    let (mut stream, mut file) = (stream.unwrap().into_inner(), Vec::new());
    while let Some(piece) = within("a piece", stream.message()).await.unwrap() {
        file.extend(piece.chunk);
    }
    server.stop().await;

    let whole = contents(&file[..], &mut |_| {}).unwrap();
    // Else they would be polled as long as nobody can know how often the collections move.
    let config = sync_tests::server::config(std::path::Path::new("unused"), |config| {
        config.fan_out_dwell_s = 0;
    });
    let open = |store| Ledger::open(store, config.ledger(), &mut |_| {}).unwrap();
    let store = open(MemoryStore::new()).into_store();
    let mut epochs = 1_000;
    let mut mint = || {
        epochs += 1;
        Epoch::new(epochs).unwrap()
    };
    restore(&store, &file[..], &whole, &mut mint, &mut |_| {}).unwrap();
    store.sync().unwrap();
    let server = TestServer::over(open(store), config.clone()).await;
    let wire = server.wire();
    assert_eq!(audience(wire, "g", 10).await, ["a", "b"]);
    assert_eq!(follows(wire, "a", 10).await, ["g", "gone", "never"]);
    let InboxEntry::Deleted(..) = reader.entries[&name("gone")] else { panic!("{reader:?}") };
    let before = reader.cursor;
    reader.pull(wire).await;
    assert_ne!(reader.cursor.unwrap().epoch, before.unwrap().epoch, "a new epoch");
    assert_eq!(reader.knows(&name("g")), Some(truth(wire, "g").await));
    let calm = async || diffusion(wire, "g").await == v1::Diffusion::Write;
    until_true("the periodic work", calm).await;
    let entries = until("true entries", async || {
        let mut fresh = Inbox::of("a");
        let polled = fresh.pull(wire).await;
        polled.iter().all(|polled| polled.heads.is_empty()).then_some(fresh.entries)
    })
    .await;
    assert_eq!(entries[&name("g")], truth(wire, "g").await);
    assert!(matches!(entries[&name("gone")], InboxEntry::Deleted(..)));
    assert_eq!(entries[&name("never")], InboxEntry::Absent);
    server.stop().await;
}

/// One target of an inbox among others does not see less because others cost much; and a stream of
/// many inboxes tells each of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_several_inboxes_tells_each_of_its_own() {
    let server = TestServer::with(only_read).await;
    let wire = server.wire();
    let pairs = [("one", "hot/1"), ("two", "hot/2"), ("three", "hot/1")];
    wire.commit(pairs.map(|(subject, hot)| follow(hot, subject)).into()).await;
    let targets = pairs.map(|(subject, _)| Inbox::of(subject).target());
    let mut events = wire.subscribe(targets.into()).await;
    events.accepted().await;
    wire.commit(vec![put("hot/1", "k", "1"), put("hot/2", "k", "1")]).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Event::InboxNotice(notice) = events.next().await {
            told.push((notice.inbox.to_string(), notice.collection.to_string()));
        }
    }
    told.sort();
    let pair = |inbox: &str, hot: &str| (inbox.to_owned(), hot.to_owned());
    let wanted =
        [pair("inbox/one", "hot/1"), pair("inbox/three", "hot/1"), pair("inbox/two", "hot/2")];
    assert_eq!(told, wanted);
    server.stop().await;
}
