//! Shows what is in collections and what changes, as it happens.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Zoned;
use serde::Serialize;
use sync_client::types::CollectionName;
use sync_client::{Entry, MemoryStore, Status};

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::follow::{Begin, Change, Following, News, StatusFields};
use crate::interrupt::interrupted;
use crate::output::{Colour, Output};
use crate::progress::Loads;
use crate::text::{KeyFields, SortKeyFields, ValueFields, shown, shown_short};

/// Characters of a value that a line shows.
const SHOWN_MAX: usize = 120;

/// An event in JSON.
#[derive(Serialize)]
struct EventFields<'a> {
    time: String,
    event: &'a str,
    collection: &'a str,
    #[serde(flatten)]
    key: Option<KeyFields<'a>>,
    #[serde(flatten)]
    value: Option<ValueFields<'a>>,
    #[serde(flatten)]
    sort_key: SortKeyFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// What the item was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<ValueFields<'a>>,
    /// Was there at the beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    initial: bool,
    #[serde(flatten)]
    status: Option<StatusFields>,
}

/// What has been watched so far.
struct Watching<'a> {
    output: &'a mut Output,
    loads: Loads,
    /// Collections of which everything that was there has been told.
    complete: Vec<CollectionName>,
    several: bool,
    changes_only: bool,
    /// Changes that are still to be told.
    left: u64,
    /// The status of each collection as it was told last.
    told: BTreeMap<CollectionName, StatusFields>,
}

pub(crate) async fn watch(context: &mut Context, watch: args::Watch) -> Result<Exit, Failure> {
    let names = &watch.collections;
    let mut following =
        Following::begin(&context.client, MemoryStore::new(), names, Begin::WithAll).await?;
    let mut watching = Watching {
        loads: Loads::new(&context.output, names),
        output: &mut context.output,
        complete: Vec::new(),
        several: names.len() > 1,
        changes_only: watch.changes_only,
        left: watch.count.unwrap_or(u64::MAX),
        told: BTreeMap::new(),
    };
    let mut exit = Exit::Done;
    let end = interrupted();
    tokio::pin!(end);
    while watching.left > 0 {
        let news = tokio::select! {
            biased;
            () = &mut end => break,
            news = following.news.recv() => news,
        };
        // Only when the replica has stopped by itself; `end` says why.
        let Some((collection, news)) = news else { break };
        watching.tell(&collection, &news)?;
        if watching.is_denied(names) {
            exit = Exit::Denied;
            break;
        }
    }
    drop(watching);
    following.end().await?;
    Ok(exit)
}

// === impl Watching ===

impl Watching<'_> {
    fn tell(&mut self, collection: &CollectionName, news: &News) -> Result<(), Failure> {
        match news {
            News::Status(status) => self.tell_status(collection, *status),
            News::Complete => {
                self.complete.push(collection.clone());
                self.tell_plain(collection, "complete")
            }
            News::Reloaded => {
                self.complete.retain(|name| name != collection);
                self.tell_plain(collection, "reloaded")
            }
            News::Change(change) => self.tell_change(collection, change),
        }
    }

    /// Whether none of the collections may be read: there is nothing to wait for.
    fn is_denied(&self, names: &[CollectionName]) -> bool {
        let denied = StatusFields::new(Status::Denied);
        names.iter().all(|name| self.told.get(name) == Some(&denied))
    }

    fn tell_change(&mut self, collection: &CollectionName, change: &Change) -> Result<(), Failure> {
        let complete = self.complete.contains(collection);
        if complete {
            self.left -= 1;
        } else if self.changes_only {
            return Ok(());
        }
        if self.output.json() {
            self.output.object(&EventFields::of_change(collection, change, !complete))?;
        } else {
            let (colour, line) = self.line(collection, change, complete);
            let output = &mut *self.output;
            self.loads.aside(|| output.coloured_line(colour, &line))?;
        }
        self.output.flush()
    }

    fn line(&self, collection: &CollectionName, change: &Change, new: bool) -> (Colour, String) {
        let value = |entry: &Entry<Bytes>| shown_short(&entry.value, SHOWN_MAX);
        let was = |old: &Option<Entry<Bytes>>| {
            old.as_ref().map(|old| format!("  (was {})", value(old))).unwrap_or_default()
        };
        let (colour, sign, key, text) = match change {
            Change::Inserted(entry) if new => (Colour::Green, '+', &entry.key, value(entry)),
            Change::Inserted(entry) => (Colour::Plain, ' ', &entry.key, value(entry)),
            Change::Updated(old, entry) => {
                (Colour::Yellow, '~', &entry.key, format!("{}{}", value(entry), was(old)))
            }
            Change::Deleted(key, old) => (Colour::Red, '-', key, was(old)),
        };
        let place = if self.several { format!("{collection} ") } else { String::new() };
        let key = shown(key.as_bytes());
        (colour, format!("{} {sign} {place}{key}  {text}", clock()).trim_end().to_owned())
    }

    fn tell_status(&mut self, collection: &CollectionName, status: Status) -> Result<(), Failure> {
        self.loads.status(collection, status);
        // The bar shows these.
        if !self.output.json() && matches!(status, Status::Connecting | Status::Loading { .. }) {
            return Ok(());
        }
        let fields = StatusFields::new(status);
        if self.told.insert(collection.clone(), fields) == Some(fields) {
            return Ok(());
        }
        if self.output.json() {
            let status = Some(fields);
            self.output
                .object(&EventFields { status, ..EventFields::new("status", collection) })?;
        } else {
            let line = format!("{} * {collection} is {fields}", clock());
            let output = &mut *self.output;
            self.loads.aside(|| output.coloured_line(Colour::Dim, &line))?;
        }
        self.output.flush()
    }

    fn tell_plain(&mut self, collection: &CollectionName, event: &str) -> Result<(), Failure> {
        if self.output.json() {
            self.output.object(&EventFields::new(event, collection))?;
        } else if event == "reloaded" {
            let line = format!("{} * {collection} changed too much to follow; again:", clock());
            let output = &mut *self.output;
            self.loads.aside(|| output.coloured_line(Colour::Dim, &line))?;
        }
        self.output.flush()
    }
}

// === impl EventFields ===

impl<'a> EventFields<'a> {
    fn new(event: &'a str, collection: &'a CollectionName) -> Self {
        Self {
            time: jiff::Timestamp::now().to_string(),
            event,
            collection: collection.as_str(),
            key: None,
            value: None,
            sort_key: SortKeyFields::default(),
            version: None,
            old: None,
            initial: false,
            status: None,
        }
    }

    fn of_change(collection: &'a CollectionName, change: &'a Change, initial: bool) -> Self {
        let value = |entry: &'a Entry<Bytes>| Some(ValueFields::new(&entry.value));
        let (event, key, old, new) = match change {
            Change::Inserted(new) => ("insert", &new.key, None, Some(new)),
            Change::Updated(old, new) => ("update", &new.key, old.as_ref(), Some(new)),
            Change::Deleted(key, old) => ("delete", key, old.as_ref(), None),
        };
        Self {
            key: Some(KeyFields::new(key.as_bytes())),
            value: new.and_then(value),
            sort_key: new
                .map(|new| SortKeyFields::new(new.sort_key.as_bytes()))
                .unwrap_or_default(),
            version: new.map(|new| new.version.get()),
            old: old.and_then(value),
            initial,
            ..Self::new(event, collection)
        }
    }
}

/// The time of day.
fn clock() -> String {
    Zoned::now().strftime("%H:%M:%S").to_string()
}
