//! The real server behind the front: started, stopped, written to, put back.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use sync_proto::types::Malformed;
use sync_proto::v1;
use sync_proto::v1::admin_service_client::AdminServiceClient;
use sync_proto::v1::sync_service_client::SyncServiceClient;
use sync_proto::v1::write_service_client::WriteServiceClient;
use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::{ServeError, serve};
use sync_server::store::disk::DiskStore;
use sync_server::store::memory::MemoryStore;
use sync_server::store::{Store, StoreError};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::doors::{Door, Guard};

/// A message may be as large as the real server makes it, and what the kit adds.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Where the store is, and where its copy, within the case's directory.
const STORE: &str = "store";
const COPY: &str = "copy";

/// Why the server of a case cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The system refused something.
    #[error("the system refused")]
    Io(#[from] io::Error),
    /// The store does not open.
    #[error("the store does not open")]
    Store(#[from] StoreError),
    /// The address cannot be used.
    #[error("no connection")]
    Connection(#[from] tonic::transport::Error),
    /// The server ended badly.
    #[error("the server ended badly")]
    Served(#[from] ServeError),
    /// What it said breaks a rule.
    #[error("the server said something that cannot be")]
    Malformed(#[from] Malformed),
    /// It refused what a step asked for.
    #[error("the server refused a step: {0}")]
    Refused(Box<Status>),
}

/// The server of one case.
#[derive(Debug)]
pub struct Backend {
    dir: Option<TempDir>,
    guard: Option<Guard>,
    /// Where it was started first: a client that comes to it itself must find it there again.
    address: Option<SocketAddr>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    channel: Channel,
    stop: CancellationToken,
    served: JoinHandle<Result<(), ServeError>>,
}

// === impl Backend ===

impl Backend {
    /// A new server: over a store in memory, or in a directory, if it is to be started again; with
    /// a guarded door, or open to everybody.
    pub async fn start(on_disk: bool, door: Option<Door>) -> Result<Self, BackendError> {
        let dir = on_disk.then(TempDir::new).transpose()?;
        let guard = door.map(Guard::new).transpose()?;
        let mut this = Self { dir, guard, address: None, running: None };
        this.open().await?;
        Ok(this)
    }

    /// The connection to the server that runs now.
    ///
    /// # Panics
    /// If a restart has failed, whose error has been told.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.running
            .as_ref()
            .expect("a server that did not start again ended the case")
            .channel
            .clone()
    }

    /// Where it listens, and what a client that comes to it must be told; of an open one, nothing.
    #[must_use]
    pub fn door(&self) -> Option<(SocketAddr, Vec<(&'static str, String)>)> {
        Some((self.address?, self.guard.as_ref()?.variables()))
    }

    /// The reader's calls.
    #[must_use]
    pub fn sync(&self) -> SyncServiceClient<Channel> {
        sync_client(self.channel())
    }

    /// The writer's calls.
    #[must_use]
    pub fn write(&self) -> WriteServiceClient<Channel> {
        WriteServiceClient::new(self.channel())
    }

    /// The operator's calls.
    #[must_use]
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel())
    }

    /// Where the collection stands; `None` = there is none.
    pub async fn head(&self, collection: &str) -> Result<Option<v1::Head>, BackendError> {
        let request = v1::GetCollectionRequest { collection: collection.to_owned() };
        match self.sync().get_collection(request).await {
            Ok(found) => Ok(found.into_inner().collection.and_then(|found| found.head)),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// The first rows of the list, in its order, at the head.
    pub async fn first_rows(
        &self,
        collection: &str,
        rows: usize,
    ) -> Result<Vec<v1::Item>, BackendError> {
        let mut items: Vec<v1::Item> = Vec::new();
        let mut page_token = Bytes::new();
        loop {
            let wanted = u32::try_from(rows - items.len()).unwrap_or(u32::MAX);
            let request = v1::ListItemsRequest {
                collection: collection.to_owned(),
                order: v1::ListOrder::SortKey as i32,
                page_size: wanted,
                page_token,
                ..v1::ListItemsRequest::default()
            };
            let page = self.sync().list_items(request).await?.into_inner();
            items.extend(page.items);
            page_token = page.next_page_token;
            if items.len() >= rows || page_token.is_empty() {
                return Ok(items);
            }
        }
    }

    /// Stops the server in good order, and starts it again.
    pub async fn restart(&mut self) -> Result<(), BackendError> {
        self.close().await?;
        self.open().await
    }

    /// Takes a copy of the data directory.
    pub async fn copy_store(&mut self) -> Result<(), BackendError> {
        self.close().await?;
        if let Some(dir) = &self.dir {
            copy_dir(&dir.path().join(STORE), &dir.path().join(COPY))?;
        }
        self.open().await
    }

    /// Puts the copy in the place of the data directory.
    pub async fn put_copy_in_place(&mut self) -> Result<(), BackendError> {
        self.close().await?;
        if let Some(dir) = &self.dir {
            fs::remove_dir_all(dir.path().join(STORE))?;
            copy_dir(&dir.path().join(COPY), &dir.path().join(STORE))?;
        }
        self.open().await
    }

    /// Ends it.
    pub async fn close(&mut self) -> Result<(), BackendError> {
        if let Some(Running { stop, served, .. }) = self.running.take() {
            stop.cancel();
            served.await.map_err(io::Error::other)??;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), BackendError> {
        let data_dir = self.dir.as_ref().map(|dir| dir.path().join(STORE)).unwrap_or_default();
        let mut config = Config {
            data_dir: data_dir.clone(),
            listen: self.address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
            cache_mib: 16,
            free_disk_min_mib: 1,
            goodbye_jitter_ms: 100,
            ..Config::default()
        };
        if let Some(guard) = &self.guard {
            guard.guard(&mut config);
        }
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        self.address = Some(address);
        let channel = match &self.guard {
            Some(guard) => guard.channel(address)?,
            None => Endpoint::from_shared(format!("http://{address}"))?.connect_lazy(),
        };
        let stop = CancellationToken::new();
        let served = if self.dir.is_some() {
            let store = DiskStore::open(&data_dir, &config.store())?;
            serve_over(store, listener, config, stop.clone())?
        } else {
            serve_over(MemoryStore::new(), listener, config, stop.clone())?
        };
        self.running = Some(Running { channel, stop, served });
        Ok(())
    }
}

/// The reader's calls, of messages as large as the kit makes them.
#[must_use]
pub fn sync_client(channel: Channel) -> SyncServiceClient<Channel> {
    SyncServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn serve_over<S: Store>(
    store: S,
    listener: TcpListener,
    config: Config,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<(), ServeError>>, BackendError> {
    let ledger = Ledger::open(store, config.ledger(), &mut |_| {})?;
    let serving = async move { serve(listener, ledger, &config, stop).await };
    Ok(TaskTracker::new().spawn(serving))
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

// === impl BackendError ===

impl From<Status> for BackendError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}
