//! A process that catches up on hundreds of collections is killed again and again: nothing is
//! forgotten, nothing is half, and the last life ends with everything right (G4, X16).
//! `DELTASYNC_SEED` repeats the moments, `DELTASYNC_CRASH_CYCLES` sets their number.

use std::env;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sync_client::account::NoteStage;
use sync_client::account::desk::Holdings;
use sync_client::store::check;
use sync_client::types::{Cursor, InboxEntry};

use super::*;

const CYCLES: u64 = 8;
const COLLECTIONS: usize = 400;

/// Name the file and the server; a test binary that finds them runs an account until it is killed.
const CHILD_FILE: &str = "DELTASYNC_CRASH_ACCOUNT";
const CHILD_SERVER: &str = "DELTASYNC_CRASH_SERVER";

fn start(file: &Path, server: &TestServer) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "kills::catches_up_until_killed", "--nocapture"])
        .env(CHILD_FILE, file)
        .env(CHILD_SERVER, server.uri())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The other process; without its variables, as in a plain test run, there is nothing to do.
#[tokio::test]
async fn catches_up_until_killed() {
    let (Some(file), Ok(server)) = (env::var_os(CHILD_FILE), env::var(CHILD_SERVER)) else {
        return;
    };
    let client = SyncClient::connect(server).unwrap();
    let store = DiskStore::open(file).unwrap();
    let (_account, driver) = Account::builder(client, store, subject()).build().unwrap();
    driver.run(CancellationToken::new()).await.unwrap();
}

/// What a killed process leaves behind: each copy is whole, and whatever the inbox says is here or
/// will be asked for. Returns how many are here.
fn assert_nothing_is_forgotten(file: &Path) -> usize {
    let store = DiskStore::open(file).unwrap();
    let held = Holdings::read(&store, &subject().inbox()).unwrap();
    let mut here = 0;
    for (of, (remote, version)) in &held.rows {
        let standing = held.standings[of];
        assert!(check(&*store.snapshot(of).unwrap()).unwrap(), "{of} is whole");
        let Some(InboxEntry::Exists(epoch, at)) = remote else { panic!("{of}: {remote:?}") };
        let done = standing.has(Cursor::at(*epoch, *at));
        here += usize::from(done);
        let note = held.notes.get(of);
        let pending = note.is_some_and(|note| {
            note.stage == NoteStage::Pending && note.remote == *remote && note.asked == *version
        });
        assert!(done || pending, "{of} is in the inbox, and nobody knows what to do: {note:?}");
        assert!(!(done && pending), "{of} is here, and to be done at the same time");
    }
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_catching_up_forgets_nothing() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("DELTASYNC_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    eprintln!("DELTASYNC_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("account.redb");
    let server = server_with(COLLECTIONS).await;
    let mut places = Vec::new();
    for _ in 0..number("DELTASYNC_CRASH_CYCLES").unwrap_or(CYCLES) {
        // Every cycle leaves something to catch up on.
        for number in 0..COLLECTIONS {
            if dice.random_bool(0.5) {
                put(&server, &name(&format!("c/{number}")), "b", &dice.random::<u32>().to_string());
            }
        }
        let pulls = server.state.lock().pulls;
        let mut child = start(&file, &server);
        // Killed at some moment after it has begun to catch up.
        until("the process asks", || server.state.lock().pulls > pulls).await;
        std::thread::sleep(Duration::from_millis(dice.random_range(0..250)));
        child.kill().unwrap();
        child.wait().unwrap();
        places.push(assert_nothing_is_forgotten(&file));
    }
    eprintln!("{places:?} of {COLLECTIONS} were here");
    let running = Running::start(&server, DiskStore::open(&file).unwrap());
    running.settle().await;
    for number in 0..COLLECTIONS {
        running.assert_right(&server, &format!("c/{number}"));
    }
    running.end().await;
}
