//! The last look at what a stream is about to say, after the caller's rights have changed. Pure.

use bytes::Bytes;
use sync_proto::types::{AcceptedTarget, CollectionName, Event, Plan};

#[cfg(test)]
mod tests;

/// What may still be said of collections that may be read, also of those that are no targets: the
/// order stays, and whatever was said before stays said.
pub(super) fn withhold(
    said: Vec<Event<Bytes>>,
    may_read: impl Fn(&CollectionName) -> bool,
) -> Vec<Event<Bytes>> {
    said.into_iter().filter_map(|event| without(event, &may_read)).collect()
}

fn without(
    event: Event<Bytes>,
    may_read: impl Fn(&CollectionName) -> bool,
) -> Option<Event<Bytes>> {
    match event {
        Event::Accepted(targets, heartbeat) => {
            let denied = |target: AcceptedTarget| {
                if may_read(&target.collection) {
                    target
                } else {
                    AcceptedTarget { plan: Plan::Denied, head: None, ..target }
                }
            };
            Some(Event::Accepted(targets.into_iter().map(denied).collect(), heartbeat))
        }
        Event::Bookmark(mut positions, now) => {
            positions.retain(|position| may_read(&position.collection));
            Some(Event::Bookmark(positions, now))
        }
        Event::Changes(ref name, _)
        | Event::Notice(ref name, _)
        | Event::Reset(ref name, _)
        | Event::Lagging(ref name, _)
        | Event::CaughtUp(ref name, _)
        | Event::Absent(ref name)
        | Event::Failed(ref name, _) => may_read(name).then_some(event),
        Event::InboxNotice(ref notice) => {
            let said = may_read(&notice.collection) && may_read(&notice.inbox);
            said.then_some(event)
        }
        Event::Revoked(_) | Event::Goodbye(_) => Some(event),
    }
}
