//! Commands about clients: who they are and where they stand, and an ack by hand.

use clap::Args;
use serde::Serialize;
use sync_client::types::{Acked, ClientInfo, ClientPosition, CollectionName, Cursor, Version};

use crate::args::{client_id, collection, version};
use crate::exit::{Exit, Failure};
use crate::output::{number, table};
use crate::text::moment;
use crate::{Context, client};

#[derive(Debug, Args)]
pub(crate) struct Clients {
    /// Only clients whose ids begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct Ack {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Which client.
    #[arg(long, value_name = "ID", value_parser = client_id)]
    pub(crate) client_id: String,
    /// Up to this version. Not given: up to the head.
    #[arg(long, value_name = "N", value_parser = version)]
    pub(crate) version: Option<Version>,
}

/// A client in JSON.
#[derive(Serialize)]
pub(crate) struct ClientFields<'a> {
    client_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    last_seen: String,
    streams: u32,
    streams_lagging: u32,
    streams_parked: u32,
    positions: Vec<PositionFields<'a>>,
    more_positions: bool,
}

/// Where a client stands, in JSON.
#[derive(Serialize)]
struct PositionFields<'a> {
    collection: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<CursorFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acked: Option<CursorFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acked_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<CursorFields>,
    behind: u64,
}

/// A cursor in JSON.
#[derive(Serialize)]
pub(crate) struct CursorFields {
    epoch: String,
    version: u64,
    base: u64,
}

/// An ack in JSON.
#[derive(Serialize)]
struct AckedFields<'a> {
    client_id: &'a str,
    collection: &'a str,
    acked: CursorFields,
}

impl From<Cursor> for CursorFields {
    fn from(cursor: Cursor) -> Self {
        let (version, base) = (cursor.version.get(), cursor.base.get());
        Self { epoch: cursor.epoch.to_string(), version, base }
    }
}

impl<'a> From<&'a ClientInfo> for ClientFields<'a> {
    fn from(client: &'a ClientInfo) -> Self {
        let position = |at: &'a ClientPosition| PositionFields {
            collection: at.collection.as_str(),
            sent: at.sent.map(Into::into),
            acked: at.acked.map(Into::into),
            acked_time: at.acked_at.map(moment),
            head: at.head.map(Into::into),
            behind: at.behind,
        };
        Self {
            client_id: &client.client_id,
            subject: &client.subject,
            last_seen: moment(client.last_seen),
            streams: client.streams,
            streams_lagging: client.streams_lagging,
            streams_parked: client.streams_parked,
            positions: client.positions.iter().map(position).collect(),
            more_positions: client.more_positions,
        }
    }
}

pub(crate) async fn clients(context: &mut Context, asked: &Clients) -> Result<Exit, Failure> {
    let titles =
        ["client", "subject", "last seen", "streams", "collection", "sent", "acked", "behind"];
    let mut rows = table(&titles);
    let mut token = None;
    loop {
        let page = context.client.list_clients(&asked.prefix, token).await?;
        for client in &page.entries {
            if context.output.json() {
                context.output.object(&ClientFields::from(client))?;
            } else {
                add(&mut rows, client);
            }
        }
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    if !context.output.json() {
        context.output.table(rows)?;
    }
    Ok(Exit::Done)
}

/// A line for each collection; what is of the client stands in the first.
fn add(rows: &mut comfy_table::Table, client: &ClientInfo) {
    let of_client = [
        client.client_id.clone(),
        client.subject.clone(),
        moment(client.last_seen),
        client.streams.to_string(),
    ];
    let mut first = of_client.clone();
    let at = |cursor: Option<Cursor>| cursor.map_or("-".to_owned(), |cursor| cursor.to_string());
    for position in &client.positions {
        let place = [position.collection.to_string(), at(position.sent), at(position.acked)];
        let mut row: Vec<comfy_table::Cell> =
            first.iter().chain(&place).map(comfy_table::Cell::new).collect();
        row.push(number(position.behind));
        rows.add_row(row);
        first = Default::default();
    }
    if client.positions.is_empty() {
        rows.add_row(of_client);
    }
    if client.more_positions {
        rows.add_row(["", "", "", "", "..."]);
    }
}

pub(crate) async fn ack(context: &mut Context, asked: &Ack) -> Result<Exit, Failure> {
    let head = context.client.get_collection(&asked.collection).await?;
    let version = asked.version.unwrap_or(head.version);
    let cursor = Cursor::at(head.epoch, version);
    let position = Acked { collection: asked.collection.clone(), cursor };
    client(&context.connection, &asked.client_id)?.ack(vec![position]).await?;
    if context.output.json() {
        context.output.object(&AckedFields {
            client_id: &asked.client_id,
            collection: asked.collection.as_str(),
            acked: cursor.into(),
        })?;
    } else {
        let line =
            format!("{} has acknowledged {} up to {cursor}", asked.client_id, asked.collection);
        context.output.line(&line)?;
    }
    Ok(Exit::Done)
}
