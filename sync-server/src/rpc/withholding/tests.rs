//! What is withheld, and what is not.

use std::collections::BTreeSet;
use std::time::Duration;

use sync_proto::digest::Digest;
use sync_proto::types::{Cursor, Epoch, Head, InboxNotice, Position, Timestamp, Version};

use super::*;

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

fn head() -> Head {
    Head {
        epoch: Epoch::new(1).unwrap(),
        version: Version::new(3).unwrap(),
        floor: Version::ZERO,
        items: 1,
        bytes: 1,
        tombstones: 0,
        digest: Digest::EMPTY,
        commit_time: Timestamp::now(),
    }
}

fn accepted(collection: &str) -> AcceptedTarget {
    AcceptedTarget { collection: name(collection), plan: Plan::Live, head: Some(head()) }
}

fn position(collection: &str) -> Position {
    let cursor: Cursor = head().cursor();
    Position { collection: name(collection), cursor, digest: None, commit_time: Timestamp::now() }
}

/// G10: of what was about to be said, nothing of a collection is said whose right has ended.
#[test]
fn nothing_of_a_revoked_collection_is_said() {
    let revoked = BTreeSet::from([name("gone")]);
    let notice = |inbox: &str, collection: &str| {
        let (inbox, collection) = (name(inbox), name(collection));
        Event::InboxNotice(InboxNotice { inbox, collection, head: Some(head()) })
    };
    let said = vec![
        Event::Accepted(vec![accepted("gone"), accepted("kept")], Duration::from_secs(1)),
        Event::Bookmark(vec![position("gone"), position("kept")], Timestamp::now()),
        Event::Notice(name("gone"), head()),
        Event::Notice(name("kept"), head()),
        Event::CaughtUp(name("gone"), head().cursor()),
        Event::Absent(name("gone")),
        Event::Lagging(name("gone"), 1),
        notice("gone", "kept"),
        notice("kept", "gone"),
        Event::Revoked(name("gone")),
    ];
    let told = withhold(said, |name| !revoked.contains(name));
    assert_eq!(told.len(), 4, "{told:?}");
    let Event::Accepted(targets, _) = &told[0] else { panic!("{told:?}") };
    assert_eq!((&targets[0].plan, targets[0].head), (&Plan::Denied, None));
    assert_eq!((&targets[1].plan, targets[1].head.is_some()), (&Plan::Live, true));
    let Event::Bookmark(positions, _) = &told[1] else { panic!("{told:?}") };
    assert!(positions.iter().all(|position| position.collection == name("kept")));
    assert!(matches!(&told[2], Event::Notice(of, _) if *of == name("kept")), "{told:?}");
    assert!(matches!(&told[3], Event::Revoked(of) if *of == name("gone")), "{told:?}");
}
