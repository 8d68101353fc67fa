//! A server for one test, which can be stopped and started again where it was.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::serve;
use sync_server::store::disk::DiskStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A server on the embedded store, in a thread of its own. Stops when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    data: TempDir,
    change: Box<dyn Fn(&mut Config)>,
}

// === impl Server ===

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same with other settings.
    pub(crate) fn start_with(change: impl Fn(&mut Config) + 'static) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let (data, change) = (tempfile::tempdir().unwrap(), Box::new(change));
        let mut server = Self { address, running: None, data, change };
        server.start_again();
        server
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address for those who speak TLS.
    pub(crate) fn secure_uri(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.cancel();
            thread.join().unwrap();
        }
    }

    /// At the same address, with the same data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut config = Config {
            data_dir: self.data.path().join("data"),
            free_disk_min_mib: 1,
            grace_s: 1,
            goodbye_jitter_ms: 10,
            ..Config::default()
        };
        (self.change)(&mut config);
        let (address, stop) = (self.address, CancellationToken::new());
        let stopping = stop.clone();
        let (told, ready) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let store = DiskStore::open(&config.data_dir, &config.store()).unwrap();
                let ledger = Ledger::open(store, config.ledger(), &mut |_rows| {}).unwrap();
                let listener = TcpListener::bind(address).await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                // Clients that stay connected beyond the grace are part of some tests.
                let _ended = serve(listener, ledger, &config, stopping).await;
            });
        });
        self.address = ready.recv().expect("the server starts");
        self.running = Some((stop, thread));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
