//! Pulls, subscriptions and listings between wire and checked types.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::write::id;
use super::{
    collection, optional_cursor, optional_digest, optional_digest_bytes, required, required_head,
    timestamp,
};
use crate::limits::{
    HEARTBEAT_MS_DEFAULT, HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, KEY_LEN_MAX, LIST_PAGE_DEFAULT,
    LIST_PAGE_MAX, PAGE_BYTES_MAX, PAGE_CHANGES_MAX, PULL_TARGETS_MAX, SCOPE_KEYS_MAX,
    SUBSCRIBE_TARGETS_MAX,
};
use crate::types::{
    AcceptedTarget, CollectionName, Cursor, Delta, Event, Goodbye, GoodbyeReason, Head, Key,
    ListItems, ListOrder, Malformed, OrderRange, Outcome, Plan, Position, Pull, Reset, Scope,
    Subscribe, Target,
};
use crate::v1;

// === Scope ===

impl TryFrom<v1::Scope> for Scope {
    type Error = Malformed;

    fn try_from(scope: v1::Scope) -> Result<Self, Malformed> {
        match scope.part {
            None => Ok(Self::All),
            Some(v1::scope::Part::KeyPrefix(prefix)) => {
                Key::new(prefix.clone())
                    .map_err(|refused| Malformed::new("key_prefix", refused.reason))?;
                Ok(Self::KeyPrefix(prefix))
            }
            Some(v1::scope::Part::Keys(set)) => key_set(set.keys).map(Self::Keys),
            Some(v1::scope::Part::Order(range)) => {
                OrderRange::try_from(range).map(Self::Order).map_err(|e| e.within("order"))
            }
        }
    }
}

fn key_set(wire: Vec<Bytes>) -> Result<Vec<Key>, Malformed> {
    let count = wire.len();
    if count == 0 || count > SCOPE_KEYS_MAX {
        let reason = format!("{count} of them, 1 to {SCOPE_KEYS_MAX} are allowed");
        return Err(Malformed::new("keys.keys", reason));
    }
    let mut keys = BTreeSet::new();
    for (index, wire) in wire.into_iter().enumerate() {
        let refused = |reason: &str| Malformed::new(format!("keys.keys[{index}]"), reason);
        let key = Key::new(wire).map_err(|error| refused(&error.reason))?;
        if !keys.insert(key) {
            return Err(refused("occurs twice"));
        }
    }
    Ok(keys.into_iter().collect())
}

impl From<Scope> for v1::Scope {
    fn from(scope: Scope) -> Self {
        let part = match scope {
            Scope::All => None,
            Scope::KeyPrefix(prefix) => Some(v1::scope::Part::KeyPrefix(prefix)),
            Scope::Keys(keys) => Some(v1::scope::Part::Keys(v1::KeySet {
                keys: keys.iter().map(Key::to_bytes).collect(),
            })),
            Scope::Order(range) => Some(v1::scope::Part::Order(range.into())),
        };
        Self { part }
    }
}

// === Target ===

impl TryFrom<v1::Target> for Target {
    type Error = Malformed;

    fn try_from(target: v1::Target) -> Result<Self, Malformed> {
        let cursor = optional_cursor(target.cursor)?;
        if target.from_last_ack && cursor.is_some() {
            return Err(Malformed::new("cursor", "must be absent with from_last_ack"));
        }
        let scope = target.scope.map_or(Ok(Scope::All), Scope::try_from);
        let polled_after = (!target.polled_after.is_empty()).then_some(&target.polled_after);
        let polled_after = polled_after.map(|name| collection(name)).transpose();
        let polled_after =
            polled_after.map_err(|error| Malformed::new("polled_after", error.reason))?;
        Ok(Self {
            collection: collection(&target.collection)?,
            cursor,
            scope: scope.map_err(|e| e.within("scope"))?,
            keys_only: target.keys_only,
            changes_max: (target.max_changes > 0).then_some(target.max_changes),
            verify: target.verify,
            from_last_ack: target.from_last_ack,
            notify_only: target.notify_only,
            polled_after,
        })
    }
}

impl From<Target> for v1::Target {
    fn from(target: Target) -> Self {
        Self {
            collection: target.collection.as_str().to_owned(),
            cursor: target.cursor.map(Into::into),
            scope: (!target.scope.is_all()).then(|| target.scope.into()),
            keys_only: target.keys_only,
            max_changes: target.changes_max.unwrap_or(0),
            verify: target.verify,
            from_last_ack: target.from_last_ack,
            notify_only: target.notify_only,
            polled_after: target.polled_after.map_or_else(String::new, |name| name.to_string()),
        }
    }
}

/// A target of a request from this client.
fn target_of(wire: v1::Target, client_id: &str) -> Result<Target, Malformed> {
    let target = Target::try_from(wire)?;
    if target.from_last_ack && client_id.is_empty() {
        let reason = "needs client_id in the request: the server holds cursors by it";
        return Err(Malformed::new("from_last_ack", reason));
    }
    Ok(target)
}

// === Pull ===

impl TryFrom<v1::PullRequest> for Pull {
    type Error = Malformed;

    fn try_from(request: v1::PullRequest) -> Result<Self, Malformed> {
        let count = request.targets.len();
        if count == 0 || count > PULL_TARGETS_MAX {
            let reason = format!("{count} of them, 1 to {PULL_TARGETS_MAX} are allowed");
            return Err(Malformed::new("targets", reason));
        }
        id(&request.client_id, "client_id")?;
        let parse = |(index, wire): (usize, v1::Target)| {
            target_of(wire, &request.client_id).map_err(|e| e.within_element("targets", index))
        };
        let asked = |asked: u64, most: usize| match usize::try_from(asked) {
            Ok(0) | Err(_) => most,
            Ok(asked) => asked.min(most),
        };
        Ok(Self {
            targets: request.targets.into_iter().enumerate().map(parse).collect(),
            bytes_max: asked(request.max_bytes, PAGE_BYTES_MAX),
            changes_max: asked(request.max_changes_per_target.into(), PAGE_CHANGES_MAX),
            client_id: request.client_id,
        })
    }
}

// === Outcome ===

impl From<Outcome<Bytes>> for v1::Outcome {
    fn from(outcome: Outcome<Bytes>) -> Self {
        use v1::outcome::Result as Wire;
        let result = match outcome {
            Outcome::Aligned(head) => Wire::Aligned(v1::Aligned { head: Some(head.into()) }),
            Outcome::Delta(delta) => Wire::Delta(delta.into()),
            Outcome::Reset(reset) => Wire::Reset(reset.into()),
            Outcome::Denied => Wire::Denied(v1::Denied {}),
            Outcome::NotFound => Wire::NotFound(v1::NotFound {}),
            Outcome::Deferred(head) => Wire::Deferred(v1::Deferred { head: head.map(Into::into) }),
            Outcome::Failed(failure) => Wire::Failed(failure.into()),
        };
        Self { result: Some(result), polled: Vec::new(), polled_more: false }
    }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Malformed;

    fn try_from(outcome: v1::Outcome) -> Result<Self, Malformed> {
        use v1::outcome::Result as Wire;
        Ok(match required(outcome.result, "result")? {
            Wire::Aligned(aligned) => Self::Aligned(required_head(aligned.head)?),
            Wire::Delta(delta) => {
                Self::Delta(Delta::try_from(delta).map_err(|e| e.within("delta"))?)
            }
            Wire::Reset(reset) => Self::Reset(reset.try_into()?),
            Wire::Denied(v1::Denied {}) => Self::Denied,
            Wire::NotFound(v1::NotFound {}) => Self::NotFound,
            Wire::Deferred(deferred) => {
                Self::Deferred(deferred.head.map(Head::try_from).transpose()?)
            }
            Wire::Failed(failure) => Self::Failed(failure.into()),
        })
    }
}

// === Subscribe ===

impl TryFrom<v1::SubscribeRequest> for Subscribe {
    type Error = Malformed;

    fn try_from(request: v1::SubscribeRequest) -> Result<Self, Malformed> {
        let count = request.targets.len();
        if count == 0 || count > SUBSCRIBE_TARGETS_MAX {
            let reason = format!("{count} of them, 1 to {SUBSCRIBE_TARGETS_MAX} are allowed");
            return Err(Malformed::new("targets", reason));
        }
        id(&request.client_id, "client_id")?;
        let parse = |(index, wire): (usize, v1::Target)| {
            target_of(wire, &request.client_id).map_err(|e| e.within_element("targets", index))
        };
        let targets: Vec<Target> =
            request.targets.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        if let Some(index) = targets.iter().position(|target| !names.insert(&target.collection)) {
            let twice = Malformed::new("collection", "occurs twice in one stream");
            return Err(twice.within_element("targets", index));
        }
        let heartbeat = match request.heartbeat_ms {
            0 => HEARTBEAT_MS_DEFAULT,
            asked if (HEARTBEAT_MS_MIN..=HEARTBEAT_MS_MAX).contains(&asked) => asked,
            asked => {
                let reason =
                    format!("{asked}, {HEARTBEAT_MS_MIN} to {HEARTBEAT_MS_MAX} is allowed");
                return Err(Malformed::new("heartbeat_ms", reason));
            }
        };
        let heartbeat = Duration::from_millis(heartbeat.into());
        Ok(Self { targets, heartbeat, client_id: request.client_id })
    }
}

// === Event ===

impl From<Event<Bytes>> for v1::SubscribeResponse {
    fn from(event: Event<Bytes>) -> Self {
        use v1::subscribe_response::Message as Wire;
        let name = |collection: CollectionName| collection.as_str().to_owned();
        let message = match event {
            Event::Accepted(targets, heartbeat) => Wire::Accepted(v1::Accepted {
                targets: targets.into_iter().map(Into::into).collect(),
                heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
            }),
            Event::Changes(collection, delta) => Wire::Changes(v1::Changes {
                collection: name(collection),
                delta: Some(delta.into()),
            }),
            Event::Notice(collection, head) => Wire::Notice(v1::Notice {
                collection: name(collection),
                head: Some(head.into()),
                inbox: String::new(),
            }),
            Event::InboxNotice(notice) => Wire::Notice(notice.into()),
            Event::Bookmark(positions, now) => Wire::Bookmark(v1::Bookmark {
                positions: positions.into_iter().map(Into::into).collect(),
                server_time: Some(now.into()),
            }),
            Event::Reset(collection, reset) => Wire::Reset(v1::TargetReset {
                collection: name(collection),
                reset: Some(reset.into()),
            }),
            Event::Lagging(collection, behind) => {
                Wire::Lagging(v1::Lagging { collection: name(collection), behind })
            }
            Event::CaughtUp(collection, cursor) => Wire::CaughtUp(v1::CaughtUp {
                collection: name(collection),
                cursor: Some(cursor.into()),
            }),
            Event::Absent(collection) => Wire::Absent(v1::Absent { collection: name(collection) }),
            Event::Revoked(collection) => {
                Wire::Revoked(v1::Revoked { collection: name(collection) })
            }
            Event::Failed(collection, failure) => Wire::Failed(v1::TargetFailed {
                collection: name(collection),
                failure: Some(failure.into()),
            }),
            Event::Goodbye(goodbye) => Wire::Goodbye(goodbye.into()),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<v1::SubscribeResponse> for Event {
    type Error = Malformed;

    fn try_from(response: v1::SubscribeResponse) -> Result<Self, Malformed> {
        use v1::subscribe_response::Message as Wire;
        Ok(match required(response.message, "message")? {
            Wire::Accepted(accepted) => {
                let heartbeat = Duration::from_millis(accepted.heartbeat_ms.into());
                let targets = accepted.targets.into_iter().map(AcceptedTarget::try_from);
                Self::Accepted(targets.collect::<Result<_, _>>()?, heartbeat)
            }
            Wire::Changes(changes) => {
                let delta = Delta::try_from(required(changes.delta, "delta")?)
                    .map_err(|e| e.within("changes.delta"))?;
                Self::Changes(collection(&changes.collection)?, delta)
            }
            Wire::Notice(notice) => super::inbox::notice(notice)?,
            Wire::Bookmark(bookmark) => {
                let positions = bookmark.positions.into_iter().map(Position::try_from);
                let now = timestamp(bookmark.server_time);
                Self::Bookmark(positions.collect::<Result<_, _>>()?, now)
            }
            Wire::Reset(reset) => Self::Reset(
                collection(&reset.collection)?,
                Reset::try_from(required(reset.reset, "reset")?)?,
            ),
            Wire::Lagging(lagging) => {
                Self::Lagging(collection(&lagging.collection)?, lagging.behind)
            }
            Wire::CaughtUp(caught_up) => Self::CaughtUp(
                collection(&caught_up.collection)?,
                Cursor::try_from(required(caught_up.cursor, "cursor")?)?,
            ),
            Wire::Absent(absent) => Self::Absent(collection(&absent.collection)?),
            Wire::Revoked(revoked) => Self::Revoked(collection(&revoked.collection)?),
            Wire::Failed(failed) => Self::Failed(
                collection(&failed.collection)?,
                required(failed.failure, "failure")?.into(),
            ),
            Wire::Goodbye(goodbye) => Self::Goodbye(goodbye.into()),
        })
    }
}

impl From<AcceptedTarget> for v1::AcceptedTarget {
    fn from(target: AcceptedTarget) -> Self {
        let (plan, reset) = match target.plan {
            Plan::Live => (v1::Plan::Live, None),
            Plan::CatchUp => (v1::Plan::CatchUp, None),
            Plan::Load => (v1::Plan::Load, None),
            Plan::Absent => (v1::Plan::Absent, None),
            Plan::Reset(reset) => (v1::Plan::Reset, Some(reset.into())),
            Plan::Denied => (v1::Plan::Denied, None),
            Plan::Notify => (v1::Plan::Notify, None),
        };
        Self {
            collection: target.collection.as_str().to_owned(),
            plan: plan.into(),
            reset,
            head: target.head.map(Into::into),
        }
    }
}

impl TryFrom<v1::AcceptedTarget> for AcceptedTarget {
    type Error = Malformed;

    fn try_from(target: v1::AcceptedTarget) -> Result<Self, Malformed> {
        let plan = match v1::Plan::try_from(target.plan) {
            Ok(v1::Plan::Live) => Plan::Live,
            // A plan that this program does not know is the server's business: what the stream
            // brings says the rest. Refusing it would refuse the whole stream.
            Ok(v1::Plan::CatchUp | v1::Plan::Unspecified) | Err(_) => Plan::CatchUp,
            Ok(v1::Plan::Load) => Plan::Load,
            Ok(v1::Plan::Absent) => Plan::Absent,
            Ok(v1::Plan::Reset) => Plan::Reset(required(target.reset, "reset")?.try_into()?),
            Ok(v1::Plan::Denied) => Plan::Denied,
            Ok(v1::Plan::Notify) => Plan::Notify,
        };
        let head = target.head.map(Head::try_from).transpose()?;
        Ok(Self { collection: collection(&target.collection)?, plan, head })
    }
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        Self {
            collection: position.collection.as_str().to_owned(),
            cursor: Some(position.cursor.into()),
            digest: optional_digest_bytes(position.digest),
            commit_time: Some(position.commit_time.into()),
        }
    }
}

impl TryFrom<v1::Position> for Position {
    type Error = Malformed;

    fn try_from(position: v1::Position) -> Result<Self, Malformed> {
        Ok(Self {
            collection: collection(&position.collection)?,
            cursor: required(position.cursor, "cursor")?.try_into()?,
            digest: optional_digest(&position.digest)?,
            commit_time: timestamp(position.commit_time),
        })
    }
}

impl From<Goodbye> for v1::Goodbye {
    fn from(goodbye: Goodbye) -> Self {
        let reason = match goodbye.reason {
            GoodbyeReason::Draining => v1::GoodbyeReason::Draining,
            GoodbyeReason::MaxAge => v1::GoodbyeReason::MaxAge,
            GoodbyeReason::CredentialsExpired => v1::GoodbyeReason::CredentialsExpired,
            GoodbyeReason::Overloaded => v1::GoodbyeReason::Overloaded,
        };
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            reason: reason.into(),
            retry_after_ms: millis(goodbye.retry_after),
            jitter_ms: millis(goodbye.jitter),
        }
    }
}

impl From<v1::Goodbye> for Goodbye {
    fn from(goodbye: v1::Goodbye) -> Self {
        let reason = match v1::GoodbyeReason::try_from(goodbye.reason) {
            Ok(v1::GoodbyeReason::MaxAge) => GoodbyeReason::MaxAge,
            Ok(v1::GoodbyeReason::CredentialsExpired) => GoodbyeReason::CredentialsExpired,
            Ok(v1::GoodbyeReason::Overloaded) => GoodbyeReason::Overloaded,
            // A reason that this program does not know is treated like a restart.
            Ok(v1::GoodbyeReason::Draining | v1::GoodbyeReason::Unspecified) | Err(_) => {
                GoodbyeReason::Draining
            }
        };
        Self {
            reason,
            retry_after: Duration::from_millis(goodbye.retry_after_ms),
            jitter: Duration::from_millis(goodbye.jitter_ms),
        }
    }
}

// === ListItems ===

impl TryFrom<v1::ListItemsRequest> for ListItems {
    type Error = Malformed;

    fn try_from(request: v1::ListItemsRequest) -> Result<Self, Malformed> {
        let order = match v1::ListOrder::try_from(request.order) {
            Ok(v1::ListOrder::Unspecified | v1::ListOrder::Key) => ListOrder::Key,
            Ok(v1::ListOrder::SortKey) => ListOrder::SortKey,
            Err(_) => return Err(Malformed::new("order", "is not a known order")),
        };
        let prefix_len = request.key_prefix.len();
        if prefix_len > KEY_LEN_MAX {
            let reason = format!("{prefix_len} bytes, the limit is {KEY_LEN_MAX}");
            return Err(Malformed::new("key_prefix", reason));
        }
        let stretch = request.stretch.map_or(Ok(OrderRange::default()), OrderRange::try_from);
        let stretch = stretch.map_err(|e| e.within("stretch"))?;
        if order == ListOrder::Key && stretch != OrderRange::default() {
            return Err(Malformed::new("stretch", "needs the order LIST_ORDER_SORT_KEY"));
        }
        Ok(Self {
            collection: collection(&request.collection)?,
            order,
            descending: request.descending,
            page_size: page_size(request.page_size)?,
            page_token: request.page_token,
            keys_only: request.keys_only,
            key_prefix: request.key_prefix,
            stretch,
            skip: request.skip,
        })
    }
}

/// Checks a page size; 0 = the default.
pub fn page_size(asked: u32) -> Result<usize, Malformed> {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => Ok(LIST_PAGE_DEFAULT),
        asked if asked <= LIST_PAGE_MAX => Ok(asked),
        asked => Err(Malformed::new("page_size", format!("{asked}, the limit is {LIST_PAGE_MAX}"))),
    }
}
