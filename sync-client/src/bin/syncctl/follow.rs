//! Follows collections through a replica and tells what happens to them, as one stream of news.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use sync_client::store::StoreError;
use sync_client::types::{CollectionName, Key};
use sync_client::{
    Collection, Difference, Differences, Entry, Raw, Replica, ReplicaStore, Status, SyncClient,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::exit::Failure;

/// News that wait for whoever prints them. Past this the feeds keep them, coalesced.
const NEWS_LEN_MAX: usize = 256;

/// A replica at work.
pub(crate) struct Following {
    pub(crate) replica: Replica,
    pub(crate) news: mpsc::Receiver<(CollectionName, News)>,
    stop: CancellationToken,
    tasks: TaskTracker,
    driver: JoinHandle<Result<(), StoreError>>,
}

/// What happened to a collection.
pub(crate) enum News {
    Status(Status),
    /// Everything that was there has been told.
    Complete,
    /// What was told is void.
    Reloaded,
    Change(Box<Change>),
}

/// What happened to an item, with what it was before if that is known.
pub(crate) enum Change {
    Inserted(Entry<Bytes>),
    Updated(Option<Entry<Bytes>>, Entry<Bytes>),
    Deleted(Key, Option<Entry<Bytes>>),
}

/// What the differences of a collection begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Everything that is there once the collection is loaded.
    WithAll,
    /// What differs from the local copy as it was before.
    WithStored,
}

/// A status in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct StatusFields {
    pub(crate) status: &'static str,
    /// Of a first load: items so far, and about how many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Of a repair.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// What a collection's task woke up for.
enum Wake {
    Status(Status),
    Difference(Difference<Bytes>),
    Failed(StoreError),
    Ended,
}

// === impl Following ===

impl Following {
    /// Begins to follow.
    pub(crate) async fn begin(
        client: &SyncClient,
        store: impl ReplicaStore,
        names: &[CollectionName],
        begin: Begin,
    ) -> Result<Self, Failure> {
        let mut builder = Replica::builder(client.clone(), store);
        for name in names {
            builder = builder.collection(name.clone());
        }
        let (replica, driver) = builder.build()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (sender, news) = mpsc::channel(NEWS_LEN_MAX);
        for name in replica.names() {
            let collection = replica.collection::<Raw>(name)?;
            let feed = match begin {
                Begin::WithAll => None,
                Begin::WithStored => Some(collection.subscribe().await),
            };
            tasks.spawn(tell(collection, feed, sender.clone()));
        }
        let driver = tasks.spawn(driver.run(stop.clone()));
        Ok(Self { replica, news, stop, tasks, driver })
    }

    /// Ends; what was received is on the disk. Fails if the local store failed.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        self.stop.cancel();
        // The tasks of the collections end when nobody takes their news.
        drop(self.news);
        self.tasks.close();
        self.tasks.wait().await;
        let ended = self.driver.await;
        Ok(ended.map_err(|panic| Failure::Internal(panic.to_string()))??)
    }
}

/// Passes on what happens to one collection until the replica stops.
async fn tell(
    collection: Collection<Raw>,
    mut feed: Option<Differences<Raw>>,
    news: mpsc::Sender<(CollectionName, News)>,
) {
    let mut status = collection.status();
    status.mark_changed();
    loop {
        let item = match wake(&mut status, &mut feed).await {
            Wake::Status(now) => {
                // Before this the copy is empty although the collection is not.
                if feed.is_none() && matches!(now, Status::Live | Status::Absent) {
                    feed = Some(collection.subscribe_with_all().await);
                }
                News::Status(now)
            }
            Wake::Difference(difference) => match News::of(difference) {
                Some(news) => news,
                None => continue,
            },
            Wake::Failed(failure) => {
                tracing::error!(%failure, "the differences could not be read");
                return;
            }
            Wake::Ended => return,
        };
        // Nothing follows this one, neither another status nor the end of a feed that never began.
        let last = matches!(item, News::Status(Status::Stopped));
        if news.send((collection.name().clone(), item)).await.is_err() || last {
            return;
        }
    }
}

/// Differences first: a status is told after what led to it.
async fn wake(status: &mut watch::Receiver<Status>, feed: &mut Option<Differences<Raw>>) -> Wake {
    let next = async {
        match feed {
            Some(feed) => feed.next().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        difference = next => difference.map_or(Wake::Ended, Wake::of),
        changed = status.changed() => {
            // What led to it may still be on its way from the disk.
            if let Some(feed) = feed
                && let Some(difference) = feed.next_now().await
            {
                status.mark_changed();
                return Wake::of(difference);
            }
            changed.map_or(Wake::Ended, |()| Wake::Status(*status.borrow_and_update()))
        }
    }
}

// === impl Wake ===

impl Wake {
    fn of(difference: Result<Difference<Bytes>, StoreError>) -> Self {
        difference.map_or_else(Self::Failed, Self::Difference)
    }
}

// === impl News ===

impl News {
    /// `None`: a kind that bytes as they are do not have, or that is newer than this program.
    fn of(difference: Difference<Bytes>) -> Option<Self> {
        let change = match difference {
            Difference::Inserted(new) => Change::Inserted(new),
            Difference::Updated { old, new } => Change::Updated(old, new),
            Difference::Deleted { key, old } => Change::Deleted(key, old),
            Difference::Complete => return Some(Self::Complete),
            Difference::Reloaded => return Some(Self::Reloaded),
            Difference::Undecodable { .. } | _ => return None,
        };
        Some(Self::Change(Box::new(change)))
    }
}

// === impl StatusFields ===

impl StatusFields {
    pub(crate) fn new(status: Status) -> Self {
        let word = |status| Self { status, done: None, total: None, reason: None };
        match status {
            Status::Connecting => word("connecting"),
            Status::Loading { done, total } => {
                Self { done: Some(done), total: Some(total), ..word("loading") }
            }
            Status::Live => word("live"),
            Status::Lagging => word("lagging"),
            Status::Repairing { reason, .. } => {
                Self { reason: Some(reason.as_str()), ..word("repairing") }
            }
            Status::Stuck { reason, .. } => Self { reason: Some(reason.as_str()), ..word("stuck") },
            Status::BackingOff { .. } => word("backing-off"),
            Status::StoreFailing { .. } => word("store-failing"),
            Status::Denied => word("denied"),
            Status::Absent => word("absent"),
            Status::Stopped | _ => word("stopped"),
        }
    }
}

impl fmt::Display for StatusFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status)?;
        self.reason.map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}
