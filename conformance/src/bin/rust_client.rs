//! The Rust client under test: the ordinary replica, account, window, consumer and calls of
//! `sync-client`, and a line each time a copy that is caught up has moved.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::json;
use sync_client::account::{Account, FollowState, Followed};
use sync_client::store::{ReplicaStore as _, Standing};
use sync_client::types::{
    Change, ChangeKind, CollectionName, Commit, Cursor, Delta, Key, Mutation, Op, SortKey, Subject,
    Value,
};
use sync_client::{
    Arrival, ClientError, Collection, Detail, MemoryStore, Raw, RepairReason, Replica, Stats,
    Status, SyncClient, Verdict, Window, WindowView,
};
use sync_proto::digest::Digest;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Faults are short here, so it comes back soon.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How often the copies are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Items that it commits.
const WRITTEN: u64 = 10;
/// Items that it imports, and how large each is.
const IMPORTED: u64 = 8;
const IMPORTED_BYTES: usize = 700_000;
/// Rows of its window.
const ROWS: usize = 10;
/// The wait before an import goes on.
const PAUSE: Duration = Duration::from_millis(100);
/// How often an import goes on.
const IMPORTS_MAX: u32 = 10;

/// What was said of each copy last.
#[derive(Default)]
struct Said {
    /// Where the copies are: a snapshot of it has rows and standing of one moment.
    store: MemoryStore,
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
        return Err("usage: rust-client ADDRESS CASE MODE NAME".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect(address, case)?;
        match mode.as_str() {
            "follow" => follow(client, CollectionName::new(name)?).await,
            "inbox" => inbox(client, Subject::new(name)?).await,
            "write" => written(write(&client, CollectionName::new(name)?).await),
            "import" => written(import(&client, CollectionName::new(name)?).await),
            "resume" => resume(client, CollectionName::new(name)?).await,
            "window" => window(client, CollectionName::new(name)?).await,
            other => Err(format!("no such mode: {other}").into()),
        }
    })
}

/// A client with what the environment tells it to trust and to show.
fn connect(address: &str, case: &str) -> Result<SyncClient, ClientError> {
    let told = |name| std::env::var(name).ok();
    let ca_file = told("DELTASYNC_CA_FILE");
    let scheme = if ca_file.is_some() { "https" } else { "http" };
    let mut builder = SyncClient::builder(format!("{scheme}://{address}")).client_id(case);
    if let Some(file) = ca_file {
        builder = builder.ca_file(file);
    }
    if let Some(token) = told("DELTASYNC_TOKEN") {
        builder = builder.bearer_token(token);
    }
    builder.build()
}

async fn follow(client: SyncClient, name: CollectionName) -> Result<(), Error> {
    let mut said = Said::default();
    let (replica, driver) = Replica::builder(client, said.store.clone())
        .collection(name.clone())
        .longest_backoff(LONGEST_BACKOFF)
        .build()?;
    let copy: Collection<Raw> = replica.collection(&name)?;
    let stop = CancellationToken::new();
    let mut driving = std::pin::pin!(driver.run(stop.clone()));
    let mut finish = input_ends()?;
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
            said.say(copy.name(), gone)?;
        }
    }
    stop.cancel();
    driving.await?;
    done(&replica.stats())
}

async fn inbox(client: SyncClient, subject: Subject) -> Result<(), Error> {
    let own = subject.inbox();
    let mut said = Said::default();
    let (account, driver) = Account::builder(client, said.store.clone(), subject)
        .longest_backoff(LONGEST_BACKOFF)
        .build()?;
    let stop = CancellationToken::new();
    let mut driving = std::pin::pin!(driver.run(stop.clone()));
    let mut finish = input_ends()?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = &mut finish => break,
            ended = &mut driving => return Ok(ended?),
            _ = looks.tick() => {}
        }
        if account.summary().borrow().inbox == Status::Live {
            said.say(&own, false)?;
        }
        said.say_followed(&account, &own)?;
    }
    stop.cancel();
    driving.await?;
    done(&account.session_stats())
}

/// How many commits were acknowledged, and what it gave up at.
type Written = (u64, Option<ClientError>);

async fn write(client: &SyncClient, collection: CollectionName) -> Written {
    for number in 0..WRITTEN {
        let mutations = match item(&collection, number, 0) {
            Ok(item) => vec![item],
            Err(error) => return (number, Some(error)),
        };
        let commit = Commit { mutations, ..Commit::default() };
        if let Err(error) = client.commit(commit).await {
            return (number, Some(error));
        }
    }
    (WRITTEN, None)
}

/// Imports, and goes on behind what is durable where that breaks off (R62).
async fn import(client: &SyncClient, collection: CollectionName) -> Written {
    let id = client.client_id().to_owned();
    let mut durable = 0;
    for _ in 0..IMPORTS_MAX {
        let name = collection.clone();
        let commits = (durable + 1..=IMPORTED).filter_map(move |number| {
            let item = item(&name, number, IMPORTED_BYTES);
            item.ok().map(|item| vec![item])
        });
        let commits = futures::stream::iter(commits);
        let error = match client.import(&id, durable + 1, commits.boxed()).await {
            Ok(reply) => return (reply.sequence, None),
            Err(error) => error,
        };
        if error.is_retryable() {
            tokio::time::sleep(error.retry_after().unwrap_or_default() + PAUSE).await;
        }
        durable = match client.get_import(&id).await {
            Ok(durable) => durable,
            Err(ClientError::NotFound(_)) => 0,
            Err(error) => return (durable, Some(error)),
        };
        if !error.is_retryable() {
            return (durable, Some(error));
        }
        if durable == IMPORTED {
            return (durable, None);
        }
    }
    (durable, None)
}

/// A number's item, its value filled up to so many bytes.
fn item(collection: &CollectionName, number: u64, bytes: usize) -> Result<Mutation, ClientError> {
    let mut value = format!("value {number}{}", if bytes > 0 { " " } else { "" }).into_bytes();
    value.resize(bytes.max(value.len()), b'.');
    let op = Op::Put {
        key: Key::new(format!("item {number}"))?,
        value: Value::new(value)?,
        sort_key: None,
    };
    Ok(Mutation { collection: collection.clone(), op })
}

fn written((acknowledged, error): Written) -> Result<(), Error> {
    let refused = error.as_ref().map(refusal);
    line(&json!({ "done": { "acknowledged": acknowledged, "refused": refused } }))
}

/// What can be read in a refusal.
fn refusal(error: &ClientError) -> serde_json::Value {
    let code = match error {
        ClientError::Exhausted(_) => "RESOURCE_EXHAUSTED",
        ClientError::Invalid(_) => "INVALID_ARGUMENT",
        ClientError::Precondition(_) => "FAILED_PRECONDITION",
        ClientError::Denied(_) => "PERMISSION_DENIED",
        ClientError::Unauthenticated(_) => "UNAUTHENTICATED",
        ClientError::NotFound(_) => "NOT_FOUND",
        ClientError::Unavailable(_) => "UNAVAILABLE",
        ClientError::Aborted(_) => "ABORTED",
        ClientError::Unimplemented(_) => "UNIMPLEMENTED",
        ClientError::Internal(_) => "INTERNAL",
        ClientError::Deadline => "DEADLINE_EXCEEDED",
        ClientError::Setting(_) | ClientError::Malformed(_) | _ => "UNKNOWN",
    };
    let told = error.told().cloned().unwrap_or_default();
    let quotas: Vec<_> = told.used_up.iter().map(|quota| &quota.whose).collect();
    let reason = told.reason.unwrap_or_default();
    json!({ "code": code, "reason": reason, "fields": told.fields, "quotas": quotas })
}

/// Takes what changed since it acknowledged last.
async fn resume(client: SyncClient, name: CollectionName) -> Result<(), Error> {
    let mut consumer = client.resume([name])?;
    let mut anew = false;
    let refused = loop {
        match consumer.next().await? {
            Arrival::Begins(..) => anew = true,
            Arrival::Changes(_, delta) => took(anew, &delta)?,
            Arrival::CaughtUp(..) => break consumer.ack().await.err(),
            Arrival::Absent(_) | Arrival::Ended(..) => break None,
            _ => return Err("something arrived that this client does not know".into()),
        }
    };
    line(&json!({ "done": { "refused": refused.as_ref().map(refusal) } }))
}

fn took(anew: bool, delta: &Delta) -> Result<(), Error> {
    let keys = |gone: bool| {
        let wanted = move |change: &&Change| {
            gone == matches!(change.kind, ChangeKind::Delete | ChangeKind::LeftScope)
        };
        let text = |change: &Change| String::from_utf8_lossy(change.key.as_bytes()).into_owned();
        delta.changes.iter().filter(wanted).map(text).collect::<Vec<_>>()
    };
    line(&json!({ "took": { "anew": anew, "put": keys(false), "gone": keys(true) } }))
}

async fn window(client: SyncClient, name: CollectionName) -> Result<(), Error> {
    let builder = Window::builder(client, name.clone()).first(ROWS);
    let (window, driver) = builder.longest_backoff(LONGEST_BACKOFF).build();
    let stop = CancellationToken::new();
    let mut driving = std::pin::pin!(driver.run(stop.clone()));
    let mut finish = input_ends()?;
    let mut views = window.views();
    let mut said = None;
    loop {
        let view = views.borrow_and_update().clone();
        let shown = match view.verdict {
            Verdict::Complete { at } => rows_digest(at, &view).map(|digest| (Some(at), digest)),
            Verdict::Absent => Some((None, Digest::EMPTY)),
            Verdict::Filling
            | Verdict::Truncated { .. }
            | Verdict::Stale { .. }
            | Verdict::Denied => None,
        };
        if let Some((at, digest)) = shown
            && said != Some((at, digest))
        {
            say_at(&name, at, view.rows.len(), digest)?;
            said = Some((at, digest));
        }
        tokio::select! {
            biased;
            _ = &mut finish => break,
            () = &mut driving => return Err("the window ended by itself".into()),
            changed = views.changed() => changed?,
        }
    }
    stop.cancel();
    driving.await;
    line(&json!({ "done": {} }))
}

/// The digest of the rows in their order, once all contents are there.
fn rows_digest(at: Cursor, view: &WindowView) -> Option<Digest> {
    let mut digests = Vec::new();
    for row in &view.rows {
        let Detail::Known(value) = &row.detail else { return None };
        let digest = Digest::of_item(&row.key, row.version, &row.sort_key, value.as_bytes());
        digests.extend(digest.to_be_bytes());
    }
    let key = Key::new("window").ok()?;
    Some(Digest::of_item(&key, at.version, &SortKey::default(), &digests))
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

/// Says where a copy stands, and what readers see of it.
fn say_at(
    name: &CollectionName,
    at: Option<Cursor>,
    items: usize,
    digest: Digest,
) -> Result<(), Error> {
    let (epoch, version) = at.map_or((0, 0), |at| (at.epoch.get(), at.version.get()));
    line(&json!({ "at": {
        "collection": name.as_str(),
        "epoch": epoch.to_string(),
        "version": version.to_string(),
        "items": items,
        "digest": digest.to_string(),
    }}))
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
                self.say(&name, gone)?;
            }
        }
        for name in not_followed {
            self.say(&name, true)?;
        }
        Ok(())
    }

    /// Says where the copy stands, if it is caught up somewhere else than before; `gone`: having no
    /// copy is a state, too.
    fn say(&mut self, name: &CollectionName, gone: bool) -> Result<(), Error> {
        let snapshot = self.store.snapshot(name)?;
        let standing = *snapshot.standing();
        let caught_up = standing.cursor.is_some_and(|cursor| cursor.is_caught_up());
        let nothing = standing.cursor.is_none() && gone;
        let is_news = self.standings.get(name) != Some(&standing);
        if !is_news || !(caught_up || nothing) {
            return Ok(());
        }
        let mut digest = Digest::EMPTY;
        let items = snapshot.window(0, usize::MAX)?;
        for item in &items {
            digest += Digest::of_item(&item.key, item.version, &item.sort_key, &item.value);
        }
        say_at(name, standing.cursor, items.len(), digest)?;
        self.standings.insert(name.clone(), standing);
        Ok(())
    }
}
