//! Data directories that older programs of ours wrote, byte for byte as they left them. Each opens,
//! holds what it held under the epochs and versions that it had, and goes on.
//!
//! `older/*.json.zst` are made with `older/pack`, which says how. Whoever changes the format of the
//! store adds the directory of the last program before.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value as Json;
use sync_proto::types::{Cursor, Outcome, Target};
use sync_tests::compose::{delete, name, put, version};
use sync_tests::data::hex;
use sync_tests::process::Program;
use sync_tests::wire::Wire;

use crate::SERVER;
use crate::offline::run;

/// Rows of format 1, the first with items, of 2026-11-26; and the last directory without a journal in
/// front of sled, of 2026-11-27.
const DIRECTORIES: [&[u8]; 2] =
    [include_bytes!("older/2026-11-26.json.zst"), include_bytes!("older/2026-11-27.json.zst")];

/// Reads one of them, and puts its files into `dir`. What else it says of itself.
fn unpack(packed: &[u8], dir: &Path) -> Json {
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).unwrap();
    let packed: Json = serde_json::from_reader(&mut decoder).unwrap();
    for (path, content) in packed["files"].as_object().unwrap() {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, BASE64_STANDARD.decode(content.as_str().unwrap()).unwrap()).unwrap();
    }
    packed
}

fn number(of: &Json, field: &str) -> u64 {
    of[field].as_u64().unwrap_or_else(|| panic!("{field}: {of}"))
}

/// What was exported of a collection: contents by key.
fn exported(packed: &Json, collection: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = packed["exported"].as_array().unwrap().iter();
    let ops = all.flat_map(|transaction| transaction["ops"].as_array().unwrap());
    let of_collection = ops.filter(|op| op["collection"] == collection);
    let text = |op: &Json, field: &str| op[field].as_str().unwrap().as_bytes().to_vec();
    of_collection.map(|op| (text(op, "key"), text(op, "value_text"))).collect()
}

/// A reader that was caught up at this version is told what came after, and nothing is reset.
async fn goes_on_from(wire: &Wire, collection: &str, cursor: Cursor, changes: usize) {
    let outcome = wire.pull_one(Target::all(name(collection), Some(cursor))).await;
    let Outcome::Delta(delta) = outcome else { panic!("G2: {outcome:?}") };
    assert_eq!(delta.changes.len(), changes, "{delta:?}");
}

/// G2, G3: what an older program wrote is served as it was; its readers go on from their cursors; it
/// takes commits, and is sound before and after.
#[tokio::test(flavor = "multi_thread")]
async fn directories_of_older_programs_open() {
    for packed in DIRECTORIES {
        let dir = tempfile::tempdir().unwrap();
        let packed = unpack(packed, dir.path());
        let program = Program::new(SERVER, dir.path());
        let mut process = program.start_serving().await;
        let wire = program.wire();
        for told in packed["heads"].as_array().unwrap() {
            let collection = told["collection"].as_str().unwrap();
            let head = wire.head(&name(collection)).await.expect(collection);
            let epoch = format!("{:016x}", head.epoch.get());
            assert_eq!(epoch, told["epoch"].as_str().unwrap(), "G1: {collection}");
            assert_eq!(head.version.get(), number(told, "version"), "G1: {collection}");
            assert_eq!(head.items, number(told, "items"), "{collection}");
            assert_eq!(head.tombstones, number(told, "tombstones"), "{collection}");
            assert_eq!(hex(&head.digest.to_be_bytes()), told["digest"].as_str().unwrap());
            let loaded = wire.load(collection).await.contents();
            assert_eq!(loaded, exported(&packed, collection), "G3: {collection}");
        }
        assert!(wire.head(&name("gone")).await.is_none(), "it was deleted then");
        let group = wire.head(&name("groups/admins")).await.unwrap();
        // Of its 42 versions the last two are a renaming and the deletion of ten members.
        let before = Cursor { version: version(40), base: version(0), ..group.cursor() };
        goes_on_from(&wire, "groups/admins", before, 11).await;
        let next = wire.commit(vec![delete("groups/admins", "member-02")]).await;
        assert_eq!(next.get(), group.version.get() + 1, "G1: it goes on counting");
        goes_on_from(&wire, "groups/admins", group.cursor(), 1).await;
        wire.commit(vec![put("gone", "k", "again")]).await;
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());

        let (code, printed, said) = run(&["verify", "--json"], dir.path());
        assert_eq!(code, 0, "{printed}{said}");
    }
}
