//! What comes to the top.

use sync_client::types::{ClientPosition, Epoch, Head, Version};
use sync_proto::digest::Digest;

use super::*;

fn info(name: &str, epoch: u64, version: u64) -> CollectionInfo {
    let head = Head {
        epoch: Epoch::new(epoch).unwrap(),
        version: Version::new(version).unwrap(),
        floor: Version::ZERO,
        items: 1,
        tombstones: 0,
        bytes: 9,
        digest: Digest::default(),
        commit_time: Timestamp::default(),
    };
    CollectionInfo { name: CollectionName::new(name).unwrap(), head }
}

fn client(id: &str, behind: &[u64]) -> ClientInfo {
    let at = |(number, behind): (usize, &u64)| ClientPosition {
        collection: CollectionName::new(&format!("list/{number}")).unwrap(),
        sent: None,
        acked: None,
        acked_at: None,
        head: None,
        behind: *behind,
    };
    ClientInfo {
        client_id: id.to_owned(),
        subject: String::new(),
        last_seen: Timestamp::default(),
        streams: 1,
        streams_lagging: 0,
        streams_parked: 0,
        positions: behind.iter().enumerate().map(at).collect(),
        more_positions: false,
    }
}

/// What moves most is first; a new collection, and one of a new life, has not moved.
#[test]
fn the_busiest_comes_first() {
    let before = [info("a", 7, 5), info("b", 7, 5), info("reborn", 7, 50)];
    let now = [info("a", 7, 5), info("b", 7, 9), info("new", 7, 90), info("reborn", 8, 99)];
    let busy = busiest(&before, &now, Duration::from_secs(2), 3);
    let names: Vec<_> = busy.iter().map(|it| (it.collection.as_str(), it.versions_per_s)).collect();
    assert_eq!(names, [("b", 2.0), ("a", 0.0), ("new", 0.0)]);
}

/// The worst position of a client counts.
#[test]
fn the_furthest_behind_comes_first() {
    let clients = [client("ok", &[0]), client("late", &[1, 70, 3]), client("none", &[])];
    let lagging = furthest_behind(&clients, 2);
    assert_eq!((lagging[0].client_id.as_str(), lagging[0].behind), ("late", 70));
    assert_eq!(lagging[0].collection, "list/1");
    assert_eq!(lagging.len(), 2);
}
