//! A replica: local copies of several collections, kept right by one driver.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sync_proto::convert::{decode_scope, encode_scope};
use sync_proto::limits::SUBSCRIBE_TARGETS_MAX;
use sync_proto::types::{CollectionName, Scope};

use crate::client::SyncClient;
use crate::codec::Codec;
use crate::collection::Collection;
use crate::driver::{Driver, Plan};
use crate::error::ReplicaError;
use crate::session::{Config, Stats};
use crate::store::{ReplicaStore, client_name};
use crate::view::View;
use crate::views::Views;

/// Local copies of several collections. Cheap to clone. Holds no connection and does nothing by
/// itself: its [`Driver`] does.
#[derive(Clone)]
pub struct Replica {
    views: Arc<BTreeMap<CollectionName, Arc<View>>>,
    stats: Arc<Mutex<Stats>>,
}

/// What a [`Replica`] is made of.
pub struct ReplicaBuilder {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    collections: Vec<(CollectionName, Scope)>,
    config: Config,
    /// `None`: the server is not told how far it is.
    ack_every: Option<Duration>,
}

/// How often a replica with a name tells how far it is, at most, when not said; and what may be said.
const ACK_EVERY: Duration = Duration::from_secs(30);
const ACK_LIMITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60 * 60));

/// Whose note in the store is the name of a replica that was given none. A collection of this name is
/// not disturbed: replicas make no other notes.
const NOTES_OWNER: &str = "deltasync/replica";

// === impl Replica ===

impl Replica {
    /// A replica that keeps its copies in `store`.
    pub fn builder(client: SyncClient, store: impl ReplicaStore) -> ReplicaBuilder {
        let config = Config { client_id: client.client_id().to_owned(), ..Config::default() };
        let ack_every = (!config.client_id.is_empty()).then_some(ACK_EVERY);
        ReplicaBuilder {
            client,
            store: Arc::new(store),
            collections: Vec::new(),
            config,
            ack_every,
        }
    }

    /// The typed view of a collection.
    pub fn collection<C: Codec>(
        &self,
        name: &CollectionName,
    ) -> Result<Collection<C>, ReplicaError> {
        let view = self.views.get(name).ok_or_else(|| ReplicaError::NotFollowed(name.clone()))?;
        Ok(Collection::new(view.clone()))
    }

    /// The collections that it follows, by name.
    pub fn names(&self) -> impl Iterator<Item = &CollectionName> {
        self.views.keys()
    }

    /// What has been counted since the replica was built. A write is visible to readers before it
    /// is counted; a [`Status`](crate::Status) is shown after what led to it is counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.lock().clone()
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("collections", &self.views.len()).finish_non_exhaustive()
    }
}

// === impl ReplicaBuilder ===

impl ReplicaBuilder {
    /// Follows a collection.
    #[must_use]
    pub fn collection(self, name: CollectionName) -> Self {
        self.part(name, Scope::All)
    }

    /// Follows a part of a collection: what has these keys, or stands in this stretch of the list.
    /// What moves out of a stretch counts as deleted from the copy.
    ///
    /// The store remembers the part with the cursor. A part within the one that it holds keeps what
    /// belongs to it; any other is loaded anew, beside what there is: [`Self::build`] never waits
    /// for the server.
    #[must_use]
    pub fn part(mut self, name: CollectionName, scope: Scope) -> Self {
        self.collections.push((name, scope));
        self
    }

    /// Quiet time after which the server gives a sign of life, 100 ms to 60 s; 15 s when not
    /// said. A stream that is silent for three times this long counts as dead.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.config.heartbeat = heartbeat;
        self
    }

    /// How often the copies are compared by a pull even though nothing seems to be missing;
    /// 1 s to 24 h, 15 min when not said.
    #[must_use]
    pub fn safety_pull(mut self, every: Duration) -> Self {
        self.config.safety_pull = every;
        self
    }

    /// The longest wait between two attempts to open the stream or to pull, 100 ms to 1 h; 30 s
    /// when not said.
    #[must_use]
    pub fn longest_backoff(mut self, longest: Duration) -> Self {
        self.config.backoff_longest = longest;
        self
    }

    /// The rows of each copy are checked for damage now and then: for the first time within this,
    /// at random; 1 h when not said, up to 36 h.
    #[must_use]
    pub fn first_check(mut self, within: Duration) -> Self {
        self.config.first_check = within;
        self
    }

    /// Least time between two acks, which tell the server how far the copies are written, and on the
    /// disk: 100 ms to 1 h. 30 s when not said; a client without a `client_id` tells nothing then. It
    /// is for operators, and for what is resumed from acks: the copies are kept right without.
    #[must_use]
    pub fn ack_every(mut self, time: Duration) -> Self {
        self.ack_every = Some(time.clamp(ACK_LIMITS.0, ACK_LIMITS.1));
        self
    }

    /// The server is not told how far the copies are.
    #[must_use]
    pub fn without_acks(mut self) -> Self {
        self.ack_every = None;
        self
    }

    /// Opens the copies, and reads where each stands: this may wait for the disk. Nothing is sent
    /// before the driver runs.
    pub fn build(mut self) -> Result<(Replica, Driver), ReplicaError> {
        let by_name = Arc::new(Views::new(self.store.clone()));
        let mut views = BTreeMap::new();
        for (name, scope) in std::mem::take(&mut self.collections) {
            let checked = decode_scope(encode_scope(&scope));
            let scope = checked.map_err(|refused| ReplicaError::Scope(name.clone(), refused))?;
            let view = by_name.open(&name, scope)?;
            views.insert(name, view);
        }
        let count = views.len();
        if count == 0 || count > SUBSCRIBE_TARGETS_MAX {
            return Err(ReplicaError::Count { count, max: SUBSCRIBE_TARGETS_MAX });
        }
        if self.config.client_id.is_empty() {
            self.config.client_id = self.own_name();
        }
        let replica = Replica { views: Arc::new(views), stats: Arc::default() };
        let driver = Driver::new(
            self.client,
            self.store,
            by_name,
            replica.stats.clone(),
            Plan::Replica(self.config, replica.views.clone(), self.ack_every),
        );
        Ok((replica, driver))
    }

    /// Without a name the server would judge it by its connection, and could not make it wait when it
    /// loads the same again and again. A store that cannot keep the name is no reason not to serve
    /// what is in it.
    fn own_name(&self) -> String {
        let owner = CollectionName::new(NOTES_OWNER).expect("it is a name");
        client_name(&*self.store, &owner).unwrap_or_else(|error| {
            tracing::debug!(%error, "the replica's name is not kept");
            format!("{:032x}", rand::random::<u128>())
        })
    }
}

impl fmt::Debug for ReplicaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaBuilder")
            .field("client", &self.client)
            .field("collections", &self.collections)
            .finish_non_exhaustive()
    }
}
