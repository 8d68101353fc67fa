//! Somebody who follows thousands of collections comes back after a month: some were changed, some
//! deleted, some unfollowed, some are new. What that costs by the inbox, with a device that the inbox
//! still remembers and with one that it does not, against reading where every collection stands.
//! `DELTASYNC_AWAY` sets how many are followed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sync_client::account::{Account, FollowState};
use sync_client::{DiskStore, SyncClient};
use sync_proto::types::{Cursor, Mutation, Op, Outcome, Subject, Target};
use sync_proto::v1;
use sync_tests::compose::{after, name, put};
use sync_tests::process::Program;
use sync_tests::proxy::Proxy;
use sync_tests::report::report;
use sync_tests::seed::number;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SERVER;

/// Followed collections when the environment does not say.
const FOLLOWED: u64 = 300;

/// Items of each.
const ITEMS: u64 = 5;

/// Of a hundred followed collections so many change while the device is away, three items each.
const CHANGED_PERCENT: u64 = 3;

/// Collections that are deleted, that are unfollowed, and that are followed anew.
const OTHERS: u64 = 10;

/// Targets of one pull.
const TARGETS: usize = 256;

/// Mutations of one commit while the server is filled.
const FILL: usize = 1_000;

/// Thousands of first loads on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a way of coming back costs.
#[derive(Debug, Clone, Copy)]
struct Cost {
    to_server: u64,
    to_client: u64,
    time: Duration,
}

fn subject() -> Subject {
    Subject::new("ada").unwrap()
}

fn group(number: u64) -> String {
    format!("groups/{number}/members")
}

fn follow(number: u64) -> Mutation {
    Mutation { collection: name(&group(number)), op: Op::Follow { subject: subject() } }
}

fn unfollow(number: u64) -> Mutation {
    Mutation { collection: name(&group(number)), op: Op::Unfollow { subject: subject() } }
}

async fn fill(wire: &Wire, followed: u64) {
    let member = |group_number: u64, item: u64| {
        put(
            &group(group_number),
            format!("member {item}"),
            r#"{"role":"member","since":"2026-01"}"#,
        )
    };
    let all: Vec<_> = (0..followed + OTHERS)
        .flat_map(|number| (0..ITEMS).map(move |item| member(number, item)))
        .chain((0..followed).map(follow))
        .collect();
    for some in all.chunks(FILL) {
        wire.commit(some.to_vec()).await;
    }
}

/// A month: of the first collections some changed, then some were deleted, then some unfollowed.
async fn a_month(wire: &Wire, followed: u64) -> u64 {
    let changed = (followed * CHANGED_PERCENT / 100).max(1);
    assert!(changed + 2 * OTHERS < followed, "DELTASYNC_AWAY is too small");
    for item in 0..3 {
        for number in 0..changed {
            wire.commit(vec![put(&group(number), format!("member {item}"), r#"{"role":"admin"}"#)])
                .await;
        }
    }
    for number in changed..changed + OTHERS {
        wire.delete_collection(&group(number)).await;
    }
    let gone = changed + OTHERS..changed + 2 * OTHERS;
    wire.commit(gone.map(unfollow).collect()).await;
    wire.commit((followed..followed + OTHERS).map(follow).collect()).await;
    changed
}

/// Runs the account of `file` against the server at `uri` until nothing is left to do and `done`.
async fn come_back(uri: &str, file: &Path, done: impl Fn(&Account) -> bool) {
    let store = DiskStore::open(file).unwrap();
    let client = SyncClient::connect(uri).unwrap();
    // A quiet line: what is measured is coming back.
    let builder = Account::builder(client, store, subject()).heartbeat(Duration::from_secs(30));
    let (account, driver) = builder.build().unwrap();
    let stop = CancellationToken::new();
    let driving = TaskTracker::new().spawn(driver.run(stop.clone()));
    account.wait_until_settled(PATIENCE).await.unwrap();
    // What the stream tells first may be settled before the rest of it is here.
    until_true("all of it is here", async || done(&account)).await;
    stop.cancel();
    within("the account to end", driving).await.unwrap().unwrap();
}

/// Whether everything of the month is known and every copy is where its collection is.
fn is_up_to_date(account: &Account, followed: u64, changed: u64) -> bool {
    let state = |number| account.get(&name(&group(number))).map(|one| one.state);
    let of = |number: u64, item: u64| {
        let copy = account.collection::<sync_client::Raw>(&name(&group(number))).unwrap();
        let key = sync_tests::compose::key(format!("member {item}"));
        copy.reader().get(&key).unwrap()
    };
    state(changed) == Some(FollowState::Deleted)
        && state(changed + OTHERS).is_none()
        && state(followed + OTHERS - 1) == Some(FollowState::Current)
        && (0..changed).all(|number| {
            of(number, 2).is_some_and(|value| value == r#"{"role":"admin"}"#.as_bytes())
        })
}

/// Asks for everything that is held, as who knows of no inbox must.
async fn read_every_head(wire: &Wire, stood: &[(String, Cursor)]) -> usize {
    let mut moved = 0;
    for some in stood.chunks(TARGETS) {
        let targets: Vec<Target> = some.iter().map(|(name, at)| after(name, *at)).collect();
        let outcomes = wire.pull(targets).await;
        moved += outcomes.iter().filter(|one| !matches!(one, Outcome::Aligned(_))).count();
    }
    moved
}

async fn measured(proxy: &Proxy, work: impl Future<Output = ()>) -> Cost {
    let (began, before) = (Instant::now(), proxy.passed());
    work.await;
    let (to_server, to_client) = proxy.passed();
    let time = began.elapsed();
    Cost { to_server: to_server - before.0, to_client: to_client - before.1, time }
}

fn tell(way: &str, Cost { to_server, to_client, time }: Cost) {
    report(&format!("{way}: {to_server} B up, {to_client} B down, {} ms", time.as_millis()));
}

/// G1, G5, G6: who was away for a month pays for what has changed, not for what is followed, also
/// when the inbox does not remember the month.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_costs_what_has_changed() {
    let followed = number("DELTASYNC_AWAY").unwrap_or(FOLLOWED);
    let dir = tempfile::tempdir().unwrap();
    // Only the size of an audience decides: the rate of filling is not that of a service.
    let program =
        Program::new(SERVER, &dir.path().join("server")).with(&["--fan-out-per-s-max=1000000"]);
    let mut process = program.start_serving().await;
    let (wire, proxy) = (program.wire(), Proxy::to(program.address()).await);
    fill(&wire, followed).await;
    let mut stood = Vec::new();
    for number in 0..followed {
        let head = wire.head(&name(&group(number))).await.unwrap();
        stood.push((group(number), head.cursor()));
    }
    let [first, forgotten] = ["first.redb", "forgotten.redb"].map(|file| dir.path().join(file));
    let load = measured(&proxy, async {
        come_back(&proxy.uri(), &first, |account| account.list().len() as u64 == followed).await;
    });
    tell("the first time", load.await);
    fs::copy(&first, &forgotten).unwrap();

    let changed = a_month(&wire, followed).await;
    report(&format!(
        "{followed} collections of {ITEMS} items; {changed} changed, {OTHERS} each deleted, unfollowed, \
         followed anew"
    ));
    let done = |account: &Account| is_up_to_date(account, followed, changed);
    let heads = measured(&proxy, async {
        let moved = read_every_head(&Wire::to(proxy.address()), &stood).await;
        assert_eq!(moved as u64, changed + OTHERS, "what was unfollowed is where it was");
    });
    let heads = heads.await;
    let inbox = measured(&proxy, come_back(&proxy.uri(), &first, done)).await;
    let at = wire.head(&subject().inbox()).await.unwrap().version.get();
    let purge = v1::PurgeRequest { collection: subject().inbox().to_string(), up_to_version: at };
    within("a purge", wire.admin().purge(purge)).await.unwrap();
    let repaired = measured(&proxy, come_back(&proxy.uri(), &forgotten, done)).await;
    tell("reading every head", heads);
    tell("by the inbox", inbox);
    tell("by an inbox that has forgotten", repaired);
    // The answers to heads alone; what has changed is in both.
    let total = |cost: Cost| cost.to_server + cost.to_client;
    assert!(total(inbox) < total(heads), "{inbox:?} {heads:?}");
    process.terminate();
    assert!(process.ended().await.success());
    process.check_log();
}
