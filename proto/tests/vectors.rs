//! Vectors for clients in other languages: digests, and the sums and entries of reconciliations.
//! These tests recompute the files in `vectors/` and compare; `DELTASYNC_BLESS=1` writes them anew,
//! which is only right when vectors are added: the arithmetic is part of the protocol and does not
//! change.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use sync_proto::digest::{Digest, Group, Segment, value_hash};
use sync_proto::limits::{KEY_LEN_MAX, SORT_KEY_LEN_MAX, VERSION_MAX};
use sync_proto::types::{Key, SortKey, Version};

struct Item {
    name: &'static str,
    key: Vec<u8>,
    version: u64,
    sort_key: Vec<u8>,
    value: Vec<u8>,
}

struct Collection {
    name: &'static str,
    items: &'static [&'static str],
}

fn items() -> Vec<Item> {
    let item = |name, key: &[u8], version, sort_key: &[u8], value: &[u8]| Item {
        name,
        key: key.to_vec(),
        version,
        sort_key: sort_key.to_vec(),
        value: value.to_vec(),
    };
    let every_byte: Vec<u8> = (0..=255).collect();
    vec![
        item("plain", b"a", 1, b"", b"1"),
        item("same item, later version", b"a", 2, b"", b"1"),
        item("same item, other value", b"a", 1, b"", b"2"),
        item("same item, a sort key", b"a", 1, b"s", b"1"),
        item("empty value", b"b", 1, b"", b""),
        item("empty sort key is the plain order", b"c", 3, b"", b"three"),
        item("bytes cannot move between fields, left", b"ab", 4, b"c", b"d"),
        item("bytes cannot move between fields, right", b"a", 4, b"bc", b"d"),
        item("zero bytes", &[0], 5, &[0, 0], &[0, 0, 0]),
        item("every byte", &every_byte, 6, &every_byte, &every_byte),
        item("key that is not UTF-8", &[0xff, 0xfe, 0xc0], 7, b"", b"x"),
        item("unicode", "Zürich/東京/🐟".as_bytes(), 8, "é".as_bytes(), "ß ≠ ss".as_bytes()),
        item("unicode is not normalised", "e\u{301}".as_bytes(), 8, b"", b""),
        item("longest key", &vec![b'k'; KEY_LEN_MAX], 9, b"", b"long"),
        item("longest sort key", b"s", 9, &vec![0xff; SORT_KEY_LEN_MAX], b"long"),
        item("longer than one hash block", b"block", 10, b"", &[0x5a; 200]),
        item("version above 2^53", b"big", (1 << 53) + 1, b"", b"v"),
        item("highest version", b"top", VERSION_MAX, b"", b"v"),
        item("json", b"user/42", 57, b"0042", br#"{"role":"admin"}"#),
    ]
}

const COLLECTIONS: [Collection; 5] = [
    Collection { name: "no items", items: &[] },
    Collection { name: "one item", items: &["plain"] },
    Collection { name: "two items", items: &["plain", "empty value"] },
    Collection { name: "order does not matter", items: &["empty value", "plain"] },
    Collection {
        name: "many items, the sum wraps around 2^128",
        items: &[
            "json",
            "unicode",
            "every byte",
            "zero bytes",
            "longest key",
            "longest sort key",
            "highest version",
            "empty sort key is the plain order",
        ],
    },
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn digest(item: &Item) -> Digest {
    let key = Key::new(item.key.clone()).unwrap();
    let sort_key = SortKey::new(item.sort_key.clone()).unwrap();
    Digest::of_item(&key, Version::new(item.version).unwrap(), &sort_key, &item.value)
}

fn item_vector(item: &Item) -> Value {
    let segment = Segment::of_key(&Key::new(item.key.clone()).unwrap());
    json!({
        "name": item.name,
        "key": hex(&item.key),
        "version": item.version.to_string(),
        "sort_key": hex(&item.sort_key),
        "value": hex(&item.value),
        "item_digest": digest(item).to_string(),
        "segment": segment.get(),
        "group": segment.group().get(),
    })
}

fn collection_vector(collection: &Collection, items: &[Item]) -> Value {
    let found = |name: &&str| items.iter().find(|item| item.name == *name).unwrap();
    let sum = collection.items.iter().map(found).map(digest).fold(Digest::EMPTY, |a, b| a + b);
    json!({ "name": collection.name, "items": collection.items, "digest": sum.to_string() })
}

fn vectors() -> String {
    let items = items();
    let vectors = json!({
        "about": "Bytes and digests are hexadecimal, versions are decimal strings. docs/PROTOCOL.md \
                  has the arithmetic.",
        "items": items.iter().map(item_vector).collect::<Vec<_>>(),
        "collections":
            COLLECTIONS.iter().map(|c| collection_vector(c, &items)).collect::<Vec<_>>(),
    });
    format!("{vectors:#}\n")
}

/// Items of the collection that is reconciled.
const RECONCILED: u64 = 2_000;

/// The group whose leaves are told.
const TOLD_GROUP: u8 = 5;

/// The n-th item of that collection.
fn reconciled(n: u64) -> Item {
    Item {
        name: "",
        key: format!("item {n}").into_bytes(),
        version: n + 1,
        sort_key: (n % 7).to_string().into_bytes(),
        value: format!("value {n}").into_bytes(),
    }
}

fn reconcile_vectors() -> String {
    let mut leaves: BTreeMap<Segment, Vec<Item>> = BTreeMap::new();
    for item in (0..RECONCILED).map(reconciled) {
        let segment = Segment::of_key(&Key::new(item.key.clone()).unwrap());
        leaves.entry(segment).or_default().push(item);
    }
    let sum = |segment: Segment| {
        let items = leaves.get(&segment).into_iter().flatten();
        items.map(digest).fold(Digest::EMPTY, |a, b| a + b)
    };
    let group_sum =
        |group: Group| group.segments().map(sum).fold(Digest::EMPTY, |a, b| a + b).to_string();
    let groups = (0..64).map(|number| Group::new(number).unwrap());
    let told = Group::new(TOLD_GROUP).unwrap();
    let fullest =
        told.segments().max_by_key(|segment| leaves.get(segment).map_or(0, Vec::len)).unwrap();
    let mut entries: Vec<&Item> = leaves[&fullest].iter().collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let entry = |item: &&Item| {
        json!({
            "key": hex(&item.key),
            "version": item.version.to_string(),
            "value_hash": hex(&value_hash(&item.value)),
            "sort_key": hex(&item.sort_key),
            "value_size": item.value.len(),
        })
    };
    let vectors = json!({
        "about": "A collection of 2,000 items, n = 0 to 1999, in decimal: key `item n`, value \
                  `value n`, sort key `n mod 7`, version n + 1. Bytes, sums and hashes below are \
                  hexadecimal. docs/PROTOCOL.md has the rounds.",
        "group_sums": groups.map(group_sum).collect::<Vec<_>>(),
        "leaf_sums": {
            "group": TOLD_GROUP,
            "sums": told.segments().map(|leaf| sum(leaf).to_string()).collect::<Vec<_>>(),
        },
        "entries": {
            "segment": fullest.get(),
            "entries": entries.iter().map(entry).collect::<Vec<_>>(),
        },
    });
    format!("{vectors:#}\n")
}

/// G9: what clients of other languages check themselves against is what this code computes.
#[test]
fn the_published_vectors_hold() {
    for (file, computed) in [("digest", vectors()), ("reconcile", reconcile_vectors())] {
        compare(&format!("vectors/{file}.json"), &computed);
    }
}

fn compare(file: &str, computed: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("DELTASYNC_BLESS").is_some() {
        fs::write(&path, computed).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap();
    assert!(published == computed, "{} is not what the code computes", path.display());
}

/// A client that keeps its digest by adding and subtracting ends at the digest of what is left.
#[test]
fn a_sum_is_kept_by_adding_and_subtracting() {
    let digests: Vec<Digest> = items().iter().map(digest).collect();
    let sum = |digests: &[Digest]| digests.iter().fold(Digest::EMPTY, |a, b| a + *b);
    for (index, gone) in digests.iter().enumerate() {
        let mut rest = digests.clone();
        rest.remove(index);
        assert_eq!(sum(&digests) - *gone, sum(&rest));
    }
}
