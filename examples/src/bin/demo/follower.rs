//! A follower: an application that keeps all groups of the history, and learns from the lists of
//! groups which groups there are. It looks at its own copies of the lists, so it knows its groups
//! also while it is offline.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sync_client::client::CollectionInfo;
use sync_client::store::StoreError;
use sync_client::types::{CollectionName, Cursor};
use sync_client::{DiskStore, MemoryStore, Raw, Replica, ReplicaBuilder, SyncClient};
use sync_proto::limits::SUBSCRIBE_TARGETS_MAX;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::history::State;
use crate::link::Link;

/// The organisations that the application cares for. Some are founded only later.
const ORGANISATIONS: [&str; 8] = [
    "etcd-io",
    "kubernetes",
    "kubernetes-client",
    "kubernetes-csi",
    "kubernetes-incubator",
    "kubernetes-nightly",
    "kubernetes-retired",
    "kubernetes-sigs",
];
/// How often the lists of groups are looked at, if they moved.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the copies are compared with the server's heads while somebody waits for that.
const COMPARE_EVERY: Duration = Duration::from_millis(5);
/// Catching up takes far less; past this something is wrong.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);

/// Where a follower keeps its copies.
#[derive(Clone)]
pub(crate) enum Place {
    Memory(MemoryStore),
    Disk(DiskStore),
}

/// A follower at work.
pub(crate) struct Follower {
    link: Link,
    copies: Arc<Copies>,
    stop: CancellationToken,
    tasks: TaskTracker,
    looking: JoinHandle<Result<(), Error>>,
}

/// The copies of a follower.
pub(crate) struct Copies {
    client: SyncClient,
    place: Place,
    stop: CancellationToken,
    tasks: TaskTracker,
    parts: Mutex<Parts>,
}

/// A replica follows the collections that it was built with. When groups are founded, another
/// replica is put beside it, over the same store and the same connection.
#[derive(Default)]
struct Parts {
    replicas: Vec<Replica>,
    drivers: Vec<JoinHandle<Result<(), StoreError>>>,
    followed: BTreeSet<CollectionName>,
    /// Where the lists of groups stood when they were looked at.
    looked_at: Vec<Option<Cursor>>,
}

/// What a follower has, at one moment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Holding {
    pub(crate) collections: usize,
    pub(crate) items: u64,
    /// Copies that had to be exchanged for fresh ones.
    pub(crate) repairs: u64,
    pub(crate) digest_checks: u64,
}

// === impl Place ===

impl Place {
    pub(crate) fn disk(file: &Path) -> Result<Self, Error> {
        Ok(Self::Disk(DiskStore::open(file)?))
    }

    fn builder(&self, client: SyncClient) -> ReplicaBuilder {
        match self {
            Self::Memory(store) => Replica::builder(client, store.clone()),
            Self::Disk(store) => Replica::builder(client, store.clone()),
        }
    }
}

// === impl Follower ===

impl Follower {
    /// Goes online.
    pub(crate) async fn start(server: SocketAddr, place: Place) -> Result<Self, Error> {
        let link = Link::open(server).await?;
        let client = SyncClient::connect(link.uri())?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let copies = Arc::new(Copies {
            client,
            place,
            stop: stop.clone(),
            tasks: tasks.clone(),
            parts: Mutex::default(),
        });
        copies.follow(&lists().chain(members()).collect())?;
        let looking = tasks.spawn(look(copies.clone(), stop.clone()));
        Ok(Self { link, copies, stop, tasks, looking })
    }

    pub(crate) fn copies(&self) -> &Arc<Copies> {
        &self.copies
    }

    /// Bytes that it has received and sent since it went online.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.link.received(), self.link.sent())
    }

    /// Goes offline. What it has is on the disk.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.looking.await??;
        let drivers = std::mem::take(&mut self.copies.parts.lock().drivers);
        for driver in drivers {
            driver.await??;
        }
        self.link.close().await;
        Ok(())
    }
}

/// Follows groups as they are founded.
async fn look(copies: Arc<Copies>, stop: CancellationToken) -> Result<(), Error> {
    loop {
        copies.follow_new_groups()?;
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return Ok(());
        }
    }
}

// === impl Copies ===

impl Copies {
    fn follow(&self, names: &BTreeSet<CollectionName>) -> Result<(), Error> {
        let mut parts = self.parts.lock();
        let names: Vec<_> = names.difference(&parts.followed).cloned().collect();
        for some in names.chunks(SUBSCRIBE_TARGETS_MAX) {
            let builder = self.place.builder(self.client.clone());
            let builder = some.iter().cloned().fold(builder, ReplicaBuilder::collection);
            let (replica, driver) = builder.build()?;
            parts.replicas.push(replica);
            parts.drivers.push(self.tasks.spawn(driver.run(self.stop.clone())));
        }
        parts.followed.extend(names);
        Ok(())
    }

    fn follow_new_groups(&self) -> Result<(), Error> {
        let lists: Vec<_> = {
            let parts = self.parts.lock();
            let Some(first) = parts.replicas.first() else { return Ok(()) };
            lists().map(|name| first.collection::<Raw>(&name)).collect::<Result<_, _>>()?
        };
        let stands: Vec<_> = lists.iter().map(|list| list.standing().cursor).collect();
        if self.parts.lock().looked_at == stands {
            return Ok(());
        }
        let mut groups = BTreeSet::new();
        for list in &lists {
            let organisation = list.name().as_str().split('/').nth(1).unwrap_or_default();
            for group in list.reader().iter()? {
                let group = group?;
                let group = std::str::from_utf8(group.key.as_bytes())?;
                groups.insert(CollectionName::new(&format!("team/{organisation}/{group}"))?);
            }
        }
        self.follow(&groups)?;
        self.parts.lock().looked_at = stands;
        Ok(())
    }

    /// What it has now.
    pub(crate) fn holding(&self) -> Holding {
        let parts = self.parts.lock();
        let mut holding = Holding { collections: parts.followed.len(), ..Holding::default() };
        for replica in &parts.replicas {
            let stats = replica.stats();
            holding.repairs += stats.repairs.values().sum::<u64>();
            holding.digest_checks += stats.digest_checks;
            let collections =
                replica.names().filter_map(|name| replica.collection::<Raw>(name).ok());
            holding.items += collections.map(|collection| collection.len()).sum::<u64>();
        }
        holding
    }

    /// How many of the server's collections it has exactly: same epoch, version and digest. A
    /// group that it does not follow was dissolved before it came, and must be empty.
    pub(crate) fn equal(&self, server: &[CollectionInfo]) -> usize {
        let parts = self.parts.lock();
        let copy = |name: &CollectionName| {
            parts.replicas.iter().find_map(|replica| replica.collection::<Raw>(name).ok())
        };
        let equal = |info: &&CollectionInfo| match copy(&info.name) {
            Some(copy) => {
                let standing = copy.standing();
                let at = standing.cursor.map(|cursor| (cursor.epoch, cursor.version));
                at == Some((info.head.epoch, info.head.version))
                    && standing.tally.digest == info.head.digest
                    && standing.tally.items == info.head.items
            }
            None => info.head.items == 0,
        };
        server.iter().filter(equal).count()
    }

    /// Waits until it has everything that the server has; tells how many collections it has.
    pub(crate) async fn caught_up(
        &self,
        server: &[CollectionInfo],
        mut progress: impl FnMut(usize),
    ) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let equal = self.equal(server);
            progress(equal);
            if equal == server.len() {
                return Ok(());
            }
            if begun.elapsed() > CATCH_UP_MAX {
                let of = server.len();
                return Err(format!("a replica has only {equal} of {of} collections").into());
            }
            tokio::time::sleep(COMPARE_EVERY).await;
        }
    }

    /// Its content, read from its copies.
    pub(crate) fn state(&self) -> Result<State, Error> {
        let replicas = self.parts.lock().replicas.clone();
        let mut state = State::new();
        for replica in &replicas {
            for name in replica.names() {
                let entries = replica.collection::<Raw>(name)?.reader().iter()?;
                let items = entries.map(|entry| entry.map(|e| (e.key, e.value.to_vec())));
                let items = items.collect::<Result<_, _>>()?;
                state.insert(name.clone(), items);
            }
        }
        Ok(state)
    }
}

/// The lists of groups.
fn lists() -> impl Iterator<Item = CollectionName> {
    names("teams")
}

/// The members of the organisations.
fn members() -> impl Iterator<Item = CollectionName> {
    names("members")
}

fn names(kind: &str) -> impl Iterator<Item = CollectionName> {
    ORGANISATIONS.iter().map(move |organisation| {
        CollectionName::new(&format!("org/{organisation}/{kind}"))
            .expect("names of organisations are fine as segments")
    })
}
