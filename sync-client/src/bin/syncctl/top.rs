//! What a server is busy with, again and again: the collections that move most and the clients that
//! are furthest behind. On a terminal in place, elsewhere one block of plain text after the other.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use sync_client::client::{CollectionInfo, Page};
use sync_client::types::{ClientInfo, CollectionName, Timestamp};
use sync_client::{ClientError, SyncClient};

use crate::Context;
use crate::args::duration;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::output::{Colour, number, table};
use crate::text::moment;

#[cfg(test)]
mod tests;

/// Pages that are read of each listing for one view, of 100 each: a view costs a server no more,
/// however much it has.
const PAGES_MAX: usize = 20;

/// Puts a terminal's cursor at the upper left and clears what is below.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Only collections whose names begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Time between two views.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Rows of each table.
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub(crate) rows: usize,
    /// One view, of two looks, and end.
    #[arg(long)]
    pub(crate) once: bool,
}

/// What was seen at one moment.
#[derive(Debug)]
struct Seen {
    collections: Vec<CollectionInfo>,
    clients: Vec<ClientInfo>,
    /// There is more than was read.
    more: bool,
}

/// A collection, and how it moves.
#[derive(Debug, PartialEq, Serialize)]
struct Busy {
    collection: String,
    version: u64,
    versions_per_s: f64,
    items: u64,
    tombstones: u64,
    bytes: u64,
}

/// A client, and where it is furthest behind.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Lagging {
    client_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    streams: u32,
    collection: String,
    behind: u64,
    last_seen: String,
}

/// A view.
#[derive(Debug, Serialize)]
struct View {
    time: String,
    collections: usize,
    items: u64,
    bytes: u64,
    clients: usize,
    streams: u64,
    /// There is more than was counted here.
    more: bool,
    busiest: Vec<Busy>,
    furthest_behind: Vec<Lagging>,
}

pub(crate) async fn top(context: &mut Context, asked: &Top) -> Result<Exit, Failure> {
    let in_place = io::stdout().is_terminal() && !context.output.json() && !asked.once;
    let (mut before, mut looked) = (look(&context.client, &asked.prefix).await?, Instant::now());
    let mut ticks = tokio::time::interval(asked.interval.max(Duration::from_millis(100)));
    ticks.tick().await;
    let end = interrupted();
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            () = &mut end => return Ok(Exit::Done),
            _ = ticks.tick() => {}
        }
        let seen = look(&context.client, &asked.prefix).await?;
        let view = view(&before, &seen, looked.elapsed(), asked.rows);
        (before, looked) = (seen, Instant::now());
        if in_place {
            context.output.bytes(CLEAR)?;
        }
        show(context, &view)?;
        context.output.flush()?;
        if asked.once {
            return Ok(Exit::Done);
        }
    }
}

async fn look(client: &SyncClient, prefix: &str) -> Result<Seen, ClientError> {
    let collections = all(async |token| client.list_collections(prefix, token).await);
    let (collections, more) = collections.await?;
    let clients = all(async |token| client.list_clients("", token).await);
    let (clients, more_clients) = clients.await?;
    Ok(Seen { collections, clients, more: more || more_clients })
}

/// The entries of the first pages, and whether there are more.
async fn all<T>(
    page: impl AsyncFn(Option<Bytes>) -> Result<Page<T>, ClientError>,
) -> Result<(Vec<T>, bool), ClientError> {
    let (mut entries, mut token) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let found = page(token).await?;
        entries.extend(found.entries);
        token = found.next;
        if token.is_none() {
            return Ok((entries, false));
        }
    }
    Ok((entries, true))
}

/// What two looks come to.
fn view(before: &Seen, now: &Seen, between: Duration, rows: usize) -> View {
    let sum = |of: fn(&CollectionInfo) -> u64| now.collections.iter().map(of).sum();
    View {
        time: moment(Timestamp::now()),
        collections: now.collections.len(),
        items: sum(|it| it.head.items),
        bytes: sum(|it| it.head.bytes),
        clients: now.clients.len(),
        streams: now.clients.iter().map(|client| u64::from(client.streams)).sum(),
        more: now.more,
        busiest: busiest(&before.collections, &now.collections, between, rows),
        furthest_behind: furthest_behind(&now.clients, rows),
    }
}

/// The collections that moved most between two looks; those that did not by name.
fn busiest(
    before: &[CollectionInfo],
    now: &[CollectionInfo],
    between: Duration,
    rows: usize,
) -> Vec<Busy> {
    let before: BTreeMap<&CollectionName, _> =
        before.iter().map(|info| (&info.name, info.head)).collect();
    let moved = |info: &CollectionInfo| {
        let head = before.get(&info.name).filter(|head| head.epoch == info.head.epoch);
        let from = head.map_or(info.head.version, |head| head.version);
        info.head.version.get().saturating_sub(from.get())
    };
    let mut all: Vec<_> = now.iter().map(|info| (moved(info), info)).collect();
    all.sort_by(|(a, of_a), (b, of_b)| b.cmp(a).then_with(|| of_a.name.cmp(&of_b.name)));
    let busy = |(moved, info): (u64, &CollectionInfo)| Busy {
        collection: info.name.to_string(),
        version: info.head.version.get(),
        versions_per_s: per_s(moved, between),
        items: info.head.items,
        tombstones: info.head.tombstones,
        bytes: info.head.bytes,
    };
    all.into_iter().take(rows).map(busy).collect()
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn per_s(count: u64, time: Duration) -> f64 {
    (count as f64 / time.as_secs_f64().max(0.001) * 10.0).round() / 10.0
}

/// The clients that are furthest behind, each with the collection in which it is.
fn furthest_behind(clients: &[ClientInfo], rows: usize) -> Vec<Lagging> {
    let worst = |client: &ClientInfo| {
        let at = client.positions.iter().max_by_key(|at| at.behind);
        let collection = at.map(|at| at.collection.to_string()).unwrap_or_default();
        (at.map_or(0, |at| at.behind), collection)
    };
    let mut all: Vec<_> = clients.iter().map(|client| (worst(client), client)).collect();
    all.sort_by_key(|((behind, _), _)| Reverse(*behind));
    let lagging = |((behind, collection), client): ((u64, String), &ClientInfo)| Lagging {
        client_id: client.client_id.clone(),
        subject: client.subject.clone(),
        streams: client.streams,
        collection,
        behind,
        last_seen: moment(client.last_seen),
    };
    all.into_iter().take(rows).map(lagging).collect()
}

fn show(context: &mut Context, view: &View) -> Result<(), Failure> {
    if context.output.json() {
        return context.output.object(view);
    }
    let more = if view.more { ", and more that was not read" } else { "" };
    let line = format!(
        "{}  {}: {} collections, {} items, {} bytes; {} clients, {} streams{more}",
        view.time,
        context.connection.server,
        view.collections,
        view.items,
        view.bytes,
        view.clients,
        view.streams,
    );
    context.output.coloured_line(Colour::Dim, &line)?;
    context.output.line("")?;
    let titles = ["collection", "version", "versions/s", "items", "tombstones", "bytes"];
    let mut rows = table(&titles);
    for busy in &view.busiest {
        let numbers = [busy.items, busy.tombstones, busy.bytes].map(number);
        let moves = [number(busy.version), number(format!("{:.1}", busy.versions_per_s))];
        let row = [busy.collection.as_str().into()].into_iter().chain(moves).chain(numbers);
        rows.add_row(row);
    }
    context.output.table(rows)?;
    context.output.line("")?;
    let titles = ["client", "subject", "streams", "behind", "in", "last seen"];
    let mut rows = table(&titles);
    for client in &view.furthest_behind {
        let words = [client.client_id.as_str().into(), client.subject.as_str().into()];
        let numbers = [number(client.streams), number(client.behind)];
        let rest = [client.collection.as_str().into(), client.last_seen.as_str().into()];
        rows.add_row(words.into_iter().chain(numbers).chain(rest));
    }
    context.output.table(rows)?;
    context.output.line("")
}
