//! Whole accounts against the reference server behind a real socket.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::time::Duration;

use sync_client::account::{Account, FollowState, ListChange, Summary};
use sync_client::types::{CollectionName, Key, Subject};
use sync_client::{
    Collection, Difference, DiskStore, MemoryStore, Raw, ReplicaStore, Status, SyncClient,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::service::TestServer;

mod kills;
mod lists;
#[allow(dead_code, reason = "shared by tests of which each needs a part")]
#[path = "../reference/mod.rs"]
mod reference;
mod returns;
#[allow(dead_code, reason = "shared by tests of which each needs a part")]
#[path = "../replica/service.rs"]
mod service;

/// Longer than anything here takes, also on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

/// An account at work; stops with the test.
struct Running {
    account: Account,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn key(key: &str) -> Key {
    Key::new(key.to_owned()).unwrap()
}

fn subject() -> Subject {
    Subject::new("ada").unwrap()
}

/// A server on which Ada follows `c/0`, `c/1`, ..., each with one item.
async fn server_with(collections: usize) -> TestServer {
    let server = TestServer::start().await;
    {
        let mut state = server.state.lock();
        for number in 0..collections {
            let name = name(&format!("c/{number}"));
            state.server.put_in(&name, "a", "1");
            state.server.follow(&subject().inbox(), &name);
        }
    }
    server
}

fn put(server: &TestServer, collection: &CollectionName, item: &str, value: &str) {
    server.state.lock().server.put_in(collection, item, value);
}

/// Waits until something holds; says what if it never does.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(SOON, poll).await.is_ok(), "{what}");
}

// === impl Running ===

impl Running {
    fn start(server: &TestServer, store: impl ReplicaStore) -> Self {
        let client = SyncClient::connect(server.uri()).unwrap();
        let (account, driver) = Account::builder(client, store, subject())
            .heartbeat(Duration::from_millis(200))
            .longest_backoff(Duration::from_millis(400))
            .ack_every(Duration::from_millis(100))
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { driver.run(stopped).await.unwrap() });
        Self { account, stop, task }
    }

    async fn settle(&self) {
        let settled = self.account.wait_until_settled(SOON).await;
        let (summary, stats) = (*self.account.summary().borrow(), self.account.stats());
        assert_eq!(settled, Ok(()), "{summary:?} {stats:?}");
    }

    fn state(&self, of: &str) -> Option<FollowState> {
        self.account.get(&name(of)).map(|one| one.state)
    }

    fn copy(&self, of: &str) -> Collection<Raw> {
        self.account.collection(&name(of)).unwrap()
    }

    /// The copy is the server's collection, by digest (G9).
    fn assert_right(&self, server: &TestServer, of: &str) {
        let head = server.state.lock().server.collections[&name(of)].head();
        let standing = self.copy(of).standing();
        assert_eq!(standing.cursor, Some(head.cursor()), "{of}");
        assert_eq!(standing.tally.digest, head.digest, "{of}");
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap();
    }
}
