//! One subject's world: everything that a user or a service follows, kept up to date by the
//! subject's inbox. For thousands of collections of which a few changed.
//!
//! ```no_run
//! # #[derive(Debug, serde::Serialize, serde::Deserialize)] struct Message { text: String }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sync_client::account::{Account, ListChange};
//! use sync_client::types::{CollectionName, Subject};
//! use sync_client::{Collection, DiskStore, Json, SyncClient};
//!
//! let client = SyncClient::connect("http://127.0.0.1:7411")?;
//! let store = DiskStore::open("account.redb")?;
//! let (account, driver) = Account::builder(client, store, Subject::new("ada")?).build()?;
//! for one in account.list() {
//!     println!("{} {}", one.name, one.state); // From disk, before the network answers.
//! }
//! let stop = tokio_util::sync::CancellationToken::new();
//! let task = tokio::spawn(driver.run(stop.clone()));
//!
//! let chat = CollectionName::new("chats/7")?;
//! account.look_at(&[chat.clone()]); // First, and live as long as it is looked at.
//! let messages: Collection<Json<Message>> = account.collection(&chat)?;
//! println!("{} messages here", messages.len());
//!
//! let mut changes = account.changes();
//! while let Some(change) = changes.next().await {
//!     if let ListChange::Changed { new, .. } = change {
//!         println!("{} is {} at {:?}", new.name, new.state, new.local);
//!     }
//! }
//! # stop.cancel(); task.await??; Ok(())
//! # }
//! ```
//!
//! What it does by itself: the inbox is followed like any collection. Whatever it asks for waits in
//! a queue in the local store, which changes in the same transaction as the inbox, and leaves it in
//! the transaction in which its copy arrives; so a killed process forgets nothing. Collections are
//! caught up in few, batched pulls, what is looked at first. One that fails is tried again later
//! and later, and keeps nobody else waiting. What is done is acknowledged, so that the server knows
//! how far each device has come.
//!
//! What becomes of copies: of a collection that is not followed any more the copy is **dropped**; of
//! one that was deleted it is **kept, empty**; of one that is not readable any more it is **kept as
//! it was**. Tables of the application in the same file are never touched.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sync_proto::types::{CollectionName, Scope, Subject};
use tokio::sync::watch;

use self::board::Board;
use self::desk::{Desk, DeskConfig};
use crate::client::SyncClient;
use crate::codec::Codec;
use crate::collection::Collection;
use crate::driver::{Driver, Errands, Plan, holdings};
use crate::error::WaitError;
use crate::session::{Config, Stats, Status};
use crate::store::{ReplicaStore, StoreError, client_name};
use crate::views::Views;

pub(crate) mod board;
pub mod desk;
pub(crate) mod list;
pub(crate) mod note;

pub use board::ListChanges;
pub use desk::{AccountStats, LOOKED_AT_MAX, LOOKED_AT_STREAMED_MAX};
pub use list::{FollowState, Followed, ListChange, Summary};
pub use note::{Note, NoteStage};

/// Everything that a subject follows, and the local copies of it. Cheap to clone. Holds no
/// connection and does nothing by itself: its [`Driver`] does.
#[derive(Clone)]
pub struct Account {
    subject: Subject,
    client_id: String,
    board: Arc<Board>,
    views: Arc<Views>,
    looks: Arc<watch::Sender<Vec<CollectionName>>>,
    stats: Arc<Mutex<Stats>>,
}

/// What an [`Account`] is made of.
pub struct AccountBuilder {
    client: SyncClient,
    store: Arc<dyn ReplicaStore>,
    config: DeskConfig,
}

/// Shortest and longest that the time between two acks can be.
const ACK_LIMITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60 * 60));

// === impl Account ===

impl Account {
    /// The account of a subject that keeps its copies in `store`. Several accounts, and replicas
    /// of other collections, may share a store.
    pub fn builder(
        client: SyncClient,
        store: impl ReplicaStore,
        subject: Subject,
    ) -> AccountBuilder {
        let session = Config { client_id: client.client_id().to_owned(), ..Config::default() };
        let config = DeskConfig { subject, session, ..DeskConfig::default() };
        AccountBuilder { client, store: Arc::new(store), config }
    }

    /// Whose account.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The name of this device to the server: that of the client, or else one that was made at
    /// random and is kept in the store. A store that is copied to another device must not be used
    /// with the same name.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Everything that is followed, by name; from the local store until the network answers.
    #[must_use]
    pub fn list(&self) -> Vec<Followed> {
        self.board.list()
    }

    /// One collection of the list; `None` = it is not followed.
    #[must_use]
    pub fn get(&self, name: &CollectionName) -> Option<Followed> {
        self.board.get(name)
    }

    /// What changes in the list from now on.
    #[must_use]
    pub fn changes(&self) -> ListChanges {
        self.board.subscribe(false)
    }

    /// First everything in the list as added, then what changes.
    #[must_use]
    pub fn changes_with_all(&self) -> ListChanges {
        self.board.subscribe(true)
    }

    /// All of it in a few numbers, now and from now on.
    #[must_use]
    pub fn summary(&self) -> watch::Receiver<Summary> {
        self.board.summary()
    }

    /// The typed view of a collection: readable at once, whatever the network does. One that is not
    /// followed is empty, and fills when it is followed. Its status is as fresh as the inbox; for a
    /// collection that is looked at it is the collection's own. May wait for the disk.
    pub fn collection<C: Codec>(&self, name: &CollectionName) -> Result<Collection<C>, StoreError> {
        let view = self.views.open(name, Scope::All)?;
        if *view.status().borrow() == Status::Connecting {
            self.board.show_in(&view, &self.subject);
        }
        Ok(Collection::new(view))
    }

    /// Says what the user looks at, at most 1,024 collections: they go before the others, and what
    /// failed is tried at once. The first 64 of them come live by the stream. Takes the place of what
    /// was looked at before; with none, nothing is.
    pub fn look_at(&self, names: &[CollectionName]) {
        let mut seen = BTreeSet::new();
        let names = names.iter().filter(|name| seen.insert(*name)).take(LOOKED_AT_MAX);
        self.looks.send_replace(names.cloned().collect());
    }

    /// Waits until the list is the server's and every copy has what it tells of; what failed is
    /// waited for, too.
    pub async fn wait_until_settled(&self, within: Duration) -> Result<(), WaitError> {
        let mut summary = self.board.summary();
        let over = |summary: &Summary| {
            summary.is_settled() || matches!(summary.inbox, Status::Denied | Status::Stopped)
        };
        let waited = tokio::time::timeout(within, summary.wait_for(over)).await;
        match waited {
            Err(_) => Err(WaitError::Deadline),
            Ok(Ok(summary)) if summary.is_settled() => Ok(()),
            Ok(Ok(summary)) if summary.inbox == Status::Denied => Err(WaitError::Denied),
            Ok(Ok(_) | Err(_)) => Err(WaitError::Stopped),
        }
    }

    /// What the account has counted since it was built.
    #[must_use]
    pub fn stats(&self) -> AccountStats {
        self.board.stats()
    }

    /// What its conversation has counted since it was built.
    #[must_use]
    pub fn session_stats(&self) -> Stats {
        self.stats.lock().clone()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("subject", &self.subject).finish_non_exhaustive()
    }
}

// === impl AccountBuilder ===

impl AccountBuilder {
    /// Quiet time after which the server gives a sign of life, 100 ms to 60 s; 15 s when not
    /// said.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.config.session.heartbeat = heartbeat;
        self
    }

    /// How often the inbox is pulled although nothing seems to be missing: it finds what pushes
    /// have lost. 1 s to 24 h, 15 min when not said.
    #[must_use]
    pub fn safety_pull(mut self, every: Duration) -> Self {
        self.config.session.safety_pull = every;
        self
    }

    /// The longest wait between two attempts to open the stream or to pull, 100 ms to 1 h; 30 s
    /// when not said.
    #[must_use]
    pub fn longest_backoff(mut self, longest: Duration) -> Self {
        self.config.session.backoff_longest = longest;
        self
    }

    /// Least time between two acks, 100 ms to 1 h; 5 s when not said.
    #[must_use]
    pub fn ack_every(mut self, time: Duration) -> Self {
        self.config.ack_every = time.clamp(ACK_LIMITS.0, ACK_LIMITS.1);
        self
    }

    /// Reads what is there: this may wait for the disk. Nothing is sent before the driver runs.
    pub fn build(mut self) -> Result<(Account, Driver), StoreError> {
        let inbox = self.config.subject.inbox();
        if self.config.session.client_id.is_empty() {
            self.config.session.client_id = client_name(&*self.store, &inbox)?;
        }
        let held = holdings(&*self.store, &self.config)?;
        // The list as the driver will have it when it begins.
        let desk = Desk::new(self.config.clone(), held, 0, std::time::Instant::now());
        let board = Arc::new(Board::new(desk.followed(), desk.summary()));
        let views = Arc::new(Views::new(self.store.clone()));
        let (looks, looked_at) = watch::channel(Vec::new());
        let stats = Arc::default();
        let account = Account {
            subject: self.config.subject.clone(),
            client_id: self.config.session.client_id.clone(),
            board: board.clone(),
            views: views.clone(),
            looks: Arc::new(looks),
            stats: Arc::clone(&stats),
        };
        let errands = Errands { config: self.config, board, looks: looked_at };
        let driver = Driver::new(self.client, self.store, views, stats, Plan::Account(errands));
        Ok((account, driver))
    }
}

impl fmt::Debug for AccountBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountBuilder")
            .field("client", &self.client)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
