//! Repairs by difference over a real socket: what travels, what readers see, what feeds are told.

use std::sync::Arc;

use redb::{Database, ReadableTable, TableDefinition};
use sync_client::store::{Row, Step, Write};
use sync_client::types::{Change, ChangeKind};
use sync_client::{RepairHow, RepairReason};

use super::*;

const ITEMS: usize = 400;

/// A server with many items, and a copy of them that nobody runs.
async fn server_and_copy(store: &impl Shared) -> (TestServer, CollectionName) {
    let (server, team) = (TestServer::start().await, name("team"));
    for number in 0..ITEMS {
        put(&server, &team, &format!("{number:03}"), "member");
    }
    let running = Running::start(&server, store.again(), &[&team]);
    running.assert_converges(&server, &team).await;
    running.end().await;
    (server, team)
}

/// A store that can be handed to a replica and kept.
trait Shared {
    fn again(&self) -> impl ReplicaStore;
}

impl Shared for MemoryStore {
    fn again(&self) -> impl ReplicaStore {
        self.clone()
    }
}

impl Shared for DiskStore {
    fn again(&self) -> impl ReplicaStore {
        self.clone()
    }
}

/// Exchanges the rows of a copy, without moving its cursor.
fn tamper(store: &impl ReplicaStore, name: &CollectionName, change: impl FnOnce(&mut Vec<Row>)) {
    let at = store.standing(name).unwrap().cursor.unwrap();
    let mut rows = store.snapshot(name).unwrap().rows(None, 10_000).unwrap();
    change(&mut rows);
    let changes = rows.into_iter().map(|row| Change {
        key: row.key,
        version: row.version,
        created: row.created,
        kind: ChangeKind::Put {
            value: Some(Value::new(row.value).unwrap()),
            sort_key: row.sort_key,
            value_version: row.value_version,
        },
    });
    let step = Step::BeginLoad { changes: changes.collect(), to: at };
    store.write(name, &Write { expected: Some(at), step }).unwrap();
    while store.sweep(1_000).unwrap() {}
}

/// X1, G9: one row is not what it was, one is lost, one is too many. Three segments travel, two
/// items are fetched, and feeds are told of three items and no more.
#[tokio::test]
async fn x1_a_damaged_copy_is_repaired_by_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path().join("copy.redb")).unwrap();
    let (server, team) = server_and_copy(&store).await;
    tamper(&store, &team, |rows| {
        rows[7].value = json("flipped");
        let lost = rows.remove(8);
        rows.push(Row { key: key("zoe"), ..lost });
    });
    let running = Running::start(&server, store.clone(), &[&team]);
    let mut feed = running.members(&team).subscribe().await;
    running.wait_for_status(&team, |status| *status == Status::Live).await;
    running.assert_converges(&server, &team).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        let told_next = tokio::time::timeout(SOON, feed.next()).await.unwrap();
        told.push(match told_next.unwrap().unwrap() {
            Difference::Updated { old, new } => {
                assert_eq!(old.unwrap().value.role, "flipped");
                ("updated", new.key)
            }
            Difference::Inserted(new) => ("inserted", new.key),
            Difference::Deleted { key, .. } => ("deleted", key),
            other => panic!("{other:?}"),
        });
    }
    told.sort();
    assert_eq!(told, [("deleted", key("zoe")), ("inserted", key("008")), ("updated", key("007"))]);
    let stats = running.replica.stats();
    assert_eq!((stats.reconciled, stats.loads, stats.digest_mismatches), (1, 0, 1), "{stats:?}");
    assert_eq!(stats.repair_ways[&RepairHow::Reconcile], 1);
    assert!(stats.reconcile_bytes > 0 && stats.reconcile_bytes < 8_000, "{stats:?}");
    assert_eq!(server.state.lock().fetched, 2);
    running.end().await;
}

/// The file of a copy is damaged beneath it: a row does not read at all. Its tally knows nothing
/// of that; the check of the rows does.
#[tokio::test]
async fn x1_a_row_that_does_not_read_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::create(dir.path().join("app.redb")).unwrap());
    let store = DiskStore::from_database(database.clone()).unwrap();
    let (server, team) = server_and_copy(&store).await;
    let rows: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("deltasync/rows");
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(rows).unwrap();
        let first = table.iter().unwrap().next().unwrap().unwrap().0.value().to_vec();
        table.insert(&first[..], &[1u8][..]).unwrap();
    }
    write.commit().unwrap();
    // The next change of that very item meets the damage.
    let changed = put(&server, &team, "000", "admin");
    let running = Running::start(&server, store, &[&team]);
    let members = running.members(&team);
    members.wait_for(changed, SOON).await.unwrap();
    assert_eq!(members.get(&key("000")).await.unwrap().unwrap().role, "admin");
    assert_eq!(members.window(0, 1_000).await.unwrap().len(), ITEMS);
    let stats = running.replica.stats();
    assert_eq!((stats.reconciled, stats.loads), (1, 0), "{stats:?}");
    assert_eq!(stats.repairs[&RepairReason::LocalDamage], 1);
    running.end().await;
}

/// Another life with the same content: one round, no item, nothing to tell.
#[tokio::test]
async fn an_epoch_with_the_same_content_costs_a_round() {
    let store = MemoryStore::new();
    let (server, team) = server_and_copy(&store).await;
    server.state.lock().server.rotate(&team);
    let running = Running::start(&server, store, &[&team]);
    let mut feed = running.members(&team).subscribe().await;
    running.assert_converges(&server, &team).await;
    let stats = running.replica.stats();
    assert_eq!((stats.reconciled, stats.loads, server.state.lock().rounds), (1, 0, 1), "{stats:?}");
    assert!(stats.bytes_received < 4_000, "{stats:?}");
    put(&server, &team, "zoe", "new");
    let next = tokio::time::timeout(SOON, feed.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next, Difference::Inserted(zoe) if zoe.key == key("zoe")));
    running.end().await;
}

/// G5, T01: away for so long that deletes were forgotten. None of them concerned the copy: it
/// costs its delta. One did: the ghost is found by its segment.
#[tokio::test]
async fn t01_below_the_floor_costs_the_delta_or_a_segment() {
    for missed in [false, true] {
        let store = MemoryStore::new();
        let (server, team) = server_and_copy(&store).await;
        {
            let mut state = server.state.lock();
            state.server.put(&team, key("guest"), json("guest"));
            state.server.delete(&team, key("guest"));
            if missed {
                state.server.delete(&team, key("111"));
            }
            state.server.purge(&team);
            state.server.put(&team, key("003"), json("admin"));
        }
        let running = Running::start(&server, store, &[&team]);
        running.assert_converges(&server, &team).await;
        let stats = running.replica.stats();
        assert_eq!(stats.loads, 0, "{stats:?}");
        assert_eq!(stats.unverified_proven, u64::from(!missed), "{stats:?}");
        assert_eq!(stats.reconciled, u64::from(missed), "{stats:?}");
        assert_eq!(stats.repair_ways[&RepairHow::Delta], 1);
        assert_eq!(server.state.lock().fetched, 0, "only a row goes: {stats:?}");
        assert!(running.members(&team).get(&key("111")).await.unwrap().is_some() != missed);
        running.end().await;
    }
}
