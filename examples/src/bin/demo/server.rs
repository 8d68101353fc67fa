//! A whole server in this process, on the embedded store, behind a real socket.

use std::net::SocketAddr;

use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::{ServeError, serve};
use sync_server::store::disk::DiskStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;

/// A running server. Its data are deleted with it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
    _data: TempDir,
}

// === impl Server ===

impl Server {
    pub(crate) async fn start(tasks: &TaskTracker) -> Result<Self, Error> {
        let data = tempfile::tempdir()?;
        let config = Config {
            data_dir: data.path().join("server"),
            // The data of this demonstration are small, and so may the disk be.
            free_disk_min_mib: 16,
            grace_s: 5,
            ..Config::default()
        };
        let store = DiskStore::open(&config.data_dir, &config.store())?;
        let ledger = Ledger::open(store, config.ledger(), &mut |_rows| {})?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let task = tasks.spawn(async move { serve(listener, ledger, &config, stopping).await });
        Ok(Self { address, stop, task, _data: data })
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await??;
        Ok(())
    }
}
