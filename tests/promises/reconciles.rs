//! A copy that differs finds out in three rounds what differs, fetches that and nothing else, and
//! ends with the server's items, whatever happens between the rounds.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_proto::digest::{
    Digest, GROUPS, Group, SEGMENTS, SEGMENTS_PER_GROUP, Segment, value_hash,
};
use sync_proto::types::{
    Cursor, Found, Head, Item, Key, LeafEntry, Mutation, Reconcile, Reconciled, Round, Value,
};
use sync_proto::v1;
use sync_tests::compose::{after, delete, key, name, put, put_at, sort_key, value, version};
use sync_tests::reader::{Copy, PlainReader, Row};
use sync_tests::seed;
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tonic::{Code, Status};

/// Random copies that are repaired per run when the environment does not say.
const CASES: u64 = 20;

const LIST: &str = "list";

type Rows = BTreeMap<Key, Row>;

async fn ask(wire: &Wire, round: Round) -> Result<Reconciled, Status> {
    let asked = Reconcile { collection: name(LIST), round: round.clone(), client_id: "me".into() };
    let mut client = wire.sync();
    let call = client.reconcile(v1::ReconcileRequest::from(asked));
    let reply = within("the answer to a round", call).await?.into_inner();
    Ok(Reconciled::from_wire(reply, &round).unwrap())
}

async fn sums(wire: &Wire, round: Round) -> (Head, Vec<Digest>) {
    let answer = ask(wire, round).await.unwrap();
    let Found::Sums(sums) = answer.found else { panic!("sums were asked") };
    (answer.head, sums)
}

/// All entries of these segments, by pages.
async fn entries(wire: &Wire, at: Cursor, segments: Vec<Segment>) -> Vec<LeafEntry> {
    let mut all = Vec::new();
    let mut page_token = Bytes::new();
    loop {
        let round = Round::Entries { at, segments: segments.clone(), page_token };
        let Found::Entries(entries, next) = ask(wire, round).await.unwrap().found else {
            panic!("entries were asked")
        };
        all.extend(entries);
        if next.is_empty() {
            return all;
        }
        page_token = next;
    }
}

fn digest_of(key: &Key, row: &Row) -> Digest {
    let value = row.value.as_ref().unwrap();
    Digest::of_item(key, row.version, &row.sort_key, value.as_bytes())
}

/// The sums of a copy's segments.
fn leaves_of(rows: &Rows) -> Vec<Digest> {
    let mut leaves = vec![Digest::EMPTY; SEGMENTS];
    for (key, row) in rows {
        leaves[usize::from(Segment::of_key(key).get())] += digest_of(key, row);
    }
    leaves
}

/// Repairs a copy as docs/PROTOCOL.md says; where it stands then, and how many values it fetched.
async fn repair(wire: &Wire, rows: &mut Rows, between: &mut impl AsyncFnMut()) -> (Cursor, usize) {
    let mine = leaves_of(rows);
    let (head, groups) = sums(wire, Round::Groups).await;
    let at = head.cursor();
    let of_group = |group: Group| &mine[usize::from(group.get()) * SEGMENTS_PER_GROUP..];
    let my_sum = |group: Group| {
        let leaves = &of_group(group)[..SEGMENTS_PER_GROUP];
        leaves.iter().fold(Digest::EMPTY, |sum, leaf| sum + *leaf)
    };
    let all = (0..u8::try_from(GROUPS).unwrap()).map(|n| Group::new(n).unwrap());
    let differing: Vec<Group> =
        all.filter(|group| groups[usize::from(group.get())] != my_sum(*group)).collect();
    between().await;
    let mut segments = Vec::new();
    if !differing.is_empty() {
        let (_, leaves) = sums(wire, Round::Leaves { at, groups: differing.clone() }).await;
        let asked = differing.iter().flat_map(|group| group.segments());
        let told = asked.zip(leaves);
        segments.extend(told.filter(|(segment, leaf)| mine[usize::from(segment.get())] != *leaf));
    }
    between().await;
    let mut fetched = 0;
    let segments: Vec<Segment> = segments.into_iter().map(|(segment, _)| segment).collect();
    for part in segments.chunks(64) {
        let told = entries(wire, at, part.to_vec()).await;
        between().await;
        let told: BTreeMap<Key, LeafEntry> =
            told.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        rows.retain(|key, _| {
            told.contains_key(key) || part.binary_search(&Segment::of_key(key)).is_err()
        });
        for (key, entry) in told {
            let mine = rows.get(&key).and_then(|row| row.value.clone());
            let same = mine.filter(|value| value_hash(value.as_bytes()) == entry.value_hash);
            if let Some(value) = same {
                rows.insert(key, row_of(entry, value));
                continue;
            }
            fetched += 1;
            match fetch(wire, &key).await {
                Some(row) => drop(rows.insert(key, row)),
                None => drop(rows.remove(&key)),
            }
        }
    }
    (Cursor { base: at.version, ..at }, fetched)
}

/// The row of an entry whose value is known.
fn row_of(entry: LeafEntry, value: Value) -> Row {
    Row {
        version: entry.version,
        created: entry.created,
        value_version: entry.value_version,
        sort_key: entry.sort_key,
        value: Some(value),
    }
}

async fn fetch(wire: &Wire, key: &Key) -> Option<Row> {
    let request = v1::GetItemsRequest {
        collection: LIST.to_owned(),
        keys: vec![key.to_bytes()],
        keys_only: false,
    };
    let reply = wire.sync().get_items(request).await.unwrap().into_inner();
    match reply.results.into_iter().next().unwrap().result.unwrap() {
        v1::get_items_result::Result::Found(item) => {
            let item = Item::try_from(item).unwrap();
            Some(Row {
                version: item.version,
                created: item.created,
                value_version: item.value_version,
                sort_key: item.sort_key,
                value: item.value,
            })
        }
        v1::get_items_result::Result::Gone(_) => None,
    }
}

/// A reader with these rows that stands at this cursor.
fn reader_of(rows: Rows, cursor: Cursor) -> PlainReader {
    let digest = rows.iter().fold(Digest::EMPTY, |sum, (key, row)| sum + digest_of(key, row));
    let mut reader = PlainReader::new(after(LIST, cursor));
    reader.copy = Copy { rows, digest };
    reader
}

/// Loses, invents and changes rows of a copy; how many.
fn damage(rows: &mut Rows, dice: &mut StdRng) -> usize {
    let mut changed = 0;
    let keys: Vec<Key> = rows.keys().cloned().collect();
    for place in keys {
        match dice.random_range(0..40) {
            0 => drop(rows.remove(&place)),
            1 => rows.get_mut(&place).unwrap().value = Some(value("flipped")),
            2 => rows.get_mut(&place).unwrap().sort_key = sort_key("moved"),
            3 => {
                let ghost = rows[&place].clone();
                let of = [place.as_bytes(), b" ghost"].concat();
                drop(rows.insert(key(of), ghost));
            }
            _ => continue,
        }
        changed += 1;
    }
    changed
}

/// What a writer does between the rounds: anything, to anything.
fn random_mutations(dice: &mut StdRng, most: u32) -> Vec<Mutation> {
    let mut mutations = BTreeMap::new();
    for _ in 0..dice.random_range(0..=most) {
        let item = format!("item {:03}", dice.random_range(0..300));
        let place = ["", "a", "b"][dice.random_range(0..3)];
        let mutation = match dice.random_range(0..4) {
            0 => delete(LIST, &item),
            1 => put(LIST, &item, dice.random_range(0..9u32).to_string()),
            _ => put_at(LIST, &item, dice.random_range(0..9u32).to_string(), place),
        };
        mutations.insert(item, mutation);
    }
    mutations.into_values().collect()
}

/// G1, G9: a copy with any damage, of any age, ends with the server's items, also while a writer
/// goes on between any two rounds.
#[test]
fn a_damaged_copy_is_repaired_whatever_moves() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    seed::each(CASES, |mut dice| {
        runtime.block_on(async {
            let server = TestServer::start().await;
            let wire = server.wire();
            wire.commit((0..300).map(|n| put(LIST, format!("item {n:03}"), "0")).collect()).await;
            let mut rows = wire.load(LIST).await.copy.rows;
            for _ in 0..3 {
                let mutations = random_mutations(&mut dice, 60);
                if !mutations.is_empty() {
                    wire.commit(mutations).await;
                }
            }
            let damaged = damage(&mut rows, &mut dice);
            let busy = dice.random_bool(0.7);
            let mut between = async || {
                let mutations = random_mutations(&mut dice, 20);
                if busy && !mutations.is_empty() {
                    wire.commit(mutations).await;
                }
            };
            let (cursor, _) = repair(wire, &mut rows, &mut between).await;
            let mut reader = reader_of(rows, cursor);
            // It compares digests where it arrives, and panics if they differ.
            reader.catch_up(wire).await;
            assert!(reader.copy == wire.load(LIST).await.copy, "{damaged} rows were damaged");
            assert_eq!(reader.seen.resets, 0);
            server.stop().await;
        });
    });
}

/// G9: an equal copy is found equal in one round, and of one that differs in a row only that row
/// is fetched; a moved sort key needs no value.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_differs_is_fetched() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit((0..300).map(|n| put(LIST, format!("item {n:03}"), "0")).collect()).await;
    let whole = wire.load(LIST).await.copy.rows;
    let quiet = &mut async || {};
    let seven = whole[&key("item 007")].clone();
    let other_value = Row { value: Some(value("x")), ..seven.clone() };
    let elsewhere = Row { sort_key: sort_key("x"), ..seven };
    for (spoil, wanted) in [(None, 0), (Some(other_value), 1), (Some(elsewhere), 0)] {
        let mut rows = whole.clone();
        rows.extend(spoil.map(|row| (key("item 007"), row)));
        let (cursor, fetched) = repair(wire, &mut rows, quiet).await;
        assert_eq!((rows == whole, fetched), (true, wanted));
        assert_eq!((cursor.version, cursor.base), (version(1), version(1)));
    }
    server.stop().await;
}

/// G5, G6: rounds end where their first head is no place to pull from any more, each with a code
/// that says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn rounds_that_cannot_go_on_are_refused() {
    let server = TestServer::with(|config| config.tombstones_max = 0).await;
    let wire = server.wire();
    let code = |round| async { ask(wire, round).await.unwrap_err().code() };
    assert_eq!(code(Round::Groups).await, Code::NotFound);
    wire.commit(vec![put(LIST, "a", ""), put(LIST, "b", "")]).await;
    let first = wire.head(&name(LIST)).await.unwrap().cursor();
    let segments = vec![Segment::of_key(&key("a"))];
    let entries = |at| Round::Entries { at, segments: segments.clone(), page_token: Bytes::new() };
    assert!(ask(wire, entries(first)).await.is_ok());
    wire.commit(vec![delete(LIST, "b")]).await;
    until_true("the delete to be forgotten", async || {
        wire.head(&name(LIST)).await.unwrap().floor == version(2)
    })
    .await;
    assert_eq!(code(entries(first)).await, Code::FailedPrecondition);
    let now = Cursor::at(first.epoch, version(2));
    assert!(ask(wire, entries(now)).await.is_ok(), "exactly at the floor");
    let foreign = Bytes::from_static(b"no token of this server");
    let page = Round::Entries { at: now, segments: segments.clone(), page_token: foreign };
    assert_eq!(code(page).await, Code::InvalidArgument);
    wire.delete_collection(LIST).await;
    wire.commit(vec![put(LIST, "a", "")]).await;
    assert_eq!(code(entries(now)).await, Code::FailedPrecondition);
    server.stop().await;
}
