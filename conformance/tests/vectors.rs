//! Vectors for clients in other languages: cursors as they travel, and pages as the server's core cuts
//! them, with what a copy must make of each. Recomputed here and compared; `DELTASYNC_BLESS=1` writes
//! them anew, which is only right when vectors are added.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value as Json, json};
use sync_proto::convert::encode_change;
use sync_proto::digest::Digest;
use sync_proto::types::{
    Change, ChangeKind, Cursor, Delta, Epoch, Head, Key, Outcome, Scope, SortKey, Timestamp, Value,
    Version,
};
use sync_proto::v1;
use sync_server::core::page::{Built, Offer, PageBuilder, PageLimits, View};
use sync_server::core::read::PageStart;
use sync_server::store::rows::{LogRow, RowKind};

/// More than a signed number holds.
const EPOCH: u64 = 0xfedc_ba98_7654_3210;

const SMALL: PageLimits =
    PageLimits { changes_max: 3, bytes_max: 400, first_version_bytes_max: usize::MAX };

/// A collection: one row for each key.
#[derive(Default)]
struct Log {
    version: u64,
    rows: BTreeMap<Bytes, (LogRow, u64)>,
    items: BTreeMap<Bytes, Digest>,
}

/// What a commit does to a key: sort key and value, or nothing.
type Edit<'a> = (&'a str, Option<(&'a str, &'a str)>);

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn key(name: &Bytes) -> Key {
    Key::new(name.clone()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

// === impl Log ===

impl Log {
    fn commit(&mut self, edits: &[Edit<'_>]) {
        self.version += 1;
        for (name, edit) in edits {
            let name = Bytes::copy_from_slice(name.as_bytes());
            let old = self.rows.get(&name).map(|(row, _)| row.clone());
            let old = old.filter(|row| row.kind == RowKind::Live);
            let created = old.as_ref().map_or(version(self.version), |row| row.created);
            let row = if let Some((sort_key, value)) = edit {
                self.put(&name, sort_key, value, old.as_ref(), created)
            } else {
                self.items.remove(&name);
                let now = version(self.version);
                self.row(&name, RowKind::Tombstone, ChangeKind::Delete, created, now)
            };
            self.rows.insert(name, (row, self.version));
        }
    }

    fn put(
        &mut self,
        name: &Bytes,
        sort_key: &str,
        value: &str,
        old: Option<&LogRow>,
        created: Version,
    ) -> LogRow {
        let sort_key = SortKey::new(sort_key.to_owned()).unwrap();
        let now = version(self.version);
        let digest = Digest::of_item(&key(name), now, &sort_key, value.as_bytes());
        self.items.insert(name.clone(), digest);
        let value = Value::new(value.to_owned()).unwrap();
        let same = old.filter(|old| {
            let change = v1::Change::decode(old.change.clone()).unwrap();
            matches!(change.kind, Some(v1::change::Kind::Put(put)) if put.value == value.as_bytes())
        });
        let value_version = same.map_or(now, |old| old.value_version);
        let kind = ChangeKind::Put { value: Some(value), sort_key, value_version };
        self.row(name, RowKind::Live, kind, created, value_version)
    }

    fn row(
        &self,
        name: &Bytes,
        row: RowKind,
        kind: ChangeKind,
        created: Version,
        value_version: Version,
    ) -> LogRow {
        let change = Change { key: key(name), version: version(self.version), created, kind };
        LogRow { kind: row, created, value_version, change: encode_change(&change) }
    }

    fn head(&self) -> Head {
        Head {
            epoch: Epoch::new(EPOCH).unwrap(),
            version: version(self.version),
            floor: version(0),
            items: self.items.len() as u64,
            tombstones: 0,
            bytes: 0,
            digest: self.items.values().fold(Digest::EMPTY, |sum, item| sum + *item),
            commit_time: Timestamp::default(),
        }
    }

    /// The page behind this cursor, as the server cuts it.
    fn page(&self, from: Cursor, limits: PageLimits) -> Delta<Bytes> {
        let mut rows: Vec<_> = self.rows.iter().map(|(name, (row, at))| (*at, name, row)).collect();
        rows.retain(|(at, _, _)| *at > from.version.get());
        rows.sort_by_key(|(at, name, _)| (*at, (*name).clone()));
        let view = View { scope: &Scope::All, keys_only: false };
        let mut page = PageBuilder::new(PageStart { from, unverified: false }, view, limits);
        for (at, name, row) in rows {
            if page.offer(version(at), &key(name), row.clone()).unwrap() == Offer::Full {
                return built(page.finish(self.head(), false));
            }
        }
        built(page.finish(self.head(), true))
    }

    /// All pages behind this cursor.
    fn pages(&self, from: Cursor, limits: PageLimits) -> Vec<Delta<Bytes>> {
        let mut pages = vec![self.page(from, limits)];
        while pages.last().unwrap().has_more {
            pages.push(self.page(pages.last().unwrap().to, limits));
            assert!(pages.len() < 100, "pages get on");
        }
        pages
    }
}

fn built(built: Built) -> Delta<Bytes> {
    match built {
        Built::Page(delta, _) => delta,
        other @ (Built::NothingYet(_) | Built::TooLarge) => panic!("not a page: {other:?}"),
    }
}

fn cursor_json(cursor: Cursor) -> Json {
    json!({
        "epoch": cursor.epoch.get().to_string(),
        "version": cursor.version.get().to_string(),
        "base": cursor.base.get().to_string(),
    })
}

/// A page, and what a copy that was handed those before it must make of it.
fn page_json(delta: &Delta<Bytes>, verdict: &str) -> Json {
    let outcome = v1::Outcome::from(Outcome::Delta(delta.clone()));
    let Some(v1::outcome::Result::Delta(wire)) = outcome.result else { panic!("not a delta") };
    let arrived = (!delta.has_more)
        .then(|| json!({ "items": delta.head.items, "digest": delta.head.digest.to_string() }));
    json!({
        "from": cursor_json(delta.from),
        "to": cursor_json(delta.to),
        "has_more": delta.has_more,
        "initial": delta.initial,
        "changes": delta.changes.len(),
        "verdict": verdict,
        "arrived": arrived,
        "delta": hex(&wire.encode_to_vec()),
    })
}

fn sequence(name: &str, pages: &[(&Delta<Bytes>, &str)]) -> Json {
    let pages: Vec<Json> = pages.iter().map(|(delta, verdict)| page_json(delta, verdict)).collect();
    json!({ "name": name, "pages": pages })
}

fn filled() -> Log {
    let mut log = Log::default();
    log.commit(&[("a", Some(("1", "one"))), ("b", Some(("2", "two")))]);
    log.commit(&[("c", Some(("3", "three"))), ("d", Some(("", ""))), ("e", Some(("5", "five")))]);
    log.commit(&[("b", None), ("f", Some(("6", "six")))]);
    log.commit(&[("\u{e9}", Some(("7", "seven")))]);
    log
}

fn pages_vectors() -> String {
    let mut log = filled();
    let first_load = log.pages(Cursor::load_from(&log.head()), SMALL);
    let one_page = log.page(Cursor::load_from(&log.head()), PageLimits::FULL);
    let caught_up = log.head().cursor();
    let padding = "x".repeat(300);
    log.commit(&[("a", Some(("9", "one"))), ("c", None)]);
    log.commit(&[("g", Some(("", &padding)))]);
    log.commit(&[("h", Some(("", &padding))), ("i", Some(("", &padding))), ("j", None)]);
    log.commit(&[("b", Some(("2", "again")))]);
    let catch_up = log.pages(caught_up, SMALL);
    let latest = catch_up.last().unwrap();
    let all = |pages: &[Delta<Bytes>]| -> Vec<Json> {
        pages.iter().map(|page| page_json(page, "applied")).collect()
    };
    let both: Vec<Json> =
        [all(std::slice::from_ref(&one_page)), all(&catch_up)].into_iter().flatten().collect();
    let vectors = json!({
        "about": "Pages as the server cuts them, applied in order to a copy that begins empty. \
                  `delta` is the wire form of deltasync.v1.Delta in hexadecimal, numbers of 64 bits \
                  are decimal strings. `verdict` is what R22 says of the page: applied, repeat or \
                  gap. After a page that was applied the copy's cursor is `to`; `arrived` is what \
                  it holds when the page reached the head. docs/PROTOCOL.md has the rules.",
        "bounds": { "changes": SMALL.changes_max, "bytes": SMALL.bytes_max },
        "copies": [
            { "name": "a load in pages of at most three changes", "pages": all(&first_load) },
            { "name": "a load in one page, then a catch-up in pages", "pages": both },
            sequence("pages again, and one too early", &[
                (&first_load[0], "applied"),
                (&first_load[0], "repeat"),
                (latest, "gap"),
                (&first_load[1], "applied"),
                (&first_load[0], "repeat"),
            ]),
        ],
    });
    format!("{vectors:#}\n")
}

fn cursors_vectors() -> String {
    let at = |epoch: u64, at: u64, base: u64| Cursor {
        epoch: Epoch::new(epoch).unwrap(),
        version: version(at),
        base: version(base),
    };
    let cursors = [
        ("caught up", at(1, 7, 0)),
        ("an epoch that a signed number does not hold", at(EPOCH, 7, 0)),
        ("the highest version", at(u64::MAX, (1 << 63) - 1, 0)),
        ("a version above 2^53", at(EPOCH, (1 << 53) + 1, 0)),
        ("between two pages of a catch-up", at(EPOCH, 300, 300)),
        ("a first load is under way", at(EPOCH, 300, 1_000)),
        ("a first load that has passed nothing yet", at(EPOCH, 0, 1_000)),
    ];
    let vector = |(name, cursor): &(&str, Cursor)| {
        let state = if cursor.is_caught_up() {
            "caught up"
        } else if cursor.is_loading() {
            "loading"
        } else {
            "between pages"
        };
        let mut vector = cursor_json(*cursor);
        vector["name"] = json!(name);
        vector["state"] = json!(state);
        vector["encoded"] = json!(hex(&v1::Cursor::from(*cursor).encode_to_vec()));
        vector
    };
    let vectors = json!({
        "about": "Cursors and their wire form (deltasync.v1.Cursor) in hexadecimal; numbers of 64 \
                  bits are decimal strings. docs/PROTOCOL.md, R10, tells the states.",
        "cursors": cursors.iter().map(vector).collect::<Vec<_>>(),
    });
    format!("{vectors:#}\n")
}

/// G4, G9: what clients of other languages check themselves against is what the core does.
#[test]
fn the_published_pages_and_cursors_hold() {
    for (file, computed) in [("pages", pages_vectors()), ("cursors", cursors_vectors())] {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../proto/vectors/{file}.json"));
        if std::env::var_os("DELTASYNC_BLESS").is_some() {
            fs::write(&path, &computed).unwrap();
        }
        let published = fs::read_to_string(&path).unwrap();
        assert!(published == computed, "{} is not what the code computes", path.display());
    }
}
