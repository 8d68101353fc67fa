//! Writes collections to a file that `import` reads. Each collection is consistent: what is
//! written is its state at one version. Two collections may be of different moments.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde_json::json;
use sync_client::types::{
    Change, ChangeKind, CollectionName, Cursor, Key, Outcome, Pull, SortKey, Target, Timestamp,
    Value,
};
use sync_client::{ClientError, SyncClient};
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX};

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::progress;
use crate::read::collections_below;
use crate::record::{Content, Puts};
use crate::text::moment;

/// Items of one line: each line becomes one commit when it is imported.
const LINE_ITEMS_MAX: usize = 1_000;
/// Bytes of one line, about; far enough below the limit of a commit.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// How often a collection that is created anew while it is read is begun again.
const ATTEMPTS: usize = 10;

/// The items of a collection at one version.
type Items = BTreeMap<Key, (Value, SortKey)>;

/// A file under way. It gets its name when it is complete.
struct Partial {
    file: BufWriter<File>,
    /// Its name until then.
    unfinished: PathBuf,
    path: PathBuf,
}

pub(crate) async fn export(context: &mut Context, export: args::Export) -> Result<Exit, Failure> {
    let selection = export.selection;
    let by_name = !selection.collections.is_empty();
    let names = if by_name {
        selection.collections
    } else {
        collections_below(&context.client, selection.prefix.as_deref().unwrap_or_default()).await?
    };
    let mut file = export.output.as_deref().map(Partial::create).transpose()?;
    let bar = progress::of_items(&context.output);
    let time = moment(Timestamp::now());
    let (mut tx, mut collections, mut items) = (0, 0_u64, 0_u64);
    for name in &names {
        let Some(snapshot) = items_of(&context.client, name, &bar).await? else {
            if by_name {
                return Err(Failure::NotFound(format!("not found: {name}")));
            }
            // Deleted since it was listed.
            continue;
        };
        for line in lines(&snapshot) {
            tx += 1;
            let line = serde_json::to_vec(&Puts::new(tx, &time, name, line))
                .map_err(|error| Failure::Internal(format!("writing JSON: {error}")))?;
            if let Some(file) = &mut file {
                file.line(&line)?;
            } else {
                context.output.bytes(&line)?;
                context.output.bytes(b"\n")?;
            }
        }
        collections += 1;
        items += snapshot.len() as u64;
    }
    bar.finish_and_clear();
    let Some(file) = file else { return Ok(Exit::Done) };
    let path = file.complete()?;
    if context.output.json() {
        let path = path.display().to_string();
        let told = json!({ "file": path, "collections": collections, "items": items });
        context.output.object(&told)?;
    } else {
        let path = path.display();
        let line = format!("exported {items} items of {collections} collections to {path}");
        context.output.line(&line)?;
    }
    Ok(Exit::Done)
}

/// All items of a collection at one version; `None` = there is no such collection.
async fn items_of(
    client: &SyncClient,
    name: &CollectionName,
    bar: &ProgressBar,
) -> Result<Option<Items>, Failure> {
    let (mut items, mut cursor) = (Items::new(), None);
    let mut attempts = ATTEMPTS;
    loop {
        let has_more = match pull(client, name, cursor).await? {
            Outcome::Aligned(_) => return Ok(Some(items)),
            Outcome::NotFound => return Ok(None),
            Outcome::Denied => return Err(ClientError::Denied(name.to_string().into()).into()),
            Outcome::Failed(failure) => {
                return Err(ClientError::Internal(failure.message.into()).into());
            }
            Outcome::Deferred(_) => continue,
            Outcome::Reset(reset) if attempts == 0 => {
                let reason = format!("{name} keeps being reset: {}", reset.reason.as_str());
                return Err(ClientError::Aborted(reason.into()).into());
            }
            Outcome::Reset(_) => {
                (items, cursor, attempts) = (Items::new(), None, attempts - 1);
                continue;
            }
            Outcome::Delta(delta) => {
                cursor = Some(delta.to);
                bar.inc_length(if delta.from.version.get() == 0 { delta.head.items } else { 0 });
                bar.inc(delta.changes.len() as u64);
                for change in delta.changes {
                    apply(&mut items, change)?;
                }
                delta.has_more
            }
        };
        if !has_more {
            return Ok(Some(items));
        }
    }
}

async fn pull(
    client: &SyncClient,
    name: &CollectionName,
    cursor: Option<Cursor>,
) -> Result<Outcome, Failure> {
    let pull = Pull {
        targets: vec![Ok(Target::all(name.clone(), cursor))],
        bytes_max: PAGE_BYTES_MAX,
        changes_max: PAGE_CHANGES_MAX,
        client_id: client.client_id().to_owned(),
    };
    let outcome = client.pull(pull).await?.pop();
    outcome.ok_or_else(|| Failure::Internal("a pull without an outcome".into()))
}

fn apply(items: &mut Items, change: Change) -> Result<(), Failure> {
    match change.kind {
        ChangeKind::Put { value: Some(value), sort_key, .. } => {
            items.insert(change.key, (value, sort_key));
        }
        // Only the place changed, since a page before this one.
        ChangeKind::Put { value: None, sort_key, .. } => {
            let item = items.get_mut(&change.key);
            let reason = "a change leaves out a value that was never sent";
            item.ok_or_else(|| Failure::Internal(reason.into()))?.1 = sort_key;
        }
        ChangeKind::Delete | ChangeKind::LeftScope => {
            items.remove(&change.key);
        }
    }
    Ok(())
}

/// The items, by key, as many at a time as make a line.
fn lines(items: &Items) -> impl Iterator<Item = Vec<Content<'_>>> {
    let mut items = items.iter();
    std::iter::from_fn(move || {
        let (mut line, mut size) = (Vec::new(), 0);
        while line.len() < LINE_ITEMS_MAX && size < LINE_BYTES_MAX {
            let Some((key, (value, sort_key))) = items.next() else { break };
            let (key, value, sort_key) = (key.as_bytes(), value.as_bytes(), sort_key.as_bytes());
            size += key.len() + value.len() + sort_key.len();
            line.push(Content { key, value, sort_key });
        }
        (!line.is_empty()).then_some(line)
    })
}

// === impl Partial ===

impl Partial {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".partial");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished)
            .map_err(Failure::io(format!("creating {}", unfinished.display())))?;
        Ok(Self { file: BufWriter::new(file), unfinished, path: path.to_owned() })
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(line).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(Failure::io(format!("writing {}", self.unfinished.display())))
    }

    /// A file of this name is complete, also after a power cut.
    fn complete(self) -> Result<PathBuf, Failure> {
        let Self { file, unfinished, path } = self;
        let named = file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, &path));
        named.map_err(Failure::io(format!("writing {}", path.display())))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use sync_client::types::Version;

    use super::*;

    fn change(key: &str, kind: ChangeKind) -> Change {
        let version = Version::new(1).unwrap();
        Change { key: Key::new(key.to_owned()).unwrap(), version, created: version, kind }
    }

    fn put(value: Option<&str>, sort_key: &str) -> ChangeKind {
        ChangeKind::Put {
            value: value.map(|value| Value::new(value.to_owned()).unwrap()),
            sort_key: SortKey::new(sort_key.to_owned()).unwrap(),
            value_version: Version::new(1).unwrap(),
        }
    }

    #[test]
    fn pages_overlay_each_other() {
        let mut items = Items::new();
        apply(&mut items, change("a", put(Some("1"), ""))).unwrap();
        apply(&mut items, change("b", put(Some("2"), ""))).unwrap();
        apply(&mut items, change("a", put(None, "z"))).unwrap();
        apply(&mut items, change("b", ChangeKind::Delete)).unwrap();
        let all: Vec<_> = lines(&items).flatten().collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].key, all[0].value, all[0].sort_key), (&b"a"[..], &b"1"[..], &b"z"[..]));
        assert!(apply(&mut items, change("c", put(None, ""))).is_err());
    }

    #[test]
    fn lines_are_bounded_and_complete() {
        let mut items = Items::new();
        for number in 0..=LINE_ITEMS_MAX * 2 {
            apply(&mut items, change(&number.to_string(), put(Some("v"), ""))).unwrap();
        }
        let counts: Vec<_> = lines(&items).map(|line| line.len()).collect();
        assert_eq!(counts, [LINE_ITEMS_MAX, LINE_ITEMS_MAX, 1]);
    }
}
