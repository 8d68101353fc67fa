//! What a client without a cursor does: download everything, in as few calls as the protocol
//! allows. This is what following is measured against.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sync_client::SyncClient;
use sync_client::types::{CollectionName, Cursor, Outcome, Pull, Target};
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX, PULL_TARGETS_MAX};

use crate::Error;
use crate::link::Link;

/// What downloading everything cost.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    pub(crate) items: u64,
}

/// Downloads these collections over a link of its own.
pub(crate) async fn download(
    server: SocketAddr,
    names: impl IntoIterator<Item = CollectionName>,
) -> Result<Cost, Error> {
    let link = Link::open(server).await?;
    let client = SyncClient::connect(link.uri())?;
    let begun = Instant::now();
    let mut items = 0;
    let mut left: Vec<(CollectionName, Option<Cursor>)> =
        names.into_iter().map(|name| (name, None)).collect();
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(PULL_TARGETS_MAX));
        let asked = std::mem::replace(&mut left, rest);
        let targets = asked.iter().map(|(name, at)| Ok(Target::all(name.clone(), *at))).collect();
        let pull = Pull {
            targets,
            bytes_max: PAGE_BYTES_MAX,
            changes_max: PAGE_CHANGES_MAX,
            client_id: String::new(),
        };
        for ((name, at), outcome) in asked.into_iter().zip(client.pull(pull).await?) {
            match outcome {
                Outcome::Delta(delta) => {
                    items += delta.changes.len() as u64;
                    if delta.has_more {
                        left.push((name, Some(delta.to)));
                    }
                }
                Outcome::Deferred(_) => left.push((name, at)),
                Outcome::Aligned(_) => {}
                other @ (Outcome::Reset(_)
                | Outcome::Denied
                | Outcome::NotFound
                | Outcome::Failed(_)) => return Err(format!("{name}: {other:?}").into()),
            }
        }
    }
    let cost = Cost { bytes: link.received(), time: begun.elapsed(), items };
    link.close().await;
    Ok(cost)
}

// === impl Cost ===

impl Cost {
    /// This one and another.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            time: self.time + other.time,
            items: self.items + other.items,
        }
    }
}
