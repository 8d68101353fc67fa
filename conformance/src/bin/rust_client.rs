//! The Rust client under test: the ordinary replica, account and calls of `sync-client`, and a line
//! each time a copy that is caught up has moved.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use sync_client::account::{Account, FollowState, Followed};
use sync_client::store::Standing;
use sync_client::types::{CollectionName, Commit, Key, Mutation, Op, Subject, Value};
use sync_client::{Collection, MemoryStore, Raw, RepairReason, Replica, Stats, Status, SyncClient};
use sync_proto::digest::Digest;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Faults are short here, so it comes back soon.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How often the copies are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Items that it commits.
const WRITTEN: u32 = 10;

/// What was said of each copy last.
#[derive(Default)]
struct Said {
    standings: BTreeMap<CollectionName, Standing>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed, there is nobody to tell.
            writeln!(io::stderr(), "error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, case, mode, name] = &arguments[..] else {
        return Err("usage: rust-client ADDRESS CASE follow|inbox|write NAME".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let uri = format!("http://{address}");
        let client = SyncClient::builder(uri).client_id(case.as_str()).build()?;
        match mode.as_str() {
            "follow" => follow(client, CollectionName::new(name)?).await,
            "inbox" => inbox(client, Subject::new(name)?).await,
            "write" => write(client, CollectionName::new(name)?).await,
            other => Err(format!("no such mode: {other}").into()),
        }
    })
}

async fn follow(client: SyncClient, name: CollectionName) -> Result<(), Error> {
    let (replica, driver) = Replica::builder(client, MemoryStore::new())
        .collection(name.clone())
        .longest_backoff(LONGEST_BACKOFF)
        .build()?;
    let copy: Collection<Raw> = replica.collection(&name)?;
    let stop = CancellationToken::new();
    let mut driving = std::pin::pin!(driver.run(stop.clone()));
    let mut finish = input_ends()?;
    let mut said = Said::default();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = &mut finish => break,
            ended = &mut driving => return Ok(ended?),
            _ = looks.tick() => {}
        }
        let status = *copy.status().borrow();
        let gone = status == Status::Absent;
        if gone || status == Status::Live {
            said.say(&copy, gone)?;
        }
    }
    stop.cancel();
    driving.await?;
    done(&replica.stats())
}

async fn inbox(client: SyncClient, subject: Subject) -> Result<(), Error> {
    let own = subject.inbox();
    let (account, driver) = Account::builder(client, MemoryStore::new(), subject)
        .longest_backoff(LONGEST_BACKOFF)
        .build()?;
    let stop = CancellationToken::new();
    let mut driving = std::pin::pin!(driver.run(stop.clone()));
    let mut finish = input_ends()?;
    let mut said = Said::default();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = &mut finish => break,
            ended = &mut driving => return Ok(ended?),
            _ = looks.tick() => {}
        }
        if account.summary().borrow().inbox == Status::Live {
            said.say(&account.collection(&own)?, false)?;
        }
        said.say_followed(&account, &own)?;
    }
    stop.cancel();
    driving.await?;
    done(&account.session_stats())
}

async fn write(client: SyncClient, collection: CollectionName) -> Result<(), Error> {
    for number in 0..WRITTEN {
        let op = Op::Put {
            key: Key::new(format!("item {number}"))?,
            value: Value::new(format!("value {number}"))?,
            sort_key: None,
        };
        let mutations = vec![Mutation { collection: collection.clone(), op }];
        client.commit(Commit { mutations, ..Commit::default() }).await?;
    }
    line(&json!({ "done": { "acknowledged": WRITTEN } }))
}

fn done(stats: &Stats) -> Result<(), Error> {
    let mut resets = Vec::new();
    for reason in stats.repairs.keys() {
        if let RepairReason::Reset(reason) = reason {
            resets.push(reason.as_str());
        }
    }
    line(&json!({ "done": { "resets": resets, "mismatches": stats.digest_mismatches } }))
}

fn line(json: &serde_json::Value) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{json}")?;
    Ok(out.flush()?)
}

/// Tells when standard input ends.
fn input_ends() -> io::Result<oneshot::Receiver<()>> {
    let (told, ended) = oneshot::channel();
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        // Whatever becomes of the input: there is no more of it.
        io::stdin().lock().read_to_end(&mut Vec::new()).ok();
        told.send(()).ok();
    })?;
    Ok(ended)
}

// === impl Said ===

impl Said {
    /// Says where what is followed stands, and what is followed no more.
    fn say_followed(&mut self, account: &Account, own: &CollectionName) -> Result<(), Error> {
        let mut not_followed: Vec<CollectionName> = self.standings.keys().cloned().collect();
        not_followed.retain(|name| name != own);
        for Followed { name, state, .. } in account.list() {
            not_followed.retain(|known| *known != name);
            let gone = state == FollowState::Deleted;
            if gone || state == FollowState::Current {
                self.say(&account.collection(&name)?, gone)?;
            }
        }
        for name in not_followed {
            self.say(&account.collection(&name)?, true)?;
        }
        Ok(())
    }

    /// Says where the copy stands, if it is caught up somewhere else than before; `gone`: having no
    /// copy is a state, too.
    fn say(&mut self, copy: &Collection<Raw>, gone: bool) -> Result<(), Error> {
        let standing = copy.standing();
        let caught_up = standing.cursor.is_some_and(|cursor| cursor.is_caught_up());
        let nothing = standing.cursor.is_none() && gone;
        let is_news = self.standings.get(copy.name()) != Some(&standing);
        if !is_news || !(caught_up || nothing) {
            return Ok(());
        }
        let mut digest = Digest::EMPTY;
        let items = copy.reader().window(0, usize::MAX)?;
        for item in &items {
            digest += Digest::of_item(&item.key, item.version, &item.sort_key, &item.value);
        }
        let (epoch, version) =
            standing.cursor.map_or((0, 0), |at| (at.epoch.get(), at.version.get()));
        line(&json!({ "at": {
            "collection": copy.name().as_str(),
            "epoch": epoch.to_string(),
            "version": version.to_string(),
            "items": items.len(),
            "digest": digest.to_string(),
        }}))?;
        self.standings.insert(copy.name().clone(), standing);
        Ok(())
    }
}
