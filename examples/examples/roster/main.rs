//! A roster as a chat application has it: conversations, friends, groups and the members of one of
//! them, on a phone that goes offline and comes back. Brings its own server; just
//! `cargo run -p sync-examples --example roster`. What each of the four lists uses is in the README
//! beside this file.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sync_client::types::{CollectionName, Commit, Key, Mutation, Op, SortKey, Subject, Value};
use sync_client::{Account, Collection, DiskStore, Json, Status, SyncClient, Verdict, Window};
use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::serve;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod screen;

/// Far more than anything takes here.
const WITHIN: Duration = Duration::from_secs(20);
/// Members of the large group.
const MEMBERS: usize = 5_000;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A line of a conversation, a friend, what is known of a group, or one of its members.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Card {
    text: String,
}

/// The phone: an account and its driver, on a file that outlives both.
struct Phone {
    account: Account,
    stop: CancellationToken,
    driving: JoinHandle<Result<(), sync_client::store::StoreError>>,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let server = start_server(&stop, &tasks).await?;
    let backend = SyncClient::connect(&server)?;
    fill(&backend).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("phone.redb");

    screen::title("the phone is new: everything is loaded");
    let phone = Phone::start(&server, &file, &tasks)?;
    phone.account.wait_until_settled(WITHIN).await?;
    screen::roster(&phone.account).await?;
    screen::cost(&phone.account);
    phone.end().await?;

    screen::title("offline: meanwhile others write, a group goes, ada leaves another");
    say(&backend, "chats/7", "9", "see you at eight?").await?;
    say(&backend, "chats/30", "9", "the train is late").await?;
    backend.delete_collection(&CollectionName::new("groups/chess")?, None).await?;
    apply(&backend, vec![unfollow("groups/choir")?]).await?;
    let phone = Phone::start("http://127.0.0.1:1", &file, &tasks)?;
    screen::roster(&phone.account).await?;
    phone.end().await?;

    screen::title("back: the inbox tells what moved, and only that is asked for");
    let phone = Phone::start(&server, &file, &tasks)?;
    phone.wait_for("chats/30", 3).await?;
    phone.account.wait_until_settled(WITHIN).await?;
    screen::roster(&phone.account).await?;
    screen::cost(&phone.account);

    screen::title("ada opens chats/7: it is live as long as she looks at it");
    let chat = CollectionName::new("chats/7")?;
    phone.account.look_at(std::slice::from_ref(&chat));
    say(&backend, "chats/7", "99", "eight is fine").await?;
    phone.wait_for("chats/7", 4).await?;
    screen::conversation(&phone.account, &chat).await?;

    screen::title("ada opens the members of a large group: a window, details when they are shown");
    show_members(&server, &stop, &tasks).await?;

    phone.end().await?;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

// === impl Phone ===

impl Phone {
    fn start(server: &str, file: &std::path::Path, tasks: &TaskTracker) -> Result<Self, Error> {
        let client = SyncClient::connect(server)?;
        let store = DiskStore::open(file)?;
        let (account, driver) = Account::builder(client, store, Subject::new("ada")?).build()?;
        let stop = CancellationToken::new();
        let driving = tasks.spawn(driver.run(stop.clone()));
        Ok(Self { account, stop, driving })
    }

    /// Waits until a list has so many items.
    async fn wait_for(&self, name: &str, items: u64) -> Result<(), Error> {
        let copy: Collection<Json<Card>> = self.account.collection(&CollectionName::new(name)?)?;
        let mut changes = copy.subscribe_with_all().await;
        let enough = async { while copy.len() < items && changes.next().await.is_some() {} };
        Ok(tokio::time::timeout(WITHIN, enough).await?)
    }

    async fn end(self) -> Result<(), Error> {
        self.stop.cancel();
        Ok(self.driving.await??)
    }
}

/// The first members of a group that nobody would copy to a phone.
async fn show_members(
    server: &str,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), Error> {
    let name = CollectionName::new("groups/runners/members")?;
    let client = SyncClient::connect(server)?;
    let (window, driver) = Window::builder(client, name).first(5).show_details(0..5).build();
    tasks.spawn(driver.run(stop.clone()));
    let complete = |view: &std::sync::Arc<sync_client::WindowView>| {
        matches!(view.verdict, Verdict::Complete { .. })
            && view.rows.iter().all(|row| row.decode::<Json<Card>>().is_some())
    };
    let view = tokio::time::timeout(WITHIN, window.wait_for(complete)).await?;
    screen::members(&view, window.bytes_received())?;
    Ok(())
}

/// What the backend knows at the beginning.
async fn fill(backend: &SyncClient) -> Result<(), Error> {
    for number in 0..40 {
        let chat = format!("chats/{number}");
        let lines = vec![
            put(&chat, "1", "", "hello")?,
            put(&chat, "2", "", &format!("this is conversation {number}"))?,
            follow(&chat)?,
        ];
        apply(backend, lines).await?;
    }
    let mut friends = vec![follow("users/ada/friends")?];
    for (place, name) in ["Zoe", "Bela", "Grace", "Alan"].iter().enumerate() {
        friends.push(put("users/ada/friends", name, &place.to_string(), "friend")?);
    }
    apply(backend, friends).await?;
    for (group, title) in [("runners", "Runners"), ("chess", "Chess"), ("choir", "Choir")] {
        let group = format!("groups/{group}");
        apply(backend, vec![put(&group, "title", "", title)?, follow(&group)?]).await?;
    }
    let members: Vec<usize> = (0..MEMBERS).collect();
    for some in members.chunks(1_000) {
        let puts = some.iter().map(|number| {
            let place = format!("{number:06}");
            put("groups/runners/members", &place, &place, &format!("runner number {number}"))
        });
        apply(backend, puts.collect::<Result<_, _>>()?).await?;
    }
    Ok(())
}

async fn say(backend: &SyncClient, chat: &str, key: &str, text: &str) -> Result<(), Error> {
    apply(backend, vec![put(chat, key, "", text)?]).await
}

async fn apply(backend: &SyncClient, mutations: Vec<Mutation>) -> Result<(), Error> {
    backend.commit(Commit { mutations, ..Commit::default() }).await?;
    Ok(())
}

fn put(collection: &str, key: &str, place: &str, text: &str) -> Result<Mutation, Error> {
    let value = Value::new(serde_json::to_vec(&Card { text: text.to_owned() })?)?;
    let sort_key = Some(SortKey::new(place.to_owned())?);
    let op = Op::Put { key: Key::new(key.to_owned())?, value, sort_key };
    Ok(Mutation { collection: CollectionName::new(collection)?, op })
}

fn follow(collection: &str) -> Result<Mutation, Error> {
    let op = Op::Follow { subject: Subject::new("ada")? };
    Ok(Mutation { collection: CollectionName::new(collection)?, op })
}

fn unfollow(collection: &str) -> Result<Mutation, Error> {
    let op = Op::Unfollow { subject: Subject::new("ada")? };
    Ok(Mutation { collection: CollectionName::new(collection)?, op })
}

/// A server that keeps everything in memory: for examples and tests.
async fn start_server(stop: &CancellationToken, tasks: &TaskTracker) -> Result<String, Error> {
    let config = Config::default();
    let store = sync_server::store::memory::MemoryStore::default();
    let ledger = Ledger::open(store, config.ledger(), &mut |_rows| {})?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let stop = stop.clone();
    tasks.spawn(async move { serve(listener, ledger, &config, stop).await });
    Ok(format!("http://{address}"))
}

/// Whether the list is the server's, in one word.
fn is_live(status: Status) -> bool {
    status == Status::Live
}
