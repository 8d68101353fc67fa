//! Requests of readers as a client sends them.

use std::time::Duration;

use crate::types::{ListItems, ListOrder, Malformed, OrderRange, Pull, Subscribe};
use crate::v1;

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn millis(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

// === Pull ===

impl TryFrom<Pull> for v1::PullRequest {
    type Error = Malformed;

    /// Refuses a pull that holds a target which is not well-formed.
    fn try_from(pull: Pull) -> Result<Self, Malformed> {
        let targets = pull.targets.into_iter().map(|target| target.map(Into::into));
        Ok(Self {
            targets: targets.collect::<Result<_, _>>()?,
            max_bytes: u64::try_from(pull.bytes_max).unwrap_or(u64::MAX),
            max_changes_per_target: number(pull.changes_max),
            client_id: pull.client_id,
        })
    }
}

// === Subscribe ===

impl From<Subscribe> for v1::SubscribeRequest {
    fn from(subscribe: Subscribe) -> Self {
        Self {
            targets: subscribe.targets.into_iter().map(Into::into).collect(),
            heartbeat_ms: millis(subscribe.heartbeat),
            client_id: subscribe.client_id,
        }
    }
}

// === ListItems ===

impl From<ListItems> for v1::ListItemsRequest {
    fn from(list: ListItems) -> Self {
        let order = match list.order {
            ListOrder::Key => v1::ListOrder::Key,
            ListOrder::SortKey => v1::ListOrder::SortKey,
        };
        Self {
            collection: list.collection.as_str().to_owned(),
            order: order.into(),
            descending: list.descending,
            page_size: number(list.page_size),
            page_token: list.page_token,
            keys_only: list.keys_only,
            key_prefix: list.key_prefix,
            stretch: (list.stretch != OrderRange::default()).then(|| list.stretch.into()),
            skip: list.skip,
        }
    }
}
