//! Backups of the real program while it is written to, and what is restored from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use sync_client::MemoryStore;
use sync_proto::types::{Outcome, ResetReason};
use sync_proto::v1;
use sync_proto::v1::admin_service_client::AdminServiceClient;
use sync_tests::backup;
use sync_tests::compose::{after, delete, name, put};
use sync_tests::device::{Device, copied};
use sync_tests::process::Program;
use sync_tests::report::report;
use sync_tests::seed::number;
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;

use crate::SERVER;
use crate::offline::run;

/// Takes a backup into a file.
async fn back_up(wire: &Wire, file: &Path) {
    std::fs::write(file, backup::take(wire).await.unwrap()).unwrap();
}

fn restore(file: &Path, dir: &Path) -> (i32, String, String) {
    run(&["restore", "--json", "--from", file.to_str().unwrap()], dir)
}

/// Both collections hold the same after every commit.
fn change(number: u64) -> Vec<sync_proto::types::Mutation> {
    let key = format!("{}", number % 500);
    let one = |collection: &str| {
        if number.is_multiple_of(5) {
            delete(collection, &key)
        } else {
            put(collection, &key, number.to_string())
        }
    };
    vec![
        one("left"),
        one("right"),
        put("left", "number", number.to_string()),
        put("right", "number", number.to_string()),
    ]
}

/// What both hold after so many changes.
fn after_changes(count: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut expected = BTreeMap::new();
    for number in 1..=count {
        let key = (number % 500).to_string().into_bytes();
        if number.is_multiple_of(5) {
            expected.remove(&key);
        } else {
            expected.insert(key, number.to_string().into_bytes());
        }
        expected.insert(b"number".to_vec(), number.to_string().into_bytes());
    }
    expected
}

async fn contents(wire: &Wire, collection: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    wire.load(collection).await.contents()
}

/// G2, G4, G5, G6: a backup that is taken while commits go on is the state after one of them, in
/// all collections; what is restored from it serves, has the same versions, and sends every client
/// of before back to the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_commits_restores_to_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let wire = program.wire();
    for first in (0..20_000).step_by(500) {
        let puts = (first..first + 500).map(|item| put("large", format!("{item}"), [7; 50]));
        wire.commit(puts.collect()).await;
    }
    wire.commit(vec![put("gone", "a", "1")]).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = TaskTracker::new();
    let writer = {
        let (wire, stop, done) = (wire.clone(), Arc::clone(&stop), Arc::clone(&done));
        writing.spawn(async move {
            let mut number = 1;
            while !stop.load(Ordering::Relaxed) {
                wire.commit(change(number)).await;
                done.store(number, Ordering::Relaxed);
                number += 1;
            }
        })
    };
    until_true("commits", async || done.load(Ordering::Relaxed) > 50).await;
    wire.delete_collection("gone").await;
    let began = done.load(Ordering::Relaxed);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("backup");
    back_up(&wire, &file).await;
    let ended = done.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    within("the writer", writer).await.unwrap();
    assert!(ended > began, "nothing was committed meanwhile");
    let head = wire.head(&name("large")).await.unwrap();

    let restored = files.path().join("restored");
    let (code, printed, said) = restore(&file, &restored);
    assert_eq!(code, 0, "{said}");
    let told: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(told["collections"], 3, "{told}");
    let (code, _, said) = restore(&file, &restored);
    assert!(code == 1 && said.contains("is not empty"), "{code}: {said}");
    process.kill();

    let program = Program::new(SERVER, &restored);
    let mut process = program.start_serving().await;
    let wire = program.wire();
    let (left, right) = (contents(&wire, "left").await, contents(&wire, "right").await);
    assert_eq!(left, right);
    let number: u64 = String::from_utf8(left[&b"number"[..]].clone()).unwrap().parse().unwrap();
    assert!((began..=ended + 1).contains(&number), "{number}, not {began} to {ended}");
    assert_eq!(left, after_changes(number));
    assert_eq!(wire.head(&name("gone")).await, None);
    let there = wire.head(&name("large")).await.unwrap();
    assert_eq!((there.version, there.digest), (head.version, head.digest));
    assert_ne!(there.epoch, head.epoch);
    let outcome = wire.pull_one(after("large", head.cursor())).await;
    let Outcome::Reset(reset) = outcome else { panic!("a reset was due, not {outcome:?}") };
    assert_eq!(reset.reason, ResetReason::EpochChanged);
    wire.commit(change(number + 1)).await;
    process.kill();
}

/// Clients of a restore when the environment does not say.
const CLIENTS: u64 = 20;
/// Items that each of them holds, of about 128 bytes.
const HELD: u64 = 2_000;

/// G1, G9: when a backup takes the place of a store, each client compares its copy and fetches what
/// differs: kilobytes, not the collection. `DELTASYNC_RESTORED_CLIENTS=1000` is the load.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_costs_each_client_what_differs() {
    let clients = number("DELTASYNC_RESTORED_CLIENTS").unwrap_or(CLIENTS);
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    let wire = program.wire();
    let item = |item: u64, round: u64| put("list", format!("{item:06}"), format!("{round:0120}"));
    for first in (0..HELD).step_by(500) {
        wire.commit((first..first + 500).map(|number| item(number, 0)).collect()).await;
    }
    let file = dir.path().join("backup");
    back_up(&wire, &file).await;
    // Ten items change after the backup, and ten are new: the restored store knows nothing of that.
    wire.commit((0..10).map(|number| item(number * 97, 1)).collect()).await;
    wire.commit((HELD..HELD + 10).map(|number| item(number, 0)).collect()).await;
    let uri = format!("http://{}", program.address());
    let store = MemoryStore::new();
    let device = Device::start(&uri, store.clone(), &["list"]);
    device.converge(&wire, "list").await;
    let load = device.replica.stats().bytes_received;
    device.stop().await;
    process.kill();

    let data = dir.path().join("restored");
    let (code, _, said) = restore(&file, &data);
    assert_eq!(code, 0, "{said}");
    let program = Program::new(SERVER, &data).at(program.address());
    let mut process = program.start_serving().await;
    let began = std::time::Instant::now();
    let devices: Vec<_> =
        (0..clients).map(|_| Device::start(&uri, copied(&store, "list"), &["list"])).collect();
    let (mut most, mut all) = (0, 0);
    for device in devices {
        let head = wire.head(&name("list")).await.unwrap();
        device.reach("list", head.cursor()).await;
        assert_eq!(device.collection("list").standing().tally.digest, head.digest);
        let stats = device.replica.stats();
        assert_eq!((stats.reconciled, stats.loads), (1, 0), "{stats:?}");
        (most, all) = (most.max(stats.bytes_received), all + stats.bytes_received);
        device.stop().await;
    }
    report(&format!(
        "{clients} clients after a restore: {} bytes each, {most} at most, of {load} for a load; {:.1?}",
        all / clients,
        began.elapsed()
    ));
    assert!(most * 5 < load, "{most} of {load}");
    process.kill();
}

/// G5, G11: what is not a whole backup is refused and leaves no store, whatever is wrong with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_whole_backup_is_refused() {
    let server = TestServer::start().await;
    server.wire().commit((0..300).map(|item| put("list", format!("{item}"), "1")).collect()).await;
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("backup");
    back_up(server.wire(), &file).await;
    server.stop().await;
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let cases = [
        (&whole[..whole.len() - 1], "before it is complete"),
        (&whole[..whole.len() / 2], "before it is complete"),
        (&flipped[..], "is damaged at byte"),
        (&b"{}"[..], "this is no backup"),
    ];
    let target = files.path().join("store");
    for (bytes, expected) in cases {
        std::fs::write(&file, bytes).unwrap();
        let (code, printed, said) = restore(&file, &target);
        assert!(code == 3 && said.contains(expected), "{code}: {said}");
        assert!(printed.is_empty() && !target.join("store").exists(), "{printed}");
    }
    let (code, _, said) = restore(&files.path().join("missing"), &target);
    assert!(code == 1 && said.contains("cannot be read"), "{code}: {said}");
    std::fs::write(&file, &whole).unwrap();
    let (code, _, said) = restore(&file, &target);
    assert_eq!(code, 0, "{said}");
}

/// G8, G10: one backup at a time, and only for those who may administer.
#[tokio::test(flavor = "multi_thread")]
async fn backups_are_bounded_and_private() {
    let server = TestServer::start().await;
    let big = vec![7; 900_000];
    for item in 0..12 {
        server.wire().commit(vec![put("large", format!("{item}"), &big)]).await;
    }
    let begin = async |wire: &Wire| {
        let mut client = AdminServiceClient::new(wire.channel());
        client.backup(v1::BackupRequest {}).await.map(tonic::Response::into_inner)
    };
    // Nobody takes what this one sends: it waits, and holds nobody up.
    let slow = begin(server.wire()).await.unwrap();
    let refused = begin(&server.new_connection()).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    server.wire().commit(vec![put("large", "more", "1")]).await;
    drop(slow);
    until_true("the place to be free", async || begin(&server.new_connection()).await.is_ok())
        .await;
    server.stop().await;

    let token = |admin: bool| sync_server::auth::TokenConfig {
        sha256: sha256(if admin { "admin" } else { "reader" }),
        subject: "a".to_owned(),
        read: vec!["*".to_owned()],
        write: vec!["*".to_owned()],
        admin,
    };
    let tokens = vec![token(true), token(false)];
    let server = TestServer::with(|config| config.tokens = tokens).await;
    for (shown, expected) in [
        ("reader", Some(tonic::Code::PermissionDenied)),
        ("nobody", Some(tonic::Code::Unauthenticated)),
        ("admin", None),
    ] {
        let mut request = tonic::Request::new(v1::BackupRequest {});
        let bearer = format!("Bearer {shown}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut client = AdminServiceClient::new(server.wire().channel());
        let answer = within("an answer", client.backup(request)).await;
        assert_eq!(answer.err().map(|status| status.code()), expected, "{shown}");
    }
    server.stop().await;
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    use std::fmt::Write as _;
    let mut hex = String::new();
    for byte in sha2::Sha256::digest(text.as_bytes()) {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}
