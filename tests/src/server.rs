//! A server in the test's own process, on a free loopback port.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::{ServeError, serve};
use sync_server::store::Store;
use sync_server::store::disk::DiskStore;
use sync_server::store::memory::MemoryStore;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alarm;
use crate::wait::within;
use crate::wire::Wire;

/// A running server. Dropping it stops it, and fails the test if an error was logged.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), ServeError>>>,
    wire: Wire,
}

// === impl TestServer ===

impl TestServer {
    /// A server over an empty store in memory.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with other settings.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let config = config(Path::new("unused"), change);
        let ledger = Ledger::open(MemoryStore::new(), config.ledger(), &mut |_| {});
        Self::over(ledger.unwrap(), config).await
    }

    /// A server over the store in `dir`.
    pub async fn on_disk(dir: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let config = config(dir, change);
        let store = DiskStore::open(dir, &config.store()).unwrap();
        let ledger = Ledger::open(store, config.ledger(), &mut |_| {}).unwrap();
        Self::over(ledger, config).await
    }

    /// A server over this ledger.
    pub async fn over<S: Store>(ledger: Ledger<S>, config: Config) -> Self {
        alarm::listen();
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let running = TaskTracker::new()
            .spawn(async move { serve(listener, ledger, &config, stopping).await });
        let wire = Wire::to(address);
        Self { address, stop, running: Some(running), wire }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as clients write it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The test's ordinary connection.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Another connection.
    #[must_use]
    pub fn new_connection(&self) -> Wire {
        Wire::to(self.address)
    }

    /// Tells it to stop.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits for its end and says how it ended.
    pub async fn ended(mut self) -> Result<(), ServeError> {
        let running = self.running.take().unwrap();
        within("the server to end", running).await.unwrap()
    }

    /// Stops it in good order.
    pub async fn stop(self) {
        self.begin_stop();
        self.ended().await.unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if !std::thread::panicking() {
            alarm::check();
        }
    }
}

/// The settings of a server under test.
pub fn config(dir: &Path, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config {
        data_dir: dir.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        cache_mib: 16,
        free_disk_min_mib: 1,
        ..Config::default()
    };
    change(&mut config);
    config
}

/// Copies a directory, for example of a store that nobody has open: a backup.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &copy);
        } else {
            fs::copy(entry.path(), copy).unwrap();
        }
    }
}
