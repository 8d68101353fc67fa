//! Keeps a local copy of collections in a file, and reports how it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::json;
use sync_client::types::CollectionName;
use sync_client::{DiskStore, Raw, Status};
use tokio::time::MissedTickBehavior;

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::follow::{Begin, Change, Following, News, StatusFields};
use crate::interrupt::interrupted;
use crate::output::{Colour, Output, number, table};
use crate::progress::Loads;
use crate::read::collections_below;
use crate::text::hex;

/// How often changes are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What has happened to a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Tally {
    inserted: u64,
    updated: u64,
    deleted: u64,
    /// More changed than was counted.
    uncounted: bool,
}

/// A collection of the copy, in JSON.
#[derive(Serialize)]
struct CopyFields<'a> {
    collection: &'a str,
    #[serde(flatten)]
    status: StatusFields,
    epoch: Option<String>,
    version: Option<u64>,
    items: u64,
    digest: String,
    #[serde(flatten)]
    tally: Tally,
}

/// A status in JSON.
#[derive(Serialize)]
struct StatusEvent<'a> {
    event: &'static str,
    collection: &'a str,
    #[serde(flatten)]
    status: StatusFields,
}

/// The copy at work.
struct Keeping {
    following: Following,
    loads: Loads,
    tallies: BTreeMap<CollectionName, Tally>,
    begun: Instant,
}

pub(crate) async fn replica(
    context: &mut Context,
    replica: args::Replica,
) -> Result<Exit, Failure> {
    let names = match &replica.prefix {
        Some(prefix) => collections_below(&context.client, prefix).await?,
        None => replica.collections,
    };
    if names.is_empty() {
        return Err(Failure::NotFound("no collection begins with that".into()));
    }
    let store = DiskStore::open(&replica.store)?;
    let following = Following::begin(&context.client, store, &names, Begin::WithStored).await?;
    let mut keeping = Keeping {
        following,
        loads: Loads::new(&context.output, &names),
        tallies: BTreeMap::new(),
        begun: Instant::now(),
    };
    let kept = if replica.once {
        keeping.catch_up(context).await
    } else {
        keeping.keep(&mut context.output).await
    };
    keeping.following.end().await?;
    kept
}

// === impl Keeping ===

impl Keeping {
    /// Waits until every collection is loaded, and reports.
    async fn catch_up(&mut self, context: &mut Context) -> Result<Exit, Failure> {
        let deadline = tokio::time::sleep(context.connection.timeout);
        tokio::pin!(deadline);
        let end = interrupted();
        tokio::pin!(end);
        loop {
            let news = tokio::select! {
                biased;
                () = &mut end => {
                    let next_step = "what was received is kept; the same command goes on from there";
                    return Err(Failure::Interrupted { next_step: Some(next_step.into()) });
                }
                news = self.following.news.recv() => news,
                () = &mut deadline => {
                    let waiting = self.loads.waiting().next().cloned();
                    return waiting.map_or(Ok(Exit::Done), |name| Err(Failure::TooLate(name)));
                }
            };
            // The local store failed; the end of the replica says how.
            let Some((name, news)) = news else { return Ok(Exit::Failed) };
            if self.take(&name, &news) {
                break;
            }
        }
        self.report(&mut context.output)?;
        let denied = |fields: &CopyFields<'_>| {
            fields.status.status == StatusFields::new(Status::Denied).status
        };
        Ok(if self.copies()?.iter().any(denied) { Exit::Denied } else { Exit::Done })
    }

    /// Reports what happens until Ctrl-C.
    async fn keep(&mut self, output: &mut Output) -> Result<Exit, Failure> {
        let end = interrupted();
        tokio::pin!(end);
        let mut reports = tokio::time::interval(REPORT_EVERY);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let news = tokio::select! {
                biased;
                () = &mut end => break,
                _ = reports.tick() => {
                    self.report_changes(output)?;
                    continue;
                }
                news = self.following.news.recv() => news,
            };
            let Some((name, news)) = news else { return Ok(Exit::Failed) };
            self.take(&name, &news);
            if let News::Status(status) = news {
                self.report_status(output, &name, status)?;
            }
        }
        self.report_changes(output)?;
        self.report(output)?;
        Ok(Exit::Done)
    }

    /// `true` = every collection is loaded.
    fn take(&mut self, name: &CollectionName, news: &News) -> bool {
        match news {
            News::Status(status) => self.loads.status(name, *status),
            News::Change(change) => {
                self.tallies.entry(name.clone()).or_default().count(change);
                false
            }
            News::Reloaded => {
                self.tallies.entry(name.clone()).or_default().uncounted = true;
                false
            }
            News::Complete => false,
        }
    }

    fn report_status(
        &self,
        output: &mut Output,
        name: &CollectionName,
        status: Status,
    ) -> Result<(), Failure> {
        let fields = StatusFields::new(status);
        if output.json() {
            let event = StatusEvent { event: "status", collection: name.as_str(), status: fields };
            output.object(&event)?;
        } else if !matches!(status, Status::Connecting | Status::Loading { .. }) {
            let line = format!("{name} is {fields}");
            self.loads.aside(|| output.coloured_line(Colour::Dim, &line))?;
        }
        output.flush()
    }

    /// What changed since the last report, a line for each collection.
    fn report_changes(&mut self, output: &mut Output) -> Result<(), Failure> {
        for (name, tally) in std::mem::take(&mut self.tallies) {
            let standing = self.following.replica.collection::<Raw>(&name)?.standing();
            let version = standing.cursor.map_or(0, |cursor| cursor.version.get());
            let items = standing.tally.items;
            if output.json() {
                output.object(&json!({
                    "event": "changes", "collection": name.as_str(), "version": version,
                    "items": items, "inserted": tally.inserted, "updated": tally.updated,
                    "deleted": tally.deleted, "uncounted": tally.uncounted,
                }))?;
            } else {
                let line = format!("{name}  {tally}  version {version}, {items} items");
                self.loads.aside(|| output.line(&line))?;
            }
        }
        output.flush()
    }

    fn copies(&self) -> Result<Vec<CopyFields<'_>>, Failure> {
        let replica = &self.following.replica;
        let copy = |name| {
            let collection = replica.collection::<Raw>(name)?;
            let standing = collection.standing();
            Ok(CopyFields {
                collection: name.as_str(),
                status: StatusFields::new(*collection.status().borrow()),
                epoch: standing.cursor.map(|cursor| cursor.epoch.to_string()),
                version: standing.cursor.map(|cursor| cursor.version.get()),
                items: standing.tally.items,
                digest: hex(&standing.tally.digest.to_be_bytes()),
                tally: self.tallies.get(name).copied().unwrap_or_default(),
            })
        };
        replica.names().map(copy).collect()
    }

    /// Where every collection stands, and what it took.
    fn report(&self, output: &mut Output) -> Result<(), Failure> {
        let (copies, stats) = (self.copies()?, self.following.replica.stats());
        let seconds = self.begun.elapsed().as_secs_f64();
        let repairs: u64 = stats.repairs.values().sum();
        if output.json() {
            return output.object(&json!({
                "event": "report", "collections": copies, "seconds": seconds,
                "bytes_received": stats.bytes_received, "pulls": stats.pulls,
                "loads": stats.loads, "repairs": repairs,
                "digest_checks": stats.digest_checks,
            }));
        }
        let mut rows = table(&["collection", "status", "version", "items", "changes", "digest"]);
        for copy in copies {
            rows.add_row([
                copy.collection.into(),
                copy.status.to_string().into(),
                number(copy.version.map_or_else(|| "-".into(), |version| version.to_string())),
                number(copy.items),
                copy.tally.to_string().into(),
                copy.digest.into(),
            ]);
        }
        output.table(rows)?;
        let received = HumanBytes(stats.bytes_received);
        let line = format!(
            "received {received} in {seconds:.1} s; {} digests compared, {repairs} repairs",
            stats.digest_checks
        );
        output.coloured_line(Colour::Dim, &line)
    }
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, change: &Change) {
        match change {
            Change::Inserted(_) => self.inserted += 1,
            Change::Updated(..) => self.updated += 1,
            Change::Deleted(..) => self.deleted += 1,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "+{} ~{} -{}", self.inserted, self.updated, self.deleted)?;
        if self.uncounted { f.write_str(" and more") } else { Ok(()) }
    }
}
