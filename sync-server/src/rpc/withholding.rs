//! The last look at what a stream is about to say, after the caller's rights have changed. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use sync_proto::types::{AcceptedTarget, CollectionName, Event, Plan};

#[cfg(test)]
mod tests;

/// What may still be said when nothing of these collections may: the order stays, and whatever was
/// said before stays said.
pub(super) fn withhold(
    said: Vec<Event<Bytes>>,
    revoked: &BTreeSet<CollectionName>,
) -> Vec<Event<Bytes>> {
    said.into_iter().filter_map(|event| without(event, revoked)).collect()
}

fn without(event: Event<Bytes>, revoked: &BTreeSet<CollectionName>) -> Option<Event<Bytes>> {
    match event {
        Event::Accepted(targets, heartbeat) => {
            let denied = |target: AcceptedTarget| {
                if revoked.contains(&target.collection) {
                    AcceptedTarget { plan: Plan::Denied, head: None, ..target }
                } else {
                    target
                }
            };
            Some(Event::Accepted(targets.into_iter().map(denied).collect(), heartbeat))
        }
        Event::Bookmark(mut positions, now) => {
            positions.retain(|position| !revoked.contains(&position.collection));
            Some(Event::Bookmark(positions, now))
        }
        Event::Changes(ref name, _)
        | Event::Notice(ref name, _)
        | Event::Reset(ref name, _)
        | Event::Lagging(ref name, _)
        | Event::CaughtUp(ref name, _)
        | Event::Absent(ref name)
        | Event::Failed(ref name, _) => (!revoked.contains(name)).then_some(event),
        Event::InboxNotice(ref notice) => {
            let withheld = revoked.contains(&notice.collection) || revoked.contains(&notice.inbox);
            (!withheld).then_some(event)
        }
        Event::Revoked(_) | Event::Goodbye(_) => Some(event),
    }
}
