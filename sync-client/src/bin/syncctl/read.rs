//! Commands that look and change nothing: get, list, head.

use bytes::Bytes;
use comfy_table::Table;
use serde::Serialize;
use sync_client::SyncClient;
use sync_client::client::{CollectionInfo, Found};
use sync_client::types::{CollectionName, Head, Item, Key, ListItems, OrderRange, Value};
use sync_proto::limits::{GET_ITEMS_KEYS_MAX, INBOX_PREFIX, LIST_PAGE_MAX};

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::output::{number, table};
use crate::text::{KeyFields, SortKeyFields, ValueFields, hex, moment, shown, shown_short};

/// Characters of a value or key that a table shows.
const SHOWN_MAX: usize = 80;

/// An item in JSON.
#[derive(Serialize)]
struct ItemFields<'a> {
    collection: &'a str,
    #[serde(flatten)]
    key: KeyFields<'a>,
    #[serde(flatten)]
    value: Option<ValueFields<'a>>,
    #[serde(flatten)]
    sort_key: SortKeyFields<'a>,
    value_size: u32,
    version: u64,
    created: u64,
    value_version: u64,
}

/// A key without an item, in JSON.
#[derive(Serialize)]
struct GoneFields<'a> {
    collection: &'a str,
    #[serde(flatten)]
    key: KeyFields<'a>,
    found: bool,
}

/// A collection in JSON.
#[derive(Serialize)]
pub(crate) struct HeadFields<'a> {
    collection: &'a str,
    epoch: String,
    version: u64,
    floor: u64,
    items: u64,
    tombstones: u64,
    bytes: u64,
    digest: String,
    commit_time: String,
}

// === impl ItemFields ===

impl<'a> ItemFields<'a> {
    fn new(collection: &'a CollectionName, item: &'a Item) -> Self {
        Self {
            collection: collection.as_str(),
            key: KeyFields::new(item.key.as_bytes()),
            value: item.value.as_ref().map(|value| ValueFields::new(value.as_bytes())),
            sort_key: SortKeyFields::new(item.sort_key.as_bytes()),
            value_size: item.value_size,
            version: item.version.get(),
            created: item.created.get(),
            value_version: item.value_version.get(),
        }
    }
}

// === impl HeadFields ===

impl<'a> HeadFields<'a> {
    pub(crate) fn new(collection: &'a CollectionName, head: &Head) -> Self {
        Self {
            collection: collection.as_str(),
            epoch: head.epoch.to_string(),
            version: head.version.get(),
            floor: head.floor.get(),
            items: head.items,
            tombstones: head.tombstones,
            bytes: head.bytes,
            digest: hex(&head.digest.to_be_bytes()),
            commit_time: moment(head.commit_time),
        }
    }
}

pub(crate) async fn get(context: &mut Context, get: args::Get) -> Result<Exit, Failure> {
    let keys = get.keys.iter().map(|key| get.form.key(key));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
    if get.raw && keys.len() != 1 {
        return Err(Failure::Usage("--raw writes the content of exactly one item".into()));
    }
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    let mut asked = keys.as_slice();
    while !asked.is_empty() {
        let ask = &asked[..asked.len().min(GET_ITEMS_KEYS_MAX)];
        let reply = context.client.get_items(&get.collection, ask, false).await?;
        if reply.results.is_empty() || reply.results.len() > ask.len() {
            let reason = "the server answered for other keys than were asked for";
            return Err(Failure::Internal(reason.into()));
        }
        asked = &asked[reply.results.len()..];
        for result in reply.results {
            match result {
                Found::Item(item) => found.push(item),
                Found::Gone(key) => gone.push(key),
            }
        }
    }
    if get.raw {
        let values = found.iter().filter_map(|item| item.value.as_ref());
        values.map(Value::as_bytes).try_for_each(|value| context.output.bytes(value))?;
    } else {
        show_items(context, &get.collection, &found)?;
    }
    if gone.is_empty() {
        return Ok(Exit::Done);
    }
    not_there(context, &get.collection, &gone)
}

/// Tells which keys have no item: programs in the output, people as a failure.
fn not_there(
    context: &mut Context,
    collection: &CollectionName,
    gone: &[Key],
) -> Result<Exit, Failure> {
    if context.output.json() {
        for key in gone {
            let key = KeyFields::new(key.as_bytes());
            let fields = GoneFields { collection: collection.as_str(), key, found: false };
            context.output.object(&fields)?;
        }
        return Ok(Exit::NotFound);
    }
    let keys: Vec<_> = gone.iter().map(|key| shown_short(key.as_bytes(), SHOWN_MAX)).collect();
    Err(Failure::NotFound(format!("not found in {collection}: {}", keys.join(", "))))
}

pub(crate) async fn list(context: &mut Context, list: args::List) -> Result<Exit, Failure> {
    match list.collection.clone() {
        Some(collection) => list_items(context, collection, &list).await,
        None => list_collections(context, &list).await,
    }
}

async fn list_items(
    context: &mut Context,
    collection: CollectionName,
    list: &args::List,
) -> Result<Exit, Failure> {
    let mut left = list.limit.unwrap_or(u64::MAX);
    let mut page_token = Bytes::new();
    loop {
        let page_size = usize::try_from(left).unwrap_or(usize::MAX).min(LIST_PAGE_MAX);
        let page = context.client.list_items(ListItems {
            collection: collection.clone(),
            order: list.order.into(),
            descending: list.desc,
            page_size,
            page_token,
            keys_only: list.keys_only,
            key_prefix: list.prefix.clone().into(),
            stretch: OrderRange::default(),
            skip: 0,
        });
        let page = page.await?;
        show_items(context, &collection, &page.entries)?;
        left = left.saturating_sub(page.entries.len() as u64);
        match page.next {
            Some(next) if left > 0 => page_token = next,
            Some(_) | None => return Ok(Exit::Done),
        }
    }
}

/// Each page is a table of its own: a collection may be larger than memory.
fn show_items(
    context: &mut Context,
    collection: &CollectionName,
    items: &[Item],
) -> Result<(), Failure> {
    if context.output.json() {
        let mut items = items.iter().map(|item| ItemFields::new(collection, item));
        return items.try_for_each(|item| context.output.object(&item));
    }
    if items.is_empty() {
        return Ok(());
    }
    let sorted = items.iter().any(|item| !item.sort_key.as_bytes().is_empty());
    let valued = items.iter().any(|item| item.value.is_some());
    let mut titles = vec!["key"];
    titles.extend(valued.then_some("value"));
    titles.extend(sorted.then_some("sort key"));
    titles.extend(["bytes", "version", "created"]);
    let mut shown_items = table(&titles);
    for item in items {
        let mut row = vec![shown_short(item.key.as_bytes(), SHOWN_MAX).into()];
        if valued {
            let value = item.value.as_ref().map(Value::as_bytes).unwrap_or_default();
            row.push(shown_short(value, SHOWN_MAX).into());
        }
        if sorted {
            row.push(shown_short(item.sort_key.as_bytes(), SHOWN_MAX).into());
        }
        row.extend([number(item.value_size), number(item.version), number(item.created)]);
        shown_items.add_row(row);
    }
    context.output.table(shown_items)
}

async fn list_collections(context: &mut Context, list: &args::List) -> Result<Exit, Failure> {
    let mut left = usize::try_from(list.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut token = None;
    loop {
        let page = context.client.list_collections(&list.prefix, token).await?;
        let shown = page.entries.len().min(left);
        show_collections(context, &page.entries[..shown], list.keys_only)?;
        left -= shown;
        match page.next {
            Some(next) if left > 0 => token = Some(next),
            Some(_) | None => return Ok(Exit::Done),
        }
    }
}

/// The names of all collections that begin with `prefix`. Inboxes are the server's own and come
/// only when they are asked for.
pub(crate) async fn collections_below(
    client: &SyncClient,
    prefix: &str,
) -> Result<Vec<CollectionName>, Failure> {
    let (mut names, mut token) = (Vec::new(), None);
    loop {
        let page = client.list_collections(prefix, token).await?;
        let found = page.entries.into_iter().map(|info| info.name);
        names.extend(found.filter(|name| !name.is_inbox() || prefix.starts_with(INBOX_PREFIX)));
        token = page.next;
        if token.is_none() {
            return Ok(names);
        }
    }
}

fn show_collections(
    context: &mut Context,
    collections: &[CollectionInfo],
    names_only: bool,
) -> Result<(), Failure> {
    if context.output.json() {
        for CollectionInfo { name, head } in collections {
            if names_only {
                context.output.object(&serde_json::json!({ "collection": name.as_str() }))?;
            } else {
                context.output.object(&HeadFields::new(name, head))?;
            }
        }
        return Ok(());
    }
    if names_only {
        let mut names = collections.iter().map(|info| shown(info.name.as_str().as_bytes()));
        return names.try_for_each(|name| context.output.line(&name));
    }
    if collections.is_empty() {
        return Ok(());
    }
    let mut shown_collections = table(&["collection", "items", "bytes", "version", "changed"]);
    for CollectionInfo { name, head } in collections {
        shown_collections.add_row([
            shown(name.as_str().as_bytes()).into(),
            number(head.items),
            number(head.bytes),
            number(head.version),
            moment(head.commit_time).into(),
        ]);
    }
    context.output.table(shown_collections)
}

pub(crate) async fn head(context: &mut Context, head: &args::Head) -> Result<Exit, Failure> {
    let found = context.client.get_collection(&head.collection).await?;
    let fields = HeadFields::new(&head.collection, &found);
    if context.output.json() {
        context.output.object(&fields)?;
        return Ok(Exit::Done);
    }
    context.output.table(facts(fields))?;
    Ok(Exit::Done)
}

/// What is known of a collection, for people.
pub(crate) fn facts(fields: HeadFields<'_>) -> Table {
    let mut facts = table(&[]);
    for (name, fact) in [
        ("collection", shown(fields.collection.as_bytes())),
        ("epoch", fields.epoch),
        ("version", fields.version.to_string()),
        ("floor", fields.floor.to_string()),
        ("items", fields.items.to_string()),
        ("tombstones", fields.tombstones.to_string()),
        ("bytes", fields.bytes.to_string()),
        ("digest", fields.digest),
        ("changed", fields.commit_time),
    ] {
        facts.add_row([name.to_owned(), fact]);
    }
    facts
}
